"""Templates of the synthetic malaria set: a background, three cells and three artifacts (Fig. 2).

Drawn by the program, or cut from a smear: boxes from a file, from BBBC041's annotation, or found.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from skipshift.data.images import Pixels, read_image
from skipshift.data.prepare.options import SynthSpec
from skipshift.data.prepare.procedural import draw_artifacts, draw_background, draw_cells
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.records import read_json
from skipshift.specs import from_plain

INFECTED = ("trophozoite", "ring", "schizont", "gametocyte")
"""Categories of BBBC041 that are picked before its red blood cells."""

Box = tuple[int, int, int, int]
Mask = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float32]
Value = TypeVar("Value", bound=np.generic)

_WAY_OUT = "choose another smear, or give the boxes with --templates"
_SMALLEST_BACKGROUND = 64


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Where the templates of a smear lie: boxes (x0, y0, x1, y1) in pixels, x1 and y1 excluded."""

    # a misspelt key in a file is an error, not a field left out
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    image: str
    """File name of the smear."""

    size: tuple[int, int]
    """Width and height of the smear."""

    background: Box
    """A patch without cells."""

    cells: tuple[Box, ...]
    """Three whole cells, each alone in its box."""

    artifacts: tuple[Box, ...]
    """Three specks of stain or dirt."""

    def __post_init__(self) -> None:
        width, height = self.size
        for name in ("cells", "artifacts"):
            if len(getattr(self, name)) != 3:
                raise ArgumentError(f"{name} must be three boxes, got {len(getattr(self, name))}")
        for box in (self.background, *self.cells, *self.artifacts):
            x0, y0, x1, y1 = box
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                raise ArgumentError(
                    f"box {list(box)} must be [x0, y0, x1, y1] inside the {width} x {height} image"
                )


@dataclass(frozen=True, eq=False, kw_only=True)
class Templates:
    """What synthetic images are put together from, all (H, W, 3) RGB uint8."""

    background: Pixels
    cells: tuple[Pixels, ...]
    artifacts: tuple[Pixels, ...]

    source: str
    """Where they come from: drawn, file, annotation, shipped or found."""

    boxes: Boxes | None = None
    """Where they were cut from a smear."""


def load_templates(spec: SynthSpec) -> Templates:
    """Draw the templates, or cut them from the spec's smear."""
    if spec.smear is None:
        return Templates(
            background=draw_background(),
            cells=draw_cells(),
            artifacts=draw_artifacts(),
            source="drawn",
        )
    smear = read_image(spec.smear)
    if smear.shape[-1] != 3:
        raise SkipshiftError(f"{spec.smear}: is grey; a smear must be an RGB colour image")
    source, boxes = _choose_boxes(spec, spec.smear, smear)
    return cut_templates(spec.smear, smear, boxes, source)


def _choose_boxes(spec: SynthSpec, path: Path, smear: Pixels) -> tuple[str, Boxes]:
    shipped = files("skipshift.data.prepare") / "smears" / f"{path.stem}.json"
    if spec.templates is not None:
        return "file", read_boxes(spec.templates, path.name, smear)
    if spec.boxes is not None:
        return "annotation", pick_boxes(spec.boxes, path, smear)
    if shipped.is_file():
        return "shipped", read_boxes(Path(str(shipped)), path.name, smear)
    return "found", find_boxes(path, smear)


def read_boxes(path: Path, image: str, smear: Pixels) -> Boxes:
    """Read a template file; `SkipshiftError` if it is broken or belongs to another smear."""
    boxes = from_plain(Boxes, read_json(path), str(path))
    height, width = smear.shape[:2]
    if (boxes.image, boxes.size) != (image, (width, height)):
        raise SkipshiftError(
            f"{path}: is for {boxes.image} of {boxes.size[0]} x {boxes.size[1]} pixels, "
            f"not for {image} of {width} x {height}; give the file that belongs to the smear"
        )
    return boxes


