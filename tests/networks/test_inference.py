import platform
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

import handmade
from skipshift.errors import ArgumentError
from skipshift.networks import inference
from skipshift.networks.inference import (
    bf16_is_faster,
    fast_copy,
    instruction_set,
    labels_of,
    logits_of,
    resolve_precision,
    run,
    use_bf16,
)
from skipshift.networks.unet import Unet


def settled(net):
    """Give batch norms statistics and weights that folding has to get right."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize(
    "build",
    [
        lambda: Unet("resnet18"),
        lambda: Unet("resnet34", skips=()),
        lambda: Unet("tu-resnet18"),
        lambda: smp.FPN("densenet121", encoder_weights=None),
    ],
    ids=["resnet18", "resnet34", "timm", "densenet"],
)
def test_a_folded_copy_gives_the_same_logits(build):
    net, images = settled(build()), torch.rand(2, 3, 64, 64)
    folded = fast_copy(net, images, "fp32")
    with torch.no_grad():
        expected = net(images)
        assert torch.allclose(folded(images), expected, atol=1e-3 * expected.abs().max().item())


def test_no_batch_norm_of_the_unet_is_left_and_the_original_is_untouched():
    net = settled(Unet())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    folded = fast_copy(net, torch.rand(1, 3, 32, 32), "fp32")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_bf16_moves_few_labels():
    net, images = settled(Unet()), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        exact = labels_of(fast_copy(net, images, "fp32")(images))
        rough = labels_of(fast_copy(net, images, "bf16")(images.bfloat16()))
    assert (exact != rough).mean() < 0.05


class Twice(nn.Module):
    """Reads a convolution beside its batch norm too."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
        nn.init.constant_(self.norm.running_var, 9)

    def forward(self, images):
        once = self.conv(images)
        return once + self.norm(once)


class Closure(nn.Module):
    """A closure keeps what it reads, so a copy reads what the original kept."""

    def __init__(self):
        super().__init__()
        self.conv, self.kept = nn.Conv2d(1, 2, 1), []
        self.conv.register_forward_hook(lambda _m, _i, output: self.kept.append(output))

    def forward(self, images):
        self.conv(images)
        return self.kept[-1] * 2


class Half(nn.Conv2d):
    def __init__(self):
        super().__init__(1, 2, 1, dtype=torch.float16)


@pytest.mark.parametrize(
    ("build", "same"),
    [(Twice, False), (handmade.InPlace, False), (handmade.Twice, False),
     (handmade.weight_normed, False), (handmade.without_statistics, False),
     (handmade.Frozen, False), (Closure, True), (Half, True)],
)  # fmt: skip
def test_a_copy_that_would_compute_something_else_is_not_used(build, same):
    torch.manual_seed(0)
    net = build().eval()
    like = next(net.parameters())
    images = torch.rand(1, 1 if type(net) in (Twice, Closure, Half) else 3, 16, 16)
    fast = fast_copy(net, images, "fp32")
    assert (fast is net) == same
    with torch.no_grad():
        expected = net(images.to(like.dtype))
        assert torch.allclose(fast(images.to(like.dtype)), expected, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 4])
def test_labels_are_the_most_likely_class(classes):
    logits = torch.randn(2, classes, 8, 8)
    assert np.array_equal(labels_of(logits), logits.argmax(1).numpy())


@pytest.mark.parametrize("faster", [True, False])
def test_auto_is_what_is_faster_here(monkeypatch, faster):
    """The probe compares times and nothing else, so times are all that it is given."""
    clock = iter(np.cumsum(np.tile([0, 1, 0, 0.5 if faster else 0.9], inference.PROBES)))
    monkeypatch.setattr(inference.time, "perf_counter", lambda: float(next(clock)))
    assert bf16_is_faster.__wrapped__("cpu") is faster
    monkeypatch.setattr(inference, "bf16_is_faster", lambda _device: faster)
    assert resolve_precision("auto") == ("bf16" if faster else "fp32")
    assert resolve_precision("fp32") == "fp32"


def test_the_instruction_set_is_that_of_onednn(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    printed = "onednn_verbose,v1,info,cpu,isa:Intel AVX2\nonednn_verbose,v1,info,gpu\n"
    shown = SimpleNamespace(stdout=printed)
    monkeypatch.setattr(inference.subprocess, "run", lambda *_, **__: shown)
    assert instruction_set.__wrapped__() == "Intel AVX2"
    shown.stdout = ""
    assert instruction_set.__wrapped__().endswith("(torch)")


@pytest.mark.slow  # two processes that import torch
def test_onednn_held_to_avx2_says_so_and_computes_in_fp32(monkeypatch):
    if platform.machine() != "x86_64" or not torch.cpu._is_avx2_supported():
        pytest.skip("needs a processor with AVX2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert "AVX2" in instruction_set.__wrapped__()
    code = "from skipshift.networks.inference import use_bf16; print(use_bf16('auto'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_precision_is_what_was_asked_for():
    assert use_bf16("bf16")
    assert not use_bf16("fp32")
    with pytest.raises(ValueError, match="precision must be auto, bf16 or fp32, got 'half'"):
        use_bf16("half")


def test_a_network_that_gives_a_dict_is_folded_too():
    class Answers(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))

        def forward(self, images):
            return {"out": self.layers(images), "aux": None}

    net, images = Answers().eval(), torch.rand(2, 3, 8, 8)
    fast = fast_copy(net, images, "fp32")
    assert isinstance(fast.layers[1], nn.Identity)
    expected = logits_of(net(images))
    assert torch.allclose(
        logits_of(fast(images)), expected, atol=1e-5 * expected.abs().max().item()
    )


def test_volumes_are_laid_out_channels_last():
    net, images = nn.Conv3d(1, 2, 3).eval(), torch.rand(1, 1, 8, 8, 8)
    fast = fast_copy(net, images, "fp32")
    assert fast.weight.is_contiguous(memory_format=torch.channels_last_3d)
    expected = net(images)
    assert torch.allclose(fast(images), expected, atol=1e-5 * expected.abs().max().item())


def test_one_channel_is_the_logit_of_the_second_class():
    logits = torch.randn(2, 1, 4, 4)
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    assert (labels_of(logits) == labels_of(two)).all()


def test_what_is_no_map_of_logits_is_named():
    with pytest.raises(ValueError, match=r"must give logits \(N, classes, H, W\), got \(1, 2\)"):
        logits_of([torch.zeros(1, 2)])


def test_an_image_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"cannot run on \(1, 3, 8, 8\): "):
        run(nn.Conv2d(1, 1, 1), torch.rand(1, 3, 8, 8))


def test_logits_that_are_nan_have_no_labels():
    logits = torch.zeros(1, 2, 4, 4)
    logits[0, :, 2, 2] = torch.tensor([torch.inf, -torch.inf])
    assert labels_of(logits)[0, 2, 2] == 0
    logits[0, 1, 1, 1] = torch.nan
    with pytest.raises(ArgumentError, match="logits hold NaN; check the weights and the images"):
        labels_of(logits)
