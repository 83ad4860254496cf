"""The study: a grid of runs, each trained, evaluated and profiled, and what is left to do of it."""

import dataclasses
import fnmatch
import importlib.metadata
import io
import itertools
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from skipshift import records, shifts
from skipshift.data.manifest import Case, read_cases, read_manifest
from skipshift.data.splits import draw_folds
from skipshift.evaluation import evaluate, predict
from skipshift.features import Features, collect
from skipshift.inference import best_device
from skipshift.models import Unet
from skipshift.names import parse_shift, skips_of
from skipshift.page.report import write_report
from skipshift.profile import profile_features
from skipshift.progress import Progress, silent
from skipshift.scratch import Scratch
from skipshift.specs import SkipshiftError, StudySpec, to_plain
from skipshift.statistics import pooled_iou
from skipshift.training import CHECKPOINTS, train

SAMPLE_CASES = 2
"""Test cases whose predictions a run keeps for the report's pictures."""

_STEPS = ("cases.parquet", records.SAMPLES, "shift.parquet", "layers.csv")
"""What a run leaves after its training, one file a step."""


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


def run_study(
    spec: StudySpec,
    out: Path,
    progress: Progress = silent,
    only: str = "*",
    retry_failed: bool = False,
) -> Path:
    """Do what is missing of a study: train, evaluate and profile each run, then report.

    A run, and each step of it, that is already done is left alone, and a training that was cut off
    goes on from its last epoch. A run that fails is recorded with its reason and the others go on.

    Parameters
    ----------
    only
        Pattern of the names of the runs to do now, e.g. ``resnet18.*.fold0.*``.
    retry_failed
        Do runs again that failed before.

    Returns
    -------
    The path of the report on all runs that are done. `SkipshiftError` if ``out`` holds another
    study or is held by another process, or, after everything else is done, if a run failed.
    """
    out = Path(out)
    cases = read_manifest(spec.manifest)
    _check(spec, cases)
    with records.held(out):
        _open(spec, out)
        folds = _folds(cases, spec, out)
        grid = runs_of(spec)
        chosen = [run for run in grid if fnmatch.fnmatchcase(run.name, only)]
        if not chosen:
            raise SkipshiftError(f"--only {only!r} matches no run; the first is {grid[0].name}")
        for run in chosen:
            failure = out / records.RUNS / run.name / records.FAILURE
            if retry_failed:
                failure.unlink(missing_ok=True)
            if not failure.exists():
                _attempt(run, spec, cases, folds, out, progress)
        done = [run for run in grid if is_done(run, out)]
        if done:
            gather(done, out)
            write_report(out)
    _tell_failures(chosen, out)
    return out / records.REPORT


def _check(spec: StudySpec, cases: pd.DataFrame) -> None:
    """Find before any training what would stop a study after it."""
    test = cases[cases["split"] == "test"]
    trained = cases.loc[cases["split"] == "train", "domain"]
    if not test["domain"].isin(trained).any():
        raise SkipshiftError(f"{spec.manifest}: has no test cases of the domain that is trained on")
    for shifted in spec.profile_shifts:
        if not parse_shift(shifted) and shifted not in set(test["domain"]):
            known = ", ".join(test["domain"].unique())
            raise SkipshiftError(
                f"profile_shifts: {shifted!r} is no shift such as brightness:0.75 and no domain of "
                f"the test cases ({known})"
            )


def is_done(run: Run, out: Path) -> bool:
    """Whether every step of a run has left its file."""
    folder = out / records.RUNS / run.name
    return all((folder / name).exists() for name in (records.RUN_RECORD, *_STEPS))


def _attempt(
    run: Run,
    spec: StudySpec,
    cases: pd.DataFrame,
    folds: pd.DataFrame,
    out: Path,
    progress: Progress,
) -> None:
    """Do a run; record why if it fails."""
    try:
        _do(run, spec, cases, folds, out, progress)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        records.write_json(out / records.RUNS / run.name / records.FAILURE, {"reason": reason})


