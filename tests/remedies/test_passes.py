"""Changes at one place are run together, and give what each gives by itself."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

import architectures
from skipshift.networks.changes import Affine, Change
from skipshift.networks.hooks import captured
from skipshift.networks.inference import MOVED, labels_of
from skipshift.networks.unet import Unet
from skipshift.patching.labelled import labelled
from skipshift.remedies.gathering import folded, norm_sums
from skipshift.remedies.last_layer import LastLayer
from skipshift.remedies.passes import Fitted, Passes
from skipshift.remedies.places import places_of
from skipshift.specs import RemedySpec

ANYWHERE = LastLayer("", "", None)


def data_of(images, folds=2):
    return folded(labelled("shifted", images, None, np.arange(len(images)), False), folds, 0)


def passes_of(net):
    return Passes(net, RemedySpec(batch_size=2), ANYWHERE)


def tries_at(net, place, example):
    """Two maps at a place and two sets of weights, each another one in each of two folds."""
    found = []
    if place.mapped is not None:
        with torch.no_grad(), captured(net, {"x": place.mapped}, lambda _, v: v.shape[1]) as wide:
            net(example)
        maps = [Affine(torch.full((wide["x"],), s), torch.zeros(wide["x"])) for s in (0.5, 2)]
        found += [Change(maps={place.mapped: one}) for one in maps]
    state = net.state_dict()
    names = [f"{m}.weight" for m in place.modules if f"{m}.weight" in state]
    found += [Change(weights={n: state[n] * s for n in names}) for s in (0.5, 2) if names]
    return [Fitted({0: a, 1: b}, True) for a, b in zip(found, found[::-1], strict=True)]


@pytest.mark.parametrize(
    "name",
    ["skipshift L1-pruned", "smp UnetPlusPlus", "MONAI UNet", "nnU-Net PlainConvUNet 3-D",
     "torchvision DeepLabV3"],
)  # fmt: skip
def test_at_every_place_changes_give_the_labels_of_whole_passes(name):
    net, example = architectures.build(name)
    images = torch.rand(4, *example.shape[1:]).numpy()
    data, passes, moved = data_of(images), passes_of(net), 0
    inplace = [m.inplace for m in net.modules() if hasattr(m, "inplace")]
    for place in places_of(net, example):
        tries = tries_at(net, place, example) if place.kind in ("layer", "skip") else []
        if not tries:
            continue
        found = passes(data, tries, place)
        alone = [passes(data, [one], None)[0] for one in tries]
        for own, whole in zip(found, alone, strict=True):
            assert not isinstance(own, str), own
            # by the rounding that `same_logits` allows of each image
            slack = 4 + MOVED / 100 * whole.pixels.sum()
            assert np.abs(own.pixels - whole.pixels).max() <= slack
            moved += own.pixels.tolist() != found[0].pixels.tolist()
    assert moved, "no change changed a label, so nothing was compared"
    # before the first there is nothing to remember
    assert all(list(passes._agreed.values())[1:])
    assert [m.inplace for m in net.modules() if hasattr(m, "inplace")] == inplace


def test_what_runs_before_the_place_runs_once_for_a_batch():
    net = Unet("resnet18", encoder_weights=None).eval()
    (place,) = (p for p in places_of(net, torch.rand(1, 3, 64, 64)) if p.name == "d2")
    ran = {"encoder.layer3.0.conv1": 0, "decoder.blocks.4.conv1.0": 0}
    for address in ran:
        conv = net.get_submodule(address)
        # not counted by a hook, which is called for what is remembered too

        def counted(*inputs, compute=conv._conv_forward, address=address):
            ran[address] += 1
            return compute(*inputs)

        conv._conv_forward = counted
    tries = tries_at(net, place, torch.rand(1, 3, 64, 64))
    ran.update(dict.fromkeys(ran, 0))
    passes_of(net)(
        data_of(np.random.default_rng(0).random((8, 3, 64, 64), np.float32)), tries, place
    )
    # four batches; and one image with two changes, plainly and remembered
    before, behind = ran.values()
    assert before == 4 + 2 + 1
    assert behind == 4 * len(tries) + 2 + 2


class Secretive(nn.Module):
    """A network that hands its first map on as an attribute."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), Late()

    def forward(self, images):
        self.last.secret = self.first(images)
        return self.last(images)


class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, images):
        return self.head(self.secret) + images.mean(1, keepdim=True)


def test_a_network_that_hands_maps_on_unseen_runs_whole(caplog):
    torch.manual_seed(0)
    net = Secretive().eval()
    images = np.random.default_rng(0).random((4, 3, 8, 8), np.float32)
    places = {p.name: p for p in places_of(net, torch.rand(1, 3, 8, 8))}
    tries = tries_at(net, places["first"], torch.rand(1, 3, 8, 8))
    with caplog.at_level(logging.WARNING, "skipshift"):
        found = passes_of(net)(data_of(images), tries, places["first"])
    assert "the logits would not be the same" in caplog.text
    for seen, one in zip(found, tries, strict=True):
        with torch.no_grad():
            own = [
                labels_of(one(fold).logits(net, batch))
                for fold, batch, _, _ in data_of(images).batches(net, 2)
            ]
        assert (
            seen.pixels.tolist() == np.bincount(np.concatenate(own).ravel(), minlength=2).tolist()
        )


def test_a_change_that_cannot_run_leaves_the_others_as_they_are(net, home):
    wrong = Change(maps={"first": Affine(torch.ones(5), torch.zeros(5))})
    right = Change(maps={"first": Affine(torch.ones(4), torch.zeros(4))})
    place = next(p for p in places_of(net, torch.rand(1, 3, 32, 32)) if p.name == "first")
    data = data_of(home)
    found = passes_of(net)(data, [Fitted({0: c, 1: c}) for c in (wrong, right)], place)
    assert "size" in found[0]
    (plain,) = passes_of(net)(data, [Fitted()])
    assert found[1].pixels.tolist() == plain.pixels.tolist()


def test_sums_of_norms_end_with_the_last_that_is_asked(net, home):
    ran = []
    net.head.register_forward_hook(lambda *_: ran.append(1))
    data = data_of(home, 3)
    whole = norm_sums(net, ["norm", "deep.1", "join.1"], data, 2)
    ran.clear()
    first = norm_sums(net, ["norm"], data, 2)
    # the first pass tells how often they are read
    assert len(ran) == 1
    assert np.array_equal(first["norm"].parts, whole["norm"].parts)
