"""What remedies are fitted on, and the form that each of them has."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn

from skipshift.networks.changes import Change
from skipshift.networks.outputs import Output
from skipshift.patching.labelled import Labelled
from skipshift.profile.fingerprints import Fingerprint
from skipshift.remedies.gathering import Folded, Gathered, Sums, gather, has_statistics, norm_sums
from skipshift.remedies.places import Place
from skipshift.specs import RemedySpec


@dataclass(frozen=True)
class Setting:
    """A network in evaluation mode, and the sets on which changes of it are fitted."""

    net: nn.Module

    places: tuple[Place, ...]

    reference: Folded | Fingerprint
    """In one fold: its images are all there when a change is fitted. Or a fingerprint of it."""

    shifted: Folded

    labelled: Labelled | None
    """Images of the shifted set with masks, set aside for fitting; None without."""

    known: Gathered
    """Statistics of the reference."""

    size: tuple[int, ...]
    """(C, *sides) of an image, or a volume."""

    spec: RemedySpec

    output: Output
    """Where the network's logits are."""

    spacing: tuple[float, ...] = ()
    """Spacing of the shifted images over that of the reference, of each side; empty: not known."""

    classes: tuple[str, ...] = ()
    """Names of the classes; empty if they are not known."""

    @property
    def sides(self) -> int:
        """Sides of an image: 2, or 3 of a volume."""
        return len(self.size) - 1

    @property
    def home(self) -> Folded | None:
        """Images of the reference, if there are any."""
        return None if isinstance(self.reference, Fingerprint) else self.reference

    @cached_property
    def seen(self) -> Gathered:
        """Statistics of the shifted set, pooled as those of the reference are."""
        return gather(self.net, self.places, self.shifted, self.spec, self.known.pooling)

    @cached_property
    def _every_norm(self) -> Mapping[str, Sums]:
        return norm_sums(self.net, self._norm_names, self.shifted, self.spec.batch_size)

    @property
    def _norm_names(self) -> tuple[str, ...]:
        """Batch norms of the network in the order in which they run."""
        ran = self.places[-1].modules
        return tuple(name for name in ran if has_statistics(self.net.get_submodule(name)))

    def norms(self, names: tuple[str, ...]) -> Mapping[str, Sums]:
        """Add up what batch norms read of the shifted set, each behind those already recomputed.

        The first norms of a network read the same whether those behind them are recomputed or not.
        """
        if names == self._norm_names[: len(names)]:
            return self._every_norm
        return norm_sums(self.net, names, self.shifted, self.spec.batch_size)

    def behind(self, change: Change, place: Place, without: int | None) -> "Setting":
        """Put a change of the input, fitted without a fold, before all that is fitted at a place.

        The images of that fold are left out.
        """
        shifted = replace(self.shifted, before=change, without=without)
        return replace(self, shifted=shifted, places=(place,))


JOIN = "+"
"""Joins the names of a pair of remedies, and of their places."""

Fit = Callable[[int | None, float], Change]
"""Fold to leave out, or None to fit on all, and weight -> the change."""


@dataclass(frozen=True)
class Remedy:
    """One way to change a network at a place."""

    name: str

    offer: Callable[[Setting, Place], Fit | None]
    """Prepare to fit at a place; None where the remedy has nothing to change there, or what it
    needs to know of the reference is not known."""

    weights: tuple[float, ...] = (1.0,)
    """Weights to try; cross-fitting chooses."""

    fitted: bool = True
    """Whether it is fitted on unlabelled images of the shifted set, so differs between folds."""

    labelled: bool = False
    """Whether it needs labelled images."""
