import numpy as np
import pytest

from skipshift.statistics import (
    centred_interval,
    halves,
    percentile_interval,
    resamples,
)


def test_a_halving_takes_half_of_the_groups(rng):
    weights = halves(7, 50, rng)
    assert set(np.unique(weights)) == {0, 1}
    assert (weights.sum(1) == 3).all()


def test_every_group_is_as_often_in_either_half(rng):
    assert halves(10, 4000, rng).mean(0) == pytest.approx(np.full(10, 0.5), abs=0.04)


def test_a_single_group_cannot_be_halved(rng):
    with pytest.raises(ValueError, match="at least 2 groups"):
        halves(1, 5, rng)


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
