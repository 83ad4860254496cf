"""Checkerboard pictures of two registered slides, to judge a registration by eye."""

import cv2
import numpy as np

from skipshift.data.images import Pixels
from skipshift.data.slides.affine import (
    apply_affine,
    picture_to_slide,
    pixel_grid,
    sample,
    scale_of,
)
from skipshift.data.slides.reader import Slide
from skipshift.data.slides.registration import Registration

_DETAIL = 768
"""Side of the full-resolution detail in pixels."""


def checkerboard(
    fixed: Slide,
    moving: Slide,
    registration: Registration,
    corner: tuple[float, float] = (0, 0),
    downsample: float | None = None,
    side: int = 1024,
) -> Pixels:
    """Draw a rectangle of ``fixed`` with every other square taken from ``moving``.

    Parameters
    ----------
    corner
        Top left corner of the rectangle, in pixels of ``fixed``.
    downsample
        Pixels of ``fixed`` per pixel of the picture; without it the whole slide is drawn.
    side
        Longest side of the picture in pixels.
    """
    step = max(fixed.size) / side if downsample is None else downsample
    width, height = (
        min(side, round((length - start) / step))
        for length, start in zip(fixed.size, corner, strict=True)
    )
    first = fixed.read(*corner, width, height, step)
    grid = pixel_grid((height, width))
    points = registration.transfer(apply_affine(picture_to_slide(corner, step), grid))[0]
    second = sample(moving, points, (height, width), scale_of(registration.affines[0, 0]) * step)
    square = max(1, side // 16)
    odd = (grid // square).sum(1).reshape(height, width, 1) % 2 == 1
    return np.where(odd, second, first)


def draw_overlays(fixed: Slide, moving: Slide, registration: Registration) -> dict[str, Pixels]:
    """Draw a `checkerboard` of the whole slide and one of its sharpest part at full resolution."""
    grey = cv2.cvtColor(fixed.thumbnail(1024), cv2.COLOR_RGB2GRAY)
    step = max(fixed.size) / max(grey.shape)
    window = max(1, round(_DETAIL / step))
    edges = np.abs(cv2.Laplacian(grey, cv2.CV_32F))
    row, column = np.unravel_index(cv2.blur(edges, (window, window)).argmax(), grey.shape)
    corner = (max(0.0, column * step - _DETAIL / 2), max(0.0, row * step - _DETAIL / 2))
    return {
        "checkerboard": checkerboard(fixed, moving, registration),
        "checkerboard-detail": checkerboard(fixed, moving, registration, corner, 1.0, _DETAIL),
    }
