"""What each path of a network carries: one path is fed the reference's features, IoU is counted.

A path is an address behind which the decoder reads: a skip as it enters its block, the bottleneck
as it leaves the encoder. The encoder itself goes on with the shifted image, so a path brings back
what goes through it and nothing that only passes its beginning.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.networks.features import Groups, Images, as_input, batches_of
from skipshift.networks.hooks import tapped, visited
from skipshift.networks.inference import fast_copy, labels_of, logits_of, run
from skipshift.networks.layers import known_taps, taps_of, unwrap
from skipshift.patching.cached_forward import remembered
from skipshift.specs import CarrySpec
from skipshift.statistics.counts import count
from skipshift.statistics.recovery import ALL, NONE, Counts, Rows, rows_of, share_table

Masks = npt.NDArray[np.uint8]
"""(N, H, W) class indices."""

Patch = Callable[[str, Tensor], Tensor]
"""Path and the tensor on it -> what its reader gets instead."""

Labels = npt.NDArray[np.uint8]

_SAMPLE = 2**14
"""Values of each channel from which a distribution is taken, from as many images as there are."""

_KNOTS = 257
"""Quantiles of a distribution."""


def carry(
    net: nn.Module,
    reference: Images,
    shifted: Images,
    masks: Masks | tuple[Masks, Masks],
    groups: Groups | tuple[Groups, Groups] | None = None,
    spec: CarrySpec | None = None,
) -> pd.DataFrame:
    """Measure which path of a network carries the IoU that a shift costs. Nothing is trained.

    The shifted images are segmented, but one path is fed the features that the reference has
    there: the IoU that returns, as a share of the IoU lost, is what the path carries. The IoU is
    that of all images together (section V), of the foreground; the mean over classes where several
    are foreground. Shares of single paths need not add up to one; Shapley's values do.

    Parameters
    ----------
    net
        Any network that gives logits (N, classes, H, W), or one channel for two classes. A copy
        made fast for prediction is used, where the network is.
    reference, shifted
        Arrays (N, C, H, W), of volumes (N, C, D, H, W), or loaders that can be read more than
        once; uint8 is divided by 255, floats go in as they are. In mode ``paired`` the same images
        in the same order.
    masks
        (N, H, W) or (N, D, H, W) uint8 class indices of both sets, or a pair of such arrays, one of
        each set.
    groups
        Label of each image's group, or a pair of such sequences; each image by itself by default.

    Returns
    -------
    ``path, iou, share, low, high, in_domain, shapley, shapley_low, shapley_high``: a row ``none``
    for the shifted images as they are, one for each path, with ``spec.subsets`` one for each set of
    paths (``L1+L2``), and a row ``all``.
    What follows an address sees the patch, other paths too. In mode ``paired`` the share of ``all``
    is 1 where the paths are everything that the decoder reads, as they are by default.
    ``share`` is NaN if the shift costs no IoU; ``low`` and ``high``, its 95 % percentile interval
    by bootstrap over groups, also with a single group and where the loss is not sure to be one.
    ``in_domain`` is the IoU of the reference, in modes ``zero`` and ``mean`` with the same paths
    knocked out. ``shapley`` is given for single paths if ``spec.subsets``.

    `ArgumentError` names the argument or path at fault.
    """
    spec = spec or CarrySpec()
    net = unwrap(net)
    taps = paths_of(net, spec.paths)
    rows = rows_of(tuple(taps), spec.subsets)
    pair = _pair((reference, shifted), masks, groups, spec.mode == "paired")
    # within inference mode tensors do not tell whether they were changed in place
    with torch.inference_mode(False), torch.no_grad():
        bench = _Bench.of(net, taps, pair[0], spec)
        measure = _paired if spec.mode == "paired" else _unpaired
        counts = measure(bench, rows, pair)
    return share_table(rows, counts, (pair[0].groups, pair[1].groups), spec)


def paths_of(
    net: nn.Module, paths: Mapping[str, str] | Sequence[str] | None = None
) -> dict[str, str]:
    """Addresses of paths by name: every skip, L1 first, and the bottleneck if none are named.

    A skip is called by its level, the power of two of its stride: L1 is the skip at stride 2.
    """
    known = {}
    for tap in known_taps(net):
        if tap.kind == "skip":
            known[_level(tap.name)] = tap.address
        elif tap.kind == "bottleneck":
            known["bottleneck"] = tap.address
    known = dict(reversed(known.items()))
    if paths is None:
        if not known:
            raise ArgumentError(
                f"paths must be named for a {type(net).__name__}: give name -> address of each "
                f"tensor that the decoder reads"
            )
        return known
    found = dict(taps_of(net, paths)) if isinstance(paths, Mapping) else {}
    for path in () if isinstance(paths, Mapping) else paths:
        try:
            found |= {path: known[path]} if path in known else taps_of(net, [path])
        except ArgumentError as error:
            has = f"; its paths are {', '.join(known)}" if known else ""
            raise ArgumentError(f"path {path!r}: {error}{has}") from None
    if not found or {NONE, ALL} & set(found):
        raise ArgumentError(
            f"paths must be at least one, none called none or all, got {list(found)}"
        )
    return found


def _level(tap: str) -> str:
    """Name of the skip at a tap: ``s8`` is L3."""
    found = re.fullmatch(r"s(\d+)([a-z]?)", tap)
    if found is None or int(found[1]).bit_count() != 1:
        return tap
    return f"L{int(found[1]).bit_length() - 1}{found[2]}"


@dataclass(frozen=True)
class _Set:
    """Images with their masks."""

    name: str
    images: Images
    masks: Masks
    groups: npt.NDArray[Any]
    """(N,): label of each image's group."""

    def batches(self, size: int) -> Iterator[tuple[Tensor, Masks, npt.NDArray[np.int64]]]:
        """Images, masks and numbers of their groups, a batch at a time."""
        codes = np.unique(self.groups, return_inverse=True)[1]
        seen = 0
        for images in batches_of(self.images, size, self.name):
            part = slice(seen, seen + len(images))
            seen = part.stop
            sides = tuple(images.shape[2:])
            if self.masks.shape[1:] != sides:
                raise ArgumentError(
                    f"masks of the {self.name} must be as large as its images, {sides}, "
                    f"got {self.masks.shape[1:]}"
                )
            if seen <= len(self.masks):
                yield images, self.masks[part], codes[part]
        if seen != len(self.masks):
            raise ArgumentError(
                f"masks must be one for each image: the {self.name} has {seen} images and "
                f"{len(self.masks)} masks"
            )


