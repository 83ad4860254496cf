import numpy as np
import pytest
import torch
from torch.nn import functional

from skipshift.networks.pooling import POOLINGS, vectors


def seeded():
    return np.random.default_rng(3)


@pytest.mark.parametrize(
    ("shape", "cells"), [((8, 12), (4, 3)), ((7, 9), (3, 2)), ((4, 4), (4, 4))]
)
def test_average_is_the_adaptive_average(shape, cells):
    maps = torch.rand(2, 3, *shape)
    expected = functional.adaptive_avg_pool2d(maps, cells)
    assert torch.allclose(POOLINGS["average"](maps, cells, seeded()), expected)


@pytest.mark.parametrize(("shape", "cells"), [((8, 12), (4, 3)), ((7, 9), (3, 2)), ((5,), (2,))])
def test_sample_takes_every_position_of_a_cell_and_no_other(shape, cells):
    maps = torch.arange(np.prod(shape)).reshape(1, 1, *shape).expand(500, 2, *shape)
    taken = POOLINGS["sample"](maps, cells, seeded())
    assert torch.equal(taken[:, 0], taken[:, 1])  # all channels at one position
    for corner in (0, -1):
        own = [slice(0, -(-s // c)) if corner == 0 else slice((c - 1) * s // c, s)
               for s, c in zip(shape, cells, strict=True)]  # fmt: skip
        place = (slice(None), 0, *(corner,) * len(cells))
        assert set(taken[place].tolist()) == set(maps[(0, 0, *own)].ravel().tolist())


def test_sample_does_not_depend_on_the_size_of_a_batch():
    maps, rng = torch.rand(6, 2, 8, 8), seeded()
    whole = POOLINGS["sample"](maps, (2, 2), seeded())
    parts = [POOLINGS["sample"](part, (2, 2), rng) for part in maps.split([1, 3, 2])]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("name", POOLINGS)
def test_a_constant_map_stays_constant_in_two_and_three_dimensions(name):
    for shape, cells in (((8, 8), (2, 4)), ((4, 8, 8), (2, 2, 4))):
        pooled = POOLINGS[name](torch.full((2, 3, *shape), 0.5), cells, seeded())
        kept = shape if name == "none" else cells
        assert pooled.shape == (2, 3, *kept)
        assert vectors(pooled).shape == (2, np.prod(kept), 3)
        assert (pooled == 0.5).all()


@pytest.mark.parametrize("name", POOLINGS)
def test_what_is_pooled_is_a_copy(name):
    maps = torch.ones(1, 1, 2, 2)
    pooled = POOLINGS[name](maps, (2, 2), seeded())
    maps.zero_()
    assert (pooled == 1).all()
