"""What remedies are fitted on, and the form that each of them has."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from skipshift.networks.changes import Change
from skipshift.networks.outputs import Output
from skipshift.patching.labelled import Labelled
from skipshift.remedies.gathering import Folded, Gathered
from skipshift.remedies.places import Place
from skipshift.specs import RemedySpec


@dataclass(frozen=True)
class Setting:
    """A network in evaluation mode, and the sets on which changes of it are fitted."""

    net: nn.Module

    places: tuple[Place, ...]

    reference: Folded
    """In one fold: its images are all there when a change is fitted."""

    shifted: Folded

    labelled: Labelled | None
    """Images of the shifted set with masks, set aside for fitting; None without."""

    known: Gathered
    """Statistics of the reference."""

    seen: Gathered
    """Statistics of the shifted set."""

    sides: int
    """Sides of an image: 2, or 3 of a volume."""

    spec: RemedySpec

    output: Output
    """Where the network's logits are."""


Fit = Callable[[int | None, float], Change]
"""Fold to leave out, or None to fit on all, and weight -> the change."""


@dataclass(frozen=True)
class Remedy:
    """One way to change a network at a place."""

    name: str

    offer: Callable[[Setting, Place], Fit | None]
    """Prepare to fit at a place; None where the remedy has nothing to change."""

    weights: tuple[float, ...] = (1.0,)
    """Weights to try; cross-fitting chooses."""

    fitted: bool = True
    """Whether it is fitted on unlabelled images of the shifted set, so differs between folds."""

    labelled: bool = False
    """Whether it needs labelled images."""
