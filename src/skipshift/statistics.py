"""How sure: halvings for the null and resamples for intervals, the group as the unit.

A draw is a row of weights over groups, so that a statistic of sums is one matrix product.
"""

import warnings

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

Weights = npt.NDArray[np.float64]
"""(draws, groups): how often each group counts in each draw."""


def halves(groups: int, draws: int, rng: np.random.Generator) -> Weights:
    """Random halvings of the groups: 1 in the first half, 0 in the second.

    An odd group goes to the second half.
    """
    if groups < 2:
        raise ValueError(f"a null needs at least 2 groups to halve, got {groups}")
    ranks = rng.permuted(np.tile(np.arange(groups), (draws, 1)), axis=1)
    return (ranks < groups // 2).astype(np.float64)


def resamples(groups: int, draws: int, rng: np.random.Generator) -> Weights:
    """Bootstrap resamples: each row draws ``groups`` groups with replacement."""
    if groups < 1:
        raise ValueError("a bootstrap needs at least one group")
    # twice as fast as multinomial
    picked = rng.integers(groups, size=(draws, groups)) + groups * np.arange(draws)[:, None]
    counts = np.bincount(picked.ravel(), minlength=draws * groups)
    return counts.reshape(draws, groups).astype(np.float64)


def centred_interval(
    estimate: npt.NDArray[np.float64], draws: npt.NDArray[np.float64], level: float = 0.95
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Interval with the spread of the draws about their mean, laid around the estimate.

    A resample of histograms is rougher than its sample, which moves every drawn distance up; taking
    the spread about the mean of the draws removes that offset.

    Parameters
    ----------
    estimate
        (...).
    draws
        (draws, ...).

    Returns
    -------
    low, high : (...)
    """
    tail = (1 - level) / 2
    low, high = np.quantile(draws - draws.mean(0), [tail, 1 - tail], axis=0)
    return estimate + low, estimate + high


def percentile_interval(
    draws: npt.NDArray[np.float64], groups: int, level: float = 0.95
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Interval between outer quantiles of bootstrap draws, NaN where every draw is NaN.

    The quantiles lie further out the fewer groups there are, as the t distribution does: those of
    the plain percentile interval are too narrow (Hesterberg 2015, expanded percentile interval).

    Parameters
    ----------
    draws
        (draws, ...); NaN draws are left out.
    groups
        How many groups were resampled, at least 2.

    Returns
    -------
    low, high : (...)
    """
    tail = ndtr(np.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, (1 - level) / 2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice", category=RuntimeWarning)
        # nanquantile walks the columns one by one: a hundred times slower
        quantile = np.nanquantile if np.isnan(draws).any() else np.quantile
        low, high = quantile(draws, [tail, 1 - tail], axis=0)
    return low, high
