from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipshift.statistics.multiplicity import (
    FIRST,
    max_t,
    signs,
    smallest_swap_p,
    swap_shares,
    two_levels,
)
from skipshift.statistics.resampling import holm


def test_a_swap_turns_the_sign_of_a_share_and_of_no_other(rng):
    ours, theirs = rng.uniform(1, 9, (2, 6, 1, 2))
    shares = swap_shares(ours, theirs)
    sides = (np.concatenate([x[:2], y[2:]]) for x, y in ((theirs, ours), (ours, theirs)))
    swapped = swap_shares(*sides)
    assert swapped == pytest.approx(shares * np.array([-1, -1, 1, 1, 1, 1])[:, None])


def test_shares_of_equal_denominators_add_up_to_the_difference(rng):
    ours, theirs = rng.uniform(1, 9, (2, 6, 2))
    theirs[:, 1] *= ours[:, 1].sum() / theirs[:, 1].sum()
    apart = ours[:, 0].sum() / ours[:, 1].sum() - theirs[:, 0].sum() / theirs[:, 1].sum()
    assert swap_shares(ours, theirs).sum() == pytest.approx(apart)


def test_patterns_of_few_groups_are_all_there_are_the_sample_first(rng):
    patterns = signs(5, 9999, rng)
    assert (patterns[0] == 1).all()
    both = {tuple(row) for row in np.concatenate([patterns, -patterns])}
    assert both == set(product([1.0, -1.0], repeat=5))
    assert len(signs(40, 99, rng)) == 100


def test_p_is_the_fraction_of_sign_patterns_as_extreme(rng):
    shares = rng.normal(0.5, 1, (6, 3))
    p, _ = max_t(shares, signs(6, 9999, rng))
    for k in range(3):
        drawn = [abs(np.dot(s, shares[:, k])) for s in product([1, -1], repeat=6)]
        assert p[k] == pytest.approx(np.mean(np.array(drawn) >= drawn[0] - 1e-9))


def test_equal_comparisons_cost_nothing_and_adjustment_never_lowers(rng):
    shares = rng.normal(0.5, 1, (8, 1))
    patterns = signs(8, 9999, rng)
    p, adjusted = max_t(np.repeat(shares, 5, 1), patterns)
    assert adjusted == pytest.approx(p)
    p, adjusted = max_t(rng.normal(0.3, 1, (8, 12)), patterns)
    assert (adjusted >= p).all()
    assert (adjusted <= holm(p) + 0.05).all()


def test_a_comparison_of_few_groups_costs_one_of_many_nothing(rng):
    many, few = rng.normal(1, 0.5, (12, 1)), np.r_[rng.normal(0, 1, (3, 1)), np.zeros((9, 1))]
    patterns = signs(12, 9999, rng)
    assert max_t(np.hstack([many, few]), patterns)[1][0] == max_t(many, patterns)[1][0]


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
)
def test_two_levels_reject_what_the_closed_test_rejects(first, rest):
    a, b = (holm(np.array(p)) for p in (first, rest))
    one, two = two_levels(a, b)
    for alpha in (0.05, 0.2):
        own, behind = a < FIRST * alpha, b < (1 - FIRST) * alpha
        own |= (a < alpha) & behind.all()
        behind |= (b < alpha) & (a < FIRST * alpha).all()
        assert (one < alpha).tolist() == own.tolist()
        assert (two < alpha).tolist() == behind.tolist()


def test_an_empty_level_leaves_the_other_as_it_is():
    p = np.array([0.01, np.nan, 0.2])
    first, rest = two_levels(np.array([]), p)
    assert not len(first)
    assert rest == pytest.approx(p, nan_ok=True)


@pytest.mark.parametrize(
    ("groups", "first", "rest"), [(5, 0.094, 0.187), (6, 0.047, 0.094), (7, 0.023, 0.047)]
)
def test_the_least_p_is_that_of_groups_that_all_agree(rng, groups, first, rest):
    _, adjusted = max_t(np.ones((groups, 4)), signs(groups, 9999, rng))
    assert adjusted[0] == 2.0 ** (1 - groups) == smallest_swap_p(groups)
    assert smallest_swap_p(groups, FIRST) == pytest.approx(first, abs=1e-3)
    assert smallest_swap_p(groups, 1 - FIRST) == pytest.approx(rest, abs=1e-3)


def test_no_p_of_random_swaps_is_below_one_of_all_that_are_drawn(rng):
    _, adjusted = max_t(np.ones((40, 2)), signs(40, 199, rng))
    assert adjusted[0] == smallest_swap_p(40, 1.0, 199) == 1 / 200


@pytest.mark.slow  # three hundred drawn families
def test_any_false_verdict_in_a_family_of_many_comes_5_times_in_100():
    rng = np.random.default_rng(6)
    patterns = signs(9, 9999, rng)
    false = []
    for _ in range(300):
        common = rng.normal(size=(9, 4, 1))
        shares = (common + rng.normal(size=(9, 4, 6))).reshape(9, 24)
        front = np.arange(24) % 6 < 2
        found = two_levels(*(max_t(shares[:, level], patterns)[1] for level in (front, ~front)))
        false.append((np.concatenate(found) < 0.05).any())
    assert np.mean(false) <= 0.08
