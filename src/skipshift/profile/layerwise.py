"""Distances, noise floor, intervals and p-values of one layer, from histograms of groups."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, reduce

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from skipshift.specs import ProfileSpec
from skipshift.statistics.distances import (
    DISTANCES,
    add_counts,
    between,
    channel_range,
    freedman_diaconis,
    joint_range,
)
from skipshift.statistics.resampling import (
    Groups,
    GroupWeights,
    bootstrap,
    centred_interval,
    p_value,
    permutations,
    splits,
)
from skipshift.statistics.two_sample import TWO_SAMPLE_STATISTICS, PooledSample

Blocks = Sequence[npt.NDArray[np.floating]]
"""Features of a set, each block (n, K, D): K positions and D channels of each of n images."""

Measure = Callable[[GroupWeights], dict[str, npt.NDArray[np.float64]]]
"""Group weights of draws -> values (draws, D) by name of the distance."""

_CELLS = 2**18
"""Counts per matrix product: few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class Draws:
    """All comparisons between groups that a profile makes, drawn once for all layers."""

    groups: Groups
    group_index: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    """Index in `groups` of each image's group, for the reference and the shifted set."""

    weights: Mapping[str, GroupWeights]
    """``observed``, the sets as they are; ``null``, ``matched``, ``bootstrap``, ``permuted``."""

    @property
    def smallest_p(self) -> float:
        """Smallest attainable p: fraction of permutations that keep the sets intact, or NaN."""
        if "permuted" not in self.weights:
            return np.nan
        moved = self.weights["permuted"][1]
        same, mirrored = ((moved == row).all(1) for row in (moved[0], 1 - moved[0]))
        return float((same | mirrored).mean())


def draw(
    labels: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]], spec: ProfileSpec
) -> Draws:
    """Draw splits, resamples and permutations of the groups that label the images of two sets.

    A reference of a single group cannot be split: then only the observed sets are compared.
    """
    rng = np.random.default_rng(spec.seed)
    drawn = spec.null_draws or spec.bootstrap_draws or spec.permutation_draws
    if not drawn and set(spec.distances) <= set(DISTANCES):
        # without draws, counts by group are not needed
        labels = (np.zeros(len(labels[0])), np.zeros(len(labels[1])))
    (first, a), (second, b) = (np.unique(side, return_inverse=True) for side in labels)
    groups = Groups(first, second)
    weights = {"observed": permutations(groups, 0, rng)}
    if len(first) > 1:
        if spec.null_draws:
            weights["null"], weights["matched"] = splits(groups, spec.null_draws, rng)
        if spec.bootstrap_draws:
            weights["bootstrap"] = bootstrap(groups, spec.bootstrap_draws, rng)
        if spec.permutation_draws:
            weights["permuted"] = permutations(groups, spec.permutation_draws, rng)
    return Draws(groups, (a, b + len(first)), weights)


@dataclass(frozen=True)
class Compared:
    """One distance between two sets in one layer; NaN where nothing was drawn."""

    value: npt.NDArray[np.float64]
    """(D,), or (1,) for a distance of the layer as a whole."""

    null: npt.NDArray[np.float64]
    """Same shape: noise floor, the expected distance without a shift."""

    low: float
    high: float
    p: float


def compare(a: Blocks, b: Blocks, draws: Draws, spec: ProfileSpec) -> dict[str, Compared]:
    """Compare a layer's features of the reference and of the shifted set, distance by distance.

    The excess (bias-corrected distance) is estimated at the sample sizes of `splits`: the distance
    between the sets minus that within the reference, for the same numbers of groups. The null of
    the whole sets is their distance minus this excess.
    """
    return _compared(list(_measures(a, b, draws, spec)), draws)


def compare_counts(
    counts: npt.NDArray[np.integer],
    width: npt.NDArray[np.float64],
    draws: Draws,
    names: Sequence[str],
) -> dict[str, Compared]:
    """Compare a layer's histograms (G, D, B) of all groups, with bins of ``width`` (D,)."""
    return _compared([lambda samples: _of_counts(counts, samples, names, width)], draws)


