from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from skipshift.data.prepare.options import FolderSpec, MmsSpec, SynthSpec
from skipshift.data.prepare.slide_options import MitosisSpec
from skipshift.errors import SkipshiftError
from skipshift.names import LEVELS, VARIANTS, parse_shift, skips_of, variant_of
from skipshift.records import atomic, read_table, write_table
from skipshift.spec_files import from_plain, read_spec, to_plain
from skipshift.specs import CarrySpec, EvaluationSpec, ProfileSpec
from skipshift.study_specs import ExecutionSpec, StudySpec, TrainingSpec


def test_every_set_of_skips_has_one_name():
    sets = [c for n in range(5) for c in combinations(LEVELS, n)]
    names = {variant_of(skips) for skips in sets}
    assert len(names) == 16
    assert {skips_of(name) for name in names} == set(sets)


@pytest.mark.parametrize("name", ["L5-pruned", "skips-", "skips-19", "baseline "])
def test_a_name_that_is_no_variant_is_refused(name):
    with pytest.raises(ValueError, match=r"unknown variant|levels 1\.\.4"):
        skips_of(name)


def test_a_study_names_its_variants_in_three_ways():
    spec = partial(StudySpec, manifest=Path("m.csv"))
    assert spec().variants == tuple(VARIANTS)
    assert spec(skips="all").variants[:5] == tuple(VARIANTS)
    assert len(set(spec(skips="all").variants)) == 16
    assert spec(skips=("skips-13",)).variants == ("skips-13",)


def test_a_spec_survives_its_file(tmp_path):
    spec = StudySpec(manifest=Path("m.csv"), training=TrainingSpec(crop=128, scale=(0.9, 1.1)))
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(to_plain(spec)))
    assert read_spec(StudySpec, tmp_path / "s.yaml") == spec


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("manifest: m.csv\nfoldz: 3", "foldz: Unexpected keyword argument"),
        ("folds: 3", "manifest: Field required"),
        ("manifest: m.csv\nfolds: many", "folds: Input should be a valid integer"),
        ("manifest: m.csv\nskips: [L9]", "unknown variant 'L9'; choose baseline"),
        ("manifest: m.csv\nshifts: ['hue:1']", "shift 'hue:1' must be KIND:FACTOR"),
        ("manifest: m.csv\nmargin: 1", r"margin must be in \(0, 1\), got 1"),
        ("manifest: m.csv\nclasses: [rest, mean]", "distinct names, none of them 'mean'"),
        ("manifest: m.csv\ntraining: {crop: 100}", "crop must be a multiple of 32, got 100"),
        ("manifest: m.csv\nencoders: []", "encoders must be distinct, at least one, got none"),
        ("manifest: m.csv\nrun_folds: []", "run_folds must be distinct, at least one, got none"),
        ("manifest: m.csv\nrun_folds: [0, 0]", "run_folds must be distinct, .* got 0, 0"),
        ("manifest: m.csv\nrun_folds: [-1]", "run_folds must be at least 0, got -1"),
        ("manifest: m.csv\nseeds: [-1]", "seeds must be at least 0, got -1"),
        ("manifest: m.csv\nseeds: []", "seeds must be distinct, at least one, got none"),
        (
            "manifest: m.csv\nshifts: ['contrast:0.5', 'contrast:0.50']",
            "shifts must be distinct, got contrast:0.5 and contrast:0.50",
        ),
        (
            "manifest: m.csv\nprofile_shifts: [B, B]",
            "profile_shifts must be distinct, got B and B",
        ),
        ("manifest: m.csv\nignore: 1", "ignore must be 0 or a mask value that is no class, got 1"),
        (
            "manifest: m.csv\ntraining: {ignore: 255}",
            "training.ignore must be left out; set ignore",
        ),
        ("manifest: m.csv\nclasses: [a, '']", "classes must be distinct names, none empty"),
        (
            'manifest: m.csv\nclasses: [a, "b\\e[0m"]',
            r"line 2: 'b\\x1b\[0m' has characters that cannot be shown",
        ),
        ('manifest: m.csv\nclasses: [a, "\\u202eb"]', r"line 2: '\\u202eb' has characters that"),
        ("a: [", "cannot be read as YAML"),
        ("- 1", "Input should be a dictionary"),
    ],
)
def test_a_fault_in_a_study_file_is_one_line_that_names_it(tmp_path, text, fault):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SkipshiftError, match=rf"s\.yaml: .*{fault}") as error:
        read_spec(StudySpec, tmp_path / "s.yaml")
    assert "\n" not in str(error.value)


def test_any_text_that_can_be_shown_is_a_class_name(tmp_path):
    names = ["<script>alert(1)</script>", "\"'", "$\\frac"]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"manifest": "m.csv", "classes": names}))
    assert read_spec(StudySpec, tmp_path / "s.yaml").classes == tuple(names)


