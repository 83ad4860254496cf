"""Studies: do the missing runs of a grid, then join, score and compare their results."""

import dataclasses
import fnmatch
import hashlib
import importlib.metadata
import platform
import shutil
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from skipshift import records
from skipshift.checksums import read_sealed, write_sealed, write_sums
from skipshift.data.checks.findings import SHOWN, raise_errors
from skipshift.data.checks.preflight import check_manifest
from skipshift.errors import SkipshiftError
from skipshift.names import BASELINE, seen_domain
from skipshift.networks.inference import best_device, instruction_set, resolve_precision
from skipshift.page.report import write_report
from skipshift.page.study_results import read_failure
from skipshift.progress import Progress, silent
from skipshift.spec_files import to_plain
from skipshift.statistics.comparisons import compare
from skipshift.statistics.layer_tests import over_runs
from skipshift.statistics.metric_scores import metric_scores
from skipshift.statistics.scores import estimates, pooled_iou
from skipshift.study.cluster import precision_of_tasks, run_tasks
from skipshift.study.contents import changed_files, write_contents
from skipshift.study.grid import Run, Study, changes, expected_inputs, is_done
from skipshift.study.made import FILES, broken_files, clear_broken, read_made
from skipshift.study.opening import open_study
from skipshift.study.steps import attempt, estimate
from skipshift.study.views import write_views
from skipshift.study.workers import run_processes
from skipshift.study_specs import ExecutionSpec, StudySpec


def run_study(
    spec: StudySpec,
    out: Path,
    execution: ExecutionSpec | None = None,
    progress: Progress = silent,
) -> Path:
    """Do the missing runs of a study: train, evaluate and profile each, then write the report.

    Finished runs and steps are left alone, and an interrupted training resumes from its last
    epoch. A run that fails is recorded with its reason, and the others go on. A file of a finished
    step that is gone, cut off or otherwise not as it was written is made again, with a warning.

    Returns
    -------
    The path of the report on all runs that are done. `SkipshiftError` if ``out`` is held by another
    process or holds runs that were made with other settings or files, or, after everything else is
    done, if a run failed.
    """
    out, execution = Path(out), execution or ExecutionSpec()
    study = open_study(spec, out, progress)
    with records.locked(out):
        _clear_broken(study)
        study = _decide_precision(study, execution)
        begun = any(is_done(study, run) for run in study.runs())
        for folder in execution.take:
            _take(study, folder)
        chosen = chosen_runs(study, execution)
        _refuse_changes(study, chosen, execution.redo_changed)
        checked = read_sealed(out / records.CHECK)
        if checked is None or not all(is_done(study, run) for run in chosen):
            _check(study, checked, progress)
        _write_settings(study, begun)
        for run in _execute(study, chosen, execution, progress):
            del run
        _keep_contents(study)
        done = [run for run in study.runs() if is_done(study, run)]
        if done:
            write_views(study)  # before the tables are summed up
            estimate(study, done, progress)
            gather(study, done)
            write_report(out)
    _raise_failures(study, chosen)
    return out / records.REPORT


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


def _clear_broken(study: Study) -> None:
    """Remove what is broken of all runs, and say so, before anything is reused."""
    broken = [text for run in study.runs() for text in clear_broken(study.folder(run))]
    if broken:
        _say(
            f"{study.out}: not as they were written, so made again: {', '.join(broken)} "
            f"(in {records.RUNS})"
        )


def _say(text: str) -> None:
    warnings.warn(text, stacklevel=4)


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
    if not changed:
        return
    what = list(dict.fromkeys(fault for faults in changed.values() for fault in faults))
    other = any("content" in fault for fault in what)
    files = changed_files(study.out, study.contents) if other else []
    if files:
        more = f" and {len(files) - SHOWN} more" if files[SHOWN:] else ""
        what.append(f"changed files: {', '.join(files[:SHOWN])}{more}")
    text = (
        f"{study.out}: {len(changed)} runs were made with other settings ({'; '.join(what)}): "
        f"{', '.join(changed)}"
    )
    if not redo:
        raise SkipshiftError(
            f"{text}; add --redo-changed to make them again, or choose another folder"
        )
    if files:
        _say(f"{text}; they are made again")


def _keep_contents(study: Study) -> None:
    """Keep the hashes of all files, once no run is of other ones: they tell what has changed."""
    if not any(changes(study, run) for run in study.runs()):
        write_contents(study.out, study.contents)


