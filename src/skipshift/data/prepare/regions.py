"""Tissue maps of slides, and where to cut patches from them: on a grid or at random."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.images import Pixels
from skipshift.data.slides.annotations import Points
from skipshift.data.slides.reader import Slide

BACKGROUND, UNKNOWN = 0, 255
"""Values of a tissue map besides the annotated 1..254; unknown is tissue without an outline."""

Outlines = Sequence[tuple[int, Points]]
"""Tissue number and vertices (N, 2) of each polygon, in full-resolution pixels."""

_MAP_SIDE = 2048

_SUBPIXEL_BITS = 4


@dataclass(frozen=True, eq=False)
class TissueMap:
    """Tissue of each pixel of a slide at low resolution."""

    tissues: Pixels
    """(H, W)."""

    downsample: float
    """Full-resolution pixels per pixel of the map."""

    white: float
    """Grey value above which a pixel is background; see `white_level`."""


def map_tissues(slide: Slide, outlines: Outlines) -> TissueMap:
    """Map the tissues of a slide from its outlines, and from Otsu's threshold outside them."""
    thumbnail = slide.thumbnail(_MAP_SIDE)
    downsample = slide.size[0] / thumbnail.shape[1]
    white = white_level(thumbnail)
    tissues = label_pixels(thumbnail, outlines, (0, 0), downsample, white)
    return TissueMap(tissues, downsample, white)


def white_level(thumbnail: Pixels) -> float:
    """Threshold the blurred grey values of (H, W, 3) (Otsu 1979); black counts as background."""
    grey = _grey(thumbnail)
    grey[grey == 0] = 255
    blurred = cv2.GaussianBlur(grey, (5, 5), 0)
    return float(cv2.threshold(blurred, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0])


def label_pixels(
    pixels: Pixels, outlines: Outlines, corner: tuple[float, float], downsample: float, white: float
) -> Pixels:
    """Label the tissue of each pixel of a rectangle (H, W, 3), given its upper left corner.

    Inside an outline it is the outline's tissue. Elsewhere white and black pixels are background
    and all others unknown tissue. Gives (H, W).
    """
    grey = _grey(pixels)
    empty = (grey > white) | (grey == 0)
    base = np.where(empty, BACKGROUND, UNKNOWN).astype(np.uint8)
    return paint_outlines(base, outlines, corner, downsample)


def paint_outlines(
    tissues: Pixels, outlines: Outlines, corner: tuple[float, float], downsample: float
) -> Pixels:
    """Fill polygons in (H, W), in place; large ones first, so that enclosed ones stay visible.

    The order in the file does not serve: SlideRunner stores the order of drawing.
    """
    visible = []
    for tissue, points in outlines:
        # coordinates are pixel centres at every scale
        places = (points - corner + 0.5) / downsample - 0.5
        beyond = places.min(axis=0) > tissues.shape[::-1]
        if not beyond.any() and not (places.max(axis=0) < 0).any():
            visible.append((cv2.contourArea(places.astype(np.float32)), tissue, places))
    for _, tissue, places in sorted(visible, key=lambda one: -one[0]):
        fixed = np.rint(places * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(tissues, [fixed], tissue, shift=_SUBPIXEL_BITS)
    return tissues


def grid_corners(tissue_map: TissueMap, side: float, least: float) -> list[tuple[int, int]]:
    """Divide a slide into a grid of squares and keep those with enough tissue.

    Parameters
    ----------
    side
        Side of a square in full-resolution pixels.
    least
        A square is kept if its fraction of tissue is above this.

    Returns
    -------
    Upper left corners (x, y), row by row; only squares that lie wholly on the slide.
    """
    tissue = (tissue_map.tissues != BACKGROUND).astype(np.uint8)
    sums = cv2.integral(tissue)
    step = side / tissue_map.downsample
    columns, rows = (int(length / step + 1e-9) for length in tissue.shape[::-1])
    corners = []
    for row in range(rows):
        top, bottom = round(row * step), round((row + 1) * step)
        for column in range(columns):
            left, right = round(column * step), round((column + 1) * step)
            area = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
            if area > least * (bottom - top) * (right - left):
                corners.append((round(column * side), round(row * side)))
    return corners


def sample_centres(
    tissue_map: TissueMap,
    tissues: Sequence[Sequence[int]],
    weights: Sequence[float],
    count: int,
    rng: np.random.Generator,
) -> list[tuple[int, npt.NDArray[np.float64]]]:
    """Sample patch centres: a class by weight, then uniformly one of its tissues and a pixel of it.

    Parameters
    ----------
    tissues
        Tissue numbers of each class.
    weights
        Weight of each class; normalised over the classes that occur on the map.

    Returns
    -------
    Class and centre (2,) of each sample; a larger ``count`` starts with the same samples. Empty if
    no class occurs on the map.
    """
    flat = tissue_map.tissues.ravel()
    pixels = {tissue: np.flatnonzero(flat == tissue) for group in tissues for tissue in group}
    present = [[tissue for tissue in group if len(pixels[tissue])] for group in tissues]
    odds = np.array([w if group else 0.0 for w, group in zip(weights, present, strict=True)])
    if not odds.sum():
        return []
    samples = []
    for _ in range(count):
        index = int(rng.choice(len(odds), p=odds / odds.sum()))
        pixel = rng.choice(pixels[int(rng.choice(present[index]))])
        row, column = divmod(int(pixel), tissue_map.tissues.shape[1])
        centre = (np.array([column, row]) + rng.random(2)) * tissue_map.downsample
        samples.append((index, centre))
    return samples


def _grey(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