def _compared(measures: Sequence[Measure], draws: Draws) -> dict[str, Compared]:
    drawn: dict[str, dict[str, npt.NDArray[np.float64]]] = defaultdict(dict)
    for kind, samples in draws.weights.items():
        for measure in measures:
            for name, values in measure(samples).items():
                drawn[name][kind] = values
    return {name: _summary(name, values) for name, values in drawn.items()}


def _summary(name: str, drawn: Mapping[str, npt.NDArray[np.float64]]) -> Compared:
    value = drawn["observed"][0]
    null, ends = np.full(value.shape, np.nan), np.full(2, np.nan)
    if "null" in drawn:
        null = value - (drawn["matched"].mean(0) - drawn["null"].mean(0))
    if "bootstrap" in drawn:
        ends = np.stack(centred_interval(value.mean(), drawn["bootstrap"].mean(1)))
        if name in DISTANCES:
            ends = np.clip(ends, 0, DISTANCES[name].most)
    p = p_value(drawn["permuted"].mean(1)) if "permuted" in drawn else np.nan
    return Compared(value, null, float(ends[0]), float(ends[1]), p)


def _measures(a: Blocks, b: Blocks, draws: Draws, spec: ProfileSpec) -> Iterator[Measure]:
    names = [name for name in spec.distances if name in DISTANCES]
    if names:
        counts, width = _group_counts(a, b, draws, spec)
        yield lambda samples: _of_counts(counts, samples, names, width)
    by_layer = [name for name in spec.distances if name in TWO_SAMPLE_STATISTICS]
    if by_layer:
        means = np.concatenate([block.mean(1, dtype=np.float64) for block in (*a, *b)])
        pool = PooledSample(means, np.concatenate(draws.group_index), draws.groups)
        statistics = {name: TWO_SAMPLE_STATISTICS[name](pool) for name in by_layer}
        yield lambda samples: {name: of(samples)[:, None] for name, of in statistics.items()}


def _group_counts(
    a: Blocks, b: Blocks, draws: Draws, spec: ProfileSpec
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.float64]]:
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


def _of_counts(
    counts: npt.NDArray[np.integer],
    samples: GroupWeights,
    names: Sequence[str],
    width: npt.NDArray[np.float64],
) -> dict[str, npt.NDArray[np.float64]]:
    draws, (_, channels, bins) = len(samples[0]), counts.shape
    sums = max(float((side @ counts[:, 0].sum(-1)).max()) for side in samples)
    # sums of integers are exact in float32 up to 2^24, in half the time
    kind = np.float32 if sums < 2**24 and draws > 1 else np.float64
    values = {name: np.empty((draws, channels)) for name in names}
    step = max(1, _CELLS // (bins * draws))

    def fill(start: int) -> None:
        part = slice(start, start + step)
        p, q = (_weighted(side, counts[:, part], kind) for side in samples)
        for name in names:
            values[name][:, part] = between(p, q, name, width[part])

    # products of few channels are too small to parallelise, so threads take channels instead
    with _blas().limit(limits=1), ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, channels, step)))
    return values


@cache
def _blas() -> ThreadpoolController:
    """Find the BLAS libraries once, because it takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


def _weighted(
    weights: npt.NDArray[np.float64], counts: npt.NDArray[np.integer], kind: type[np.floating]
) -> npt.NDArray[np.floating]:
    """Sum the counts (G, D, B) of all groups in each draw: (draws, D, B)."""
    used = np.flatnonzero(weights.any(0))
    own = slice(used[0], used[-1] + 1)
    if (weights[:, own] == 1).all():  # the observed sample needs no product
        return np.asarray(counts[own].sum(0, dtype=kind)[None])
    flat = counts[own].astype(kind).reshape(own.stop - own.start, -1)
    return (weights[:, own].astype(kind) @ flat).reshape(-1, *counts.shape[1:])
