import numpy as np
import pytest
import torch
from torch import nn

from skipshift.patching.labelled import labelled, subset
from skipshift.remedies.gathering import folded, gather, norm_sums
from skipshift.remedies.places import Place
from skipshift.specs import RemedySpec
from toy_unet import ToyUnet, toy_images


@pytest.fixture
def data():
    images = toy_images(10).astype(np.float32) / 255
    return folded(labelled("shifted", images, None, np.repeat(np.arange(5), 2), False), 3, 0)


def without(data, fold):
    kept = data.folds[np.unique(data.data.groups, return_inverse=True)[1]] != fold
    return torch.from_numpy(data.data.images[kept])


def test_folds_divide_groups_evenly_and_batches_never_mix_them(data):
    assert sorted(np.bincount(data.folds)) == [1, 2, 2]
    seen = []
    for fold, images, masks, codes in data.batches(nn.Identity(), 3):
        assert (data.folds[codes] == fold).all()
        assert masks is None
        seen.extend(images)
    assert len(seen) == 10


def test_moments_without_a_fold_are_those_of_the_other_images(data):
    net = nn.Conv2d(3, 4, 3)
    found = gather(net, [Place("conv", "layer", "")], data, RemedySpec())
    with torch.no_grad():
        maps = net(without(data, 1))
    mean, std = found.moments("conv", 1)
    assert torch.allclose(mean, maps.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(std, maps.std((0, 2, 3), correction=0), atol=1e-5)
    assert len(found.values("input")) >= len(found.values("input", 1))


def test_sums_of_a_norm_are_the_statistics_that_training_would_take(data):
    net = ToyUnet().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    sums = norm_sums(net, ["norm", "deep.1"], data, 3)
    with torch.no_grad():
        read = net.first(without(data, 2))
    mean, variance = sums["norm"].moments(2)
    assert torch.allclose(mean, read.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(variance, read.var((0, 2, 3), correction=0), atol=1e-5)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def test_a_subset_of_a_loader_has_the_images_masks_and_groups_that_are_kept():
    images = toy_images(10)
    masks = images[:, 0]
    loader = [images[:4], images[4:]]
    whole = labelled("shifted", loader, masks, np.arange(10), False)
    keep = np.arange(10) % 3 == 0
    part = subset(whole, keep)
    batches = list(part.batches(8))
    assert np.array_equal(np.concatenate([b[0] for b in batches]), images[keep])
    assert np.array_equal(np.concatenate([b[1] for b in batches]), masks[keep])


def test_a_small_memory_samples_fewer_values_but_one_of_each_image(data):
    net, place = nn.Conv2d(3, 4, 3), Place("conv", "layer", "")
    few = gather(net, [place], data, RemedySpec(memory=20 * 7 * 16 / 2**30))
    one = gather(net, [place], data, RemedySpec(memory=0))
    assert len(few.values("conv")) == 20
    assert len(one.values("conv")) == 10
    assert np.array_equal(few.sums["conv"].parts, one.sums["conv"].parts)
