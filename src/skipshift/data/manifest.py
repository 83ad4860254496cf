"""Manifests: a CSV of cases, validated on reading, and its cases as arrays."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from skipshift.data.images import Pixels, centre_crop, read_image, read_mask
from skipshift.errors import ArgumentError, SkipshiftError, unreadable

COLUMNS = ("case", "image", "mask", "domain", "group", "split", "stratum")
"""Required columns; further ones, such as ``spacing``, are kept."""

SPLITS = ("train", "test")

LONGEST = 200
"""Characters of the longest name: with a path before it, files of this name can be written."""

_QUOTED = 40


@dataclass(frozen=True)
class RowFault:
    """A rule that a row of a manifest breaks."""

    rule: str
    """The rule in a few words, the same for every row that breaks it."""
    where: str
    """The line and what is wrong with it."""
    way_out: str
    """What to do about it."""


@dataclass(frozen=True)
class Case:
    """One image with its mask, decoded."""

    case: str
    domain: str
    group: str
    image: Pixels
    """(H, W, C) uint8."""
    mask: Pixels
    """(H, W) uint8 class indices, or another value where a pixel is not to be counted."""
    spacing: tuple[float, float] | None = None
    """Height and width of a pixel in mm, from the column ``spacing``; None if unknown."""


def read_manifest(path: Path) -> pd.DataFrame:
    """Read and validate a manifest.

    Returns
    -------
    One row per case: `COLUMNS`, then any further columns, as strings; ``image`` and ``mask`` are
    absolute paths. `SkipshiftError` names the line of a missing file, a path outside of the
    manifest's folder, a repeated case, an unknown split, or a group on both sides of the split.
    """
    path = Path(path)
    cases = read_rows(path)
    for fault in row_faults(path, cases):
        raise SkipshiftError(f"{path}: {fault.where}; {fault.way_out}")
    for column in ("image", "mask"):
        cases[column] = [str(resolve_path(path, text)) for text in cases[column]]
    return cases


def read_rows(path: Path) -> pd.DataFrame:
    """Read the rows of a manifest without validating them, all columns as strings.

    `SkipshiftError` if the file cannot be read, lacks a required column or has no rows.
    """
    try:
        cases = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise unreadable(path, "a manifest", error) from None
    if missing := [column for column in COLUMNS if column not in cases]:
        raise SkipshiftError(
            f"{path}: lacks the column {missing[0]}; the header must be {','.join(COLUMNS)}"
        )
    if cases.empty:
        raise SkipshiftError(f"{path}: has no cases; give it one row per image")
    return order_columns(cases)


def order_columns(cases: pd.DataFrame) -> pd.DataFrame:
    """Put `COLUMNS` before all other columns."""
    return cases[[*COLUMNS, *(column for column in cases if column not in COLUMNS)]]


def row_faults(path: Path, cases: pd.DataFrame) -> Iterator[RowFault]:
    """Find all rows that break a rule, rule by rule."""
    yield from _name_faults(cases)
    for line, split in enumerate(cases["split"], 2):
        if split not in SPLITS:
            where, known = f"line {line} has split {split!r}", ", ".join(SPLITS)
            yield RowFault("unknown split", where, f"it must be one of {known}")
    repeats = cases.duplicated(["case", "domain"])
    for line, (case, repeated) in enumerate(zip(cases["case"], repeats, strict=True), 2):
        if repeated:
            where = f"line {line} repeats case {case!r}"
            yield RowFault("repeated case", where, "give each case of a domain its own name")
    sides = cases.groupby("group", sort=False)["split"].nunique()
    for group in sides.index[sides > 1]:
        where = f"group {group!r} is both in train and in test"
        yield RowFault("group on both sides of the split", where, "put all its cases on one side")
    yield from _path_faults(path, cases)


def _name_faults(cases: pd.DataFrame) -> Iterator[RowFault]:
    for column in ("case", "domain", "group", "stratum"):
        for line, text in enumerate(cases[column], 2):
            fault = name_fault(text)
            if fault and (text or column != "stratum"):
                where = f"line {line}: {column} {shorten(text)} {fault}"
                yield RowFault(f"{column} that is no name", where, "give it another name")


def _path_faults(path: Path, cases: pd.DataFrame) -> Iterator[RowFault]:
    for column in ("image", "mask"):
        for line, text in enumerate(cases[column], 2):
            file = resolve_path(path, text)
            if file is None:
                where = f"line {line}: path {shorten(text)} leaves the manifest's folder"
                way_out = "put the file below it and give a relative path"
                yield RowFault("path that leaves the manifest's folder", where, way_out)
            elif not is_file(file):
                shown = text if name_fault(text) is None else shorten(text)
                where = f"line {line}: {shown} does not exist"
                yield RowFault("missing file", where, "restore the file")


def name_fault(text: str) -> str | None:
    """Say what keeps a text from being a name of a case, domain, group or stratum; None if nothing.

    >>> name_fault("patient 7"), name_fault(" "), name_fault("a" + chr(7))
    (None, 'is empty', 'has characters that cannot be shown')
    """
    if not text.strip():
        return "is empty"
    if not text.isprintable():
        return "has characters that cannot be shown"
    if text != text.strip():
        return "begins or ends with a space"
    return f"is longer than {LONGEST} characters" if len(text) > LONGEST else None


def shorten(text: str) -> str:
    """Quote a text for a message, its first characters if it is long."""
    return repr(text if len(text) <= _QUOTED else text[:_QUOTED] + "...")


def is_file(path: Path) -> bool:
    """Whether a path is that of a file; False for a name too long for any file."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file() raises for such a name


