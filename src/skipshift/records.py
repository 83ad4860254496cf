"""Files of a study folder: their names, atomic writes, locks and typed tables. Needs no torch.

A file under its final name is complete: files are written to a temporary name and renamed.
"""

import contextlib
import errno
import io
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from skipshift.errors import ArgumentError, SkipshiftError, unreadable

REPORT = "report.html"
STUDY = "study.yaml"
ENVIRONMENT = "environment.json"
SPLITS = "splits.csv"
CHECK = "check.json"
CONTENTS = "contents.json"
RUNS = "runs"
TABLES = "tables"
FIGURES = "figures"

RUN_RECORD = "run.json"
OWNED = "network"
"""Folder of a mended network with the files of its owner, where those alone are not mended."""
WEIGHTS = "weights.safetensors"
HISTORY = "history.csv"
SAMPLES = "samples.npz"
VIEWS = "views.npz"
FAILURE = "failed.json"
MADE = "made.json"

_GRID = {"variant": "str", "encoder": "str", "fold": "int64", "seed": "int64"}
_PAIR = {"reference": "str", "shifted": "str"}
_SCORED = {"encoder": "str", "variant": "str", "domain": "str", "class": "str", "metric": "str"}
_LAYER = {"layer": "str", "depth": "int64"}
_CHANNEL = {"value": "float64", "null": "float64"}
_KIND = {"measure": "str", "pooling": "str"}
_DISTANCE = {
    "distance": "float64",
    "null": "float64",
    "excess": "float64",
    "low": "float64",
    "high": "float64",
    "p": "float64",
    "p_adjusted": "float64",
    "behind": "float64",
    "behind_low": "float64",
    "behind_high": "float64",
    "groups": "str",
    "least_p": "float64",
    **_KIND,
}

_JUDGED = (
    "parameters seconds iou gain low high p_adjusted in_domain harm harm_low harm_high headroom "
    "excess_left excess_low excess_high relabelled relabelled_unshifted weight unchanged "
    "relabelled_reference"
)

_REMEDY = {
    "remedy": "str",
    "place": "str",
    "labels": "int64",
    **dict.fromkeys(_JUDGED.split(), "float64"),
    "collapsed": "bool",
    "passed_over": "str",
    "failed": "str",
}
_CARRY = {
    "path": "str",
    "iou": "float64",
    **dict.fromkeys(("share", "low", "high"), "float64"),
    **dict.fromkeys(("missing", "missing_low", "missing_high"), "float64"),
    **dict.fromkeys(("passed", "passed_low", "passed_high"), "float64"),
    **dict.fromkeys(("sure", "missing_sure", "farther", "read"), "bool"),
    **dict.fromkeys(("lost", "lost_low", "lost_high"), "float64"),
    "in_domain": "float64",
    **dict.fromkeys(("shapley", "shapley_low", "shapley_high"), "float64"),
}

PROFILE_LAYERS = "profile/layers.csv"
"""Layers of a single profile: the columns of a study's layers.csv without run and domains."""

CARRIED, REMEDIED = "study/carry.csv", "study/remedies.csv"
"""A study's carry.csv and remedies.csv: those of single runs, with the run and the domains."""

ESTIMATES = "estimates.csv"
"""A study's estimates without masks, with the IoU that the masks give."""

TABLE_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "cases.parquet": {
        "run": "str",
        "domain": "str",
        "case": "str",
        "group": "str",
        "class": "str",
        "tp": "int64",
        "fp": "int64",
        "fn": "int64",
    },
    "metrics.parquet": {
        "run": "str",
        "domain": "str",
        "case": "str",
        "group": "str",
        "class": "str",
        "metric": "str",
        "present": "bool",
        "part": "int64",
        "numerator": "float64",
        "denominator": "float64",
    },
    "metrics.csv": {
        "variant": "str",
        "encoder": "str",
        "metric": "str",
        "domain": "str",
        "class": "str",
        "value": "float64",
        "low": "float64",
        "high": "float64",
        "cases": "int64",
        "groups": "int64",
        "present": "int64",
        "mean": "float64",
        "p5": "float64",
        "worst": "float64",
    },
    "domains.csv": {
        "domain": "str",
        "about": "str",
        "spacing": "str",
        "groups": "int64",
        "cases": "int64",
    },
    "iou.csv": {
        "variant": "str",
        "encoder": "str",
        "domain": "str",
        "class": "str",
        "iou": "float64",
        "low": "float64",
        "high": "float64",
        "cases": "int64",
    },
    "scores.csv": {
        **_SCORED,
        "value": "float64",
        "low": "float64",
        "high": "float64",
        "groups": "int64",
        "cases": "int64",
        "runs": "int64",
        "spread_runs": "float64",
        "spread_groups": "float64",
    },
    "tests.csv": {
        **_SCORED,
        "effect": "float64",
        "low": "float64",
        "high": "float64",
        "groups": "int64",
        "runs": "int64",
        "of": "str",
        "p": "float64",
        "p_adjusted": "float64",
        "p_equivalence": "float64",
        "p_equivalence_adjusted": "float64",
        "verdict": "str",
        "spread_runs": "float64",
        "spread_groups": "float64",
        "more_runs": "float64",
        "least_p": "float64",
        "baseline": "float64",
        "floor": "float64",
    },
    "shift.parquet": {
        **_GRID,
        **_PAIR,
        **_LAYER,
        "channel": "int64",
        "distance": "str",
        **_CHANNEL,
        "pooling": "str",
    },
    "layers.csv": {**_GRID, **_PAIR, **_LAYER, **_DISTANCE},
    "profile.csv": {
        "variant": "str",
        "encoder": "str",
        **_PAIR,
        **_LAYER,
        "runs": "int64",
        **_DISTANCE,
    },
    "remedies.csv": _REMEDY,
    "estimate.csv": {
        "class": "str",
        **dict.fromkeys(["iou", "low", "high"], "float64"),
        "method": "str",
        "answered": "str",
    },
    "image-scores.csv": {"case": "str", "p": "float64", "layer": "str", "iou": "float64"},
    "evidence.parquet": {
        **_GRID,
        **_PAIR,
        "layer": "str",
        **_KIND,
        "groups": "str",
        "permuted": "object",
        "squares": "object",
        "kinds": "object",
        "power": "float64",
    },
    "carry.csv": _CARRY,
    CARRIED: {**_GRID, **_PAIR, **_CARRY},
    REMEDIED: {**_GRID, **_PAIR, **_REMEDY, "recommended": "bool"},
    ESTIMATES: {
        **_GRID,
        **_PAIR,
        "class": "str",
        **dict.fromkeys(["measured", "iou", "low", "high"], "float64"),
        "method": "str",
        "answer": "str",
    },
    PROFILE_LAYERS: {**_LAYER, **_DISTANCE},
    "channels.parquet": {
        **_LAYER,
        "channel": "int64",
        **_CHANNEL,
        "measure": "str",
        "pooling": "str",
    },
}
"""Columns and types of every table, by file name; the folder of a run has its part by that name."""


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``path``, which must not exist, on success.

    `UnwritableError` if the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name}.", suffix=".part", dir=path.parent, ignore_cleanup_errors=True
        ) as temporary:
            yield Path(temporary)
            Path(temporary).chmod(0o755)
            Path(temporary).rename(path)
            _sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