def cut_templates(path: Path, smear: Pixels, boxes: Boxes, source: str) -> Templates:
    """Cut the boxes from a smear; `SkipshiftError` for a cell that does not stand out."""
    for box in boxes.cells:
        if _fill(_crop(smear, box)) < 0.2:
            raise SkipshiftError(f"{path}: the box {list(box)} holds no usable cell; {_WAY_OUT}")
    return Templates(
        background=_crop(smear, boxes.background),
        cells=tuple(_crop(smear, box) for box in boxes.cells),
        artifacts=tuple(_crop(smear, box) for box in boxes.artifacts),
        source=source,
        boxes=boxes,
    )


def stain_mask(template: Pixels) -> Mask:
    """Where a template (h, w, 3) is stained, by Otsu's threshold, as (h, w).

    On the green channel: Giemsa stain absorbs green the most.
    """
    green = np.ascontiguousarray(template[..., 1])
    level, _ = cv2.threshold(green, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return np.asarray(green <= level)


def cell_mask(template: Pixels) -> Mask:
    """Separate the cell of a template (h, w, 3), as (h, w).

    Otsu's threshold, holes filled, the biggest component.
    """
    filled = ndimage.binary_fill_holes(stain_mask(template))
    labels, count = ndimage.label(filled)
    if count == 0:
        return np.zeros(labels.shape, dtype=bool)
    return np.asarray(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]))


def _crop(field: npt.NDArray[Value], box: Box) -> npt.NDArray[Value]:
    x0, y0, x1, y1 = box
    return np.ascontiguousarray(field[y0:y1, x0:x1])


def _fill(template: Pixels) -> float:
    """Share of a template that its cell covers; 0 where cell and ground hardly differ."""
    mask = cell_mask(template)
    if mask.all() or not mask.any():
        return 0.0
    green = template[..., 1]
    contrast = np.median(green[~mask]) - np.median(green[mask])
    return float(mask.mean()) if contrast >= 10 else 0.0


def _pad(box: Box, margin: int) -> Box:
    x0, y0, x1, y1 = box
    return x0 - margin, y0 - margin, x1 + margin, y1 + margin


def _inside(box: Box, shape: tuple[int, ...]) -> bool:
    """Whether a box lies in an array (H, W, ...)."""
    x0, y0, x1, y1 = box
    return x0 >= 0 and y0 >= 0 and x1 <= shape[1] and y1 <= shape[0]


# --- BBBC041's own annotation ---------------------------------------------------------------


def pick_boxes(path: Path, smear_path: Path, smear: Pixels) -> Boxes:
    """Pick three cells from a BBBC041 annotation file; the rest is found in the smear."""
    annotated = _read_annotation(path, smear_path.name)
    for _, box in annotated:
        if not _inside(box, smear.shape) or box[0] >= box[2] or box[1] >= box[3]:
            raise SkipshiftError(
                f"{path}: box {list(box)} lies outside {smear_path.name} of {smear.shape[1]} x "
                f"{smear.shape[0]} pixels; give the annotation that belongs to the smear"
            )
    candidates = sorted(_usable(annotated, smear), reverse=True)
    if len(candidates) < 3:
        raise SkipshiftError(
            f"{path}: only {len(candidates)} of the cells of {smear_path.name} are whole and "
            f"isolated, needs 3; {_WAY_OUT}"
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
            f"{path}: is not in BBBC041's layout ({type(error).__name__}: {error}); "
            f"give its training.json or test.json"
        ) from None
    raise SkipshiftError(f"{path}: has no boxes for {image}; give the annotation that names it")


def _box_of(item: Any) -> Box:
    low, high = item["bounding_box"]["minimum"], item["bounding_box"]["maximum"]
    return int(low["c"]), int(low["r"]), int(high["c"]), int(high["r"])


