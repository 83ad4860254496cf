"""GeoJSON of QuPath: labelled polygons and points of one slide, by shapely."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skipshift.errors import ArgumentError
from skipshift.extras import load_extra
from skipshift.records import write_json

ENDING = ".geojson"

Points = npt.NDArray[np.float64]

Feature = tuple[str, Points]
"""Class, and (N, 2) vertices of a polygon, N >= 3, not closed, or (1, 2) of a point."""

_UNNAMED = "unclassified"


def read_features(path: Path) -> list[Feature]:
    """Read the polygons and points of a file; parts of a polygon around a hole are polygons.

    A feature without a class is ``unclassified``; lines are left out. `ArgumentError` for a broken
    geometry, and `OSError`, `ValueError`, `LookupError` or `TypeError` for a broken file.
    """
    shapely = load_extra("shapely", "slides")
    data = json.loads(path.read_bytes())
    found = data.get("features", [data]) if isinstance(data, dict) else data
    features = []
    for entry in found:
        about = (entry.get("properties") or {}).get("classification") or {}
        label = str(about.get("name") or _UNNAMED)
        try:
            shape = shapely.from_geojson(json.dumps(entry["geometry"]))
        except shapely.errors.GEOSException as error:
            raise ArgumentError(f"a geometry of class {label}: {error}") from None
        features += [(label, points) for points in _parts(shapely, shape)]
    return features


def write_features(path: Path, features: Sequence[Feature]) -> None:
    """Write polygons and points as a collection that QuPath imports."""
    entries = []
    for label, points in features:
        corners = points.tolist()
        kind, place = "Point", corners[0]
        if len(points) > 1:
            kind, place = "Polygon", [[*corners, corners[0]]]
        about = {"objectType": "annotation", "classification": {"name": label}}
        geometry = {"type": kind, "coordinates": place}
        entries.append({"type": "Feature", "geometry": geometry, "properties": about})
    write_json(path, {"type": "FeatureCollection", "features": entries})


def _parts(shapely: Any, shape: Any) -> Iterator[Points]:
    """Vertices of each point, and of each part of a polygon without a hole."""
    for part in getattr(shape, "geoms", [shape]):
        if part.geom_type == "Point":
            yield np.array(part.coords, np.float64)[:, :2]
        elif part.geom_type == "Polygon" and not part.is_empty:
            valid = part if part.is_valid else shapely.make_valid(part)
            yield from _without_holes(shapely, valid)


def _without_holes(shapely: Any, shape: Any) -> Iterator[Points]:
    """Cut polygons at the middle of a hole until none has one."""
    for part in getattr(shape, "geoms", [shape]):
        if part.geom_type != "Polygon":
            continue
        if not part.interiors:
            yield np.array(part.exterior.coords, np.float64)[:-1, :2]
            continue
        left, top, right, bottom = part.bounds
        middle = part.interiors[0].centroid.x
        for side in (
            shapely.box(left, top, middle, bottom),
            shapely.box(middle, top, right, bottom),
        ):
            yield from _without_holes(shapely, part.intersection(side))
