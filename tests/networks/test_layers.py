import pytest
import torch
from torch import nn

import skipshift as ss
from architectures import CASES, build
from skipshift.networks.addresses import parse
from skipshift.networks.architectures import known_layers
from skipshift.networks.features import collect
from skipshift.networks.hooks import captured
from skipshift.networks.layers import layers_of
from skipshift.networks.unet import Unet
from skipshift.specs import ProfileSpec

QUICK = ProfileSpec(null_draws=1)


def maps_of(net, images, layers):
    """Feature map of each layer in one forward pass, before anything overwrites it."""
    with torch.no_grad(), captured(net, layers, lambda _name, value: value.clone()) as maps:
        net(images)
    return maps


@pytest.mark.parametrize("name", CASES)
class TestArchitecture:
    """Each architecture that is known, as a small network."""

    def test_layers_are_those_that_a_reader_would_choose(self, name):
        layers = known_layers(build(name)[0])
        names = [layer.name for layer in layers]
        assert names == CASES[name][1].split()
        assert len(set(names)) == len(names)
        assert sum(layer.kind == "bottleneck" for layer in layers) == 1

    def test_a_layer_has_the_stride_of_its_name(self, name):
        net, example = build(name)
        layers = known_layers(net)
        maps = maps_of(net, example, {layer.name: layer.address for layer in layers})
        for layer in layers:
            sides = zip(example.shape[2:], maps[layer.name].shape[2:], strict=True)
            assert layer.name.rstrip("bc")[1:] == f"{max(side // own for side, own in sides)}"

    def test_a_skip_is_the_map_of_a_stage_or_says_that_it_is_not(self, name):
        net, example = build(name)
        layers = known_layers(net)
        maps = maps_of(net, example, {layer.name: layer.address for layer in layers})
        for layer in layers:
            same = [
                t.name for t in layers if t is not layer and _equal(maps[t.name], maps[layer.name])
            ]
            if layer.kind == "skip":
                assert same == ([layer.same_as] if layer.same_as else [])

    def test_a_set_is_not_apart_from_itself(self, name):
        net, example = build(name)
        images = torch.cat([example, 1 - example])
        layers = ss.profile_shift(net, images, images, spec=QUICK).layers
        assert layers["layer"].tolist() == [t.name for t in known_layers(net) if not t.same_as]
        assert (layers["distance"] == 0).all()


def _equal(a, b):
    return a.shape == b.shape and torch.equal(a, b)


def test_skips_that_hand_on_a_stage_can_be_asked_for():
    net, example = build("MONAI BasicUNet")
    assert list(layers_of(net)) == ["e1", "e2", "e4", "e8", "e16", "d8", "d4", "d2", "d1"]
    assert list(layers_of(net, ["s*", "d1"])) == ["s8", "s4", "s2", "s1", "d1"]
    maps = maps_of(net, example, layers_of(net, ["e4", "s4"]))
    assert torch.equal(maps["e4"], maps["s4"])


def test_the_slice_of_a_skip_connection_is_what_entered_it():
    net, example = build("MONAI UNet")
    maps = maps_of(net, example, {"s": "model.1[:8]", "whole": "model.1", "x": "model.1(x)"})
    assert torch.equal(maps["s"], maps["x"])
    assert torch.equal(maps["whole"][:, :8], maps["s"])


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: torch.compile(net, backend="eager")])
def test_wrapped_networks_are_seen_through(wrap):
    net, example = build("MONAI BasicUNet")
    wrapped = wrap(net)
    assert layers_of(wrapped) == layers_of(net)
    assert layers_of(wrapped, ["module.down_1"]) == layers_of(wrapped, ["_orig_mod.down_1"])
    own, theirs = (collect(one, [example])["average"] for one in (net, wrapped))
    assert all((own[name][0] == theirs[name][0]).all() for name in own)


def test_an_architecture_inside_another_module_is_found():
    holder = nn.Module()
    holder.net = build("MONAI BasicUNet")[0]
    assert layers_of(holder)["e2"] == "net.down_1"


def test_of_two_architectures_in_one_network_none_is_chosen():
    pair = nn.ModuleList([build("MONAI BasicUNet")[0], build("MONAI BasicUNet")[0]])
    assert known_layers(pair) == ()


class Chain(nn.Module):
    """An hourglass of no known architecture, its gate of one position, its answer a dict."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True))
        self.deep = nn.Conv2d(4, 4, 3, 2, 1)
        self.gate = nn.AdaptiveAvgPool2d(1)
        self.up = nn.Upsample(scale_factor=2)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.deep(self.down(x))
        x = self.up(x * self.gate(x).sigmoid())
        return {"out": self.head(self.up(x)), "low": x}


def test_layers_of_an_unknown_network_are_the_last_at_each_size():
    images = torch.rand(2, 3, 64, 64)
    assert list(layers_of(Chain(), example=images)) == ["down", "deep", "up@1", "head"]
    layers = ss.profile_shift(Chain(), images, images, spec=QUICK).layers
    assert layers["layer"].tolist() == ["down", "deep", "up@1", "head"]


def test_a_module_that_runs_twice_must_be_told_apart():
    net, images = Chain().eval(), torch.rand(1, 3, 64, 64)
    maps = maps_of(net, images, {"once": "up@1", "twice": "up@2"})
    assert [maps[name].shape[-1] for name in ("once", "twice")] == [32, 64]
    with pytest.raises(ValueError, match=r"layer up: its module runs more than once .* up@1 or"):
        collect(net, [images], ["up"])


def test_runs_are_counted_anew_in_each_forward_pass():
    net, images = Chain().eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad(), captured(net, {"up": "up@1"}, lambda _name, value: value.shape) as maps:
        net(images)
        first = maps.pop("up")
        net(images)
    assert maps["up"] == first


def test_a_part_of_an_answer_is_named_by_its_key():
    net, images = nn.Sequential(Chain()).eval(), torch.rand(1, 3, 64, 64)
    maps = maps_of(net, images, {"head": "0.head", "answer": "0[out]"})
    assert torch.equal(maps["head"], maps["answer"])


def test_a_star_stays_within_one_step_of_a_path():
    net = Unet("resnet18")
    assert list(layers_of(net, ["encoder.layer*"])) == [f"encoder.layer{i}" for i in (1, 2, 3, 4)]
    assert next(iter(layers_of(net, ["**.downsample.0"]))) == "encoder.layer2.0.downsample.0"
    assert "encoder.layer1.0" not in layers_of(net, ["encoder.*"])


@pytest.mark.parametrize(
    ("layer", "fault"),
    [
        ("encoder.layr1", r"'encoder.layr1' is not in .* nearest are encoder.layer1"),
        ("decodr.*", r"'decodr\.\*' is not in the network; the nearest are decoder"),
        ("e64", "'e64' is not in the network; the nearest are e4"),
        ("decoder[", r"'decoder\[' is not a valid address; write it as module, module\[1\]"),
        ("decoder.blocks.0(skip)", "UnetDecoderBlock has no argument 'skip', only feature_map"),
    ],
)
def test_a_layer_that_matches_nothing_is_one_line(layer, fault):
    with pytest.raises(ValueError, match=fault) as error:
        layers_of(Unet("resnet18"), [layer])
    assert "\n" not in str(error.value)


def test_no_layers_at_all_is_an_error():
    with pytest.raises(ValueError, match="layers must name at least one module"):
        layers_of(Unet("resnet18"), [])


def test_an_address_says_what_it_means():
    assert parse("shared@2[:8]").call == 2
    assert parse("backbone[out]").pick({"out": 1}) == 1
    assert parse("encoder[1]").pick([1, 2]) == 2
