"""Inputs of activation patching by name: manifests and shifts, as batches with masks and groups."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from skipshift.data.batches import Batches
from skipshift.data.images import Pixels
from skipshift.data.preprocess import preprocess_of
from skipshift.data.sets.reading import read_found_pair
from skipshift.data.sets.sources import FoundSet, find_pair, paired_by_case
from skipshift.names import MOST_CLASSES
from skipshift.progress import Progress, silent
from skipshift.specs import CarrySpec, ReadingSpec


class LabelledInputs(NamedTuple):
    """The reference and the shifted set, in this order."""

    images: tuple[Batches, Batches]

    masks: tuple[Pixels, Pixels]
    """(N, H, W) each."""

    groups: tuple[tuple[str, ...], tuple[str, ...]]
    """(N,) each."""

    about: Mapping[str, Mapping[str, Any]]
    """Name, number of images and groups, and digest of ``reference`` and ``shifted``."""


def find_inputs(
    names: tuple[str, str], spec: CarrySpec, reading: ReadingSpec | None = None
) -> tuple[FoundSet, FoundSet]:
    """Find both sets of cases that are named; the second may be a shift of the first.

    `SkipshiftError` as in `find_pair`, and in mode paired if a case is not in both.
    """
    first, second = find_pair(*names, reading, spec.seed, labelled=True)
    return first, paired_by_case(first, second) if spec.mode == "paired" else second


def read_inputs(
    net: nn.Module,
    found: tuple[FoundSet, FoundSet],
    spec: CarrySpec,
    preprocess: str = "unit",
    progress: Progress = silent,
) -> LabelledInputs:
    """Read both sets; `SkipshiftError` names the file at fault, as `read_found` does."""
    classes = getattr(net, "classes", MOST_CLASSES)
    function = preprocess_of(preprocess)
    first, second = read_found_pair(found, classes, spec.ignore)
    reference = Batches(first.images, function, spec.batch_size)
    shifted = Batches(second.images, function, spec.batch_size, "carry", progress)
    assert first.masks is not None and second.masks is not None  # noqa: PT018
    masks = first.masks, second.masks
    about = {"reference": found[0].about(first), "shifted": found[1].about(second)}
    return LabelledInputs((reference, shifted), masks, (first.groups, second.groups), about)
