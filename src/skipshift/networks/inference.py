"""Networks prepared for inference: bf16 where it is faster, channels last, batch norms folded."""

import contextlib
import copy
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from skipshift.errors import ArgumentError
from skipshift.specs import Precision

MARGIN = 1.25
"""How much faster than in fp32 a convolution must be in bf16 for ``auto`` to take bf16."""

PROBES = 7
"""Timings of each precision, of which the fastest counts: a busy machine only ever adds time."""


def use_bf16(precision: Precision, device: str = "cpu") -> bool:
    """Decide whether to compute in bf16; ``auto`` says yes where bf16 is faster.

    On a CPU, ``auto`` times a convolution in both precisions, once per process. What the processor
    claims does not tell: oneDNN may be held to an older instruction set (``ONEDNN_MAX_CPU_ISA``),
    where it emulates bf16. `ArgumentError` for any other precision.
    """
    if precision not in get_args(Precision):
        raise ArgumentError(f"precision must be auto, bf16 or fp32, got {precision!r}")
    return bf16_is_faster(device) if precision == "auto" else precision == "bf16"


def resolve_precision(precision: Precision, device: str = "cpu") -> Precision:
    """Replace ``auto`` by what `use_bf16` decides, so that other processes compute alike."""
    return "bf16" if use_bf16(precision, device) else "fp32"


@functools.cache
def bf16_is_faster(device: str) -> bool:
    """Whether convolutions are faster in bf16 than in fp32: timed on a CPU, known of a GPU."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        jobs = [_convolution(dtype) for dtype in (torch.float32, torch.bfloat16)]
        for job in jobs:  # oneDNN compiles its kernel on the first call
            job()
        # in turn, so that a change of the clock rate meets both
        times = [[_seconds(job) for job in jobs] for _ in range(PROBES)]
    except RuntimeError:  # no bf16 convolution on this platform
        return False
    exact, rough = map(min, zip(*times, strict=True))
    return bool(exact > MARGIN * rough)


def _convolution(dtype: torch.dtype) -> Callable[[], object]:
    """Make a 3 x 3 convolution of the size of a U-net's, about a millisecond on one core."""
    images = torch.ones(2, 64, 32, 32, dtype=dtype).to(memory_format=torch.channels_last)
    weights = torch.ones(64, 64, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)

    def convolve() -> object:
        with torch.inference_mode():
            return functional.conv2d(images, weights, padding=1)

    return convolve


def _seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


_ONEDNN_PROBE = """
import torch
with torch.inference_mode():
    torch.nn.Conv2d(16, 16, 3)(torch.ones(2, 16, 16, 16))
"""


@functools.cache
def instruction_set(device: str = "cpu") -> str:
    """Name the instruction set of convolutions: oneDNN's own words, or the GPU and its capability.

    Torch does not give access to it, so a short process prints oneDNN's verbose header. Where
    oneDNN prints none, the name is that of torch's own kernels.
    """
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"
    command = [sys.executable, "-P", "-c", _ONEDNN_PROBE]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        shown = subprocess.run(
            command,
            env={**os.environ, "ONEDNN_VERBOSE": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for line in shown.splitlines():
            if "onednn_verbose" in line and (name := line.partition(",isa:")[2]):
                return name
    return f"{torch.backends.cpu.get_cpu_capability()} (torch)"


def best_device() -> str:
    """Name the device to use: ``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fast_copy(net: nn.Module, example: Tensor, precision: Precision = "auto") -> nn.Module:
    """Copy a network for prediction: evaluation mode, channels last, batch norms folded.

    Parameters
    ----------
    example
        (N, C, H, W) or (N, C, D, H, W) float32 input that shows which batch norm follows which
        convolution.

    Returns
    -------
    A network on the same device that takes and gives bf16 or float32, as ``precision`` says.
    """
    device = next(net.parameters()).device
    layout = torch.channels_last_3d if example.ndim == 5 else torch.channels_last
    fast = copy.deepcopy(net).eval().to(memory_format=layout)
    with torch.no_grad():
        _fold_batch_norms(fast, example.to(device))
    return fast.to(torch.bfloat16 if use_bf16(precision, device.type) else torch.float32)


def run(net: nn.Module, images: Tensor) -> Any:
    """Run a network; `ArgumentError` if it cannot take images of this shape."""
    try:
        return net(images)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ArgumentError(f"the network cannot run on {tuple(images.shape)}: {reason}") from error


def logits_of(output: Any) -> Tensor:
    """Take the logits (N, C, ...) out of a network's output: the first tensor of a dict or list.

    `ArgumentError` if that is no map of logits.
    """
    while isinstance(output, Mapping | list | tuple) and output:
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    if not isinstance(output, Tensor) or output.ndim not in (4, 5):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ArgumentError(f"the network must give logits (N, classes, H, W), got {got}")
    return output


def labels_of(logits: Tensor) -> npt.NDArray[np.uint8]:
    """Predict the class of each pixel: logits (N, C, ...) -> (N, ...) uint8.

    A single channel is the logit of class 1 against class 0.
    """
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).to(torch.uint8).cpu().numpy()
    # comparing two channels is a hundred times faster than argmax over a strided axis
    labels = logits[:, 1] > logits[:, 0] if logits.shape[1] == 2 else logits.argmax(1)
    return labels.to(torch.uint8).cpu().numpy()


def probabilities_of(logits: Tensor) -> npt.NDArray[np.float32]:
    """Softmax of logits (N, C, ...) over C, in float32; two classes of a single channel."""
    logits = logits.float()
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    return logits.softmax(1).cpu().numpy()


def _fold_batch_norms(net: nn.Module, example: Tensor) -> None:
    """Fold each batch norm that reads a convolution's output into that convolution.

    The forward pass itself shows the pairs. A convolution that is read elsewhere too would be
    wrong to fold: then the output of the network changes, which is an error.
    """
    before, pairs = _watch(net, example)
    names = {module: name for name, module in net.named_modules()}
    for norm, conv in pairs.items():
        for old, new in ((conv, fuse_conv_bn_eval(conv, norm)), (norm, nn.Identity())):
            parent, _, child = names[old].rpartition(".")
            setattr(net.get_submodule(parent), child, new)
    after = logits_of(net(example))
    if not torch.allclose(before, after, rtol=1e-2, atol=1e-3 * float(before.abs().max())):
        raise ArgumentError(
            "batch norms of this network cannot be folded: a convolution is read by more than its "
            "batch norm"
        )


def _watch(net: nn.Module, example: Tensor) -> tuple[Tensor, dict[nn.BatchNorm2d, nn.Conv2d]]:
    """Run a network once; return its output and the convolution that each batch norm reads."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def wrote(conv: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs[id(output)] = (cast(nn.Conv2d, conv), output)

    def reads(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        if id(inputs[0]) in outputs:
            pairs[cast(nn.BatchNorm2d, norm)] = outputs[id(inputs[0])][0]

    with contextlib.ExitStack() as hooks:
        for module in net.modules():
            # exact types: timm derives batch norms from these that apply an activation as well
            if type(module) is nn.Conv2d:
                hooks.callback(module.register_forward_hook(wrote).remove)
            elif type(module) is nn.BatchNorm2d:
                hooks.callback(module.register_forward_pre_hook(reads).remove)
        return logits_of(run(net, example)), pairs
