"""Tiles of large images and whole slides: where they lie, and their pixels."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy.typing as npt

from skipshift.data.prepare.regions import grid_corners, map_tissues
from skipshift.data.slices import PICTURES, read_slices, shape_of
from skipshift.data.slides.reader import ENDINGS, Slide, open_slide, states_levels
from skipshift.errors import SkipshiftError

Corner = tuple[int, int]
"""x and y of the upper left corner, in pixels of the file."""


def is_slide(file: Path) -> bool:
    """Whether a file is a whole slide: by its ending, of a TIFF by its pyramid."""
    name = file.name.lower()
    return name.endswith(ENDINGS) and (
        not name.endswith((*PICTURES, ".dcm")) or states_levels(file)
    )


def tile_corners(file: Path, side: int, mpp: float | None, tissue: float) -> list[Corner]:
    """Find the tiles that lie wholly in an image, row by row; of a slide those with tissue.

    ``tissue`` is the fraction of a tile above which it is kept. `SkipshiftError` if there are none.
    """
    if is_slide(file):
        with open_slide(file) as slide:
            step = slide.downsample(mpp)
            corners = grid_corners(map_tissues(slide, ()), side * step, tissue)
        what = f"no tile of {side} with more than {tissue:g} tissue; choose a smaller --tissue"
    else:
        _, height, width, _ = shape_of(file)
        corners = [
            (left, top)
            for top in range(0, height - side + 1, side)
            for left in range(0, width - side + 1, side)
        ]
        what = f"no whole tile of {side}: is {height} x {width}; choose a smaller --tile"
    if not corners:
        raise SkipshiftError(f"{file}: has {what}")
    return corners


def read_tiles(
    file: Path, corners: Sequence[Corner], side: int, mpp: float | None
) -> Iterator[npt.NDArray[Any]]:
    """Read tiles (side, side, C) of a file, which is opened once."""
    with ExitStack() as stack:
        slide: Slide | None = stack.enter_context(open_slide(file)) if is_slide(file) else None
        whole = None if slide else read_slices(file).pixels[0]
        for left, top in corners:
            if slide is not None:
                yield slide.read(left, top, side, side, slide.downsample(mpp))
            elif whole is not None:
                yield whole[top : top + side, left : left + side]
