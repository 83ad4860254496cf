"""Growing arrays of features, in memory up to a budget and on disk beyond it."""

import tempfile
from collections.abc import Hashable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_BLOCK = 2**20
"""Parts are joined into blocks of about this many bytes: many small blocks are slow to read."""


class FeatureStore:
    """Stores arrays that grow in parts along their first axis.

    When all of them together exceed the budget, those that are still growing move to a temporary
    folder, which is removed when the context ends. Arrays already taken stay in memory and count.

    Parameters
    ----------
    budget
        Bytes to keep in memory.
    """

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._bytes = 0
        self._parts: dict[Hashable, list[Array]] = {}
        self._files: dict[Hashable, Path] = {}
        self._lengths: dict[Hashable, int] = {}
        self._folder: Path | None = None
        self._numbers = count()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, key: Hashable, part: Array) -> None:
        """Append (n, ...) to the array of a key; all its parts agree in all axes but the first."""
        self._parts.setdefault(key, []).append(part)
        self._bytes += part.nbytes
        if self._bytes > self._budget:
            for growing in list(self._parts):
                self._spill(growing)

    def take(self, key: Hashable) -> list[Array]:
        """Remove and return the array of a key, in blocks along its first axis.

        In memory the blocks are the parts that were added, since joining all of them would need as
        much memory again; small ones are joined. On disk the array is one block.
        """
        if key not in self._files:
            parts = self._parts.pop(key)
            each = max(1, _BLOCK // parts[0].nbytes)
            runs = [parts[start : start + each] for start in range(0, len(parts), each)]
            return [run[0] if len(run) == 1 else np.concatenate(run) for run in runs]
        self._spill(key)
        last = self._parts.pop(key)[0]
        shape = (self._lengths.pop(key), *last.shape[1:])
        return [np.memmap(self._files.pop(key), last.dtype, "r", shape=shape)]

    def _spill(self, key: Hashable) -> None:
        """Append the parts of a key to its file; keep an empty part for its shape and dtype."""
        if self._folder is None:
            self._folder = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        self._files.setdefault(key, self._folder / str(next(self._numbers)))
        parts = self._parts[key]
        with self._files[key].open("ab") as file:
            for part in parts:
                part.tofile(file)
                self._bytes -= part.nbytes
        self._lengths[key] = self._lengths.get(key, 0) + sum(map(len, parts))
        self._parts[key] = [parts[-1][:0].copy()]
