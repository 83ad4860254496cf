"""Activation patching: feed one skip the reference's features and measure how much IoU returns.

A path is a tensor that the decoder reads: a skip where it enters its decoder block, the bottleneck
where it leaves the encoder. The encoder runs on the shifted image throughout, so patching a path
restores what flows through that path, and not what other paths compute from the same features.
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
from skipshift.networks.addresses import unwrap
from skipshift.networks.architectures import known_layers
from skipshift.networks.features import Groups, Images, as_input, batches_of
from skipshift.networks.hooks import captured, hooked
from skipshift.networks.inference import fast_copy, labels_of, logits_of, run
from skipshift.networks.layers import layers_of
from skipshift.patching.cached_forward import cached
from skipshift.specs import CarrySpec
from skipshift.statistics.counts import count
from skipshift.statistics.recovery import ALL, NONE, Counts, Rows, rows_of, share_table

Masks = npt.NDArray[np.uint8]
"""(N, H, W) class indices."""

Patch = Callable[[str, Tensor], Tensor]
"""Name of a path and its tensor -> the tensor that the decoder gets instead."""

Labels = npt.NDArray[np.uint8]

_SAMPLE = 2**14
"""Values per channel from which quantiles and means are estimated, spread over all images."""

_KNOTS = 257
"""Quantiles by which a distribution is described."""


def carry(
    net: nn.Module,
    reference: Images,
    shifted: Images,
    masks: Masks | tuple[Masks, Masks],
    groups: Groups | tuple[Groups, Groups] | None = None,
    spec: CarrySpec | None = None,
) -> pd.DataFrame:
    """Measure which path of a network carries the IoU lost under a shift, by activation patching.

    The network segments the shifted images (target domain) while one path is fed the features of
    the reference (source domain). The ``share`` of the path is its recovered fraction: the IoU that
    returns, divided by the IoU lost. Nothing is trained. The method is also known as interchange
    intervention or causal mediation analysis; modes ``zero`` and ``mean`` are ablations. The IoU is
    that of the foreground, pooled over all images (section V), and the mean over several foreground
    classes. Shares of single paths need not add up to one; Shapley values do.

    Parameters
    ----------
    net
        Any network that returns logits (N, classes, H, W), or one channel for two classes. A copy
        optimised for inference runs on the network's device.
    reference, shifted
        Arrays (N, C, H, W), of volumes (N, C, D, H, W), or loaders that can be iterated more than
        once; uint8 is divided by 255, floats are used as they are. In mode ``paired`` the same
        images in the same order.
    masks
        (N, H, W) or (N, D, H, W) uint8 class indices of both sets, or a pair of such arrays, one
        per set.
    groups
        Label of each image's group, or a pair of such sequences, one per set; by default each image
        is a group of its own.

    Returns
    -------
    A table ``path, iou, share, low, high, in_domain, shapley, shapley_low, shapley_high``: a row
    ``none`` for the unpatched shifted images, one row per path, with ``spec.subsets`` one per set
    of paths (``L1+L2``), and a row ``all``.
    Everything computed from a patched tensor sees the patch, other paths too. In mode ``paired``
    the share of ``all`` is 1 if the paths are all that the decoder reads, as they are by default.
    ``share`` is NaN if the shift costs no IoU. ``low`` and ``high`` are its 95 % percentile
    bootstrap interval over groups, NaN also with a single group or if the loss itself is uncertain.
    ``in_domain`` is the IoU of the reference, in modes ``zero`` and ``mean`` with the same paths
    ablated. ``shapley`` is given for single paths if ``spec.subsets``.

    `ArgumentError` names the argument or path that is invalid.
    """
    spec = spec or CarrySpec()
    net = unwrap(net)
    paths = paths_of(net, spec.paths)
    rows = rows_of(tuple(paths), spec.subsets)
    pair = _pair((reference, shifted), masks, groups, spec.mode == "paired")
    # tensors of inference mode do not record whether they were changed in place
    with torch.inference_mode(False), torch.no_grad():
        patcher = _Patcher.of(net, paths, pair[0], spec)
        measure = _paired if spec.mode == "paired" else _unpaired
        counts = measure(patcher, rows, pair)
    return share_table(rows, counts, (pair[0].groups, pair[1].groups), spec)


def paths_of(
    net: nn.Module, paths: Mapping[str, str] | Sequence[str] | None = None
) -> dict[str, str]:
    """Return the addresses of paths by name; by default every skip, L1 first, and the bottleneck.

    A skip is named by its level, the base-2 logarithm of its stride: L1 is the skip at stride 2.
    `ArgumentError` if a path does not exist, or if none are named for an unknown architecture.
    """
    known = {}
    for layer in known_layers(net):
        if layer.kind == "skip":
            known[_level(layer.name)] = layer.address
        elif layer.kind == "bottleneck":
            known["bottleneck"] = layer.address
    known = dict(reversed(known.items()))
    if paths is None:
        if not known:
            raise ArgumentError(
                f"paths must be named for a {type(net).__name__}: give name -> address of each "
                f"tensor that the decoder reads"
            )
        return known
    chosen = dict(layers_of(net, paths)) if isinstance(paths, Mapping) else {}
    for path in () if isinstance(paths, Mapping) else paths:
        try:
            chosen |= {path: known[path]} if path in known else layers_of(net, [path])
        except ArgumentError as error:
            has = f"; its paths are {', '.join(known)}" if known else ""
            raise ArgumentError(f"path {path!r}: {error}{has}") from None
    if not chosen or {NONE, ALL} & set(chosen):
        raise ArgumentError(
            f"paths must name at least one path, and none of them none or all, got {list(chosen)}"
        )
    return chosen


def _level(layer: str) -> str:
    """Level of the skip with a layer's name: ``s8`` is L3."""
    match = re.fullmatch(r"s(\d+)([a-z]?)", layer)
    if match is None or int(match[1]).bit_count() != 1:
        return layer
    return f"L{int(match[1]).bit_length() - 1}{match[2]}"


