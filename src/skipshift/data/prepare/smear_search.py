"""Choice of template boxes in a blood smear: from BBBC041's annotation, or by detection."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from skipshift.data.images import Pixels
from skipshift.data.prepare.smear_boxes import REMEDY, Box, Boxes, crop, inside, pad
from skipshift.data.prepare.smear_masks import Mask, cell_mask, roundness, stain_mask
from skipshift.errors import SkipshiftError
from skipshift.records import read_json

INFECTED = ("trophozoite", "ring", "schizont", "gametocyte")
"""Categories of BBBC041 that are preferred to its red blood cells."""

Field = npt.NDArray[np.float32]

_SMALLEST_BACKGROUND = 64

_VISIBLE = 3.0
"""Least contrast of a speck, in standard deviations of the ground's pixels."""


def pick_boxes(path: Path, smear_path: Path, smear: Pixels) -> Boxes:
    """Pick three cells from a BBBC041 annotation file; detect artifacts and background.

    `SkipshiftError` if the file does not belong to the smear, or too few cells are usable.
    """
    annotated = _read_annotation(path, smear_path.name)
    for _, box in annotated:
        if not inside(box, smear.shape) or box[0] >= box[2] or box[1] >= box[3]:
            raise SkipshiftError(
                f"{path}: box {list(box)} lies outside {smear_path.name} of {smear.shape[1]} x "
                f"{smear.shape[0]} pixels; give the annotation of this smear"
            )
    candidates = sorted(_usable(annotated, smear), reverse=True)
    if len(candidates) < 3:
        raise SkipshiftError(
            f"{path}: only {len(candidates)} of the cells of {smear_path.name} are whole and "
            f"isolated, 3 are needed; {REMEDY}"
        )
    cells = tuple(box for *_, box in candidates[:3])
    return _complete(smear_path, smear, cells)


def _read_annotation(path: Path, image: str) -> list[tuple[str, Box]]:
    """Category and box of each cell of one image."""
    records = read_json(path)
    try:
        for record in records:
            if Path(record["image"]["pathname"]).name == image:
                return [(item["category"], _box_of(item)) for item in record["objects"]]
    except (KeyError, TypeError, ValueError) as error:
        raise SkipshiftError(
            f"{path}: is not in BBBC041's format ({type(error).__name__}: {error}); "
            f"give its training.json or test.json"
        ) from None
    raise SkipshiftError(f"{path}: has no boxes for {image}; give the annotation of this smear")


def _box_of(item: Any) -> Box:
    low, high = item["bounding_box"]["minimum"], item["bounding_box"]["maximum"]
    return int(low["c"]), int(low["r"]), int(high["c"]), int(high["r"])


