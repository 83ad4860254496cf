"""Distance in the decoder block behind each path, with the path patched and without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skipshift.patching.labelled import Codes
from skipshift.statistics.crossed import Array
from skipshift.statistics.passing import LEVELS, passed_between_sets, passed_in_pairs

Maps = Mapping[str, Tensor]
"""Path -> map (N, D, ...) of the block behind it."""

Passed = dict[str, tuple[float, float, float]]
"""Path -> share of the distance that goes, and its interval."""


@dataclass
class InPairs:
    """Squared differences to the map of the same image, each channel by the reference's variance.

    `reference` comes before the rows of its batch.
    """

    groups: int
    _squares: dict[str, Array] = field(default_factory=dict)
    _moments: dict[str, Array] = field(default_factory=dict)
    _reference: Maps = field(default_factory=dict)

    def reference(self, maps: Maps) -> None:
        """Keep the maps of a batch of reference images."""
        self._reference = maps
        for path, value in maps.items():
            flat = value.float().flatten(2)
            sums = [torch.ones_like(flat).sum((0, 2)), flat.sum((0, 2)), flat.square().sum((0, 2))]
            new = torch.stack(sums).double().cpu().numpy()
            self._moments[path] = self._moments[path] + new if path in self._moments else new

    def add(self, row: Sequence[str], maps: Maps, codes: Codes) -> None:
        """Add the squared differences of a batch."""
        for path, value in maps.items():
            apart = (value.float() - self._reference[path].float()).square().flatten(2).sum(-1)
            sums = self._squares.setdefault(path, np.zeros((self.groups, 2, value.shape[1])))
            np.add.at(sums[:, 0 if row else 1], codes, apart.double().cpu().numpy())

    def passed(self) -> Passed:
        """Share of the mean squared difference that goes."""
        found = {}
        for path, squares in self._squares.items():
            number, first, second = self._moments[path]
            variance = second / number - (first / number) ** 2
            varies = variance > 1e-6 * (second / number)
            found[path] = passed_in_pairs((squares[..., varies] / variance[varies]).sum(-1))
        return found


@dataclass
class BetweenSets:
    """Fractions of each channel's values below levels of the reference, by group."""

    levels: Mapping[str, Tensor]
    """Path -> (D, L) quantiles of the reference."""
    groups: tuple[npt.NDArray[Any], npt.NDArray[Any]]
    """Sorted unique labels of the reference and of the shifted set."""
    _sums: dict[tuple[str, int], Array] = field(default_factory=dict)
    _images: dict[tuple[str, int], Array] = field(default_factory=dict)

    def add(self, shifted: bool, row: Sequence[str], maps: Maps, codes: Codes) -> None:
        """Add the maps of a batch of the reference, or of shifted images with a row patched."""
        kind = (2 if not row else 1) if shifted else 0
        number = len(self.groups[min(kind, 1)])
        for path, value in maps.items():
            flat, levels = value.float().flatten(2), self.levels[path].to(value.device)
            below = [(flat <= level[:, None]).float().mean(-1) for level in levels.T]
            part = torch.stack(below, -1).flatten(1).cpu().numpy()
            key = path, kind
            sums = self._sums.setdefault(key, np.zeros((number, part.shape[1])))
            np.add.at(sums, codes, part)
            np.add.at(self._images.setdefault(key, np.zeros(number)), codes, 1)

    def passed(self) -> Passed:
        """Share of the squared distance between the distributions that goes."""
        found = {}
        for path in self.levels:
            means = [
                self._sums[path, kind] / self._images[path, kind][:, None] for kind in range(3)
            ]
            found[path] = passed_between_sets(means[0], means[1], means[2], self.groups)
        return found


def levels_of(sample: Tensor) -> Tensor:
    """Quantiles of a sample: (M, D) -> (D, LEVELS)."""
    places = (torch.arange(LEVELS) + 0.5) / LEVELS * (len(sample) - 1)
    return sample.sort(0).values[places.round().long()].T.contiguous()
