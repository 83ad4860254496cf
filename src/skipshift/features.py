"""Features of any network's layers: taps by name, pooled, one pass over a set."""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from skipshift.models import STRIDE, Unet, unet_taps
from skipshift.pooling import POOLINGS, vectors
from skipshift.scratch import Scratch

T = TypeVar("T")

Features = dict[str, list[npt.NDArray[np.float32]]]
"""Layer name -> blocks (n, K, D): K positions and D channels of each of n images, in order."""

Layers = Sequence[str] | Mapping[str, str]
"""Addresses of modules, ``encoder.layer1``, or of one of a module's outputs, ``encoder[2]``;
as a mapping, name -> address."""


def taps_of(net: nn.Module, layers: Layers | None = None) -> dict[str, str]:
    """Addresses of the layers by name, in depth order.

    With no ``layers``, those of a `Unet` or a ``segmentation_models_pytorch.Unet``; any other
    network needs names. `ValueError` names the first address that the network has not.
    """
    if layers is None:
        if isinstance(net, Unet):
            return net.taps()
        if isinstance(net, smp.Unet) and len(net.decoder.blocks) == 5:
            return unet_taps(net.encoder.out_channels)
        some = ", ".join(name for name, _ in list(net.named_modules())[1:6])
        raise ValueError(
            f"layers must be named for a {type(net).__name__}; its modules begin with {some}"
        )
    taps = dict(layers) if isinstance(layers, Mapping) else {name: name for name in layers}
    if not taps:
        raise ValueError("layers must name at least one module")
    for address in taps.values():
        _module(net, address)
    return taps


def collect(
    net: nn.Module,
    batches: Iterable[Tensor],
    layers: Layers | None = None,
    pooling: Sequence[str] = ("average",),
    seed: int = 0,
    scratch: Scratch | None = None,
) -> dict[str, Features]:
    """Run a network once over a set and keep its pooled features.

    The maps of a layer have (H / 32) x (W / 32) cells (section IV-B), fewer where the map itself is
    smaller. No map outlives its batch. The network is put into evaluation mode for the pass and
    back.

    Parameters
    ----------
    batches
        (N, C, H, W) tensors, uint8 (then divided by 255) or float, all of one size.
    pooling
        What to keep of each cell, some of `skipshift.pooling.POOLINGS`.
    seed
        Seed of the random positions of ``sample``: image i gives those of (seed, layer, i).
    scratch
        Holds the features while they grow; in memory without it.

    Returns
    -------
    Pooling -> layer name -> blocks (n, K, D) float32, N images in all. `ValueError` names a layer
    with NaN or infinity.
    """
    taps = taps_of(net, layers)
    held = Scratch(float("inf")) if scratch is None else scratch
    shapes: dict[tuple[str, str], set[tuple[int, ...]]] = {
        (kind, name): set() for name in taps for kind in pooling
    }
    rngs = {name: np.random.default_rng((seed, depth)) for depth, name in enumerate(taps)}
    mode = net.training
    net.eval()
    try:
        for kept in _passes(net, batches, taps, partial(_pool, pooling, rngs)):
            for name in taps:
                for kind, part in zip(pooling, _ran(name, kept), strict=True):
                    shapes[kind, name].add(part.shape[1:])
                    held.add((kind, name), part)
    finally:
        net.train(mode)
    _check_shapes(shapes)
    return {kind: {name: held.take((kind, name)) for name in taps} for kind in pooling}


def _passes(
    net: nn.Module,
    batches: Iterable[Tensor],
    taps: Mapping[str, str],
    pool: Callable[[tuple[int, ...], str, Any], list[Tensor]],
) -> Iterator[dict[str, list[Tensor]]]:
    """Run a network over the batches of a set and give what the taps kept of each."""
    place = next(net.parameters(), torch.empty(0))
    for batch in batches:
        with torch.inference_mode():
            images = as_input(batch, place)
            cells = tuple(max(1, side // STRIDE) for side in images.shape[2:])
            with tapped(net, taps, partial(pool, cells)) as kept:
                net(images)
        yield kept


@contextlib.contextmanager
def tapped(
    net: nn.Module, taps: Mapping[str, str], reduce: Callable[[str, Any], T]
) -> Iterator[dict[str, T]]:
    """Yield a dict that forward passes fill: layer name -> ``reduce(name, output at its tap)``.

    The output is reduced as soon as it is there, before a later in-place operation can change it.
    """
    kept: dict[str, T] = {}

    def hook_for(name: str, index: int | None) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            kept[name] = reduce(name, output if index is None else output[index])

        return hook

    with contextlib.ExitStack() as hooks:
        for name, address in taps.items():
            _, index = _parse(address)
            handle = _module(net, address).register_forward_hook(hook_for(name, index))
            hooks.callback(handle.remove)
        yield kept


def as_input(batch: Tensor, like: Tensor) -> Tensor:
    """Move a batch to where ``like`` is, channels last, uint8 as x / 255 in its dtype."""
    images = torch.as_tensor(batch).to(like.device, non_blocking=True)
    scale = 255 if images.dtype == torch.uint8 else 1
    images = images.to(like.dtype).contiguous(memory_format=torch.channels_last)
    return images.div_(255) if scale == 255 else images


def _parse(address: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(.*?)(?:\[(\d+)\])?", address)
    assert match is not None
    return match[1], None if match[2] is None else int(match[2])


def _module(net: nn.Module, address: str) -> nn.Module:
    path, _ = _parse(address)
    try:
        return net.get_submodule(path)
    except AttributeError:
        known = [name for name, _ in net.named_modules() if name]
        near = [n for n in known if path and n.split(".")[-1] == path.split(".")[-1]] or known
        raise ValueError(
            f"layer {address!r} is not in the network; it has e.g. {', '.join(near[:4])}"
        ) from None


def _pool(
    pooling: Sequence[str],
    rngs: Mapping[str, np.random.Generator],
    cells: tuple[int, ...],
    name: str,
    output: Any,
) -> list[Tensor]:
    """Pool a map (N, D, *sides) in each of several ways: (N, D, *kept)."""
    if not isinstance(output, Tensor) or output.ndim != len(cells) + 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"layer {name}: its output must be a tensor (N, D, h, w), got {shape}; "
            f"for one of several outputs add its index, as in {name}[0]"
        )
    fitting = [min(pair) for pair in zip(cells, output.shape[2:], strict=True)]
    return [POOLINGS[kind](output, fitting, rngs[name]) for kind in pooling]


def _ran(name: str, kept: dict[str, list[Tensor]]) -> Iterator[npt.NDArray[np.float32]]:
    """Give each pooled map of a layer as (N, K, D) on the CPU, once it is found to be finite."""
    if name not in kept:
        raise ValueError(f"layer {name}: its module did not run in the forward pass")
    for pooled in kept.pop(name):
        part = vectors(pooled).cpu().contiguous().numpy()
        if not np.isfinite(part).all():
            raise ValueError(
                f"layer {name}: features hold NaN or infinity; check weights and inputs"
            )
        yield part


def _check_shapes(shapes: Mapping[tuple[str, str], set[tuple[int, ...]]]) -> None:
    for (_, name), found in shapes.items():
        if not found:
            raise ValueError("a set of images must hold at least one image")
        if len(found) > 1:
            raise ValueError(
                f"layer {name}: images of one set must have one size, got {sorted(found)}"
            )
