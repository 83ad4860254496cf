"""Selection of a network's layers by name, address or pattern, and the default selection."""

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.networks.addresses import parse, unwrap
from skipshift.networks.architectures import known_layers
from skipshift.networks.stages import stages_of

Layers = Sequence[str] | Mapping[str, str]
"""Names of known layers, addresses, or patterns of either, in which ``*`` matches within one
component of a path and ``**`` across components; as a mapping, name -> address."""


def module_of(net: nn.Module, address: str) -> nn.Module:
    """Return the module of an address; `ArgumentError` lists similar names if there is none."""
    parsed = parse(address)
    try:
        module = net.get_submodule(parsed.path)
    except AttributeError:
        raise ArgumentError(_unknown(net, address)) from None
    if parsed.argument is not None:
        arguments = list(inspect.signature(module.forward).parameters)
        if parsed.argument not in arguments:
            raise ArgumentError(
                f"layer {address}: {type(module).__name__} has no argument {parsed.argument!r}, "
                f"only {', '.join(arguments)}"
            )
    return module


def layers_of(
    net: nn.Module, layers: Layers | None = None, example: Tensor | None = None
) -> dict[str, str]:
    """Return the addresses of layers by name, in depth order.

    Without ``layers``, the layers of `known_layers`, except skips that pass an encoder stage's
    feature map on unchanged, which would appear twice. In an unknown architecture its stages, as
    `stages_of` finds them in one forward pass of ``example`` (1, C, ...). Modules that match a
    pattern keep the order in which the network registers them.

    `ArgumentError` if a layer does not exist, if the architecture is unknown and neither
    ``layers`` nor ``example`` is given, or if the network is of TorchScript.
    """
    net, wrapped = unwrap(net), net
    scripts = [isinstance(module, torch.jit.ScriptModule) for module in (net, *net.children())]
    if scripts[0] or (scripts[1:] and all(scripts[1:])):
        raise ArgumentError(
            "a network of TorchScript hides its layers: it can be evaluated, not profiled or "
            "patched; load its weights with a builder, or an archive of torch.export"
        )
    if layers is not None and wrapped is not net:
        layers = _without_wrapper(layers)
    if isinstance(layers, Mapping):
        addresses = dict(layers)
        for address in addresses.values():
            module_of(net, address)
    elif layers is not None:
        known = {layer.name: layer.address for layer in known_layers(net)}
        addresses = {}
        for layer in layers:
            addresses |= _matching(net, known, layer)
    else:
        addresses = {layer.name: layer.address for layer in known_layers(net) if not layer.same_as}
        if not addresses and example is not None:
            addresses = stages_of(net, example)
        if not addresses:
            some = ", ".join(name for name, _ in list(net.named_modules())[1:6])
            raise ArgumentError(
                f"layers must be named for a {type(net).__name__}; its first modules are {some}"
            )
    if not addresses:
        raise ArgumentError("layers must name at least one module")
    return addresses


def _matching(net: nn.Module, known: Mapping[str, str], layer: str) -> dict[str, str]:
    """Layers that one name, address or pattern selects; names of known layers take precedence."""
    if layer in known:
        return {layer: known[layer]}
    if "*" not in layer:
        module_of(net, layer)
        return {layer: layer}
    parts = [re.escape(part).replace(r"\*", "[^.]*") for part in layer.split("**")]
    pattern = re.compile(".*".join(parts))
    containers = (nn.ModuleList, nn.ModuleDict)  # have no forward pass of their own
    modules = {n: n for n, m in net.named_modules() if n and not isinstance(m, containers)}
    for names in (known, modules):
        if matches := {n: address for n, address in names.items() if pattern.fullmatch(n)}:
            return matches
    raise ArgumentError(_unknown(net, layer))


def _without_wrapper(layers: Layers) -> Layers:
    if isinstance(layers, Mapping):
        return dict(zip(layers, _without_wrapper(list(layers.values())), strict=True))
    return [re.sub(r"^(module\.|_orig_mod\.)+", "", address) for address in layers]


def _unknown(net: nn.Module, layer: str) -> str:
    path = layer.split("[")[0].split("(")[0].split("@")[0]
    modules = [name for name, _ in net.named_modules()][1:]
    names = [known.name for known in known_layers(net)] + modules
    near = [n for n in names if path and n.split(".")[-1] == path.split(".")[-1]]
    near = near or difflib.get_close_matches(path, names, n=4, cutoff=0.4) or names
    return f"layer {layer!r} is not in the network; the nearest are {', '.join(near[:4])}"
