"""Writing of a prepared set: in parallel, atomically, and never over another set."""

import contextlib
import hashlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd

from skipshift.data.images import NativePixels, Pixels, single_threaded_opencv, write_png
from skipshift.data.manifest import name_fault, order_columns, read_manifest
from skipshift.errors import SkipshiftError
from skipshift.progress import Progress
from skipshift.records import read_json, unwritable, write_bytes, write_json

MANIFEST = "manifest.csv"
IMAGES = "images"
MASKS = "masks"
RECORD = "prepare.json"
"""Source and content of a prepared set, and what was left out and why."""

IGNORED = 255
"""Value of the pixels of a prepared mask that are not to be counted."""

Job = TypeVar("Job")
Result = TypeVar("Result")

Remarks = dict[str, list[str]]
"""Remark -> names of the files, cases or subjects that it applies to."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One case of a prepared set."""

    row: Mapping[str, str]
    """``case, domain, group, split, stratum`` and any further columns of the manifest."""

    image: NativePixels
    """(H, W, 1) or (H, W, 3)."""

    mask: Pixels
    """(H, W) class indices."""


@dataclass(frozen=True, eq=False)
class JobOutput:
    """Cases that a reader makes from one job."""

    samples: Iterable[Sample]
    """May be lazy: each case is written as it is made, so a large job need not fit into memory."""

    remarks: Remarks
    """Complete only after the last sample."""


@dataclass(frozen=True, eq=False)
class Plan(Generic[Job]):
    """Content of a set, before any pixel is decoded."""

    recipe: Mapping[str, Any]
    """Everything that the output depends on, with the names of the mask values as ``classes``."""

    jobs: Sequence[Job]
    """Units of work: a volume, a slide, or an image with its masks."""

    notes: Sequence[str] = ()
    """Sentences on how the set differs from what was requested."""

    remarks: Remarks = field(default_factory=dict)


def write_set(
    out: Path, plan: Plan[Job], make: Callable[[Job], JobOutput], workers: int, progress: Progress
) -> Path:
    """Write images, masks, manifest and record of a prepared set.

    A complete set of the same recipe is left unchanged.

    Returns
    -------
    Path of the manifest.

    `SkipshiftError` if the folder contains anything else, if no case is left, if two cases have the
    same name, or if the images differ in their number of channels.
    """
    out = Path(out)
    if is_written(out, RECORD, plan.recipe):
        read_manifest(out / MANIFEST)
        return out / MANIFEST
    with _replacing(out) as folder:

        def write(job: Job) -> tuple[list[dict[str, str]], Remarks]:
            output = make(job)
            rows = [_write_sample(folder, sample) for sample in output.samples]
            return rows, output.remarks

        results = run_all(write, plan.jobs, workers, progress, f"prepare {out.name}")
        remarks = merge_remarks([plan.remarks, *(remarks for _, remarks in results)])
        rows = pd.DataFrame([row for rows, _ in results for row in rows]).fillna("")
        if rows.empty:
            raise SkipshiftError(
                f"{out}: no case is left to write: {_reasons(remarks, plan.notes)}"
            )
        _check_channels(rows.pop("channels"))
        _check_names(rows)
        write_table(folder / MANIFEST, order_columns(rows))
        write_json(folder / RECORD, {**plan.recipe, **_summary(plan, rows, remarks)})
    return out / MANIFEST


def describe(out: Path) -> str:
    """Summarise a prepared set and what was left out, for the terminal."""
    about = read_json(out / RECORD)
    lines = [pd.DataFrame(about["cases"]).to_string(index=False), ""]
    lines += [f"note: {note}" for note in about["notes"]]
    for remark, names in about["remarks"].items():
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        lines.append(f"{remark}: {len(names)} ({shown})")
    lines += [f"classes: [{', '.join(about['classes'])}]", f"manifest: {out / MANIFEST}"]
    return "\n".join(lines)


def is_written(out: Path, record: str, recipe: Mapping[str, Any]) -> bool:
    """Check whether a folder already contains the set of a recipe.

    An entry that is itself a mapping is compared by its ``sha256``. `SkipshiftError` if the folder
    contains another set or anything else, or cannot be written.
    """
    try:
        names = [path.name for path in out.iterdir()]
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise unwritable(out, error) from None
    if record in names:
        _check_recipe(out, record, recipe)
        return True
    if any(not name.startswith(".") for name in names):
        raise SkipshiftError(f"{out}: is not empty and has no {record}; choose a new folder")
    return False


