"""The grid of a study: its runs, the inputs of their steps, and which steps are done."""

import functools
import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skipshift import records
from skipshift.data.splits import split_fold
from skipshift.errors import ArgumentError, unreadable
from skipshift.spec_files import to_plain
from skipshift.specs import Precision, StudySpec


@dataclass(frozen=True)
class Run:
    """One training: variant x fold x seed."""

    encoder: str
    variant: str
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder below runs/."""
        return records.run_name(self.encoder, self.variant, self.fold, self.seed)


@dataclass(frozen=True)
class Study:
    """Settings, cases and folds that all runs of a study share."""

    spec: StudySpec
    cases: pd.DataFrame
    """The manifest, as `skipshift.data.manifest.read_manifest` gives it."""
    folds: pd.DataFrame
    """Folds of the training cases, as `skipshift.data.splits.read_folds` gives them."""
    out: Path
    precision: Precision = "auto"
    """What every run computes in: bf16 or fp32 once the study has decided; see `run_study`."""
    instruction_set: str = ""
    """That of this machine, as `skipshift.networks.inference.instruction_set` names it."""

    def folder(self, run: Run) -> Path:
        """Folder of a run."""
        return self.out / records.RUNS / run.name

    def runs(self) -> list[Run]:
        """List the runs of the grid in order; `ArgumentError` if run_folds names a missing fold."""
        spec, number = self.spec, self.folds["fold"].max() + 1
        folds = range(number) if spec.run_folds is None else spec.run_folds
        if outside := set(folds) - set(range(number)):
            raise ArgumentError(f"run_folds must be in 0..{number - 1}, got {min(outside)}")
        axes = (spec.encoders, spec.variants, folds, spec.seeds)
        return [Run(*at) for at in itertools.product(*axes)]


def expected_inputs(study: Study, run: Run) -> dict[str, Any]:
    """List the inputs of each step of a run, in order, by the file that the step writes last.

    The steps are training, evaluation, metrics if the study asks for any, samples and profiles; the
    inputs are settings and digests of cases. A step with other recorded inputs is not part of this
    study and is not reused.
    """
    spec = study.spec
    training, validation = (_digest(part) for part in split_fold(study.folds, run.fold))
    tests = _digest(study.cases[study.cases["split"] == "test"])
    plain: dict[str, Any] = to_plain(spec)
    settings = {k: v for k, v in plain["training"].items() if k not in ("workers", "devices")}
    # what was decided, not "auto": runs of one study never differ in it, whoever trained them
    settings["precision"] = study.precision
    if spec.training.encoder_weights:
        settings["encoder_weights"] = _named_weights(spec.training.encoder_weights)
    common = {name: plain[name] for name in ("classes", "evaluation_crop")}
    tested = {**common, "test cases": tests}
    asked = {k: plain[k] for k in ("shifts", "metrics")}
    if "surface_dice" in spec.metrics:
        asked |= {k: plain[k] for k in ("tolerance", "tolerance_unit")}
    measured = {"metrics.parquet": {**tested, **asked}} if spec.metrics else {}
    return {
        records.RUN_RECORD: {
            **common,
            "training": settings,
            "training cases": training,
            "validation cases": validation,
        },
        "cases.parquet": {**tested, "shifts": plain["shifts"]},
        **measured,
        records.SAMPLES: {**tested, "profile_shifts": plain["profile_shifts"]},
        "layers.csv": {**tested, **{k: plain[k] for k in ("profile_shifts", "profile")}},
    }


def _named_weights(weights: str) -> str:
    """Identify a file of encoder weights by name and content; ``imagenet`` is its own name."""
    if weights == "imagenet":
        return weights
    path = Path(weights)
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise unreadable(path, "encoder_weights", error) from None
    return f"{path.name} ({_file_digest(path, changed)})"


@functools.cache
def _file_digest(path: Path, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def is_done(study: Study, run: Run) -> bool:
    """Return whether every step of a run has written its file from the inputs of this study."""
    recorded, expected = recorded_inputs(study.folder(run)), expected_inputs(study, run)
    return all(step_done(study.folder(run), step, recorded, expected) for step in expected)


def step_done(
    folder: Path, step: str, recorded: Mapping[str, Any], expected: Mapping[str, Any]
) -> bool:
    """Return whether a step has written its file in a run's folder from the expected inputs."""
    return recorded.get(step) == expected[step] and (folder / step).exists()


def recorded_inputs(folder: Path) -> dict[str, Any]:
    """Read the inputs from which the steps in a run's folder were made; empty if there are none."""
    file = folder / records.MADE
    recorded: dict[str, Any] = records.read_json(file) if file.exists() else {}
    return recorded


def changes(study: Study, run: Run) -> list[str]:
    """Describe how the recorded inputs of a run differ from those of the study.

    Steps that have not run do not count, nor does a run that failed in training.
    """
    folder = study.folder(run)
    trained = (folder / records.RUN_RECORD).exists()
    if (folder / records.FAILURE).exists() and not trained:
        return []
    recorded, expected = recorded_inputs(folder), expected_inputs(study, run)
    steps = [_differences(recorded[s], expected[s]) for s in expected if s in recorded]
    return list(dict.fromkeys(itertools.chain(*steps)))


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """List the settings in which two plain values differ, with both values if they are short.

    >>> _differences({"a": {"b": 1}, "c": [1]}, {"a": {"b": 2}, "c": [1]})
    ['a.b 1, now 2']
    """
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        inner = [_differences(old.get(k), new.get(k), f"{name}.{k}".lstrip(".")) for k in keys]
        return list(itertools.chain(*inner))
    return [f"{name} {old}, now {new}" if len(f"{old}{new}") < 40 else f"other {name}"]


def _digest(cases: pd.DataFrame) -> str:
    """Identify a list of cases and their order by count and hash."""
    listed = cases[["case", "domain", "group"]].to_csv(index=False)
    return f"{len(cases)} ({hashlib.sha256(listed.encode()).hexdigest()[:12]})"