@pytest.mark.parametrize(
    ("kind", "values", "fault"),
    [
        (SynthSpec, {"out": "o", "cells": [5, 2]}, "1 <= LOW <= HIGH, got 5,2"),
        (SynthSpec, {"out": "o", "images": 0}, "images must be at least 1"),
        (SynthSpec, {"out": "o", "holdout": 1.0}, r"holdout must be in \[0, 1\)"),
        (SynthSpec, {"out": "o", "boxes": "b.json"}, "need smear"),
        (TrainingSpec, {"epochs": 0}, "epochs must be at least 1"),
        (TrainingSpec, {"learning_rate": 0}, "learning_rate must be above 0"),
        (TrainingSpec, {"dice": 0, "cross_entropy": 0}, "not both 0"),
        (TrainingSpec, {"scale": [2, 1]}, "0 < LOW <= HIGH"),
        (TrainingSpec, {"precision": "half"}, "precision"),
        (ProfileSpec, {"bins": 1}, "bins must be at least 2, or fd, got 1"),
        (ProfileSpec, {"bins": "sturges"}, "bins"),
        (
            ProfileSpec,
            {"distances": ["l2"]},
            r"distances: unknown distance l2; choose from hellinger, ",
        ),
        (ProfileSpec, {"pooling": []}, r"pooling must be one or more of average, .* got none"),
        (ProfileSpec, {"memory": -1}, "memory must be at least 0, got -1"),
        (ProfileSpec, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (StudySpec, {"manifest": "m", "skips": ["baseline"] * 2}, "skips must be distinct"),
        (StudySpec, {"manifest": "m", "seeds": [1, 1]}, "seeds must be distinct, .* got 1, 1"),
        (StudySpec, {"manifest": "m", "seeds": [-1]}, "seeds must be at least 0, got -1"),
        (MmsSpec, {"src": "s", "out": "o", "train": "Z"}, "of the vendors A, B, C, D, got Z"),
        (MitosisSpec, {"src": "s", "out": "o", "mpp": 0}, "mpp and most_error must be above 0"),
        (FolderSpec, {"src": "s", "out": "o", "classes": ["a", "a"]}, "classes must be distinct"),
        (StudySpec, {"manifest": "m", "classes": ["a"]}, "classes must be 2 to 255 distinct names"),
        (
            StudySpec,
            {"manifest": "m", "classes": [str(index) for index in range(256)]},
            "classes must be 2 to 255 distinct names, .* got 256",
        ),
        (EvaluationSpec, {"ignore": 256}, r"ignore must be a mask value in 0\.\.255, got 256"),
        (CarrySpec, {"ignore": -1}, r"ignore must be a mask value in 0\.\.255, got -1"),
        (EvaluationSpec, {"shifts": ["contrast:1"] * 2}, "shifts must be distinct, got contrast:1"),
    ],
)
def test_a_value_out_of_range_is_refused(kind, values, fault):
    with pytest.raises(SkipshiftError, match=fault):
        from_plain(kind, values, "file")


@pytest.mark.parametrize(
    ("kind", "values", "name"),
    [
        (TrainingSpec, {}, "decay_factor"),
        (TrainingSpec, {}, "dice"),
        (ProfileSpec, {}, "memory"),
        (ExecutionSpec, {}, "gpus"),
        (EvaluationSpec, {}, "tolerance"),
        (SynthSpec, {"out": "o"}, "holdout"),
        (MitosisSpec, {"src": "s", "out": "o"}, "mpp"),
    ],
)
def test_nan_is_not_a_number(kind, values, name):
    with pytest.raises(SkipshiftError, match=f"{name} must be a number, got nan"):
        from_plain(kind, {**values, name: float("nan")}, "file")


@pytest.mark.parametrize("domain", ["brightness:-1", "contrast:nan", "saturation:x"])
def test_a_shift_needs_a_factor(domain):
    with pytest.raises(ValueError, match=f"shift '{domain}' needs"):
        parse_shift(domain)


def test_a_failed_write_leaves_the_old_file_and_no_scratch(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "a.txt") as scratch:
        scratch.write_text(f"half {1 / 0}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_full_disk_names_the_file_and_the_way_out(tmp_path):
    with (
        pytest.raises(SkipshiftError, match=r"a\.txt: .*No space left.*free some space"),
        atomic(tmp_path / "a.txt"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SkipshiftError, match="choose a folder that you may write to"),
        atomic(tmp_path / "file" / "a.txt"),
    ):
        pass


@pytest.mark.parametrize("name", ["iou.csv", "cases.parquet"])
def test_a_table_keeps_its_columns_and_types(tmp_path, name):
    import pandas as pd

    from skipshift.records import TABLE_COLUMNS

    columns = TABLE_COLUMNS[name]
    frame = pd.DataFrame({c: ["1", "2"] for c in columns}).astype(dict(columns))
    write_table(tmp_path / name, frame.assign(more=1)[["more", *list(columns)[::-1]]])
    back = read_table(tmp_path / name)
    pd.testing.assert_frame_equal(back, frame[list(columns)])


def test_a_table_that_lacks_a_column_is_an_error(tmp_path):
    (tmp_path / "iou.csv").write_text("variant,encoder\na,b\n")
    with pytest.raises(SkipshiftError, match=r"iou\.csv: cannot be read as a table"):
        read_table(tmp_path / "iou.csv")