def _pair(
    images: tuple[Images, Images],
    masks: Masks | tuple[Masks, Masks],
    groups: Groups | tuple[Groups, Groups] | None,
    paired: bool,
) -> tuple[_Set, _Set]:
    both = masks if isinstance(masks, tuple) else (masks, masks)
    both_named = isinstance(groups, tuple) and len(groups) == 2 and np.ndim(groups[0]) == 1
    labels: Any = groups if both_named else (groups, groups)
    sets = [
        _labelled(*each)
        for each in zip(("reference", "shifted"), images, both, labels, strict=True)
    ]
    sizes = [len(i) if isinstance(i, np.ndarray | Tensor) else 0 for i in images]
    if paired and sizes[0] != sizes[1] and all(sizes):
        raise ArgumentError(
            f"mode paired needs the same images in both sets, got {sizes[0]} and {sizes[1]}; "
            f"choose mode quantile, zero or mean for images that are not paired"
        )
    return sets[0], sets[1]


def _labelled(name: str, images: Images, masks: Masks, groups: Groups | None) -> _Set:
    if iter(images) is images:
        raise ArgumentError(
            f"{name} must be an array or a loader that can be read more than once, "
            f"got a {type(images).__name__}"
        )
    masks = np.asarray(masks)
    if masks.dtype != np.uint8 or masks.ndim not in (3, 4) or len(masks) == 0:
        raise ArgumentError(
            f"masks must be (N, H, W) uint8 class indices, got {masks.dtype} {masks.shape}"
        )
    labels = np.arange(len(masks)) if groups is None else np.asarray(groups)
    if labels.shape != (len(masks),):
        raise ArgumentError(f"groups of the {name} must be one label per image, {len(masks)}")
    return _Set(name, images, masks, labels)


