"""Attempts: remedies at one place fitted, judged together with each weight, and kept."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from skipshift.remedies.judging import Judge, Judged
from skipshift.remedies.passes import FAULTS, Fitted, reason
from skipshift.remedies.ranking import Row, costs_asked, joined
from skipshift.remedies.setting import Fit


class Known(Protocol):
    """What was judged already, by remedy, place and weight, such as a dict."""

    def get(self, name: str, /) -> Judged | None:
        """Return what was judged, or None."""
        ...

    def __setitem__(self, name: str, judged: Judged, /) -> None:
        """Keep what was judged."""
        ...


@dataclass
class _Attempt:
    """A remedy at a place while it is judged, with each of its weights."""

    row: Row
    judge: Judge
    known: Known
    judged: dict[float, Judged] = field(default_factory=dict)
    failed: str = ""

    @cached_property
    def fit(self) -> Fit | None:
        """How to fit it; None if it changes nothing."""
        return self.row.remedy.offer(self.judge.setting, self.row.place)

    @property
    def result(self) -> Row | None:
        """The row as judged; None if it changes nothing."""
        order = [weight for weight in self.row.remedy.weights if weight in self.judged]
        judged = self.failed or {weight: self.judged[weight] for weight in order}
        return replace(self.row, judged=judged) if judged else None

    def unknown(self) -> Iterator[tuple[float, Fitted]]:
        """Fit it with each weight that was not judged before."""
        one, start = self.row.remedy, time.perf_counter()
        for weight in one.weights:
            if (kept := self.known.get(self._key(weight))) is not None:
                self.judged[weight] = kept
        folds = range(self.judge.setting.shifted.number)
        own = folds if self.row.folds is None else np.flatnonzero(self.row.folds).tolist()
        try:
            for weight in one.weights:
                if weight not in self.judged and self.fit is not None:
                    whole = None if one.fitted else self.fit(None, weight)
                    changes = {fold: whole or self.fit(fold, weight) for fold in own}
                    apart = one.fitted or self.row.folds is not None
                    yield weight, Fitted(changes, apart, time.perf_counter() - start)
                    start = time.perf_counter()
        except FAULTS as fault:
            self.failed = reason(fault)

    def keep(self, weight: float, judged: Judged | str) -> None:
        """Keep what was judged, or why it cannot be."""
        if isinstance(judged, str):
            self.failed = judged
        else:
            self.judged[weight] = self.known[self._key(weight)] = judged

    def cost(self, taken: str | None) -> tuple[float, Fitted] | None:
        """Fit it on all shifted images with the weight that is chosen, if its cost is asked."""
        row, start = self.result, time.perf_counter()
        best = None if row is None else joined(row, self.judge)
        named = f"{self.row.remedy.name}@{self.row.place.name}" == taken
        try:
            if best is None or not costs_asked(best, self.judge, named) or self.fit is None:
                return None
            change = self.fit(None, best.weight)
            return best.weight, Fitted({0: change}, seconds=time.perf_counter() - start)
        except FAULTS as fault:
            self.failed = reason(fault)
            return None

    def _key(self, weight: float) -> str:
        return f"{self.row.remedy.name}@{self.row.place.name}@{weight:g}"


def tried(judge: Judge, known: Known, rows: Sequence[Row], taken: str | None) -> list[Row]:
    """Judge remedies at one place, those that change anything.

    What they cost on the reference is asked only of those that help and of the one ``taken``, with
    the weight that is chosen.
    """
    place = rows[0].place if rows[0].place.inside else None
    attempts = [_Attempt(row, judge, known) for row in rows]
    new = [(one, weight, fitted) for one in attempts for weight, fitted in one.unknown()]
    if new:
        found = judge([fitted for _, _, fitted in new], place)
        for (one, weight, _), judged in zip(new, found, strict=True):
            one.keep(weight, judged)
    asked = [(one, *cost) for one in attempts if (cost := one.cost(taken)) is not None]
    if asked:
        before = [one.judged[weight] for one, weight, _ in asked]
        costs = judge.at_home(before, [fitted for _, _, fitted in asked], place)
        for (one, weight, _), judged in zip(asked, costs, strict=True):
            one.keep(weight, judged)
    return [row for one in attempts if (row := one.result) is not None]


def together(row: Row) -> tuple[str, ...]:
    """Rows of one key are judged in one pass: those at one place of the network."""
    return (row.place.name,) if row.place.inside else (row.place.name, row.remedy.name)
