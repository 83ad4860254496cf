"""Path patterns that match images with their masks, and the table of their metadata."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from skipshift.data.prepare.options import FolderSpec
from skipshift.data.prepare.writing import Remarks, read_csv
from skipshift.data.slices import DOUBLE, ENDINGS, is_zarr
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import ORIGINAL, shown

FIELDS = ("domain", "group", "case")
COLUMNS = ("case", "domain", "group", "split", "stratum")
"""Columns that a table may have; case is required."""

Fields = dict[str, str]

Keyed = tuple[tuple[str, ...], dict[tuple[str, ...], list[Path]]]
"""Names of some fields, and files by their values."""


@dataclass(frozen=True)
class CaseFiles:
    """An image file with its mask files."""

    name: str
    """Name of the case."""
    domain: str
    group: str
    split: str
    """Empty if the table does not state it."""
    stratum: str
    image: Path
    masks: tuple[tuple[Path, ...], ...]
    """Files of each mask pattern, in the order of the patterns."""
    valid: Path | None = None
    """Mask of the field of view."""


def compile_pattern(pattern: str, needed: str = "case") -> "re.Pattern[str]":
    """Compile a path pattern to a regular expression; `ArgumentError` for a wrong pattern.

    ``needed`` is the field that it must contain.

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
            raise ArgumentError(f"pattern {pattern!r} has {part}, which is not one of {known}")
        else:
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)"
            seen.add(name)
    if needed not in seen:
        raise ArgumentError(
            f"pattern {pattern!r} must contain {{{needed}}}, the name of the {needed}"
        )
    return re.compile(expression)


def find_cases(spec: FolderSpec) -> tuple[list[CaseFiles], Remarks]:
    """Find every image with its masks.

    Returns
    -------
    Cases in the order of their paths, and the names of files without a counterpart or row.

    `SkipshiftError` if no image can be used, or if two images or masks belong to one case;
    `ArgumentError` for a wrong pattern.
    """
    files = list_files(spec.src)
    images, unsupported = _match(files, spec.images, spec.src)
    if not images:
        raise SkipshiftError(_no_match(files, unsupported, spec))
    masks = [_by_key(files, mask.split("=", 1)[-1], spec) for mask in spec.masks]
    valid = None if spec.valid is None else _by_key(files, spec.valid, spec)
    remarks: Remarks = defaultdict(list, {"files of unsupported formats, left out": unsupported})
    rows = _read_rows(spec)
    used: set[Path] = set()
    cases: list[CaseFiles] = []
    for path, fields in images.items():
        name = path.relative_to(spec.src).as_posix()
        case_masks = tuple(tuple(by_key.get(_key(fields, keys), ())) for keys, by_key in masks)
        used |= {path for paths in case_masks for path in paths}
        row = _row_of(path, fields["case"], rows, spec)
        if not any(case_masks):
            remarks["images without a mask, left out"].append(name)
        elif row is None:
            remarks["images without a row in the table, left out"].append(name)
        else:
            if not all(case_masks):
                remarks["images without a file for some class, treated as absent"].append(name)
            case = _join(path, case_masks, fields, row)
            cases.append(
                case if valid is None else replace(case, valid=_view_of(case, fields, valid))
            )
    unused = {path for _, by_key in masks for paths in by_key.values() for path in paths} - used
    remarks["masks without an image"] = sorted(p.relative_to(spec.src).as_posix() for p in unused)
    if not cases:
        reasons = "; ".join(f"{remark}: {len(names)}" for remark, names in remarks.items() if names)
        raise SkipshiftError(f"{spec.src}: no image can be used: {reasons}")
    _check_unique(cases, spec)
    return cases, remarks


