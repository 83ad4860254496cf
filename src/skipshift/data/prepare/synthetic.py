"""Generator of the paper's synthetic malaria set (section III-A): images, masks, manifest.

Image i uses a generator seeded with (seed, i), so the output depends on neither order nor number
of workers. Workers are threads, because OpenCV releases the GIL.
"""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from skipshift.data.images import Pixels, read_image, write_png
from skipshift.data.prepare.options import SynthSpec
from skipshift.data.prepare.smear_boxes import Boxes
from skipshift.data.prepare.smear_masks import cell_mask, stain_mask
from skipshift.data.prepare.templates import Templates, load_templates
from skipshift.data.prepare.writing import IMAGES, MANIFEST, MASKS, is_written, run_all, write_table
from skipshift.data.splits import draw_holdout
from skipshift.errors import ArgumentError
from skipshift.names import ORIGINAL
from skipshift.progress import Progress, silent
from skipshift.records import write_json
from skipshift.spec_files import to_plain

RECIPE = "synth.json"
PICTURE = "templates.png"
BOXES = "templates.json"

_RECIPE_VERSION = 1
"""Increase this with every change that alters the output."""

_GAP = 8
_GREEN, _RED, _ORANGE = (0, 150, 60), (220, 30, 30), (240, 140, 0)

_BYTES_DEPEND_ON = ("images", "cells", "size", "canvas", "holdout", "seed")

Canvas = tuple[Pixels, Pixels]
Placement = tuple[int, int, int]
"""Index of a template and x and y of its upper left corner on the canvas."""


@dataclass(frozen=True)
class Layout:
    """Positions of all templates on the canvas of one image."""

    turns: int
    """Quarter turns of the background, counter-clockwise."""

    cells: tuple[Placement, ...]
    artifacts: tuple[Placement, ...]


@dataclass(frozen=True, eq=False)
class Stamp:
    """A template (h, w, 3) and its mask (h, w): 255 where it is pasted, otherwise 0."""

    pixels: Pixels
    mask: Pixels


@dataclass(frozen=True, eq=False)
class PreparedTemplates:
    """Templates ready for composition, shared by all images of a set."""

    backgrounds: tuple[Pixels, ...]
    """Canvases (canvas, canvas, 3) with the background rotated by 0, 90, 180, 270 degrees."""

    cells: tuple[Stamp, ...]
    artifacts: tuple[Stamp, ...]


def write_synthetic(spec: SynthSpec, progress: Progress = silent) -> Path:
    """Write the set, or the missing part of it, and return the path of its manifest.

    A complete set is left unchanged. `SkipshiftError` if the folder contains anything else or the
    smear cannot be used; `ArgumentError` if a template is larger than the canvas.
    """
    templates = load_templates(spec)
    _check_canvas(spec, templates)
    recipe = _recipe(spec, templates)
    if not is_written(spec.out, RECIPE, recipe):
        write_json(spec.out / RECIPE, recipe)
    _write_preview(spec, templates)
    _write_images(spec, templates, progress)
    manifest = spec.out / MANIFEST
    if not manifest.exists():
        write_table(manifest, tabulate(spec, recipe["counts"]))
    return manifest


def count_cells(spec: SynthSpec, index: int) -> int:
    """Draw the number of cells of one image: uniform on the range, half of the images dense.

    Of images 2k and 2k + 1 one has low and one high density, in random order.
    """
    return _draw_count(spec, index, _generator(spec, index))


def draw_layout(spec: SynthSpec, templates: Templates, index: int) -> Layout:
    """Draw the layout of one image; all templates lie wholly on the canvas."""
    rng = _generator(spec, index)
    count = _draw_count(spec, index, rng)
    return Layout(
        turns=int(rng.integers(4)),
        cells=_draw_places(rng, count, templates.cells, spec.canvas),
        artifacts=_draw_places(rng, 3, templates.artifacts, spec.canvas),
    )


