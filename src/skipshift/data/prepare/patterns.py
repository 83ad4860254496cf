"""Images and their masks found by patterns of paths, and what a table says of them."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skipshift.data.prepare.options import FolderSpec
from skipshift.data.prepare.writing import Remarks, read_csv
from skipshift.data.slices import ENDINGS
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import ORIGINAL

FIELDS = ("domain", "group", "case")
COLUMNS = ("case", "domain", "group", "split", "stratum")
"""What a table may tell; it must tell the case."""

Fields = dict[str, str]


@dataclass(frozen=True)
class Item:
    """An image file with its mask files."""

    case: str
    domain: str
    group: str
    split: str
    """Empty where no table says it."""
    stratum: str
    image: Path
    masks: tuple[tuple[Path, ...], ...]
    """Files of each mask pattern, in its order."""


def compile_pattern(pattern: str) -> "re.Pattern[str]":
    """Turn a pattern of paths into a regular expression.

    >>> compile_pattern("{domain}/*/{case}.png").fullmatch("A/x/7.png").groupdict()
    {'domain': 'A', 'case': '7'}
    """
    seen: set[str] = set()
    expression = ""
    for part in re.split(r"(\{[^}]*\}|\*)", pattern):
        name = part[1:-1]
        if part == "*":
            expression += "[^/]*"
        elif not part.startswith("{"):
            expression += re.escape(part)
        elif name not in FIELDS:
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise ArgumentError(f"pattern {pattern!r} has {part}, which is none of {known}")
        else:
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)"
            seen.add(name)
    if "case" not in seen:
        raise ArgumentError(f"pattern {pattern!r} must have {{case}}, the name of a case")
    return re.compile(expression)


def find_items(spec: FolderSpec) -> tuple[list[Item], Remarks]:
    """Find every image with its masks; `SkipshiftError` if there is none or a case is there twice.

    Returns
    -------
    Items in the order of their paths, and the names of what has no partner or row.
    """
    files = sorted(path for path in spec.src.rglob("*") if path.is_file())
    images, others = _matches(files, spec.images, spec.src)
    if not images:
        there = f"the first is {files[0].relative_to(spec.src)}" if files else "there is none"
        raise SkipshiftError(f"{spec.src}: no file matches the pattern {spec.images!r}; {there}")
    masks = [_by_key(files, mask.split("=", 1)[-1], spec) for mask in spec.masks]
    remarks: Remarks = defaultdict(list, {"files of other formats, left out": others})
    rows = _rows(spec)
    used: set[Path] = set()
    items: list[Item] = []
    for path, fields in images.items():
        name = path.relative_to(spec.src).as_posix()
        own = tuple(tuple(found.get(_key(fields, keys), ())) for keys, found in masks)
        used |= {path for paths in own for path in paths}
        row = _row_of(path, fields["case"], rows, spec)
        if not any(own):
            remarks["images without a mask, left out"].append(name)
        elif row is None:
            remarks["images without a row in the table, left out"].append(name)
        else:
            if not all(own):
                remarks["images without a file of some class, taken as absent"].append(name)
            items.append(_item(path, own, fields, row))
    unused = {path for _, found in masks for paths in found.values() for path in paths} - used
    remarks["masks without an image"] = sorted(p.relative_to(spec.src).as_posix() for p in unused)
    if not items:
        told = "; ".join(f"{remark}: {len(names)}" for remark, names in remarks.items() if names)
        raise SkipshiftError(f"{spec.src}: no image can be used: {told}")
    _check_items(items, spec)
    return items, remarks


def _matches(
    files: Sequence[Path], pattern: str, src: Path
) -> tuple[dict[Path, Fields], list[str]]:
    """Files that match a pattern, with its fields, and the names of those of other formats."""
    expression = compile_pattern(pattern)
    found: dict[Path, Fields] = {}
    others = []
    for path in files:
        name = path.relative_to(src).as_posix()
        match = expression.fullmatch(name)
        if match is None or path.name.startswith("."):
            continue
        if path.name.lower().endswith(ENDINGS):
            fields = match.groupdict()
            # the last dot of a pattern's {case}.* is the one before gz
            found[path] = fields | {"case": fields["case"].removesuffix(".nii")}
        else:
            others.append(name)
    return found, others


def _by_key(
    files: Sequence[Path], pattern: str, spec: FolderSpec
) -> tuple[tuple[str, ...], dict[tuple[str, ...], list[Path]]]:
    """Mask files by the fields that their pattern shares with that of the images."""
    keys = tuple(compile_pattern(pattern).groupindex)
    if alien := set(keys) - set(compile_pattern(spec.images).groupindex):
        raise ArgumentError(
            f"pattern {pattern!r} has {{{min(alien)}}}, which the pattern of the images has not"
        )
    found: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for path, fields in _matches(files, pattern, spec.src)[0].items():
        found[_key(fields, keys)].append(path)
    return keys, found


def _key(fields: Mapping[str, str], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(fields[key] for key in keys)


def _rows(spec: FolderSpec) -> dict[str, Fields] | None:
    """Read what the table says of each case; None without a table."""
    if spec.table is None:
        return None
    path = spec.src / spec.table
    table = read_csv(path)
    for text in spec.columns:
        name, _, column = text.partition("=")
        if name not in COLUMNS:
            raise ArgumentError(f"columns must be NAME=COLUMN with NAME of {COLUMNS}, got {text!r}")
        if column not in table:
            raise SkipshiftError(f"{path}: has no column {column!r}, only {list(table.columns)}")
        table[name] = table[column]
    if "case" not in table:
        raise SkipshiftError(
            f"{path}: has no column 'case', only {list(table.columns)}; name it with "
            f"--columns case=COLUMN"
        )
    if (twice := table["case"].duplicated()).any():
        line = int(twice.to_numpy().argmax()) + 2
        raise SkipshiftError(f"{path}: line {line} repeats case {table['case'][line - 2]!r}")
    known = table[[name for name in COLUMNS if name in table]]
    return {row["case"]: {str(k): v for k, v in row.items()} for row in known.to_dict("records")}


def _row_of(
    path: Path, case: str, rows: dict[str, Fields] | None, spec: FolderSpec
) -> Fields | None:
    """Row of an image, named by its case, its file's name or its path below the source."""
    if rows is None:
        return {}
    names = (case, path.name, path.relative_to(spec.src).as_posix())
    return next((rows[name] for name in names if name in rows), None)


def _item(path: Path, masks: tuple[tuple[Path, ...], ...], fields: Fields, row: Fields) -> Item:
    """Join what the path and the table say; the path goes first."""
    case = fields["case"]
    known = row | fields
    return Item(
        # in a folder of each patient the names of files begin anew
        case=f"{fields['group']}-{case}" if "group" in fields else case,
        domain=known.get("domain", ORIGINAL),
        group=known.get("group", case),
        split=known.get("split", ""),
        stratum=known.get("stratum", ""),
        image=path,
        masks=masks,
    )


def _check_items(items: Sequence[Item], spec: FolderSpec) -> None:
    places: dict[tuple[str, str], Path] = {}
    for item in items:
        first = places.setdefault((item.domain, item.case), item.image)
        if first != item.image:
            raise SkipshiftError(
                f"{item.image}: is case {item.case!r} of domain {item.domain!r}, and so is "
                f"{first}; narrow the pattern of the images"
            )
        if not any("=" in mask for mask in spec.masks) and not spec.instances:
            files = item.masks[0]
            if len(files) > 1:
                raise SkipshiftError(
                    f"{files[1]}: is a mask of case {item.case!r}, and so is {files[0]}; narrow "
                    f"the pattern of the masks, or add --instances"
                )
