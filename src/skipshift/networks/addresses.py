"""Addresses of tensors in a forward pass, such as ``encoder[2]`` or ``decoder(skips)[0]``.

``encoder.layer1`` is the output of a module, ``encoder[2]`` or ``backbone[out]`` one of several
outputs, ``model.1[:16]`` the first 16 channels of an output, ``decoder.blocks.0(skip)`` an argument
of a module, ``decoder(skips)[0]`` one element of an argument, and ``shared@2`` the output of a
module's second call in one forward pass. ``down1>middle`` is the output of ``down1`` as it is read
after ``middle`` has run: a skip that a forward method adds or concatenates itself.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError


@dataclass(frozen=True)
class Address:
    """The parts of an address: ``path(argument)@call[part]>after``."""

    path: str
    argument: str | None
    call: int | None
    part: str | None
    after: str | None = None

    def pick(self, value: Any) -> Any:
        """Select the addressed part of a module's output or argument."""
        if self.part is None:
            return value
        if self.part.startswith(":"):
            return value[:, : int(self.part[1:])]
        return value[self.part if isinstance(value, Mapping) else int(self.part)]

    def put(self, value: Any, tensor: Tensor) -> Any:
        """Return the output or argument with the addressed part replaced; the inverse of `pick`."""
        if self.part is None:
            return tensor
        if self.part.startswith(":"):
            return torch.cat([tensor, value[:, int(self.part[1:]) :]], 1)
        parts: Any = dict(value) if isinstance(value, Mapping) else list(value)
        parts[self.part if isinstance(value, Mapping) else int(self.part)] = tensor
        return type(value)(parts)


def parse(address: str) -> Address:
    """Parse an address; `ArgumentError` if it is malformed.

    >>> parse("decoder(skips)[0]")
    Address(path='decoder', argument='skips', call=None, part='0', after=None)
    """
    whole, _, after = address.partition(">")
    match = re.fullmatch(r"([^][()@]*)(?:\((\w+)\))?(?:@(\d+))?(?:\[(:\d+|\w+)\])?", whole)
    if match is None:
        raise ArgumentError(
            f"layer {address!r} is not a valid address; write it as module, module[1], "
            f"module(argument), module@2 or module>later"
        )
    path, argument, call, part = match.groups()
    return Address(path, argument, None if call is None else int(call), part, after or None)


def unwrap(net: nn.Module) -> nn.Module:
    """Return the network inside `DataParallel`, `DistributedDataParallel` or ``torch.compile``.

    `ArgumentError` for a TorchScript network.
    """
    while True:
        if isinstance(net, torch.jit.ScriptModule):
            raise ArgumentError(
                "a TorchScript network runs no hooks, so its layers cannot be read; give the "
                "module that it was scripted from, or its torch.export archive (.pt2)"
            )
        if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        elif isinstance(inner := getattr(net, "_orig_mod", None), nn.Module):
            net = inner
        else:
            return net