def _check(study: Study, kept: Mapping[str, Any] | None, progress: Progress) -> None:
    """Check the data before training, once for each state of the manifest and its files.

    ``kept`` is what an earlier check has left, None if that is missing or broken. `SkipshiftError`
    gives the first error; warnings are kept for the report.
    """
    spec = study.spec
    of = {
        "manifest": hashlib.sha256(spec.manifest.read_bytes()).hexdigest(),
        "classes": list(spec.classes),
        "evaluation_crop": spec.evaluation_crop,
        "ignore": spec.ignore,
        "files": hashlib.sha256(str(sorted(study.contents.cases.items())).encode()).hexdigest(),
    }
    file = study.out / records.CHECK
    if kept is not None and kept["of"] == of:
        return
    if kept is None and file.exists():
        _say(f"{file}: not as it was written, so the data are checked again")
    findings = check_manifest(
        spec.manifest, spec.classes, spec.evaluation_crop, progress=progress, ignore=spec.ignore
    )
    raise_errors(findings, spec.manifest)
    plain = [dataclasses.asdict(finding) for finding in findings]
    write_sealed(file, {"of": of, "findings": plain})


def _write_settings(study: Study, begun: bool) -> None:
    """Write study.yaml and splits.csv as they are now, and environment.json once.

    A study that has ``begun`` has one: if it is gone, that is said.
    """
    spec, out = study.spec, study.out
    manifest = spec.manifest.absolute()
    if manifest.is_relative_to(out.absolute()):
        # a study that holds its own data may be moved as a whole
        manifest = manifest.relative_to(out.absolute())
    plain = to_plain(dataclasses.replace(spec, manifest=manifest))
    file = out / records.ENVIRONMENT
    began = read_sealed(file)
    if began is None and (begun or file.exists()):
        _say(f"{file}: gone or not as it was written, so written again with the versions of today")
    if began is None or began.get("precision") != study.precision:
        write_sealed(file, {**(began or environment()), "precision": study.precision})
    _keep_contents(study)
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
            _check_whole(there, run)
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
        run.name: read_failure(study.folder(run) / records.FAILURE)
        for run in chosen
        if failed(study, run)
    }
    if reasons:
        listed = "; ".join(f"{name} with {reason}" for name, reason in reasons.items())
        raise SkipshiftError(
            f"{study.out}: {len(reasons)} of {len(chosen)} runs failed: {listed} "
            f"(each in its {records.FAILURE}); fix the cause and add --retry-failed"
        )


def _check_whole(study: Study, run: Run, but: Collection[str] = ()) -> None:
    """`SkipshiftError` names the first file of a run that is not as it was written."""
    folder = study.folder(run)
    made = read_made(folder)
    for step in FILES:
        for name, what in () if step in but else broken_files(folder, step, made):
            raise SkipshiftError(
                f"{folder / name}: is not as it was written ({what}); run its study again"
            )


_OF_BASELINES = {
    "carry.csv": records.CARRIED,
    "remedies.csv": records.REMEDIED,
    records.ESTIMATES: records.ESTIMATES,
}
"""Tables of the baselines alone, if a study asks for them, and their columns."""


def _asked(study: Study, run: Run) -> list[str]:
    """Name the last file of each step of a run, with its estimates."""
    estimated = study.spec.estimate and run.variant == BASELINE
    return [*expected_inputs(study, run), *([records.ESTIMATES] if estimated else [])]


def gather(study: Study, runs: Sequence[Run]) -> None:
    """Join the tables of finished runs into those of the study, score and compare.

    `SkipshiftError` names a table that is not as its run wrote it.
    """
    for run in runs:
        # networks were looked at before the runs were done, and nothing here reads them
        _check_whole(study, run, but=(records.RUN_RECORD,))
    tables = {}
    for name in ("cases.parquet", "shift.parquet", "layers.csv"):
        parts = [records.read_table(study.folder(run) / name) for run in runs]
        tables[name] = pd.concat(parts, ignore_index=True)
    for name, columns in _OF_BASELINES.items():
        paths = [study.folder(run) / name for run in runs if name in _asked(study, run)]
        parts = [records.read_table(path, columns) for path in paths]
        if parts:
            tables[name] = pd.concat(parts, ignore_index=True)
        (study.out / records.TABLES / name).unlink(missing_ok=True)
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
        records.write_table(study.out / records.TABLES / name, table, _OF_BASELINES.get(name))
    write_sums(study.out / records.TABLES)


def _evidence(study: Study, runs: Sequence[Run]) -> pd.DataFrame | None:
    """Join what the profiles of several runs are joined by; None if a run has not kept it."""
    paths = [study.folder(run) / "evidence.parquet" for run in runs]
    if not all(path.exists() for path in paths):
        return None
    return pd.concat([records.read_table(path) for path in paths], ignore_index=True)
