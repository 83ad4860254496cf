import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from skipshift.statistics.crossed import Crossed, crossed, group_variance, ratios


def drawn(rng, groups, runs, training, image=0.05, cell=0.015, effect=0.0, domains=1, own=None):
    """Parts (groups, domains, 2 networks, runs, 2) of studies with known spreads."""
    groups, domains = (sum(own), len(own)) if own else (groups, domains)
    a = training * rng.normal(size=(1, 1, 2, runs))
    b = image * rng.normal(size=(groups, 1, 2, 1)) + 0.08 * rng.normal(size=(groups, 1, 1, 1))
    y = 0.7 + a + b + cell * rng.normal(size=(groups, domains, 2, runs))
    y[:, :, 1] += effect
    bottom = 1e4 * np.exp(0.5 * rng.normal(size=(groups, 1, 1, 1))) * np.ones_like(y)
    parts = np.stack([bottom * np.clip(y, 0, 1), bottom], -1)
    if own:
        parts[np.repeat(np.arange(domains), own)[:, None] != np.arange(domains)] = 0
    return parts


def difference(parts):
    scores, errors = ratios(parts)
    apart = errors[:, :, 1] - errors[:, :, 0]
    return crossed((scores[:, 1] - scores[:, 0]).mean(0), apart, parts[..., 1].mean((2, 3)))


def test_the_variance_of_a_ratio_is_that_of_leaving_groups_out(rng):
    parts = rng.uniform(1, 9, (7, 1, 2))
    score, errors = ratios(parts)
    left = [np.delete(parts[:, 0], g, 0).sum(0) for g in range(7)]
    left = np.array([top / bottom for top, bottom in left])
    assert (errors**2).sum() == pytest.approx(6 / 7 * ((left - score) ** 2).sum())


@given(st.lists(st.floats(0.1, 0.9), min_size=2, max_size=9))
def test_equal_groups_have_the_variance_and_degrees_of_freedom_of_their_mean(scores):
    parts = np.stack([scores, np.ones(len(scores))], -1)[:, None]
    _, errors = ratios(parts)
    variance, df = group_variance(errors, parts[..., 1])
    assert variance == pytest.approx(stats.sem(scores) ** 2, abs=1e-12)
    assert df == pytest.approx(len(scores) - 1)


def test_a_domain_of_one_group_has_no_variance(rng):
    parts = drawn(rng, 0, 1, 0, own=(5, 1))
    assert np.isnan(difference(parts).half_width())


def test_a_group_in_two_domains_counts_once(rng):
    parts = np.repeat(drawn(rng, 9, 1, 0), 2, 1)
    one, two = (difference(each) for each in (parts[:, :1], parts))
    assert two.half_width() == pytest.approx(float(one.half_width()))


def test_one_run_says_nothing_of_trainings(rng):
    found = difference(drawn(rng, 9, 1, 0.02))
    assert np.isnan(found.spread()[0])
    assert np.isnan(found.more_runs(0.01))


def test_p_and_interval_agree(rng):
    for runs in (1, 2, 5):
        found = difference(drawn(rng, 12, runs, 0.02, effect=0.03))
        for level in (0.5, 0.9, 0.99):
            inside = abs(found.effect) < found.half_width(level)
            assert bool(found.p() > 1 - level) == bool(inside)


def test_equivalence_is_an_interval_of_ninety_percent_within_the_margin(rng):
    for _ in range(20):
        found = difference(drawn(rng, 12, 3, 0.005, image=0.01))
        within = abs(found.effect) + found.half_width(0.9) < 0.02
        assert bool(found.p_equivalence(0.02) < 0.05) == bool(within)


def test_as_many_more_runs_as_are_said_settle_it():
    spread = 0.02
    found = Crossed(*map(np.array, (0.03, 1e-5, 30.0, spread**2 / 2, 0.0, 2)))
    more = int(found.more_runs(0.01))
    assert more > 0
    assert found.planned(np.array(2 + more)).half_width() < 0.03
    assert found.planned(np.array(2 + more - 1)).half_width() > 0.03


def test_where_images_are_missing_no_number_of_trainings_is_named():
    found = Crossed(*map(np.array, (0.01, 0.02**2, 8.0, 1e-6, 0.0, 3)))
    assert np.isnan(found.more_runs(0.01))


@pytest.mark.slow  # four hundred drawn studies for each design
@pytest.mark.parametrize(("runs", "training"), [(2, 0.02), (3, 0.08), (5, 0.02)])
def test_without_an_effect_variants_are_told_apart_at_most_5_times_in_100(runs, training):
    rng = np.random.default_rng(runs)
    p = [difference(drawn(rng, 32, runs, training, 0.03)).p() for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) <= 0.08


@pytest.mark.slow  # four hundred drawn studies for each design
@pytest.mark.parametrize("own", [(20, 2), (20, 5), (12, 2, 2, 2)])
def test_strata_of_unlike_size_give_no_false_equivalence_and_cover(own):
    rng, margin = np.random.default_rng(2), 0.01
    found = [difference(drawn(rng, 0, 1, 0, 0.02, 0, margin, own=own)) for _ in range(400)]
    assert np.mean([f.p_equivalence(margin) < 0.05 for f in found]) <= 0.08
    assert np.mean([abs(f.effect - margin) <= f.half_width() for f in found]) >= 0.92
