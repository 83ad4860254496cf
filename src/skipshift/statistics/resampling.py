"""How sure: splits for the null, resamples for intervals, permutations for p; groups as units.

A draw is a row of weights over groups, so that a statistic of sums is one matrix product.
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
    """Groups of two sets in one row: those of the reference first, then those of the shifted."""

    reference: npt.NDArray[Any]
    """Labels of the reference's groups, each once."""

    shifted: npt.NDArray[Any]
    """Labels of the shifted set's groups; one that is in both sets is a pair."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Groups of the reference and of the shifted set."""
        return len(self.reference), len(self.shifted)

    @property
    def pairs(self) -> npt.NDArray[np.int64]:
        """(pairs, 2): places in the row of the two groups of each pair."""
        _, a, b = np.intersect1d(self.reference, self.shifted, True, return_indices=True)
        return np.stack([a, b + len(self.reference)], 1)


Sides = tuple[Weights, Weights]
"""Weights of all groups on either side of a comparison, each (draws, groups of both sets)."""


def splits(groups: Groups, draws: int, rng: np.random.Generator) -> tuple[Sides, Sides]:
    """Draw the null's comparisons and, at the very same sizes, comparisons with the shifted set.

    Each draw takes n groups of the shifted set, then splits the reference: the side that both
    comparisons share has none of the labels taken, the other side is all the rest, n groups. In
    the null the two sides of the reference meet; in its twin the first meets the groups taken.
    n is half of the reference's groups, or the shifted set's where it has fewer. If nothing has
    shifted, both comparisons have one distribution, with and without pairs.

    Returns
    -------
    The null and its twin.
    """
    own, others = groups.sizes
    if own < 2:
        raise ArgumentError(f"a null needs at least 2 groups to halve, got {own}")
    taken = min(others, own // 2)
    near, far, moved = (np.zeros((draws, own + others)) for _ in range(3))
    for row in range(draws):
        chosen = rng.permutation(others)[:taken]
        free = np.flatnonzero(~np.isin(groups.reference, groups.shifted[chosen]))
        moved[row, own + chosen] = 1
        near[row, rng.permutation(free)[: own - taken]] = 1
    far[:, :own] = 1 - near[:, :own]
    return (near, far), (near, moved)


def permutations(groups: Groups, draws: int, rng: np.random.Generator) -> Sides:
    """Shuffle the groups between the two sets; the first row leaves them where they are.

    The two groups of a pair are swapped or not; groups without a partner are dealt out anew, as
    many to either set as before.
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


def bootstrap(groups: Groups, draws: int, rng: np.random.Generator) -> Sides:
    """Resample the groups of either set; both groups of a pair where every group has a partner."""
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
    """Share of permutations at least as large as the first, which is the sample itself.

    Parameters
    ----------
    statistics
            (1 + draws,), as the rows of `permutations` give them; NaN gives NaN.
    """
    if np.isnan(statistics).any():
        return np.nan
    # draws that are alike in exact arithmetic may differ in the last digits
    slack = 1e-6 * np.abs(statistics[0])
    return float((statistics >= statistics[0] - slack).mean())


def holm(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Adjust p-values so that the chance of any false one stays at the level (Holm 1979).

    NaN stays NaN and does not count.
    """
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def resamples(groups: int, draws: int, rng: np.random.Generator) -> Weights:
    """Bootstrap resamples: each row draws ``groups`` groups with replacement."""
    if groups < 1:
        raise ArgumentError("a bootstrap needs at least one group")
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
