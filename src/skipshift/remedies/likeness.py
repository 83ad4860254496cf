"""Whether two sets are alike inside a network, by group: in values, and in where the values lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from skipshift.networks.features import Features
from skipshift.profile.layerwise import Draws, group_products
from skipshift.statistics.distances import add_counts
from skipshift.statistics.excess import Table, noise_of
from skipshift.statistics.layer_tests import statistic, step_down

Floats = npt.NDArray[np.floating]

_BINS = 32

_MARGIN = 0.1
"""Margin of the bins beyond a channel's range at each end, as a fraction of the range."""


@dataclass(frozen=True)
class Likeness:
    """Two sets compared in some layers, each by its values and by its map."""

    excess: float
    """Squared distance of the populations, mean over layers of values and map: 0 if alike."""

    permuted: npt.NDArray[np.float64]
    """(2 layers, 1 + draws): what p compares, of the sets and of each permutation of groups."""

    @cached_property
    def p(self) -> npt.NDArray[np.float64]:
        """(layers,): p that a layer differs in values or map, adjusted for all (max-T)."""
        return np.asarray(step_down(self.permuted).reshape(-1, 2).min(1))


@dataclass(frozen=True)
class Shown:
    """Features of the shifted set, with which those of a reference are compared."""

    draws: Draws
    features: Mapping[str, Floats]
    """Layer -> (N, K, D): K cells of each of N images."""

    @cached_property
    def _edges(self) -> dict[str, tuple[Floats, Floats]]:
        found = {}
        for name, values in self.features.items():
            low, high = (end.astype(np.float64) for end in (values.min((0, 1)), values.max((0, 1))))
            # a constant channel has bins too, as wide as the resolution of float32
            size = np.maximum(np.abs(low), np.abs(high)).astype(np.float32)
            beyond = np.maximum(_MARGIN * (high - low), _BINS * np.spacing(size))
            found[name] = low - beyond, high + beyond
        return found

    @cached_property
    def _counts(self) -> dict[str, npt.NDArray[np.uint32]]:
        return {name: self._counted(name, own, 1) for name, own in self.features.items()}

    def _codes(self, side: int) -> npt.NDArray[np.int64]:
        return self.draws.group_index[side] - side * self.draws.groups.sizes[0]

    def _counted(self, name: str, values: Floats, side: int) -> npt.NDArray[np.uint32]:
        low, high = self._edges[name]
        counts = np.zeros((self.draws.groups.sizes[side], len(low), _BINS), np.uint32)
        add_counts(counts, np.clip(values, low, high), self._codes(side), low, high)
        return counts

    def compare(self, reference: Mapping[str, Floats]) -> Likeness:
        """Compare with a reference whose images have the same size."""
        tables = []
        for name, values in reference.items():
            counts = np.concatenate([self._counted(name, values, 0), self._counts[name]])
            tables += [group_products(counts), self._layout(values, self.features[name])]
        draws = self.draws
        assert draws.permuted is not None
        observed = draws.permuted[0][:1], draws.permuted[1][:1]
        gap = (observed[0] - observed[1])[0]
        squares = [gap @ k @ gap - noise_of(k, observed, draws.groups)[0] for k in tables]
        return Likeness(
            float(np.mean(squares)),
            np.stack([statistic(k, draws.permuted, draws.groups) for k in tables]),
        )

    def _layout(self, a: Floats, b: Floats) -> Table:
        """Products of groups' mean maps (G, G), on the scale of H^2 of normal distributions.

        Of maps about their mean over cells; e' K e is then d^2 / 8 for a difference of d standard
        deviations, mean over cells and channels.
        """
        maps = [side - side.mean(1, keepdims=True) for side in (a, b)]
        spread = np.sqrt(sum((side**2).mean((0, 1)) for side in maps) / 2)
        means = [by_group(side, self._codes(i)) for i, side in enumerate(maps)]
        rows = np.concatenate(means) / np.where(spread > 0, spread, 1)
        flat = (rows - rows.mean(0)).reshape(len(rows), -1).astype(np.float64)
        return np.asarray(flat @ flat.T / (8 * flat.shape[1]))

    def likest(self, references: Sequence[Mapping[str, Floats]]) -> int:
        """Tell which of several references, of the same images, the set is most like.

        Ridge regression of one indicator per reference on the groups' mean features, whose largest
        mean prediction counts: it weighs the directions in which the references differ against how
        their groups vary.
        """
        codes, number = self._codes(0), len(references)
        products = 0.0
        for name, own in self.features.items():
            sets = [by_group(each[name], codes) for each in references]
            rows = np.concatenate([*sets, by_group(own, self._codes(1))])
            flat = rows.reshape(len(rows), -1, rows.shape[-1]).astype(np.float64)
            flat = flat - flat[: len(flat) - self.draws.groups.sizes[1]].mean(0)
            spread = np.sqrt((flat**2).mean((0, 1)))
            flat = (flat / np.where(spread > 0, spread, 1)).reshape(len(rows), -1)
            products = products + flat @ flat.T / flat.shape[1]
        known = number * self.draws.groups.sizes[0]
        inner = np.asarray(products)[:known, :known]
        wanted = np.repeat(np.eye(number), self.draws.groups.sizes[0], 0) - 1 / number
        ridge = 0.1 * np.trace(inner) / known * np.eye(known)
        scores = np.asarray(products)[known:, :known] @ np.linalg.solve(inner + ridge, wanted)
        return int(scores.mean(0).argmax())


def by_group(values: Floats, codes: npt.NDArray[np.int64]) -> Floats:
    """Mean (G, ...) of each group's images (N, ...)."""
    return np.stack([values[codes == group].mean(0) for group in range(codes.max() + 1)])


def joined(features: Features) -> dict[str, Floats]:
    """Layer -> (N, K, D), from blocks."""
    return {name: np.concatenate(blocks) for name, blocks in features.items()}
