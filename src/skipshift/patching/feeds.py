"""What a path is fed instead of its own tensor: quantile-mapped, zero or mean features."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from skipshift.networks.quantile_map import QuantileMap

Patch = Callable[[str, Tensor], Tensor]
"""Name of a path and its tensor -> the tensor that the decoder gets instead."""

Samples = Mapping[str, Tensor]
"""Path -> (M, D) float32 values at random positions of every image of a set."""


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
    maps = {path: QuantileMap.between(target[path], source[path]) for path in source}
    return lambda path, value: maps[path](value)


def picked(value: Tensor, each: int, rng: torch.Generator) -> Tensor:
    """Pick random positions of a map: (N, D, ...) -> (N * each, D) float32."""
    flat = value.flatten(2)
    at = torch.randperm(flat.shape[2], generator=rng)[:each]
    return flat[..., at.to(flat.device)].float().movedim(1, 2).flatten(0, 1)
