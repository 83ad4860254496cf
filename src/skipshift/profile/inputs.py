"""Inputs of a profile or fingerprint by name: folders, manifests, shifts and fingerprint files."""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

from skipshift.data.batches import Batches
from skipshift.data.preprocess import preprocess_of
from skipshift.data.sets.reading import read_found, read_found_pair
from skipshift.data.sets.sources import FoundSet, ImageSet, find_pair, find_set
from skipshift.errors import SkipshiftError
from skipshift.names import FINGERPRINTS, parse_shift
from skipshift.profile.fingerprints import Fingerprint, read_fingerprint
from skipshift.progress import Progress, silent
from skipshift.specs import ReadingSpec
from skipshift.statistics.multiplicity import ALPHA

Named = FoundSet | str
"""Images that were found, or names of fingerprint files."""


class InputSet(NamedTuple):
    """One of the sets that a profile compares."""

    images: Batches | Fingerprint

    groups: tuple[str, ...] | None
    """(N,) label of each image's group; None for a fingerprint, which has its own."""

    about: Mapping[str, Any]
    """Name, number of images and groups, digest."""


def find_input(name: str, reading: ReadingSpec, seed: int = 0) -> Named:
    """Find one set: images, or fingerprints with commas between them, which keep their names.

    `SkipshiftError` as in `find_set`, and for a file that is no fingerprint.
    """
    if not is_fingerprint(name):
        return find_set(name, reading, seed)
    for path in map(Path, name.split(",")):
        _check_fingerprint(path)
    return name


def find_inputs(
    reference: str, shifted: str, reading: ReadingSpec, seed: int = 0, one_size: bool = True
) -> tuple[Named, Named]:
    """Find the reference and the shifted set; the second may be a shift of the first's images.

    `SkipshiftError` as for `find_pair`, or if a shift is to be applied to a fingerprint.
    """
    if not any(map(is_fingerprint, (reference, shifted))):
        return find_pair(reference, shifted, reading, seed, one_size=one_size)
    if parse_shift(shifted):
        raise SkipshiftError(f"{reference}: is a fingerprint, and {shifted} needs images to change")
    return find_input(reference, reading, seed), find_input(shifted, reading, seed)


def read_input(
    found: Named,
    preprocess: str = "unit",
    batch_size: int = 8,
    label: str = "images",
    progress: Progress = silent,
) -> InputSet:
    """Read one set: images with their groups, or fingerprints.

    `SkipshiftError` if it cannot be read, or if a fingerprint was made with another preprocessing.
    """
    if isinstance(found, str):
        return fingerprint_input(found, preprocess)
    return _batched(found, read_found(found), preprocess, batch_size, label, progress)


def read_inputs(
    found: tuple[Named, Named],
    preprocess: str = "unit",
    batch_size: int = 8,
    progress: Progress = silent,
) -> tuple[InputSet, InputSet]:
    """Read the reference and the shifted set; `SkipshiftError` as for `read_input`."""
    reference, shifted = found
    how = (preprocess, batch_size)
    if isinstance(reference, FoundSet) and isinstance(shifted, FoundSet):
        one, other = read_found_pair((reference, shifted))
        return (
            _batched(reference, one, *how, "reference", progress),
            _batched(shifted, other, *how, "shifted", progress),
        )
    return (
        read_input(reference, *how, "reference", progress),
        read_input(shifted, *how, "shifted", progress),
    )


def fingerprint_input(name: str, preprocess: str) -> InputSet:
    """Read fingerprints as a set; `SkipshiftError` as for `read_matching`."""
    found = read_matching(name, preprocess)
    number = {"images": int(found.images.sum()), "groups": int(found.groups.sum())}
    digest = hashlib.sha256(found.counts.tobytes()).hexdigest()
    return InputSet(found, None, {"name": name, **number, "unit": str(found), "digest": digest})


def _batched(
    found: FoundSet,
    images: ImageSet,
    preprocess: str,
    batch_size: int,
    label: str,
    progress: Progress,
) -> InputSet:
    batches = Batches(images.images, preprocess_of(preprocess), batch_size, label, progress)
    return InputSet(batches, images.groups, found.about(images))


def is_fingerprint(name: str) -> bool:
    """Whether a name is that of fingerprint files, by its ending."""
    return name.endswith(FINGERPRINTS)


def read_matching(name: str, preprocess: str) -> Fingerprint:
    """Read fingerprints; `SkipshiftError` unless they were made with this preprocessing."""
    fingerprint = read_fingerprint(name)
    made = fingerprint.making.preprocess
    if made != preprocess:
        raise SkipshiftError(
            f"{name}: was made with preprocess {made}, not {preprocess}; add --preprocess {made}"
        )
    return fingerprint


def _check_fingerprint(path: Path) -> None:
    """Raise a `SkipshiftError` for a file that is absent, or another one than a fingerprint."""
    if not path.exists():
        raise SkipshiftError(f"{path}: does not exist; give a fingerprint, or images")
    try:
        if path.suffix == ".json":
            values = json.loads(path.read_text(encoding="utf-8"))
            made = isinstance(values, dict) and "making" in values
        else:
            with zipfile.ZipFile(path) as archive:
                made = "about.npy" in archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        made = False
    if not made:
        raise SkipshiftError(f"{path}: is not a fingerprint; make one with skipshift fingerprint")


def describe(fingerprint: Fingerprint, groups: Sequence[str] | None) -> str:
    """Say what a fingerprint holds, and how many of the groups it was made of did not fit."""
    most = max(fingerprint.outside().values())
    text = f"{fingerprint}; at most {most:.1%} of a layer's values lie beyond the edges"
    left = 0 if groups is None else len(set(groups)) - int(fingerprint.groups.sum())
    text += f"; groups left out, too few for another part: {left}" if left else ""
    parts = len(fingerprint.groups)
    least = 2 / comb(2 * parts, parts)
    if least < ALPHA:
        return text
    return (
        f"{text}; two fingerprints of {parts} parts allow no verdict (p at least {least:.2g}): "
        f"take more groups, or smaller parts (--part)"
    )
