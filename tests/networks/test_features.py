import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.nn import functional

from skipshift.networks.features import collect
from skipshift.networks.hooks import captured
from skipshift.networks.layers import layers_of
from skipshift.networks.unet import Unet


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Unet("resnet18", skips=(2, 3, 4)).eval()


def test_features_are_the_average_over_cells_of_32_pixels(net):
    images = torch.rand(3, 3, 64, 96)
    pooled = collect(net, [images])["average"]
    stages = net.encoder(images)
    for name, stage in zip(("e2", "e8", "e32"), (stages[1], stages[3], stages[5]), strict=True):
        cells = functional.adaptive_avg_pool2d(stage, (2, 3)).flatten(2).transpose(1, 2)
        found = torch.from_numpy(pooled[name][0])
        assert torch.allclose(found, cells, atol=1e-5 * cells.abs().max().item())


def joined(blocks):
    return torch.from_numpy(np.concatenate(blocks))


def test_batches_are_images_one_by_one(net):
    images = torch.rand(3, 3, 64, 64)
    whole, single = (collect(net, b)["average"] for b in ([images], images.split(1)))
    for name in net.layers():
        a, b = map(joined, (whole[name], single[name]))
        assert torch.allclose(a, b, atol=1e-5 * a.abs().max().item())


def test_uint8_images_are_divided_by_255(net):
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    a, b = (collect(net, [i])["average"] for i in (images, images / 255))
    assert all((a[name][0] == b[name][0]).all() for name in net.layers())


def test_smp_unet_has_the_same_layers(net):
    theirs = smp.Unet("resnet18", encoder_weights=None)
    assert layers_of(theirs) == layers_of(net)


def test_a_feature_map_is_captured_before_it_is_overwritten():
    chain = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(inplace=True))
    nn.init.constant_(chain[0].weight, -1.0)
    nn.init.zeros_(chain[0].bias)
    pooled = collect(chain, [torch.ones(1, 1, 32, 32)], ["0"])["average"]
    assert pooled["0"][0].item() == -1


def test_maps_that_do_not_divide_into_cells_are_pooled_all_the_same():
    pooled = collect(nn.Sequential(nn.Conv2d(3, 4, 3)), [torch.rand(2, 3, 64, 64)], ["0"])[
        "average"
    ]
    assert pooled["0"][0].shape == (2, 4, 4)


def test_hooks_and_mode_are_put_back_after_an_error(net):
    net.train()
    with pytest.raises(ValueError, match="multiples of 32"):
        collect(net, [torch.rand(1, 3, 50, 64)])
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_nan_in_a_feature_names_the_layer(net):
    with torch.no_grad():
        net.decoder.blocks[1].conv1[0].weight[0] = torch.nan
    with pytest.raises(ValueError, match="layer d8: features hold NaN or infinity"):
        collect(net, [torch.rand(1, 3, 64, 64)])


def test_a_layer_that_is_not_there_names_near_ones(net):
    with pytest.raises(ValueError, match=r"layer 'conv1' is not in .*encoder\.conv1") as error:
        layers_of(net, ["conv1"])
    assert "\n" not in str(error.value)


def test_an_unknown_network_must_have_its_layers_named():
    with pytest.raises(ValueError, match="layers must be named for a Sequential"):
        layers_of(nn.Sequential(nn.Conv2d(1, 1, 1)))


def test_a_module_of_several_outputs_needs_an_index(net):
    with pytest.raises(ValueError, match=r"add its index, as in encoder\[0\]"):
        collect(net, [torch.rand(1, 3, 64, 64)], ["encoder"])


def test_a_module_that_never_runs_is_an_error(net):
    net.spare = nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError, match="layer spare: its module did not run"):
        collect(net, [torch.rand(1, 3, 64, 64)], ["spare"])


def test_an_empty_set_is_an_error(net):
    with pytest.raises(ValueError, match="at least one image"):
        collect(net, [])


def test_a_captured_tensor_is_the_output_of_its_layer(net):
    seen = {}
    net.decoder.blocks[4].register_forward_hook(lambda _m, _i, out: seen.update(d1=out))
    with captured(net, layers_of(net), lambda _name, output: output) as maps:
        net(torch.rand(1, 3, 64, 64))
    assert torch.equal(maps["d1"], seen["d1"])


def test_an_argument_is_captured_before_its_module_changes_it_in_place():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.ReLU(inplace=True))

        def forward(self, x):
            return self.block(x - 2)

    pooled = collect(Net(), [torch.ones(1, 1, 32, 32)], {"in": "block(input)", "out": "block"})[
        "average"
    ]
    assert (pooled["in"][0].item(), pooled["out"][0].item()) == (-1, 0)


def test_volumes_are_pooled_to_cells_of_32_voxels():
    net = nn.Sequential(nn.Conv3d(1, 2, 1))
    images = torch.rand(2, 1, 64, 32, 16)
    cells = functional.avg_pool3d(net(images), (32, 32, 16)).flatten(2).transpose(1, 2)
    found = torch.from_numpy(collect(net, [images], ["0"])["average"]["0"][0])
    assert torch.allclose(found, cells, atol=1e-5 * cells.abs().max().item())


def test_an_empty_layer_is_named():
    with pytest.raises(ValueError, match="layer none: has no channels; leave it out"):
        collect(nn.Sequential(nn.Conv2d(1, 1, 1)), [torch.rand(1, 1, 32, 32)], {"none": "0[:0]"})


def test_an_overflow_of_half_precision_names_the_layer():
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)).half()
    nn.init.constant_(net[0].weight, 300)
    nn.init.constant_(net[1].weight, 300)
    with pytest.raises(ValueError, match="layer 1: features hold NaN or infinity"):
        collect(net, [torch.ones(1, 1, 32, 32)], ["0", "1"])


def test_what_a_network_cannot_run_on_is_one_line():
    with pytest.raises(
        ValueError, match=r"cannot run on \(1, 3, 64, 64\): Given groups=1"
    ) as error:
        collect(nn.Sequential(nn.Conv2d(1, 1, 1)), [torch.rand(1, 3, 64, 64)], ["0"])
    assert "\n" not in str(error.value)
