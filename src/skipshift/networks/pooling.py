"""What is kept of a layer's map: each cell's mean, one random position of it, or all positions."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Pooling = Callable[[Tensor, Sequence[int], np.random.Generator], Tensor]
"""(N, D, *sides), cells along each side, generator -> (N, D, *kept)."""


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
    # one float for each choice, so that the choices do not depend on the size of a batch
    chance = rng.random((images, *cells, len(sides)))
    place = []
    for axis, (side, count) in enumerate(zip(sides, cells, strict=True)):
        start = np.arange(count) * side // count
        width = -(-np.arange(1, count + 1) * side // count) - start
        along = [1] * (1 + len(cells))
        along[axis + 1] = count
        chosen = start.reshape(along) + (chance[..., axis] * width.reshape(along)).astype(np.int64)
        place.append(torch.from_numpy(chosen).to(maps.device))
    number = torch.arange(images, device=maps.device).reshape(-1, *[1] * len(cells))
    return maps.movedim(1, -1)[(number, *place)].movedim(-1, 1)


def _none(maps: Tensor, _cells: Sequence[int], _rng: np.random.Generator) -> Tensor:
    return maps.clone()


POOLINGS: Mapping[str, Pooling] = {"average": _average, "sample": _sample, "none": _none}
"""Ways to pool the cells of a map. All copy, since the network may go on to overwrite its maps."""


def vectors(pooled: Tensor) -> Tensor:
    """(N, D, *kept) as (N, K, D) float32."""
    return pooled.float().movedim(1, -1).flatten(1, -2)
