import numpy as np
import pytest

from skipshift.statistics.resampling import (
    Groups,
    bootstrap,
    centred_interval,
    holm,
    p_value,
    percentile_interval,
    permutations,
    resamples,
    splits,
)

DESIGNS = {
    "unpaired": Groups(np.arange(10), np.arange(10, 20)),
    "pairs": Groups(np.arange(10), np.arange(10)),
    "few shifted": Groups(np.arange(10), np.arange(10, 13)),
    "few reference": Groups(np.arange(5), np.arange(5, 20)),
    "some pairs": Groups(np.arange(10), np.arange(6, 14)),
    "shifted inside": Groups(np.arange(9), np.arange(4)),
}


@pytest.fixture(params=DESIGNS)
def groups(request):
    return DESIGNS[request.param]


def test_a_split_and_its_matched_draw_have_the_same_sizes_and_share_no_label(groups, rng):
    (near, far), (again, moved) = splits(groups, 50, rng)
    own, others = groups.sizes
    names = np.concatenate([groups.reference, groups.shifted])
    assert np.array_equal(near, again)
    assert (far.sum(1) == moved.sum(1)).all()
    assert ((near + far)[:, :own] == 1).all()
    assert (moved.sum(1) == min(others, own // 2)).all()
    for a, b in zip(near > 0, moved > 0, strict=True):
        assert not set(names[a]) & set(names[b])


def test_every_group_is_as_often_on_either_side_of_a_split(rng):
    (near, _), (_, moved) = splits(DESIGNS["pairs"], 4000, rng)
    expected = np.full(10, 0.5)
    assert near[:, :10].mean(0) == pytest.approx(expected, abs=0.04)
    assert moved[:, 10:].mean(0) == pytest.approx(expected, abs=0.04)


def test_a_permutation_keeps_sizes_and_swaps_pairs_as_pairs(groups, rng):
    first, second = permutations(groups, 50, rng)
    own, others = groups.sizes
    assert (first + second == 1).all()
    assert (second[0] == np.repeat([0, 1], [own, others])).all()
    assert (second.sum(1) == others).all()
    for a, b in groups.pairs:
        assert (second[:, a] + second[:, b] == 1).all()


def test_the_two_of_a_pair_are_resampled_together(rng):
    first, second = bootstrap(DESIGNS["pairs"], 20, rng)
    assert np.array_equal(first[:, :10], second[:, 10:])
    first, second = bootstrap(DESIGNS["few shifted"], 20, rng)
    assert (first.sum(1) == 10).all()
    assert (second[:, 10:].sum(1) == 3).all()


def test_p_is_the_share_of_permutations_as_large_as_the_sample():
    assert p_value(np.array([3.0, 1, 3, 4, 2])) == 3 / 5
    assert p_value(np.zeros(4)) == 1
    assert np.isnan(p_value(np.array([0.1, np.nan])))


def test_holm_gives_the_adjusted_p_of_the_textbook_and_leaves_nan_out():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    expected = [0.03, 0.06, np.nan, 0.06, 0.02]
    assert holm(p) == pytest.approx(expected, nan_ok=True)
    assert holm(np.array([0.6, 0.9])).tolist() == [1, 1]


def test_a_single_group_cannot_be_split(rng):
    with pytest.raises(ValueError, match="at least 2 groups"):
        splits(Groups(np.arange(1), np.arange(1, 5)), 5, rng)


def test_a_resample_draws_as_many_groups_as_there_are(rng):
    weights = resamples(6, 4000, rng)
    assert (weights.sum(1) == 6).all()
    assert weights.var(0) == pytest.approx(np.full(6, 5 / 6), abs=0.08)


def test_the_centred_interval_is_not_moved_by_an_offset_of_the_draws(rng):
    draws = rng.normal(size=(2000, 3))
    low, high = centred_interval(np.zeros(3), draws)
    assert np.allclose(centred_interval(np.zeros(3), draws + 5), (low, high))
    assert np.r_[-low, high] == pytest.approx(np.full(6, 1.96), abs=0.2)


def test_percentiles_leave_nan_draws_out_and_keep_nan_columns():
    draws = np.column_stack([np.r_[np.nan, np.arange(101)], np.full(102, np.nan)])
    low, high = percentile_interval(draws, 10**6, 0.9)
    assert (low[0], high[0]) == pytest.approx((5, 95), abs=0.01)
    assert np.isnan([low[1], high[1]]).all()
