"""Mask proposals for mitotic figures on H&E (haematoxylin and eosin) patches."""

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from skipshift.data.images import Pixels

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density of haematoxylin, eosin and DAB in red, green and blue (Ruifrok and Johnston,
Analytical and Quantitative Cytology and Histology 23(4), 2001)."""

REACH = 8.0
"""Maximum extent of a figure from the patch centre in micrometres, anaphase plates included."""

MAX_OFFSET = 3.0
"""Maximum distance in micrometres from the patch centre to each connected part of a figure."""

MIN_AREA = 4.0
"""Minimum area of a connected part in square micrometres."""

_BLUR = 0.25
"""Standard deviation in micrometres of the Gaussian that removes scanner noise and texture."""


def haematoxylin(image: Pixels) -> npt.NDArray[np.float64]:
    """Estimate the amount of haematoxylin per pixel of (H, W, 3) RGB by colour deconvolution.

    Optical densities, -log10((x + 1) / 256), times the inverse of the stain matrix, whose rows
    have unit length (Ruifrok and Johnston 2001). Gives (H, W).
    """
    stains = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    density = -np.log10((image + 1.0) / 256)
    amounts: npt.NDArray[np.float64] = density @ np.linalg.inv(stains)[:, 0]
    return amounts


def propose(image: Pixels, mpp: float) -> Pixels:
    """Propose the mask of the figure at the centre of a patch.

    The haematoxylin channel within `REACH` of the centre is thresholded (Otsu 1979). Dark parts
    near the centre are smoothed by an opening, and their holes are filled.

    Parameters
    ----------
    image
        (H, W, 3) RGB.
    mpp
        Micrometres per pixel.

    Returns
    -------
    (H, W) mask, 1 inside the figure.
    """
    amount = cv2.GaussianBlur(haematoxylin(image), (0, 0), _BLUR / mpp)
    levels = np.asarray(cv2.normalize(amount, None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U))  # type: ignore[call-overload]
    near = _centre_distance(image) * mpp <= REACH
    threshold = cv2.threshold(levels[near], 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0]
    dark = ndimage.binary_opening(near & (levels > threshold))
    return ndimage.binary_fill_holes(middle_parts(dark, mpp)).astype(np.uint8)


def middle_parts(mask: npt.NDArray[np.bool_], mpp: float) -> npt.NDArray[np.bool_]:
    """Keep the connected parts of (H, W) near its centre; see `MAX_OFFSET` and `MIN_AREA`."""
    numbers, count = ndimage.label(mask)
    kept = np.bincount(numbers.ravel(), minlength=count + 1) * mpp**2 >= MIN_AREA
    kept &= np.isin(np.arange(count + 1), numbers[_centre_distance(mask) * mpp <= MAX_OFFSET])
    kept[0] = False
    return kept[numbers]


def _centre_distance(image: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Distance of each pixel from the centre in pixels, (H, W)."""
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    distances: npt.NDArray[np.float64] = np.hypot(x - image.shape[1] / 2, y - image.shape[0] / 2)
    return distances
