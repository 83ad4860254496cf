"""Inputs of a search for remedies by name: folders, manifests and shifts, with masks if any."""

import hashlib
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import nn

from skipshift.data.batches import Batches, stack_cases
from skipshift.data.images import Pixels
from skipshift.data.preprocess import Preprocess, preprocess_of
from skipshift.data.sources import ImageSet, read_labelled, read_set, shift_set
from skipshift.errors import SkipshiftError
from skipshift.names import MOST_CLASSES, parse_shift
from skipshift.profile.fingerprints import Fingerprint
from skipshift.profile.inputs import is_fingerprint, read_matching


class RemedyInputs(NamedTuple):
    """The reference and the shifted set, in this order."""

    images: tuple[Batches | Fingerprint, Batches]

    masks: tuple[Pixels | None, Pixels | None]
    """(N, H, W) each; None for a folder or a fingerprint."""

    groups: tuple[tuple[str, ...] | None, tuple[str, ...]]

    paired: bool
    """Whether the shifted images are a shift of the reference's."""

    spacing: tuple[float, ...]
    """Height and width of a pixel of the shifted images over those of the reference, by the medians
    of the manifests' column ``spacing``; empty where it is not known."""

    def digest(self) -> str:
        """Hash of images, masks, groups and spacing."""
        found = hashlib.sha256(repr((self.groups, self.spacing)).encode())
        pixels = (
            (each.counts, each.low, each.high) if isinstance(each, Fingerprint) else (each.images,)
            for each in self.images
        )
        parts: list[npt.NDArray[Any] | None] = [*chain.from_iterable(pixels), *self.masks]
        for part in parts:
            if part is not None:
                found.update(repr((part.shape, part.dtype.str)).encode())
                found.update(np.ascontiguousarray(part).data)
        return found.hexdigest()


class _Side(NamedTuple):
    images: ImageSet
    masks: Pixels | None
    spacing: tuple[float, ...]

    def batches(self, preprocess: Preprocess, size: int) -> Batches:
        return Batches(self.images.images, preprocess, size)


def read_inputs(
    net: nn.Module,
    names: tuple[str, str],
    preprocess: str = "unit",
    crop: int | None = None,
    batch_size: int = 8,
    ignore: int | None = None,
) -> RemedyInputs:
    """Read both sets; the second may be a shift of the first, e.g. ``brightness:0.75``.

    A manifest brings its masks, a folder has none. The first may be a fingerprint. `SkipshiftError`
    names the file at fault.
    """
    function, classes = preprocess_of(preprocess), getattr(net, "classes", MOST_CLASSES)
    paired = parse_shift(names[1]) is not None
    if is_fingerprint(names[0]):
        if paired:
            raise SkipshiftError(f"{names[0]}: is a fingerprint, and {names[1]} needs images")
        away = _read(names[1], classes, crop, ignore)
        return RemedyInputs(
            (
                read_matching(names[0], preprocess),
                Batches(away.images.images, function, batch_size),
            ),
            (None, away.masks),
            (None, away.images.groups),
            False,
            (),
        )
    home = _read(names[0], classes, crop, ignore)
    if paired:
        away = home._replace(images=shift_set(home.images, names[1]))
    else:
        away = _read(names[1], classes, crop, ignore)
    return RemedyInputs(
        (home.batches(function, batch_size), away.batches(function, batch_size)),
        (home.masks, away.masks),
        (home.images.groups, away.images.groups),
        paired,
        _apart(home.spacing, away.spacing),
    )


def _read(name: str, classes: int, crop: int | None, ignore: int | None) -> _Side:
    if Path(name.partition("#")[0]).is_dir() or not name.partition("#")[0].endswith(".csv"):
        return _Side(read_set(name, crop), None, ())
    cases = read_labelled(name, classes, crop, ignore)
    images, masks, groups = stack_cases(cases)
    spacings = [case.spacing for case in cases]
    known = [spacing for spacing in spacings if spacing is not None]
    middle = tuple(np.median(known, 0).tolist()) if len(known) == len(spacings) else ()
    return _Side(ImageSet(images, tuple(groups)), masks, middle)


def _apart(home: tuple[float, ...], away: tuple[float, ...]) -> tuple[float, ...]:
    if not home or not away:
        return ()
    return tuple(float(other / own) for own, other in zip(home, away, strict=True))
