"""Draws of groups: permutations, comparisons without a shift, leaving out; Holm.

A draw is a row of weights over groups, so a statistic of sums is one matrix product.
"""

from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt

from skipshift.errors import ArgumentError

Weights = npt.NDArray[np.float64]
"""(draws, groups): weight of each group in each draw."""

GroupWeights = tuple[Weights, Weights]
"""Weights of all groups in the two samples of a comparison, each (draws, groups of both sets); a
row adds up to 1, so that every group counts alike, whatever its images and positions."""

FEWEST = 3
"""Fewest units of each kind (pairs, single groups of either set) for an interval."""


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

    @property
    def singles(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Indices of the groups without a partner, in the reference and in the shifted set."""
        alone = np.setdiff1d(np.arange(sum(self.sizes)), self.pairs)
        return alone[alone < len(self.reference)], alone[alone >= len(self.reference)]

    @property
    def units(self) -> list[npt.NDArray[np.int64]]:
        """What is left out as one, by kind, (units, members): pairs, then singles of either set."""
        kinds = [self.pairs, *(alone[:, None] for alone in self.singles)]
        return [kind for kind in kinds if len(kind)]


def sample(groups: Groups) -> GroupWeights:
    """Weigh the two sets as they are: one row."""
    own, others = groups.sizes
    moved = np.r_[np.zeros(own), np.ones(others)][None]
    return (1 - moved) / own, moved / others


def permutations(groups: Groups, draws: int, rng: np.random.Generator) -> GroupWeights:
    """Permute the groups between the two sets; the first row is the observed assignment.

    The two groups of a pair are swapped or not; groups without a partner are reassigned, and both
    sets keep their sizes.
    """
    own, others = groups.sizes
    moved = np.zeros((draws + 1, own + others))
    moved[:, own:] = 1
    pairs, alone = groups.pairs, np.concatenate(groups.singles)
    swap = rng.random((draws, len(pairs))) < 0.5
    moved[1:, pairs[:, 0]], moved[1:, pairs[:, 1]] = swap, ~swap
    moved[1:, alone] = rng.permuted(moved[1:, alone], axis=1)
    return (1 - moved) / own, moved / others


def smallest_permutation_p(groups: Groups, draws: int) -> float:
    """Smallest p that permutations can give, whatever the data; NaN without draws.

    The share of them that leave both sets intact, or exchange sets of one size as a whole; and no
    less than one in all draws.
    """
    if not draws:
        return np.nan
    pairs = len(groups.pairs)
    own, others = (size - pairs for size in groups.sizes)
    ways = 2**pairs * comb(own + others, own)
    intact = 2 if own == others and ways > 1 else 1
    return float(max(intact / ways, 1 / (draws + 1)))


def mixed(groups: Groups, draws: int, rng: np.random.Generator) -> GroupWeights:
    """Draw comparisons without a shift, with as many groups on either side as in the sets.

    Permutations in which both sides hold either domain in one share, so that a shift is on both
    alike; half of the pairs are swapped. Where numbers do not divide, the sides differ by a rest of
    the shift (`rest_of`). Without a shift, and with groups of one kind in both sets, draws and
    sample have one distribution, however sparse the histograms.
    """
    first = np.zeros((draws, sum(groups.sizes)))
    alone, others = groups.singles
    for row, up in zip(first, rng.integers(2, size=draws), strict=True):
        row[_swapped(groups.pairs, up, rng)] = 1
        share = int(len(alone) ** 2 / max(len(alone) + len(others), 1) + rng.random())
        row[rng.permutation(alone)[:share]] = 1
        row[rng.permutation(others)[: len(alone) - share]] = 1
    return _normalised(first), _normalised(1 - first)


def mixed_halves(groups: Groups, draws: int, rng: np.random.Generator) -> GroupWeights:
    """Draw comparisons without a shift for sets whose groups differ in images or positions.

    Either side takes half of the reference's groups and half of the shifted ones, each with the
    weight that it has in its set. With halves P1, P2 and Q1, Q2 of the sets the sides differ by
    (P1 - P2) / 2 + (Q1 - Q2) / 2, of mean 0 and the variance of P - Q, whatever the groups hold.
    For equally many groups this is `mixed`.
    """
    first = np.zeros((draws, sum(groups.sizes)))
    alone, others = groups.singles
    for row, up in zip(first, rng.integers(2, size=draws), strict=True):
        row[_swapped(groups.pairs, up, rng)] = 1
        # of two odd numbers one is rounded up and the other down
        row[rng.permutation(alone)[: (len(alone) + 1 - up) // 2]] = 1
        row[rng.permutation(others)[: (len(others) + up) // 2]] = 1
    own = sum(side[0] for side in sample(groups))
    return _normalised(first * own), _normalised((1 - first) * own)


def _swapped(
    pairs: npt.NDArray[np.int64], up: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """One member of each pair for the first side, half of them (rounded up or down) swapped."""
    order = rng.permutation(len(pairs))
    stay = (len(pairs) + up) // 2
    return np.concatenate([pairs[order[:stay], 0], pairs[order[stay:], 1]])


def _normalised(weights: Weights) -> Weights:
    return np.asarray(weights / weights.sum(1, keepdims=True))


def rest_of(sides: GroupWeights, groups: Groups) -> npt.NDArray[np.float64]:
    """Share of the shift between the sides of each draw: 1 for the sample, 0 for even halves."""
    return np.asarray((sides[0] - sides[1])[:, : groups.sizes[0]].sum(1))


def left_out(groups: Groups) -> tuple[GroupWeights, npt.NDArray[np.int64]]:
    """Leave out one unit at a time, a pair or a single group.

    Returns
    -------
    The sets without each unit, and (units,) the kind of each; no row if a kind has fewer than
    `FEWEST` units.
    """
    units = groups.units
    if min(map(len, units)) < FEWEST:
        units = []
    kinds = np.repeat(np.arange(len(units)), [len(kind) for kind in units])
    first, second = (np.repeat(side, len(kinds), 0) for side in sample(groups))
    for row, unit in enumerate(unit for kind in units for unit in kind):
        first[row, unit] = second[row, unit] = 0
    return (_normalised(first), _normalised(second)), kinds


@dataclass(frozen=True)
class Comparisons:
    """All comparisons that the excess of a layer follows from."""

    groups: Groups

    whole: GroupWeights
    """(1 + units, G): the sets, and the sets without each unit."""

    kinds: npt.NDArray[np.int64]
    """(units,): kind of each unit; every kind varies by itself."""

    matched: GroupWeights
    """Comparisons with the shift, as many groups on either side as in ``null``."""

    null: GroupWeights
    """Comparisons without it; without a shift of one distribution with ``matched``."""

    sizes: tuple[int, int]
    """Number of groups on the sides of ``matched`` and ``null``."""

    alike: bool
    """Whether groups have one weight in ``matched`` and ``null``."""

    @property
    def sides(self) -> GroupWeights:
        """Rows of ``whole``, ``matched`` and ``null``, concatenated."""
        kinds = (self.whole, self.matched, self.null)
        return np.concatenate([s[0] for s in kinds]), np.concatenate([s[1] for s in kinds])

    def split(self, rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Split what was computed of `sides` into that of ``whole``, ``matched`` and ``null``."""
        ends = np.cumsum([len(self.whole[0]), len(self.matched[0])])
        return list(np.split(rows, ends))


def comparisons(
    groups: Groups, sizes: tuple[int, int] | None, draws: int, rng: np.random.Generator
) -> Comparisons:
    """Draw the comparisons of two sets, of groups that are alike in both (``sizes`` None) or not.

    Groups that differ are thinned to ``sizes``, anew in every draw, so that a smooth side is as
    rough as the other; the mean over draws uses all groups. A single shifted group is compared with
    the reference without each of its groups in turn, and so is that group. `ArgumentError` if the
    reference has fewer than 2 groups.
    """
    own, others = groups.sizes
    if own < 2:
        raise ArgumentError(
            f"the null needs at least 2 groups in the reference to split, got {own}"
        )
    whole, (apart, kinds) = sample(groups), left_out(groups)
    alike = sizes is not None or own == others
    if others == 1:
        (matched, null), sizes, alike = _one_by_one(groups), (own - 1, 1), True
    elif sizes is not None:
        matched, null = _thinned(groups, sizes, draws, rng)
    else:
        (matched, null), sizes = (whole, mixed(groups, draws, rng)), groups.sizes
    both = tuple(np.concatenate(pair) for pair in zip(whole, apart, strict=True))
    return Comparisons(groups, (both[0], both[1]), kinds, matched, null, sizes, alike)


def _thinned(
    groups: Groups, sizes: tuple[int, int], draws: int, rng: np.random.Generator
) -> tuple[GroupWeights, GroupWeights]:
    own, others = groups.sizes
    matched, null = ([np.zeros((draws, own + others)) for _ in range(2)] for _ in range(2))
    for row in range(draws):
        first, second = rng.permutation(own)[: sizes[0]], rng.permutation(others)[: sizes[1]]
        fewer = Groups(groups.reference[first], groups.shifted[second])
        for kind, drawn in ((matched, sample(fewer)), (null, mixed_halves(fewer, 1, rng))):
            for side, weights in zip(kind, drawn, strict=True):
                side[row, np.r_[first, own + second]] = weights[0]
    return (matched[0], matched[1]), (null[0], null[1])


def _one_by_one(groups: Groups) -> tuple[GroupWeights, GroupWeights]:
    own = groups.sizes[0]
    free = np.flatnonzero(groups.reference != groups.shifted[0])
    near, far, moved = (np.zeros((len(free), own + 1)) for _ in range(3))
    moved[:, own] = 1
    for row, place in enumerate(free):
        near[row, free[free != place]] = far[row, place] = 1
    if len(free) < 2:  # nothing is left to compare with
        near[:] = np.nan
    near = _normalised(near)
    return (near, moved), (near, far)


def p_value(statistics: npt.NDArray[np.floating]) -> float:
    """Fraction of permutations at least as large as the first, the observed statistic.

    Parameters
    ----------
    statistics
        (1 + draws,), in the order of `permutations`; NaN gives NaN.
    """
    if np.isnan(statistics).any():
        return np.nan
    # draws that are equal in exact arithmetic may differ in the last digits of float32
    slack = 1e-5 * np.abs(statistics[0])
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
