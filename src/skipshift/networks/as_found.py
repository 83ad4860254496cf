"""Use of a network that leaves it as found: modes, hooks, buffers, gradients, random numbers."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients; afterwards all is as it was found.

    That is each module's own mode and forward hooks, the values of buffers, which parameters need
    gradients, grad and inference mode outside, and the state of torch's random numbers.
    """
    modes = {module: module.training for module in net.modules()}
    hooks = [(own, dict(own)) for m in modes for own in (getattr(m, name) for name in _HOOKS)]
    flags = {parameter: parameter.requires_grad for parameter in net.parameters()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in net.buffers()]
    devices = sorted({p.device.index for p in flags if p.device.type == "cuda"})
    with (
        torch.random.fork_rng(devices),
        _running_eagerly(net),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        net.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for own, before in hooks:
                # in place, since handles of hooks refer to the dictionary
                own.clear()
                own.update(before)
            for parameter, flag in flags.items():
                if parameter.requires_grad != flag:
                    parameter.requires_grad_(flag)
            for buffer, value in buffers:
                with torch.inference_mode(buffer.is_inference()):
                    buffer.copy_(value)


def _running_eagerly(net: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Run compiled modules as they are written: compiled code does not see new hooks."""
    marks = ("_orig_mod", "_compiled_call_impl")
    compiled = any(getattr(m, mark, None) is not None for m in net.modules() for mark in marks)
    return torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
