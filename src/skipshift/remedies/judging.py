"""Judging of one change: counts, predictions and features, on images that it was not fitted on."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skipshift.networks.changes import Change
from skipshift.networks.feature_store import FeatureStore
from skipshift.networks.hooks import captured
from skipshift.networks.inference import labels_of
from skipshift.networks.pooling import cells_of, pooled, vectors
from skipshift.remedies.gathering import Folded
from skipshift.remedies.last_layer import Measured, last_layer
from skipshift.remedies.setting import Fit, Setting
from skipshift.statistics.counts import count
from skipshift.statistics.excess import Excess
from skipshift.statistics.recovery import Counts

NULL = Change()
"""The network as it is."""


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


@dataclass(frozen=True)
class _Seen:
    """One pass over a set."""

    counts: Counts
    pixels: npt.NDArray[np.int64]

    unchanged: float
    """Share of the pixels whose label is that of the unmended network; NaN where not compared."""

    blocks: list[npt.NDArray[np.float32]]
    groups: npt.NDArray[np.int64]
    """(N,): index of each image's group, in the order of the pass."""


_UNSEEN = _Seen(np.zeros((0, 2, 3), np.int64), np.zeros(2, np.int64), np.nan, [], np.zeros(0, int))


class Judge:
    """Judges changes of one network.

    What the unmended network predicts on the reference, and its pooled features, are kept in
    ``store``; nothing else outlives its batch.
    """

    plain: Judged
    """The unmended network."""

    permuted: npt.NDArray[np.floating]
    """Permuted statistics of its last layer, the observed one first; empty if there is none."""

    def __init__(self, setting: Setting, store: FeatureStore) -> None:
        self.setting = setting
        self._last = last_layer(setting)
        self._labels: list[npt.NDArray[np.uint8]] = []
        self._home = _UNSEEN
        if setting.home is not None:
            self._home = self._pass(setting.home, lambda _fold: NULL, store)
            self._labels = store.take("labels")
        start = time.perf_counter()
        seen = self._pass(setting.shifted.in_one, lambda _fold: NULL)
        self.permuted = self._measured(seen, permutations=True).permuted
        self.plain = self._judged(seen, self._home, NULL, start)

    @property
    def layer(self) -> str:
        """Name of the layer in which the excess is measured: the last; empty if none is known."""
        return self._last.name

    def __call__(
        self, fit: Fit, weight: float, fitted: bool, start: float, folds: Offered = None
    ) -> Judged:
        """Judge a remedy on the shifted set; ``fitted`` ones are fitted anew without each fold.

        On other folds than ``folds`` it stands for the network as it is.
        """
        data = self.setting.shifted if fitted or folds is not None else self.setting.shifted.in_one
        own = range(data.number) if folds is None else np.flatnonzero(folds).tolist()
        changes = {fold: fit(fold if fitted else None, weight) for fold in own}
        seen = self._pass(data, lambda fold: changes.get(fold, NULL))
        return self._judged(seen, _UNSEEN, changes[own[0]], start)

    def at_home(self, judged: Judged, change: Change, start: float) -> Judged:
        """Add what a change that was fitted on all shifted images does on the reference."""
        assert self.setting.home is not None
        home = self._pass(self.setting.home, lambda _fold: change)
        seconds = judged.seconds + time.perf_counter() - start
        return replace(
            judged,
            home=home.counts,
            home_pixels=home.pixels,
            unchanged=home.unchanged,
            seconds=seconds,
        )

    def _judged(self, seen: _Seen, home: _Seen, change: Change, start: float) -> Judged:
        excess = self._measured(seen)
        return Judged(
            seen.counts,
            home.counts,
            seen.pixels,
            home.pixels,
            home.unchanged,
            excess.squares,
            excess.kinds,
            change.parameters,
            time.perf_counter() - start,
        )

    def _measured(self, seen: _Seen, permutations: bool = False) -> Measured:
        labels = tuple(
            np.empty(0, str) if data is None else np.unique(data.data.groups).astype(str)[of.groups]
            for data, of in ((self.setting.home, self._home), (self.setting.shifted, seen))
        )
        return self._last.measure(
            self._home.blocks, seen.blocks, (labels[0], labels[1]), permutations
        )

    def _pass(
        self, data: Folded, change_of: Callable[[int], Change], store: FeatureStore | None = None
    ) -> _Seen:
        """Run over a set; with a ``store`` its labels go there, for later passes to compare."""
        net, spec = self.setting.net, self.setting.spec
        counts, pixels, groups = None, np.zeros(0, np.int64), []
        blocks: list[npt.NDArray[np.float32]] = []
        before, same, total = chain.from_iterable(self._labels), 0, 0
        rng = np.random.default_rng(spec.seed)

        def pool(_name: str, value: Tensor) -> npt.NDArray[np.float32]:
            # flips of the same images come behind them
            maps = pooled(value[: len(batch)].float(), cells, self._last.pooling, rng)
            return vectors(maps).cpu().contiguous().numpy()

        with torch.no_grad():
            for fold, batch, masks, codes in data.batches(net, spec.batch_size):
                cells = cells_of(batch)
                with captured(net, self._last.addresses, pool) as features:
                    logits = change_of(fold).logits(net, batch)
                if counts is None:
                    pixels = np.zeros(max(2, logits.shape[1]), np.int64)
                    counts = np.zeros((len(data.folds), len(pixels), 3), np.int64)
                own = labels_of(logits)
                pixels += np.bincount(own.ravel(), minlength=len(pixels))
                if masks is not None:
                    flat = [array.reshape(len(array), array.shape[1], -1) for array in (masks, own)]
                    np.add.at(counts, codes, count(flat[0], flat[1], len(pixels), spec.ignore))
                if store is not None:
                    store.add("labels", own)
                elif data is self.setting.home:
                    same += sum(int((a == b).sum()) for a, b in zip(own, before, strict=False))
                total += own.size
                blocks.extend(features.values())
                groups.append(codes)
        assert counts is not None
        unchanged = same / total if store is None and data is self.setting.home else np.nan
        return _Seen(counts, pixels, unchanged, blocks, np.concatenate(groups))