def folder_of(manifest: Path) -> Path:
    """Folder that the paths in a manifest start from: absolute, without ``..``."""
    return Path(os.path.normpath(manifest.parent.absolute()))


def resolve_path(manifest: Path, text: str) -> Path | None:
    """Make a path in a manifest absolute; None if it leaves the manifest's folder."""
    folder = folder_of(manifest)
    file = Path(os.path.normpath(folder / text))
    if not text or Path(text).is_absolute() or not file.is_relative_to(folder):
        return None
    return file


def read_cases(
    cases: pd.DataFrame,
    classes: int,
    crop: int | None = None,
    threads: int = 2,
    ignore: int | None = None,
) -> Iterator[Case]:
    """Read cases in order, prefetching a few; ``crop`` is the side of a centre crop.

    Masks hold values below ``classes``, and ``ignore`` where a pixel is not to be counted.

    `SkipshiftError` if a file cannot be read, if a mask and its image differ in size, or if the
    crop is larger than the image.
    """
    with ThreadPoolExecutor(threads) as pool:
        read = partial(_read_case, classes=classes, crop=crop, ignore=ignore)
        rows = [cases.iloc[[i]] for i in range(len(cases))]
        ahead = 4 * threads
        pending = [pool.submit(read, row) for row in rows[:ahead]]
        for row in [*rows[ahead:], *[None] * min(ahead, len(rows))]:
            yield pending.pop(0).result()
            if row is not None:
                pending.append(pool.submit(read, row))


def check_sizes(file: Path, mask: tuple[int, ...], image: tuple[int, ...]) -> None:
    """Raise a `SkipshiftError` unless mask and image have the same height and width."""
    if image[:2] != mask:
        sizes = [f"{shape[0]} x {shape[1]}" for shape in (mask, image)]
        raise SkipshiftError(f"{file}: is {sizes[0]}, but its image is {sizes[1]} (height x width)")


def _read_case(row: pd.DataFrame, classes: int, crop: int | None, ignore: int | None) -> Case:
    values = row.iloc[0]
    image = read_image(Path(values["image"]))
    mask = read_mask(Path(values["mask"]), classes, ignore)
    check_sizes(Path(values["mask"]), mask.shape, image.shape)
    if crop is not None:
        try:
            image, mask = centre_crop(image, crop), centre_crop(mask, crop)
        except ArgumentError as error:
            raise SkipshiftError(f"{values['image']}: {error}") from None
    image, mask = np.ascontiguousarray(image), np.ascontiguousarray(mask)
    spacing = parse_spacing(values.get("spacing", ""))
    return Case(values["case"], values["domain"], values["group"], image, mask, spacing)


def parse_spacing(text: str) -> tuple[float, float] | None:
    """Read a manifest's spacing, height x width of a pixel; None if it is empty or no lengths.

    >>> parse_spacing("1.2x1.25"), parse_spacing("0.25"), parse_spacing("")
    ((1.2, 1.25), (0.25, 0.25), None)
    """
    try:
        sides = [float(side) for side in text.split("x")]
    except ValueError:
        return None
    if len(sides) not in (1, 2) or not all(0 < side < np.inf for side in sides):
        return None
    return sides[0], sides[-1]
