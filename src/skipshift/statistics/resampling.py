"""Splits, bootstrap, permutations and Holm's correction, with groups as units.

A draw is a row of weights over groups, so a statistic of sums is one matrix product.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

from skipshift.errors import ArgumentError

Weights = npt.NDArray[np.float64]
"""(draws, groups): how often each group counts in each draw."""


@dataclass(frozen=True)
class Groups:
    """Groups of two sets, concatenated: the reference first, then the shifted set."""

    reference: npt.NDArray[Any]
    """Unique group labels of the reference."""

    shifted: npt.NDArray[Any]
    """Unique group labels of the shifted set; a label in both sets is a pair."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of groups in the reference and in the shifted set."""
        return len(self.reference), len(self.shifted)

    @property
    def pairs(self) -> npt.NDArray[np.int64]:
        """(pairs, 2): indices of the two groups of each pair."""
        _, a, b = np.intersect1d(self.reference, self.shifted, True, return_indices=True)
        return np.stack([a, b + len(self.reference)], 1)


GroupWeights = tuple[Weights, Weights]
"""Weights of all groups in the first and in the second sample of a comparison, each
(draws, groups of both sets)."""


def splits(
    groups: Groups, draws: int, rng: np.random.Generator
) -> tuple[GroupWeights, GroupWeights]:
    """Draw splits of the reference (the null) and matched comparisons with the shifted set.

    Each draw takes n groups of the shifted set and splits the reference into a first part, without
    the labels taken, and a second part of n groups. The null compares the two parts; the matched
    draw compares the first part with the groups taken. n is half the number of reference groups, or
    the number of shifted groups if that is smaller. Without a shift, both comparisons have the same
    distribution, with and without pairs.

    Returns
    -------
    The null and the matched draws. `ArgumentError` if the reference has fewer than 2 groups.
    """
    own, others = groups.sizes
    if own < 2:
        raise ArgumentError(
            f"the null needs at least 2 groups in the reference to split, got {own}"
        )
    taken = min(others, own // 2)
    near, far, moved = (np.zeros((draws, own + others)) for _ in range(3))
    for row in range(draws):
        chosen = rng.permutation(others)[:taken]
        free = np.flatnonzero(~np.isin(groups.reference, groups.shifted[chosen]))
        moved[row, own + chosen] = 1
        near[row, rng.permutation(free)[: own - taken]] = 1
    far[:, :own] = 1 - near[:, :own]
    return (near, far), (near, moved)


def permutations(groups: Groups, draws: int, rng: np.random.Generator) -> GroupWeights:
    """Permute the groups between the two sets; the first row is the observed assignment.

    The two groups of a pair are swapped or not; groups without a partner are reassigned, and both
    sets keep their sizes.
    """
    own, others = groups.sizes
    moved = np.zeros((draws + 1, own + others))
    moved[:, own:] = 1
    pairs = groups.pairs
    swap = rng.random((draws, len(pairs))) < 0.5
    moved[1:, pairs[:, 0]], moved[1:, pairs[:, 1]] = swap, ~swap
    alone = np.setdiff1d(np.arange(own + others), pairs)
    moved[1:, alone] = rng.permuted(moved[1:, alone], axis=1)
    return 1 - moved, moved


def bootstrap(groups: Groups, draws: int, rng: np.random.Generator) -> GroupWeights:
    """Resample the groups of each set; pairs together where every group has a partner."""
    own, others = groups.sizes
    first, second = (np.zeros((draws, own + others)) for _ in range(2))
    first[:, :own] = resamples(own, draws, rng)
    pairs = groups.pairs
    if len(pairs) == own == others:
        second[:, pairs[:, 1]] = first[:, pairs[:, 0]]
    else:
        second[:, own:] = resamples(others, draws, rng)
    return first, second


def p_value(statistics: npt.NDArray[np.float64]) -> float:
    """Fraction of permutations at least as large as the first, the observed statistic.

    Parameters
    ----------
    statistics
        (1 + draws,), in the order of `permutations`; NaN gives NaN.
    """
    if np.isnan(statistics).any():
        return np.nan
    # draws that are equal in exact arithmetic may differ in the last digits
    slack = 1e-6 * np.abs(statistics[0])
    return float((statistics >= statistics[0] - slack).mean())


def holm(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Adjust p-values to control the family-wise error rate (Holm 1979).

    NaN stays NaN and is not counted.
    """
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def resamples(groups: int, draws: int, rng: np.random.Generator) -> Weights:
    """Bootstrap resamples: each row draws ``groups`` groups with replacement.

    `ArgumentError` if there is no group.
    """
    if groups < 1:
        raise ArgumentError("a bootstrap needs at least one group")
    # twice as fast as multinomial
    picked = rng.integers(groups, size=(draws, groups)) + groups * np.arange(draws)[:, None]
    counts = np.bincount(picked.ravel(), minlength=draws * groups)
    return counts.reshape(draws, groups).astype(np.float64)


def centred_interval(
    estimate: npt.NDArray[np.float64], draws: npt.NDArray[np.float64], level: float = 0.95
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Interval around the estimate with the spread of the draws about their mean.

    Histograms of a resample are rougher than those of the sample, which biases every drawn distance
    upwards; centring the draws removes that bias.

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

    The quantiles are those of the expanded percentile interval (Hesterberg 2015), which widens with
    fewer groups as the t distribution does; the plain percentile interval is too narrow.

    Parameters
    ----------
    draws
        (draws, ...); NaN draws are left out.
    groups
        Number of groups resampled, at least 2.

    Returns
    -------
    low, high : (...)
    """
    tail = ndtr(np.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, (1 - level) / 2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice", category=RuntimeWarning)
        # nanquantile loops over columns and is a hundred times slower
        quantile = np.nanquantile if np.isnan(draws).any() else np.quantile
        low, high = quantile(draws, [tail, 1 - tail], axis=0)
    return low, high
