"""Masks on haematoxylin and eosin: the dark figure in the middle of a patch."""

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from skipshift.data.images import Pixels

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density of haematoxylin, eosin and DAB in red, green and blue (Ruifrok and Johnston,
Analytical and Quantitative Cytology and Histology 23(4), 2001)."""

REACH = 8.0
"""Micrometres from the middle within which a figure lies, both plates of an anaphase included."""

SEED = 3.0
"""Micrometres from the middle within which each part of a figure must begin."""

LEAST = 4.0
"""Square micrometres of the smallest part of a figure."""

_BLUR = 0.25
"""Micrometres of the Gaussian that takes away the grain of scanner and chromatin."""


def haematoxylin(image: Pixels) -> npt.NDArray[np.float64]:
    """Amount of haematoxylin in each pixel of (H, W, 3) RGB, by colour deconvolution.

    Optical densities, -log10((x + 1) / 256), times the inverse of the stains' matrix, whose rows
    have length 1 (Ruifrok and Johnston 2001).
    """
    stains = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    density = -np.log10((image + 1.0) / 256)
    amounts: npt.NDArray[np.float64] = density @ np.linalg.inv(stains)[:, 0]
    return amounts


def propose(image: Pixels, mpp: float) -> Pixels:
    """Propose the mask of the figure in the middle of a patch.

    Otsu's threshold (Otsu 1979) of the haematoxylin within `REACH` of the middle tells dark from
    bright; dark parts that begin at the middle are smoothed, and their holes are filled.

    Parameters
    ----------
    image
        (H, W, 3) RGB.
    mpp
        Micrometres of a pixel.

    Returns
    -------
    (H, W), 1 where the figure is.
    """
    amount = cv2.GaussianBlur(haematoxylin(image), (0, 0), _BLUR / mpp)
    levels = np.asarray(cv2.normalize(amount, None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U))  # type: ignore[call-overload]
    near = _from_middle(image) * mpp <= REACH
    threshold = cv2.threshold(levels[near], 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0]
    dark = ndimage.binary_opening(near & (levels > threshold))
    return ndimage.binary_fill_holes(middle_parts(dark, mpp)).astype(np.uint8)


def middle_parts(mask: npt.NDArray[np.bool_], mpp: float) -> npt.NDArray[np.bool_]:
    """Keep the connected parts of (H, W) that begin at its middle; see `SEED` and `LEAST`."""
    numbers, count = ndimage.label(mask)
    kept = np.bincount(numbers.ravel(), minlength=count + 1) * mpp**2 >= LEAST
    begun = np.isin(np.arange(count + 1), numbers[_from_middle(mask) * mpp <= SEED])
    kept &= begun
    kept[0] = False
    return kept[numbers]


def _from_middle(image: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """(H, W) pixels between each pixel and the middle."""
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    distances: npt.NDArray[np.float64] = np.hypot(x - image.shape[1] / 2, y - image.shape[0] / 2)
    return distances
