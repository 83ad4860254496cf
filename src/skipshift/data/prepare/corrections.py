"""What a person said of proposed masks: marks in CSVs, and masks painted anew."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skipshift.data.images import Pixels, read_mask_codes
from skipshift.data.prepare.writing import read_csv
from skipshift.errors import SkipshiftError

ACCEPT, REJECT, PAINT = MARKS = ("accept", "reject", "paint")
"""The mask is right; the object is none, so the case is to go; the mask comes as a painted PNG."""

COLUMNS = ("case", "mark", "mask")


@dataclass(frozen=True)
class Corrections:
    """Corrections by the names of cases."""

    marks: Mapping[str, tuple[str, str]]
    """Mark, and the digest of the mask that was seen."""

    painted: Mapping[str, Path]
    """Files, anything above 0 a mitotic figure."""

    @property
    def rejected(self) -> set[str]:
        """Cases whose object is none."""
        return {case for case, (mark, _) in self.marks.items() if mark == REJECT}

    def apply(self, case: str, proposed: Pixels) -> tuple[Pixels, str]:
        """Give the mask of a case, (H, W), and what a person said of it.

        The latter is ``yes`` if it was painted, or accepted as it is; ``changed`` if it was
        accepted when it looked otherwise; else ``no``.
        """
        if case in self.painted:
            return _read_painted(self.painted[case], proposed.shape), "yes"
        mark, seen = self.marks.get(case, ("", ""))
        if mark != ACCEPT:
            return proposed, "no"
        return proposed, "yes" if seen == digest(proposed) else "changed"

    def unknown(self, cases: Iterable[str]) -> list[str]:
        """Names that are no cases."""
        return sorted({*self.marks, *self.painted} - set(cases))


def read_corrections(folder: Path | None) -> Corrections:
    """Read a folder of CSVs of `COLUMNS` and of PNGs named by their case; none if absent.

    `SkipshiftError` for a mark that is none of `MARKS`, an accepted case without the digest of what
    was accepted, a case of two marks, or one that is painted though it was rejected.
    """
    marks: dict[str, tuple[str, str]] = {}
    if folder is None:
        return Corrections(marks, {})
    if not folder.is_dir():
        raise SkipshiftError(f"{folder}: is no folder of corrections; give the one they are in")
    for path in sorted(folder.rglob("*.csv")):
        table = read_csv(path).reindex(columns=COLUMNS, fill_value="")
        for line, row in enumerate(table.to_dict("records"), 2):
            case, mark, seen = (row[name] for name in COLUMNS)
            where = f"{path}: line {line}: case {case!r}"
            if mark not in MARKS:
                raise SkipshiftError(f"{where} is marked {mark!r}; use one of {', '.join(MARKS)}")
            if mark == ACCEPT and not seen:
                raise SkipshiftError(
                    f"{where} is accepted without the column mask, which says what was seen; mark "
                    f"it on the page of the review"
                )
            if marks.setdefault(case, (mark, seen)) != (mark, seen):
                raise SkipshiftError(f"{where} was marked {marks[case][0]} before; remove one")
    painted = {path.stem: path for path in sorted(folder.rglob("*.png"))}
    corrections = Corrections(marks, painted)
    if both := sorted(corrections.rejected & set(painted)):
        raise SkipshiftError(
            f"{painted[both[0]]}: is painted, but the case is rejected; remove one"
        )
    return corrections


def digest(mask: Pixels) -> str:
    """Tell masks (H, W) apart, in 12 letters."""
    return hashlib.sha256((mask > 0).tobytes()).hexdigest()[:12]


def _read_painted(path: Path, shape: tuple[int, ...]) -> Pixels:
    painted = (read_mask_codes(path) > 0).astype(np.uint8)
    if painted.shape != shape:
        sides = [" x ".join(map(str, sizes[::-1])) for sizes in (painted.shape, shape)]
        raise SkipshiftError(f"{path}: is {sides[0]}, but its case is {sides[1]}; paint it anew")
    return painted