def prepare_templates(spec: SynthSpec, templates: Templates) -> PreparedTemplates:
    """Rotate and resize the background; segment cells and artifacts."""
    masks = [(cell, cell_mask(cell)) for cell in templates.cells]
    specks = [(artifact, stain_mask(artifact)) for artifact in templates.artifacts]
    return PreparedTemplates(
        backgrounds=tuple(
            _resize(np.ascontiguousarray(np.rot90(templates.background, turns)), spec.canvas)
            for turns in range(4)
        ),
        cells=tuple(Stamp(pixels, mask.astype(np.uint8) * 255) for pixels, mask in masks),
        artifacts=tuple(Stamp(pixels, mask.astype(np.uint8) * 255) for pixels, mask in specks),
    )


def new_canvas(side: int) -> Canvas:
    """Allocate one image (side, side, 3) and its mask (side, side)."""
    return np.empty((side, side, 3), dtype=np.uint8), np.empty((side, side), dtype=np.uint8)


def compose(
    layout: Layout, prepared: PreparedTemplates, size: int, canvas: Canvas | None = None
) -> tuple[Pixels, Pixels]:
    """Compose one image, on a canvas that may be reused.

    Returns
    -------
    Image (size, size, 3) and mask (size, size): 1 where most of a pixel is cell, otherwise 0.
    """
    image, mask = canvas or new_canvas(len(prepared.backgrounds[0]))
    np.copyto(image, prepared.backgrounds[layout.turns])
    mask.fill(0)
    for number, x, y in layout.cells:
        stamp = prepared.cells[number]
        _paste(image, stamp.pixels, stamp, x, y)
        _paste(mask, stamp.mask, stamp, x, y)
    for number, x, y in layout.artifacts:
        stamp = prepared.artifacts[number]
        _paste(image, stamp.pixels, stamp, x, y)
    _, classes = cv2.threshold(_resize(mask, size), 127, 1, cv2.THRESH_BINARY)
    return _resize(image, size), np.asarray(classes, dtype=np.uint8)


def tabulate(spec: SynthSpec, counts: Sequence[int]) -> pd.DataFrame:
    """Build the manifest of a set from the number of cells in each image."""
    midpoint = sum(spec.cells) / 2
    strata = ["low" if count <= midpoint else "high" for count in counts]
    held_out = draw_holdout(strata, spec.holdout, spec.seed)
    names = [_case(index) for index in range(spec.images)]
    return pd.DataFrame(
        {
            "case": names,
            "image": [f"{IMAGES}/{name}.png" for name in names],
            "mask": [f"{MASKS}/{name}.png" for name in names],
            "domain": ORIGINAL,
            "group": names,
            "split": ["test" if flag else "train" for flag in held_out],
            "stratum": strata,
        }
    )


def _case(index: int) -> str:
    return f"synthetic-{index:04d}"


def _generator(spec: SynthSpec, index: int) -> np.random.Generator:
    return np.random.default_rng((spec.seed, index))


def _draw_count(spec: SynthSpec, index: int, rng: np.random.Generator) -> int:
    low, high = spec.cells
    count = int(rng.integers(low, high + 1))
    coins = np.random.SeedSequence(spec.seed, spawn_key=(1, index // 2))
    coin = np.random.default_rng(coins).integers(2)
    # mirrored at the centre of the range if it is on the wrong side, so still uniform
    pick = max if (index + coin) % 2 else min
    return pick(count, low + high - count)


def _draw_places(
    rng: np.random.Generator, count: int, templates: Sequence[Pixels], canvas: int
) -> tuple[Placement, ...]:
    numbers = rng.integers(len(templates), size=count)
    room = canvas + 1 - np.array([templates[number].shape[:2] for number in numbers])
    corners = rng.integers(room)
    return tuple(
        (int(number), int(x), int(y)) for number, (y, x) in zip(numbers, corners, strict=True)
    )


def _paste(field: Pixels, pixels: Pixels, stamp: Stamp, x: int, y: int) -> None:
    height, width = stamp.mask.shape
    cv2.copyTo(pixels, stamp.mask, field[y : y + height, x : x + width])


def _resize(pixels: Pixels, side: int) -> Pixels:
    shrinks = side <= min(pixels.shape[:2])
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=method), dtype=np.uint8)


def _check_canvas(spec: SynthSpec, templates: Templates) -> None:
    sides = [max(part.shape[:2]) for part in (*templates.cells, *templates.artifacts)]
    if max(sides) > spec.canvas:
        raise ArgumentError(
            f"canvas must be at least {max(sides)}, the side of the largest template, "
            f"got {spec.canvas}"
        )