def _check_recipe(out: Path, record: str, recipe: Mapping[str, Any]) -> None:
    remedy = "choose another folder or delete this one"
    existing = read_json(out / record)
    if not isinstance(existing, dict) or "recipe" not in existing:
        raise SkipshiftError(f"{out / record}: was not written by skipshift; {remedy}")
    for name, requested in recipe.items():
        value = existing.get(name)
        if isinstance(requested, Mapping):
            if not isinstance(value, dict) or value.get("sha256") != requested["sha256"]:
                raise SkipshiftError(f"{out}: contains a set made from other {name}; {remedy}")
        elif value != requested:
            raise SkipshiftError(
                f"{out}: contains a set with {name} {value}, not {requested}; {remedy}"
            )


def run_all(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    progress: Progress,
    label: str,
) -> list[Result]:
    """Run all jobs in threads, each with one OpenCV thread; results in the order of the jobs.

    The first error in that order is raised once the running jobs have finished.
    """
    with single_threaded_opencv(), ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(work, job) for job in jobs]
        try:
            return [ready.result() for ready in progress(waiting, label, len(jobs))]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def source_digest(lines: Iterable[str]) -> dict[str, Any]:
    """Digest the lines that describe a source, as an entry of a recipe."""
    text = list(lines)
    return {"parts": len(text), "sha256": hashlib.sha256("\n".join(text).encode()).hexdigest()}


def describe_file(path: Path, root: Path) -> str:
    """Describe a source file by its path and size; hashing its bytes could take hours."""
    return f"{path.relative_to(root).as_posix()} {path.stat().st_size}"


def read_csv(path: Path, separator: str = ",") -> pd.DataFrame:
    """Read a CSV as stripped text; `SkipshiftError` if it cannot be read."""
    try:
        table = pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise SkipshiftError(f"{path}: cannot be read as a CSV: {reason}") from None
    return table.map(str.strip)


def write_table(path: Path, rows: pd.DataFrame) -> None:
    """Write a manifest as CSV."""
    write_bytes(path, rows.to_csv(index=False, lineterminator="\n").encode())


@contextlib.contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``out`` on success and is deleted on failure."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(
            prefix=f".{out.name}.", suffix=".part", dir=out.parent, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise unwritable(out, error) from error
    with temporary:
        folder = Path(temporary.name) / out.name
        yield folder
        try:
            folder.replace(out)
        except OSError as error:
            raise unwritable(out, error) from error


def _write_sample(folder: Path, sample: Sample) -> dict[str, str]:
    domain, case = sample.row["domain"], sample.row["case"]
    for name in (domain, case):
        if name_fault(name) or name.startswith(".") or set(name) & set('/\\:*?"<>|'):
            raise SkipshiftError(
                f"{name!r} is not a valid file name; choose another domain or case name"
            )
    name = f"{domain}/{case}.png"
    write_png(folder / IMAGES / name, sample.image)
    write_png(folder / MASKS / name, sample.mask)
    paths = {"image": f"{IMAGES}/{name}", "mask": f"{MASKS}/{name}"}
    return {**sample.row, **paths, "channels": str(sample.image.shape[2])}


def _check_channels(channels: "pd.Series[str]") -> None:
    counts = Counter(channels)
    if len(counts) > 1:
        numbers = " and ".join(f"{number} have {value}" for value, number in counts.items())
        raise SkipshiftError(
            f"images differ in their number of channels: {numbers}; add --channels 1 or 3"
        )


def _check_names(rows: pd.DataFrame) -> None:
    repeated = rows[rows.duplicated(["domain", "case"])]
    if len(repeated):
        domain, case = repeated[["domain", "case"]].iloc[0]
        raise SkipshiftError(
            f"case {case!r} of domain {domain!r} occurs twice; remove one of its sources"
        )


def _summary(plan: Plan[Any], rows: pd.DataFrame, remarks: Remarks) -> dict[str, Any]:
    parts = rows.groupby(["split", "domain"]).agg(
        groups=("group", "nunique"), cases=("case", "size")
    )
    # training before test
    table = parts.reset_index().sort_values("split", ascending=False, kind="stable")
    return {
        "cases": table.to_dict("records"),
        "notes": list(plan.notes),
        "remarks": remarks,
    }


def merge_remarks(parts: Iterable[Remarks]) -> Remarks:
    """Join remarks; those that apply to nothing are left out."""
    merged: Remarks = defaultdict(list)
    for part in parts:
        for remark, names in part.items():
            if names:
                merged[remark] += names
    return merged


def _reasons(remarks: Remarks, notes: Sequence[str]) -> str:
    counts = [f"{remark}: {len(names)}" for remark, names in remarks.items()]
    return "; ".join([*counts, *notes]) or "the source is empty"
