"""The grid of a study: its runs, what their steps are made from, and which of them are done."""

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skipshift import records
from skipshift.data.splits import parts_of
from skipshift.errors import ArgumentError
from skipshift.specs import Precision, StudySpec, to_plain

STEPS = (records.RUN_RECORD, "cases.parquet", records.SAMPLES, "layers.csv")
"""What each step of a run writes last: training, evaluation, samples, profiles."""


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
    """What every run of a study needs."""

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
        """List every run of the grid in order; `ArgumentError` for a fold that does not exist."""
        spec, number = self.spec, self.folds["fold"].max() + 1
        folds = range(number) if spec.run_folds is None else spec.run_folds
        if outside := set(folds) - set(range(number)):
            raise ArgumentError(f"run_folds must be in 0..{number - 1}, got {min(outside)}")
        axes = (spec.encoders, spec.variants, folds, spec.seeds)
        return [Run(*at) for at in itertools.product(*axes)]


def ingredients(study: Study, run: Run) -> dict[str, Any]:
    """Tell what each step of a run is made from, by its file, beside what the run's name says.

    A step that was made from anything else is not the one that the study asks for.
    """
    spec = study.spec
    training, validation = (_digest(part) for part in parts_of(study.folds, run.fold))
    tests = _digest(study.cases[study.cases["split"] == "test"])
    plain: dict[str, Any] = to_plain(spec)
    settings = {k: v for k, v in plain["training"].items() if k not in ("workers", "devices")}
    # what was decided, not "auto": runs of one study never differ in it, whoever trained them
    settings["precision"] = study.precision
    if spec.training.encoder_weights:
        settings["encoder_weights"] = Path(spec.training.encoder_weights).name
    common = {name: plain[name] for name in ("classes", "evaluation_crop")}
    tested = {**common, "test cases": tests}
    return {
        records.RUN_RECORD: {
            **common,
            "training": settings,
            "training cases": training,
            "validation cases": validation,
        },
        "cases.parquet": {**tested, "shifts": plain["shifts"]},
        records.SAMPLES: {**tested, "profile_shifts": plain["profile_shifts"]},
        "layers.csv": {**tested, **{k: plain[k] for k in ("profile_shifts", "profile")}},
    }


def is_done(study: Study, run: Run) -> bool:
    """Whether every step of a run has left its file, made from what the study asks for."""
    made, wanted = made_from(study.folder(run)), ingredients(study, run)
    return all(step_done(study.folder(run), step, made, wanted) for step in STEPS)


def step_done(folder: Path, step: str, made: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a step has left its file in a run's folder, made from what is wanted."""
    return made.get(step) == wanted[step] and (folder / step).exists()


def made_from(folder: Path) -> dict[str, Any]:
    """Read what the steps in a run's folder were made from; empty where there are none."""
    file = folder / records.MADE
    made: dict[str, Any] = records.read_json(file) if file.exists() else {}
    return made


def changes(study: Study, run: Run) -> list[str]:
    """Tell how what a run was made from differs from what the study asks for.

    Steps that are still to be made do not differ, nor does a run that failed in training.
    """
    folder = study.folder(run)
    trained = (folder / records.RUN_RECORD).exists()
    if (folder / records.FAILURE).exists() and not trained:
        return []
    made, wanted = made_from(folder), ingredients(study, run)
    found = [_differences(made[step], wanted[step]) for step in STEPS if step in made]
    return list(dict.fromkeys(itertools.chain(*found)))


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Name the settings in which two plain values differ, with both values where these are short.

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
    """Say which cases these are, in which order, in few characters."""
    listed = cases[["case", "domain", "group"]].to_csv(index=False)
    return f"{len(cases)} ({hashlib.sha256(listed.encode()).hexdigest()[:12]})"
