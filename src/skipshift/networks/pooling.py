"""Pooling of feature maps: the mean of each cell, one random position of it, or all positions."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from skipshift.names import STRIDE

Pooling = Callable[[Tensor, Sequence[int], np.random.Generator], Tensor]
"""Feature map (N, D, *sides), number of cells along each side, generator -> (N, D, *kept)."""


def _average(maps: Tensor, cells: Sequence[int], _rng: np.random.Generator) -> Tensor:
    sides = maps.shape[2:]
    pool: Callable[..., Tensor]
    if any(side % count for side, count in zip(sides, cells, strict=True)):
        pool = getattr(functional, f"adaptive_avg_pool{len(sides)}d")
        return pool(maps, tuple(cells))
    kernel = tuple(side // count for side, count in zip(sides, cells, strict=True))
    pool = getattr(functional, f"avg_pool{len(sides)}d")
    return pool(maps, kernel) if max(kernel) > 1 else maps.clone()


def _sample(maps: Tensor, cells: Sequence[int], rng: np.random.Generator) -> Tensor:
    sides, images = maps.shape[2:], len(maps)
    # one float per choice, so that the choices do not depend on the batch size
    uniform = rng.random((images, *cells, len(sides)))
    positions = []
    for axis, (side, count) in enumerate(zip(sides, cells, strict=True)):
        start = np.arange(count) * side // count
        width = -(-np.arange(1, count + 1) * side // count) - start
        along = [1] * (1 + len(cells))
        along[axis + 1] = count
        chosen = start.reshape(along) + (uniform[..., axis] * width.reshape(along)).astype(np.int64)
        positions.append(torch.from_numpy(chosen).to(maps.device))
    index = torch.arange(images, device=maps.device).reshape(-1, *[1] * len(cells))
    return maps.movedim(1, -1)[(index, *positions)].movedim(-1, 1)


def _none(maps: Tensor, _cells: Sequence[int], _rng: np.random.Generator) -> Tensor:
    return maps.clone()


POOLINGS: Mapping[str, Pooling] = {"average": _average, "sample": _sample, "none": _none}
"""Poolings by name. All of them copy, since a network may overwrite its feature maps."""


def cells_of(images: Tensor, grid: int | None = None) -> list[int]:
    """Cells along each side of images (N, C, *sides): ``grid``, or one for each 32 pixels."""
    return [grid or max(1, side // STRIDE) for side in images.shape[2:]]


def pooled(maps: Tensor, cells: Sequence[int], kind: str, rng: np.random.Generator) -> Tensor:
    """Pool feature maps (N, D, *sides) to cells, fewer where the map is smaller: (N, D, *kept)."""
    return POOLINGS[kind](maps, list(map(min, cells, maps.shape[2:])), rng)


def vectors(pooled: Tensor) -> Tensor:
    """Reshape pooled features (N, D, *kept) to (N, K, D) float32."""
    return pooled.float().movedim(1, -1).flatten(1, -2)