def _tell_failures(chosen: Sequence[Run], out: Path) -> None:
    files = {run.name: out / records.RUNS / run.name / records.FAILURE for run in chosen}
    failed = {
        name: records.read_json(file)["reason"] for name, file in files.items() if file.exists()
    }
    if failed:
        first, reason = next(iter(failed.items()))
        raise SkipshiftError(
            f"{out}: {len(failed)} of {len(chosen)} runs failed, {first} with {reason} "
            f"(each in its {records.FAILURE}); mend the cause and add --retry-failed"
        )


def runs_of(spec: StudySpec) -> list[Run]:
    """Every run of a study's grid, in order."""
    folds = spec.run_folds if spec.run_folds is not None else range(spec.folds)
    return [Run(*at) for at in itertools.product(spec.encoders, spec.variants, folds, spec.seeds)]


def gather(grid: Sequence[Run], out: Path) -> None:
    """Join the tables of finished runs into those of the study."""
    folders = [out / records.RUNS / run.name for run in grid]
    for name in ("cases.parquet", "shift.parquet", "layers.csv"):
        parts = [records.read_table(folder / name) for folder in folders]
        records.write_table(out / records.TABLES / name, pd.concat(parts, ignore_index=True))
    cases = records.read_table(out / records.TABLES / "cases.parquet")
    by_name = pd.DataFrame([(r.name, r.encoder, r.variant) for r in grid])
    by_name.columns = pd.Index(["run", "encoder", "variant"])
    records.write_table(out / records.TABLES / "iou.csv", pooled_iou(cases.merge(by_name, "left")))


def _open(spec: StudySpec, out: Path) -> None:
    """Write study.yaml and environment.json, or make sure that the folder holds this study."""
    manifest = spec.manifest.absolute()
    if manifest.is_relative_to(out.absolute()):
        # a study that holds its own data may be moved as a whole
        manifest = manifest.relative_to(out.absolute())
    plain = to_plain(dataclasses.replace(spec, manifest=manifest))
    file = out / records.STUDY
    if file.exists():
        if yaml.safe_load(file.read_text(encoding="utf-8")) != plain:
            raise SkipshiftError(f"{file}: is of another study; choose another folder")
        return
    records.write_json(out / records.ENVIRONMENT, environment())
    records.write_bytes(file, yaml.safe_dump(plain, sort_keys=False).encode())


def environment() -> dict[str, str]:
    """Versions of what the numbers may depend on, and the kind of processor."""
    packages = ("skipshift", "torch", "lightning", "segmentation-models-pytorch", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {"python": sys.version.split()[0], "device": device, **versions}


def _folds(cases: pd.DataFrame, spec: StudySpec, out: Path) -> pd.DataFrame:
    """Draw the folds once; read them back ever after."""
    file = out / records.SPLITS
    if not file.exists():
        table = draw_folds(cases, spec.folds)
        records.write_bytes(file, table.to_csv(index=False, lineterminator="\n").encode())
    text = {"case": str, "domain": str, "group": str, "stratum": str}
    return pd.read_csv(file, dtype=text, keep_default_na=False)


def _do(
    run: Run,
    spec: StudySpec,
    cases: pd.DataFrame,
    folds: pd.DataFrame,
    out: Path,
    progress: Progress,
) -> None:
    folder = out / records.RUNS / run.name
    if not (folder / records.RUN_RECORD).exists():
        _train(run, spec, cases, folds, folder, progress)
    if is_done(run, out):
        return
    net = Unet.load(folder).to(best_device())
    test = cases[cases["split"] == "test"]
    home = test[test["domain"].isin(folds["domain"])]
    if not (folder / "cases.parquet").exists():
        loaded = read_cases(test, len(spec.classes), spec.evaluation_crop)
        shown = progress(loaded, f"evaluate {run.name}", len(test))
        table = evaluate(net, shown, spec.classes, spec.shifts, precision=spec.training.precision)
        records.write_table(folder / "cases.parquet", table.assign(run=run.name))
    if not (folder / records.SAMPLES).exists():
        _write_samples(net, home, spec, folder)
    if not (folder / "layers.csv").exists():
        _write_profiles(run, net, test, home, spec, folder, progress)


def _train(
    run: Run,
    spec: StudySpec,
    cases: pd.DataFrame,
    folds: pd.DataFrame,
    folder: Path,
    progress: Progress,
) -> None:
    train_rows = cases.merge(folds[["case", "domain", "fold"]], on=["case", "domain"])
    held = train_rows["fold"] == run.fold
    training = list(read_cases(train_rows[~held], len(spec.classes)))
    validation = list(read_cases(train_rows[held], len(spec.classes), spec.evaluation_crop))
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        net = Unet(
            run.encoder,
            len(spec.classes),
            skips_of(run.variant),
            spec.training.encoder_weights,
            training[0].image.shape[2],
        )
    done = train(net, training, validation, spec.training, run.seed, folder, progress)
    history = pd.DataFrame(done.history).to_csv(index=False, lineterminator="\n")
    records.write_bytes(folder / records.HISTORY, history.encode())
    about = {"variant": run.variant, "fold": run.fold, "seed": run.seed, "encoder": run.encoder}
    done.net.save(folder, classes=list(spec.classes), **about, **done.record)
    shutil.rmtree(folder / CHECKPOINTS)


def _write_samples(net: Unet, rows: pd.DataFrame, spec: StudySpec, folder: Path) -> None:
    """Keep a few test images with masks and predictions, as they are and under each profile shift.

    They are the first that hold anything to find, of one size so that one array holds them.
    """
    sampled = [s for s in spec.profile_shifts if parse_shift(s)]
    loaded = list(read_cases(rows, len(spec.classes), spec.evaluation_crop))
    telling = [case for case in loaded if case.mask.any()] or loaded
    alike = [case for case in telling if case.image.shape == telling[0].image.shape][:SAMPLE_CASES]
    shown = list(predict(net, alike, sampled, precision=spec.training.precision))
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=np.stack([image for (_, _, image), _ in shown]),
        masks=np.stack([case.mask for (case, _, _), _ in shown]),
        predictions=np.stack([labels for _, labels in shown]),
        cases=np.array([case.case for (case, _, _), _ in shown]),
        domains=np.array([domain for (_, domain, _), _ in shown]),
    )
    records.write_bytes(folder / records.SAMPLES, buffer.getvalue())


