"""Distances, noise floor, intervals and p-values of one layer, from histograms of groups."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from skipshift.specs import ProfileSpec
from skipshift.statistics.distances import (
    CHANNEL_DISTANCES,
    add_counts,
    channel_range,
    freedman_diaconis,
    joint_range,
    of_frequencies,
)
from skipshift.statistics.excess import (
    Excess,
    excess_of,
    matching_sizes,
    noise_of,
    noise_of_bins,
)
from skipshift.statistics.layer_tests import statistic
from skipshift.statistics.resampling import (
    Comparisons,
    Groups,
    GroupWeights,
    comparisons,
    permutations,
    sample,
    smallest_permutation_p,
)
from skipshift.statistics.two_sample import TWO_SAMPLE_STATISTICS, PooledSample, mmd_kernel

Blocks = Sequence[npt.NDArray[np.floating]]
"""Features of a set, each block (n, K, D): K positions and D channels of each of n images."""

Counts = npt.NDArray[np.integer]
"""(G, D, B): values of each group, channel and bin."""

Floats = npt.NDArray[np.floating]

_CELLS = 2**18
"""Frequencies per matrix product: few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class Draws:
    """Groups of two sets, and what of them is drawn for every layer alike."""

    groups: Groups
    group_index: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    """Index in `groups` of each image's group, for the reference and the shifted set."""

    spec: ProfileSpec
    """Numbers of draws and their seed."""

    permuted: GroupWeights | None
    """Permutations, the same for all layers and for all networks that see these groups."""

    @property
    def smallest_p(self) -> float:
        """Smallest attainable p; NaN without permutations."""
        return (
            np.nan
            if self.permuted is None
            else smallest_permutation_p(self.groups, len(self.permuted[0]) - 1)
        )

    @property
    def has_null(self) -> bool:
        """Whether there is a null: it is drawn, and the reference has groups to split."""
        return bool(self.spec.null_draws) and self.groups.sizes[0] > 1

    def comparisons(self, sizes: tuple[int, int] | None = None) -> Comparisons:
        """Draw the comparisons for the excess, of ``sizes`` groups if those of the sets differ."""
        rng = np.random.default_rng((self.spec.seed, 1))
        return comparisons(self.groups, sizes, self.spec.null_draws, rng)


def draw(
    labels: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]], spec: ProfileSpec
) -> Draws:
    """Draw the permutations of the groups that label the images of two sets.

    A reference of a single group has neither null nor p: then only the sets are compared.
    """
    sides = [np.unique(side, return_inverse=True, return_counts=True) for side in labels]
    alike = all((counts == counts[0]).all() for _, _, counts in sides)
    drawn = spec.null_draws or spec.permutation_draws
    if alike and not drawn and set(spec.distances) <= set(CHANNEL_DISTANCES):
        # without draws, counts by group are not needed
        groups = Groups(np.zeros(1), np.ones(1))
        return Draws(groups, (0 * sides[0][1], 0 * sides[1][1] + 1), spec, None)
    groups, permuted = Groups(sides[0][0], sides[1][0]), None
    if groups.sizes[0] > 1 and spec.permutation_draws:
        rng = np.random.default_rng((spec.seed, 0))
        permuted = permutations(groups, spec.permutation_draws, rng)
    return Draws(groups, (sides[0][1], sides[1][1] + groups.sizes[0]), spec, permuted)


@dataclass(frozen=True)
class Compared:
    """One distance between two sets in one layer."""

    value: Floats
    """(D,), or (1,) for a distance of the layer as a whole."""

    null: Floats
    """Same shape: noise floor, the expected distance without a shift; NaN without a null."""

    excess: Excess | None = None
    """None without a null."""

    permuted: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """(1 + draws,): what p compares, of the sets and of each permutation; empty without any."""


def compare(a: Blocks, b: Blocks, draws: Draws, spec: ProfileSpec) -> dict[str, Compared]:
    """Compare a layer's features of the reference and of the shifted set, distance by distance."""
    found: dict[str, Compared] = {}
    names = [name for name in spec.distances if name in CHANNEL_DISTANCES]
    if names:
        found |= compare_counts(*_group_counts(a, b, draws, spec), draws, names)
    by_layer = [name for name in spec.distances if name in TWO_SAMPLE_STATISTICS]
    if by_layer:
        means = np.concatenate([block.mean(1, dtype=np.float64) for block in (*a, *b)])
        pool = PooledSample(means, np.concatenate(draws.group_index), draws.groups)
        found |= {name: _compare_images(name, pool, draws) for name in by_layer}
    return found