class UnwritableError(SkipshiftError):
    """The disk is full or not writable; work can resume once that is fixed."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` on success and is removed on failure.

    The file at ``path`` survives a power failure. `UnwritableError` names the file if the disk is
    full or the folder cannot be written. Tests interrupt a process at the audit events
    ``skipshift.half_written`` and ``skipshift.written``, which carry the path.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        sys.audit("skipshift.half_written", str(path))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
        sys.audit("skipshift.written", str(path))
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be synced there, and need not be
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes; `SkipshiftError` names the process holding it.

    Temporary files of a killed process are removed. `UnwritableError` if it cannot be written.
    """
    note = folder / ".holder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        with lock:
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            write_bytes(
                note, f"process {os.getpid()} on {platform.node()} since {started}".encode()
            )
            for part in folder.rglob(".*.part"):
                shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
            yield
            note.unlink(missing_ok=True)
    except Timeout:
        holder = note.read_text() if note.exists() else "another process"
        raise SkipshiftError(f"{folder}: is in use by {holder}; wait for it or stop it") from None
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(path: Path, error: OSError) -> UnwritableError:
    """Create the error that explains in one line why ``path`` could not be written."""
    hints = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space"}
    hint = hints.get(error.errno or 0, "choose a folder that you may write to")
    return UnwritableError(f"{path}: cannot be written: {error.strerror or error}; {hint}")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, values: object) -> None:
    """Write indented JSON; equal values give equal bytes."""
    write_bytes(path, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; `SkipshiftError` if it is missing or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise unreadable(path, "JSON", error) from None


IMAGE_SCORES = "image-scores.csv"
"""Name in `TABLE_COLUMNS` of scores.csv of the command score, unlike that of a study."""


def write_table(path: Path, frame: pd.DataFrame, table: str | None = None) -> None:
    """Write a table with the columns that `TABLE_COLUMNS` lists for its file name or ``table``."""
    columns = TABLE_COLUMNS[table or path.name]
    frame = frame[list(columns)].astype(dict(columns)).reset_index(drop=True)
    if path.suffix == ".parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        write_bytes(path, buffer.getvalue())
    else:
        write_bytes(path, frame.to_csv(index=False, lineterminator="\n").encode())


def read_table(path: Path, table: str | None = None) -> pd.DataFrame:
    """Read a table; `SkipshiftError` if it is missing, malformed or lacks a column."""
    columns = TABLE_COLUMNS[table or path.name]
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        return frame[list(columns)].astype(dict(columns))
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(path, "a table", error) from None


def run_name(encoder: str, variant: str, fold: int, seed: int) -> str:
    """Build the name of a run's folder.

    >>> run_name("resnet18", "L1-pruned", 0, 0)
    'resnet18.L1-pruned.fold0.seed0'
    """
    return f"{encoder}.{variant}.fold{fold}.seed{seed}"


def run_record(net: Path) -> dict[str, Any]:
    """Read run.json of a run folder, or of one that was mended; empty of any other network."""
    found = [file for part in (net, net / OWNED) if (file := part / RUN_RECORD).exists()]
    return read_json(found[0]) if found else {}


def run_parts(names: "pd.Series[str]") -> pd.DataFrame:
    """Split names of runs into ``encoder, variant, fold, seed``; the inverse of `run_name`.

    `ArgumentError` if a name has another form.

    >>> run_parts(pd.Series(["tu-net.in1k.L1-pruned.fold0.seed2"])).to_numpy().tolist()
    [['tu-net.in1k', 'L1-pruned', 0, 2]]
    """
    pattern = r"^(?P<encoder>.+)\.(?P<variant>[^.]+)\.fold(?P<fold>\d+)\.seed(?P<seed>\d+)$"
    parts = names.str.extract(pattern)
    invalid = names[parts["encoder"].isna()]
    if len(invalid):
        raise ArgumentError(
            f"a run must be named ENCODER.VARIANT.foldF.seedS, got {invalid.iloc[0]!r}; rename it"
        )
    return parts.astype({"fold": "int64", "seed": "int64"})
