"""Repeated forward passes over one batch that recompute only what a patch changes."""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map  # torch has no public traversal of outputs

from skipshift.errors import ArgumentError
from skipshift.networks.inference import logits_of, run
from skipshift.networks.layers import module_of

Way = Callable[[nn.Module, Tensor], Tensor]
"""Network and images -> logits."""


def plainly(net: nn.Module, images: Tensor) -> Tensor:
    """Logits of a network as it is."""
    return logits_of(run(net, images))


class Forward(Protocol):
    """Runs a network on a batch."""

    def __call__(self, way: Way = plainly) -> Tensor:
        """Return the logits."""
        ...


@contextlib.contextmanager
def cached(
    net: nn.Module, layers: Mapping[str, str], images: Tensor, changed: Collection[str] = ()
) -> Iterator[Forward]:
    """Yield a function that runs a network on a batch, faster from the second call on.

    The first call records inputs and outputs of the largest modules that contain no address of
    ``layers`` and none of the modules ``changed``, whose weights differ between calls. In later
    calls a module whose inputs are the same tensors, not changed in place since, returns its
    recorded output: nothing of an encoder is computed again, and of a decoder what follows the
    first patch. Call it in ``torch.no_grad()``: inference mode does not count changes in place.

    Tensors that are handed on in ways that a module's inputs do not show are not seen: as an
    attribute, in an object that is kept, by a hook. So a trial must show that this network hands on
    none. `ArgumentError` if the network changes the batch.
    """
    calls: dict[nn.Module, list[_Call]] = {}
    recording = True

    def with_cache(module: nn.Module) -> Callable[..., Any]:
        compute = module.forward

        @functools.wraps(compute)
        def forward(*inputs: Any, **keywords: Any) -> Any:
            versions = _versions((inputs, keywords))
            for call in calls[module]:
                if _same(call.inputs, versions) and _same(call.outputs, _versions(call.result)):
                    return _copied(call.result)
            result = compute(*inputs, **keywords)
            if recording:
                calls[module].append(_Call(versions, _versions(result), _copied(result)))
            return result

        return forward

    def forward_pass(way: Way = plainly) -> Tensor:
        nonlocal recording
        before = images._version
        logits = way(net, images)
        if images._version != before:
            raise ArgumentError(
                "the network changes its images in place; make it change a copy instead"
            )
        recording = False
        return logits

    with contextlib.ExitStack() as restored:
        addressed = {module_of(net, address) for address in layers.values()}
        reweighted = {net.get_submodule(name) for name in changed}
        modules = dict.fromkeys(_cacheable(net, addressed, reweighted))
        for module in modules:
            calls[module] = []
            if "forward" in vars(module):
                restored.callback(setattr, module, "forward", module.forward)
            else:
                restored.callback(delattr, module, "forward")
            module.forward = with_cache(module)
        yield forward_pass


@contextlib.contextmanager
def out_of_place(net: nn.Module) -> Iterator[None]:
    """Let activations of a network leave their inputs as they are.

    What was overwritten in place cannot be remembered. A network that reads elsewhere what an
    activation overwrote gives other logits so; a trial must show that this one does not.
    """
    inplace = [m for m in net.modules() if getattr(m, "inplace", None) is True]
    with contextlib.ExitStack() as restored:
        for module in inplace:
            restored.callback(setattr, module, "inplace", True)
            module.inplace = False  # type: ignore[assignment]
        yield


_Versions = list[tuple[Any, int]]
"""Tensors and numbers of a call, and how often each tensor had been changed in place by then."""


@dataclass(frozen=True)
class _Call:
    """One recorded call of a module."""

    inputs: _Versions
    outputs: _Versions
    result: Any


def _versions(tree: Any) -> _Versions:
    return [(leaf, leaf._version if isinstance(leaf, Tensor) else 0) for leaf in tree_leaves(tree)]


def _same(a: _Versions, b: _Versions) -> bool:
    return len(a) == len(b) and all(
        before == after
        and (x is y or not (isinstance(x, Tensor) or isinstance(y, Tensor) or x != y))
        for (x, before), (y, after) in zip(a, b, strict=True)
    )


def _copied(output: Any) -> Any:
    """Copy the containers of an output, not its tensors: a caller may empty a list that it gets."""
    return tree_map(lambda leaf: leaf, output)


def _cacheable(
    module: nn.Module, addressed: set[nn.Module], changed: set[nn.Module]
) -> Iterator[nn.Module]:
    """Yield the largest submodules without a changed module or an addressed one below them."""
    for child in module.children():
        # containers have no forward pass of their own
        container = isinstance(child, nn.ModuleList | nn.ModuleDict)
        below = set(child.modules()) - {child}
        if container or child in changed or below & (addressed | changed):
            yield from _cacheable(child, addressed, changed)
        else:
            yield child
