"""Where and in which order the runs of a study are done changes nothing of what it finds."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from skipshift.errors import SkipshiftError
from skipshift.names import seen_domain
from skipshift.records import UnwritableError, read_json, read_table
from skipshift.specs import ExecutionSpec, ProfileSpec, StudySpec, TrainingSpec, to_plain
from skipshift.study import steps, study, workers
from skipshift.study.grid import Run
from skipshift.study.study import open_study, run_study

BASELINE = Run("resnet18", "baseline", 0, 0)


@pytest.fixture
def spec(small_set):
    return StudySpec(
        manifest=small_set,
        encoders=("resnet18",),
        skips=("baseline", "L4-pruned"),
        folds=2,
        run_folds=(0,),
        shifts=("brightness:0.5",),
        profile_shifts=("brightness:0.5",),
        training=TrainingSpec(
            encoder_weights=None, epochs=2, learning_rate=1e-3, crop=32, precision="fp32"
        ),
        profile=ProfileSpec(null_draws=5, bootstrap_draws=5),
        threads=1,
    )


@pytest.fixture(autouse=True)
def pageless(monkeypatch):
    monkeypatch.setattr(study, "write_report", lambda out: out / "report.html")


def tables(out):
    return {path.name: path.read_bytes() for path in sorted((out / "tables").iterdir())}


@pytest.fixture
def whole(spec, tmp_path):
    run_study(spec, tmp_path / "whole")
    return tables(tmp_path / "whole")


def test_three_processes_make_the_tables_of_one(spec, whole, tmp_path):
    run_study(replace(spec, jobs=3), tmp_path / "out")
    assert tables(tmp_path / "out") == whole


def test_a_killed_process_is_replaced_once_and_then_a_failure(spec, tmp_path, monkeypatch):
    started = []

    class Doomed(workers._Worker):
        def __init__(self, of, run):
            super().__init__(of, run)
            started.append(run.name)
            if run == BASELINE:
                os.kill(self.process.pid, signal.SIGKILL)

    monkeypatch.setattr(workers, "_Worker", Doomed)
    with pytest.raises(SkipshiftError, match=r"1 of 2 .*baseline.* killed 2 times by signal 9"):
        run_study(spec, tmp_path / "out", ExecutionSpec(jobs=2))
    assert started.count(BASELINE.name) == 2
    assert read_table(tmp_path / "out/tables/cases.parquet")["run"].nunique() == 1


def test_a_study_killed_in_mid_training_ends_as_if_it_had_not_been(spec, whole, tmp_path):
    out = tmp_path / "out"
    code = (
        "from pathlib import Path; from skipshift.specs import StudySpec, from_plain;"
        "from skipshift.study import run_study;"
        f"run_study(from_plain(StudySpec, {to_plain(spec)!r}, ''), Path({str(out)!r}))"
    )
    checkpoint = out / "runs" / BASELINE.name / "checkpoints" / "last.ckpt"
    process = subprocess.Popen([sys.executable, "-c", code])
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (checkpoint.parents[1] / "run.json").exists()
    run_study(spec, out)
    assert tables(out) == whole
    assert not list(out.rglob("*.part")) + list(out.rglob("*.ckpt"))


def test_changed_settings_name_the_runs_before_any_is_made_again(spec, tmp_path):
    out = tmp_path / "out"
    run_study(spec, out)
    kept = tables(out)
    longer = replace(spec, training=replace(spec.training, epochs=3))
    named = r"2 runs .*\(training\.epochs 2, now 3\): .*baseline.*, .*L4-pruned.*--redo-changed"
    with pytest.raises(SkipshiftError, match=named):
        run_study(longer, out)
    run_study(spec, out)
    assert tables(out) == kept
    run_study(longer, out, ExecutionSpec(redo_changed=True))
    assert len(pd.read_csv(out / "runs" / BASELINE.name / "history.csv")) == 3


def test_a_change_that_touches_no_run_keeps_them_all(spec, tmp_path):
    out = tmp_path / "out"
    run_study(replace(spec, skips=("baseline",)), out)
    weights = out / "runs" / BASELINE.name / "weights.safetensors"
    stamp = weights.stat().st_mtime_ns
    run_study(spec, out)
    assert read_table(out / "tables/cases.parquet")["run"].nunique() == 2
    more = replace(spec, shifts=("brightness:0.5", "saturation:0"))
    with pytest.raises(SkipshiftError, match=r"\(other shifts\)"):
        run_study(more, out)
    run_study(more, out, ExecutionSpec(redo_changed=True))
    assert read_table(out / "tables/cases.parquet")["domain"].nunique() == 3
    assert weights.stat().st_mtime_ns == stamp


def test_finished_runs_of_elsewhere_are_taken_in(spec, whole, tmp_path):
    parts = (tmp_path / "a", tmp_path / "b")
    for part, only in zip(parts, ("*.baseline.*", "*.L4-pruned.*"), strict=True):
        run_study(spec, part, ExecutionSpec(only=only))
    run_study(spec, tmp_path / "out", ExecutionSpec(take=parts))
    assert tables(tmp_path / "out") == whole
    other = replace(spec, training=replace(spec.training, epochs=1))
    with pytest.raises(SkipshiftError, match=r"other settings \(training\.epochs 2, now 1\)"):
        run_study(other, tmp_path / "none", ExecutionSpec(take=parts))
    with pytest.raises(SkipshiftError, match="is no study folder"):
        run_study(spec, tmp_path / "out", ExecutionSpec(take=(tmp_path / "whole/runs",)))


def test_a_full_disk_stops_a_study_and_is_no_failure_of_a_run(spec, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(steps, "train", full)
    with pytest.raises(UnwritableError, match="No space left on device; free some space"):
        run_study(spec, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("failed.json"))


def test_a_process_without_space_stops_the_others(spec, tmp_path):
    blocked = tmp_path / "out" / "runs"
    blocked.parent.mkdir()
    blocked.write_text("no folder")
    with pytest.raises(UnwritableError, match="cannot be written"):
        run_study(spec, tmp_path / "out", ExecutionSpec(jobs=2))


@pytest.fixture
def scanners(small_set):
    """The same cases from three scanners, all in training and in test."""
    frame = pd.read_csv(small_set)
    parts = [
        frame.assign(domain=name, group=[f"{name}-{group}" for group in frame["group"]])
        for name in ("A", "B", "C")
    ]
    pd.concat(parts).to_csv(small_set, index=False)
    return small_set


@pytest.mark.usefixtures("scanners")
def test_each_domain_is_left_out_in_turn(spec, tmp_path):
    spec = replace(
        spec, leave_one_domain_out=True, run_folds=None, skips=("L4-pruned",), profile_shifts=("B",)
    )
    opened = open_study(spec, tmp_path / "out")
    assert len(opened.runs()) == 3
    run_study(replace(spec, run_folds=(1,)), tmp_path / "out")
    record = read_json(next((tmp_path / "out/runs").iterdir()) / "run.json")
    assert record["trained_on"] == ["A", "C"]
    cases = read_table(tmp_path / "out/tables/cases.parquet")
    assert {"B", seen_domain("A"), seen_domain("C"), "B+brightness:0.5"} <= set(cases["domain"])
    assert not {"A", "C", seen_domain("B")} & set(cases["domain"])
    layers = read_table(tmp_path / "out/tables/layers.csv")
    assert set(layers["reference"]) == {f"{seen_domain('A')}+{seen_domain('C')}"}
    assert set(layers["shifted"]) == {"B"}


def test_no_group_trains_and_selects_when_domains_share_it(spec, scanners):
    frame = pd.read_csv(scanners)
    frame["group"] = frame["group"].str[2:]  # one specimen on three scanners
    frame.to_csv(scanners, index=False)
    opened = open_study(replace(spec, leave_one_domain_out=True, run_folds=None), Path("none"))
    chosen = opened.folds.groupby("group")["validation"].nunique()
    assert (chosen == 1).all()
    assert set(opened.folds.loc[opened.folds["fold"] == 2, "domain"]) == {"C"}


def test_leaving_out_needs_two_domains_with_test_cases(spec, scanners):
    frame = pd.read_csv(scanners)
    left = replace(spec, leave_one_domain_out=True, run_folds=None)
    frame[(frame["domain"] != "C") | (frame["split"] == "train")].to_csv(scanners, index=False)
    with pytest.raises(SkipshiftError, match="but C has none; give some of its groups"):
        open_study(left, Path("none"))
    frame[frame["domain"] == "A"].to_csv(scanners, index=False)
    with pytest.raises(SkipshiftError, match="at least two domains, got A"):
        open_study(left, Path("none"))


def test_a_split_that_tears_a_group_apart_is_refused(spec, tmp_path):
    out = tmp_path / "out"
    run_study(replace(spec, skips=("L4-pruned",)), out)
    splits = pd.read_csv(out / "splits.csv")
    splits.loc[0, "group"] = splits.loc[splits["fold"] != splits.loc[0, "fold"], "group"].iloc[0]
    splits.to_csv(out / "splits.csv", index=False)
    with pytest.raises(SkipshiftError, match=r"splits\.csv: group 'case-..' is divided"):
        run_study(spec, out)


def test_folds_that_were_edited_by_hand_are_kept(spec, tmp_path):
    opened = open_study(spec, tmp_path)
    folds = opened.folds.assign(fold=1 - opened.folds["fold"])
    folds.to_csv(tmp_path / "splits.csv", index=False)
    assert open_study(spec, tmp_path).folds.equals(folds)
    drawn = open_study(replace(spec, folds=3, run_folds=None), tmp_path).folds
    assert set(drawn["fold"]) == {0, 1, 2}
