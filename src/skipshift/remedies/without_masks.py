"""The rule that recommends a remedy where the shifted set has no masks: by the excess it leaves.

Features can agree although the segmentation is worse. So a remedy must also leave no clear excess,
and relabel far more of the shifted set than of a set that is not shifted
(`skipshift.remedies.negative_control`). Of those that leave about the same excess the smallest
change is taken.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from skipshift.page.remedy_sentences import CUT, LOST, SHIFTED
from skipshift.remedies.judging import Judged, collapsed, ruined
from skipshift.remedies.negative_control import Checked
from skipshift.remedies.setting import JOIN
from skipshift.statistics.excess import difference

Check = Callable[[int], Checked]
"""Row of the table -> what its control found."""


@dataclass
class ByExcess:
    """Remedies that clearly lower the excess, checked from the best on until one passes."""

    table: pd.DataFrame
    judged: Sequence[Judged | None]
    """By row of the table, with the weight that is chosen."""

    plain: Judged
    """The unmended network."""

    check: Check | None
    """None without images of the reference, or of a search that was cut short: then nothing is
    asked."""

    asked: dict[int, Checked] = field(default_factory=dict)

    @cached_property
    def lower(self) -> list[int]:
        """Rows that leave clearly less excess than the unmended network, the least first."""
        known = self.table["excess_left"].dropna().sort_values(kind="stable")
        return [row for row in known.index if self._clearly_less(row, None)]

    def best(self) -> int | None:
        """Row of the smallest change that leaves not clearly more excess than any other.

        A pair, only if it leaves clearly less than the best single remedy.
        """
        singles = [row for row in self.lower if not self._is_pair(row)]
        least = self._first(singles)
        best = None
        if least is not None:
            near = [row for row in singles if not self._clearly_less(least, row)]
            best = self._first(sorted(near, key=self.table["parameters"].__getitem__))
        pairs = (row for row in self.lower if self._is_pair(row))
        pair = self._first(row for row in pairs if self._clearly_less(row, best))
        return best if pair is None else pair

    def passed_over(self, row: int, ask: bool = False) -> str:
        """Why a row that lowers the excess is not recommended; empty if nothing speaks against it.

        The control speaks of a row that it was asked of before, or is asked now.
        """
        one = self.judged[row]
        if one is None or collapsed(one, self.plain) or ruined(one, self.plain):
            return LOST
        if "prune" in self._remedies(row):
            return CUT
        if one.excess is None or not one.excess.interval()[0] <= 0:
            return SHIFTED
        if self.check is not None and ask and row not in self.asked:
            self.asked[row] = self.check(row)
        return self.asked[row].against if row in self.asked else ""

    def _first(self, rows: Iterable[int]) -> int | None:
        """First of several rows that nothing speaks against."""
        return next((row for row in rows if not self.passed_over(row, ask=True)), None)

    def _clearly_less(self, row: int, other: int | None) -> bool:
        """Whether a row leaves clearly less excess than another one, or the unmended network."""
        one, two = self.judged[row], self.plain if other is None else self.judged[other]
        if one is None or two is None or one.excess is None or two.excess is None:
            return False
        _, low, _ = difference(two.excess, one.excess)
        return low > 0

    def _is_pair(self, row: int) -> bool:
        return len(self._remedies(row)) > 1

    def _remedies(self, row: int) -> list[str]:
        return str(self.table.loc[row, "remedy"]).split(JOIN)
