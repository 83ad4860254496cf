"""Judging of one change: counts, predictions and features, on images that it was not fitted on."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skipshift.names import STRIDE
from skipshift.networks.changes import Change
from skipshift.networks.features import as_input, input_like
from skipshift.networks.hooks import captured
from skipshift.networks.inference import labels_of
from skipshift.networks.pooling import POOLINGS, vectors
from skipshift.profile.layerwise import Draws, compare, draw
from skipshift.remedies.gathering import Folded
from skipshift.remedies.setting import Fit, Setting
from skipshift.specs import ProfileSpec
from skipshift.statistics.counts import count
from skipshift.statistics.excess import Excess
from skipshift.statistics.recovery import Counts

NULL = Change()
"""The network as it is."""

_QUICK = ProfileSpec(permutation_draws=0)


@dataclass(frozen=True)
class Judged:
    """What a change does on both sets; every image is judged by a fit that did not see its fold."""

    counts: Counts
    """(groups, classes, 3) on the shifted set; all 0 without masks."""

    home: Counts
    """Likewise on the reference, by the change that was fitted on all shifted images."""

    pixels: npt.NDArray[np.int64]
    """(classes,): predicted pixels on the shifted set."""

    home_pixels: npt.NDArray[np.int64]
    """(classes,): predicted pixels on the reference."""

    unchanged: float
    """Share of the reference's pixels whose label is that of the unmended network."""

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


@dataclass(frozen=True)
class _Seen:
    """One pass over a set."""

    counts: Counts
    pixels: npt.NDArray[np.int64]
    labels: list[npt.NDArray[np.uint8]]
    blocks: list[npt.NDArray[np.float32]]
    groups: npt.NDArray[np.int64]
    """(N,): index of each image's group, in the order of the pass."""


class Judge:
    """Judges changes of one network; keeps what the unmended network predicts on the reference."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        layers = [p for p in setting.places if p.kind == "layer" and p.address is not None]
        self._layer = {p.name: p.address for p in layers[-1:] if p.address is not None}
        self._home = self._pass(setting.reference, lambda _fold: NULL)
        self._draws: Draws | None = None

    @property
    def layer(self) -> str:
        """Name of the layer in which the excess is measured: the last; empty if none is known."""
        return next(iter(self._layer), "")

    def plain(self) -> tuple[Judged, npt.NDArray[np.float64]]:
        """Judge the unmended network, and test its last layer: the permuted statistics."""
        start = time.perf_counter()
        seen = self._pass(self.setting.shifted, lambda _fold: NULL)
        permuted = np.empty(0)
        if seen.blocks:
            labels = self._labels(seen)
            self._draws = draw(labels, _QUICK)
            exact = ProfileSpec()
            full = compare(self._home.blocks, seen.blocks, draw(labels, exact), exact)
            permuted = full["hellinger"].permuted
        return self._judged(seen, self._home, NULL, start), permuted

    def __call__(self, fit: Fit, weight: float, fitted: bool, start: float) -> Judged:
        """Judge a remedy; ``fitted`` ones are fitted anew without each fold."""
        whole = fit(None, weight)
        folds = range(self.setting.shifted.number)
        changes = {fold: fit(fold, weight) if fitted else whole for fold in folds}
        seen = self._pass(self.setting.shifted, changes.__getitem__)
        return self._judged(seen, self._pass(self.setting.reference, lambda _: whole), whole, start)

    def _judged(self, seen: _Seen, home: _Seen, change: Change, start: float) -> Judged:
        same = sum(int((a == b).sum()) for a, b in zip(home.labels, self._home.labels, strict=True))
        excess = None
        if seen.blocks and self._draws is not None:
            compared = compare(self._home.blocks, seen.blocks, self._draws, _QUICK)
            excess = compared["hellinger"].excess
        return Judged(
            seen.counts,
            home.counts,
            seen.pixels,
            home.pixels,
            same / sum(map(np.size, home.labels)),
            np.empty(0) if excess is None else np.asarray(excess.squares, np.float64),
            np.empty(0, np.int64) if excess is None else excess.kinds,
            change.parameters,
            time.perf_counter() - start,
        )

    def _labels(self, seen: _Seen) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.str_]]:
        home, away = self.setting.reference.data, self.setting.shifted.data
        first, second = (
            np.unique(data.groups).astype(str)[part.groups]
            for data, part in ((home, self._home), (away, seen))
        )
        return first, second

    def _pass(self, data: Folded, change_of: Callable[[int], Change]) -> _Seen:
        net, size = self.setting.net, self.setting.spec.batch_size
        like = input_like(net)
        counts, pixels = None, np.zeros(0, np.int64)
        labels, groups = [], []
        blocks: list[npt.NDArray[np.float32]] = []

        def pool(_name: str, value: Tensor) -> npt.NDArray[np.float32]:
            # flips of the same images come behind them
            maps = value[: len(batch)].float()
            sides = zip(cells, maps.shape[2:], strict=True)
            pooled = POOLINGS["average"](maps, [min(s) for s in sides], _RNG)
            return vectors(pooled).cpu().contiguous().numpy()

        with torch.no_grad():
            for fold, images, masks, codes in data.batches(size):
                batch = as_input(images, like)
                cells = [max(1, side // STRIDE) for side in batch.shape[2:]]
                with captured(net, self._layer, pool) as features:
                    logits = change_of(fold).logits(net, batch)
                if counts is None:
                    classes = max(2, logits.shape[1])
                    counts = np.zeros((len(data.folds), classes, 3), np.int64)
                    pixels = np.zeros(classes, np.int64)
                own = labels_of(logits)
                pixels += np.bincount(own.ravel(), minlength=len(pixels))
                if masks is not None:
                    flat = [array.reshape(len(array), array.shape[1], -1) for array in (masks, own)]
                    np.add.at(
                        counts,
                        codes,
                        count(flat[0], flat[1], len(pixels), self.setting.spec.ignore),
                    )
                labels.append(own)
                blocks.extend(features.values())
                groups.append(codes)
        assert counts is not None
        # predictions of the shifted set are not needed again
        kept = labels if data is self.setting.reference else []
        if not all(np.isfinite(block).all() for block in blocks):
            blocks = []
        return _Seen(counts, pixels, kept, blocks, np.concatenate(groups))


_RNG = np.random.default_rng(0)
