"""Contents of the files that runs are made from: hashed once, and which of them have changed."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from skipshift import records
from skipshift.checksums import read_sealed, sha256, write_sealed
from skipshift.data.manifest import folder_of
from skipshift.errors import unreadable
from skipshift.progress import Progress, silent
from skipshift.study_specs import StudySpec

WEIGHTS = "encoder_weights"
"""Name of the file of encoder weights among the files."""

Files = Mapping[str, Sequence[int | str]]
"""Path below the manifest's folder -> size, time of the last change in ns, and SHA-256."""


@dataclass(frozen=True)
class Contents:
    """Hashes of the images, masks and encoder weights of a study."""

    files: Files = field(default_factory=dict)

    cases: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Case and domain -> hashes of its image and its mask."""

    @property
    def weights(self) -> str:
        """Hash of the file of encoder weights."""
        return str(self.files[WEIGHTS][2])


def read_contents(
    spec: StudySpec, cases: pd.DataFrame, out: Path, progress: Progress = silent
) -> Contents:
    """Hash the files of a manifest's cases, but those whose size and time are as they were.

    `SkipshiftError` names a file that cannot be read.
    """
    folder = folder_of(spec.manifest)
    paths = {file: Path(file) for kind in ("image", "mask") for file in cases[kind]}
    names = {file: path.relative_to(folder).as_posix() for file, path in paths.items()}
    wanted = {names[file]: path for file, path in paths.items()}
    if spec.training.encoder_weights not in (None, "imagenet"):
        wanted[WEIGHTS] = Path(str(spec.training.encoder_weights))
    known = _known(out)
    files: dict[str, list[int | str]] = {name: [*_state(path), ""] for name, path in wanted.items()}
    for name, stamp in files.items():
        if name in known and list(known[name][:2]) == stamp[:2]:
            stamp[2] = known[name][2]
    stale = [name for name, stamp in files.items() if not stamp[2]]
    with ThreadPoolExecutor() as pool:
        hashes: Iterable[str] = pool.map(lambda name: sha256(wanted[name]), stale)
        shown = progress(hashes, "hash files", len(stale)) if stale else ()
        for name, digest in zip(stale, shown, strict=True):
            files[name][2] = digest
    keys = zip(cases["case"], cases["domain"], cases["image"], cases["mask"], strict=True)
    digests = {
        (case, domain): f"{files[names[image]][2]} {files[names[mask]][2]}"
        for case, domain, image, mask in keys
    }
    return Contents(files, digests)


def changed_files(out: Path, now: Contents) -> list[str]:
    """Name the files whose content is not the one that a study's folder knows, or not known."""
    known = _known(out)
    return [n for n, stamp in now.files.items() if n not in known or known[n][2] != stamp[2]]


def write_contents(out: Path, now: Contents) -> None:
    """Keep the hashes in a study's folder."""
    if _known(out) != dict(now.files):
        write_sealed(out / records.CONTENTS, {"files": now.files})


def _known(out: Path) -> Files:
    kept: dict[str, Files] = read_sealed(out / records.CONTENTS) or {}
    return kept.get("files", {})


def _state(path: Path) -> list[int]:
    try:
        state = path.stat()
    except OSError as error:
        raise unreadable(path, "a file", error) from None
    return [state.st_size, state.st_mtime_ns]
