"""The study folder: names of its files, atomic writes, typed tables. Knows no torch.

Whatever stands under its final name is whole: files are written beside it and renamed into place.
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

from skipshift.errors import ArgumentError, SkipshiftError

REPORT = "report.html"
STUDY = "study.yaml"
ENVIRONMENT = "environment.json"
SPLITS = "splits.csv"
CHECK = "check.json"
RUNS = "runs"
TABLES = "tables"
FIGURES = "figures"

RUN_RECORD = "run.json"
WEIGHTS = "weights.safetensors"
HISTORY = "history.csv"
SAMPLES = "samples.npz"
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
    **_KIND,
}

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
    },
    "tests.csv": {
        **_SCORED,
        "effect": "float64",
        "low": "float64",
        "high": "float64",
        "groups": "int64",
        "p": "float64",
        "p_adjusted": "float64",
        "p_equivalence": "float64",
        "p_equivalence_adjusted": "float64",
        "verdict": "str",
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
    "carry.csv": {
        "path": "str",
        **dict.fromkeys(
            (
                "iou",
                "share",
                "low",
                "high",
                "in_domain",
                "shapley",
                "shapley_low",
                "shapley_high",
            ),
            "float64",
        ),
    },
    "profile.csv": {**_LAYER, **_DISTANCE},
    "channels.parquet": {
        **_LAYER,
        "channel": "int64",
        **_CHANNEL,
        "measure": "str",
        "pooling": "str",
    },
}
"""Columns and types of every table, by file name; a run keeps its own part under the same name."""


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that becomes ``path``, which must be free."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name}.", suffix=".part", dir=path.parent, ignore_cleanup_errors=True
        ) as scratch:
            yield Path(scratch)
            Path(scratch).chmod(0o755)
            Path(scratch).rename(path)
            _sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


class UnwritableError(SkipshiftError):
    """The disk is full or closed: no fault of the work, which can go on once that is mended."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it on success and is removed on failure.

    What stands there survives a loss of power. A full disk or a folder that cannot be written is an
    `UnwritableError` that names the file. Raises the audit events ``skipshift.half_written`` and
    ``skipshift.written`` with the path, at which tests interrupt a process.
    """
    path = Path(path)
    scratch: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        scratch = Path(name)
        yield scratch
        sys.audit("skipshift.half_written", str(path))
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        scratch.chmod(0o644)
        scratch.replace(path)
        _sync_folder(path.parent)
        sys.audit("skipshift.written", str(path))
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # has no handle on folders, and needs none
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; `SkipshiftError` says who holds it already.

    What a killed process left half-written in it is removed.
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
            for left in folder.rglob(".*.part"):
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
            yield
            note.unlink(missing_ok=True)
    except Timeout:
        holder = note.read_text() if note.exists() else "another process"
        raise SkipshiftError(f"{folder}: is held by {holder}; wait for it or stop it") from None
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(path: Path, error: OSError) -> UnwritableError:
    """Say in one line why ``path`` could not be written."""
    ways = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space"}
    way = ways.get(error.errno or 0, "choose a folder that you may write to")
    return UnwritableError(f"{path}: cannot be written: {error.strerror or error}; {way}")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one piece."""
    with atomic(path) as scratch:
        scratch.write_bytes(content)


def write_json(path: Path, values: object) -> None:
    """Write JSON that people can read, always in the same bytes for the same values."""
    write_bytes(path, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; `SkipshiftError` if it is absent or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SkipshiftError(f"{path}: cannot be read as JSON: {error}") from None


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table under one of the names of `TABLE_COLUMNS`, with just its columns and types."""
    columns = TABLE_COLUMNS[path.name]
    frame = frame[list(columns)].astype(dict(columns)).reset_index(drop=True)
    if path.suffix == ".parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        write_bytes(path, buffer.getvalue())
    else:
        write_bytes(path, frame.to_csv(index=False, lineterminator="\n").encode())


def read_table(path: Path) -> pd.DataFrame:
    """Read a table back; `SkipshiftError` if it is absent, broken or lacks a column."""
    columns = TABLE_COLUMNS[path.name]
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        return frame[list(columns)].astype(dict(columns))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise SkipshiftError(f"{path}: cannot be read as a table: {reason}") from None


def run_name(encoder: str, variant: str, fold: int, seed: int) -> str:
    """Name of a run's folder.

    >>> run_name("resnet18", "L1-pruned", 0, 0)
    'resnet18.L1-pruned.fold0.seed0'
    """
    return f"{encoder}.{variant}.fold{fold}.seed{seed}"


def run_parts(names: "pd.Series[str]") -> pd.DataFrame:
    """Take the names of runs apart: ``encoder, variant, fold, seed``; the inverse of `run_name`.

    >>> run_parts(pd.Series(["tu-net.in1k.L1-pruned.fold0.seed2"])).to_numpy().tolist()
    [['tu-net.in1k', 'L1-pruned', 0, 2]]
    """
    pattern = r"^(?P<encoder>.+)\.(?P<variant>[^.]+)\.fold(?P<fold>\d+)\.seed(?P<seed>\d+)$"
    parts = names.str.extract(pattern)
    strange = names[parts["encoder"].isna()]
    if len(strange):
        raise ArgumentError(
            f"a run must be named ENCODER.VARIANT.foldF.seedS, got {strange.iloc[0]!r}: name it so"
        )
    return parts.astype({"fold": "int64", "seed": "int64"})