def list_files(src: Path) -> list[Path]:
    """List the files below a folder in order, following links.

    An OME-Zarr image, which is a folder, counts as one file; a folder of DICOM files is listed too.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(src, followlinks=True):
        here = Path(folder)
        # a link to a folder above would never end
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [here / name for name in names]
        found += [here / name for name in folders if is_zarr(here / name)]
        folders[:] = [name for name in folders if not is_zarr(here / name)]
        if here != src and any(name.lower().endswith(".dcm") for name in names):
            found.append(here)
    return sorted(path for path in found if path.exists())


def _no_match(files: Sequence[Path], unsupported: Sequence[str], spec: FolderSpec) -> str:
    if unsupported:
        endings = sorted({Path(name).suffix or "no ending" for name in unsupported})
        return (
            f"{spec.src}: no file that matches the pattern {spec.images!r} has a format that is "
            f"read: {len(unsupported)} with {shown(endings[:5])}; convert them, for example to PNG"
        )
    first = f"the first is {files[0].relative_to(spec.src)}" if files else "there are none"
    return f"{spec.src}: no file matches the pattern {spec.images!r}; {first}"


def _view_of(case: CaseFiles, fields: Mapping[str, str], valid: Keyed) -> Path:
    """Find the field-of-view mask of a case; `SkipshiftError` unless there is exactly one."""
    keys, by_key = valid
    files = by_key.get(_key(fields, keys), [])
    if len(files) != 1:
        raise SkipshiftError(
            f"{case.image}: has {len(files) or 'no'} field-of-view masks; correct --valid, or give "
            f"each image one"
        )
    return files[0]


def _match(files: Sequence[Path], pattern: str, src: Path) -> tuple[dict[Path, Fields], list[str]]:
    """Files that match a pattern, with its fields, and the names of those of other formats."""
    expression = compile_pattern(pattern)
    matches: dict[Path, Fields] = {}
    unsupported = []
    for path in files:
        name = path.relative_to(src).as_posix()
        match = expression.fullmatch(name)
        if match is None or path.name.startswith("."):
            continue
        if path.name.lower().endswith(ENDINGS) or path.is_dir():
            fields = match.groupdict()
            # {case}.* matches x.nii.gz at its last dot
            if path.name.lower().endswith(DOUBLE):
                fields["case"] = re.sub(r"\.(nii|ome)$", "", fields["case"], flags=re.IGNORECASE)
            matches[path] = fields
        else:
            unsupported.append(name)
    return matches, unsupported


def _by_key(files: Sequence[Path], pattern: str, spec: FolderSpec) -> Keyed:
    """Mask files by the fields that their pattern shares with the image pattern."""
    keys = tuple(compile_pattern(pattern).groupindex)
    if unshared := set(keys) - set(compile_pattern(spec.images).groupindex):
        raise ArgumentError(
            f"mask pattern {pattern!r} has {{{min(unshared)}}}, which is missing in the image "
            f"pattern {spec.images!r}"
        )
    by_key: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for path, fields in _match(files, pattern, spec.src)[0].items():
        by_key[_key(fields, keys)].append(path)
    return keys, by_key


def _key(fields: Mapping[str, str], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(fields[key] for key in keys)


def _read_rows(spec: FolderSpec) -> dict[str, Fields] | None:
    """Rows of the table by case; None without a table."""
    if spec.table is None:
        return None
    path = spec.src / spec.table
    table = read_csv(path)
    for text in spec.columns:
        name, _, column = text.partition("=")
        if name not in COLUMNS:
            raise ArgumentError(
                f"columns must be NAME=COLUMN with NAME one of {COLUMNS}, got {text!r}"
            )
        if column not in table:
            raise SkipshiftError(f"{path}: has no column {column!r}, only {list(table.columns)}")
        table[name] = table[column]
    if "case" not in table:
        raise SkipshiftError(
            f"{path}: has no column 'case', only {list(table.columns)}; name it with "
            f"--columns case=COLUMN"
        )
    if (repeated := table["case"].duplicated()).any():
        line = int(repeated.to_numpy().argmax()) + 2
        raise SkipshiftError(f"{path}: line {line} repeats case {table['case'][line - 2]!r}")
    known = table[[name for name in COLUMNS if name in table]]
    return {row["case"]: {str(k): v for k, v in row.items()} for row in known.to_dict("records")}


def _row_of(
    path: Path, case: str, rows: dict[str, Fields] | None, spec: FolderSpec
) -> Fields | None:
    """Row of an image, identified by case, file name or relative path."""
    if rows is None:
        return {}
    names = (case, path.name, path.relative_to(spec.src).as_posix())
    return next((rows[name] for name in names if name in rows), None)


def _join(
    path: Path, masks: tuple[tuple[Path, ...], ...], fields: Fields, row: Fields
) -> CaseFiles:
    """Join the fields of path and table; those of the path take precedence."""
    case = fields["case"]
    known = row | fields
    return CaseFiles(
        # file names are often unique only within a group's folder
        name=f"{fields['group']}-{case}" if "group" in fields else case,
        domain=known.get("domain", ORIGINAL),
        group=known.get("group", case),
        split=known.get("split", ""),
        stratum=known.get("stratum", ""),
        image=path,
        masks=masks,
    )


def _check_unique(cases: Sequence[CaseFiles], spec: FolderSpec) -> None:
    """Check that no two images share a case, and that a case has one mask where it must."""
    images: dict[tuple[str, str], Path] = {}
    for case in cases:
        first = images.setdefault((case.domain, case.name), case.image)
        if first != case.image:
            raise SkipshiftError(
                f"{case.image}: is case {case.name!r} of domain {case.domain!r}, and so is "
                f"{first}; narrow the image pattern"
            )
        if not any("=" in mask for mask in spec.masks) and not spec.instances:
            files = case.masks[0]
            if len(files) > 1:
                raise SkipshiftError(
                    f"{files[1]}: is a mask of case {case.name!r}, and so is {files[0]}; narrow "
                    f"the mask pattern, or add --instances"
                )
