"""Judging of one change: counts, predictions and features, on images that it was not fitted on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import numpy.typing as npt

from skipshift.errors import ArgumentError
from skipshift.networks.feature_store import FeatureStore
from skipshift.page.remedy_sentences import unjudged
from skipshift.remedies.gathering import Folded
from skipshift.remedies.last_layer import Measured, last_layer
from skipshift.remedies.passes import NULL, Fitted, Labels, Passes, Seen, relabelled
from skipshift.remedies.places import Place
from skipshift.remedies.setting import Setting
from skipshift.statistics.excess import Excess
from skipshift.statistics.recovery import Counts
from skipshift.statistics.resampling import p_value

_MISSING = 0.05
"""A class has all but gone where its share is below this part of its share on the reference."""

_RARE = 1e-3
"""Share of the reference's pixels below which a class may go missing."""


Offered = npt.NDArray[np.bool_] | None
"""(folds,): those whose others offer a pair; None for a single remedy."""


@dataclass(frozen=True)
class Judged:
    """What a change does on both sets; every image is judged by a fit that did not see its fold."""

    counts: Counts
    """(groups, classes, 3) on the shifted set; all 0 without masks."""

    home: Counts
    """Likewise on the reference, by the change that was fitted on all shifted images; of no group
    where that has no images, or was not run on."""

    pixels: npt.NDArray[np.int64]
    """(classes,): predicted pixels on the shifted set."""

    home_pixels: npt.NDArray[np.int64]
    """(classes,): predicted pixels there."""

    unchanged: float
    """Share of the reference's pixels whose label is that of the unmended network; NaN without."""

    relabelled: float
    """1 - IoU of the labels there before and after, mean over the foreground; NaN without."""

    squares: npt.NDArray[np.float64]
    """Of the excess in the last layer (`Excess.squares`); empty where it is not known."""

    kinds: npt.NDArray[np.int64]

    parameters: int
    """Numbers of the change."""

    seconds: float

    @property
    def excess(self) -> Excess | None:
        """Excess that is left in the last layer."""
        return Excess(self.squares, self.kinds, 2.0) if len(self.squares) else None


def collapsed(judged: Judged, plain: Judged) -> bool:
    """Whether a class that is predicted on the reference is all but gone on the shifted set.

    Without images of the reference, a class that the unmended network predicts on the shifted set.
    """
    known = shares_of(plain.home_pixels if plain.home_pixels.any() else plain.pixels)
    return bool(((known >= _RARE) & (shares_of(judged.pixels) < _MISSING * known)).any())


def ruined(judged: Judged, plain: Judged) -> bool:
    """Whether a class is all but gone on the reference, or it was not run there."""
    known = shares_of(plain.home_pixels)
    if not plain.home_pixels.any():
        return False
    if not judged.home_pixels.any():
        return True
    return bool(((known >= _RARE) & (shares_of(judged.home_pixels) < _MISSING * known)).any())