def _write_profiles(
    run: Run,
    net: Unet,
    test: pd.DataFrame,
    home: pd.DataFrame,
    spec: StudySpec,
    folder: Path,
    progress: Progress,
) -> None:
    """Profile each shift or domain against the test cases of the training's own domain."""
    classes, crop = len(spec.classes), spec.evaluation_crop
    reference = list(read_cases(home, classes, crop))
    home_name = "+".join(dict.fromkeys(case.domain for case in reference))
    half = spec.profile.memory * 2**29
    layers, channels = [], []
    with Scratch(half) as held:
        base = _features(net, reference, spec, progress, f"profile {run.name} {home_name}", held)
        for shifted in spec.profile_shifts:
            if parse_shift(shifted):
                others = [
                    Case(**{**vars(c), "image": shifts.apply(c.image, shifted)}) for c in reference
                ]
            else:
                others = list(read_cases(test[test["domain"] == shifted], classes, crop))
            groups = [np.array([case.group for case in side]) for side in (reference, others)]
            with Scratch(half) as moving:
                label = f"profile {run.name} {shifted}"
                moved = _features(net, others, spec, progress, label, moving)
                profile = profile_features(
                    (base, moved), (groups[0], groups[1]), spec.profile, net.skips
                )
            labels = {**vars(run), "reference": home_name, "shifted": shifted}
            layers.append(profile.layers.assign(**labels))
            named = profile.channels.rename(columns={"measure": "distance"})
            channels.append(named.assign(**labels))
    for name, parts in (("shift.parquet", channels), ("layers.csv", layers)):
        empty = pd.DataFrame(columns=list(records.TABLE_COLUMNS[name]))
        records.write_table(folder / name, pd.concat(parts) if parts else empty)


def _features(
    net: Unet,
    cases: list[Case],
    spec: StudySpec,
    progress: Progress,
    label: str,
    scratch: Scratch,
) -> dict[str, Features]:
    size = spec.profile.batch_size
    starts = progress(range(0, len(cases), size), label, -(-len(cases) // size))
    stacks = (np.stack([case.image for case in cases[start : start + size]]) for start in starts)
    batches = (torch.from_numpy(stack).permute(0, 3, 1, 2) for stack in stacks)
    return collect(net, batches, None, spec.profile.pooling, spec.profile.seed, scratch)
