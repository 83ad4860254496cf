"""Studies: do the missing runs of a grid, then join, score and compare their results."""

import dataclasses
import fnmatch
import hashlib
import importlib.metadata
import platform
import shutil
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import torch
import yaml

from skipshift import records
from skipshift.data.checks.findings import raise_errors
from skipshift.data.checks.preflight import check_manifest
from skipshift.data.images import image_size
from skipshift.data.manifest import parse_spacing, read_manifest
from skipshift.data.splits import CASE_COLUMNS, draw_folds, leave_out_domains, read_folds
from skipshift.errors import SkipshiftError
from skipshift.names import parse_shift, seen_domain
from skipshift.networks.inference import best_device, instruction_set, resolve_precision
from skipshift.page.report import write_report
from skipshift.progress import Progress, silent
from skipshift.spec_files import to_plain
from skipshift.specs import ExecutionSpec, Precision, StudySpec
from skipshift.statistics.comparisons import AWAY, compare
from skipshift.statistics.layer_tests import over_runs
from skipshift.statistics.metric_scores import metric_scores
from skipshift.statistics.scores import estimates, pooled_iou
from skipshift.study.cluster import precision_of_tasks, run_tasks
from skipshift.study.grid import Run, Study, changes, is_done
from skipshift.study.steps import attempt
from skipshift.study.views import write_views
from skipshift.study.workers import run_processes


def run_study(
    spec: StudySpec,
    out: Path,
    execution: ExecutionSpec | None = None,
    progress: Progress = silent,
) -> Path:
    """Do the missing runs of a study: train, evaluate and profile each, then write the report.

    Finished runs and steps are left alone, and an interrupted training resumes from its last
    epoch. A run that fails is recorded with its reason, and the others go on.

    Returns
    -------
    The path of the report on all runs that are done. `SkipshiftError` if ``out`` is held by another
    process or holds runs that were made with other settings, or, after everything else is done, if
    a run failed.
    """
    out, execution = Path(out), execution or ExecutionSpec()
    study = open_study(spec, out)
    with records.locked(out):
        study = _decide_precision(study, execution)
        for folder in execution.take:
            _take(study, folder)
        chosen = chosen_runs(study, execution)
        _refuse_changes(study, chosen, execution.redo_changed)
        if not all(is_done(study, run) for run in chosen):
            _check(study, progress)
        _write_settings(study)
        for run in _execute(study, chosen, execution, progress):
            del run
        done = [run for run in study.runs() if is_done(study, run)]
        if done:
            gather(study, done)
            write_views(study)
            write_report(out)
    _raise_failures(study, chosen)
    return out / records.REPORT


def open_study(spec: StudySpec, out: Path) -> Study:
    """Read a study's manifest and folds, and check early for what would fail after training.

    Folds already in the study's folder are kept if they are of the same cases and settings.
    `SkipshiftError` for test cases or ``profile_shifts`` that the study cannot use.
    """
    cases = read_manifest(spec.manifest)
    trained = cases.loc[cases["split"] == "train", "domain"]
    test = cases[cases["split"] == "test"]
    home = test["domain"].isin(trained)
    if not home.any():
        raise SkipshiftError(f"{spec.manifest}: has no test cases of the domain that is trained on")
    if AWAY in set(test["domain"]):
        raise SkipshiftError(
            f"{spec.manifest}: {AWAY!r} stands for the mean of several domains; rename that domain"
        )
    if spec.tolerance_unit == "mm" and "surface_dice" in spec.metrics:
        _check_spacing(spec.manifest, test)
    for shifted in spec.profile_shifts:
        others = home if parse_shift(shifted) else test["domain"] == shifted
        if not others.any():
            known = ", ".join(test["domain"].unique())
            raise SkipshiftError(
                f"profile_shifts: {shifted!r} is not a shift such as brightness:0.75, nor a domain "
                f"of the test cases ({known})"
            )
        if spec.evaluation_crop is None:
            _check_sizes(test.loc[home, "image"])
            _check_sizes(test.loc[others, "image"])
    draw = leave_out_domains if spec.leave_one_domain_out else draw_folds
    folds, file = draw(cases, spec.folds), out / records.SPLITS
    if file.exists():
        kept = read_folds(file)
        alike = list(kept) == list(folds) and kept["fold"].nunique() == folds["fold"].nunique()
        if alike and kept[CASE_COLUMNS].equals(folds[CASE_COLUMNS]):
            folds = kept
    return Study(spec, cases, folds, out, _known_precision(spec, out))


