"""Places of a network where a change can be made: tensors that are mapped, modules that are fitted.

A layer owns the modules that run after the layer before it and up to its own tensor, so that places
follow from one forward pass, whatever the network's class.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skipshift.networks.addresses import parse, unwrap
from skipshift.networks.architectures import known_layers
from skipshift.networks.hooks import captured
from skipshift.networks.inference import run
from skipshift.networks.layers import layers_of
from skipshift.patching.paths import paths_of

Kind = Literal["input", "layer", "skip", "part"]

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)

INPUT, HEAD = "input", "head"

ENCODER, DECODER, ALL = "encoder", "decoder", "all"
"""Parts of a network: several layers together."""


@dataclass(frozen=True)
class Place:
    """Where a change can be made."""

    name: str
    """`INPUT`; the first layer by its module; an encoder stage, skip, ``bottleneck`` or decoder
    block as in a profile (e4, L1, d2); ``head``; ``encoder``, ``decoder`` or ``all``."""

    kind: Kind

    address: str | None = None
    """Address of its tensor, as in a profile; None for the input and for parts."""

    modules: tuple[str, ...] = ()
    """Modules with parameters or statistics of their own, in the order in which they run."""

    giver: str | None = None
    """Module that gives the tensor, where its address is another: an encoder that returns its
    stages together at its end has passed them on by then."""

    @property
    def inside(self) -> bool:
        """Whether it is a layer or a skip, before which all changes there leave all the same."""
        return self.kind in ("layer", "skip")

    @property
    def mapped(self) -> str | None:
        """Address at which a map reaches all that read the tensor."""
        return self.giver or self.address


def places_of(net: nn.Module, example: Tensor) -> tuple[Place, ...]:
    """List the places of a network in the order of its forward pass, parts last.

    Parameters
    ----------
    net
        In evaluation mode.
    example
        (1, C, ...): input of the forward pass that is observed.

    Returns
    -------
    Places of a known architecture, or those of `layers_of` in any other. `ArgumentError` if it
    cannot run on the example.
    """
    net = unwrap(net)
    names, kinds = _layers(net, example)
    ran, ends, givers = _observe(net, example, names)
    owned = _owners(names, kinds, ran, ends)
    places = [Place(INPUT, "input")]
    if ran:
        first = _first(net, ran)
        # a stage of these modules alone would be the same place again
        owned = {name: () if set(own) == set(first) else own for name, own in owned.items()}
        places.append(Place(first[0], "layer", first[0], first))
    for name, address in names.items():
        if ran and name == first[0]:
            continue  # the first module is a layer by itself
        kind: Kind = "skip" if kinds[name] == "skip" else "layer"
        giver = None if kind == "skip" else givers.get(name)
        places.append(Place(name, kind, address, owned[name], giver))
    if owned[HEAD]:
        places.append(Place(HEAD, "layer", None, owned[HEAD]))
    return (*places, *_parts(kinds, owned, ran))


def _layers(net: nn.Module, example: Tensor) -> tuple[dict[str, str], dict[str, str]]:
    """Addresses and kinds of layers by the name of their place, in depth order."""
    known = known_layers(net)
    if not known:
        addresses = layers_of(net, None, example)
        return addresses, dict.fromkeys(addresses, "")
    places = place_names(net)
    names = {places[layer.name]: layer for layer in known}
    return (
        {name: layer.address for name, layer in names.items()},
        {name: layer.kind for name, layer in names.items()},
    )


def place_names(net: nn.Module) -> dict[str, str]:
    """Layer of a known architecture, as a profile names it -> its place: s2 -> L1."""
    levels = {address: name for name, address in paths_of(net).items()}
    return {layer.name: levels.get(layer.address, layer.name) for layer in known_layers(net)}


def _observe(
    net: nn.Module, example: Tensor, addresses: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, int], dict[str, str]]:
    """Run the example; tell which modules ran, and after how many of them each layer was there.

    And which module gave a layer that has no module of its own, if one did that runs once.
    """
    ran: list[str] = []
    ended: dict[str, int] = {}
    given: list[tuple[int, Tensor, str]] = []

    def hook_for(name: str, owns: bool) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if owns and name not in ran:
                ran.append(name)
            ended[name] = len(ran)
            if isinstance(output, Tensor):
                given.append((len(ran), output, name))

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, module in net.named_modules():
            owns = any(True for _ in (*module.parameters(False), *module.buffers(False)))
            hooks.callback(module.register_forward_hook(hook_for(name, owns)).remove)
        with captured(net, addresses, lambda _, tensor: (len(ran), tensor)) as layers:
            run(net, example)
    ends, givers = {}, {}
    calls = Counter(name for _, _, name in given)
    for name, (count, tensor) in layers.items():
        address = parse(addresses[name])
        if address.argument is None and address.part is None:
            ends[name] = ended[address.path]
        else:
            # an encoder returns its stages together at its end, each as a module gave it
            own = [(number, module) for number, other, module in given
                   if other is tensor and number <= count]  # fmt: skip
            ends[name], giver = own[-1] if own else (count, "")
            if calls[giver] == 1:
                givers[name] = giver
    return tuple(ran), ends, givers


def _owners(
    names: Mapping[str, str],
    kinds: Mapping[str, str],
    ran: Sequence[str],
    ends: Mapping[str, int],
) -> dict[str, tuple[str, ...]]:
    """Modules of each layer and of the head; those of a skip are within its own module."""
    own: dict[str, tuple[str, ...]] = {}
    left = list(ran)
    for name, address in names.items():
        place = parse(address)
        if kinds[name] == "skip":
            inside = place.path if place.argument is None and place.part is None else None
            own[name] = tuple(n for n in ran if inside and f"{n}.".startswith(f"{inside}."))
            left = [n for n in left if n not in own[name]]
    layers = sorted((ends.get(name, 0), name) for name in names if kinds[name] != "skip")
    bounds = [(0, ""), *layers, (len(ran), HEAD)]
    for (start, _), (end, name) in pairwise(bounds):
        own[name] = tuple(n for n in ran[start:end] if n in left)
    return own


def _first(net: nn.Module, ran: Sequence[str]) -> tuple[str, ...]:
    """Name the first module with weights, and the normalisation that follows it."""
    weighted = [n for n in ran if getattr(net.get_submodule(n), "weight", None) is not None]
    start = ran.index(weighted[0]) if weighted else 0
    after = ran[start + 1 : start + 2]
    return (ran[start], *(n for n in after if is_norm(net.get_submodule(n))))


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer."""
    return isinstance(module, _NORMS)


def _parts(
    kinds: Mapping[str, str], owned: Mapping[str, tuple[str, ...]], ran: Sequence[str]
) -> Iterator[Place]:
    behind = {n for name, kind in kinds.items() if kind in ("decoder", "skip") for n in owned[name]}
    if behind:
        before = (n for n in ran if n not in behind and n not in owned[HEAD])
        yield Place(ENCODER, "part", None, tuple(before))
        yield Place(DECODER, "part", None, tuple(n for n in ran if n in behind))
    if ran:
        yield Place(ALL, "part", None, tuple(ran))
