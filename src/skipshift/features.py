"""Features of any network's layers: taps by name, pooled as the paper does, one pass over a set."""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional

from skipshift.models import Unet, unet_taps
from skipshift.names import STRIDE

Features = dict[str, npt.NDArray[np.float32]]
"""Layer name -> (N, K, D): K positions and D channels of each of N images."""

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


def collect(net: nn.Module, batches: Iterable[Tensor], layers: Layers | None = None) -> Features:
    """Run a network once over a set and keep its pooled features.

    The maps of a layer are average-pooled to (H / 32) x (W / 32) positions (section IV-B); a map
    that is smaller stays as it is. No map outlives its batch. The network is put into evaluation
    mode for the pass and back.

    Parameters
    ----------
    batches
        (N, C, H, W) tensors, uint8 (then divided by 255) or float, all of one size.

    Returns
    -------
    Layer name -> (N, K, D) float32. `ValueError` names a layer with NaN or infinity.
    """
    taps = taps_of(net, layers)
    pooled: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in taps}
    place = next(net.parameters(), torch.empty(0))
    mode = net.training
    net.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                images = as_input(batch, place)
                height, width = images.shape[-2:]
                grid = (max(1, height // STRIDE), max(1, width // STRIDE))
                with tapped(net, taps, partial(_pool, grid=grid)) as cells:
                    net(images)
                for name in taps:
                    pooled[name].append(_ran(name, cells))
    finally:
        net.train(mode)
    if not all(pooled.values()):
        raise ValueError("a set of images must hold at least one image")
    return {name: _join(name, parts) for name, parts in pooled.items()}


@contextlib.contextmanager
def tapped(
    net: nn.Module, taps: Mapping[str, str], reduce: Callable[[str, Any], Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that forward passes fill: layer name -> ``reduce(name, output at its tap)``.

    The output is reduced as soon as it is there, before a later in-place operation can change it.
    """
    kept: dict[str, Tensor] = {}

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


def _pool(name: str, output: Any, grid: tuple[int, int]) -> Tensor:
    """(N, D, h, w) averaged over a grid of cells, (N, D, h', w') with h' <= h."""
    if not isinstance(output, Tensor) or output.ndim != 4:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"layer {name}: its output must be a tensor (N, D, h, w), got {shape}; "
            f"for one of several outputs add its index, as in {name}[0]"
        )
    height, width = output.shape[-2:]
    rows, columns = min(grid[0], height), min(grid[1], width)
    if height % rows or width % columns:
        return functional.adaptive_avg_pool2d(output, (rows, columns))
    kernel = (height // rows, width // columns)
    # a map that needs no pooling is copied, since the network may go on to overwrite it
    return output.clone() if kernel == (1, 1) else functional.avg_pool2d(output, kernel)


def _ran(name: str, cells: dict[str, Tensor]) -> npt.NDArray[np.float32]:
    """(N, D, h, w) as (N, K, D) float32 on the CPU."""
    if name not in cells:
        raise ValueError(f"layer {name}: its module did not run in the forward pass")
    return cells.pop(name).float().permute(0, 2, 3, 1).flatten(1, 2).cpu().contiguous().numpy()


def _join(name: str, parts: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = sorted({part.shape[1:] for part in parts})
        raise ValueError(f"layer {name}: images of one set must have one size, got {shapes}")
    features = np.concatenate(parts)
    if not np.isfinite(features).all():
        raise ValueError(f"layer {name}: features hold NaN or infinity; check weights and inputs")
    return features