@dataclass(frozen=True)
class _Dataset:
    """Images with masks and groups."""

    name: str
    images: Images
    masks: Masks
    groups: npt.NDArray[Any]
    """(N,): group labels."""

    def batches(self, size: int) -> Iterator[tuple[Tensor, Masks, npt.NDArray[np.int64]]]:
        """Yield images, masks and indices of their groups, in batches."""
        codes = np.unique(self.groups, return_inverse=True)[1]
        seen = 0
        for images in batches_of(self.images, size, self.name):
            part = slice(seen, seen + len(images))
            seen = part.stop
            sides = tuple(images.shape[2:])
            if self.masks.shape[1:] != sides:
                raise ArgumentError(
                    f"masks of the {self.name} must have the size of its images, {sides}, "
                    f"got {self.masks.shape[1:]}"
                )
            if seen <= len(self.masks):
                yield images, self.masks[part], codes[part]
        if seen != len(self.masks):
            raise ArgumentError(
                f"masks must be one per image: the {self.name} has {seen} images and "
                f"{len(self.masks)} masks"
            )


def _pair(
    images: tuple[Images, Images],
    masks: Masks | tuple[Masks, Masks],
    groups: Groups | tuple[Groups, Groups] | None,
    paired: bool,
) -> tuple[_Dataset, _Dataset]:
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
            f"choose mode quantile, zero or mean for unpaired images"
        )
    return sets[0], sets[1]


