"""Images as small grey fields, on which most checks look."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]


def to_grey(image: npt.NDArray[Any]) -> Field:
    """Make (H, W, C), uint8 or uint16, grey (ITU-R 601): (H, W) in the same levels."""
    grey = image[..., 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(grey, dtype=np.float32)


def shrink(field: npt.NDArray[Any], side: int, method: int = cv2.INTER_AREA) -> npt.NDArray[Any]:
    """Shrink (H, W) until its longest side is at most ``side``; smaller ones stay as they are."""
    scale = min(1.0, side / max(field.shape))
    size = [max(1, round(length * scale)) for length in field.shape[::-1]]
    return np.asarray(cv2.resize(field, size, interpolation=method))
