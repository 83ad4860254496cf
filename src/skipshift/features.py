"""Features of any network's layers: taps by name, pooled as the paper does, one pass over a set."""

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from skipshift.inference import run
from skipshift.layers import Address, Layers, module_of, parse, taps_of, unwrap
from skipshift.models import STRIDE

Features = dict[str, npt.NDArray[np.float32]]
"""Layer name -> (N, K, D): K positions and D channels of each of N images."""


def collect(net: nn.Module, batches: Iterable[Tensor], layers: Layers | None = None) -> Features:
    """Run a network once over a set and keep its pooled features.

    The maps of a layer are average-pooled to (H / 32) x (W / 32) positions (section IV-B), those of
    volumes likewise along each of three axes; a side that is smaller stays as it is. No map
    outlives its batch. The network is put into evaluation mode for the pass and back.

    Parameters
    ----------
    batches
        (N, C, H, W) or, of volumes, (N, C, D, H, W) tensors, uint8 (then divided by 255) or float,
        all of one size.

    Returns
    -------
    Layer name -> (N, K, D) float32. `ValueError` names a layer with NaN or infinity.
    """
    net = unwrap(net)
    pooled: dict[str, list[npt.NDArray[np.float32]]] = {}
    taps: dict[str, str] = {}
    place = next(net.parameters(), torch.empty(0))
    mode = net.training
    net.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                images = as_input(batch, place)
                taps = taps or taps_of(net, layers, images[:1])
                grid = tuple(max(1, side // STRIDE) for side in images.shape[2:])
                with tapped(net, taps, partial(_pool, grid=grid)) as cells:
                    run(net, images)
                for name in taps:
                    pooled.setdefault(name, []).append(_ran(name, cells))
    finally:
        net.train(mode)
    if not pooled:
        raise ValueError("a set of images must hold at least one image")
    return {name: _join(name, parts) for name, parts in pooled.items()}


@contextlib.contextmanager
def tapped(
    net: nn.Module, taps: Mapping[str, str], reduce: Callable[[str, Any], Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that forward passes fill: layer name -> ``reduce(name, tensor at its address)``.

    The tensor is reduced as soon as it is there, before a later in-place operation can change it.
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str, value: Any) -> None:
        kept[name] = reduce(name, value)

    with visited(net, taps, keep):
        yield kept


@contextlib.contextmanager
def visited(
    net: nn.Module, taps: Mapping[str, str], visit: Callable[[str, Any], Tensor | None]
) -> Iterator[None]:
    """Call ``visit(name, tensor at its address)`` in forward passes; what it returns goes on.

    None leaves the tensor as it is. `ValueError` if a module runs more than once in a forward pass
    and the address does not say which run is meant.
    """
    net = unwrap(net)
    calls: Counter[str] = Counter()

    def hook_for(name: str, address: Address) -> Callable[..., Any]:
        def hook(module: nn.Module, inputs: Any, named: Any, output: Any = None) -> Any:
            calls[name] += 1
            if address.call is None and calls[name] > 1:
                raise ValueError(
                    f"layer {name}: its module runs more than once in a forward pass; "
                    f"say which run is meant, {address.path}@1 or {address.path}@2"
                )
            if address.call not in (None, calls[name]):
                return None
            if address.argument is None:
                new = visit(name, address.pick(output))
                return None if new is None else address.put(output, new)
            bound = inspect.signature(module.forward).bind(*inputs, **named)
            value = bound.arguments.get(address.argument)
            new = visit(name, address.pick(value))
            if new is None:
                return None
            bound.arguments[address.argument] = address.put(value, new)
            return bound.args, bound.kwargs

        return hook

    with contextlib.ExitStack() as hooks:
        hooks.callback(net.register_forward_pre_hook(lambda *_: calls.clear()).remove)
        for name, text in taps.items():
            address, module = parse(text), module_of(net, text)
            hook = hook_for(name, address)
            if address.argument is None:
                handle = module.register_forward_hook(hook, with_kwargs=True)
            else:
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            hooks.callback(handle.remove)
        yield


def as_input(batch: Tensor, like: Tensor) -> Tensor:
    """Move a batch to where ``like`` is, channels last, uint8 as x / 255 in its dtype."""
    images = torch.as_tensor(batch).to(like.device, non_blocking=True)
    scale = 255 if images.dtype == torch.uint8 else 1
    volumes = images.ndim == 5
    layout = torch.channels_last_3d if volumes else torch.channels_last
    images = images.to(like.dtype).contiguous(memory_format=layout)
    return images.div_(255) if scale == 255 else images


def _pool(name: str, output: Any, grid: tuple[int, ...]) -> Tensor:
    """(N, D, h, w) averaged over a grid of cells, (N, D, h', w') with h' <= h; volumes likewise."""
    if not isinstance(output, Tensor) or output.ndim != len(grid) + 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"layer {name}: its output must be a tensor (N, D, {', '.join('hwd'[: len(grid)])}), "
            f"got {shape}; for one of several outputs add its index, as in {name}[0]"
        )
    if output.shape[1] == 0:
        raise ValueError(f"layer {name}: has no channels; leave it out")
    sides = output.shape[2:]
    cells = tuple(map(min, grid, sides))
    volume = len(grid) == 3
    if any(side % n for side, n in zip(sides, cells, strict=True)):
        adaptive: Any = functional.adaptive_avg_pool3d if volume else functional.adaptive_avg_pool2d
        return adaptive(output, cells)  # type: ignore[no-any-return]
    kernel = tuple(side // n for side, n in zip(sides, cells, strict=True))
    # a map that needs no pooling is copied, since the network may go on to overwrite it
    if set(kernel) == {1}:
        return output.clone()
    return (functional.avg_pool3d if volume else functional.avg_pool2d)(output, kernel)


def _ran(name: str, cells: dict[str, Tensor]) -> npt.NDArray[np.float32]:
    """(N, D, h, w) or (N, D, h, w, d) as (N, K, D) float32 on the CPU."""
    if name not in cells:
        raise ValueError(f"layer {name}: its module did not run in the forward pass")
    return cells.pop(name).float().movedim(1, -1).flatten(1, -2).cpu().contiguous().numpy()


def _join(name: str, parts: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = sorted({part.shape[1:] for part in parts})
        raise ValueError(f"layer {name}: images of one set must have one size, got {shapes}")
    features = np.concatenate(parts)
    if not np.isfinite(features).all():
        raise ValueError(f"layer {name}: features hold NaN or infinity; check weights and inputs")
    return features