def shares_of(pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Share of each class; NaN where nothing was predicted."""
    total = pixels.sum()
    return pixels / total if total else np.full(len(pixels), np.nan)


class Judge:
    """Judges changes of one network.

    What the unmended network predicts, and its pooled features, are kept in ``store``; nothing else
    outlives its batch.
    """

    plain: Judged
    """The unmended network."""

    permuted: npt.NDArray[np.floating]
    """Permuted statistics of its last layer, the observed one first; empty if there is none."""

    labels: tuple[list[Labels], list[Labels]]
    """Blocks of the labels that it gives the images of the reference and of the shifted set."""

    def __init__(self, setting: Setting, store: FeatureStore) -> None:
        self.setting = setting
        self._last = last_layer(setting)
        self._passes = Passes(setting.net, setting.spec, self._last)
        self._home: Seen | None = None
        known: list[Labels] = []
        if setting.home is not None:
            self._home = _whole(self._passes(setting.home, [Fitted()], store=store))
            known = store.take("labels")
        seen = _whole(self._passes(setting.shifted.in_one, [Fitted()], store=store))
        self.labels = (known, store.take("labels"))
        self.permuted = self._measured(seen, permutations=True).permuted
        self.plain = self._judged(seen, Fitted())
        if self._home is not None:
            self.plain = self._with_home(self.plain, self._home, Fitted())

    @property
    def layer(self) -> str:
        """Name of the layer in which the excess is measured: the last; empty if none is known."""
        return self._last.name

    @property
    def p(self) -> float:
        """Permutation test of that layer; NaN if there is none."""
        return p_value(self.permuted) if len(self.permuted) else np.nan

    @property
    def unjudged(self) -> str:
        """Why nothing can be recommended by that layer, whatever it leaves; empty if it can."""
        return unjudged(self.layer, self.p, self.known)

    @property
    def known(self) -> int:
        """Groups of the reference; 0 without its images."""
        return 0 if self.setting.home is None else len(self.setting.home.folds)

    def __call__(self, tries: Sequence[Fitted], place: Place | None = None) -> list[Judged | str]:
        """Judge changes on the shifted set, or tell why one cannot run.

        ``place`` is where all of them act; None if they change what the network is given.
        """
        shifted = self.setting.shifted
        data = shifted if any(one.apart for one in tries) else shifted.in_one
        return [
            seen if isinstance(seen, str) else self._judged(seen, one)
            for seen, one in zip(self._passes(data, tries, place), tries, strict=True)
        ]

    def at_home(
        self, judged: Sequence[Judged], tries: Sequence[Fitted], place: Place | None = None
    ) -> list[Judged | str]:
        """Add what changes that were fitted on all shifted images do on the reference."""
        assert self.setting.home is not None
        before = chain.from_iterable(self.labels[0])
        found = self._passes(self.setting.home, tries, place, before)
        return [
            seen if isinstance(seen, str) else self._with_home(own, seen, one)
            for own, seen, one in zip(judged, found, tries, strict=True)
        ]

    def _judged(self, seen: Seen, one: Fitted) -> Judged:
        excess = self._measured(seen)
        return Judged(
            seen.by_group(len(self.setting.shifted.folds)),
            np.zeros((0, 2, 3), np.int64),
            seen.pixels,
            np.zeros(2, np.int64),
            np.nan,
            np.nan,
            excess.squares,
            excess.kinds,
            next(iter(one.changes.values()), NULL).parameters,
            one.seconds + seen.seconds,
        )

    def _with_home(self, judged: Judged, seen: Seen, one: Fitted) -> Judged:
        assert self.setting.home is not None
        return replace(
            judged,
            home=seen.by_group(len(self.setting.home.folds)),
            home_pixels=seen.pixels,
            unchanged=seen.kept[:, 0].sum() / seen.pixels.sum() if one.changes else np.nan,
            relabelled=relabelled(seen.kept) if one.changes else np.nan,
            seconds=judged.seconds + one.seconds + seen.seconds,
        )

    def _measured(self, seen: Seen, permutations: bool = False) -> Measured:
        setting, home = self.setting, self._home
        away = _labels(setting.shifted, seen)
        if home is None or setting.home is None:
            return self._last.measure([], seen.blocks, (np.empty(0, str), away), permutations)
        labels = (_labels(setting.home, home), away)
        return self._last.measure(home.blocks, seen.blocks, labels, permutations)


def _whole(found: Sequence[Seen | str]) -> Seen:
    """Return what the network does as it is; `ArgumentError` if it cannot run."""
    (seen,) = found
    if isinstance(seen, str):
        raise ArgumentError(seen)
    return seen


def _labels(data: Folded, seen: Seen) -> npt.NDArray[np.str_]:
    """Label of the group of each image, in the order of a pass."""
    return np.unique(data.data.groups).astype(str)[seen.codes]
