"""Forward hooks on named layers: keep what passes there, or change it."""

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.networks.layers import Address, module_of, parse, unwrap

T = TypeVar("T")


@contextlib.contextmanager
def tapped(
    net: nn.Module, taps: Mapping[str, str], reduce: Callable[[str, Any], T]
) -> Iterator[dict[str, T]]:
    """Yield a dict that forward passes fill: layer name -> ``reduce(name, tensor at its address)``.

    The tensor is reduced as soon as it is there, before a later in-place operation can change it.
    """
    kept: dict[str, T] = {}

    def keep(name: str, value: Any) -> None:
        kept[name] = reduce(name, value)

    with visited(net, taps, keep):
        yield kept


@contextlib.contextmanager
def visited(
    net: nn.Module, taps: Mapping[str, str], visit: Callable[[str, Any], Tensor | None]
) -> Iterator[None]:
    """Call ``visit(name, tensor at its address)`` in forward passes; what it returns goes on.

    None leaves the tensor as it is. `ArgumentError` if a module runs more than once in a forward
    pass and the address does not say which run is meant.
    """
    net = unwrap(net)
    calls: Counter[str] = Counter()

    def hook_for(name: str, address: Address) -> Callable[..., Any]:
        def hook(module: nn.Module, inputs: Any, named: Any, output: Any = None) -> Any:
            calls[name] += 1
            if address.call is None and calls[name] > 1:
                raise ArgumentError(
                    f"layer {name}: its module runs more than once in a forward pass; "
                    f"say which run is meant, {address.path}@1 or {address.path}@2"
                )
            if address.call not in (None, calls[name]):
                return None
            if address.argument is None:
                new = visit(name, address.pick(output))
                return None if new is None else address.put(output, new)
            bound = inspect.signature(module.forward).bind(*inputs, **named)
            value = bound.arguments.get(address.argument)
            new = visit(name, address.pick(value))
            if new is None:
                return None
            bound.arguments[address.argument] = address.put(value, new)
            return bound.args, bound.kwargs

        return hook

    with contextlib.ExitStack() as hooks:
        hooks.callback(net.register_forward_pre_hook(lambda *_: calls.clear()).remove)
        for name, text in taps.items():
            address, module = parse(text), module_of(net, text)
            hook = hook_for(name, address)
            if address.argument is None:
                handle = module.register_forward_hook(hook, with_kwargs=True)
            else:
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            hooks.callback(handle.remove)
        yield
