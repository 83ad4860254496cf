"""Forward hooks on named layers: capture their tensors, or replace them."""

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.networks.addresses import Address, parse, unwrap
from skipshift.networks.layers import module_of

T = TypeVar("T")


class EnoughError(BaseException):
    """All that is asked of a forward pass is there; no fault, so no network may catch it."""


@contextlib.contextmanager
def captured(
    net: nn.Module,
    layers: Mapping[str, str],
    reduce: Callable[[str, Any], T],
    whole: bool = True,
) -> Iterator[dict[str, T]]:
    """Yield a dict that forward passes fill: layer name -> ``reduce(name, tensor)``.

    ``layers`` are names and addresses. A tensor is reduced at once, before a later in-place
    operation can overwrite it. Without ``whole`` a pass ends, and with it the block, as soon as all
    layers are there.
    """
    results: dict[str, T] = {}

    def keep(name: str, value: Any) -> None:
        results[name] = reduce(name, value)
        if not whole and len(results) == len(layers):
            raise EnoughError

    with contextlib.suppress(EnoughError), hooked(net, layers, keep):
        yield results


@contextlib.contextmanager
def hooked(
    net: nn.Module, layers: Mapping[str, str], function: Callable[[str, Any], Tensor | None]
) -> Iterator[None]:
    """Call ``function(name, tensor)`` at each layer in forward passes; its result goes on instead.

    ``layers`` are names and addresses; a result of None leaves the tensor as it is. The hooks run
    before the network's own, which see the replaced tensor. `ArgumentError` if a module runs more
    than once in a forward pass and its address does not specify the call.
    """
    net = unwrap(net)
    calls: Counter[str] = Counter()
    with contextlib.ExitStack() as handles:
        # prepended, since decoders such as fastai's DynamicUnet read their skips in forward hooks;
        # reversed, since each hook is put before the previous one
        for name, text in reversed(list(layers.items())):
            for place, own in _placed(name, text, function):
                address, module = parse(place), module_of(net, place)
                register = (
                    module.register_forward_hook
                    if address.argument is None
                    else module.register_forward_pre_hook
                )
                hook = _hook(f"{name} {place}", address, own, calls)
                handles.callback(register(hook, prepend=True, with_kwargs=True).remove)
        reset = net.register_forward_pre_hook(lambda *_: calls.clear(), prepend=True)
        handles.callback(reset.remove)
        yield


_Function = Callable[[Any], Tensor | None]


def _placed(
    name: str, text: str, function: Callable[[str, Any], Tensor | None]
) -> list[tuple[str, _Function]]:
    """Addresses at which a layer needs hooks, and what each of them does with the tensor."""
    place, _, after = text.partition(">")
    if not after:
        return [(text, lambda value: function(name, value))]
    kept: list[Any] = []

    def keep(value: Any) -> None:
        kept[:] = [value]

    def overwrite(_value: Any) -> None:
        value: Any = kept.pop() if kept else None
        new = function(name, value)
        if new is not None:
            # all that read it from now on see the new values, however it is handed on
            with torch.inference_mode(value.is_inference()):
                value.copy_(new)

    return [(place, keep), (after, overwrite)]


def _hook(name: str, address: Address, function: _Function, calls: Counter[str]) -> Any:
    """Make the hook of one address; ``calls`` counts those of its module in a forward pass."""

    def hook(module: nn.Module, inputs: Any, keywords: Any, output: Any = None) -> Any:
        calls[name] += 1
        if address.call is None and calls[name] > 1:
            raise ArgumentError(
                f"layer {name.partition(' ')[0]}: its module runs more than once in a forward "
                f"pass; specify the call, {address.path}@1 or {address.path}@2"
            )
        if address.call not in (None, calls[name]):
            return None
        if address.argument is None:
            new = function(address.pick(output))
            return None if new is None else address.put(output, new)
        bound = inspect.signature(module.forward).bind(*inputs, **keywords)
        value = bound.arguments.get(address.argument)
        new = function(address.pick(value))
        if new is None:
            return None
        bound.arguments[address.argument] = address.put(value, new)
        return bound.args, bound.kwargs

    return hook
