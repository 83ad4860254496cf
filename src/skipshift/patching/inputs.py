"""Inputs of activation patching by name: manifests and shifts, as batches with masks and groups."""

from typing import NamedTuple

from torch import nn

from skipshift.data.batches import Batches, stack_cases
from skipshift.data.images import Pixels
from skipshift.data.preprocess import preprocess_of
from skipshift.data.sources import read_labelled_pair
from skipshift.names import MOST_CLASSES
from skipshift.progress import Progress, silent
from skipshift.specs import CarrySpec


class LabelledInputs(NamedTuple):
    """The reference and the shifted set, in this order."""

    images: tuple[Batches, Batches]

    masks: tuple[Pixels, Pixels]
    """(N, H, W) each."""

    groups: tuple[list[str], list[str]]
    """(N,) each."""


def read_inputs(
    net: nn.Module,
    names: tuple[str, str],
    spec: CarrySpec,
    preprocess: str = "unit",
    crop: int | None = None,
    progress: Progress = silent,
) -> LabelledInputs:
    """Read both sets of cases that are named; the second may be a shift of the first.

    `SkipshiftError` names the file or case at fault, as `read_labelled_pair` does.
    """
    classes = getattr(net, "classes", MOST_CLASSES)
    function = preprocess_of(preprocess)
    paired = spec.mode == "paired"
    first, second = map(stack_cases, read_labelled_pair(*names, classes, crop, paired, spec.ignore))
    reference = Batches(first[0], function, spec.batch_size)
    shifted = Batches(second[0], function, spec.batch_size, "carry", progress)
    return LabelledInputs((reference, shifted), (first[1], second[1]), (first[2], second[2]))
