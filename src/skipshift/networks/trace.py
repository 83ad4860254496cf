"""Trace of one forward pass: which tensors each tensor is computed of, and which modules ran."""

import contextlib
import inspect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from skipshift.networks.as_found import evaluating
from skipshift.networks.inference import logits_of, run


@dataclass(frozen=True)
class Call:
    """One call of a module: ``path@number``."""

    path: str
    number: int
    index: int
    """In the order in which calls begin."""
    parent: int
    """Index of the call that it was made in; -1 for the network's own."""
    start: int
    end: int
    """Tensors ``start`` to ``end - 1`` were computed in it."""
    inputs: Mapping[str, int]
    """Part of an address -> tensor: ``(skip)``, ``(features)[2]``."""
    outputs: Mapping[str, int]
    """Part of an address -> tensor: empty, ``[2]`` or ``[out]``."""


@dataclass(frozen=True)
class Trace:
    """Tensors that depend on the image, numbered in the order in which they are computed."""

    reads: Sequence[tuple[int, ...]]
    """The tensors that each is computed of; the image is tensor 0."""
    shapes: Sequence[torch.Size]
    calls: Sequence[Call]
    """In the order in which they end; the last is the network's own."""
    logits: int

    def address(self, call: Call, part: str) -> str:
        """Address of an input or output of a call."""
        again = sum(other.path == call.path for other in self.calls) > 1
        number = f"@{call.number}" if again else ""
        argument, bracket, rest = part.partition("[")
        return f"{call.path}{argument}{number}{bracket}{rest}"

    def is_map(self, tensor: int) -> bool:
        """Whether a tensor has the axes of the image, and more than one position."""
        shape = self.shapes[tensor]
        return len(shape) == len(self.shapes[0]) and shape[2:].numel() > 1

    def stride(self, tensor: int) -> float:
        """Side of the image over that of a map, the largest over the axes; 0 where it is no map."""
        if not self.is_map(tensor):
            return 0.0
        sides = zip(self.shapes[0][2:], self.shapes[tensor][2:], strict=True)
        return max(side / own for side, own in sides)

    def readers(self) -> Mapping[int, list[int]]:
        """Tensors computed of each tensor that lead to the logits."""
        live = self.before([self.logits])
        found: dict[int, list[int]] = defaultdict(list)
        for tensor in sorted(live):
            for read in self.reads[tensor]:
                found[read].append(tensor)
        return found

    def before(self, tensors: Iterable[int], stop: Iterable[int] = ()) -> set[int]:
        """Find these tensors and all that they are computed of, not beyond those of ``stop``."""
        found, left, stops = set(), list(tensors), set(stop)
        while left:
            tensor = left.pop()
            if tensor not in found:
                found.add(tensor)
                left += () if tensor in stops else self.reads[tensor]
        return found

    def after(self, tensors: Iterable[int]) -> set[int]:
        """All tensors that are computed of these, without themselves."""
        first = set(tensors)
        found: set[int] = set()
        for tensor, reads in enumerate(self.reads):
            if any(read in found or read in first for read in reads):
                found.add(tensor)
        return found - first


def traced(net: nn.Module, example: Tensor) -> Trace:
    """Trace a network's forward pass of an example (1, C, ...); it is left as it was found.

    Tensors are told apart by identity, with views and changes in place as tensors of their own, so
    it does not matter how a tensor is handed on: as an argument, an attribute or by a hook.
    `ArgumentError` if the network cannot run, or gives no logits.
    """
    recorder = _Recorder(example.clone())
    with evaluating(net), contextlib.ExitStack() as hooks:
        for path, module in net.named_modules():
            enter, leave = recorder.hooks(path)
            hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        with recorder:
            output = run(net, recorder.alive[0])
    logits = recorder.number(logits_of(output)) or 0
    return Trace(recorder.reads, recorder.shapes, recorder.calls, logits)


@dataclass
class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Numbers the tensors that depend on an image, as operations and modules run."""

    image: Tensor
    reads: list[tuple[int, ...]] = field(default_factory=list)
    shapes: list[torch.Size] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    alive: list[Tensor] = field(default_factory=list)
    """Tensors by number, kept so that no identity is used twice."""

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers: dict[int, int] = {}
        self._sharing: dict[int, set[int]] = defaultdict(set)
        self._open: list[Call] = []
        self._entered: Counter[str] = Counter()
        self._add(self.image, ())

    def number(self, value: Any) -> int | None:
        """Return the number of a tensor; None if it does not depend on the image."""
        return self._numbers.get(id(value)) if isinstance(value, Tensor) else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and number what it gives."""
        output = func(*args, **(kwargs or {}))
        given = (self.number(leaf) for leaf in tree_leaves((args, kwargs)))
        reads = tuple(dict.fromkeys(number for number in given if number is not None))
        if reads:
            for tensor in tree_leaves(output):
                if isinstance(tensor, Tensor):
                    self._add(tensor, reads)
        return output

    def _add(self, tensor: Tensor, reads: tuple[int, ...]) -> None:
        number, sharing = len(self.reads), self._sharing[tensor.untyped_storage().data_ptr()]
        known = id(tensor) in self._numbers
        self.reads.append(reads)
        self.shapes.append(tensor.shape)
        self.alive.append(tensor)
        self._numbers[id(tensor)] = number
        if known:
            # changed in place, and with it all that share its memory
            self._numbers |= dict.fromkeys(sharing, number)
        sharing.add(id(tensor))

    def hooks(self, path: str) -> tuple[Any, Any]:
        """Hooks that record the calls of a module."""

        def enter(module: nn.Module, inputs: Any, keywords: Any) -> None:
            self._entered[path] += 1
            found: dict[str, int] = {}
            with contextlib.suppress(TypeError, ValueError):
                bound = inspect.signature(module.forward).bind(*inputs, **keywords)
                for name, value in bound.arguments.items():
                    found |= {f"({name}){part}": tensor for part, tensor in self._parts(value)}
            parent = self._open[-1].index if self._open else -1
            index, start = self._entered.total() - 1, len(self.reads)
            call = Call(path, self._entered[path], index, parent, start, start, found, {})
            self._open.append(call)

        def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
            call = self._open.pop()
            self.calls.append(replace(call, end=len(self.reads), outputs=dict(self._parts(output))))

        return enter, leave

    def _parts(self, value: Any) -> Iterator[tuple[str, int]]:
        """Yield the part of an address and the number of each tensor in a value."""
        parts: Iterable[tuple[str, Any]] = [("", value)]
        if isinstance(value, Mapping):
            parts = [(f"[{key}]", each) for key, each in value.items()]
        elif isinstance(value, list | tuple):
            parts = [(f"[{index}]", each) for index, each in enumerate(value)]
        for part, each in parts:
            number = self.number(each)
            if number is not None:
                yield part, number