def _labelled(name: str, images: Images, masks: Masks, groups: Groups | None) -> _Dataset:
    if iter(images) is images:
        raise ArgumentError(
            f"{name} must be an array or a loader that can be iterated more than once, "
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
    return _Dataset(name, images, masks, labels)


@dataclass(frozen=True)
class _Patcher:
    """A network optimised for inference, with the addresses of its paths."""

    net: nn.Module
    paths: Mapping[str, str]
    spec: CarrySpec
    classes: int

    @classmethod
    def of(
        cls, net: nn.Module, paths: Mapping[str, str], data: _Dataset, spec: CarrySpec
    ) -> "_Patcher":
        """Copy a network and check on one image that it computes its paths and returns logits."""
        images, _, _ = next(data.batches(spec.batch_size))
        example = as_input(images[:1], next(net.parameters())).float()
        fast = fast_copy(net, example, spec.precision)
        with captured(fast, paths, _copied) as features:
            logits = logits_of(run(fast, example.to(next(fast.parameters()).dtype)))
        if missing := [path for path in paths if path not in features]:
            raise ArgumentError(f"path {missing[0]}: its module did not run in the forward pass")
        return cls(fast, paths, spec, max(2, logits.shape[1]))

    def input(self, images: Tensor) -> Tensor:
        """Convert images to the network's device, dtype and range."""
        return as_input(images, next(self.net.parameters()))

    def labels(self, images: Tensor) -> Labels:
        """Segment a batch."""
        return labels_of(logits_of(run(self.net, self.input(images))))

    def patched(
        self, images: Tensor, rows: Iterable[tuple[str, ...]], patch: Patch
    ) -> Iterator[Labels]:
        """Segment a batch once per row, with the paths of that row patched."""
        with cached(self.net, self.paths, self.input(images)) as forward:
            for row in rows:
                with hooked(self.net, {path: self.paths[path] for path in row}, patch):
                    yield labels_of(forward())


def _copied(path: str, value: Any) -> Tensor:
    # the network may overwrite the tensor later
    return _checked(path, value).clone()


def _checked(path: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim < 3:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            f"path {path}: must be a tensor (N, D, h, w), got {got}; for one of several outputs "
            f"add its index, as in encoder[2]"
        )
    return value


def _zeros(patcher: _Patcher, data: _Dataset, rows: int) -> Counts:
    return np.zeros((len(np.unique(data.groups)), rows, patcher.classes, 3), np.int64)


def _add(into: Counts, codes: npt.NDArray[np.int64], labels: Labels, masks: Masks) -> None:
    """Add the confusion counts of a batch to those of its groups, (groups, classes, 3)."""
    # a volume is counted as one wide image
    flat = [array.reshape(len(array), array.shape[1], -1) for array in (masks, labels)]
    np.add.at(into, codes, count(flat[0], flat[1], into.shape[1]))


def _paired(
    patcher: _Patcher, rows: Rows, pair: tuple[_Dataset, _Dataset]
) -> tuple[Counts, Counts]:
    """Count the unpatched reference, in one row, and the shifted images in every row."""
    source, target = (_zeros(patcher, d, n) for d, n in zip(pair, (1, len(rows)), strict=True))
    batches = [data.batches(patcher.spec.batch_size) for data in pair]
    for (images, masks, codes), (shifted, shifted_masks, shifted_codes) in zip(
        *batches, strict=True
    ):
        if images.shape != shifted.shape:
            raise ArgumentError(
                f"mode paired needs images of one shape in both sets, got {tuple(images.shape)} "
                f"and {tuple(shifted.shape)}"
            )
        with captured(patcher.net, patcher.paths, _copied) as features:
            _add(source[:, 0], codes, patcher.labels(images), masks)

        def patch(path: str, _: Tensor, features: Mapping[str, Tensor] = features) -> Tensor:
            return features[path].clone()

        for row, labels in enumerate(patcher.patched(shifted, rows.values(), patch)):
            _add(target[:, row], shifted_codes, labels, shifted_masks)
    return source, target


def _unpaired(
    patcher: _Patcher, rows: Rows, pair: tuple[_Dataset, _Dataset]
) -> tuple[Counts, Counts]:
    """Count both sets in every row; the reference unpatched only in mode quantile."""
    patch = _patch_of(patcher, pair)
    # mapping the reference to its own quantiles would leave it as it is
    source_rows = {NONE: rows[NONE]} if patcher.spec.mode == "quantile" else rows
    return _tally(patcher, source_rows, pair[0], patch), _tally(patcher, rows, pair[1], patch)


def _patch_of(patcher: _Patcher, pair: tuple[_Dataset, _Dataset]) -> Patch:
    if patcher.spec.mode == "zero":
        return lambda _, value: torch.zeros_like(value)
    source = _sample(patcher, pair[0])
    if patcher.spec.mode == "mean":
        means = {path: values.mean(0) for path, values in source.items()}

        def ablate(path: str, value: Tensor) -> Tensor:
            mean = means[path].to(value).view(-1, *[1] * (value.ndim - 2))
            return torch.zeros_like(value) + mean

        return ablate
    target = _sample(patcher, pair[1])
    maps = {path: _quantile_map(target[path], source[path]) for path in patcher.paths}
    # one image at a time: indices of quantiles take eight bytes per value
    return lambda path, value: torch.stack([maps[path](one.float()) for one in value]).to(value)


def _tally(patcher: _Patcher, rows: Rows, data: _Dataset, patch: Patch) -> Counts:
    counts = _zeros(patcher, data, len(rows))
    for images, masks, codes in data.batches(patcher.spec.batch_size):
        for row, labels in enumerate(patcher.patched(images, rows.values(), patch)):
            _add(counts[:, row], codes, labels, masks)
    return counts


def _sample(patcher: _Patcher, data: _Dataset) -> dict[str, Tensor]:
    """Sample each path at random positions of every image: path -> (M, D) float32."""
    rng = torch.Generator().manual_seed(patcher.spec.seed)
    each = max(1, _SAMPLE // len(data.masks))

    def pick(path: str, value: Any) -> Tensor:
        flat = _checked(path, value).flatten(2)
        at = torch.randperm(flat.shape[2], generator=rng)[:each]
        return flat[..., at.to(flat.device)].float().movedim(1, 2).flatten(0, 1)

    parts: dict[str, list[Tensor]] = {path: [] for path in patcher.paths}
    for images, _, _ in data.batches(patcher.spec.batch_size):
        with captured(patcher.net, patcher.paths, pick) as picked:
            patcher.labels(images)
        for path, values in picked.items():
            parts[path].append(values)
    return {path: torch.cat(values) for path, values in parts.items()}


def _quantile_map(observed: Tensor, desired: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a quantile mapping of (D, ...), channel by channel: from (M, D) to (M', D) values.

    Linear between quantiles; a value beyond the outermost quantile keeps its distance from it. Tied
    values, such as the zeros after a ReLU, map to the image of the middle one.
    """
    xs, ys = (
        values.sort(0)
        .values[torch.linspace(0, len(values) - 1, _KNOTS).round().long()]
        .T.contiguous()
        for values in (observed, desired)
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