def _usable(
    annotated: Iterable[tuple[str, Box]], smear: Pixels
) -> Iterator[tuple[bool, float, Box]]:
    """Yield whether infected, roundness and padded box of each whole, isolated cell."""
    for category, tight in annotated:
        box = pad(tight, max(3, (tight[2] - tight[0]) // 16))
        known = category in INFECTED or category == "red blood cell"
        if not known or not inside(box, smear.shape):
            continue
        mask = cell_mask(crop(smear, box))
        rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        covered = mask.sum() / ((tight[2] - tight[0]) * (tight[3] - tight[1]))
        if not rim.any() and 0.55 <= covered <= 0.9 and roundness(mask) >= 0.7:
            yield category in INFECTED, roundness(mask), box


def find_boxes(path: Path, smear: Pixels) -> Boxes:
    """Detect all boxes in a smear; `SkipshiftError` if it has too few usable ones."""
    candidates = sorted(_round_cells(smear), reverse=True)
    if len(candidates) < 3:
        raise SkipshiftError(
            f"{path}: only {len(candidates)} whole, isolated and round cells detected, 3 are "
            f"needed; {REMEDY}"
        )
    return _complete(path, smear, tuple(box for _, box in candidates[:3]))


def _complete(path: Path, smear: Pixels, cells: tuple[Box, ...]) -> Boxes:
    """Add artifacts and background to the boxes of the cells."""
    diameter = float(np.median([x1 - x0 for x0, _, x1, _ in cells]))
    foreground = _foreground(smear)
    darkness = _darkness(smear, foreground)
    artifacts = _find_specks(darkness, foreground, diameter)
    contrast = float(np.median(darkness[foreground]))
    background = _find_background(darkness, contrast, diameter)
    side = min(background[2] - background[0], background[3] - background[1])
    if side < _SMALLEST_BACKGROUND:
        raise SkipshiftError(
            f"{path}: no clean background of at least {_SMALLEST_BACKGROUND} x "
            f"{_SMALLEST_BACKGROUND} pixels detected; {REMEDY}"
        )
    return Boxes(
        image=path.name,
        size=(smear.shape[1], smear.shape[0]),
        background=background,
        cells=cells,
        artifacts=artifacts,
    )


def _foreground(smear: Pixels) -> Mask:
    """Mask (H, W) of all cells of a smear, their pale centres included."""
    return np.asarray(ndimage.binary_fill_holes(stain_mask(smear)))


def _round_cells(smear: Pixels) -> Iterator[tuple[float, Box]]:
    """Yield score and padded box of each component that looks like a single whole cell."""
    labels, _ = ndimage.label(_foreground(smear))
    shapes = {
        label: (where, roundness(labels[where] == label))
        for label, where in enumerate(ndimage.find_objects(labels), start=1)
    }
    areas = np.bincount(labels.ravel())
    # excludes round specks; the second term is for smears in which most cells touch
    least = min(0.05 * _typical_area(areas[1:]), 0.005 * areas[1:].sum())
    cells = [n for n, (_, roundness) in shapes.items() if roundness >= 0.7 and areas[n] >= least]
    typical = _typical_area(areas[cells])
    margin = max(3, round(np.sqrt(typical) / 16))
    steepness = _steepness(smear)
    for label in cells:
        rows, columns = shapes[label][0]
        box = pad((columns.start, rows.start, columns.stop, rows.stop), margin)
        if not 0.5 * typical <= areas[label] <= 1.6 * typical or not inside(box, smear.shape):
            continue
        patch = crop(labels, box)
        cell = patch == label
        if ((patch > 0) & ~cell).mean() < 0.03:
            rim = cell & ~ndimage.binary_erosion(cell)
            yield shapes[label][1] * float(np.median(crop(steepness, box)[rim])), box


def _steepness(smear: Pixels) -> Field:
    """Gradient magnitude of the green channel (H, W)."""
    green = smear[..., 1].astype(np.float32)
    across, down = cv2.Sobel(green, -1, 1, 0), cv2.Sobel(green, -1, 0, 1)
    return np.hypot(across, down).astype(np.float32)


def _typical_area(areas: npt.NDArray[np.int64]) -> float:
    """Area of the component with the median pixel, which many small specks do not affect."""
    ordered = np.sort(areas)
    total = np.cumsum(ordered)
    return float(ordered[np.searchsorted(total, total[-1] / 2)]) if len(ordered) else 0.0


def _darkness(smear: Pixels, foreground: Mask) -> Field:
    """Background minus pixel value (H, W) in the green channel: positive where darker."""
    return _background(smear, foreground) - smear[..., 1].astype(np.float32)


def _background(smear: Pixels, foreground: Mask) -> Field:
    """Background (H, W): the smoothed green channel, interpolated across the cells."""
    height, width = foreground.shape
    clear = 1 - cv2.dilate(foreground.astype(np.uint8), np.ones((15, 15), np.uint8))
    small = (max(1, width // 8), max(1, height // 8))
    weight = cv2.resize(clear.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    level = cv2.resize(
        smear[..., 1].astype(np.float32) * clear, small, interpolation=cv2.INTER_AREA
    )
    sigma = max(small) / 20
    level, weight = (cv2.GaussianBlur(part, (0, 0), sigma) for part in (level, weight))
    ground = cv2.resize(level / np.maximum(weight, 1e-6), (width, height))
    return ground.astype(np.float32)


def _find_specks(darkness: Field, foreground: Mask, diameter: float) -> tuple[Box, ...]:
    """Boxes of up to three specks, the most distinct ones, small and away from all cells."""
    reach = 2 * round(diameter / 10) + 1
    near = cv2.dilate(_without_specks(foreground, diameter), np.ones((reach, reach), np.uint8))
    smooth = cv2.GaussianBlur(darkness, (0, 0), 1)
    clear = near == 0
    noise = 1.4826 * float(np.median(np.abs(smooth[clear]))) if clear.any() else 1.0
    # single pixels are noisier than the smoothed ones in which specks are found
    ground = 1.4826 * float(np.median(np.abs(darkness[clear]))) if clear.any() else 1.0
    dark = (smooth > max(5 * noise, 4)).astype(np.uint8)
    joined = cv2.morphologyEx(dark, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    specks = []
    labels, _ = ndimage.label(joined)
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels)):
        box = pad((columns.start, rows.start, columns.stop, rows.stop), 3)
        sides = rows.stop - rows.start, columns.stop - columns.start
        if min(sides) < 4 or max(sides) > 0.4 * diameter:
            continue
        if not inside(box, darkness.shape) or crop(near, box).any():
            continue
        speck = labels[rows, columns] == index + 1
        contrast = float(smooth[rows, columns][speck].mean())
        if contrast >= _VISIBLE * ground:
            specks.append((contrast * float(speck.sum()) ** 0.25, box))
    return tuple(box for _, box in sorted(specks, reverse=True)[:3])


def _without_specks(foreground: Mask, diameter: float) -> npt.NDArray[np.uint8]:
    """Foreground components with at least a tenth of a cell's area."""
    labels, _ = ndimage.label(foreground)
    large = np.bincount(labels.ravel()) >= 0.1 * diameter**2
    large[0] = False
    return large[labels].astype(np.uint8)


def _find_background(darkness: Field, contrast: float, diameter: float) -> Box:
    """Box of the largest clean rectangle with an aspect ratio of at most 2."""
    height, width = darkness.shape
    step = max(1, round(diameter / 12))
    grid = (max(1, width // step), max(1, height // step))
    specks = cv2.GaussianBlur(darkness, (0, 0), 2) > 0.15 * contrast
    dotted = cv2.resize(specks.astype(np.float32), grid, interpolation=cv2.INTER_AREA)
    smooth = cv2.resize(darkness, grid, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(smooth, (0, 0), 1.5)
    free = (np.abs(smooth) < 0.06 * contrast) & (dotted == 0)
    x0, y0, x1, y1 = _largest_rectangle(free)
    return x0 * step, y0 * step, x1 * step, y1 * step


def _largest_rectangle(free: Mask) -> Box:
    """Largest box of free cells in a grid (h, w) with an aspect ratio of at most 2."""
    best, box = 0, (0, 0, 0, 0)
    heights = np.zeros(free.shape[1], dtype=np.int64)
    for bottom, row in enumerate(free, start=1):
        heights = np.where(row, heights + 1, 0)
        for left, right, tall in _maximal_rectangles(heights.tolist()):
            w, h = min(right - left, 2 * tall), min(tall, 2 * (right - left))
            if w * h > best:
                best, box = w * h, (left, bottom - h, left + w, bottom)
    return box


def _maximal_rectangles(heights: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """Yield left, right and height of each maximal rectangle under a histogram."""
    stack: list[tuple[int, int]] = []
    right = 0
    for right, tall in enumerate((*heights, 0)):
        left = right
        while stack and stack[-1][1] >= tall:
            left, taller = stack.pop()
            yield left, right, taller
        stack.append((left, tall))
