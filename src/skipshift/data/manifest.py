"""The manifest: a CSV of cases, checked as it is read; and its cases as arrays."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.data.images import Pixels, read_image, read_mask
from skipshift.specs import SkipshiftError

COLUMNS = ("case", "image", "mask", "domain", "group", "split", "stratum")
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Case:
    """One image with its mask, decoded."""

    case: str
    domain: str
    group: str
    image: Pixels
    """(H, W, C) uint8."""
    mask: Pixels
    """(H, W) uint8 class indices."""


def read_manifest(path: Path) -> pd.DataFrame:
    """Read and check a manifest.

    Returns
    -------
    A row per case with the columns of `COLUMNS` as strings; ``image`` and ``mask`` are made
    absolute. `SkipshiftError` names the line for a missing column or file, a path that leaves the
    manifest's folder, a repeated case, an unknown split, or a group on both sides of the split.
    """
    path = Path(path)
    try:
        cases = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SkipshiftError(f"{path}: cannot be read as a manifest: {reason}") from None
    if missing := [column for column in COLUMNS if column not in cases]:
        raise SkipshiftError(
            f"{path}: lacks the column {missing[0]}; the header must be {','.join(COLUMNS)}"
        )
    if cases.empty:
        raise SkipshiftError(f"{path}: has no cases; give it one row per image")
    cases = cases[list(COLUMNS)]
    _check_rows(path, cases)
    for column in ("image", "mask"):
        cases[column] = [_inside(path, text, line) for line, text in enumerate(cases[column], 2)]
    return cases


def read_cases(
    cases: pd.DataFrame, classes: int, crop: int | None = None, threads: int = 2
) -> Iterator[Case]:
    """Decode cases in order, a few ahead of the consumer; ``crop`` cuts a centred square.

    `SkipshiftError` if a mask and its image differ in size or the crop is larger than the image.
    """
    with ThreadPoolExecutor(threads) as pool:
        rows = [cases.iloc[[i]] for i in range(len(cases))]
        ahead = 4 * threads
        waiting = [pool.submit(_read_case, row, classes, crop) for row in rows[:ahead]]
        for row in [*rows[ahead:], *[None] * min(ahead, len(rows))]:
            yield waiting.pop(0).result()
            if row is not None:
                waiting.append(pool.submit(_read_case, row, classes, crop))


def centre_crop(pixels: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Cut the centred square of ``side`` from (H, W, ...); `ValueError` if it does not fit."""
    height, width = pixels.shape[:2]
    if side > min(height, width):
        raise ValueError(f"a crop of {side} does not fit an image of {width} x {height}")
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def _check_rows(path: Path, cases: pd.DataFrame) -> None:
    unknown = cases[~cases["split"].isin(SPLITS)]
    if len(unknown):
        raise SkipshiftError(
            f"{path}: line {unknown.index[0] + 2} has split {unknown['split'].iloc[0]!r}; "
            f"it must be one of {', '.join(SPLITS)}"
        )
    repeated = cases[cases.duplicated(["case", "domain"])]
    if len(repeated):
        raise SkipshiftError(
            f"{path}: line {repeated.index[0] + 2} repeats case {repeated['case'].iloc[0]!r}; "
            f"give each case of a domain its own name"
        )
    sides = cases.groupby("group")["split"].nunique()
    if (sides > 1).any():
        raise SkipshiftError(
            f"{path}: group {sides.index[sides > 1][0]!r} is both in train and in test; "
            f"put all its cases on one side"
        )


def _inside(manifest: Path, text: str, line: int) -> str:
    folder = manifest.parent.absolute()
    file = Path(os.path.normpath(folder / text))
    if not text or Path(text).is_absolute() or not file.is_relative_to(folder):
        raise SkipshiftError(
            f"{manifest}: line {line}: path {text!r} leaves the manifest's folder; "
            f"put the file below it and give a relative path"
        )
    if not file.is_file():
        raise SkipshiftError(f"{manifest}: line {line}: {text} does not exist; restore the file")
    return str(file)


def _read_case(row: pd.DataFrame, classes: int, crop: int | None) -> Case:
    values = row.iloc[0]
    image = read_image(Path(values["image"]))
    mask = read_mask(Path(values["mask"]), classes)
    if image.shape[:2] != mask.shape:
        sizes = [f"{shape[1]} x {shape[0]}" for shape in (mask.shape, image.shape)]
        raise SkipshiftError(f"{values['mask']}: is {sizes[0]}, but its image is {sizes[1]}")
    if crop is not None:
        try:
            image, mask = centre_crop(image, crop), centre_crop(mask, crop)
        except ValueError as error:
            raise SkipshiftError(f"{values['image']}: {error}") from None
    image, mask = np.ascontiguousarray(image), np.ascontiguousarray(mask)
    return Case(values["case"], values["domain"], values["group"], image, mask)
