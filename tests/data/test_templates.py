"""Templates: procedural, from a file, from BBBC041's annotation, or detected in a smear."""

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from skipshift.data.images import read_image, write_png
from skipshift.data.prepare.options import SynthSpec
from skipshift.data.prepare.procedural import draw_artifacts, draw_background, draw_cells
from skipshift.data.prepare.smear_boxes import Boxes, read_boxes
from skipshift.data.prepare.smear_masks import cell_mask, stain_mask
from skipshift.data.prepare.smear_search import _largest_rectangle, find_boxes
from skipshift.data.prepare.templates import load_templates
from skipshift.errors import SkipshiftError
from skipshift.spec_files import to_plain

BBBC041 = Path(__file__).parents[3] / "shared" / "data" / "bbbc041"
SMEARS = sorted((BBBC041 / "images").glob("*.png"))
CROWDED = {"3e764461", "5a0628af"}
"""Smears in which all cells touch or are blurred: detection rightly fails."""

needs_bbbc041 = pytest.mark.skipif(not SMEARS, reason=f"no real smears at {BBBC041}")


def box_around(x, y, radius):
    return (x - radius, y - radius, x + radius, y + radius)


CELLS = ((100, 100), (250, 120), (400, 90))
SPECKS = ((60, 300), (75, 200), (500, 40))


def paint_smear(cells=CELLS, specks=SPECKS):
    """A bright smear (400, 600, 3) with cells of radius 30 and specks of radius 5."""
    rng = np.random.default_rng(0)
    smear = np.full((400, 600, 3), 240, dtype=np.uint8)
    for x, y in cells:
        cv2.circle(smear, (x, y), 30, (120, 80, 160), -1)
        cv2.circle(smear, (x, y), 8, (235, 230, 238), -1)
    for x, y in specks:
        cv2.circle(smear, (x, y), 5, (180, 120, 180), -1)
    return np.clip(smear + rng.normal(0, 2, smear.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def smear(tmp_path):
    path = tmp_path / "smear.png"
    write_png(path, paint_smear())
    return path


def good_boxes():
    return {
        "image": "smear.png",
        "size": [600, 400],
        "background": [200, 200, 400, 380],
        "cells": [list(box_around(x, y, 36)) for x, y in CELLS],
        "artifacts": [list(box_around(x, y, 9)) for x, y in SPECKS],
    }


def write_boxes(folder, **changes):
    path = folder / "boxes.json"
    path.write_text(json.dumps(good_boxes() | changes))
    return path


def naive_otsu(values):
    """The threshold with the largest variance between classes, by exhaustive search."""
    spread = {}
    for level in range(255):
        low, high = values[values <= level], values[values > level]
        if len(low) and len(high):
            spread[level] = len(low) * len(high) * (low.mean() - high.mean()) ** 2
    return max(spread, key=spread.get)


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def annotated_cells(image):
    for record in json.loads((BBBC041 / "training_subset.json").read_text()):
        if record["image"]["pathname"].endswith(image):
            for item in record["objects"]:
                low, high = item["bounding_box"]["minimum"], item["bounding_box"]["maximum"]
                yield item["category"], (low["c"], low["r"], high["c"], high["r"])


def test_stain_mask_uses_the_threshold_of_an_exhaustive_search():
    cell = draw_cells()[0]
    green = cell[..., 1]
    assert np.array_equal(stain_mask(cell), green <= naive_otsu(green.ravel()))


def test_cell_mask_is_the_painted_disc_without_the_speck():
    patch = paint_smear(specks=((68, 68),))[60:140, 60:140]
    y, x = np.mgrid[60:140, 60:140]
    disc = np.hypot(x - 100, y - 100) <= 30
    assert (cell_mask(patch) != disc).mean() < 0.01


@pytest.mark.parametrize("cell", draw_cells(), ids=["ring", "trophozoite", "schizont"])
def test_a_procedural_cell_is_connected_and_as_large_as_a_real_one(cell):
    mask = cell_mask(cell)
    assert ndimage.label(mask)[1] == 1
    assert np.array_equal(ndimage.binary_fill_holes(mask), mask)
    assert 115 <= 2 * np.sqrt(mask.sum() / np.pi) <= 130
    dark, pale = np.percentile(cell[..., 1][ndimage.binary_erosion(mask, iterations=12)], [1, 95])
    assert dark < 0.7 * pale


def test_a_procedural_background_is_bright_uneven_and_seeded():
    ground = draw_background()
    light = cv2.GaussianBlur(ground[..., 1], (0, 0), 40)
    assert ground.mean() > 235
    assert np.ptp(light) >= 3
    assert np.array_equal(ground, draw_background(seed=0))
    assert not np.array_equal(ground, draw_background(seed=1))


def test_the_largest_free_rectangle_is_that_of_an_exhaustive_search():
    rng = np.random.default_rng(0)
    for _ in range(30):
        free = rng.random((6, 7)) < 0.7
        spans = itertools.product(
            itertools.combinations(range(7), 2), itertools.combinations(range(7), 2)
        )
        best = max(
            (x1 - x0) * (y1 - y0)
            for (x0, x1), (y0, y1) in spans
            if free[y0:y1, x0:x1].all() and 0.5 <= (x1 - x0) / (y1 - y0) <= 2
        )
        x0, y0, x1, y1 = _largest_rectangle(free)
        assert free[y0:y1, x0:x1].all()
        assert (x1 - x0) * (y1 - y0) >= best


def test_boxes_of_a_painted_smear_are_detected_where_painted(smear, tmp_path):
    templates = load_templates(SynthSpec(tmp_path, smear=smear))
    assert templates.source == "found"
    for name, places in (("cells", CELLS), ("artifacts", SPECKS)):
        boxes = getattr(templates.boxes, name)
        middles = [np.array([x0 + x1, y0 + y1]) / 2 for x0, y0, x1, y1 in boxes]
        assert all(min(np.abs(middle - place).max() for middle in middles) < 2 for place in places)
    assert np.ptp(templates.background[..., 1].astype(int)) < 30


def test_boxes_of_a_file_are_cut_as_written(smear, tmp_path):
    spec = SynthSpec(tmp_path, smear=smear, templates=write_boxes(tmp_path))
    templates = load_templates(spec)
    assert templates.source == "file"
    assert to_plain(templates.boxes) == good_boxes()
    assert np.array_equal(templates.cells[0], paint_smear()[64:136, 64:136])
    assert templates.background.shape == (180, 200, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": [[0, 0, 5, 5]]}, "boxes.json: cells must be three boxes, got 1"),
        ({"artifacts": [[0, 0, 5, 5]] * 4}, "artifacts must be three boxes or fewer, got 4"),
        (
            {"background": [0, 0, 700, 9]},
            r"box \[0, 0, 700, 9\] must be .* inside the 600 x 400",
        ),
        ({"background": [9, 9, 9, 20]}, r"box \[9, 9, 9, 20\] must be"),
        (
            {"size": [1600, 1200]},
            "is for smear.png of 1600 x 1200 pixels, not for smear.png of 600",
        ),
        ({"image": "other.png"}, "is for other.png"),
        ({"specks": []}, "boxes.json: specks: Unexpected keyword argument"),
        (
            {"cells": [[450, 200, 520, 300]] * 3},
            r"the box \[450, 200, 520, 300\] contains no usable cell",
        ),
    ],
)
def test_a_wrong_template_file_is_a_one_line_error(smear, tmp_path, changes, message):
    spec = SynthSpec(tmp_path, smear=smear, templates=write_boxes(tmp_path, **changes))
    with pytest.raises(SkipshiftError, match=message) as error:
        load_templates(spec)
    assert "\n" not in str(error.value)


def test_a_missing_key_of_a_template_file_is_named(smear, tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"image": "smear.png"}))
    with pytest.raises(SkipshiftError, match=r"boxes.json: size: Field required"):
        load_templates(SynthSpec(tmp_path, smear=smear, templates=path))