def _recipe(spec: SynthSpec, templates: Templates) -> dict[str, Any]:
    """Everything that the output depends on, and nothing else."""
    parts = (templates.background, *templates.cells, *templates.artifacts)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part.shape).encode() + part.tobytes())
    return {
        "recipe": _RECIPE_VERSION,
        **{name: to_plain(getattr(spec, name)) for name in _BYTES_DEPEND_ON},
        "templates": {
            "source": templates.source,
            "boxes": to_plain(templates.boxes),
            "sha256": digest.hexdigest(),
        },
        "counts": [count_cells(spec, index) for index in range(spec.images)],
    }


def _write_images(spec: SynthSpec, templates: Templates, progress: Progress) -> None:
    names = [f"{_case(index)}.png" for index in range(spec.images)]
    done = _complete_files(spec.out / IMAGES) & _complete_files(spec.out / MASKS)
    missing = [index for index, name in enumerate(names) if name not in done]
    if not missing:
        return
    prepared = prepare_templates(spec, templates)

    # one canvas per worker, because allocating one per image takes as long as composing it
    local = threading.local()

    def make(index: int) -> None:
        if not hasattr(local, "canvas"):
            local.canvas = new_canvas(spec.canvas)
        layout = draw_layout(spec, templates, index)
        image, mask = compose(layout, prepared, spec.size, local.canvas)
        write_png(spec.out / IMAGES / names[index], image)
        write_png(spec.out / MASKS / names[index], mask)

    run_all(make, missing, spec.workers, progress, "synthetic images")


def _complete_files(folder: Path) -> set[str]:
    """Names of the files in a folder that are not empty; removes leftovers of a killed run."""
    names = set()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith(".") and path.suffix == ".part":
            path.unlink(missing_ok=True)
        elif path.stat().st_size:
            names.add(path.name)
    return names


def _write_preview(spec: SynthSpec, templates: Templates) -> None:
    """Write a picture of the templates to check, and their boxes to edit."""
    picture, boxes = spec.out / PICTURE, spec.out / BOXES
    if not picture.exists():
        smear = read_image(spec.smear) if spec.smear is not None else None
        write_png(picture, picture_templates(templates, smear))
    if templates.boxes is not None and not boxes.exists():
        write_json(boxes, to_plain(templates.boxes))


def picture_templates(templates: Templates, smear: Pixels | None = None) -> Pixels:
    """Show background, cells, segmented cells and artifacts (Fig. 2), and the smear."""
    cut = tuple(
        np.where(cell_mask(cell)[..., None], cell, np.uint8(255)) for cell in templates.cells
    )
    columns = [
        _column(parts)
        for parts in ((templates.background,), templates.cells, cut, templates.artifacts)
    ]
    if smear is not None and templates.boxes is not None:
        columns.append(_mark_boxes(_column((smear,)), templates.boxes))
    return np.hstack(columns)


def _column(parts: Sequence[Pixels], height: int = 720) -> Pixels:
    """Scale pictures to the same height and stack them, padded with white."""
    tall = height // len(parts)
    widths = [max(1, round(part.shape[1] * tall / part.shape[0])) for part in parts]
    column = np.full((height, max(widths) + _GAP, 3), 255, dtype=np.uint8)
    for row, (part, width) in enumerate(zip(parts, widths, strict=True)):
        shown = cv2.resize(part, (width, tall), interpolation=cv2.INTER_AREA)
        column[row * tall : (row + 1) * tall - _GAP, :width] = shown[:-_GAP]
    return column


def _mark_boxes(column: Pixels, boxes: Boxes) -> Pixels:
    """Draw the boxes on a smear scaled to a column: background, cells, artifacts."""
    scale = len(column) / boxes.size[1]
    marks = [
        (_GREEN, (boxes.background,)),
        (_RED, boxes.cells),
        (_ORANGE, boxes.artifacts),
    ]
    for colour, boxes_of_kind in marks:
        for x0, y0, x1, y1 in boxes_of_kind:
            corner, opposite = (
                (round(x0 * scale), round(y0 * scale)),
                (round(x1 * scale), round(y1 * scale)),
            )
            cv2.rectangle(column, corner, opposite, colour, 2)
    return column
