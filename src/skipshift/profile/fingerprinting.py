"""Makes fingerprints: per-channel histograms of a network's features over a set of images."""

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from itertools import chain

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.networks.addresses import unwrap
from skipshift.networks.as_found import evaluating
from skipshift.networks.feature_store import FeatureStore
from skipshift.networks.features import (
    Features,
    Groups,
    Images,
    as_input,
    batches_of,
    collect,
    groups_of,
    input_like,
)
from skipshift.networks.layers import Layers, layers_of
from skipshift.networks.weights import weights_hash
from skipshift.profile.fingerprints import Fingerprint, Making, in_order
from skipshift.specs import FingerprintSpec, ProfileSpec
from skipshift.statistics.distances import add_counts, channel_range, joint_range

Edges = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""(D,) lower edge of each channel's first bin and upper edge of its last one."""

LEAST = 5
"""Default minimum of groups per part, so that no patient is counted alone."""

MOST_PARTS = 12
"""Maximum number of parts by default, which keeps a file at about a megabyte."""

_MARGIN = 0.1
"""Margin of the edges beyond a channel's range at each end, as a fraction of the range."""

_ROWS = 64
"""Images counted at a time, because features on disk may be larger than memory."""


def fingerprint(
    net: nn.Module,
    images: Images,
    edges: Fingerprint | None = None,
    layers: Layers | None = None,
    groups: Groups | None = None,
    spec: FingerprintSpec | None = None,
) -> Fingerprint:
    """Compute the fingerprint of a set of images: histograms of each layer's features.

    Parameters
    ----------
    net
        Any network.
    images
        Array (N, C, H, W), of volumes (N, C, D, H, W), or a loader; uint8 is divided by 255, floats
        are used as they are.
    edges
        A fingerprint whose edges, layers and part size are used, so that both can be merged or
        compared. By default the edges are the range of this set plus a tenth at each end.
    layers
        Names, addresses or patterns, as in `profile_shift`.
    groups
        Group label of each image; by default each image is its own group. Labels are not stored.
    spec
        Settings; by default those of ``edges``.

    Returns
    -------
    A `Fingerprint`; of one smaller part if there are too few groups for a full one. `ArgumentError`
    if there is no image, or network or settings differ from those of ``edges``.
    """
    spec = spec or (FingerprintSpec() if edges is None else _spec_of(edges.making))
    batches = batches_of(images, spec.batch_size, "images")
    first = next(batches, None)
    if first is None:
        raise ArgumentError("images must hold at least one image")
    making = _making(net, first, edges, layers, spec)
    if edges is not None:
        edges.check(making)
    with FeatureStore(spec.memory * 2**30) as store:
        features = collect(
            unwrap(net), chain([first], batches), dict(making.layers), (making.pooling,), spec.seed,
            store,
        )[making.pooling]  # fmt: skip
        labels = np.unique(groups_of(features, groups, "images"), return_inverse=True)[1]
        if not making.part:
            fitting = -(-(labels.max() + 1) // MOST_PARTS)
            making = replace(making, part=max(LEAST, int(fitting)))
        low, high = _edges(features, making.bins) if edges is None else (edges.low, edges.high)
        return counted(features, labels, (low, high), making, spec.seed)


def fingerprint_like(
    given: Fingerprint,
    net: nn.Module,
    side: Images | Fingerprint,
    layers: Layers | None,
    groups: Groups | None,
    spec: ProfileSpec,
) -> Fingerprint:
    """Compute a fingerprint comparable with ``given``, or check one that was made already.

    `ArgumentError` names the setting that differs: pooling, bins, layers or network.
    """
    own = _spec_of(given.making)
    if spec.pooling != (own.pooling,) or spec.bins != own.bins:
        raise ArgumentError(
            f"pooling and bins must be those of the fingerprint, {own.pooling} and {own.bins}, "
            f"got {', '.join(spec.pooling)} and {spec.bins}"
        )
    if not isinstance(side, Fingerprint):
        settings = replace(own, memory=spec.memory, batch_size=spec.batch_size, seed=spec.seed)
        return fingerprint(net, side, given, layers, groups, settings)
    given.check(side)
    taps = side.making.layers if layers is None else tuple(layers_of(net, layers).items())
    given.check(replace(side.making, network=weights_hash(net), layers=taps))
    return side


def make_fingerprint(
    net: nn.Module,
    images: Images | Fingerprint,
    edges: Fingerprint | None,
    layers: Layers | None,
    groups: Groups | None,
    spec: FingerprintSpec,
) -> Fingerprint:
    """Make a fingerprint of images, or check merged ones against a network and other edges.

    `ArgumentError` as for `fingerprint` and `fingerprint_like`.
    """
    if not isinstance(images, Fingerprint):
        return fingerprint(net, images, edges, layers, groups, spec)
    like = ProfileSpec(pooling=(spec.pooling,), bins=spec.bins)
    return fingerprint_like(edges or images, net, images, layers, groups, like)


def _making(
    net: nn.Module,
    first: Tensor,
    edges: Fingerprint | None,
    layers: Layers | None,
    spec: FingerprintSpec,
) -> Making:
    """Determine the settings before the first pass; part is 0 if the set determines it."""
    if layers is None and edges is not None:
        layers = dict(edges.making.layers)
    part = edges.making.part if spec.part is None and edges is not None else spec.part or 0
    with evaluating(net):
        example = as_input(first[:1], input_like(net))
        taps = tuple(layers_of(net, layers, example).items())
    return Making(
        weights_hash(net), spec.preprocess, tuple(first.shape[1:]), spec.pooling, spec.bins, part,
        taps,
    )  # fmt: skip


def _spec_of(making: Making) -> FingerprintSpec:
    return FingerprintSpec(
        preprocess=making.preprocess, pooling=making.pooling, bins=making.bins, part=making.part
    )


def _edges(features: Features, bins: int) -> Edges:
    """Range of each channel with a margin, and one open bin at each end."""
    ranges = [
        reduce(joint_range, (channel_range(b.reshape(-1, b.shape[2])) for b in blocks))
        for blocks in features.values()
    ]
    low, high = (np.concatenate(side) for side in zip(*ranges, strict=True))
    # a constant channel has bins too, as wide as the resolution of float32
    least = np.spacing(np.maximum(np.abs(low), np.abs(high)).astype(np.float32)) * float(bins)
    span = np.maximum(high - low, least)
    beyond = span * (_MARGIN + (1 + 2 * _MARGIN) / bins)
    return low - beyond, low + span + beyond


def counted(
    features: Features,
    labels: npt.NDArray[np.int64],
    edges: Edges,
    making: Making,
    seed: int,
) -> Fingerprint:
    """Assign the groups to parts of equal size at random, and count each part."""
    groups = int(labels.max()) + 1
    parts = max(1, groups // making.part)
    size = min(groups, making.part)
    dealt = np.random.default_rng(seed).permutation(groups)[: parts * size]
    # left-over groups are counted in an extra part, which is dropped
    part_of = np.full(groups, parts)
    part_of[dealt] = np.arange(parts * size) % parts
    channels = tuple(blocks[0].shape[2] for blocks in features.values())
    low, high = edges
    counts = np.zeros((parts + 1, sum(channels), making.bins + 2), np.uint32)
    part_index = part_of[labels]
    for blocks, start in zip(features.values(), np.cumsum((0, *channels)), strict=False):
        own = slice(start, start + blocks[0].shape[2])
        first = 0
        for batch in (b[row : row + _ROWS] for b in blocks for row in range(0, len(b), _ROWS)):
            inside = np.clip(batch, low[own], high[own])
            these = part_index[first : first + len(batch)]
            add_counts(counts[:, own], inside, these, low[own], high[own])
            first += len(batch)
    images = np.bincount(part_index, minlength=parts)[:parts]
    kept = in_order(counts[:-1], np.full(parts, size), images)
    made = Fingerprint(making, channels, low, high, *kept)
    order = np.random.default_rng((seed, 1)).permutation(len(labels))
    return replace(made, alone=_alone(features, labels, made, part_of < parts)[order])


def distances_of(
    counts: npt.NDArray[np.integer], total: npt.NDArray[np.integer], made: Fingerprint
) -> npt.NDArray[np.float64]:
    """Distance (N, layers) of each image's histograms (N, D, B) to those of a set (D, B).

    The mean over channels of Kolmogorov and Smirnov's: that of few values needs no bins, and a
    channel of any scale counts alike.
    """
    one, other = (np.cumsum(each / each.sum(-1, keepdims=True), -1) for each in (counts, total))
    channels = np.abs(one - other).max(-1)
    return np.stack([channels[:, own].mean(1) for _, own in made.layers()], 1)


def counted_images(
    features: Mapping[str, npt.NDArray[np.float32]], made: Fingerprint
) -> npt.NDArray[np.uint32]:
    """Histograms (n, D, bins + 2) of images, from features (n, K, D) of each layer."""
    number = len(next(iter(features.values())))
    counts = np.zeros((number, sum(made.channels), made.making.bins + 2), np.uint32)
    index = np.arange(number)
    for name, own in made.layers():
        low, high = made.low[own], made.high[own]
        add_counts(counts[:, own], np.clip(features[name], low, high), index, low, high)
    return counts


def _rows(
    blocks: list[npt.NDArray[np.float32]], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    starts = np.cumsum([0, *map(len, blocks)])
    parts = zip(starts, starts[1:], blocks, strict=False)
    return np.concatenate([b[rows[(rows >= s) & (rows < e)] - s] for s, e, b in parts])


def _alone(
    features: Features,
    labels: npt.NDArray[np.int64],
    made: Fingerprint,
    counted: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """Distance of each image to the images of all other groups."""
    total = made.counts.sum(0, dtype=np.int64)
    found = np.full((len(labels), len(made.channels)), np.nan)
    for group, inside in enumerate(counted):
        own = np.flatnonzero(labels == group)
        counts = counted_images({name: _rows(part, own) for name, part in features.items()}, made)
        rest = total - counts.sum(0) if inside else total
        if rest.any():
            found[own] = distances_of(counts, rest, made)
    return found
