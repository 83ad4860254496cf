import contextlib

import pytest
import torch
from torch import nn

import architectures
import handmade
import skipshift as ss
from skipshift.networks.as_found import evaluating
from skipshift.networks.layers import layers_of
from skipshift.networks.trace import traced
from skipshift.specs import ProfileSpec


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("smp DeepLabV3", "encoder.relu encoder.layer1 encoder.layer2 encoder.layer3 "
         "encoder.layer4 decoder.aspp decoder.relu segmentation_head"),
        ("smp PSPNet", "encoder.relu encoder.layer1 encoder.layer2 decoder.psp decoder.conv "
         "segmentation_head"),
        ("smp Segformer", "encoder[2] encoder[3] encoder[4] encoder[5] decoder.mlp_stage.0 "
         "decoder.mlp_stage.1 decoder.mlp_stage.2 decoder.mlp_stage.3 decoder.fuse_stage "
         "segmentation_head"),
        ("MONAI VNet", "in_tr down_tr32 down_tr64 down_tr128 down_tr256 up_tr256 up_tr128 "
         "up_tr64 up_tr32 out_tr"),
        ("own, skips joined in forward", "e1 e2 e3 d2 d1 out"),
        ("own, skips in forward hooks", "e1 e2 e3 d2 d1 out"),
    ],
)  # fmt: skip
def test_layers_of_an_unknown_network_are_its_stages(name, layers):
    net, image = architectures.build(name)
    assert list(layers_of(net, example=image)) == layers.split()


@pytest.mark.parametrize("name", ["MONAI UNETR", "smp Segformer"])
def test_tokens_and_attention_are_no_layers(name):
    net, image = architectures.build(name)
    images = torch.cat([image, 1 - image])
    layers = ss.profile_shift(net, images, images, spec=ProfileSpec(null_draws=1)).layers["layer"]
    assert not layers.str.contains("attn|norm|drop|embed").any()


def test_a_trace_knows_what_a_change_in_place_reads():
    class InPlace(nn.Module):
        def forward(self, x):
            y = x * 2
            whole = y.view(y.shape)
            y.add_(x)
            return whole

    trace = traced(InPlace(), torch.rand(1, 1, 4, 4))
    # x -> x * 2 -> its view -> both after the sum
    assert trace.reads == [(), (0,), (1,), (1, 0)]
    assert trace.logits == 3


def test_each_module_keeps_its_mode_its_buffers_and_its_hooks():
    net = handmade.Arguments().train()
    net.e1.eval()
    net.e2[0].weight.requires_grad_(False)
    net.e3.register_forward_hook(lambda *_: None)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    images = torch.rand(2, 3, 32, 32)
    random = torch.get_rng_state()
    ss.profile_shift(net, images, images, spec=ProfileSpec(null_draws=1))
    with contextlib.suppress(KeyError), evaluating(net):
        net.e1[1].running_mean.zero_()
        net.out.register_forward_hook(lambda *_: torch.rand(1))
        torch.rand(1)
        raise KeyError
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [bool(m._forward_hooks) for m in (net.e3, net.out)] == [True, False]
    assert torch.equal(torch.get_rng_state(), random)
    assert not net.e2[0].weight.requires_grad
    assert torch.is_grad_enabled()


def test_a_compiled_part_runs_as_it_is_written():
    net = handmade.Arguments().eval()
    net.e1.compile(backend="eager")
    images = torch.rand(2, 3, 32, 32)
    layers = ss.profile_shift(net, images, images, ["e1.0"], spec=ProfileSpec(null_draws=1)).layers
    assert layers["distance"].tolist() == [0]