def compare_counts(
    counts: Counts, width: Floats, draws: Draws, names: Sequence[str]
) -> dict[str, Compared]:
    """Compare a layer's histograms (G, D, B) of all groups, with bins of ``width`` (D,)."""
    groups = draws.groups
    values = _of_sets(counts, groups, names, width)
    nothing = np.full(counts.shape[1], np.nan)
    if not draws.has_null and draws.permuted is None:
        return {name: Compared(value, nothing) for name, value in values.items()}
    family = {name: _FAMILIES[CHANNEL_DISTANCES[name].cumulated] for name in names}
    tables = {of: _table(counts, of) for of in dict.fromkeys(family.values())}
    permuted = {of: _statistic(table, draws) for of, table in tables.items()}
    if not draws.has_null:
        return {n: Compared(v, nothing, None, permuted[family[n]]) for n, v in values.items()}
    plan = draws.comparisons(matching_sizes(_table(counts, _plain), groups))
    drawn = _of_draws(counts, plan.sides, names, width)
    found = {}
    for name, of in family.items():
        noise, bias = noise_of(tables[of], plan.whole, groups), _bias(counts, plan, name)
        excess, null = excess_of(plan, drawn[name], noise, CHANNEL_DISTANCES[name].scale, bias)
        found[name] = Compared(values[name], null, excess, permuted[of])
    return found


def _compare_images(name: str, pool: PooledSample, draws: Draws) -> Compared:
    of = TWO_SAMPLE_STATISTICS[name](pool)
    value, nothing = of(sample(draws.groups)), np.full(1, np.nan)
    if name == "cka":
        return Compared(value, nothing)
    kernel = mmd_kernel(pool) if name == "mmd" else None
    if kernel is not None:
        permuted = _statistic(kernel, draws)
    else:
        permuted = np.empty(0) if draws.permuted is None else of(draws.permuted)
    if not draws.has_null:
        return Compared(value, nothing, None, permuted)
    plan = draws.comparisons()
    noise, power = np.ones(len(plan.whole[0])), 1
    if kernel is not None:  # the square is a quadratic form; the others are linear
        noise, power = noise_of(kernel, plan.whole, draws.groups), 2
    excess, null = excess_of(plan, of(plan.sides)[:, None], noise, power)
    return Compared(value, null, excess, permuted)


def group_products(counts: Counts) -> npt.NDArray[np.float64]:
    """Products of groups' histograms (G, D, B) whose quadratic form is H^2 near no shift, (G, G).

    Mean over channels: e' K e is the squared distance of the sets with weights of difference e.
    """
    return _table(counts, _like_hellinger)


def _statistic(table: npt.NDArray[np.float64], draws: Draws) -> npt.NDArray[np.float64]:
    if draws.permuted is None:
        return np.empty(0)
    return statistic(table, draws.permuted, draws.groups)


def _bias(counts: Counts, plan: Comparisons, name: str) -> npt.NDArray[np.float64] | float:
    """Estimate what noise adds to each channel under the shift beyond that to the null, (D,).

    0 where it is not known: for distances without a bias, and where groups have other weights in
    matched and null (more of one set, thinned in neither).
    """
    bias = CHANNEL_DISTANCES[name].bias
    if bias is None or not plan.alike or min(plan.sizes) < 2:
        return 0.0

    def of(part: slice) -> Floats:
        shares = _shares(counts, part)
        noise = noise_of_bins(shares, plan.groups, plan.sizes)
        matched, null = (
            bias(*_weighted(shares, sides), noise).mean(0) for sides in (plan.matched, plan.null)
        )
        return np.asarray(matched - null)

    rows = len(plan.matched[0]) + len(plan.null[0])
    return np.concatenate(_by_channels(counts, rows, of)).astype(np.float64)


def _plain(shares: Floats) -> Floats:
    return shares


def _like_hellinger(shares: Floats) -> Floats:
    """Frequencies whose products are H^2 near no shift: sum (P - Q)^2 / 8 M + ..., M their mean.

    With (M + 1 / B) / 2 for M, since 1 / M of sparse bins depends on which groups fill them.
    """
    mean = shares.mean(0)
    return np.asarray((shares - mean) / np.sqrt(4 * (mean + 1 / shares.shape[2])))


