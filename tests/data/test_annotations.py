"""Annotations compared with the shapes they were written from, and real files with their JSON."""

import json
import sqlite3
from collections import Counter

import numpy as np
import pytest

from pyramids import write_coco, write_sliderunner
from skipshift.data.slides.annotations import (
    AnnotatedSlide,
    Shape,
    read_annotations,
    read_slide_annotations,
    write_qupath,
)
from skipshift.errors import SkipshiftError

FILES = "data/histology/annotations"
OUTLINE = [(10, 10), (90, 12), (80, 70), (15, 60)]
CLASSES = ["Dermis", "SCC"]


def test_polygons_of_both_formats_are_the_same(tmp_path):
    coco = write_coco(tmp_path / "a.json", {"s.svs": (200, 100, [("SCC", OUTLINE)])}, CLASSES)
    rows = {"s.svs": (200, 100, [(3, "SCC", OUTLINE)])}
    database = write_sliderunner(tmp_path / "a.sqlite", rows, CLASSES)
    for path in (coco, database):
        found = read_annotations(path)["s.svs"]
        assert found.size == (200, 100)
        assert [(shape.label, shape.kind) for shape in found.shapes] == [("SCC", "polygon")]
        assert found.shapes[0].points.tolist() == [list(map(float, corner)) for corner in OUTLINE]


def test_a_closed_polygon_is_opened_and_several_outlines_are_several_polygons(tmp_path):
    path = write_coco(tmp_path / "a.json", {"s.svs": (9, 9, [("SCC", OUTLINE)])}, CLASSES)
    content = json.loads(path.read_text())
    flat = np.ravel([*OUTLINE, OUTLINE[0]]).tolist()
    content["annotations"][0]["segmentation"] = [flat, np.ravel(OUTLINE[:3]).tolist()]
    path.write_text(json.dumps(content))
    assert [len(shape.points) for shape in read_annotations(path)["s.svs"].shapes] == [4, 3]


@pytest.mark.parametrize(
    ("boxes", "centres"),
    [
        ([[100, 40, 150, 90], [7, 8, 9, 10]], [[125, 65], [8, 9]]),
        ([[100, 40, 50, 50], [7, 8, 9, 10]], [[125, 65], [11.5, 13]]),
    ],
)
def test_a_box_is_the_point_at_its_centre(tmp_path, boxes, centres):
    path = tmp_path / "a.json"
    annotations = [{"image_id": 1, "category_id": 2, "bbox": box} for box in boxes]
    content = {
        "images": [{"id": 1, "file_name": "1.tiff", "tumor_type": "melanoma"}],
        "categories": [{"id": 2, "name": "mitotic figure"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(content))
    [found] = read_annotations(path).values()
    assert (found.slide, found.size, found.about) == ("1.tiff", None, {"tumor_type": "melanoma"})
    assert [shape.points[0].tolist() for shape in found.shapes] == centres
    assert {shape.kind for shape in found.shapes} == {"point"}


@pytest.mark.parametrize(
    ("name", "slides", "points"),
    [
        ("MIDOG.json", 200, {"mitotic figure": 1721, "not mitotic figure": 2714}),
        ("MIDOG++.json", 553, {"mitotic figure": 11937, "not mitotic figure": 14349}),
    ],
)
def test_no_point_of_the_real_files_is_lost(shared, name, slides, points):
    path = shared / FILES / name
    found = read_annotations(path)
    assert len(found) == slides
    shapes = [shape for slide in found.values() for shape in slide.shapes]
    assert Counter(shape.label for shape in shapes) == points
    boxes = [entry["bbox"] for entry in json.loads(path.read_text())["annotations"]]
    centres = {((x + right) / 2, (y + down) / 2) for x, y, right, down in boxes}
    assert {tuple(shape.points[0]) for shape in shapes} == centres
    for slide in found.values():
        assert all((shape.points <= slide.size).all() for shape in slide.shapes)


def test_spots_and_circles_are_points_and_areas_polygons(tmp_path):
    corners = [(10, 20), (30, 60)]
    rows = [(1, "SCC", [(5, 6)]), (5, "SCC", corners), (2, "Dermis", corners), (6, "SCC", [])]
    path = write_sliderunner(tmp_path / "a.sqlite", {"s.svs": (99, 99, rows)}, CLASSES)
    spot, circle, area = read_annotations(path)["s.svs"].shapes
    assert (spot.kind, spot.points.tolist()) == ("point", [[5, 6]])
    assert (circle.kind, circle.points.tolist()) == ("point", [[20, 40]])
    assert (area.label, area.kind) == ("Dermis", "polygon")
    assert area.points.tolist() == [[10, 20], [30, 20], [30, 60], [10, 60]]


def test_deleted_and_disputed_annotations_are_left_out(tmp_path):
    rows = [(3, "SCC", OUTLINE)] * 4
    path = write_sliderunner(tmp_path / "a.sqlite", {"s.svs": (99, 99, rows)}, CLASSES)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE Annotations SET deleted = 1 WHERE uid = 1")
        db.execute("UPDATE Annotations SET agreedClass = 0 WHERE uid > 1")
        db.execute("UPDATE Annotations_label SET class = 1 WHERE annoId = 3")
        db.execute("INSERT INTO Annotations_label (person, class, annoId) VALUES (2, 1, 4)")
    db.close()
    # one vote for SCC on the second, one for Dermis on the third, one for each on the fourth
    labels = [shape.label for shape in read_annotations(path)["s.svs"].shapes]
    assert labels == ["SCC", "Dermis"]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.json", b"{", "a.json: cannot be read as COCO-style JSON"),
        ("a.json", b'{"images": []}', "as COCO-style JSON: missing 'categories'"),
        (
            "a.json",
            b'{"images": [{"id": 1}], "categories": [], "annotations": []}',
            "as COCO-style JSON: missing 'file_name'",
        ),
        ("a.sqlite", b"SQLite format 3\0rubbish", "a.sqlite: cannot be read as a SlideRunner data"),
        ("none.json", None, "none.json: cannot be read: No such file"),
    ],
)
def test_a_file_without_annotations_is_an_error(tmp_path, name, content, fault):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SkipshiftError, match=fault):
        read_annotations(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"segmentation": {"counts": []}}, "run-length encoded; export polygons instead"),
        ({"segmentation": [1, 2, 3, 4]}, "polygon of class SCC needs 3 or more vertices"),
        ({"category_id": 9}, "missing 9"),
        ({"segmentation": [], "bbox": [1, 2]}, "index out of range"),
    ],
)
def test_a_malformed_annotation_is_an_error(tmp_path, change, fault):
    path = write_coco(tmp_path / "a.json", {"s.svs": (9, 9, [("SCC", OUTLINE)])}, CLASSES)
    content = json.loads(path.read_text())
    content["annotations"][0] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(SkipshiftError, match=fault):
        read_annotations(path)


