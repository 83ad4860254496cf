"""The synthetic set: composition as in the paper, reproducible, and never incomplete."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import chisquare
from sklearn.model_selection import train_test_split

from skipshift.data.images import read_image, read_mask
from skipshift.data.manifest import read_manifest
from skipshift.data.prepare.options import SynthSpec
from skipshift.data.prepare.smear_masks import cell_mask, stain_mask
from skipshift.data.prepare.synthetic import (
    compose,
    count_cells,
    draw_layout,
    new_canvas,
    prepare_templates,
    tabulate,
    write_synthetic,
)
from skipshift.data.prepare.templates import Templates, load_templates
from skipshift.data.splits import draw_holdout
from skipshift.errors import SkipshiftError

SMEAR = (
    Path(__file__).parents[3]
    / "shared/data/bbbc041/images/4a717a39-80f8-4b75-a25e-c46d65d7dcd5.png"
)


def small(out, **changes):
    defaults = {"images": 6, "cells": (1, 8), "size": 96, "canvas": 300, "workers": 2}
    return SynthSpec(out, **(defaults | changes))


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def average_areas(pixels, size):
    """Area interpolation, from the lengths of overlap."""
    edges = np.arange(size + 1) * len(pixels) / size
    old = np.arange(len(pixels))
    inside = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    share = np.clip(inside, 0, None) * size / len(pixels)
    return np.einsum("ih,hw...,jw->ij...", share, pixels.astype(float), share, optimize=True)


def compose_with_pillow(layout, templates, canvas, size):
    """The five steps of the paper, literally."""
    ground = Image.fromarray(templates.background).rotate(90 * layout.turns, expand=True)
    image = ground.resize((canvas, canvas), Image.Resampling.BILINEAR)
    mask = Image.new("L", (canvas, canvas))
    for number, x, y in layout.cells:
        stencil = Image.fromarray(cell_mask(templates.cells[number]))
        image.paste(Image.fromarray(templates.cells[number]), (x, y), stencil)
        mask.paste(255, (x, y), stencil)
    for number, x, y in layout.artifacts:
        stencil = Image.fromarray(stain_mask(templates.artifacts[number]))
        image.paste(Image.fromarray(templates.artifacts[number]), (x, y), stencil)
    return average_areas(np.array(image), size), average_areas(np.array(mask), size) > 127.5


@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_image_equals_what_pillow_composes_from_the_same_layout(tmp_path, index):
    spec = small(tmp_path, cells=(5, 30), canvas=750, size=256)
    templates = load_templates(spec)
    layout = draw_layout(spec, templates, index)
    image, mask = compose(layout, prepare_templates(spec, templates), spec.size)
    expected_image, expected_mask = compose_with_pillow(layout, templates, spec.canvas, spec.size)
    assert np.abs(image - expected_image).max() <= 1.5
    assert (mask != expected_mask).mean() < 1e-3
    assert set(np.unique(mask)) == {0, 1}


def test_a_reused_canvas_leaves_no_trace_in_the_next_image(tmp_path):
    spec = small(tmp_path)
    templates = load_templates(spec)
    prepared, canvas = prepare_templates(spec, templates), new_canvas(spec.canvas)
    layouts = [draw_layout(spec, templates, index) for index in range(3)]
    for layout in layouts:
        used, fresh = compose(layout, prepared, 96, canvas), compose(layout, prepared, 96)
        assert all(np.array_equal(a, b) for a, b in zip(used, fresh, strict=True))


def test_layouts_stay_on_the_canvas_and_cover_it(tmp_path):
    spec = small(tmp_path, cells=(1, 100), canvas=1500, size=512)
    templates = load_templates(spec)
    layouts = [draw_layout(spec, templates, index) for index in range(60)]
    assert {layout.turns for layout in layouts} == {0, 1, 2, 3}
    assert all(len(layout.artifacts) == 3 for layout in layouts)
    for number, x, y in (cell for layout in layouts for cell in layout.cells):
        height, width = templates.cells[number].shape[:2]
        assert 0 <= x <= 1500 - width
        assert 0 <= y <= 1500 - height
    places = np.array([cell[1:] for layout in layouts for cell in layout.cells])
    assert places.min() < 10
    assert places.max() > 1340


@pytest.mark.parametrize("cells", [(3, 6), (3, 7), (5, 5)])
def test_numbers_of_cells_are_uniform_on_the_range_with_both_ends(tmp_path, cells):
    spec = small(tmp_path, cells=cells, images=400)
    values, counts = np.unique([count_cells(spec, k) for k in range(400)], return_counts=True)
    assert list(values) == list(range(cells[0], cells[1] + 1))
    assert chisquare(counts).pvalue > 0.01 or len(counts) == 1
    templates = load_templates(spec)
    assert [len(draw_layout(spec, templates, k).cells) for k in range(9)] == [
        count_cells(spec, k) for k in range(9)
    ]


@pytest.mark.parametrize(("cells", "middle"), [((1, 100), 50), ((1, 8), 4)])
def test_low_and_high_densities_are_balanced_in_both_splits(tmp_path, cells, middle):
    spec = small(tmp_path, cells=cells, images=100)
    table = tabulate(spec, counts := [count_cells(spec, index) for index in range(100)])
    assert sum(count <= middle for count in counts) == 50
    assert dict(table.value_counts(["split", "stratum"])) == {
        ("train", "low"): 40,
        ("train", "high"): 40,
        ("test", "low"): 10,
        ("test", "high"): 10,
    }
    dense = [count > middle for count in counts[::2]]
    assert 10 < sum(dense) < 40


@pytest.mark.parametrize("sizes", [(50, 50), (497, 503), (13, 87), (9, 31), (5, 5)])
@pytest.mark.parametrize("holdout", [0.2, 0.25, 0.5])
def test_holdout_takes_as_many_of_each_stratum_as_scikit_learn(sizes, holdout):
    strata = ["low"] * sizes[0] + ["high"] * sizes[1]
    ours = [name for name, out in zip(strata, draw_holdout(strata, holdout, 0), strict=True) if out]
    total = round(holdout * len(strata))
    _, theirs = train_test_split(strata, test_size=total, stratify=strata, random_state=0)
    assert len(ours) == total
    assert abs(ours.count("low") - theirs.count("low")) <= 1
    assert abs(ours.count("low") - holdout * sizes[0]) < 1


@pytest.mark.parametrize(
    ("strata", "holdout", "expected"),
    [
        (["low"], 0.2, 0),
        (["low", "high"], 0.2, 1),
        (["low"] * 9, 0.0, 0),
        (["low"] * 4 + ["high"] * 4, 0.99, 7),
    ],
)
def test_a_small_set_keeps_something_to_train_and_something_to_test(strata, holdout, expected):
    assert sum(draw_holdout(strata, holdout, 3)) == expected


def test_the_strata_of_the_paper_split_at_fifty(tmp_path):
    spec = small(tmp_path, cells=(1, 100), images=4, canvas=1500)
    table = tabulate(spec, [1, 50, 51, 100])
    assert list(table["stratum"]) == ["low", "low", "high", "high"]


def test_a_set_agrees_with_its_manifest_and_recipe(tmp_path):
    spec = small(tmp_path / "set", images=10)
    path = write_synthetic(spec)
    cases = read_manifest(path)
    recipe = json.loads((tmp_path / "set/synth.json").read_text())
    assert pd.read_csv(path)["image"][7] == "images/synthetic-0007.png"
    assert list(cases["case"]) == list(cases["group"]) == [f"synthetic-{k:04d}" for k in range(10)]
    assert set(cases["domain"]) == {"original"}
    assert list(cases["split"]).count("test") == 2
    for row, count in zip(cases.itertuples(), recipe["counts"], strict=True):
        mask = read_mask(Path(str(row.mask)), classes=2)
        assert read_image(Path(str(row.image))).shape == (96, 96, 3)
        assert mask.shape == (96, 96)
        # a cell covers about 1,200 of the 96 x 96 pixels, and cells may overlap
        assert 0 < mask.sum() <= 1400 * count
        assert row.stratum == ("low" if count <= 4 else "high")
    assert read_image(tmp_path / "set/templates.png").shape[0] == 720


def test_output_depends_on_neither_workers_nor_folder(tmp_path):
    write_synthetic(small(tmp_path / "a", workers=1))
    write_synthetic(small(tmp_path / "b/c", workers=3))
    assert digests(tmp_path / "a") == digests(tmp_path / "b/c")


def test_an_image_depends_on_seed_and_index_only(tmp_path):
    for name, changes in {"a": {}, "more": {"images": 8}, "other": {"seed": 1}}.items():
        write_synthetic(small(tmp_path / name, **changes))
    files = {name: digests(tmp_path / name) for name in ("a", "more", "other")}
    images = [name for name in files["a"] if name.startswith("images/")]
    assert all(files["a"][name] == files["more"][name] for name in images)
    assert all(files["a"][name] != files["other"][name] for name in images)


def test_a_second_call_does_nothing_and_a_damaged_set_is_repaired(tmp_path):
    spec = small(tmp_path)
    write_synthetic(spec)
    before = digests(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    write_synthetic(spec)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    (tmp_path / "images/synthetic-0003.png").unlink()
    (tmp_path / "masks/synthetic-0001.png").write_bytes(b"")
    (tmp_path / "templates.png").unlink()
    write_synthetic(replace(spec, workers=1))
    assert digests(tmp_path) == before


def test_an_interrupted_run_leaves_no_partial_files_and_resumes(tmp_path):
    def stop_after_two(items, label, total=None):  # noqa: ARG001
        for number, item in enumerate(items):
            if number == 2:
                raise KeyboardInterrupt
            yield item

    spec = small(tmp_path / "a", images=40)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(spec, stop_after_two)
    assert not (tmp_path / "a/manifest.csv").exists()
    assert not list((tmp_path / "a").rglob("*.part"))
    made = list((tmp_path / "a/images").iterdir())
    assert 2 <= len(made) < 40
    assert all(read_image(path).shape == (96, 96, 3) for path in made)
    (tmp_path / "a/images/.synthetic-0039.png.x.part").write_bytes(b"killed while writing")
    seen = []
    write_synthetic(spec, lambda items, *_: (seen.append(item) or item for item in items))
    assert len(seen) <= 38
    write_synthetic(small(tmp_path / "b", images=40))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"seed": 1},
            "contains a set with seed 0, not 1; choose another folder or delete",
        ),
        ({"cells": (1, 9)}, r"contains a set with cells \[1, 8\], not \[1, 9\]"),
        ({"images": 7}, "contains a set with images 6, not 7"),
    ],
)
def test_another_set_in_the_folder_is_an_error(tmp_path, changes, message):
    write_synthetic(small(tmp_path))
    before = digests(tmp_path)
    with pytest.raises(SkipshiftError, match=message):
        write_synthetic(small(tmp_path, **changes))
    assert digests(tmp_path) == before


def test_a_set_of_other_templates_is_an_error(tmp_path, monkeypatch):
    write_synthetic(small(tmp_path))
    drawn = load_templates(small(tmp_path))
    other = replace(drawn, background=np.flipud(drawn.background))
    monkeypatch.setattr("skipshift.data.prepare.synthetic.load_templates", lambda _: other)
    with pytest.raises(SkipshiftError, match="contains a set made from other templates"):
        write_synthetic(small(tmp_path))


def test_a_folder_with_other_files_is_an_error(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SkipshiftError, match=r"is not empty and has no synth\.json"):
        write_synthetic(small(tmp_path))
    (tmp_path / "synth.json").write_text("[]")
    with pytest.raises(SkipshiftError, match=r"synth.json: was not written by skipshift"):
        write_synthetic(small(tmp_path))


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(SkipshiftError, match="out: cannot be written: Not a directory"):
        write_synthetic(small(tmp_path / "out"))


def test_a_full_disk_in_a_worker_is_a_one_line_error(tmp_path, monkeypatch):
    def full(path, _):
        if path.parent.name == "images":
            raise SkipshiftError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr("skipshift.data.prepare.synthetic.write_png", full)
    with pytest.raises(SkipshiftError, match="No space left"):
        write_synthetic(small(tmp_path))


def test_a_canvas_smaller_than_a_template_is_an_argument_error(tmp_path):
    with pytest.raises(ValueError, match=r"canvas must be at least 136, .* got 100"):
        write_synthetic(small(tmp_path, canvas=100))


def test_templates_of_a_smear_are_shown_and_their_boxes_can_be_reused(tmp_path):
    if not SMEAR.exists():
        pytest.skip(f"no real smear at {SMEAR}")
    write_synthetic(small(tmp_path / "a", smear=SMEAR))
    again = small(tmp_path / "b", smear=SMEAR, templates=tmp_path / "a/templates.json")
    write_synthetic(again)
    first, second = (digests(tmp_path / name) for name in ("a", "b"))
    assert first.pop("synth.json") != second.pop("synth.json")
    assert first == second
    assert read_image(tmp_path / "a/templates.png").shape[1] > 1500


def test_a_background_is_resized_to_the_canvas(tmp_path):
    drawn = load_templates(small(tmp_path))
    ramp = np.tile(np.linspace(0, 255, 40).astype(np.uint8)[:, None, None], (1, 40, 3))
    templates = Templates(
        background=ramp, cells=drawn.cells, artifacts=drawn.artifacts, source="test"
    )
    grounds = prepare_templates(small(tmp_path), templates).backgrounds
    assert [ground.shape for ground in grounds] == [(300, 300, 3)] * 4
    assert np.array_equal(grounds[2], grounds[0][::-1, ::-1])
    assert grounds[0][0, 0, 0] < 5
    assert grounds[1][0, 0, 0] < 5 < 250 < grounds[1][0, -1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 10**12}, "images must be at most 1000000, got 1000000000000"),
        ({"images": 1.5}, r"images must be a whole number, got 1\.5"),
        ({"cells": (1, 10**9)}, "cells must be at most 10000, got 1000000000"),
    ],
)
def test_a_slip_of_the_keyboard_starts_no_work(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        SynthSpec(tmp_path / "out", **options)
