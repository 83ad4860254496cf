"""Inputs of a search for remedies by name: folders, manifests and shifts, with masks if any."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from skipshift.data.batches import Batches
from skipshift.data.images import Pixels
from skipshift.data.preprocess import preprocess_of
from skipshift.data.sets.reading import read_found_pair
from skipshift.data.sets.sources import FoundSet
from skipshift.names import MOST_CLASSES


class RemedyInputs(NamedTuple):
    """The reference and the shifted set, in this order."""

    images: tuple[Batches, Batches]

    masks: tuple[Pixels | None, Pixels | None]
    """(N, H, W) each; None for a folder."""

    groups: tuple[tuple[str, ...], tuple[str, ...]]

    paired: bool
    """Whether the shifted images are a shift of the reference's."""

    about: Mapping[str, Mapping[str, Any]]
    """Name, number of images and groups, and digest of ``reference`` and ``shifted``."""


def read_inputs(
    net: nn.Module,
    found: tuple[FoundSet, FoundSet],
    preprocess: str = "unit",
    batch_size: int = 8,
    ignore: int | None = None,
) -> RemedyInputs:
    """Read both sets that `find_pair` found.

    A manifest brings its masks, a folder has none. `SkipshiftError` names the file at fault.
    """
    function, classes = preprocess_of(preprocess), getattr(net, "classes", MOST_CLASSES)
    first, second = read_found_pair(found, classes, ignore)
    return RemedyInputs(
        (Batches(first.images, function, batch_size), Batches(second.images, function, batch_size)),
        (first.masks, second.masks),
        (first.groups, second.groups),
        found[1].shift is not None,
        {"reference": found[0].about(first), "shifted": found[1].about(second)},
    )
