"""Affine maps between pictures and slides, and slides resampled through them."""

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.images import Pixels
from skipshift.data.slides.annotations import Points
from skipshift.data.slides.reader import Slide

Affine = npt.NDArray[np.float64]
"""(3, 3) matrix for homogeneous (x, y, 1), in full-resolution pixels unless stated otherwise."""


def picture_to_slide(corner: tuple[float, float], downsample: float) -> Affine:
    """Map pixels of a picture to the slide it was read from, at ``corner`` and ``downsample``.

    Integer coordinates are the centres of pixels, hence the offset of (downsample - 1) / 2.
    """
    shift = [start + (downsample - 1) / 2 for start in corner]
    return np.array([[downsample, 0, shift[0]], [0, downsample, shift[1]], [0, 0, 1]])


def floor_power_of_two(downsample: float) -> float:
    """Round down to a power of two, at least 1: pyramid levels there are read without resizing."""
    return float(2 ** max(0, math.floor(math.log2(downsample))))


def apply_affine(affine: Affine, points: npt.NDArray[Any]) -> Points:
    """Apply an affine map, (2, 3) or (3, 3), to points (N, 2)."""
    return np.asarray(points @ affine[:2, :2].T + affine[:2, 2])


def scale_of(affine: Affine) -> float:
    """Compute the factor by which a map scales lengths: the root of its determinant."""
    return float(np.sqrt(abs(np.linalg.det(affine[:2, :2]))))


def pixel_grid(shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """List the coordinates (x, y) of all pixels of a picture (H, W), row by row: (H * W, 2)."""
    height, width = shape
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2)


def resample(slide: Slide, affine: Affine, shape: tuple[int, int]) -> Pixels:
    """Read a picture (H, W) whose pixels ``affine`` maps to the slide; (H, W, 3) RGB."""
    return sample(slide, apply_affine(affine, pixel_grid(shape)), shape, scale_of(affine))


def sample(slide: Slide, points: Points, shape: tuple[int, int], downsample: float) -> Pixels:
    """Interpolate a slide bilinearly at points (H * W, 2) about ``downsample`` pixels apart.

    Returns
    -------
    (H, W, 3) RGB, white outside of the slide.
    """
    step = floor_power_of_two(downsample)
    low = np.floor(points.min(axis=0) / step - 2) * step
    width, height = (int(length) for length in (points.max(axis=0) - low) / step + 2)
    back: Affine = np.linalg.inv(picture_to_slide((low[0], low[1]), step)).astype(np.float64)
    inside = apply_affine(back, points).astype(np.float32)
    columns, rows = (inside[:, axis].reshape(shape) for axis in (0, 1))
    return np.asarray(
        cv2.remap(
            slide.read(low[0], low[1], width, height, step),
            columns,
            rows,
            cv2.INTER_LINEAR,
            borderValue=(255, 255, 255),
        ),
        dtype=np.uint8,
    )
