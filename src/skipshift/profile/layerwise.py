"""One layer of two sets compared: distances, null, intervals and p, all from groups' histograms."""

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
    Sides,
    bootstrap,
    centred_interval,
    p_value,
    permutations,
    splits,
)
from skipshift.statistics.two_sample import SEPARATIONS, Pool

Blocks = Sequence[npt.NDArray[np.floating]]
"""Features of a set, each block (n, K, D): K positions and D channels of each of n images."""

Measure = Callable[[Sides], dict[str, npt.NDArray[np.float64]]]
"""Draws -> values (draws, D) by name of the distance."""

_CELLS = 2**18
"""Counts that one matrix product gives at a time: few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class Draws:
    """Every comparison that a profile makes of its groups, drawn once for all layers."""

    groups: Groups
    places: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    """Group of each image of either set, as its place in the row of groups."""

    sides: Mapping[str, Sides]
    """``sample``, the two sets as they are; ``null``, ``twin``, ``bootstrap``, ``permuted``."""

    @property
    def smallest_p(self) -> float:
        """Share of the permutations that leave the sets whole: no p can fall below; NaN if none."""
        if "permuted" not in self.sides:
            return np.nan
        moved = self.sides["permuted"][1]
        same, mirrored = ((moved == row).all(1) for row in (moved[0], 1 - moved[0]))
        return float((same | mirrored).mean())


def draw(
    labels: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]], spec: ProfileSpec
) -> Draws:
    """Draw splits, resamples and permutations of the groups that label the images of two sets.

    A reference of a single group cannot be split: then there are none.
    """
    rng = np.random.default_rng(spec.seed)
    drawn = spec.null_draws or spec.bootstrap_draws or spec.permutation_draws
    if not drawn and set(spec.distances) <= set(DISTANCES):
        # each set as a whole: without draws nobody asks for the counts of a group
        labels = (np.zeros(len(labels[0])), np.zeros(len(labels[1])))
    (first, a), (second, b) = (np.unique(side, return_inverse=True) for side in labels)
    groups = Groups(first, second)
    sides = {"sample": permutations(groups, 0, rng)}
    if len(first) > 1:
        if spec.null_draws:
            sides["null"], sides["twin"] = splits(groups, spec.null_draws, rng)
        if spec.bootstrap_draws:
            sides["bootstrap"] = bootstrap(groups, spec.bootstrap_draws, rng)
        if spec.permutation_draws:
            sides["permuted"] = permutations(groups, spec.permutation_draws, rng)
    return Draws(groups, (a, b + len(first)), sides)


@dataclass(frozen=True)
class Compared:
    """One distance between two sets in one layer; NaN where nothing was drawn."""

    value: npt.NDArray[np.float64]
    """(D,), or (1,) for a distance of the layer as a whole."""

    null: npt.NDArray[np.float64]
    """Alike: what the distance would be had nothing shifted."""

    low: float
    high: float
    p: float


def compare(a: Blocks, b: Blocks, draws: Draws, spec: ProfileSpec) -> dict[str, Compared]:
    """Compare a layer's features of the reference and of the shifted set, distance by distance.

    The null is measured where it can be, at the sizes of `statistics.splits`: there the excess is
    the distance between the sets minus that inside the reference, both of as many groups. The null
    of the whole sets is their distance minus this excess.
    """
    return _compared(list(_measures(a, b, draws, spec)), draws)


def compare_counts(
    counts: npt.NDArray[np.integer],
    width: npt.NDArray[np.float64],
    draws: Draws,
    names: Sequence[str],
) -> dict[str, Compared]:
    """Compare a layer's histograms (G, D, B) of all groups, bins of ``width`` (D,), likewise."""
    return _compared([lambda sides: _of_counts(counts, sides, names, width)], draws)


def _compared(measures: Sequence[Measure], draws: Draws) -> dict[str, Compared]:
    found: dict[str, dict[str, npt.NDArray[np.float64]]] = defaultdict(dict)
    for kind, sides in draws.sides.items():
        for measure in measures:
            for name, values in measure(sides).items():
                found[name][kind] = values
    return {name: _summary(name, values) for name, values in found.items()}


def _summary(name: str, drawn: Mapping[str, npt.NDArray[np.float64]]) -> Compared:
    value = drawn["sample"][0]
    null, ends = np.full(value.shape, np.nan), np.full(2, np.nan)
    if "null" in drawn:
        null = value - (drawn["twin"].mean(0) - drawn["null"].mean(0))
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
        yield lambda sides: _of_counts(counts, sides, names, width)
    wholes = [name for name in spec.distances if name in SEPARATIONS]
    if wholes:
        means = np.concatenate([block.mean(1, dtype=np.float64) for block in (*a, *b)])
        pool = Pool(means, np.concatenate(draws.places), draws.groups)
        whole = {name: SEPARATIONS[name](pool) for name in wholes}
        yield lambda sides: {name: of(sides)[:, None] for name, of in whole.items()}


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
        for side, own in zip((a, b), draws.places, strict=True)
    )
    shape = (sum(draws.groups.sizes), channels, bins)
    counts = np.zeros(shape, np.min_scalar_type(largest))
    places, start = np.concatenate(draws.places), 0
    for block in (*a, *b):
        add_counts(counts, block, places[start : start + len(block)], low, high)
        start += len(block)
    return counts, (high - low) / bins


def _of_counts(
    counts: npt.NDArray[np.integer],
    sides: Sides,
    names: Sequence[str],
    width: npt.NDArray[np.float64],
) -> dict[str, npt.NDArray[np.float64]]:
    draws, (_, channels, bins) = len(sides[0]), counts.shape
    sums = max(float((side @ counts[:, 0].sum(-1)).max()) for side in sides)
    # sums of whole numbers are exact in float32 to 2^24, at half the time
    kind = np.float32 if sums < 2**24 and draws > 1 else np.float64
    values = {name: np.empty((draws, channels)) for name in names}
    step = max(1, _CELLS // (bins * draws))

    def fill(start: int) -> None:
        part = slice(start, start + step)
        p, q = (_weighted(side, counts[:, part], kind) for side in sides)
        for name in names:
            values[name][:, part] = between(p, q, name, width[part])

    # a product of few channels is too small to be shared between cores: channels are shared
    with _blas().limit(limits=1), ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, channels, step)))
    return values


@cache
def _blas() -> ThreadpoolController:
    """Find the libraries of matrix products, once, since that takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


def _weighted(
    weights: npt.NDArray[np.float64], counts: npt.NDArray[np.integer], kind: type[np.floating]
) -> npt.NDArray[np.floating]:
    """Sum the counts (G, D, B) of all groups in each draw: (draws, D, B)."""
    used = np.flatnonzero(weights.any(0))
    own = slice(used[0], used[-1] + 1)
    if (weights[:, own] == 1).all():  # the sample as it is needs no product
        return np.asarray(counts[own].sum(0, dtype=kind)[None])
    flat = counts[own].astype(kind).reshape(own.stop - own.start, -1)
    return (weights[:, own].astype(kind) @ flat).reshape(-1, *counts.shape[1:])
