"""Where and in which order the runs of a study are done changes none of its results."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from benchmarks.interrupts import PowerLoss, power_loss

from architectures import TINY
from discs import write_discs
from skipshift.errors import SkipshiftError
from skipshift.names import seen_domain
from skipshift.networks import inference
from skipshift.records import UnwritableError, read_json, read_table
from skipshift.spec_files import to_plain
from skipshift.specs import ProfileSpec
from skipshift.study import steps, study, workers
from skipshift.study.grid import Run, is_done
from skipshift.study.opening import open_study
from skipshift.study.study import run_study
from skipshift.study_specs import ExecutionSpec, StudySpec, TrainingSpec

ROOT = Path(__file__).parents[2]
BASELINE = Run(TINY, "baseline", 0, 0)


def spec_of(manifest):
    return StudySpec(
        manifest=manifest,
        encoders=(TINY,),
        skips=("baseline", "L4-pruned"),
        folds=2,
        run_folds=(0,),
        shifts=("brightness:0.5",),
        profile_shifts=("brightness:0.5",),
        training=TrainingSpec(encoder_weights=None, epochs=2, learning_rate=1e-3, crop=32),
        profile=ProfileSpec(null_draws=5, permutation_draws=9),
        threads=1,
    )


@pytest.fixture
def spec(small_set):
    return spec_of(small_set)


@pytest.fixture(autouse=True)
def pageless(monkeypatch):
    monkeypatch.setattr(study, "write_report", lambda out: out / "report.html")


def tables(out):
    return contents(out / "tables")


def contents(folder):
    """Bytes of the tables in a folder, by their names."""
    files = [*folder.glob("*.csv"), *folder.glob("*.parquet")]
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of the study, done undisturbed in one process."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "write_report", lambda out: out / "report.html")
        run_study(spec_of(write_discs(folder, np.random.default_rng(0))), folder / "out")
    return folder / "out"


@pytest.mark.slow  # three processes that import torch
def test_three_processes_make_the_tables_of_one(spec, whole, tmp_path):
    run_study(replace(spec, jobs=3), tmp_path / "out")
    assert tables(tmp_path / "out") == tables(whole)


def test_a_run_that_loses_its_process_starts_again_once(spec, tmp_path, monkeypatch):
    started, ready = [], os.pipe()
    os.close(ready[1])  # which is how a process that has ended looks to `wait`

    class Lost:
        def __init__(self, of, run):
            started.append(run.name)
            lost = run == BASELINE and started.count(run.name) <= losses
            if not lost:
                steps.attempt(of, run)
            self.reason = SimpleNamespace(poll=lambda: False)
            self.process = SimpleNamespace(
                sentinel=ready[0], exitcode=-9 if lost else 0, is_alive=lambda: False,
                join=lambda: None, terminate=lambda: None,
            )  # fmt: skip

    monkeypatch.setattr(workers, "_Worker", Lost)
    opened = replace(open_study(spec, tmp_path / "out"), precision="fp32")
    losses = 1
    assert list(workers.run_processes(opened, [BASELINE], 1)) == [BASELINE]
    assert started == [BASELINE.name] * 2
    assert is_done(opened, BASELINE)
    started.clear()
    losses = 2
    assert list(workers.run_processes(opened, [BASELINE], 1)) == [BASELINE]
    reason = read_json(opened.folder(BASELINE) / "failed.json")["reason"]
    assert reason.startswith("killed 2 times by signal 9")


@pytest.mark.slow  # five processes that import torch
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


@pytest.mark.parametrize(
    ("step", "count"),
    [
        ("half_written last.ckpt", 2),
        ("half_written run.json", 1),
        ("half_written cases.parquet", 1),
    ],
)
def test_an_interrupted_study_goes_on_to_the_same_tables(spec, whole, tmp_path, step, count):
    out, one = tmp_path / "out", ExecutionSpec(only=BASELINE.name)
    with pytest.raises(PowerLoss), power_loss(step, count):
        run_study(spec, out, one)
    assert not (out / "tables").exists()
    run_study(spec, out, one)
    run = Path("runs") / BASELINE.name
    assert contents(out / run) == contents(whole / run)
    assert not list(out.rglob("*.part")) + list(out.rglob("*.ckpt"))


@pytest.mark.slow  # a process that imports torch
@pytest.mark.parametrize("step", ["written last.ckpt", "half_written run.json"])
def test_a_study_that_is_killed_goes_on_to_the_same_tables(spec, whole, tmp_path, step):
    out = tmp_path / "out"
    # the killed process is without this session's fp32
    spec = replace(spec, training=replace(spec.training, precision="fp32"))
    code = (
        "import os; from pathlib import Path; from benchmarks.interrupts import arm, kill_group;"
        "from skipshift.spec_files import from_plain;"
        "from skipshift.study_specs import StudySpec;"
        "from skipshift.study.study import run_study;"
        f"arm({step!r}, 1, kill_group);"
        f"run_study(from_plain(StudySpec, {to_plain(spec)!r}, ''), Path({str(out)!r}))"
    )
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=ROOT, start_new_session=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (out / "runs" / BASELINE.name / "checkpoints" / "last.ckpt").exists()
    assert not (out / "runs" / BASELINE.name / "run.json").exists()
    run_study(spec, out)
    assert tables(out) == tables(whole)
    assert not list(out.rglob("*.part")) + list(out.rglob("*.ckpt"))


def test_all_runs_of_a_study_keep_the_precision_it_began_with(spec, tmp_path, monkeypatch):
    out, spec = tmp_path / "out", replace(spec, shifts=(), profile_shifts=())
    monkeypatch.setattr(inference, "bf16_is_faster", lambda _device: True)
    run_study(spec, out, ExecutionSpec(only="*.baseline.*"))
    monkeypatch.setattr(inference, "bf16_is_faster", lambda _device: False)
    with pytest.warns(UserWarning, match="goes on in bf16 as it began, but here fp32 is faster"):
        run_study(spec, out)
    run_study(spec, out)  # there is nothing left to do and nothing to warn of
    kept = [read_json(path) for path in out.glob("runs/*/run.json")]
    assert [run["precision"] for run in kept] == ["bf16", "bf16"]
    environment = read_json(out / "environment.json")
    assert environment["precision"] == "bf16"
    assert {run["instruction_set"] for run in kept} == {environment["instruction_set"]}
    exact = replace(spec, training=replace(spec.training, precision="fp32"))
    with pytest.raises(SkipshiftError, match=r"training\.precision bf16, now fp32"):
        run_study(exact, out)


def test_changed_settings_name_the_runs_before_any_is_made_again(spec, tmp_path):
    out = tmp_path / "out"
    spec = replace(spec, shifts=(), profile_shifts=(), training=replace(spec.training, epochs=1))
    run_study(spec, out)
    kept = tables(out)
    longer = replace(spec, training=replace(spec.training, epochs=2))
    named = r"2 runs .*\(training\.epochs 1, now 2\): .*baseline.*, .*L4-pruned.*--redo-changed"
    with pytest.raises(SkipshiftError, match=named):
        run_study(longer, out)
    run_study(spec, out)
    assert tables(out) == kept
    run_study(longer, out, ExecutionSpec(redo_changed=True, only=BASELINE.name))
    assert len(pd.read_csv(out / "runs" / BASELINE.name / "history.csv")) == 2


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


@pytest.mark.slow  # six trainings
def test_finished_runs_of_elsewhere_are_taken_in(spec, whole, tmp_path):
    parts = (tmp_path / "a", tmp_path / "b")
    for part, only in zip(parts, ("*.baseline.*", "*.L4-pruned.*"), strict=True):
        run_study(spec, part, ExecutionSpec(only=only))
    run_study(spec, tmp_path / "out", ExecutionSpec(take=parts))
    assert tables(tmp_path / "out") == tables(whole)
    other = replace(spec, training=replace(spec.training, epochs=1))
    with pytest.raises(SkipshiftError, match=r"other settings \(training\.epochs 2, now 1\)"):
        run_study(other, tmp_path / "none", ExecutionSpec(take=parts))
    with pytest.raises(SkipshiftError, match="is no study folder"):
        run_study(spec, tmp_path / "out", ExecutionSpec(take=(tmp_path / "a/runs",)))


def test_a_full_disk_stops_a_study_and_is_no_failure_of_a_run(spec, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(steps, "train", full)
    with pytest.raises(UnwritableError, match="No space left on device; free some space"):
        run_study(spec, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("failed.json"))


@pytest.mark.slow  # two processes that import torch
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
    with pytest.warns(UserWarning, match=r"splits\.csv: is of other cases or folds, so they are"):
        drawn = open_study(replace(spec, folds=3, run_folds=None), tmp_path).folds
    assert set(drawn["fold"]) == {0, 1, 2}