def test_a_slide_listed_twice_is_an_error(tmp_path):
    slides = {"s.svs": (9, 9, []), "t.svs": (9, 9, [])}
    path = write_coco(tmp_path / "a.json", slides, CLASSES)
    path.write_text(path.read_text().replace("t.svs", "s.svs"))
    with pytest.raises(SkipshiftError, match=r"a\.json: lists the slide s\.svs twice"):
        read_annotations(path)


def qupath(path, *features):
    """A file as QuPath exports it: class, type of geometry, coordinates."""
    entries = [
        {
            "type": "Feature",
            "geometry": {"type": kind, "coordinates": places},
            "properties": {"objectType": "annotation", "classification": name and {"name": name}},
        }
        for name, kind, places in features
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": entries}))
    return path


def test_polygons_points_and_unclassified_features_of_qupath_are_read(tmp_path):
    square = [[0, 0], [8, 0], [8, 8], [0, 8], [0, 0]]
    features = [("SCC", "Polygon", [square]), (None, "Point", [3, 4]), ("x", "LineString", square)]
    [found] = read_annotations(qupath(tmp_path / "s.geojson", *features)).values()
    assert found.slide == "s"
    assert [(s.label, s.kind) for s in found.shapes] == [
        ("SCC", "polygon"),
        ("unclassified", "point"),
    ]
    assert found.shapes[0].points.tolist() == square[:-1]
    assert found.shapes[1].points.tolist() == [[3, 4]]
    assert read_slide_annotations(tmp_path / "s.geojson", "s.svs").slide == "s.svs"


def test_the_holes_of_a_polygon_are_no_part_of_it(tmp_path):
    """By the shoelace formula: 20 x 20 less two holes of 4 x 4, and a second part of 2 x 2."""
    box = lambda x, y, side: [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]  # noqa: E731
    parts = [[box(0, 0, 20), box(2, 3, 4), box(12, 9, 4)], [box(30, 30, 2)]]
    [found] = read_annotations(
        qupath(tmp_path / "s.geojson", ("a", "MultiPolygon", parts))
    ).values()
    area = 0.0
    for shape in found.shapes:
        x, y = shape.points.T
        area += abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    assert area == pytest.approx(400 - 2 * 16 + 4)


def test_written_geojson_reads_as_it_was(tmp_path):
    shapes = (
        Shape("SCC", "polygon", np.array(OUTLINE, float)),
        Shape("mitotic figure", "point", np.array([[3.5, 4.25]])),
    )
    write_qupath(tmp_path / "s.geojson", AnnotatedSlide("s", None, {}, shapes))
    again = read_annotations(tmp_path)["s"].shapes
    for one, other in zip(shapes, again, strict=True):
        assert (one.label, one.kind) == (other.label, other.kind)
        assert np.array_equal(one.points, other.points)


@pytest.mark.parametrize(
    "content", ["{", '{"features": [{"geometry": {"type": "Polygon"}}]}', "[3]"]
)
def test_broken_geojson_is_an_error(tmp_path, content):
    (tmp_path / "s.geojson").write_text(content)
    with pytest.raises(SkipshiftError, match=r"s\.geojson: cannot be read as GeoJSON"):
        read_annotations(tmp_path / "s.geojson")