def write_bad_smear(path, kind):
    if kind == "text":
        path.write_text("not a picture")
    elif kind == "truncated":
        write_png(path, paint_smear())
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "grey":
        write_png(path, paint_smear()[..., 0])
    elif kind == "blank":
        write_png(path, np.full((300, 300, 3), 240, dtype=np.uint8))
    elif kind == "two cells":
        write_png(path, paint_smear(cells=((100, 100), (300, 200), (10, 380))))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", "bad.png: does not exist"),
        ("text", "bad.png: is not an image"),
        ("truncated", "bad.png: cannot be read as an image"),
        ("grey", "bad.png: is grey; a smear must be an RGB colour image"),
        ("blank", "bad.png: only 0 .* cells detected, 3 are needed; .* --templates"),
        ("two cells", "bad.png: only 2 whole, isolated and round cells"),
    ],
)
def test_an_unusable_smear_is_a_one_line_error(tmp_path, kind, message):
    write_bad_smear(tmp_path / "bad.png", kind)
    with pytest.raises(SkipshiftError, match=message) as error:
        load_templates(SynthSpec(tmp_path, smear=tmp_path / "bad.png"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [0, 1])
def test_artifacts_that_a_clean_smear_lacks_are_drawn_in_its_scale(tmp_path, count):
    write_png(tmp_path / "clean.png", paint_smear(specks=SPECKS[:count]))
    templates = load_templates(SynthSpec(tmp_path, smear=tmp_path / "clean.png"))
    assert templates.source == f"found, {3 - count} of 3 artifacts drawn for want of specks"
    cell = np.median([cell.shape[1] for cell in templates.cells])
    drawn = draw_artifacts()[count:]
    for artifact, original in zip(templates.artifacts[count:], drawn, strict=True):
        assert artifact.shape[0] == pytest.approx(original.shape[0] * cell / 120, abs=1)


def test_a_speck_that_drowns_in_noise_is_no_artifact(tmp_path, rng):
    smear = paint_smear(specks=()).astype(float)
    for x, y in SPECKS:
        smear[y - 5 : y + 5, x - 5 : x + 5] -= 18
    noisy = np.clip(smear + rng.normal(0, 8, smear.shape), 0, 255).astype(np.uint8)
    write_png(tmp_path / "noisy.png", noisy)
    assert find_boxes(tmp_path / "noisy.png", noisy).artifacts == ()


def write_annotation(path, cells, image="smear.png", category="red blood cell"):
    """BBBC041's layout; cells are (x, y, radius)."""
    objects = [
        {
            "category": category,
            "bounding_box": {
                "minimum": {"r": y - r, "c": x - r},
                "maximum": {"r": y + r, "c": x + r},
            },
        }
        for x, y, r in cells
    ]
    path.write_text(json.dumps([{"image": {"pathname": f"/images/{image}"}, "objects": objects}]))
    return path


@pytest.mark.parametrize(
    ("cells", "change", "message"),
    [
        ([(100, 100, 30)], {"image": "x.png"}, "has no boxes for smear.png"),
        ([(100, 100, 30)], {}, "only 1 of the cells of smear.png are whole and isolated"),
        ([(10, 100, 30)], {}, r"box \[-20, 70, 40, 130\] lies outside smear.png"),
        ([(100, 100, 30), (250, 120, 30), (400, 90, 30)], {"category": "leukocyte"}, "only 0 of"),
    ],
)
def test_an_unusable_annotation_is_an_error(smear, tmp_path, cells, change, message):
    path = write_annotation(tmp_path / "training.json", cells, **change)
    with pytest.raises(SkipshiftError, match=message):
        load_templates(SynthSpec(tmp_path, smear=smear, boxes=path))


@pytest.mark.parametrize("text", ["[1]", "{}", '[{"image": {"pathname": "smear.png"}}]', "3"])
def test_an_annotation_in_another_format_is_an_error(smear, tmp_path, text):
    path = tmp_path / "training.json"
    path.write_text(text)
    with pytest.raises(SkipshiftError, match=r"not in BBBC041's format|has no boxes"):
        load_templates(SynthSpec(tmp_path, smear=smear, boxes=path))


@needs_bbbc041
@pytest.mark.parametrize("path", SMEARS, ids=lambda path: path.name[:8])
def test_detections_in_a_real_smear_agree_with_its_annotation(path):
    if path.name[:8] in CROWDED:
        with pytest.raises(SkipshiftError, match="round cells detected, 3 are needed"):
            find_boxes(path, read_image(path))
        return
    boxes = find_boxes(path, read_image(path))
    cells = [box for _, box in annotated_cells(path.name)]
    for box in boxes.cells:
        shared = max(overlap(box, cell) / area(cell) for cell in cells)
        assert shared > 0.8
    for box in (boxes.background, *boxes.artifacts):
        assert max(overlap(box, cell) for cell in cells) <= 0.2 * area(box)


@needs_bbbc041
def test_infected_cells_are_preferred_to_healthy_ones(tmp_path):
    path = next(path for path in SMEARS if path.name.startswith("2ae3e6e6"))
    spec = SynthSpec(tmp_path, smear=path, boxes=BBBC041 / "training_subset.json")
    boxes = load_templates(spec).boxes
    cells = list(annotated_cells(path.name))
    kinds = [max(cells, key=lambda cell: overlap(box, cell[1]))[0] for box in boxes.cells]
    assert kinds == ["gametocyte", "gametocyte", "red blood cell"]


@needs_bbbc041
@pytest.mark.parametrize("name", ["2f9f400d", "4a717a39"])
def test_a_known_smear_uses_its_shipped_boxes_which_contain_cells(name, tmp_path):
    path = next(path for path in SMEARS if path.name.startswith(name))
    templates = load_templates(SynthSpec(tmp_path, smear=path))
    assert templates.source == "shipped"
    cells = [box for _, box in annotated_cells(path.name)]
    for box in templates.boxes.cells:
        assert max(overlap(box, cell) / area(cell) for cell in cells) > 0.85
    assert max(overlap(templates.boxes.background, cell) for cell in cells) == 0


def test_a_box_outside_the_image_is_an_argument_error():
    with pytest.raises(ValueError, match="inside the 10 x 10 image"):
        Boxes(
            image="a",
            size=(10, 10),
            background=(0, 0, 11, 5),
            cells=((0, 0, 1, 1),) * 3,
            artifacts=((0, 0, 1, 1),) * 3,
        )


def test_read_boxes_is_the_inverse_of_writing_them(tmp_path):
    boxes = read_boxes(write_boxes(tmp_path), "smear.png", paint_smear())
    (tmp_path / "again.json").write_text(json.dumps(to_plain(boxes)))
    assert read_boxes(tmp_path / "again.json", "smear.png", paint_smear()) == boxes