@dataclass(frozen=True)
class _Bench:
    """A network made fast, with its paths."""

    net: nn.Module
    taps: Mapping[str, str]
    spec: CarrySpec
    classes: int

    @classmethod
    def of(cls, net: nn.Module, taps: Mapping[str, str], data: _Set, spec: CarrySpec) -> "_Bench":
        """Copy the network and see on one image that its paths run and that it gives logits."""
        images, _, _ = next(data.batches(spec.batch_size))
        example = as_input(images[:1], next(net.parameters())).float()
        fast = fast_copy(net, example, spec.precision)
        with tapped(fast, taps, _copied) as maps:
            logits = logits_of(run(fast, example.to(next(fast.parameters()).dtype)))
        if idle := [path for path in taps if path not in maps]:
            raise ArgumentError(f"path {idle[0]}: its module did not run in the forward pass")
        return cls(fast, taps, spec, max(2, logits.shape[1]))

    def input(self, images: Tensor) -> Tensor:
        """Images as the network takes them."""
        return as_input(images, next(self.net.parameters()))

    def labels(self, images: Tensor) -> Labels:
        """Segment a batch."""
        return labels_of(logits_of(run(self.net, self.input(images))))

    def patched(
        self, images: Tensor, rows: Iterable[tuple[str, ...]], patch: Patch
    ) -> Iterator[Labels]:
        """Segment a batch once for each row with its paths patched; the first has none."""
        with remembered(self.net, self.taps, self.input(images)) as again:
            for paths in rows:
                with visited(self.net, {path: self.taps[path] for path in paths}, patch):
                    yield labels_of(again())


def _copied(path: str, value: Any) -> Tensor:
    # the network may go on to overwrite it
    return _map(path, value).clone()


def _map(path: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim < 3:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            f"path {path}: must be a tensor (N, D, h, w), got {got}; for one of several outputs "
            f"add its index, as in encoder[2]"
        )
    return value


def _zeros(bench: _Bench, data: _Set, rows: int) -> Counts:
    return np.zeros((len(np.unique(data.groups)), rows, bench.classes, 3), np.int64)


def _add(into: Counts, codes: npt.NDArray[np.int64], labels: Labels, masks: Masks) -> None:
    """Add the counts of a batch to those of its groups, (groups, classes, 3)."""
    # a volume is a wide image
    flat = [array.reshape(len(array), array.shape[1], -1) for array in (masks, labels)]
    np.add.at(into, codes, count(flat[0], flat[1], into.shape[1]))


def _paired(bench: _Bench, rows: Rows, pair: tuple[_Set, _Set]) -> tuple[Counts, Counts]:
    """Count the reference as it is, in one row, and the shifted images in every row."""
    inside, outside = (_zeros(bench, d, n) for d, n in zip(pair, (1, len(rows)), strict=True))
    batches = [data.batches(bench.spec.batch_size) for data in pair]
    for (images, masks, codes), (shifted, shifted_masks, shifted_codes) in zip(
        *batches, strict=True
    ):
        if images.shape != shifted.shape:
            raise ArgumentError(
                f"mode paired needs images of one shape in both sets, got {tuple(images.shape)} "
                f"and {tuple(shifted.shape)}"
            )
        with tapped(bench.net, bench.taps, _copied) as maps:
            _add(inside[:, 0], codes, bench.labels(images), masks)

        def patch(path: str, _: Tensor, maps: Mapping[str, Tensor] = maps) -> Tensor:
            return maps[path].clone()

        for row, labels in enumerate(bench.patched(shifted, rows.values(), patch)):
            _add(outside[:, row], shifted_codes, labels, shifted_masks)
    return inside, outside


