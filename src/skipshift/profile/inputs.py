"""Inputs of a profile or fingerprint by name: folders, manifests, shifts and fingerprint files."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from skipshift.data.batches import Batches
from skipshift.data.preprocess import preprocess_of
from skipshift.data.sources import ImageSet, read_pair, read_set
from skipshift.errors import SkipshiftError
from skipshift.names import FINGERPRINTS, parse_shift
from skipshift.profile.fingerprints import Fingerprint, read_fingerprint
from skipshift.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How images are read and preprocessed."""

    preprocess: str = "unit"
    """A name that `skipshift.data.preprocess.preprocess_of` knows."""

    crop: int | None = None
    """Side of a centred crop, a multiple of 32; None for whole images."""

    volumes: bool = False
    """Take a volume as one image, not slice by slice."""

    batch_size: int = 8
    """Images per forward pass."""


class InputSet(NamedTuple):
    """One of the sets that a profile compares."""

    images: Batches | Fingerprint

    groups: tuple[str, ...] | None
    """(N,) label of each image's group; None for a fingerprint, which has its own."""


def read_input(
    name: str, how: Reading, label: str = "images", progress: Progress = silent
) -> InputSet:
    """Read one set: images with their groups, or fingerprints with commas between them.

    `SkipshiftError` if it cannot be read, or if a fingerprint was made with another preprocessing.
    """
    if is_fingerprint(name):
        return InputSet(read_matching(name, how.preprocess), None)
    return _batched(read_set(name, how.crop, how.volumes), how, label, progress)


def read_inputs(
    reference: str, shifted: str, how: Reading, progress: Progress = silent
) -> tuple[InputSet, InputSet]:
    """Read the reference and the shifted set; the second may be a shift of the first's images.

    `SkipshiftError` as for `read_input`, or if images of the two differ in size, or if a shift is
    to be applied to a fingerprint.
    """
    names = (reference, shifted)
    if not any(map(is_fingerprint, names)):
        sets = read_pair(reference, shifted, how.crop, how.volumes)
        first, second = (
            _batched(images, how, label, progress)
            for images, label in zip(sets, ("reference", "shifted"), strict=True)
        )
        return first, second
    if parse_shift(shifted):
        raise SkipshiftError(f"{reference}: is a fingerprint, and {shifted} needs images to change")
    first, second = (
        read_input(name, how, label, progress)
        for name, label in zip(names, ("reference", "shifted"), strict=True)
    )
    return first, second


def is_fingerprint(name: str) -> bool:
    """Whether a name is that of fingerprint files, by its ending."""
    return name.endswith(FINGERPRINTS)


def read_matching(name: str, preprocess: str) -> Fingerprint:
    """Read fingerprints; `SkipshiftError` unless they were made with this preprocessing."""
    try:
        fingerprint = read_fingerprint(name)
    except SkipshiftError:
        for path in map(Path, name.split(",")):
            _check_fingerprint(path)
        raise
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


def _batched(images: ImageSet, how: Reading, label: str, progress: Progress) -> InputSet:
    function = preprocess_of(how.preprocess)
    return InputSet(
        Batches(images.images, function, how.batch_size, label, progress), images.groups
    )


def describe(fingerprint: Fingerprint, groups: Sequence[str] | None) -> str:
    """Say what a fingerprint holds, and how many of the groups it was made of did not fit."""
    most = max(fingerprint.outside().values())
    text = f"{fingerprint}; at most {most:.1%} of a layer's values lie beyond the edges"
    left = 0 if groups is None else len(set(groups)) - int(fingerprint.groups.sum())
    return f"{text}; groups left out, too few for another part: {left}" if left else text
