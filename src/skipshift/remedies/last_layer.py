"""The excess in the last layer of a network, between the reference or its fingerprint and a set."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from skipshift.profile.fingerprinting import counted
from skipshift.profile.fingerprints import Fingerprint
from skipshift.profile.layerwise import compare, draw
from skipshift.profile.profiling import profile_fingerprints
from skipshift.remedies.setting import Setting
from skipshift.specs import ProfileSpec

Labels = tuple[npt.NDArray[np.str_], npt.NDArray[np.str_]]
"""Label of each image's group, of the reference and of the shifted set."""

Blocks = list[npt.NDArray[np.float32]]
"""Pooled features (n, K, D) of the images of a set."""


class Measured(NamedTuple):
    """What an excess consists of (`Excess`), and its test."""

    squares: npt.NDArray[np.float64]
    """Empty where there is none."""

    kinds: npt.NDArray[np.int64]

    permuted: npt.NDArray[np.floating]
    """Permuted statistics, the observed one first; empty unless they were asked for."""


NOTHING = Measured(np.empty(0), np.empty(0, np.int64), np.empty(0))


@dataclass(frozen=True)
class LastLayer:
    """The layer in which the excess is measured."""

    name: str
    """Empty if none is known."""

    address: str

    fingerprint: Fingerprint | None
    """Of this layer alone; None where there are images of the reference."""

    @property
    def addresses(self) -> dict[str, str]:
        """Where its features are captured."""
        return {self.name: self.address} if self.name else {}

    @property
    def pooling(self) -> str:
        """How its features are pooled."""
        return "average" if self.fingerprint is None else self.fingerprint.making.pooling

    def measure(self, home: Blocks, away: Blocks, labels: Labels, permutations: bool) -> Measured:
        """Compare features of the shifted set with those of the reference.

        Nothing is measured where features are not finite, nor where a fingerprint has parts of more
        groups than the shifted set has.
        """
        if not away or not all(np.isfinite(block).all() for block in (*home, *away)):
            return NOTHING
        spec = ProfileSpec() if permutations else ProfileSpec(permutation_draws=0)
        if self.fingerprint is not None:
            return self._against_parts(self.fingerprint, away, labels[1], spec)
        found = compare(home, away, draw(labels, spec), spec)["hellinger"]
        if found.excess is None:
            return NOTHING._replace(permuted=found.permuted)
        return Measured(
            np.asarray(found.excess.squares, np.float64), found.excess.kinds, found.permuted
        )

    def _against_parts(
        self, known: Fingerprint, away: Blocks, labels: npt.NDArray[np.str_], spec: ProfileSpec
    ) -> Measured:
        codes = np.unique(labels, return_inverse=True)[1]
        edges = (known.low, known.high)
        shifted = counted({self.name: away}, codes, edges, known.making, spec.seed)
        own = replace(spec, pooling=(known.making.pooling,), bins=known.making.bins)
        evidence = profile_fingerprints(known, shifted, own).evidence.iloc[0]
        squares = np.asarray(evidence["squares"], np.float64)
        return Measured(squares, evidence["kinds"], evidence["permuted"])


def last_layer(setting: Setting) -> LastLayer:
    """Find the last layer that both sets have features of."""
    layers = [(p.name, p.address) for p in setting.places if p.kind == "layer" and p.address]
    given = setting.reference
    if not isinstance(given, Fingerprint):
        return LastLayer(*(layers[-1] if layers else ("", "")), None)
    held = {address: name for name, address in given.making.layers}
    both = [(name, address) for name, address in layers if address in held]
    if not both:
        return LastLayer("", "", None)
    name, address = both[-1]
    own = dict(given.layers())[held[address]]
    making = replace(given.making, layers=((name, address),))
    one = Fingerprint(
        making,
        (own.stop - own.start,),
        given.low[own],
        given.high[own],
        given.counts[:, own],
        given.groups,
        given.images,
    )
    return LastLayer(name, address, one)
