"""Inputs of a search for remedies by name: folders, manifests and shifts, with masks if any."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from skipshift.data.batches import Batches, stack_cases
from skipshift.data.images import Pixels
from skipshift.data.preprocess import preprocess_of
from skipshift.data.sources import ImageSet, read_labelled, read_set, shift_set
from skipshift.names import MOST_CLASSES, parse_shift


class RemedyInputs(NamedTuple):
    """The reference and the shifted set, in this order."""

    images: tuple[Batches, Batches]

    masks: tuple[Pixels | None, Pixels | None]
    """(N, H, W) each; None for a folder."""

    groups: tuple[tuple[str, ...], tuple[str, ...]]

    paired: bool
    """Whether the shifted images are a shift of the reference's."""

    def digest(self) -> str:
        """Hash of images, masks and groups."""
        found = hashlib.sha256(repr(self.groups).encode())
        for part in (*(each.images for each in self.images), *self.masks):
            if part is not None:
                found.update(repr((part.shape, part.dtype.str)).encode())
                found.update(np.ascontiguousarray(part).data)
        return found.hexdigest()


def read_inputs(
    net: nn.Module,
    names: tuple[str, str],
    preprocess: str = "unit",
    crop: int | None = None,
    batch_size: int = 8,
    ignore: int | None = None,
) -> RemedyInputs:
    """Read both sets; the second may be a shift of the first, e.g. ``brightness:0.75``.

    A manifest brings its masks, a folder has none. `SkipshiftError` names the file at fault.
    """
    function, classes = preprocess_of(preprocess), getattr(net, "classes", MOST_CLASSES)
    reference, masks = _read(names[0], classes, crop, ignore)
    paired = parse_shift(names[1]) is not None
    shifted, others = (
        (shift_set(reference, names[1]), masks)
        if paired
        else _read(names[1], classes, crop, ignore)
    )
    batches = tuple(Batches(each.images, function, batch_size) for each in (reference, shifted))
    return RemedyInputs(
        (batches[0], batches[1]), (masks, others), (reference.groups, shifted.groups), paired
    )


def _read(
    name: str, classes: int, crop: int | None, ignore: int | None
) -> tuple[ImageSet, Pixels | None]:
    if Path(name.partition("#")[0]).is_dir() or not name.partition("#")[0].endswith(".csv"):
        return read_set(name, crop), None
    images, masks, groups = stack_cases(read_labelled(name, classes, crop, ignore))
    return ImageSet(images, tuple(groups)), masks
