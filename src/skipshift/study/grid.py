"""The grid of a study: its runs, the inputs of their steps, and which steps are done."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from skipshift import records
from skipshift.checksums import is_unsealed
from skipshift.data.splits import split_fold
from skipshift.errors import ArgumentError
from skipshift.names import BASELINE
from skipshift.spec_files import to_plain
from skipshift.specs import Precision
from skipshift.study.contents import Contents
from skipshift.study.made import read_made, step_done
from skipshift.study_specs import StudySpec

NO_ACCOUNT = ("workers", "devices", "ignore")
"""Settings of a training that do not change it, or that the study has too."""


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
    contents: Contents = field(default_factory=Contents)
    """Hashes of the files of the cases, and of the encoder weights."""
    _identities: dict[tuple[str, int], dict[str, str]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

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

    def identity(self, part: str, fold: int = 0) -> dict[str, str]:
        """Identify the cases of a part (training, validation or test) and their files."""
        if (part, fold) not in self._identities:
            training, validation = split_fold(self.folds, fold)
            tests = self.cases[self.cases["split"] == "test"]
            cases = {"training": training, "validation": validation, "test": tests}[part]
            keys = zip(cases["case"], cases["domain"], strict=True)
            content = "\n".join(self.contents.cases.get(key, "") for key in keys)
            self._identities[part, fold] = {
                f"{part} cases": _digest(cases),
                f"content of {part} cases": hashlib.sha256(content.encode()).hexdigest()[:20],
            }
        return self._identities[part, fold]


def expected_inputs(study: Study, run: Run) -> dict[str, Any]:
    """List the inputs of each step of a run, in order, by the file that the step writes last.

    The steps are training, its history, evaluation, metrics if the study asks for any, samples,
    profiles, and if asked for activation patching and remedies of a baseline; the inputs are
    settings and digests of cases and of their files. A step with other recorded inputs is not part
    of this study and is not reused.
    """
    spec = study.spec
    plain: dict[str, Any] = to_plain(spec)
    settings = {k: v for k, v in plain["training"].items() if k not in NO_ACCOUNT}
    # what was decided, not "auto": runs of one study never differ in it, whoever trained them
    settings["precision"] = study.precision
    if spec.training.encoder_weights not in (None, "imagenet"):
        settings["encoder_weights"] = study.contents.weights[:20]
    plain["profile_shifts"] = list(spec.profiled)
    common = {name: plain[name] for name in ("classes", "evaluation_crop", "ignore")}
    tested = {**common, **study.identity("test")}
    asked = {k: plain[k] for k in ("shifts", "metrics")}
    if "surface_dice" in spec.metrics:
        asked |= {k: plain[k] for k in ("tolerance", "tolerance_unit")}
    asked_for = {"carry.csv": spec.carry, "remedies.csv": spec.remedies}
    cures = [name for name, wanted in asked_for.items() if wanted and run.variant == BASELINE]
    measured = {"metrics.parquet": {**tested, **asked}} if spec.metrics else {}
    return {
        records.RUN_RECORD: {
            **common,
            "training": settings,
            **study.identity("training", run.fold),
            **study.identity("validation", run.fold),
        },
        records.HISTORY: {},
        "cases.parquet": {**tested, "shifts": plain["shifts"]},
        **measured,
        records.SAMPLES: {**tested, "profile_shifts": plain["profile_shifts"]},
        "layers.csv": {**tested, **{k: plain[k] for k in ("profile_shifts", "profile")}},
        **{name: {**tested, "profile_shifts": plain["profile_shifts"]} for name in cures},
    }


def estimate_inputs(study: Study, run: Run, peers: Sequence[Run]) -> dict[str, Any]:
    """List the inputs of the estimates of a run, which are made when all runs are done.

    ``peers`` are other runs of its network; their weights are inputs, too.
    """
    tested = expected_inputs(study, run)["layers.csv"]
    made = {peer.name: read_made(study.folder(peer)) for peer in peers}
    weights = {
        name: own[records.RUN_RECORD]["files"][records.WEIGHTS][-1] for name, own in made.items()
    }
    return {**{k: v for k, v in tested.items() if k != "profile"}, "peers": weights}


def is_done(study: Study, run: Run) -> bool:
    """Return whether every step of a run has written its files from the inputs of this study."""
    folder, expected = study.folder(run), expected_inputs(study, run)
    made = read_made(folder)
    return all(step_done(folder, step, made, inputs) for step, inputs in expected.items())


def changes(study: Study, run: Run) -> list[str]:
    """Describe how the recorded inputs of a run differ from those of the study.

    Steps that have not run do not count, nor does a run that failed in training.
    """
    folder = study.folder(run)
    trained = (folder / records.RUN_RECORD).exists()
    if (folder / records.FAILURE).exists() and not trained:
        return []
    if is_unsealed(folder / records.MADE):
        return ["another version of skipshift"]
    made, expected = read_made(folder), expected_inputs(study, run)
    steps = [_differences(made[s]["inputs"], expected[s]) for s in expected if s in made]
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