def _unpaired(bench: _Bench, rows: Rows, pair: tuple[_Set, _Set]) -> tuple[Counts, Counts]:
    """Count both sets; the reference in one row if its patches would leave it as it is."""
    patch = _patch_of(bench, pair)
    known = {NONE: rows[NONE]} if bench.spec.mode == "quantile" else rows
    return _tally(bench, known, pair[0], patch), _tally(bench, rows, pair[1], patch)


def _patch_of(bench: _Bench, pair: tuple[_Set, _Set]) -> Patch:
    if bench.spec.mode == "zero":
        return lambda _, value: torch.zeros_like(value)
    target = _sample(bench, pair[0])
    if bench.spec.mode == "mean":
        means = {path: values.mean(0) for path, values in target.items()}

        def level(path: str, value: Tensor) -> Tensor:
            mean = means[path].to(value).view(-1, *[1] * (value.ndim - 2))
            return torch.zeros_like(value) + mean

        return level
    source = _sample(bench, pair[1])
    maps = {path: _quantile_map(source[path], target[path]) for path in bench.taps}
    # one image at a time: the numbers of the quantiles are eight bytes for each value
    return lambda path, value: torch.stack([maps[path](one.float()) for one in value]).to(value)


def _tally(bench: _Bench, rows: Rows, data: _Set, patch: Patch) -> Counts:
    counts = _zeros(bench, data, len(rows))
    for images, masks, codes in data.batches(bench.spec.batch_size):
        for row, labels in enumerate(bench.patched(images, rows.values(), patch)):
            _add(counts[:, row], codes, labels, masks)
    return counts


def _sample(bench: _Bench, data: _Set) -> dict[str, Tensor]:
    """Values of each channel on each path at random positions of every image, (M, D) float32."""
    rng = torch.Generator().manual_seed(bench.spec.seed)
    each = max(1, _SAMPLE // len(data.masks))

    def pick(path: str, value: Any) -> Tensor:
        flat = _map(path, value).flatten(2)
        at = torch.randperm(flat.shape[2], generator=rng)[:each]
        return flat[..., at.to(flat.device)].float().movedim(1, 2).flatten(0, 1)

    parts: dict[str, list[Tensor]] = {path: [] for path in bench.taps}
    for images, _, _ in data.batches(bench.spec.batch_size):
        with tapped(bench.net, bench.taps, pick) as picked:
            bench.labels(images)
        for path, values in picked.items():
            parts[path].append(values)
    return {path: torch.cat(values) for path, values in parts.items()}


def _quantile_map(source: Tensor, target: Tensor) -> Callable[[Tensor], Tensor]:
    """Map each channel of (D, ...) by its quantiles: from (M, D) values to those of (M', D).

    Linear between quantiles; beyond the outermost a value keeps its distance from them. Equal
    values, as the zeros behind a ReLU, go where the middle of them goes.
    """
    xs, ys = (
        values.sort(0)
        .values[torch.linspace(0, len(values) - 1, _KNOTS).round().long()]
        .T.contiguous()
        for values in (source, target)
    )
    first, last = torch.searchsorted(xs, xs), torch.searchsorted(xs, xs, right=True) - 1
    ys = ys.gather(1, (first + last) // 2)
    width = xs.diff()
    slope = torch.where(width > 0, ys.diff() / width, 0.0)
    one = torch.ones_like(slope[:, :1])
    slope = torch.cat([one, slope, one], 1)

    def mapped(value: Tensor) -> Tensor:
        flat = value.flatten(1).contiguous()
        after = torch.searchsorted(xs, flat, right=True)
        knot = (after - 1).clamp(min=0)
        new = ys.gather(1, knot) + (flat - xs.gather(1, knot)) * slope.gather(1, after)
        return new.view(value.shape)

    return mapped