def _usable(
    annotated: Iterable[tuple[str, Box]], smear: Pixels
) -> Iterator[tuple[bool, float, Box]]:
    """Infected or not, roundness and padded box of each whole cell that stands alone."""
    for category, tight in annotated:
        box = _pad(tight, max(3, (tight[2] - tight[0]) // 16))
        known = category in INFECTED or category == "red blood cell"
        if not known or not _inside(box, smear.shape):
            continue
        mask = cell_mask(_crop(smear, box))
        rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        covered = mask.sum() / ((tight[2] - tight[0]) * (tight[3] - tight[1]))
        if not rim.any() and 0.55 <= covered <= 0.9 and _roundness(mask) >= 0.7:
            yield category in INFECTED, _roundness(mask), box


# --- found in the smear itself --------------------------------------------------------------


def find_boxes(path: Path, smear: Pixels) -> Boxes:
    """Find all the boxes of a smear; `SkipshiftError` where it offers too few."""
    candidates = sorted(_round_cells(smear), reverse=True)
    if len(candidates) < 3:
        raise SkipshiftError(
            f"{path}: no usable cells: {len(candidates)} whole, isolated and round ones found, "
            f"needs 3; {_WAY_OUT}"
        )
    return _complete(path, smear, tuple(box for _, box in candidates[:3]))


def _complete(path: Path, smear: Pixels, cells: tuple[Box, ...]) -> Boxes:
    """Add artifacts and background to the boxes of the cells."""
    diameter = float(np.median([x1 - x0 for x0, _, x1, _ in cells]))
    foreground = _foreground(smear)
    darkness = _darkness(smear, foreground)
    artifacts = _find_specks(darkness, foreground, diameter)
    if len(artifacts) < 3:
        raise SkipshiftError(
            f"{path}: only {len(artifacts)} small specks found, needs 3 artifacts; {_WAY_OUT}"
        )
    contrast = float(np.median(darkness[foreground]))
    background = _find_background(darkness, contrast, diameter)
    side = min(background[2] - background[0], background[3] - background[1])
    if side < _SMALLEST_BACKGROUND:
        raise SkipshiftError(
            f"{path}: no clean background of {_SMALLEST_BACKGROUND} pixels a side found; {_WAY_OUT}"
        )
    return Boxes(
        image=path.name,
        size=(smear.shape[1], smear.shape[0]),
        background=background,
        cells=cells,
        artifacts=artifacts,
    )


def _foreground(smear: Pixels) -> Mask:
    """Cells of a whole smear (H, W), with their pallor."""
    return np.asarray(ndimage.binary_fill_holes(stain_mask(smear)))


def _round_cells(smear: Pixels) -> Iterator[tuple[float, Box]]:
    """Score and padded box of each component that looks like one whole cell."""
    labels, _ = ndimage.label(_foreground(smear))
    shapes = {
        label: (where, _roundness(labels[where] == label))
        for label, where in enumerate(ndimage.find_objects(labels), start=1)
    }
    areas = np.bincount(labels.ravel())
    # round specks are no cells; the sum is for smears where most cells hang together
    least = min(0.05 * _typical_area(areas[1:]), 0.005 * areas[1:].sum())
    cells = [n for n, (_, roundness) in shapes.items() if roundness >= 0.7 and areas[n] >= least]
    typical = _typical_area(areas[cells])
    margin = max(3, round(np.sqrt(typical) / 16))
    steepness = _steepness(smear)
    for label in cells:
        rows, columns = shapes[label][0]
        box = _pad((columns.start, rows.start, columns.stop, rows.stop), margin)
        if not 0.5 * typical <= areas[label] <= 1.6 * typical or not _inside(box, smear.shape):
            continue
        patch = _crop(labels, box)
        cell = patch == label
        if ((patch > 0) & ~cell).mean() < 0.03:
            rim = cell & ~ndimage.binary_erosion(cell)
            yield shapes[label][1] * float(np.median(_crop(steepness, box)[rim])), box


def _steepness(smear: Pixels) -> Field:
    """Length of the gradient of the green channel (H, W)."""
    green = smear[..., 1].astype(np.float32)
    across, down = cv2.Sobel(green, -1, 1, 0), cv2.Sobel(green, -1, 0, 1)
    return np.hypot(across, down).astype(np.float32)


def _typical_area(areas: npt.NDArray[np.int64]) -> float:
    """Area of the component that holds the median pixel: many small specks do not move it."""
    ordered = np.sort(areas)
    total = np.cumsum(ordered)
    return float(ordered[np.searchsorted(total, total[-1] / 2)]) if len(ordered) else 0.0


def _roundness(cell: Mask) -> float:
    """Area of a cell over that of its smallest enclosing circle: 1 for a disc."""
    outline = np.argwhere(cell)[:, ::-1].astype(np.int32)
    _, radius = cv2.minEnclosingCircle(outline)
    return float(cell.sum() / (np.pi * (radius + 0.5) ** 2))


def _darkness(smear: Pixels, foreground: Mask) -> Field:
    """How much darker than the ground around it each pixel (H, W) is, in grey levels of green."""
    return _ground(smear, foreground) - smear[..., 1].astype(np.float32)


def _ground(smear: Pixels, foreground: Mask) -> Field:
    """Level of the ground (H, W): the green channel without cells, smoothed, cells bridged."""
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
    """Boxes of the three clearest specks that are far smaller than a cell and clear of all."""
    reach = 2 * round(diameter / 10) + 1
    near = cv2.dilate(_without_specks(foreground, diameter), np.ones((reach, reach), np.uint8))
    smooth = cv2.GaussianBlur(darkness, (0, 0), 1)
    noise = 1.4826 * float(np.median(np.abs(smooth[near == 0]))) if (near == 0).any() else 1.0
    dark = (smooth > max(5 * noise, 4)).astype(np.uint8)
    joined = cv2.morphologyEx(dark, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    found = []
    labels, _ = ndimage.label(joined)
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels)):
        box = _pad((columns.start, rows.start, columns.stop, rows.stop), 3)
        sides = rows.stop - rows.start, columns.stop - columns.start
        if min(sides) < 4 or max(sides) > 0.4 * diameter:
            continue
        if not _inside(box, darkness.shape) or _crop(near, box).any():
            continue
        speck = labels[rows, columns] == index + 1
        found.append((float(smooth[rows, columns][speck].mean() * speck.sum() ** 0.25), box))
    return tuple(box for _, box in sorted(found, reverse=True)[:3])


def _without_specks(foreground: Mask, diameter: float) -> npt.NDArray[np.uint8]:
    """Foreground components at least a tenth of a cell in area."""
    labels, _ = ndimage.label(foreground)
    large = np.bincount(labels.ravel()) >= 0.1 * diameter**2
    large[0] = False
    return large[labels].astype(np.uint8)


def _find_background(darkness: Field, contrast: float, diameter: float) -> Box:
    """Box of the largest clean rectangle that is at most twice as long as wide."""
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
    """Box of free cells of a grid (h, w) with the most area, at most 2:1."""
    best, box = 0, (0, 0, 0, 0)
    heights = np.zeros(free.shape[1], dtype=np.int64)
    for bottom, row in enumerate(free, start=1):
        heights = np.where(row, heights + 1, 0)
        for left, right, tall in _bars(heights.tolist()):
            w, h = min(right - left, 2 * tall), min(tall, 2 * (right - left))
            if w * h > best:
                best, box = w * h, (left, bottom - h, left + w, bottom)
    return box


def _bars(heights: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """Left, right and height of each widest bar under a histogram."""
    stack: list[tuple[int, int]] = []
    right = 0
    for right, tall in enumerate((*heights, 0)):
        left = right
        while stack and stack[-1][1] >= tall:
            left, taller = stack.pop()
            yield left, right, taller
        stack.append((left, tall))