def _known_precision(spec: StudySpec, out: Path) -> Precision:
    """Precision that the settings ask for or, where that is ``auto``, that the study began with."""
    file = out / records.ENVIRONMENT
    asked = spec.training.precision
    if asked != "auto" or not file.exists():
        return asked
    began: Precision = records.read_json(file).get("precision", "auto")
    return began


def _decide_precision(study: Study, execution: ExecutionSpec) -> Study:
    """Settle what ``auto`` means for all runs of a study, where its runs are done.

    One decision for the study, so that its tables are the same for any number of processes. It is
    kept in environment.json: a study that goes on where the other precision is faster keeps its
    own, with a warning.
    """
    if study.spec.training.precision != "auto":
        return study
    decided = study.precision != "auto"
    if decided and all(is_done(study, run) for run in chosen_runs(study, execution)):
        return study
    here = (
        precision_of_tasks(study, execution)
        if execution.on == "ray"
        else resolve_precision("auto", best_device())
    )
    if not decided:
        return dataclasses.replace(study, precision=here)
    if study.precision != here:
        warnings.warn(
            f"{study.out}: goes on in {study.precision} as it began, but here {here} is faster; "
            f"for {here}, set precision in another folder",
            stacklevel=3,
        )
    return study


def _check_sizes(images: "pd.Series[str]") -> None:
    """Raise for images of several sizes in a profile, whose features are one array."""
    first = image_size(Path(images.iloc[0]))
    for file in images:
        size = image_size(Path(file))
        if size != first:
            raise SkipshiftError(
                f"{file}: is {size[0]} x {size[1]}, other test images of its domain are "
                f"{first[0]} x {first[1]}; set evaluation_crop, or profile_shifts to []"
            )


def chosen_runs(study: Study, execution: ExecutionSpec) -> list[Run]:
    """List the runs of the grid to do now; `SkipshiftError` if there are none."""
    grid = study.runs()
    chosen = [run for run in grid if fnmatch.fnmatchcase(run.name, execution.only)]
    if not chosen:
        raise SkipshiftError(
            f"--only {execution.only!r} matches no run; the first is {grid[0].name}"
        )
    return chosen


def _refuse_changes(study: Study, chosen: Sequence[Run], redo: bool) -> None:
    """`SkipshiftError` names the runs to be redone, unless that was asked for."""
    changed = {run.name: found for run in chosen if (found := changes(study, run))}
    if changed and not redo:
        what = list(dict.fromkeys(fault for faults in changed.values() for fault in faults))
        raise SkipshiftError(
            f"{study.out}: {len(changed)} runs were made with other settings ({'; '.join(what)}): "
            f"{', '.join(changed)}; add --redo-changed to make them again, or choose another folder"
        )


def _check_spacing(manifest: Path, test: pd.DataFrame) -> None:
    """`SkipshiftError` names the first test case whose pixels have no known size."""
    for case, text in zip(test["case"], test.get("spacing", [""] * len(test)), strict=True):
        if parse_spacing(text) is None:
            raise SkipshiftError(
                f"{manifest}: case {case} has no spacing, and the tolerance of surface_dice is in "
                f"mm; add it to the column spacing, or give the tolerance in px"
            )


def _check(study: Study, progress: Progress) -> None:
    """Check the data before training, once for each state of the manifest.

    `SkipshiftError` gives the first error; warnings are kept for the report.
    """
    spec = study.spec
    of = {
        "manifest": hashlib.sha256(spec.manifest.read_bytes()).hexdigest(),
        "classes": list(spec.classes),
        "evaluation_crop": spec.evaluation_crop,
    }
    file = study.out / records.CHECK
    if file.exists() and records.read_json(file)["of"] == of:
        return
    findings = check_manifest(spec.manifest, spec.classes, spec.evaluation_crop, progress=progress)
    raise_errors(findings, spec.manifest)
    plain = [dataclasses.asdict(finding) for finding in findings]
    records.write_json(file, {"of": of, "findings": plain})


def _write_settings(study: Study) -> None:
    """Write study.yaml and splits.csv as they are now, and environment.json once."""
    spec, out = study.spec, study.out
    manifest = spec.manifest.absolute()
    if manifest.is_relative_to(out.absolute()):
        # a study that holds its own data may be moved as a whole
        manifest = manifest.relative_to(out.absolute())
    plain = to_plain(dataclasses.replace(spec, manifest=manifest))
    file = out / records.ENVIRONMENT
    began = records.read_json(file) if file.exists() else environment()
    if began.get("precision") != study.precision:
        records.write_json(file, {**began, "precision": study.precision})
    splits = study.folds.to_csv(index=False, lineterminator="\n")
    records.write_bytes(out / records.SPLITS, splits.encode())
    records.write_bytes(out / records.STUDY, yaml.safe_dump(plain, sort_keys=False).encode())


