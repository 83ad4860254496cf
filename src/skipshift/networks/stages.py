"""Default layers of an unknown network: its stages, as its owner would name them, by a trace.

A module that gives several maps, as encoders do, gives a stage with each. One that gives a single
map is a stage, unless its parts are: the network's own parts where it has few, and modules within
which the size changes more than once, other than pyramids, which return to the size that they take.
Of operations in a row (convolution, norm, activation) the last counts. Tokens and attention are no
maps.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from skipshift.networks.crossing import crossings_of
from skipshift.networks.trace import Call, Trace, traced

_FEW = 4
"""Parts of a network of encoder, decoder and heads; one of more parts has stages as parts."""

_PYRAMID = 4
"""Stride from which a module that returns to the size it takes is a pyramid and no U-net."""


def stages_of(net: nn.Module, example: Tensor) -> dict[str, str]:
    """Return the addresses of a network's stages by name, in the order in which they are computed.

    ``example`` is (1, C, ...). The tensors that cross to the decoder are among them, so the
    encoder's last stage is.
    """
    trace = traced(net, example)
    found: dict[int, str] = {}
    for tensor, address in _stages(trace, trace.calls[-1], _children(trace)):
        found.setdefault(tensor, address)
    for crossing in crossings_of(trace):
        tensor = crossing.tensor
        # a copy or another view of a stage is that stage
        copies = any(
            t in found and trace.shapes[t] == trace.shapes[tensor] for t in trace.reads[tensor]
        )
        if ">" not in crossing.address and trace.is_map(tensor) and not copies:
            found.setdefault(tensor, crossing.address)
    return {found[tensor]: found[tensor] for tensor in sorted(found) if tensor and found[tensor]}


def _children(trace: Trace) -> Mapping[int, list[Call]]:
    found: dict[int, list[Call]] = {call.index: [] for call in trace.calls}
    for call in trace.calls[:-1]:
        found[call.parent].append(call)
    return found


def _stages(
    trace: Trace, call: Call, children: Mapping[int, list[Call]]
) -> Iterator[tuple[int, str]]:
    """Yield the tensor and address of each stage within a call."""
    own = children[call.index]
    maps = {part: tensor for part, tensor in call.outputs.items() if trace.is_map(tensor)}
    if call.path and len(maps) > 1:
        names = {t: trace.address(c, part) for c in own for part, t in c.outputs.items()}
        yield from ((t, names.get(t, trace.address(call, part))) for part, t in maps.items())
    elif not call.path or (maps and _parts_differ(trace, call, own, children)):
        for child, after in zip(own, [*own[1:], None], strict=True):
            if children[child.index] or not _goes_on(trace, child, after):
                yield from _stages(trace, child, children)
    else:
        yield from ((tensor, trace.address(call, part)) for part, tensor in maps.items())


def _goes_on(trace: Trace, call: Call, after: Call | None) -> bool:
    """Whether an operation only prepares the next call, which gives a map of the same size."""
    sizes = [_sizes(trace, each) for each in (call, after) if each is not None]
    return len(sizes) == 2 and bool(sizes[0]) and sizes[0] == sizes[1]


def _sizes(trace: Trace, call: Call) -> set[torch.Size]:
    return {trace.shapes[t][2:] for t in call.outputs.values() if trace.is_map(t)}


def _parts_differ(
    trace: Trace, call: Call, own: Sequence[Call], children: Mapping[int, list[Call]]
) -> bool:
    """Whether the parts of a module are stages rather than the module itself."""
    taken = {trace.shapes[t][2:] for t in call.inputs.values() if trace.is_map(t)}
    given = {trace.shapes[t][2:] for t in call.outputs.values()}
    strides = {trace.stride(tensor) for tensor in call.outputs.values()}
    sizes = taken | given | {size for child in own for size in _sizes(trace, child)}
    if len(sizes) + (not taken) > 2 and not (taken == given and min(strides) >= _PYRAMID):
        return True
    blocks = [child for child in own if children[child.index]]
    last = set(call.outputs.values())
    return (
        call.parent == trace.calls[-1].index
        and len(children[call.parent]) <= _FEW
        and len(own) > len(blocks) > 0
        and not any(set(block.outputs.values()) & last for block in blocks)
    )
