"""What the steps of a run have made: their inputs, and size and hash of each file, in made.json."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from skipshift import records
from skipshift.checksums import is_unsealed, read_sealed, sha256, write_sealed

FILES: Mapping[str, tuple[str, ...]] = {
    records.RUN_RECORD: (records.WEIGHTS, records.RUN_RECORD),
    records.HISTORY: (records.HISTORY,),
    "cases.parquet": ("cases.parquet",),
    "metrics.parquet": ("metrics.parquet",),
    records.SAMPLES: (records.SAMPLES,),
    "layers.csv": ("shift.parquet", "evidence.parquet", "layers.csv"),
    "carry.csv": ("carry.csv",),
    "remedies.csv": ("remedies.csv",),
    records.ESTIMATES: (records.ESTIMATES,),
}
"""Files that each step of a run writes; a step is named by the last of them."""

Made = Mapping[str, Mapping[str, Any]]
"""Step -> its ``inputs``, and once it is done its ``files``: name -> [size, SHA-256]."""


def read_made(folder: Path) -> dict[str, dict[str, Any]]:
    """Read what the steps in a run's folder have made; empty if that is missing or broken."""
    return read_sealed(folder / records.MADE) or {}


def write_made(folder: Path, made: Made) -> None:
    """Write what the steps in a run's folder have made."""
    write_sealed(folder / records.MADE, made)


def done(folder: Path, step: str, inputs: object) -> dict[str, Any]:
    """Note of a step that has just written its files from these inputs."""
    files = {name: [(folder / name).stat().st_size, sha256(folder / name)] for name in FILES[step]}
    return {"inputs": inputs, "files": files}


def step_done(folder: Path, step: str, made: Made, inputs: object) -> bool:
    """Whether a step has written its files from these inputs, and each still has its size."""
    noted = made.get(step, {})
    return (
        "files" in noted
        and noted["inputs"] == inputs
        and not broken_files(folder, step, made, by_size=True)
    )


def broken_files(
    folder: Path, step: str, made: Made, by_size: bool = False
) -> list[tuple[str, str]]:
    """Name the files of a step that are not as it wrote them, and what is wrong with each.

    A step that is not done has none.
    """
    found = []
    for name, (size, digest) in made.get(step, {}).get("files", {}).items():
        path = folder / name
        if not path.is_file():
            found.append((name, "gone"))
        elif (now := path.stat().st_size) != size:
            found.append((name, f"{now} bytes, not {size}"))
        elif not by_size and sha256(path) != digest:
            found.append((name, "other content"))
    return found


def clear_broken(folder: Path) -> list[str]:
    """Remove what a run's folder holds of steps with a broken file, so that they are done again.

    Without its network or a whole made.json nothing in the folder counts.

    Returns
    -------
    A description of each broken file, relative to the folder of all runs.
    """
    file = folder / records.MADE
    made = read_sealed(file)
    if made is None:
        begun = (folder / records.RUN_RECORD).exists()
        if is_unsealed(file) or not (begun or file.exists()):
            return []
        file.unlink(missing_ok=True)
        return [f"{folder.name}/{file.name} (gone or broken)"]
    broken = {step: found for step in FILES if (found := broken_files(folder, step, made))}
    if broken:
        lost = FILES if records.RUN_RECORD in broken else broken
        write_made(folder, {step: note for step, note in made.items() if step not in lost})
        _remove(folder, lost)
    return [f"{folder.name}/{name} ({what})" for found in broken.values() for name, what in found]


def _remove(folder: Path, steps: Iterable[str]) -> None:
    for step in steps:
        for name in FILES[step]:
            (folder / name).unlink(missing_ok=True)
