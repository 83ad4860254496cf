"""Masks of stained cells in a blood smear, by Otsu's threshold."""

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from skipshift.data.images import Pixels

Mask = npt.NDArray[np.bool_]


def stain_mask(template: Pixels) -> Mask:
    """Segment the stained pixels of (H, W, 3) by Otsu's threshold, as (H, W).

    On the green channel, which Giemsa stain absorbs most.
    """
    green = np.ascontiguousarray(template[..., 1])
    level, _ = cv2.threshold(green, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return np.asarray(green <= level)


def cell_mask(template: Pixels) -> Mask:
    """Segment the cell of a template (H, W, 3), as (H, W).

    Otsu's threshold with holes filled; the largest connected component.
    """
    filled = ndimage.binary_fill_holes(stain_mask(template))
    labels, count = ndimage.label(filled)
    if count == 0:
        return np.zeros(labels.shape, dtype=bool)
    return np.asarray(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]))


def cell_fraction(template: Pixels) -> float:
    """Fraction of a template covered by its cell; 0 if the cell has too little contrast."""
    mask = cell_mask(template)
    if mask.all() or not mask.any():
        return 0.0
    green = template[..., 1]
    contrast = np.median(green[~mask]) - np.median(green[mask])
    return float(mask.mean()) if contrast >= 10 else 0.0


def roundness(cell: Mask) -> float:
    """Ratio of a cell's area to that of its smallest enclosing circle: 1 for a disc."""
    outline = np.argwhere(cell)[:, ::-1].astype(np.int32)
    _, radius = cv2.minEnclosingCircle(outline)
    return float(cell.sum() / (np.pi * (radius + 0.5) ** 2))
