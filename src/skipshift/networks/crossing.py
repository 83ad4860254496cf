"""Paths of any network: the tensors that cross from its encoder to its decoder, found by a trace.

The encoder is the module that is called so, or all that leads to the deepest map. What it gives and
others read crosses. Where such a tensor is no map, or can be replaced nowhere, what is computed of
it crosses instead, until something reads the deepest map.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from string import ascii_lowercase

from torch import Tensor, nn

from skipshift.networks.trace import Trace, traced

_ENCODER = re.compile(r"(^|\.)(encoder|backbone|trunk|features|vit|swinViT|segformer|mit)$")


@dataclass(frozen=True)
class Crossing:
    """A tensor that crosses from the encoder to the decoder."""

    name: str
    """``L2`` at stride 4, ``bottleneck``, or where the stride is no power of two ``s3``."""
    address: str
    """Empty where no hook can replace it."""
    tensor: int


def crossings(net: nn.Module, example: Tensor) -> tuple[Crossing, ...]:
    """Find what the decoder reads, the finest first and the bottleneck last, by one forward pass.

    ``example`` is (1, C, ...). Empty where there is no encoder: no map is smaller than the image.
    """
    return crossings_of(traced(net, example))


def crossings_of(trace: Trace) -> tuple[Crossing, ...]:
    """Find what the decoder reads in a traced forward pass."""
    readers = trace.readers()
    inside, found = _cut(trace, encoder_of(trace), readers)
    deepest = max(found, key=partial(_depth, trace), default=None)
    levels: Counter[str] = Counter()
    crossing = []
    for tensor in sorted(found, key=lambda t: (t == deepest, trace.stride(t), t)):
        name = "bottleneck" if tensor == deepest else _level(trace.stride(tensor))
        levels[name] += 1
        letter = ascii_lowercase[levels[name] - 1] if levels[name] > 1 else ""
        address = _address(trace, tensor, inside, readers[tensor], tensor == deepest)
        crossing.append(Crossing(name + letter, address or "", tensor))
    return tuple(crossing)


def _depth(trace: Trace, tensor: int) -> tuple[bool, bool, float, int]:
    """Order by depth: the image, maps by their stride, then tokens, which have none."""
    return tensor != 0, not trace.is_map(tensor), trace.stride(tensor), tensor


def _level(stride: float) -> str:
    level = math.log2(stride) if stride else 0.5
    return f"L{int(level)}" if level.is_integer() else f"s{stride:g}"


def encoder_of(trace: Trace) -> set[int]:
    """Tensors of the encoder, and all that they are computed of; empty if there is none."""
    named = [
        call
        for call in trace.calls
        if _ENCODER.search(call.path) and any(trace.is_map(t) for t in range(call.start, call.end))
    ]
    if named:
        outer = min(named, key=lambda call: (call.path.count("."), call.index))
        return trace.before([*outer.outputs.values(), *range(outer.start, outer.end)])
    deepest = _deepest(trace)
    return set() if deepest is None else trace.before([deepest])


def _deepest(trace: Trace) -> int | None:
    """Last of the smallest maps that modules give, of those nested in the fewest others."""
    live = trace.before([trace.logits])
    nested: dict[int, int] = {}
    for call in trace.calls[:-1]:
        for tensor in call.outputs.values():
            if tensor in live and trace.is_map(tensor):
                nested[tensor] = min(call.path.count("."), nested.get(tensor, 99))
    sizes = {tensor: trace.shapes[tensor][2:].numel() for tensor in nested}
    least = min(sizes.values(), default=0)
    smallest = [tensor for tensor, size in sizes.items() if size == least]
    if not smallest or least == trace.shapes[0][2:].numel():
        return None
    return max(smallest, key=lambda tensor: (-nested[tensor], tensor))


def _cut(
    trace: Trace, encoder: set[int], readers: Mapping[int, list[int]]
) -> tuple[set[int], set[int]]:
    """Move the border of the encoder on until each tensor that crosses it can be replaced.

    Returns all tensors within the border, and those that cross it.
    """
    inside, done = set(encoder), set[int]()
    while True:
        crossing = {t for t in inside if any(r not in inside for r in readers[t])}
        left = sorted(crossing - done)
        if not left:
            return inside, crossing
        deepest = max(crossing, key=partial(_depth, trace))
        tensor, below = left[0], trace.after([deepest])
        grown = inside | trace.before(r for r in readers[tensor] if r not in inside)
        placed = trace.is_map(tensor) and _address(trace, tensor, inside, readers[tensor], False)
        if placed or (tensor != deepest and grown & below):
            done.add(tensor)
        else:
            inside = grown


def _address(
    trace: Trace, tensor: int, inside: set[int], readers: Iterable[int], deepest: bool
) -> str | None:
    """Address at which a tensor is replaced for all that read it outside, and for no others.

    An argument of the module that reads it, or the output of a module after which only others read
    it; of the deepest tensor the output first. Else any place of it from the end of a module on,
    between those that read it within and outside. None where there is neither.
    """
    within = [reader for reader in readers if reader in inside]
    outside = [reader for reader in readers if reader not in inside]
    outputs, arguments, places = list[str](), list[str](), list[str]()
    for call in trace.calls[:-1]:
        for part, number in call.outputs.items():
            if number == tensor:
                # the outermost module that has ended when the encoder reads it
                ended = call.end <= max(within, default=-1)
                places.insert(0 if ended else len(places), trace.address(call, part))
                if max(within, default=-1) < call.end <= min(outside):
                    # not a module that hands the tensor on, as an identity does
                    made = call.start <= tensor
                    outputs.insert(len(outputs) if made else 0, trace.address(call, part))
        for part, number in call.inputs.items():
            if number == tensor:
                places.append(trace.address(call, part))
                ran = range(call.start, call.end)
                if all(r in ran for r in outside) and not any(r in ran for r in within):
                    # the block that takes it by itself, or else the first to pick it out of many
                    arguments.insert(0 if "[" not in part else len(arguments), places[-1])
    chosen = [*outputs[-1:], *arguments[:1]] if deepest else [*arguments[:1], *outputs[-1:]]
    if chosen or not places:
        return next(iter(chosen), None)
    last, first = max(within, default=tensor), min(outside)
    ends = [call for call in trace.calls[:-1] if last < call.end <= first]
    return f"{places[0]}>{trace.address(ends[-1], '')}" if ends else None


def left_out(net: nn.Module, example: Tensor, addresses: Iterable[str]) -> list[str]:
    """Name what is read beside the tensors at ``addresses`` by what is computed of them."""
    trace = traced(net, example)
    readers = trace.readers()
    fed = {edge for address in addresses for edge in _fed(trace, address, readers)}
    below = {reader for _, reader in fed}
    below |= trace.after(below)
    reached, left = set[int](), [trace.logits]
    while left:
        tensor = left.pop()
        if tensor not in reached:
            reached.add(tensor)
            left += [read for read in trace.reads[tensor] if (read, tensor) not in fed]
    missed = [
        tensor
        for tensor in sorted(reached - below)
        if any(r in below and r in reached and (tensor, r) not in fed for r in readers[tensor])
    ]
    return list(dict.fromkeys(_place(trace, tensor) for tensor in missed))


def _fed(trace: Trace, address: str, readers: Mapping[int, list[int]]) -> Iterator[tuple[int, int]]:
    """Yield each (tensor, reader) in which the reader is fed another tensor at an address."""
    place, _, after = address.partition(">")
    place = place.partition("[:")[0]
    ends = [call.end for call in trace.calls if after and trace.address(call, "") == after]
    for call in trace.calls:
        first = max([call.end, *ends])
        for part, tensor in call.outputs.items():
            if trace.address(call, part) == place:
                yield from ((tensor, r) for r in readers[tensor] if r >= first)
        for part, tensor in call.inputs.items():
            if trace.address(call, part) == place:
                within = range(first, len(trace.reads)) if ends else range(call.start, call.end)
                yield from ((tensor, r) for r in readers[tensor] if r in within)


def _place(trace: Trace, tensor: int) -> str:
    """Name a tensor by the outermost module that gives it, or by one that takes it."""
    named = [
        trace.address(call, part)
        for sides in ("inputs", "outputs")
        for call in trace.calls[:-1]
        for part, number in getattr(call, sides).items()
        if number == tensor
    ]
    return named[-1] if named else f"a tensor {tuple(trace.shapes[tensor])}"
