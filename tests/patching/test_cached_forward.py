import pytest
import torch
from torch import nn

import architectures
from skipshift.networks.hooks import captured, hooked
from skipshift.networks.inference import logits_of
from skipshift.networks.unet import Unet
from skipshift.patching.cached_forward import cached
from skipshift.patching.paths import paths_of


@pytest.mark.parametrize(
    "name",
    [
        "skipshift L1-pruned", "smp UnetPlusPlus", "smp Linknet", "smp DeepLabV3Plus", "MONAI UNet",
        "MONAI AttentionUnet", "MONAI DynUNet", "nnU-Net PlainConvUNet 3-D",
        "torchvision DeepLabV3",
    ],
)  # fmt: skip
def test_every_path_together_is_all_that_a_decoder_reads(name):
    net, reference = architectures.build(name)
    shifted, paths = torch.rand_like(reference), paths_of(net)
    with torch.no_grad():
        with captured(net, paths, lambda _, value: value.clone()) as maps:
            known = logits_of(net(reference))
        first = next(iter(paths))
        with hooked(net, {first: paths[first]}, lambda path, _: maps[path]):
            slowly = logits_of(net(shifted))
        with cached(net, paths, shifted) as forward:
            assert torch.equal(forward(), logits_of(net(shifted)))
            with hooked(net, {first: paths[first]}, lambda path, _: maps[path].clone()):
                assert torch.equal(forward(), slowly)
            with hooked(net, paths, lambda path, _: maps[path].clone()):
                assert torch.equal(forward(), known)


def test_what_was_overwritten_in_place_is_computed_again():
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.5, inplace=True), nn.Conv2d(4, 2, 1))
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad(), cached(chain, {"last": "2"}, images) as forward:
        assert torch.equal(forward(), forward())
        assert torch.equal(forward(), chain(images))


def test_an_encoder_runs_once_for_all_paths():
    net, ran = Unet("resnet18").eval(), []
    # not counted by a forward hook, which is called for what is remembered too
    compute = net.encoder.conv1._conv_forward
    net.encoder.conv1._conv_forward = lambda *inputs: ran.append(1) or compute(*inputs)
    with torch.no_grad(), cached(net, paths_of(net), torch.rand(1, 3, 64, 64)) as forward:
        for _ in range(3):
            forward()
    assert len(ran) == 1
    assert not any("forward" in vars(module) for module in net.modules())


def test_a_network_that_writes_to_its_images_is_refused():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1))
    with (
        torch.no_grad(),
        cached(net, {"a": "1"}, torch.rand(1, 3, 4, 4)) as forward,
        pytest.raises(ValueError, match="changes its images in place; make it change a copy"),
    ):
        forward()
