"""Constant borders around images."""

from typing import Any

import numpy as np
import numpy.typing as npt

PADDED = 0.02
"""Fraction of the area in constant borders from which an image is reported."""

_FILLED = 0.6
_REACH = 8


def measure_padding(image: npt.NDArray[Any]) -> float:
    """Fraction of (H, W, C) in constant strips along the sides, 0..1.

    A strip must end abruptly: within the next eight pixels, one row differs for the most part. A
    dark background around an object is therefore not padding. Mirrored and replicated borders are
    not detected.
    """
    height, width = image.shape[:2]
    inner = 1.0
    for turned, side in ((image, height), (image.transpose(1, 0, 2), width)):
        both = _strip(turned) + _strip(turned[::-1])
        inner *= max(side - both, 0) / side
    return 1 - inner


def _strip(image: npt.NDArray[Any]) -> int:
    """Count the constant rows at the top."""
    start, tolerance = image[0, 0].astype(np.float64), np.iinfo(image.dtype).max // 80
    if np.ptp(image[0], axis=0).max() > tolerance:
        return 0
    lows, highs = image.min(1), image.max(1)
    same = (np.maximum(highs - start, start - lows) <= tolerance).all(1)
    rows = len(same) if same.all() else int(same.argmin())
    if rows < 2 or rows == len(same):
        return 0
    beyond = image[rows : rows + _REACH + 1].astype(np.float64)
    filled = (np.abs(beyond - start).max(2) > 2 * tolerance).mean(1).max()
    return rows if filled >= _FILLED else 0
