import numpy as np
import pytest
from scipy import stats

from skipshift.statistics.gains import choose, constant_iou, gain_table, harm_table


def drawn(rng, groups=12, candidates=3, gain=0.0):
    """Counts (groups, 1 + candidates, 2, 3) of 1,000 pixels, half of them foreground."""
    hit = np.clip(0.7 + 0.05 * rng.normal(size=(groups, 1 + candidates)), 0, 1)
    hit[:, 1:] += gain
    tp = np.rint(500 * hit).astype(np.int64)
    fp = np.full_like(tp, 50)
    cell = np.stack([tp, fp, 500 - tp], -1)
    ground = np.stack([500 - fp, 500 - tp, fp], -1)
    return np.stack([ground, cell], -2)


def test_gain_and_interval_are_those_of_a_paired_t_test_where_groups_weigh_alike(rng):
    counts = drawn(rng, 20, gain=0.1)
    counts[..., 1, 1] = 0
    table = gain_table(counts)
    iou = counts[..., 1, 0] / counts[..., 1, :].sum(-1)
    paired = stats.ttest_rel(iou[:, 1], iou[:, 0]).confidence_interval()
    assert table["gain"][0] == pytest.approx((iou[:, 1] - iou[:, 0]).mean())
    assert (table["low"][0], table["high"][0]) == pytest.approx(paired, rel=0.05)


def test_one_candidate_in_twenty_searches_at_most_is_found_where_none_helps():
    found = [
        gain_table(drawn(np.random.default_rng(i), 10, 8))["p_adjusted"].min() for i in range(200)
    ]
    assert np.mean(np.array(found) < 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_harm_is_the_gain_with_its_sign_and_ends_turned(rng):
    counts = drawn(rng, gain=-0.2)
    gain, harm = gain_table(counts), harm_table(counts)
    assert np.allclose(gain["gain"], -harm["harm"])
    assert np.allclose(gain["low"], -harm["harm_high"])
    assert np.allclose(gain["iou"], harm["in_domain"])


def test_an_interval_does_not_hang_on_what_else_was_tried(rng):
    counts = drawn(rng, candidates=5)
    every, alone = gain_table(counts), gain_table(counts[:, :2])
    assert (every.loc[0, ["low", "high"]] == alone.loc[0, ["low", "high"]]).all()


def test_no_difference_of_two_iou_lies_beyond_one():
    # two groups that lose much and little: t with one degree of freedom reaches far beyond
    counts = drawn(np.random.default_rng(0), 2, 1)
    counts[0, 1, 1] = [0, 500, 500]
    harm = harm_table(counts).iloc[0]
    assert harm["harm_low"] < harm["harm"] < harm["harm_high"]
    assert (harm["harm_low"], harm["harm_high"]) == (-1, 1)


def test_the_choice_of_a_fold_does_not_hang_on_its_own_masks(rng):
    counts, folds = drawn(rng, 12, 5), np.arange(12) % 3
    before = choose(counts, folds)
    other = counts.copy()
    other[folds == 1] = drawn(rng, 12, 5, gain=-0.5)[folds == 1]
    assert choose(other, folds).picks[1] == before.picks[1]
    own = before.picks[folds]
    assert np.array_equal(before.counts, counts[np.arange(12), own])


def test_choosing_among_many_that_do_not_help_gains_nothing_on_average():
    honest, flattered = [], []
    for seed in range(60):
        counts = drawn(np.random.default_rng(seed), 12, 30)
        picked = choose(counts, np.arange(12) % 4).counts
        honest.append(gain_table(np.stack([counts[:, 0], picked], 1))["gain"][0])
        flattered.append(gain_table(counts)["gain"].max())
    assert abs(np.mean(honest)) < 4 * np.std(honest) / np.sqrt(60)
    assert np.mean(flattered) > 0.01


def test_the_best_constant_calls_every_pixel_foreground(rng):
    counts = drawn(rng)[:, 0]
    assert constant_iou(counts) == pytest.approx(0.5)
