"""Where to cut a slide into patches, from its colours and from outlines of its tissues."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.data.images import Pixels
from skipshift.data.slides.annotations import Points
from skipshift.data.slides.reader import Slide

BACKGROUND, UNKNOWN = 0, 255
"""Tissues of a map beside those that were annotated, 1..254; unknown is tissue without outline."""

Outlines = Sequence[tuple[int, Points]]
"""Tissue and corners of each polygon, in full-resolution pixels."""

_MAP_SIDE = 2048

_SUBPIXEL_BITS = 4


@dataclass(frozen=True, eq=False)
class TissueMap:
    """A slide at low resolution."""

    tissues: Pixels
    """(H, W)."""

    downsample: float
    """Full-resolution pixels in one of the map."""

    white: float
    """Grey level above which the slide is background; see `white_level`."""


def map_tissues(slide: Slide, outlines: Outlines) -> TissueMap:
    """Map a slide by its outlines, and by Otsu's threshold where there is none."""
    thumbnail = slide.thumbnail(_MAP_SIDE)
    downsample = slide.size[0] / thumbnail.shape[1]
    white = white_level(thumbnail)
    tissues = label_pixels(thumbnail, outlines, (0, 0), downsample, white)
    return TissueMap(tissues, downsample, white)


def white_level(thumbnail: Pixels) -> float:
    """Otsu's threshold (Otsu 1979) of the blurred grey levels of (H, W, 3); black is no tissue."""
    grey = _grey(thumbnail)
    grey[grey == 0] = 255
    blurred = cv2.GaussianBlur(grey, (5, 5), 0)
    return float(cv2.threshold(blurred, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0])


def label_pixels(
    pixels: Pixels, outlines: Outlines, corner: tuple[float, float], downsample: float, white: float
) -> Pixels:
    """Find the tissue of each pixel of a rectangle (H, W, 3) whose left upper corner is given.

    Inside outlines it is theirs, whatever its colour; elsewhere background where the pixel is
    white or black, and unknown tissue where it is neither.
    """
    grey = _grey(pixels)
    empty = (grey > white) | (grey == 0)
    base = np.where(empty, BACKGROUND, UNKNOWN).astype(np.uint8)
    return paint_outlines(base, outlines, corner, downsample)


def paint_outlines(
    tissues: Pixels, outlines: Outlines, corner: tuple[float, float], downsample: float
) -> Pixels:
    """Paint polygons into (H, W), in place; large ones first, so that what they enclose is seen.

    The order of a file would not do: SlideRunner keeps that of drawing.
    """
    seen = []
    for tissue, points in outlines:
        # a coordinate is the middle of its pixel, at any scale
        places = (points - corner + 0.5) / downsample - 0.5
        beyond = places.min(axis=0) > tissues.shape[::-1]
        if not beyond.any() and not (places.max(axis=0) < 0).any():
            seen.append((cv2.contourArea(places.astype(np.float32)), tissue, places))
    for _, tissue, places in sorted(seen, key=lambda one: -one[0]):
        fixed = np.rint(places * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(tissues, [fixed], tissue, shift=_SUBPIXEL_BITS)
    return tissues


def grid_corners(tissue_map: TissueMap, side: float, least: float) -> list[tuple[int, int]]:
    """Lay a grid of squares over a slide and keep those of which more than ``least`` is tissue.

    Parameters
    ----------
    side
        Of a square, in full-resolution pixels.

    Returns
    -------
    Left upper corners, row by row; squares that reach beyond the slide are not among them.
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
            held = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
            if held > least * (bottom - top) * (right - left):
                corners.append((round(column * side), round(row * side)))
    return corners


def draw_centres(
    tissue_map: TissueMap,
    tissues: Sequence[Sequence[int]],
    weights: Sequence[float],
    count: int,
    rng: np.random.Generator,
) -> list[tuple[int, npt.NDArray[np.float64]]]:
    """Draw places: a class by weight, one of its tissues evenly, one of its pixels evenly.

    Parameters
    ----------
    tissues
        Of each class.
    weights
        Of each class; those of classes that are not on the map fall to the others.

    Returns
    -------
    Class and (2,) place of each draw; a larger ``count`` begins with the same draws. Nothing if no
    class is on the map.
    """
    flat = tissue_map.tissues.ravel()
    pixels = {tissue: np.flatnonzero(flat == tissue) for own in tissues for tissue in own}
    present = [[tissue for tissue in own if len(pixels[tissue])] for own in tissues]
    shares = np.array([w if own else 0.0 for w, own in zip(weights, present, strict=True)])
    if not shares.sum():
        return []
    drawn = []
    for _ in range(count):
        index = int(rng.choice(len(shares), p=shares / shares.sum()))
        pixel = rng.choice(pixels[int(rng.choice(present[index]))])
        row, column = divmod(int(pixel), tissue_map.tissues.shape[1])
        place = (np.array([column, row]) + rng.random(2)) * tissue_map.downsample
        drawn.append((index, place))
    return drawn


def _grey(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
