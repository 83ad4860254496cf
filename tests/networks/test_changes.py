from itertools import permutations, product

import pytest
import torch
from torch import nn

from skipshift.networks import changes
from skipshift.networks.changes import MAPS, Axes, Change, Mended, arguments
from skipshift.networks.quantile_map import quantiles_of
from skipshift.networks.stain_maps import Macenko, Reinhard
from toy_unet import ToyUnet

SAMPLES = torch.linspace(0, 1, 300)[:, None].expand(-1, 3)
MADE = [
    changes.Affine(torch.tensor([2.0, 1, 3]), torch.tensor([0.0, 1, 0])),
    changes.Gamma(2.0, 0.0, 1.0),
    changes.ImageMoments(torch.tensor([0.5, 0.4, 0.3]), torch.ones(3)),
    changes.ImageRange(0.0, 1.0),
    changes.ImageHistogram(quantiles_of(SAMPLES**2)),
    changes.Channels((2, 1, 0)),
    changes.Axes((1, 0), (1,)),
    changes.Resampled(2.0, 8),
    changes.MeanOverFlips(2),
    changes.QuantileMap.between(SAMPLES, SAMPLES**3),
    Reinhard(torch.tensor([60.0, 10, -5]), torch.tensor([12.0, 4, 3])),
    Macenko(torch.tensor([[0.56, 0.22], [0.72, 0.8], [0.41, 0.56]]), torch.tensor([1.9, 1.0])),
]


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 24)


@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_a_map_is_made_again_from_its_arguments(made, images):
    again = MAPS[type(made).__name__](**arguments(made))
    assert torch.equal(again(images), made(images))


def test_every_map_is_tested_here():
    assert {type(made).__name__ for made in MADE} == set(MAPS)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_logits_are_turned_back_onto_the_images(order):
    values = torch.rand(1, 2, 3, 4, 5)
    for flips in product(*[(False, True)] * 3):
        turned = Axes(order, tuple(side for side in range(3) if flips[side]))
        assert torch.equal(turned.back(turned(values)), values)


def test_the_mean_over_flips_is_the_network_where_it_does_not_see_flips(images):
    net = nn.Conv2d(3, 2, 1)
    change = Change(inputs=(changes.MeanOverFlips(2),))
    assert torch.allclose(change.logits(net, images), net(images), atol=1e-6)


def test_images_are_given_the_moments_of_the_reference(images):
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2, 3])
    mapped = changes.ImageMoments(mean, std)(images)
    assert torch.allclose(mapped.mean((2, 3)), mean.expand(2, 3), atol=1e-5)
    assert torch.allclose(mapped.std((2, 3), correction=0), std.expand(2, 3), atol=1e-5)
    flat = changes.ImageMoments(mean, std)(torch.ones(1, 3, 4, 4))
    assert torch.allclose(flat.mean((2, 3)), mean[None])


def test_an_image_has_the_histogram_of_the_reference(images):
    mapped = changes.ImageHistogram(quantiles_of(SAMPLES**2))(images)
    for own in mapped.flatten(2).movedim(2, 0).flatten(1).T:
        wanted = (SAMPLES[:, 0] ** 2).quantile(torch.tensor([0.1, 0.5, 0.9]))
        assert torch.allclose(own.quantile(torch.tensor([0.1, 0.5, 0.9])), wanted, atol=0.02)


def test_resampled_logits_have_the_size_of_the_images(images):
    net = nn.Conv2d(3, 2, 1)
    for factor in (0.5, 2.0):
        change = Change(inputs=(changes.Resampled(factor, 8),))
        assert change.logits(net, images).shape == (2, 2, 16, 24)


def test_a_mended_network_computes_what_the_change_does_bit_for_bit(images):
    net = ToyUnet().eval()
    weights = {"norm.running_mean": torch.rand(4), "head.weight": torch.rand(2, 6, 1, 1)}
    maps = {"first": changes.Affine(torch.rand(4), torch.rand(4)), "deep": MADE[0]}
    maps["deep"] = changes.Affine(torch.rand(6), torch.rand(6))
    change = Change((changes.Channels((2, 1, 0)),), maps, weights)
    with torch.no_grad():
        expected, plain = change.logits(net, images), net(images)
        assert torch.equal(net(images), plain)
        assert torch.equal(Mended(net, change)(images), expected)
        assert not torch.equal(expected, plain)


def test_a_change_counts_its_numbers():
    change = Change((MADE[1],), {"first": MADE[0]}, {"norm.running_mean": torch.zeros(4)})
    assert change.parameters == 3 + 6 + 4
