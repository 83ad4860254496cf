"""How a set is written: by several workers, whole or not at all, and never over another."""

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
from skipshift.data.manifest import order_columns, read_manifest
from skipshift.errors import SkipshiftError
from skipshift.progress import Progress
from skipshift.records import read_json, unwritable, write_bytes, write_json

MANIFEST = "manifest.csv"
IMAGES = "images"
MASKS = "masks"
RECORD = "prepare.json"
"""What a prepared set was made from, what is in it, and what was left out and why."""

Unit = TypeVar("Unit")
Job = TypeVar("Job")
Done = TypeVar("Done")

Remarks = dict[str, list[str]]
"""What happened -> names of what it happened to."""


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
class Made:
    """What a reader makes of one unit of its source."""

    samples: Iterable[Sample]
    """Each may be made as it is written, so that a large unit need not fit into memory."""

    remarks: Remarks
    """Complete when the last sample is made."""


@dataclass(frozen=True, eq=False)
class Plan(Generic[Unit]):
    """What a reader found before it decodes any pixel."""

    recipe: Mapping[str, Any]
    """All that the bytes of the set depend on; among them ``classes``, the names of the labels."""

    units: Sequence[Unit]
    """What is decoded in one piece: a volume, or an image with its masks."""

    notes: Sequence[str] = ()
    """Sentences on how the set differs from what was asked for."""

    remarks: Remarks = field(default_factory=dict)


def write_set(
    out: Path, plan: Plan[Unit], make: Callable[[Unit], Made], workers: int, progress: Progress
) -> Path:
    """Write images, masks, manifest and record of a prepared set; returns the manifest's path.

    A finished set of the same recipe is left as it is. `SkipshiftError` if the folder holds
    anything else, or if the images have not all the same number of channels.
    """
    out = Path(out)
    if holds(out, RECORD, plan.recipe):
        read_manifest(out / MANIFEST)
        return out / MANIFEST
    with _beside(out) as folder:

        def write(unit: Unit) -> tuple[list[dict[str, str]], Remarks]:
            made = make(unit)
            return [_write_sample(folder, sample) for sample in made.samples], made.remarks

        done = run_all(write, plan.units, workers, progress, f"prepare {out.name}")
        rows = pd.DataFrame([row for rows, _ in done for row in rows]).fillna("")
        if rows.empty:
            raise SkipshiftError(f"{out}: nothing is left to write: {_first(plan, done)}")
        _check_channels(rows.pop("channels"))
        _check_names(rows)
        write_table(folder / MANIFEST, order_columns(rows))
        remarks = _joined([plan.remarks, *(told for _, told in done)])
        write_json(folder / RECORD, {**plan.recipe, **_summary(plan, rows, remarks)})
    return out / MANIFEST


def describe(out: Path) -> str:
    """Say what a prepared set holds and what was left out, in lines for people."""
    about = read_json(out / RECORD)
    lines = [pd.DataFrame(about["cases"]).to_string(index=False), ""]
    lines += [f"note: {note}" for note in about["notes"]]
    for remark, names in about["remarks"].items():
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        lines.append(f"{remark}: {len(names)} ({shown})")
    lines += [f"classes: [{', '.join(about['classes'])}]", f"manifest: {out / MANIFEST}"]
    return "\n".join(lines)


def holds(out: Path, record: str, recipe: Mapping[str, Any]) -> bool:
    """Whether a folder holds the set of a recipe already.

    An entry that is itself a mapping is compared by its ``sha256``. `SkipshiftError` if the folder
    holds another set, or anything else.
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
        raise SkipshiftError(f"{out}: is not empty and holds no {record}; choose a new folder")
    return False


def _check_recipe(out: Path, record: str, recipe: Mapping[str, Any]) -> None:
    way_out = "choose another folder or delete this one"
    found = read_json(out / record)
    if not isinstance(found, dict) or "recipe" not in found:
        raise SkipshiftError(f"{out / record}: is not a recipe of skipshift; {way_out}")
    for name, wanted in recipe.items():
        if isinstance(wanted, Mapping):
            there = found.get(name)
            if not isinstance(there, dict) or there.get("sha256") != wanted["sha256"]:
                raise SkipshiftError(f"{out}: holds a set made from other {name}; {way_out}")
        elif found.get(name) != wanted:
            raise SkipshiftError(
                f"{out}: holds a set with {name} {found.get(name)}, not {wanted}; {way_out}"
            )


def run_all(
    work: Callable[[Job], Done],
    jobs: Sequence[Job],
    workers: int,
    progress: Progress,
    label: str,
) -> list[Done]:
    """Do all jobs in threads, each with one thread of OpenCV; results in the order of the jobs.

    The first error in that order is raised, after what had begun is ended.
    """
    with single_threaded_opencv(), ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(work, job) for job in jobs]
        try:
            return [ready.result() for ready in progress(waiting, label, len(jobs))]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def fingerprint(lines: Iterable[str]) -> dict[str, Any]:
    """Give a source's entry in a recipe: how many lines describe it, and their digest."""
    text = list(lines)
    return {"parts": len(text), "sha256": hashlib.sha256("\n".join(text).encode()).hexdigest()}