def _cumulated(shares: Floats) -> Floats:
    return np.cumsum(shares - shares.mean(0), -1, dtype=shares.dtype)


_FAMILIES: Mapping[bool, Callable[[Floats], Floats]] = {False: _like_hellinger, True: _cumulated}
"""Features whose products test a distance, by whether it reads cumulated frequencies."""


def _table(counts: Counts, of: Callable[[Floats], Floats]) -> npt.NDArray[np.float64]:
    """Products of groups' features (G, G), mean over channels."""

    def products(part: slice) -> Floats:
        flat = of(_shares(counts, part)).reshape(len(counts), -1)
        return flat @ flat.T

    parts = _by_channels(counts, len(counts), products)
    return np.asarray(sum(part.astype(np.float64) for part in parts) / counts.shape[1])


def _of_sets(
    counts: Counts, groups: Groups, names: Sequence[str], width: Floats
) -> dict[str, npt.NDArray[np.float64]]:
    """Distance of each channel between the sets, in float64: exactly 0 between equal ones."""
    own = groups.sizes[0]
    p, q = (_mean_of_groups(side) for side in (counts[:own], counts[own:]))
    return {name: of_frequencies(p, q, name, width) for name in names}


def _mean_of_groups(counts: Counts) -> npt.NDArray[np.float64]:
    totals = counts[:, 0].sum(-1)
    alike = {total: np.flatnonzero(totals == total) for total in np.unique(totals)}
    sums = (
        reduce(np.add, (counts[g] for g in own), np.zeros(counts.shape[1:], np.int64)) / total
        for total, own in alike.items()
    )
    return np.asarray(sum(sums) / len(counts))


def _of_draws(
    counts: Counts, sides: GroupWeights, names: Sequence[str], width: Floats
) -> dict[str, Floats]:
    """Distances (draws, D) of each name."""

    def of(part: slice) -> list[Floats]:
        p, q = _weighted(_shares(counts, part), sides)
        return [of_frequencies(p, q, name, width[part]) for name in names]

    parts = zip(*_by_channels(counts, len(sides[0]), of), strict=True)
    return {
        name: np.concatenate(values, 1).astype(np.float64)
        for name, values in zip(names, parts, strict=True)
    }


def _by_channels(counts: Counts, rows: int, work: Callable[[slice], Any]) -> list[Any]:
    """Do work on slices of channels, of ``rows`` histograms each, in threads."""
    channels, bins = counts.shape[1:]
    step = max(1, _CELLS // (bins * rows))
    parts = [slice(start, start + step) for start in range(0, channels, step)]
    if len(parts) == 1:
        return [work(parts[0])]
    # products of few channels are too small to parallelise, so threads take channels instead
    with _blas().limit(limits=1), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, parts))


@cache
def _blas() -> ThreadpoolController:
    """Find the BLAS libraries once, because it takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


def _shares(counts: Counts, part: slice) -> npt.NDArray[np.float32]:
    """Frequencies (G, D, B) of some channels, of each group by itself."""
    totals = counts[:, :1].sum(-1, keepdims=True)
    return np.asarray(np.divide(counts[:, part], totals, dtype=np.float32))


def _weighted(shares: Floats, sides: GroupWeights) -> tuple[Floats, Floats]:
    """Mean frequencies of both sides in each draw, (draws, D, B)."""
    flat = shares.reshape(len(shares), -1)
    p, q = ((s.astype(shares.dtype) @ flat).reshape(-1, *shares.shape[1:]) for s in sides)
    return p, q


def _group_counts(a: Blocks, b: Blocks, draws: Draws, spec: ProfileSpec) -> tuple[Counts, Floats]:
    """(G, D, B) counts of all groups over the joint range of both sets, and the width of bins."""
    channels = a[0].shape[2]
    flat = [block.reshape(-1, channels) for block in (*a, *b)]
    low, high = reduce(joint_range, map(channel_range, flat))
    bins = freedman_diaconis(*flat) if spec.bins == "fd" else spec.bins
    largest = max(
        int(np.bincount(own).max()) * side[0].shape[1]
        for side, own in zip((a, b), draws.group_index, strict=True)
    )
    shape = (sum(draws.groups.sizes), channels, bins)
    counts = np.zeros(shape, np.min_scalar_type(largest))
    index, start = np.concatenate(draws.group_index), 0
    for block in (*a, *b):
        add_counts(counts, block, index[start : start + len(block)], low, high)
        start += len(block)
    return counts, (high - low) / bins
