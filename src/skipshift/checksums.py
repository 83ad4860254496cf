"""Checksums: of files, of the tables of a folder in SHA256SUMS, and of a record within itself."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from skipshift.errors import SkipshiftError, unreadable
from skipshift.records import write_bytes, write_json

SUMS = "SHA256SUMS"
"""Checksums of a folder's files, in the format that ``sha256sum --check`` reads."""

_SEAL = "checksum"


def sha256(path: Path) -> str:
    """Hash a file's content; `SkipshiftError`, made by `unreadable`, if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, "a file", error) from None


def files_digest(paths: Iterable[Path | str]) -> str:
    """Hash the contents of files in their order; `SkipshiftError` as in `sha256`."""
    return hashlib.sha256("".join(sha256(Path(path)) for path in paths).encode()).hexdigest()


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object with a checksum of itself."""
    write_json(path, {**values, _SEAL: _seal(values)})


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Read what `write_sealed` wrote; None if it is missing or not as it was written."""
    values = _read_object(path)
    seal = values.pop(_SEAL, None)
    return values if seal is not None and seal == _seal(values) else None


def is_unsealed(path: Path) -> bool:
    """Whether a file is a JSON object without a checksum, as an earlier version wrote it."""
    values = _read_object(path)
    return bool(values) and _SEAL not in values


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if it is missing, malformed or something else."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _seal(values: Mapping[str, Any]) -> str:
    plain = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()


def write_sums(folder: Path) -> None:
    """Write the checksums of all files of a folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    lines = [f"{sha256(path)}  {path.name}\n" for path in files if path.name != SUMS]
    write_bytes(folder / SUMS, "".join(lines).encode())


def check_sums(folder: Path) -> None:
    """Raise a `SkipshiftError` for the first file that is not as SHA256SUMS says, if there is one.

    Folders of earlier versions have none.
    """
    sums = folder / SUMS
    if not sums.exists():
        return
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        expected, _, name = line.partition("  ")
        path = folder / Path(name).name
        if not path.is_file() or sha256(path) != expected:
            raise SkipshiftError(
                f"{path}: is not as it was written, says {SUMS}; run the study again"
            )
