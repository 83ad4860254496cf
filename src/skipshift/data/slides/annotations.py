"""Slide annotations: polygons and points of COCO-style JSON, SlideRunner and QuPath."""

import contextlib
import dataclasses
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from skipshift.data.slides import geojson
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.records import write_json

Points = npt.NDArray[np.float64]
"""(N, 2): x and y in full-resolution pixels of a slide."""

_SQLITE = b"SQLite format 3\0"

POINT_SIDE = 50
"""Side in pixels of the box that stands for a point."""

_SPOT, _AREA, _POLYGON, _SPECIAL_SPOT, _CIRCLE = 1, 2, 3, 4, 5
"""Annotation types of SlideRunner; areas and circles are stored as two corners."""


@dataclass(frozen=True, eq=False)
class Shape:
    """One annotation."""

    label: str
    """Class name as in the file."""

    kind: Literal["polygon", "point"]
    """A bounding box without a polygon counts as the point at its centre."""

    points: Points
    """(N, 2) vertices of a polygon, N >= 3, not closed by the first one; (1, 2) for a point."""


@dataclass(frozen=True, eq=False)
class AnnotatedSlide:
    """A slide and its annotations, in the order of the file."""

    slide: str
    """File name of the slide, with folders if the annotation file gives them."""

    size: tuple[int, int] | None
    """Width and height in pixels, if the file states them."""

    about: Mapping[str, str]
    """Further properties of the slide in the file, such as ``tumor_type``."""

    shapes: tuple[Shape, ...]


def read_slide_annotations(path: Path, slide: str) -> AnnotatedSlide:
    """Read the annotations of one slide; `SkipshiftError` if the file does not have the slide."""
    known = read_annotations(path)
    # QuPath names a file after its slide, mostly without the ending
    if slide not in known and Path(slide).stem in known:
        return dataclasses.replace(known[Path(slide).stem], slide=slide)
    if slide not in known:
        raise SkipshiftError(f"{path}: has no slide {slide}; its first is {next(iter(known), '-')}")
    return known[slide]


def read_annotations(path: Path) -> dict[str, AnnotatedSlide]:
    """Read annotations of any format; the content decides which.

    Returns
    -------
    Annotations by slide name, including slides without any; by file name without the ending for
    QuPath, of whose files a folder may hold several. `SkipshiftError` if a file is broken or of no
    known format.
    """
    if path.is_dir() or path.suffix.lower() == geojson.ENDING:
        return _by_slide(path, map(read_qupath, annotation_files(path)))
    try:
        with path.open("rb") as file:
            start = file.read(len(_SQLITE))
    except OSError as error:
        raise SkipshiftError(f"{path}: cannot be read: {error.strerror}") from None
    return read_sliderunner(path) if start == _SQLITE else read_coco(path)


def annotation_files(path: Path) -> list[Path]:
    """List the annotation files that a path names: itself, or all of QuPath in a folder."""
    return sorted(path.glob(f"*{geojson.ENDING}")) if path.is_dir() else [path]


def read_qupath(path: Path) -> AnnotatedSlide:
    """Read the GeoJSON that QuPath exports of one slide; `SkipshiftError` if it is broken."""
    try:
        features = geojson.read_features(path)
    except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _broken(path, "GeoJSON", error) from None
    shapes = [Shape(label, "polygon" if len(p) > 1 else "point", p) for label, p in features]
    return AnnotatedSlide(path.stem, None, {}, tuple(shapes))


def write_qupath(path: Path, annotated: AnnotatedSlide) -> None:
    """Write a slide's annotations as GeoJSON that QuPath imports and `read_qupath` reads."""
    geojson.write_features(path, [(shape.label, shape.points) for shape in annotated.shapes])


def read_coco(path: Path) -> dict[str, AnnotatedSlide]:
    """Read COCO-style JSON, as in CATCH, the multi-scanner SCC set, MIDOG 2021 and MIDOG++.

    An annotation with a ``segmentation`` is one or more polygons; one with a ``bbox`` alone is a
    point. Boxes are two corners (MIDOG) or a corner and sides (COCO): corners if the second pair of
    every box in the file exceeds the first. `SkipshiftError` if the file is broken.
    """
    try:
        data = json.loads(path.read_bytes())
        labels = {entry["id"]: str(entry["name"]) for entry in data["categories"]}
        images = {entry["id"]: entry for entry in data["images"]}
        corners = all(_ordered(a["bbox"]) for a in data["annotations"] if not a.get("segmentation"))
        shapes: dict[Any, list[Shape]] = defaultdict(list)
        for entry in data["annotations"]:
            image, label = images[entry["image_id"]]["id"], labels[entry["category_id"]]
            shapes[image] += _coco_shapes(entry, label, corners)
        annotated = [_coco_slide(entry, shapes[number]) for number, entry in images.items()]
    except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _broken(path, "COCO-style JSON", error) from None
    return _by_slide(path, annotated)


def write_coco(path: Path, annotated: AnnotatedSlide) -> None:
    """Write a slide's annotations as COCO-style JSON that `read_coco` reads.

    A point becomes a box of `POINT_SIDE` pixels around it, as in MIDOG; boxes are two corners.
    """
    labels = list(dict.fromkeys(shape.label for shape in annotated.shapes))
    entries = []
    for number, shape in enumerate(annotated.shapes, 1):
        half = POINT_SIDE / 2 if shape.kind == "point" else 0
        box = [*(shape.points.min(axis=0) - half), *(shape.points.max(axis=0) + half)]
        entry = {"id": number, "image_id": 1, "category_id": labels.index(shape.label) + 1}
        outline = {"segmentation": shape.points.ravel().tolist()} if shape.kind == "polygon" else {}
        entries.append({**entry, "bbox": [float(side) for side in box], **outline})
    sizes = dict(zip(("width", "height"), annotated.size, strict=True)) if annotated.size else {}
    write_json(
        path,
        {
            "images": [{"id": 1, "file_name": annotated.slide, **sizes, **annotated.about}],
            "categories": [{"id": i, "name": name} for i, name in enumerate(labels, 1)],
            "annotations": entries,
        },
    )


