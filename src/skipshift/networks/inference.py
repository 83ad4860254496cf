"""A network made fast for prediction: bf16 where the processor has it, folded batch norms."""

import contextlib
import copy
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from skipshift.errors import ArgumentError
from skipshift.specs import Precision


def use_bf16(precision: Precision, device: str = "cpu") -> bool:
    """Decide whether to compute in bf16; ``auto`` says yes where the processor has it built in."""
    if precision not in ("auto", "bf16", "fp32"):
        raise ArgumentError(f"precision must be auto, bf16 or fp32, got {precision!r}")
    if precision != "auto":
        return precision == "bf16"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch has no public question for this
    return bool(torch.cpu._is_avx512_bf16_supported())


def best_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
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
    """Logits (N, C, ...) of what a network gives: the first tensor of a dict, list or tuple."""
    while isinstance(output, Mapping | list | tuple) and output:
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    if not isinstance(output, Tensor) or output.ndim not in (4, 5):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ArgumentError(f"the network must give logits (N, classes, H, W), got {got}")
    return output


def labels_of(logits: Tensor) -> npt.NDArray[np.uint8]:
    """Most likely class of each pixel: logits (N, C, ...) -> (N, ...) uint8.

    A single channel is the logit of class 1 against class 0.
    """
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).to(torch.uint8).cpu().numpy()
    # comparing two channels is a hundred times faster than argmax over a strided axis
    labels = logits[:, 1] > logits[:, 0] if logits.shape[1] == 2 else logits.argmax(1)
    return labels.to(torch.uint8).cpu().numpy()


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