def describe_file(path: Path, root: Path) -> str:
    """Describe a file of a source: where it lies and its size, not its bytes, which may be many."""
    return f"{path.relative_to(root).as_posix()} {path.stat().st_size}"


def read_csv(path: Path, separator: str = ",") -> pd.DataFrame:
    """Read a table of a source as text without spaces around it."""
    try:
        table = pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise SkipshiftError(f"{path}: cannot be read as a CSV: {reason}") from None
    return table.map(str.strip)


def write_table(path: Path, rows: pd.DataFrame) -> None:
    """Write a manifest."""
    write_bytes(path, rows.to_csv(index=False, lineterminator="\n").encode())


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Yield a folder beside ``out`` that takes its place on success and goes on failure."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(
            prefix=f".{out.name}.", suffix=".part", dir=out.parent, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise unwritable(out, error) from error
    with scratch:
        folder = Path(scratch.name) / out.name
        yield folder
        try:
            folder.replace(out)
        except OSError as error:
            raise unwritable(out, error) from error


def _write_sample(folder: Path, sample: Sample) -> dict[str, str]:
    domain, case = sample.row["domain"], sample.row["case"]
    for name in (domain, case):
        if not name or name.startswith(".") or set(name) & set('/\\:*?"<>|\n'):
            raise SkipshiftError(f"{name!r} cannot name a file; choose another domain or case name")
    place = f"{domain}/{case}.png"
    write_png(folder / IMAGES / place, sample.image)
    write_png(folder / MASKS / place, sample.mask)
    paths = {"image": f"{IMAGES}/{place}", "mask": f"{MASKS}/{place}"}
    return {**sample.row, **paths, "channels": str(sample.image.shape[2])}


def _check_channels(channels: "pd.Series[str]") -> None:
    counts = Counter(channels)
    if len(counts) > 1:
        told = " and ".join(f"{number} have {value}" for value, number in counts.items())
        raise SkipshiftError(
            f"images differ in channels: {told}; a network takes one number, "
            f"so add --channels 1 or 3"
        )


def _check_names(rows: pd.DataFrame) -> None:
    repeated = rows[rows.duplicated(["domain", "case"])]
    if len(repeated):
        domain, case = repeated[["domain", "case"]].iloc[0]
        raise SkipshiftError(
            f"case {case!r} of domain {domain!r} is made twice; remove one of its sources"
        )


def _summary(plan: Plan[Any], rows: pd.DataFrame, remarks: Remarks) -> dict[str, Any]:
    parts = rows.groupby(["split", "domain"]).agg(
        groups=("group", "nunique"), cases=("case", "size")
    )
    # what is trained on before what is tested
    table = parts.reset_index().sort_values("split", ascending=False, kind="stable")
    return {
        "cases": table.to_dict("records"),
        "notes": list(plan.notes),
        "remarks": remarks,
    }


def _joined(parts: Iterable[Remarks]) -> Remarks:
    joined: Remarks = defaultdict(list)
    for part in parts:
        for remark, names in part.items():
            if names:
                joined[remark] += names
    return joined


def _first(plan: Plan[Any], done: Sequence[tuple[Any, Remarks]]) -> str:
    counts = _joined([plan.remarks, *(told for _, told in done)])
    told = [f"{remark}: {len(names)}" for remark, names in counts.items()]
    return "; ".join([*told, *plan.notes]) or "the source is empty"
