"""Images converted to grey, the input of most detectors."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.float32]
"""(H, W) grey levels."""


def to_grey(image: npt.NDArray[Any]) -> Grey:
    """Convert (H, W, C), uint8 or uint16, to grey (ITU-R 601): (H, W) on the same scale."""
    grey = image[..., 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(grey, dtype=np.float32)
