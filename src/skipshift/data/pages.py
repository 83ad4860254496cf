"""TIFF files of several pages, by tifffile."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skipshift.errors import SkipshiftError, unreadable
from skipshift.extras import load_extra

Values = npt.NDArray[Any]

ENDINGS = (".tif", ".tiff")

CHANNELS, SLICES, OBJECTS = "channels", "slices", "objects"
"""What the pages of a file may be."""

_NAMED = {"S": CHANNELS, "C": CHANNELS, "Z": SLICES, "T": SLICES}
"""Axes that the file names; what others are is for the user to say."""


def read_pages(path: Path, kinds: Collection[str], single: bool = False) -> Values | None:
    """Read a TIFF file as (Z, H, W, C) by what its pages are; None if it has one.

    ``single`` reads a file of one page too. Of `OBJECTS` each page becomes a slice. Smaller pages
    are levels of a pyramid or thumbnails and are not read. `SkipshiftError` if the file is broken,
    or if its pages are not of these kinds.
    """
    tifffile = load_extra("tifffile", "formats")
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            lengths = _lengths(series.axes, series.shape)
            if not (single or set(lengths) - {"S"}):
                return None
            _check_series(path, file.series)
            photometric = series.keyframe.photometric
            if photometric == tifffile.PHOTOMETRIC.PALETTE:
                raise SkipshiftError(f"{path}: has pages with a palette; save them as grey or RGB")
            meanings = _meanings(path, lengths, kinds)
            pixels = series.asarray()
    except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError) as error:
        raise unreadable(path, "a TIFF file", error) from None
    if photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    return _arranged(pixels, series.axes, meanings)


def _lengths(axes: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Lengths of the axes beside rows and columns, without those of one."""
    pairs = zip(axes, shape, strict=True)
    return {axis: length for axis, length in pairs if axis not in "YX" and length > 1}


def _check_series(path: Path, series: list[Any]) -> None:
    """Raise a `SkipshiftError` unless the first of the series is larger than each other one."""
    areas = [math.prod(one.keyframe.shape[:2]) for one in series]
    if max(areas[1:], default=0) >= areas[0]:
        raise SkipshiftError(
            f"{path}: has pages of one size but of different kinds; save each as a file of its own"
        )


def _meanings(path: Path, lengths: Mapping[str, int], kinds: Collection[str]) -> dict[str, str]:
    """Find what each axis is; `SkipshiftError` if that cannot be told or is not wanted."""
    pages = set(lengths) - {"S"}
    if len(pages) == 1 and OBJECTS in kinds:
        meanings = dict.fromkeys(pages, OBJECTS)
    else:
        wanted = [kind for kind in kinds if kind != OBJECTS]
        guess = wanted[0] if len(wanted) == 1 else ""
        meanings = {axis: _NAMED.get(axis, guess) for axis in lengths}
    if len(set(meanings.values())) < len(lengths) or not {meanings[axis] for axis in pages} <= set(
        kinds
    ):
        shown = " x ".join(f"{length} {axis}" for axis, length in lengths.items())
        raise SkipshiftError(
            f"{path}: its pages ({shown}) are not all {' or '.join(kinds) or 'of one image'}; give "
            f"the --pages that they are, or save each page as a file"
        )
    return meanings


def _arranged(pixels: Values, axes: str, meanings: Mapping[str, str]) -> Values:
    """Bring pixels to (Z, H, W, C); axes of length one are dropped."""
    kept = [axis for axis in axes if axis in "YX" or axis in meanings]
    pixels = pixels.reshape([pixels.shape[axes.index(axis)] for axis in kept])
    places = [{"Y": 1, "X": 2}.get(a) or (3 if meanings[a] == CHANNELS else 0) for a in kept]
    full = np.transpose(pixels, np.argsort(places))
    for missing in sorted({0, 3} - set(places)):
        full = np.expand_dims(full, missing)
    return full
