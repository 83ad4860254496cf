"""Pooled features of a network's layers, collected in one pass over a set of images."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.networks.addresses import unwrap
from skipshift.networks.as_found import evaluating
from skipshift.networks.feature_store import FeatureStore
from skipshift.networks.hooks import captured
from skipshift.networks.inference import run
from skipshift.networks.layers import Layers, layers_of
from skipshift.networks.pooling import cells_of, pooled, vectors

Images = npt.NDArray[Any] | Tensor | Iterable[Any]
"""(N, C, H, W) uint8 or float, or a loader of such batches (or of tuples that start with one)."""

Groups = Sequence[str] | npt.NDArray[Any]
"""Label of each image's group, such as a patient; images of one group are never split."""

Features = dict[str, list[npt.NDArray[np.float32]]]
"""Layer name -> blocks (n, K, D): n images in order, K positions, D channels."""


def collect(
    net: nn.Module,
    batches: Iterable[Tensor],
    layers: Layers | None = None,
    pooling: Sequence[str] = ("average",),
    seed: int = 0,
    store: FeatureStore | None = None,
    grid: int | None = None,
) -> dict[str, Features]:
    """Run a network once over a set of images and collect its pooled features.

    Feature maps are pooled to (H / 32) x (W / 32) cells (section IV-B), those of volumes likewise
    along all three axes, and to fewer where the map itself is smaller. Only pooled features outlive
    their batch. The network runs in evaluation mode and is left as it was found.

    Parameters
    ----------
    batches
        (N, C, H, W) tensors, or (N, C, D, H, W) of volumes, all of one size: uint8, which is
        divided by 255, or float.
    pooling
        What to keep of each cell: names in `skipshift.networks.pooling.POOLINGS`.
    seed
        Seed of the random positions of ``sample``, which depend on seed, layer and image index.
    store
        Where to accumulate the features; in memory by default.
    grid
        Cells along each side, in place of a 32nd of it.

    Returns
    -------
    Pooling -> layer name -> blocks (n, K, D) float32, N images in total.

    `ArgumentError` if the set is empty or its images differ in size, or names a layer whose
    features hold NaN or infinity, are not feature maps, or were not computed.
    """
    net = unwrap(net)
    features = FeatureStore(float("inf")) if store is None else store
    shapes: dict[tuple[str, str], set[tuple[int, ...]]] = defaultdict(set)
    names: Sequence[str] = ()
    with evaluating(net):
        for kept in _passes(net, batches, layers, pooling, seed, grid):
            names = list(kept)
            for name in names:
                for kind, part in zip(pooling, _on_cpu(name, kept.pop(name)), strict=True):
                    shapes[kind, name].add(part.shape[1:])
                    features.add((kind, name), part)
    if not names:
        raise ArgumentError("a set of images must hold at least one image")
    _check_shapes(shapes)
    return {kind: {name: features.take((kind, name)) for name in names} for kind in pooling}


def _passes(
    net: nn.Module,
    batches: Iterable[Tensor],
    layers: Layers | None,
    pooling: Sequence[str],
    seed: int,
    grid: int | None,
) -> Iterator[dict[str, list[Tensor]]]:
    """Run a network over the batches of a set; yields the pooled features of each layer."""
    like = input_like(net)
    addresses: dict[str, str] = {}
    for batch in batches:
        with torch.inference_mode():
            images = as_input(batch, like)
            if not addresses:
                addresses = layers_of(net, layers, images[:1])
                rngs = {n: np.random.default_rng((seed, i)) for i, n in enumerate(addresses)}
            cells = cells_of(images, grid)
            with captured(net, addresses, partial(_pool, pooling, rngs, cells)) as kept:
                run(net, images)
        if missing := [name for name in addresses if name not in kept]:
            raise ArgumentError(f"layer {missing[0]}: its module did not run in the forward pass")
        yield {name: kept[name] for name in addresses}


def input_like(net: nn.Module) -> Tensor:
    """Return a tensor of the type and device that a network's input must have."""
    tensors = (t for t in (*net.parameters(), *net.buffers()) if t.is_floating_point())
    return next(tensors, torch.empty(0))


def as_input(batch: Tensor, like: Tensor) -> Tensor:
    """Convert a batch to the device and dtype of ``like``, channels last; uint8 becomes x / 255."""
    images = torch.as_tensor(batch).to(like.device, non_blocking=True)
    scale = 255 if images.dtype == torch.uint8 else 1
    volumes = images.ndim == 5
    layout = torch.channels_last_3d if volumes else torch.channels_last
    images = images.to(like.dtype).contiguous(memory_format=layout)
    return images.div_(255) if scale == 255 else images


def _pool(
    pooling: Sequence[str],
    rngs: Mapping[str, np.random.Generator],
    cells: Sequence[int],
    name: str,
    output: Any,
) -> list[Tensor]:
    """Pool a feature map (N, D, *sides) in each of several ways: (N, D, *kept)."""
    if not isinstance(output, Tensor) or output.ndim != len(cells) + 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ArgumentError(
            f"layer {name}: its output must be a tensor (N, D, {', '.join('hwd'[: len(cells)])}), "
            f"got {shape}; for one of several outputs add its index, as in {name}[0]"
        )
    if output.shape[1] == 0:
        raise ArgumentError(f"layer {name}: has no channels; leave it out")
    return [pooled(output, cells, kind, rngs[name]) for kind in pooling]


def _on_cpu(name: str, kept: list[Tensor]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield each pooled map of a layer as (N, K, D), after checking that it is finite."""
    for one in kept:
        part = vectors(one).cpu().contiguous().numpy()
        if not np.isfinite(part).all():
            raise ArgumentError(
                f"layer {name}: features hold NaN or infinity; check weights and inputs"
            )
        yield part


def _check_shapes(shapes: Mapping[tuple[str, str], set[tuple[int, ...]]]) -> None:
    for (_, name), sizes in shapes.items():
        if len(sizes) > 1:
            raise ArgumentError(
                f"layer {name}: images of one set must have one size, got {sorted(sizes)}"
            )


def batches_of(images: Images, size: int, name: str) -> Iterator[Tensor]:
    """Yield batches of an array or of a loader; `ArgumentError` if an array has no images."""
    if isinstance(images, np.ndarray | Tensor):
        if images.ndim not in (4, 5) or len(images) == 0:
            raise ArgumentError(
                f"{name} must be (N, C, H, W) with N >= 1, got {tuple(images.shape)}"
            )
        array, starts = images, range(0, len(images), size)
        images = (array[start : start + size] for start in starts)
    for batch in images:
        yield torch.as_tensor(batch[0] if isinstance(batch, list | tuple) else batch)


def groups_of(features: Features, groups: Groups | None, name: str) -> npt.NDArray[Any]:
    """Group labels (N,) of a set; without ``groups`` each image is a group of its own.

    `ArgumentError` unless there is one label per image.
    """
    images = sum(map(len, next(iter(features.values()))))
    # without labels the images of two sets are unpaired, so no label may occur in both
    unique = [f"{name} {index}" for index in range(images)]
    labels = np.asarray(unique if groups is None else groups)
    if labels.shape != (images,):
        raise ArgumentError(f"groups of the {name} must be one label per image, {images}")
    return labels
