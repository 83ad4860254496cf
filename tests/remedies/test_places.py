import pytest
import torch
from torch import nn

import architectures
from skipshift.networks.changes import Affine, Change
from skipshift.networks.hooks import captured
from skipshift.networks.unet import Unet
from skipshift.remedies.places import places_of
from toy_unet import ToyUnet

NETWORKS = ["smp Unet timm", "smp UnetPlusPlus", "smp FPN", "MONAI UNet", "MONAI AttentionUnet"]
NETWORKS += ["MONAI DynUNet", "MONAI SwinUNETR", "nnU-Net PlainConvUNet"]


def owned(places):
    return [name for place in places if place.kind != "part" for name in place.modules]


def test_places_of_our_unet_are_its_layers_with_their_modules():
    places = {p.name: p for p in places_of(Unet("resnet18").eval(), torch.rand(1, 3, 64, 64))}
    names = "input encoder.conv1 e2 e4 e8 e16 bottleneck L4 d16 L3 d8 L2 d4 L1 d2 d1 head"
    assert list(places) == [*names.split(), "encoder", "decoder", "all"]
    assert places["encoder.conv1"].modules == ("encoder.conv1", "encoder.bn1")
    assert all(n.startswith("encoder.layer2.") for n in places["e8"].modules)
    assert "encoder.layer2.0.downsample.0" in places["e8"].modules
    assert all(n.startswith("decoder.blocks.3.") for n in places["d2"].modules)
    assert places["L1"].modules == ()


def test_a_map_of_a_stage_reaches_all_behind_it_and_one_of_a_skip_its_reader():
    net, images = Unet("resnet18").eval(), torch.rand(1, 3, 64, 64)
    places = {p.name: p for p in places_of(net, images)}
    assert places["e2"].mapped == "encoder.relu"
    assert places["e8"].mapped == "encoder.layer2"
    assert places["L1"].mapped == places["L1"].address
    with torch.no_grad():
        deep = {}
        for name in ("e2", "L1"):
            change = Change(maps={places[name].mapped: Affine(torch.ones(1), torch.ones(1))})
            with captured(net, {"deep": "encoder.layer4"}, lambda _, value: value) as seen:
                change.logits(net, images)
            deep[name] = seen["deep"]
        assert torch.equal(deep["L1"], net.encoder(images)[-1])
        assert not torch.allclose(deep["e2"], deep["L1"])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_module_that_the_logits_hang_on_has_one_place(name):
    net, images = architectures.build(name)
    places = places_of(net, images)
    net(images)[0].sum().backward()
    used = [
        n for n, m in net.named_modules() if any(p.grad is not None for p in m.parameters(False))
    ]
    first = next(p for p in places if p.kind == "layer")
    own = owned(p for p in places if p is not first)
    assert len(own) == len(set(own))
    assert set(own) | set(first.modules) >= set(used)


def test_an_unknown_network_has_the_layers_that_a_profile_shows():
    places = {p.name: p for p in places_of(ToyUnet().eval(), torch.rand(1, 3, 32, 32))}
    assert places["first"].modules == ("first", "norm")
    assert places["all"].modules[0] == "first"
    assert "encoder" not in places


def test_each_place_has_a_name_of_its_own():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4))

        def forward(self, x):
            return self.c(torch.relu(self.b(torch.relu(self.a(x)))))

    names = [place.name for place in places_of(Plain().eval(), torch.rand(1, 3, 32, 32))]
    assert len(names) == len(set(names)), names
    assert names[:2] == ["input", "a"]


def test_a_network_without_weights_has_its_input_alone():
    places = places_of(nn.Sequential(nn.ReLU()), torch.rand(1, 3, 32, 32))
    assert [p.name for p in places if p.kind != "layer"] == ["input"]
