"""What a path is fed instead of its own tensor: quantile-mapped, zero or mean features."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Patch = Callable[[str, Tensor], Tensor]
"""Name of a path and its tensor -> the tensor that the decoder gets instead."""

Samples = Mapping[str, Tensor]
"""Path -> (M, D) float32 values at random positions of every image of a set."""

_KNOTS = 257
"""Quantiles by which a distribution is described."""


def zeros(_path: str, value: Tensor) -> Tensor:
    """Feed zeros."""
    return torch.zeros_like(value)


def means(source: Samples) -> Patch:
    """Feed each channel's mean over the reference."""
    known = {path: values.mean(0) for path, values in source.items()}

    def ablate(path: str, value: Tensor) -> Tensor:
        mean = known[path].to(value).view(-1, *[1] * (value.ndim - 2))
        return torch.zeros_like(value) + mean

    return ablate


def quantiles(target: Samples, source: Samples) -> Patch:
    """Feed the path's own features, mapped from the distribution of the target to the source's."""
    maps = {path: quantile_map(target[path], source[path]) for path in source}
    # one image at a time: indices of quantiles take eight bytes per value
    return lambda path, value: torch.stack([maps[path](one.float()) for one in value]).to(value)


def picked(value: Tensor, each: int, rng: torch.Generator) -> Tensor:
    """Pick random positions of a map: (N, D, ...) -> (N * each, D) float32."""
    flat = value.flatten(2)
    at = torch.randperm(flat.shape[2], generator=rng)[:each]
    return flat[..., at.to(flat.device)].float().movedim(1, 2).flatten(0, 1)


def quantile_map(observed: Tensor, desired: Tensor) -> Callable[[Tensor], Tensor]:
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
