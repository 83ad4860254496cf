"""Boxes of templates in a blood smear: their file format and geometry."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from skipshift.data.images import Pixels
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.records import read_json
from skipshift.spec_files import from_plain

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels, x1 and y1 excluded."""

Value = TypeVar("Value", bound=np.generic)

REMEDY = "choose another smear, or give the boxes with --templates"
"""End of the messages on a smear without usable templates."""


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Boxes of the templates in a smear.

    `ArgumentError` if there are not three cells, or more than three artifacts, or a box is not in
    the image.
    """

    # a misspelt key in a file is an error
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    image: str
    """File name of the smear."""

    size: tuple[int, int]
    """Width and height of the smear."""

    background: Box
    """A region without cells."""

    cells: tuple[Box, ...]
    """Three whole cells, each alone in its box."""

    artifacts: tuple[Box, ...]
    """Three specks of stain or dirt; fewer where the smear has no more, and the rest is drawn."""

    def __post_init__(self) -> None:
        width, height = self.size
        if len(self.cells) != 3:
            raise ArgumentError(f"cells must be three boxes, got {len(self.cells)}")
        if len(self.artifacts) > 3:
            raise ArgumentError(
                f"artifacts must be three boxes or fewer, got {len(self.artifacts)}"
            )
        for box in (self.background, *self.cells, *self.artifacts):
            x0, y0, x1, y1 = box
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                raise ArgumentError(
                    f"box {list(box)} must be [x0, y0, x1, y1] inside the {width} x {height} image"
                )


def read_boxes(path: Path, image: str, smear: Pixels) -> Boxes:
    """Read a template file; `SkipshiftError` if it is invalid or belongs to another smear."""
    boxes = from_plain(Boxes, read_json(path), str(path))
    height, width = smear.shape[:2]
    if (boxes.image, boxes.size) != (image, (width, height)):
        raise SkipshiftError(
            f"{path}: is for {boxes.image} of {boxes.size[0]} x {boxes.size[1]} pixels, "
            f"not for {image} of {width} x {height}; give the file that belongs to the smear"
        )
    return boxes


def crop(field: npt.NDArray[Value], box: Box) -> npt.NDArray[Value]:
    """Cut a box from (H, W, ...), as a copy."""
    x0, y0, x1, y1 = box
    return np.ascontiguousarray(field[y0:y1, x0:x1])


def pad(box: Box, margin: int) -> Box:
    """Enlarge a box by a margin on each side."""
    x0, y0, x1, y1 = box
    return x0 - margin, y0 - margin, x1 + margin, y1 + margin


def inside(box: Box, shape: tuple[int, ...]) -> bool:
    """Check whether a box lies within an array of shape (H, W, ...)."""
    x0, y0, x1, y1 = box
    return x0 >= 0 and y0 >= 0 and x1 <= shape[1] and y1 <= shape[0]
