"""Networks prepared for inference: bf16 where it is faster, channels last, batch norms folded."""

import contextlib
import copy
import functools
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from skipshift.errors import ArgumentError
from skipshift.networks.as_found import evaluating
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


def fast_copy(
    net: nn.Module,
    example: Tensor,
    precision: Precision = "auto",
    keep: Collection[nn.Module] = (),
) -> nn.Module:
    """Copy a network for prediction: evaluation mode, channels last, batch norms folded.

    Every step is taken only if it gives the network's logits of two inputs (`same_logits`): else
    batch norms stay, else the result is the network itself, in evaluation mode. A network whose
    weights are not float32 is not copied.

    Parameters
    ----------
    example
        (N, C, H, W) or (N, C, D, H, W) float32 input that shows which batch norm follows which
        convolution.
    keep
        Modules of the network whose outputs are read, and must stay what they are.

    Returns
    -------
    A network on the same device that takes and gives bf16 or float32, as ``precision`` says.
    """
    tensor = next(net.parameters(), example)
    example, rough = example.to(tensor.device), use_bf16(precision, tensor.device.type)
    if any(p.dtype != torch.float32 for p in net.parameters() if p.is_floating_point()):
        return net
    kept = {name for name, module in net.named_modules() if module in set(keep)}
    # a copy runs on the first after the network itself has run on the second: so it shows if it
    # reads what hooks of the network have kept
    inputs = example, unlike(example)
    with evaluating(net):
        expected = [logits_of(run(net, each.clone())) for each in inputs]
        for fold in (True, False):
            fast = _copied(net, example, fold, kept)
            if fast is not None and _agree(fast, inputs, expected):
                bf16 = _copied(fast, example, False, kept) if rough else None
                bf16 = None if bf16 is None else bf16.to(torch.bfloat16)
                return bf16 if bf16 is not None and _agree(bf16, inputs, expected) else fast
    return net


def unlike(images: Tensor) -> Tensor:
    """Make images that differ from those given: with noise as large as their spread."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=rng).to(images.device)
    return (images.float() + (images.float().std().nan_to_num() + 0.1) * noise).to(images)


def _copied(net: nn.Module, example: Tensor, fold: bool, keep: set[str]) -> nn.Module | None:
    """Copy a network, or give None where it cannot be copied."""
    layout = torch.channels_last_3d if example.ndim == 5 else torch.channels_last
    try:
        fast = copy.deepcopy(net).eval().to(memory_format=layout)
        if fold:
            _fold_batch_norms(fast, example, keep)
    except Exception:
        # torch and the network's own code raise many kinds of errors when copied
        return None
    return fast


def _agree(net: nn.Module, inputs: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether a network gives the expected logits of each input."""
    dtype = next(net.parameters(), inputs[0]).dtype
    try:
        found = [logits_of(net(each.to(dtype, copy=True))) for each in inputs]
    except Exception:
        return False
    return all(map(same_logits, found, expected))


EXACT = 1e-4
"""Largest error of fp32 logits, root mean square, relative to their spread: rounding."""

ROUGH = 0.1
"""The same of bf16 logits."""

MOVED = 0.02
"""Largest share of labels that bf16 may change; fp32 may change a hundredth of it."""


def same_logits(found: Tensor, expected: Tensor) -> bool:
    """Whether logits are the expected ones but for rounding to their precision.

    Their error is at most `EXACT` (bf16: `ROUGH`) of the spread of those expected, and at most a
    share of `MOVED` / 100 (bf16: `MOVED`) of the labels differs, or one label.
    """
    rough = found.dtype == torch.bfloat16
    error, spread = (found.float() - expected.float()).square().mean().sqrt(), expected.float()
    if not error <= (ROUGH if rough else EXACT) * spread.std(correction=0) + 1e-6:
        return False
    labels = [labels_of(logits) for logits in (found, expected)]
    moved = int((labels[0] != labels[1]).sum())
    return moved <= max(1, (MOVED if rough else MOVED / 100) * labels[0].size)


_FIXED_BATCH = re.compile(r"\.shape\[0\] to be equal to (\d+)")
"""What torch.export says where the number of images is not that of the export."""


def run(net: nn.Module, images: Tensor) -> Any:
    """Run a network; `ArgumentError` if it cannot take images of this shape."""
    try:
        return net(images)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        if fixed := _FIXED_BATCH.search(reason):
            raise ArgumentError(
                f"the network was exported for batches of {fixed[1]}, got {len(images)} images; "
                f"set batch_size {fixed[1]}, or export it with a dynamic batch"
            ) from error
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

    A single channel is the logit of class 1 against class 0. `ArgumentError` if one is NaN.
    """
    # a sum is NaN if a value is, and reads the logits once
    if logits.sum(dtype=torch.float32).isnan() and logits.isnan().any():
        raise ArgumentError("logits hold NaN; check the weights and the images")
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


def _fold_batch_norms(net: nn.Module, example: Tensor, keep: Collection[str]) -> None:
    """Fold each batch norm that reads a convolution's output into that convolution.

    The forward pass itself shows the pairs. A convolution that is read elsewhere too would be
    wrong to fold: then the logits of the network change.
    """
    names = {module: name for name, module in net.named_modules()}
    for norm, conv in _pairs(net, example).items():
        if {names[norm], names[conv]} & set(keep):
            continue
        for old, new in ((conv, fuse_conv_bn_eval(conv, norm)), (norm, nn.Identity())):
            parent, _, child = names[old].rpartition(".")
            setattr(net.get_submodule(parent), child, new)


def _pairs(net: nn.Module, example: Tensor) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Run a network once; give each batch norm with the convolution whose output it reads.

    Both run once, have statistics and no hooks, and nothing changes the output in between.
    """
    outputs: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}
    pairs: list[tuple[nn.BatchNorm2d, nn.Conv2d]] = []
    calls: Counter[nn.Module] = Counter()

    def wrote(conv: nn.Module, _inputs: Any, output: Tensor) -> None:
        calls[conv] += 1
        if not output.is_inference():
            outputs[id(output)] = (cast(nn.Conv2d, conv), output, output._version)

    def reads(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        calls[norm] += 1
        conv, output, version = outputs.get(id(inputs[0]), (None, None, 0))
        if conv is not None and output is not None and output._version == version:
            pairs.append((cast(nn.BatchNorm2d, norm), conv))

    with contextlib.ExitStack() as hooks:
        for module in net.modules():
            if module._forward_hooks or module._forward_pre_hooks:
                continue
            # exact types: timm derives batch norms from these that apply an activation as well
            if type(module) is nn.Conv2d:
                hooks.callback(module.register_forward_hook(wrote).remove)
            elif type(module) is nn.BatchNorm2d and module.running_mean is not None:
                hooks.callback(module.register_forward_pre_hook(reads).remove)
        run(net, example.clone())
    readers = Counter(conv for _, conv in pairs)
    return {n: conv for n, conv in pairs if calls[n] == calls[conv] == readers[conv] == 1}