def read_sliderunner(path: Path) -> dict[str, AnnotatedSlide]:
    """Read a SlideRunner database, as of CATCH and MITOS_WSI_CMC.

    Spots and circles become points, areas and outlines polygons. The class is the agreed one, or
    else the only one that annotators gave. Annotations that are deleted, have no class, or are
    disputed without an agreement are left out. `SkipshiftError` if the file is broken.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as db:
            db.row_factory = _named
            slides = db.execute("SELECT * FROM Slides ORDER BY uid").fetchall()
            shapes = _sliderunner_shapes(db)
            annotated = [_sliderunner_slide(row, shapes[row["uid"]]) for row in slides]
    except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
        raise _broken(path, "a SlideRunner database", error) from None
    return _by_slide(path, annotated)


def _by_slide(path: Path, annotated: Iterable[AnnotatedSlide]) -> dict[str, AnnotatedSlide]:
    slides: dict[str, AnnotatedSlide] = {}
    for one in annotated:
        if one.slide in slides:
            raise SkipshiftError(f"{path}: lists the slide {one.slide} twice; remove one of them")
        slides[one.slide] = one
    return slides


def _ordered(box: Sequence[float]) -> bool:
    return box[2] > box[0] and box[3] > box[1]


def _coco_slide(entry: Mapping[str, Any], shapes: Sequence[Shape]) -> AnnotatedSlide:
    size = (int(entry["width"]), int(entry["height"])) if entry.get("width") else None
    known = ("id", "file_name", "width", "height", "license")
    about = {str(name): str(value) for name, value in entry.items() if name not in known}
    return AnnotatedSlide(str(entry["file_name"]), size, about, tuple(shapes))


def _coco_shapes(entry: Mapping[str, Any], label: str, corners: bool) -> list[Shape]:
    outlines = entry.get("segmentation")
    if outlines:
        if isinstance(outlines, dict):
            raise ArgumentError("a segmentation is run-length encoded; export polygons instead")
        several = isinstance(outlines[0], list)
        return [_polygon(label, outline) for outline in (outlines if several else [outlines])]
    x, y, right, down = map(float, entry["bbox"])
    if not corners:
        right, down = x + right, y + down
    return [Shape(label, "point", np.array([[(x + right) / 2, (y + down) / 2]]))]


def _polygon(label: str, numbers: Any) -> Shape:
    points = np.asarray(numbers, dtype=np.float64).reshape(-1, 2)
    if len(points) > 3 and np.array_equal(points[0], points[-1]):
        points = points[:-1]
    if len(points) < 3 or not np.isfinite(points).all():
        raise ArgumentError(
            f"a polygon of class {label} needs 3 or more vertices, all finite, "
            f"got {points.tolist()[:3]}"
        )
    return Shape(label, "polygon", points)


def _named(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, values, strict=True)}


def _sliderunner_slide(row: Mapping[str, Any], shapes: Sequence[Shape]) -> AnnotatedSlide:
    size = (int(row["width"]), int(row["height"])) if row.get("width") else None
    return AnnotatedSlide(str(row["filename"]), size, {}, tuple(shapes))


def _sliderunner_shapes(db: sqlite3.Connection) -> dict[int, list[Shape]]:
    """Read the shapes of each slide, by the slide's uid."""
    labels = {row["uid"]: str(row["name"]) for row in db.execute("SELECT * FROM Classes")}
    corners: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for row in db.execute("SELECT * FROM Annotations_coordinates ORDER BY orderIdx, uid"):
        corners[row["annoId"]].append((row["coordinateX"], row["coordinateY"]))
    votes: dict[int, set[int]] = defaultdict(set)
    for row in db.execute("SELECT * FROM Annotations_label"):
        votes[row["annoId"]].add(row["class"])
    shapes: dict[int, list[Shape]] = defaultdict(list)
    for row in db.execute("SELECT * FROM Annotations ORDER BY uid"):
        given = {row["agreedClass"]} if row["agreedClass"] in labels else votes[row["uid"]]
        # early versions of SlideRunner have no such column
        deleted = row.get("deleted")
        if deleted or len(given) != 1 or not given <= set(labels):
            continue
        points = np.array(corners[row["uid"]], dtype=np.float64).reshape(-1, 2)
        shape = _sliderunner_shape(row["type"], labels[min(given)], points)
        if shape is not None:
            shapes[row["slide"]].append(shape)
    return shapes


def _sliderunner_shape(kind: int, label: str, points: Points) -> Shape | None:
    """Convert a stored annotation to a shape; None for types without coordinates."""
    if kind in (_SPOT, _SPECIAL_SPOT, _CIRCLE) and len(points):
        return Shape(label, "point", points.mean(axis=0, keepdims=True))
    if kind == _AREA and len(points) == 2:
        (left, top), (right, bottom) = points
        return _polygon(label, [left, top, right, top, right, bottom, left, bottom])
    return _polygon(label, points) if kind == _POLYGON else None


def _broken(path: Path, what: str, error: Exception) -> SkipshiftError:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    missing = "missing " if isinstance(error, KeyError) else ""
    return SkipshiftError(f"{path}: cannot be read as {what}: {missing}{reason}")
