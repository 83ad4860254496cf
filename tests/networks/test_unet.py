import json

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import save_file

from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import VARIANTS
from skipshift.networks.unet import Unet

# Table II of the paper
PARAMETERS = {
    "resnet18": (14_328_354, 14_309_922, 14_273_058, 14_125_602, 13_535_778),
    "resnet34": (24_436_514, 24_418_082, 24_381_218, 24_233_762, 23_643_938),
}
TABLE_II = [
    (encoder, variant, count)
    for encoder, counts in PARAMETERS.items()
    for variant, count in zip(VARIANTS, counts, strict=True)
]


@pytest.mark.parametrize(("encoder", "variant", "expected"), TABLE_II)
def test_table_ii_to_the_last_parameter(encoder, variant, expected):
    net = Unet.variant(variant, encoder)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == expected
    assert net.name == variant


def test_the_baseline_is_smp_unet_and_its_weights_go_both_ways():
    net, theirs = Unet().eval(), smp.Unet("resnet18", encoder_weights=None, classes=2).eval()
    net.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(net.state_dict())
    images = torch.rand(2, 3, 64, 96)
    assert torch.equal(net(images), theirs(images))


@pytest.mark.parametrize("variant", ["baseline", "L2-pruned", "skips-13"])
def test_logits_depend_on_kept_skips_alone(variant):
    net = Unet.variant(variant).eval()
    features = net.encoder(torch.rand(1, 3, 64, 64))
    for level in (1, 2, 3, 4):
        changed = [f + (i == level) for i, f in enumerate(features)]
        net.encoder.forward = lambda _, fs=changed: fs
        moved = net(torch.zeros(1, 3, 64, 64))
        net.encoder.forward = lambda _, fs=features: fs
        same = torch.equal(moved, net(torch.zeros(1, 3, 64, 64)))
        assert same is (level not in net.skips)


@pytest.mark.parametrize("levels", [(), (2,), (1, 4), (1, 2, 3, 4)])
def test_skips_left_out_of_a_trained_network_are_as_if_fed_zeros(levels):
    net = Unet().eval()
    images = torch.rand(1, 3, 64, 64)
    features = net.encoder(images)
    expected = [f if i in (0, 5, *levels) else 0 * f for i, f in enumerate(features)]
    logits = net.segmentation_head(net.decoder(expected))
    part = net.with_skips(levels)
    assert part.skips == levels
    assert not part.training
    torch.testing.assert_close(part(images), logits, atol=1e-5, rtol=1e-5)


def test_only_skips_that_a_network_has_can_be_kept():
    with pytest.raises(ArgumentError, match="levels must be among 2, 3, got 1"):
        Unet(skips=(2, 3)).with_skips((1, 2))


def test_layers_are_ten_in_depth_order():
    expected = ["e2", "e4", "e8", "e16", "e32", "d16", "d8", "d4", "d2", "d1"]
    assert list(Unet(skips=()).layers()) == expected


def test_an_encoder_without_a_stride_2_feature_has_no_l1_to_prune():
    assert "e2" not in Unet("mit_b0").layers()
    assert Unet("tu-convnext_atto", skips=(1, 3)).name == "skips-13"
    with pytest.raises(ValueError, match="mit_b0 has no features at stride 2"):
        Unet("mit_b0", skips=(2, 3, 4))


@pytest.mark.parametrize("skips", [(0, 9), (1, 1), (5,)])
def test_levels_that_are_none_are_refused(skips):
    with pytest.raises(ValueError, match=r"skips must be distinct levels 1\.\.4"):
        Unet(skips=skips)


def test_an_unknown_encoder_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown encoder 'resnet19'.*resnet18"):
        Unet("resnet19")


def test_a_side_that_is_no_multiple_of_32_is_refused():
    with pytest.raises(ValueError, match="multiples of 32, got 500 x 512; crop or pad"):
        Unet()(torch.zeros(1, 3, 500, 512))


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"images must be \(N, 3, H, W\)"):
        Unet()(torch.zeros(1, 1, 64, 64))


def test_a_saved_network_loads_as_it_was(tmp_path):
    net = Unet("resnet18", 3, (2, 4), in_channels=1).eval()
    net.save(tmp_path, fold=0)
    back = Unet.load(tmp_path).eval()
    images = torch.rand(1, 1, 32, 64)
    assert torch.equal(back(images), net(images))
    assert json.loads((tmp_path / "run.json").read_text())["fold"] == 0


def test_weights_of_another_network_name_the_first_keys(tmp_path):
    Unet(skips=(2, 3, 4)).save(tmp_path)
    save_file(Unet().state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(SkipshiftError, match=r"has decoder\.blocks\.3\.conv1\.0\.weight as"):
        Unet.load(tmp_path)


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(SkipshiftError, match=r"run\.json: does not exist"):
        Unet.load(tmp_path)


@pytest.mark.parametrize("layout", ["torchvision", "timm", "smp", "safetensors"])
def test_encoder_weights_come_from_a_file_of_any_layout(tmp_path, layout):
    makers = {
        "torchvision": torchvision.models.resnet18,
        "timm": lambda: timm.create_model("resnet18"),
        "smp": lambda: smp.Unet("resnet18", encoder_weights=None),
        "safetensors": torchvision.models.resnet18,
    }
    weights = makers[layout]().state_dict()
    file = tmp_path / ("w.safetensors" if layout == "safetensors" else "w.pt")
    (save_file if layout == "safetensors" else torch.save)(weights, file)
    first = weights["encoder.conv1.weight" if layout == "smp" else "conv1.weight"]
    assert torch.equal(Unet(encoder_weights=file).encoder.conv1.weight, first)
    grey = Unet(encoder_weights=file, in_channels=1).encoder.conv1.weight
    assert torch.allclose(grey, first.sum(1, keepdim=True))


def test_timm_weights_fit_a_timm_encoder(tmp_path):
    weights = timm.create_model("resnet18").state_dict()
    torch.save({"state_dict": weights}, tmp_path / "w.pt")
    net = Unet("tu-resnet18", encoder_weights=tmp_path / "w.pt")
    assert torch.equal(net.encoder.model.conv1.weight, weights["conv1.weight"])


def test_weights_of_another_encoder_are_refused(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "w.pt")
    with pytest.raises(SkipshiftError, match=r"w\.pt: lacks layer1\.2\.conv1\.weight"):
        Unet("resnet34", encoder_weights=tmp_path / "w.pt")


def test_a_file_that_holds_code_is_never_run(tmp_path):
    torch.save(Unet(), tmp_path / "w.pt")
    with pytest.raises(SkipshiftError, match="holds a whole pickled object, skipshift"):
        Unet(encoder_weights=tmp_path / "w.pt")


def test_imagenet_out_of_reach_is_one_clear_line(monkeypatch):
    def unreachable(*_args, **_options):
        raise FileNotFoundError("no network")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", unreachable)
    with pytest.raises(
        SkipshiftError, match="imagenet weights of resnet18 could not be downloaded"
    ):
        Unet(encoder_weights="imagenet")
