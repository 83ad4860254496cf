import re
from dataclasses import replace
from pathlib import Path

import pytest

from architectures import TINY
from skipshift.data.prepare.options import SynthSpec
from skipshift.data.prepare.synthetic import write_synthetic
from skipshift.spec_files import read_spec
from skipshift.study.opening import open_study
from skipshift.study.plan import _reach, plan_study
from skipshift.study.study import run_study
from skipshift.study_specs import ExecutionSpec, StudySpec, TrainingSpec

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_ready_made_study_is_the_papers_or_a_small_one(path):
    spec = read_spec(StudySpec, path)
    if path.stem.startswith("paper"):
        assert spec.encoders == ("resnet18", "resnet34")
        assert len(spec.variants) * spec.folds == 25
        own = TrainingSpec(crop=spec.training.crop, workers=spec.training.workers)
        assert spec.training == own
    else:
        assert spec.training.encoder_weights is None
        assert spec.run_folds is not None or path.stem.startswith("findings")
    first = path.read_text().splitlines()
    assert any("skipshift study studies/" + path.name in line for line in first if line[:1] == "#")


@pytest.fixture
def spec(tmp_path):
    return StudySpec(
        manifest=write_synthetic(SynthSpec(tmp_path / "synthetic", images=20, size=64)),
        encoders=(TINY,),
        skips=("baseline", "L4-pruned"),
        folds=2,
        shifts=("brightness:0.5",),
        profile_shifts=(),
        training=TrainingSpec(encoder_weights=None, epochs=3, crop=32),
        threads=1,
    )


@pytest.mark.slow  # a process that imports torch and does a few steps
def test_a_plan_counts_what_there_is_and_what_is_left(spec, tmp_path, monkeypatch):
    monkeypatch.setattr("skipshift.study.study.write_report", lambda out: out / "report.html")
    only = ExecutionSpec(only="*.fold0.*")
    text = plan_study(spec, tmp_path / "out", only)
    assert "runs    2: 1 encoder x 2 variants x 1 fold x 1 seed" in text
    assert (
        "images  8 for training, 8 for validation, 4 for testing from 1 domain, under 1 shift"
        in text
    )
    assert "epochs  3 per run, each 1 step of 8 crops of 32 x 32; 6 epochs left" in text
    assert "done    0 runs, 0 failed" in text
    assert "tests   2 runs of each variant: to be told apart from the baseline it must" in text
    assert "by more than 9.0 standard deviations between trainings" in text
    assert "plan 5 or more runs" in text
    assert re.search(r"left    2 runs, about \d+ .* on this machine .* and [1-9]\.\d GiB", text)
    assert not (tmp_path / "out").exists()
    run_study(spec, tmp_path / "out", only)
    assert plan_study(spec, tmp_path / "out", only).endswith("left    nothing")


def test_one_run_of_few_groups_is_said_to_show_nothing_of_variants(spec, tmp_path):
    study = open_study(replace(spec, run_folds=(0,)), tmp_path / "out")
    first, other = _reach(study)
    assert "verdicts will be about checkpoints, not about variants" in first
    assert other == (
        "        no difference can be shown on original and brightness:0.5, whatever the data: "
        "with 4 groups no adjusted p can be below 0.12"
    )


def test_each_shift_is_named_that_can_show_nothing(spec, tmp_path):
    seven = write_synthetic(SynthSpec(tmp_path / "seven", images=30, size=64))
    shifts = ("brightness:0.5", "contrast:1.5")
    plan = replace(spec, manifest=seven, run_folds=(0,), shifts=shifts)
    _, other = _reach(open_study(plan, tmp_path / "out"))
    assert "on brightness:0.5 and contrast:1.5, whatever" in other
    assert "with 6 groups no adjusted p can be below 0.094" in other


def test_one_run_of_enough_groups_can_show_something_of_checkpoints(spec, tmp_path):
    many = write_synthetic(SynthSpec(tmp_path / "many", images=40, size=64))
    study = open_study(replace(spec, manifest=many, run_folds=(0,)), tmp_path / "out")
    assert len(list(_reach(study))) == 1
