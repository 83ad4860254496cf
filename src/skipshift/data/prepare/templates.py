"""Templates of the synthetic malaria set: background, three cells, three artifacts (Fig. 2)."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np

from skipshift.data.images import Pixels, read_image
from skipshift.data.prepare.options import SynthSpec
from skipshift.data.prepare.procedural import draw_artifacts, draw_background, draw_cells
from skipshift.data.prepare.smear_boxes import REMEDY, Boxes, crop, read_boxes
from skipshift.data.prepare.smear_masks import cell_fraction
from skipshift.data.prepare.smear_search import find_boxes, pick_boxes
from skipshift.errors import SkipshiftError

_DRAWN_DIAMETER = 120
"""Diameter in pixels of the drawn cells, to which drawn artifacts fit."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Templates:
    """Image parts that synthetic images are composed of, all (H, W, 3) RGB uint8."""

    background: Pixels
    cells: tuple[Pixels, ...]
    artifacts: tuple[Pixels, ...]

    source: str
    """Origin: drawn (procedurally), or boxes from file, annotation, shipped or found (detected),
    and how many artifacts are drawn because the smear has too few specks."""

    boxes: Boxes | None = None
    """Boxes in the smear they were cut from, if any."""


def load_templates(spec: SynthSpec) -> Templates:
    """Draw the templates, or cut them from the spec's smear.

    `SkipshiftError` if the smear is grey, or has no usable templates.
    """
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


def cut_templates(path: Path, smear: Pixels, boxes: Boxes, source: str) -> Templates:
    """Cut the boxes from a smear; `SkipshiftError` for a cell that is not distinct."""
    for box in boxes.cells:
        if cell_fraction(crop(smear, box)) < 0.2:
            raise SkipshiftError(f"{path}: the box {list(box)} contains no usable cell; {REMEDY}")
    cut = [crop(smear, box) for box in boxes.artifacts]
    drawn = _draw_missing(boxes)
    if drawn:
        source += f", {len(drawn)} of 3 artifacts drawn for want of specks"
    return Templates(
        background=crop(smear, boxes.background),
        cells=tuple(crop(smear, box) for box in boxes.cells),
        artifacts=(*cut, *drawn),
        source=source,
        boxes=boxes,
    )


def _draw_missing(boxes: Boxes) -> list[Pixels]:
    """Draw the artifacts that a smear lacks, in the scale of its cells."""
    scale = float(np.median([x1 - x0 for x0, _, x1, _ in boxes.cells])) / _DRAWN_DIAMETER
    return [
        np.asarray(cv2.resize(artifact, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        for artifact in draw_artifacts()[len(boxes.artifacts) :]
    ]
