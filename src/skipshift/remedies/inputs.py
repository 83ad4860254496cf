"""Inputs of a search for remedies: sets that were found, read with their masks if they have any."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from skipshift.data.batches import Batches
from skipshift.data.images import Pixels
from skipshift.data.preprocess import preprocess_of
from skipshift.data.sets.reading import read_found, read_found_pair
from skipshift.data.sets.sources import FoundSet
from skipshift.errors import SkipshiftError
from skipshift.names import MOST_CLASSES
from skipshift.profile.fingerprints import Fingerprint
from skipshift.profile.inputs import Named, fingerprint_input


class RemedyInputs(NamedTuple):
    """The reference and the shifted set, in this order."""

    images: tuple[Batches | Fingerprint, Batches]

    masks: tuple[Pixels | None, Pixels | None]
    """(N, H, W) each; None for a folder or a fingerprint."""

    groups: tuple[tuple[str, ...] | None, tuple[str, ...]]

    paired: bool
    """Whether the shifted images are a shift of the reference's."""

    about: Mapping[str, Mapping[str, Any]]
    """Name, number of images and groups, and digest of ``reference`` and ``shifted``."""

    spacing: tuple[float, ...]
    """Height and width of a pixel of the shifted images over those of the reference, by the medians
    of the manifests' column ``spacing``; empty where it is not known."""


def read_inputs(
    net: nn.Module,
    found: tuple[Named, Named],
    preprocess: str = "unit",
    batch_size: int = 8,
    ignore: int | None = None,
) -> RemedyInputs:
    """Read both sets that `skipshift.profile.inputs.find_inputs` found.

    A manifest brings its masks, a folder has none. The first may be a fingerprint. `SkipshiftError`
    names the file at fault, or a second set that is a fingerprint.
    """
    function, classes = preprocess_of(preprocess), getattr(net, "classes", MOST_CLASSES)
    reference, shifted = found
    if isinstance(shifted, str):
        raise SkipshiftError(f"{shifted}: is a fingerprint; give the shifted images themselves")
    if isinstance(reference, str):
        known = fingerprint_input(reference, preprocess)
        second = read_found(shifted, classes, ignore)
        return RemedyInputs(
            (known.images, Batches(second.images, function, batch_size)),
            (None, second.masks),
            (None, second.groups),
            False,
            {"reference": known.about, "shifted": shifted.about(second)},
            (),
        )
    first, second = read_found_pair((reference, shifted), classes, ignore)
    return RemedyInputs(
        (Batches(first.images, function, batch_size), Batches(second.images, function, batch_size)),
        (first.masks, second.masks),
        (first.groups, second.groups),
        shifted.shift is not None,
        {"reference": reference.about(first), "shifted": shifted.about(second)},
        _apart(reference, shifted),
    )


def _apart(home: FoundSet, away: FoundSet) -> tuple[float, ...]:
    if not home.spacing or not away.spacing:
        return ()
    return tuple(float(other / own) for own, other in zip(home.spacing, away.spacing, strict=True))
