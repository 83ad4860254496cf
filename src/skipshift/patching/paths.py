"""Paths of a network: the tensors that its decoder reads, and the decoder block behind each."""

import re
from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.names import listed
from skipshift.networks.addresses import parse
from skipshift.networks.architectures import known_layers
from skipshift.networks.crossing import crossings
from skipshift.networks.features import as_input, input_like
from skipshift.networks.layers import layers_of
from skipshift.statistics.recovery import ALL, NONE


def paths_of(
    net: nn.Module,
    paths: Mapping[str, str] | Sequence[str] | None = None,
    images: Tensor | npt.NDArray[Any] | None = None,
) -> dict[str, str]:
    """Return the addresses of paths by name; by default every skip, L1 first, and the bottleneck.

    A skip is named by its level, the base-2 logarithm of its stride: L1 is the skip at stride 2. In
    an unknown architecture the paths are the tensors that cross from encoder to decoder in a
    forward pass of ``images`` (N, C, ...). `ArgumentError` if a path does not exist, or if none are
    named where none are found.
    """
    known = _known_paths(net)
    if not known and images is not None and not isinstance(paths, Mapping):
        known = _traced_paths(net, images)
    if paths is None:
        if not known:
            raise ArgumentError(
                f"paths must be named for a {type(net).__name__}: give name -> address of each "
                f"tensor that the decoder reads"
            )
        return known
    chosen = dict(layers_of(net, paths)) if isinstance(paths, Mapping) else {}
    for path in () if isinstance(paths, Mapping) else paths:
        try:
            chosen |= {path: known[path]} if path in known else layers_of(net, [path])
        except ArgumentError as error:
            has = f"; its paths are {', '.join(known)}" if known else ""
            raise ArgumentError(f"path {path!r}: {error}{has}") from None
    if not chosen or {NONE, ALL} & set(chosen):
        raise ArgumentError(
            f"paths must name at least one path, and none of them none or all, got {list(chosen)}"
        )
    return chosen


def _known_paths(net: nn.Module) -> dict[str, str]:
    known = {}
    for layer in known_layers(net):
        if layer.kind == "skip":
            known[_level(layer.name)] = layer.address
        elif layer.kind == "bottleneck":
            known["bottleneck"] = layer.address
    return dict(reversed(known.items()))


def _traced_paths(net: nn.Module, images: Tensor | npt.NDArray[Any]) -> dict[str, str]:
    found = crossings(net, as_input(torch.as_tensor(images[:1]), input_like(net)))
    if hidden := [crossing.name for crossing in found if not crossing.address]:
        raise ArgumentError(
            f"paths must be named for a {type(net).__name__}: its decoder reads {listed(hidden)} "
            f"where no module gives or takes it; give name -> address of each tensor that it reads"
        )
    return {crossing.name: crossing.address for crossing in found}


def all_paths(net: nn.Module, paths: Mapping[str, str]) -> dict[str, str]:
    """Addresses of all that the decoder should read: the given paths, and those that are known."""
    return {**_known_paths(net), **paths}


def blocks_behind(net: nn.Module, paths: Mapping[str, str]) -> dict[str, str]:
    """Addresses of the decoder block that reads each path, by the path's name.

    In a known architecture the next decoder block in depth order; elsewhere the module of which the
    path is an argument. Paths for which there is neither are left out.
    """
    known = known_layers(net)
    found: dict[str, str] = {}
    for path, address in paths.items():
        place = [i for i, layer in enumerate(known) if layer.address == address]
        if place and known[place[0]].kind in ("skip", "bottleneck"):
            later = [layer.address for layer in known[place[0] :] if layer.kind == "decoder"]
            found |= {path: later[0]} if later else {}
        elif (at := parse(address)).argument is not None and at.path and not at.after:
            found[path] = at.path
    return found


def links_of(net: nn.Module) -> list[tuple[str, str, str]]:
    """Return name, source and target of each skip of a known architecture.

    The source is the encoder layer that it leaves: the one whose features it passes on, else the
    last of its stride. The target is the decoder block that it enters. Skips without a source are
    left out, such as those that leave the image itself.
    """
    known, links = known_layers(net), []
    for i, layer in enumerate(known):
        if layer.kind != "skip":
            continue
        stage = "e" + layer.name[1:].rstrip(ascii_lowercase)
        alike = [k.name for k in known[:i] if k.name.rstrip(ascii_lowercase) == stage]
        source = layer.same_as or "".join(alike[-1:])
        target = next((k.name for k in known[i:] if k.kind == "decoder"), "")
        if source and target:
            links.append((_level(layer.name), source, target))
    return links


def _level(layer: str) -> str:
    """Level of the skip with a layer's name: ``s8`` is L3."""
    match = re.fullmatch(r"s(\d+)([a-z]?)", layer)
    if match is None or int(match[1]).bit_count() != 1:
        return layer
    return f"L{int(match[1]).bit_length() - 1}{match[2]}"
