"""Review results of proposed masks: marks in CSVs, and repainted masks as PNG."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skipshift.data.images import Pixels, read_mask_codes
from skipshift.data.prepare.writing import read_csv
from skipshift.errors import SkipshiftError

ACCEPT, REJECT, PAINT = MARKS = ("accept", "reject", "paint")
"""The mask is correct; the case is no mitotic figure and is dropped; the mask is a painted PNG."""

COLUMNS = ("case", "mark", "mask")


@dataclass(frozen=True)
class Corrections:
    """Review results by case name."""

    marks: Mapping[str, tuple[str, str]]
    """Mark, and the digest of the reviewed mask."""

    painted: Mapping[str, Path]
    """PNG files; any value above 0 is mitotic figure."""

    @property
    def rejected(self) -> set[str]:
        """Cases that are no mitotic figure."""
        return {case for case, (mark, _) in self.marks.items() if mark == REJECT}

    def apply(self, case: str, proposed: Pixels) -> tuple[Pixels, str]:
        """Give the final mask of a case, (H, W), and whether it was reviewed.

        ``yes`` if it was repainted, or accepted as it is now; ``changed`` if another mask was
        accepted; otherwise ``no``. `SkipshiftError` if a painted mask differs in size.
        """
        if case in self.painted:
            return _read_painted(self.painted[case], proposed.shape), "yes"
        mark, reviewed = self.marks.get(case, ("", ""))
        if mark != ACCEPT:
            return proposed, "no"
        return proposed, "yes" if reviewed == digest(proposed) else "changed"

    def unknown(self, cases: Iterable[str]) -> list[str]:
        """List the names that match none of the cases."""
        return sorted({*self.marks, *self.painted} - set(cases))


def read_corrections(folder: Path | None) -> Corrections:
    """Read a folder of CSVs with `COLUMNS` and of PNGs named by case; empty if it is None.

    `SkipshiftError` for an unknown mark, an accepted case without the digest of its mask, a case
    with two marks, or one that is both painted and rejected.
    """
    marks: dict[str, tuple[str, str]] = {}
    if folder is None:
        return Corrections(marks, {})
    if not folder.is_dir():
        raise SkipshiftError(f"{folder}: is not a folder; give the folder with the corrections")
    for path in sorted(folder.rglob("*.csv")):
        table = read_csv(path).reindex(columns=COLUMNS, fill_value="")
        for line, row in enumerate(table.to_dict("records"), 2):
            case, mark, reviewed = (row[name] for name in COLUMNS)
            where = f"{path}: line {line}: case {case!r}"
            if mark not in MARKS:
                raise SkipshiftError(
                    f"{where} has mark {mark!r}; it must be one of {', '.join(MARKS)}"
                )
            if mark == ACCEPT and not reviewed:
                raise SkipshiftError(
                    f"{where} is accepted but its column mask is empty; accept it on the review "
                    f"page, which fills it in"
                )
            if marks.setdefault(case, (mark, reviewed)) != (mark, reviewed):
                raise SkipshiftError(f"{where} already has mark {marks[case][0]}; remove one")
    painted = {path.stem: path for path in sorted(folder.rglob("*.png"))}
    corrections = Corrections(marks, painted)
    if both := sorted(corrections.rejected & set(painted)):
        raise SkipshiftError(
            f"{painted[both[0]]}: is painted, but its case is rejected; remove one"
        )
    return corrections


def digest(mask: Pixels) -> str:
    """Digest of a mask (H, W), 12 hexadecimal digits."""
    return hashlib.sha256((mask > 0).tobytes()).hexdigest()[:12]


def _read_painted(path: Path, shape: tuple[int, ...]) -> Pixels:
    painted = (read_mask_codes(path) > 0).astype(np.uint8)
    if painted.shape != shape:
        sides = [" x ".join(map(str, sizes[::-1])) for sizes in (painted.shape, shape)]
        raise SkipshiftError(
            f"{path}: is {sides[0]}, but its case is {sides[1]}; repaint it at that size"
        )
    return painted