def environment() -> dict[str, str]:
    """Versions and the kind of processor that the numbers may depend on."""
    packages = ("skipshift", "torch", "lightning", "segmentation-models-pytorch", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "python": sys.version.split()[0],
        "device": device,
        "instruction_set": instruction_set(best_device()),
        **versions,
    }


def _take(study: Study, folder: Path) -> None:
    """Copy the finished runs of another folder of the same study."""
    there = dataclasses.replace(study, out=folder)
    if not (folder / records.RUNS).is_dir():
        raise SkipshiftError(f"{folder}: is no study folder, it has no {records.RUNS}/")
    for run in study.runs():
        if found := changes(there, run):
            raise SkipshiftError(
                f"{there.folder(run)}: was made with other settings ({'; '.join(found)}); "
                f"take only parts of this study"
            )
        if is_done(there, run) and not is_done(study, run):
            shutil.rmtree(study.folder(run), ignore_errors=True)
            with records.atomic_folder(study.folder(run)) as scratch:
                shutil.copytree(there.folder(run), scratch, dirs_exist_ok=True)


def _execute(
    study: Study, chosen: Sequence[Run], execution: ExecutionSpec, progress: Progress
) -> Iterable[Run]:
    """Do the unfinished ones of the chosen runs, on this machine or on a cluster."""
    for run in chosen:
        if execution.retry_failed:
            (study.folder(run) / records.FAILURE).unlink(missing_ok=True)
    left = [run for run in chosen if not (failed(study, run) or is_done(study, run))]
    jobs = min(execution.jobs or study.spec.jobs, len(left))
    if execution.on == "ray":
        return progress(run_tasks(study, left, execution), "runs", len(left))
    if jobs > 1:
        study = dataclasses.replace(study, instruction_set=instruction_set(best_device()))
        return progress(run_processes(study, left, jobs), "runs", len(left))
    for run in left:
        attempt(study, run, progress)
    return left


def failed(study: Study, run: Run) -> bool:
    """Whether a run has failed and was not tried again."""
    return (study.folder(run) / records.FAILURE).exists()


def _raise_failures(study: Study, chosen: Sequence[Run]) -> None:
    reasons = {
        run.name: records.read_json(study.folder(run) / records.FAILURE)["reason"]
        for run in chosen
        if failed(study, run)
    }
    if reasons:
        listed = "; ".join(f"{name} with {reason}" for name, reason in reasons.items())
        raise SkipshiftError(
            f"{study.out}: {len(reasons)} of {len(chosen)} runs failed: {listed} "
            f"(each in its {records.FAILURE}); fix the cause and add --retry-failed"
        )


def gather(study: Study, runs: Sequence[Run]) -> None:
    """Join the tables of finished runs into those of the study, score and compare."""
    tables = {}
    for name in ("cases.parquet", "shift.parquet", "layers.csv"):
        parts = [records.read_table(study.folder(run) / name) for run in runs]
        tables[name] = pd.concat(parts, ignore_index=True)
    tables["profile.csv"] = over_runs(tables["layers.csv"], _evidence(study, runs))
    homes = list(study.folds["domain"].unique())
    if study.spec.leave_one_domain_out:
        homes = [seen_domain(domain) for domain in homes]
    tables["scores.csv"] = estimates(tables["cases.parquet"])
    tables["iou.csv"] = pooled_iou(tables["scores.csv"])
    if study.spec.metrics:
        parts = [records.read_table(study.folder(run) / "metrics.parquet") for run in runs]
        measured = pd.concat(parts, ignore_index=True)
        names = records.run_parts(measured["run"])[["encoder", "variant"]]
        tables["metrics.parquet"] = measured
        tables["metrics.csv"] = metric_scores(pd.concat([measured, names], axis=1))
    beside = tables.get("metrics.parquet")
    cases, margin = tables["cases.parquet"], study.spec.margin
    tables["tests.csv"] = compare(cases, margin, homes, measured=beside)
    for name, table in tables.items():
        records.write_table(study.out / records.TABLES / name, table)


def _evidence(study: Study, runs: Sequence[Run]) -> pd.DataFrame | None:
    """Join what the profiles of several runs are joined by; None if a run has not kept it."""
    paths = [study.folder(run) / "evidence.parquet" for run in runs]
    if not all(path.exists() for path in paths):
        return None
    return pd.concat([records.read_table(path) for path in paths], ignore_index=True)
