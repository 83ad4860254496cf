"""Groups of a folder's images, by a pattern of their names or by a CSV; and the unit in words."""

from collections.abc import Sequence
from pathlib import Path

from skipshift.data.manifest import name_fault, shorten
from skipshift.data.prepare.patterns import compile_pattern
from skipshift.data.prepare.writing import read_csv
from skipshift.errors import SkipshiftError

COLUMNS = ("image", "group")


def groups_of_files(files: Sequence[Path], named: str | None) -> list[str]:
    """Give the group of each file: by a pattern such as ``{group}_*`` or a CSV ``image,group``.

    A pattern is matched with the name of a file, with or without its ending; by default a file is
    a group of its own. `SkipshiftError` names a file that has no group, or a row of the CSV;
    `ArgumentError` for a wrong pattern.
    """
    if named is None:
        return [file.stem for file in files]
    if named.lower().endswith(".csv"):
        return _by_table(files, Path(named))
    expression = compile_pattern(named, "group")
    groups = []
    for file in files:
        names = (file.name, file.stem, file.name.partition(".")[0])
        match = next(filter(None, map(expression.fullmatch, names)), None)
        if match is None:
            raise SkipshiftError(
                f"{file}: does not match the pattern {named!r} of --group; correct the pattern, or "
                f"give a CSV with the columns image,group"
            )
        groups.append(match["group"])
    return groups


def _by_table(files: Sequence[Path], path: Path) -> list[str]:
    table = read_csv(path)
    if missing := [column for column in COLUMNS if column not in table]:
        raise SkipshiftError(f"{path}: lacks the column {missing[0]}; it must have image,group")
    for line, group in enumerate(table["group"], 2):
        if fault := name_fault(group):
            raise SkipshiftError(f"{path}: line {line}: group {shorten(group)} {fault}; rename it")
    known = dict(zip(table["image"], table["group"], strict=True))
    groups = []
    for file in files:
        names = [name for name in (str(file), file.name, file.stem) if name in known]
        if not names:
            raise SkipshiftError(f"{path}: has no row for the image {file.name}; add one")
        groups.append(known[names[0]])
    return groups


def unit_text(groups: Sequence[str], told: bool, kind: str = "images") -> str:
    """Say what the unit of all statistics is: the groups of a set.

    ``told`` is whether somebody said what the groups are.

    >>> unit_text(["p1", "p1", "p2"], told=True)
    '3 images in 2 groups'
    >>> unit_text(["a", "b"], told=False)
    '2 images, each a group of its own: give --group if several are of one patient'
    """
    number = len(set(groups))
    if number == len(groups) and not told:
        return (
            f"{number} {kind}, each a group of its own: give --group if several are of one patient"
        )
    return f"{len(groups)} {kind} in {number} group{'' if number == 1 else 's'}"
