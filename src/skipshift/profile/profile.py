"""The profile: how far two sets of images lie apart in each layer, beside what chance gives."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from skipshift.errors import ArgumentError
from skipshift.names import listed
from skipshift.networks.architectures import known_layers
from skipshift.networks.feature_store import FeatureStore
from skipshift.networks.features import Features, Groups, Images, batches_of, collect, groups_of
from skipshift.networks.layers import Layers
from skipshift.profile.counting import fingerprint_like
from skipshift.profile.fingerprints import Fingerprint
from skipshift.profile.layerwise import Compared, compare, compare_counts, draw
from skipshift.records import read_json, read_table, write_json, write_table
from skipshift.specs import ProfileSpec, from_plain, to_plain
from skipshift.statistics.distances import DISTANCES
from skipshift.statistics.resampling import holm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVEL = 0.025
"""Chance that a verdict finds a shift where there is none, as a 95 % interval leaves at one end."""


@dataclass(frozen=True)
class Profile:
    """Distances between two sets of images inside one network, by layer and by channel."""

    layers: pd.DataFrame
    """A row per layer in depth order, for each distance and pooling that was asked for:
    ``layer, depth, distance, null, excess, low, high, p, p_adjusted, measure, pooling``.

    ``distance`` is the mean over channels (eq. 10), ``null`` what it would be had nothing shifted,
    from splits of the reference, ``excess`` their difference; ``low`` and ``high`` are a 95 %
    interval of ``distance`` by bootstrap over groups. ``p`` is the chance of such a distance where
    the groups' domains are shuffled, ``p_adjusted`` the same for all layers together (Holm 1979).
    ``measure`` names the distance. With a single group in the reference all but ``distance`` is
    NaN.
    """

    channels: pd.DataFrame
    """``layer, depth, channel, value, null, measure, pooling``: the distance of each channel
    (eq. 9), for distances that have channels."""

    spec: ProfileSpec
    """How it was measured."""

    skips: tuple[int, ...] | None = None
    """Skip levels that the network keeps; None where they are not known."""

    smallest_p: float = np.nan
    """Share of the permutations that leave the sets whole: no p can fall below."""

    outside: Mapping[str, float] = field(default_factory=dict)
    """Layer -> share of the values that lie beyond the edges of a fingerprint, in the set that has
    more of them; empty where the edges are those of both sets together."""

    def of(self, measure: str | None = None, pooling: str | None = None) -> pd.DataFrame:
        """Rows of `layers` of one distance and one pooling, the first of the spec by default."""
        chosen = (measure or self.spec.distances[0], pooling or self.spec.pooling[0])
        rows = self.layers
        rows = rows[(rows["measure"] == chosen[0]) & (rows["pooling"] == chosen[1])]
        if rows.empty:
            raise ArgumentError(
                f"this profile has no {chosen[0]} of pooling {chosen[1]}; it has "
                f"{', '.join(self.spec.distances)} of {', '.join(self.spec.pooling)}"
            )
        return rows.reset_index(drop=True)

    def verdict(self) -> str:
        """Say in two sentences where the shift is largest, which skips pass it on, and how sure.

        A layer counts where its ``p_adjusted`` is below 0.025. A skip passes the shift on where
        both its ends count and the excess is larger behind it than in the layer before. Of the
        first distance and pooling.
        """
        rows = self.of()
        known = rows.dropna(subset=["excess", "low", "p_adjusted"])
        if known.empty:
            return (
                "Nothing can be said of a shift. A distance needs a null, an interval and "
                "permutations: draws of each, and at least 2 groups in the reference (of a "
                "fingerprint 2 parts, and in the other set as many groups as in a part)."
            )
        clear = known[known["p_adjusted"] < LEVEL]
        if clear.empty:
            return _alike(known, self.smallest_p)
        top = clear.iloc[int(clear["excess"].argmax())]
        return (
            f"The shift is largest at {top['layer']}, {top['excess']:.2f} above a null of "
            f"{top['null']:.2f} (95 % interval {top['low'] - top['null']:.2f} to "
            f"{top['high'] - top['null']:.2f}, p = {top['p_adjusted']:.2g} after Holm's correction)"
            f", and {len(clear)} of {len(rows)} layers stand clear of their nulls. "
            f"{_passed_on(rows, set(clear['layer']), self.skips)}"
        )

    def plot(
        self, label: str = "", measure: str | None = None, pooling: str | None = None
    ) -> "Figure":
        """Draw the distance of each layer with its interval, above the null."""
        from skipshift.page.charts import profile_figure

        return profile_figure(self.of(measure, pooling), label)

    def save(self, folder: Path) -> None:
        """Write layers and channels as tables, the settings and what else is known as JSON."""
        write_table(Path(folder) / "profile.csv", self.layers)
        write_table(Path(folder) / "channels.parquet", self.channels)
        known = {
            "skips": self.skips,
            "smallest_p": None if np.isnan(self.smallest_p) else self.smallest_p,
            "outside": dict(self.outside),
        }
        write_json(Path(folder) / "profile.json", {"spec": to_plain(self.spec), **known})

    @classmethod
    def load(cls, folder: Path) -> "Profile":
        """Read what `save` wrote; `SkipshiftError` names a file that is absent or broken."""
        file = Path(folder) / "profile.json"
        known = from_plain(dict[str, Any], read_json(file), str(file))
        spec = from_plain(ProfileSpec, known.get("spec"), str(file))
        layers, channels = (
            read_table(file.with_name(name)) for name in ("profile.csv", "channels.parquet")
        )
        skips, smallest_p = known.get("skips"), known.get("smallest_p")
        return cls(
            layers,
            channels,
            spec,
            None if skips is None else tuple(skips),
            np.nan if smallest_p is None else smallest_p,
            known.get("outside", {}),
        )


def _alike(rows: pd.DataFrame, smallest_p: float) -> str:
    top = rows.iloc[int(rows["excess"].argmax())]
    said = (
        f"The sets cannot be told apart: no layer stands clear of its null, and the largest excess "
        f"is {top['excess']:.2f} at {top['layer']} (p = {top['p_adjusted']:.2g} after Holm's "
        f"correction over {len(rows)} layers)."
    )
    least = smallest_p * len(rows)
    if least >= LEVEL:
        return f"{said} With groups this few no such p can fall below {min(least, 1):.2g}."
    return f"{said} A shift smaller than the intervals may be there all the same."


def _passed_on(rows: pd.DataFrame, clear: set[str], skips: tuple[int, ...] | None) -> str:
    named = set(rows["layer"])
    if skips is None or (skips and not any(f"d{2**level}" in named for level in skips)):
        return "Which skips pass it on is not said, since no layer is known to follow one."
    if not skips:
        return "The network keeps no skip that could pass it on."
    rising = clear & set(rows["layer"][rows["excess"].diff() > 0])
    passing = [level for level in skips if f"e{2**level}" in clear and f"d{2**level}" in rising]
    if not passing:
        return "No skip passes it on: the excess is larger behind none than in the layer before."
    names = listed(f"L{level}" for level in passing)
    blocks = listed(f"d{2**level}" for level in passing)
    return (
        f"{names} {'passes' if len(passing) == 1 else 'pass'} it on: at {blocks} the excess is "
        f"larger than in the layer before."
    )


def profile_shift(
    net: nn.Module,
    reference: Images | Fingerprint,
    shifted: Images | Fingerprint,
    layers: Layers | None = None,
    groups: tuple[Groups | None, Groups | None] | None = None,
    spec: ProfileSpec | None = None,
) -> Profile:
    """Measure how far two sets of images lie apart in each layer of a network (eq. 4-10).

    The network sees each set once, whatever the spec asks for.

    Parameters
    ----------
    net
        Any network; its answer may be a tensor, tuple or dict.
    reference, shifted
        Arrays (N, C, H, W), of volumes (N, C, D, H, W), or loaders; uint8 is divided by 255, floats
        go in as they are. Either may be a `Fingerprint` that was made with this network: then its
        edges, layers, bins and pooling hold, images must be prepared as it says, and groups are
        resampled and permuted by parts of several; those that fill no part are left out.
    layers
        Names, addresses or patterns (`layers_of`). By default encoder stages, bottleneck, decoder
        blocks, and skips that do more than hand on a stage, of an architecture that is known; of
        another one the last module at each size of its maps.
    groups
        Label of each image's group in the reference and in the shifted set; each image is its own
        group by default. Groups with the same label in both sets are pairs: resampled together,
        swapped where groups are shuffled, and kept apart in the null.

    Returns
    -------
    A `Profile`. `ArgumentError` names the argument or layer at fault.
    """
    spec = spec or ProfileSpec()
    groups = groups or (None, None)
    if isinstance(reference, Fingerprint):
        given = reference
    elif isinstance(shifted, Fingerprint):
        given = shifted
    else:
        return _profile_images(net, (reference, shifted), layers, groups, spec)
    prints = [
        fingerprint_like(given, net, side, layers, own, spec)
        for side, own in zip((reference, shifted), groups, strict=True)
    ]
    return profile_fingerprints(prints[0], prints[1], spec, _skips_of(net))


def _profile_images(
    net: nn.Module,
    images: tuple[Images, Images],
    layers: Layers | None,
    groups: tuple[Groups | None, Groups | None],
    spec: ProfileSpec,
) -> Profile:
    names = ("reference", "shifted")
    with FeatureStore(spec.memory * 2**30) as store:
        sets = [
            collect(
                net, batches_of(side, spec.batch_size, name), layers, spec.pooling, spec.seed,
                store,
            )
            for name, side in zip(names, images, strict=True)
        ]  # fmt: skip
        labels = [
            groups_of(side[spec.pooling[0]], own, name)
            for side, own, name in zip(sets, groups, names, strict=True)
        ]
        return profile_features((sets[0], sets[1]), (labels[0], labels[1]), spec, _skips_of(net))


def profile_features(
    sets: tuple[Mapping[str, Features], Mapping[str, Features]],
    groups: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    spec: ProfileSpec,
    skips: tuple[int, ...] | None = None,
) -> Profile:
    """Compare features that are already pooled, layer by layer.

    Parameters
    ----------
    sets
        Reference and shifted, each pooling -> layer name -> blocks (n, K, D), with the poolings of
        the spec.
    groups
        Label of each image's group in either set.
    skips
        Skip levels that the network keeps, if known.
    """
    draws = draw(groups, spec)
    found = []
    for pooling in spec.pooling:
        for name, a in sets[0][pooling].items():
            b = sets[1][pooling][name]
            widths = a[0].shape[2], b[0].shape[2]
            if widths[0] != widths[1]:
                raise ArgumentError(
                    f"layer {name}: both sets must have the same channels, "
                    f"got {widths[0]} and {widths[1]}"
                )
            found.append((pooling, name, compare(a, b, draws, spec)))
    return Profile(*_tables(found, spec), spec, skips, draws.smallest_p)


def profile_fingerprints(
    reference: Fingerprint,
    shifted: Fingerprint,
    spec: ProfileSpec,
    skips: tuple[int, ...] | None = None,
) -> Profile:
    """Compare two fingerprints over the same edges, layer by layer; parts take the place of groups.

    Null, interval and p are NaN where a set has fewer groups than a part: its histograms would be
    rougher than those of the parts they are compared with.
    """
    making = reference.making
    if whole := [name for name in spec.distances if name not in DISTANCES]:
        raise ArgumentError(
            f"distances must be of channels where a fingerprint is compared, got {whole[0]}; "
            f"choose from {', '.join(DISTANCES)}"
        )
    reference.check(shifted)
    sizes = len(reference.groups), len(shifted.groups)
    drawn = spec
    if min(*reference.groups, *shifted.groups) < making.part:
        drawn = replace(spec, null_draws=0, bootstrap_draws=0, permutation_draws=0)
    draws = draw((np.arange(sizes[0]), sizes[0] + np.arange(sizes[1])), drawn)
    parts = np.concatenate([reference.counts, shifted.counts])
    places = np.concatenate(draws.places)
    counts = np.stack([parts[places == place].sum(0) for place in range(sum(draws.groups.sizes))])
    width = (reference.high - reference.low) / counts.shape[2]
    found = [
        (making.pooling, name, compare_counts(counts[:, own], width[own], draws, spec.distances))
        for name, own in reference.layers()
    ]
    outside = {n: max(share, shifted.outside()[n]) for n, share in reference.outside().items()}
    return Profile(*_tables(found, spec), spec, skips, draws.smallest_p, outside)


def _tables(
    found: Iterable[tuple[str, str, Mapping[str, Compared]]], spec: ProfileSpec
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Table of layers and table of channels from pooling, layer and what was measured there."""
    layers, channels = [], []
    depths: Counter[str] = Counter()
    for pooling, name, measured in found:
        depths[pooling] += 1
        for measure, one in measured.items():
            kind = {"measure": measure, "pooling": pooling}
            layers.append({"layer": name, "depth": depths[pooling], **_row(one), **kind})
            if measure in DISTANCES:
                rows = _channels(one)
                channels.append(rows.assign(layer=name, depth=depths[pooling], **kind))
    table = pd.DataFrame(layers).sort_values(
        ["pooling", "measure"],
        key=lambda column: column.map([*spec.pooling, *spec.distances].index),
        kind="stable",
        ignore_index=True,
    )
    adjusted = table.groupby(["measure", "pooling"])["p"].transform(lambda p: holm(p.to_numpy()))
    table.insert(list(table).index("measure"), "p_adjusted", adjusted)
    order = ["layer", "depth", "channel", "value", "null", "measure", "pooling"]
    parts = (
        pd.concat(channels, ignore_index=True)[order] if channels else pd.DataFrame(columns=order)
    )
    return table, parts


def _row(found: Compared) -> dict[str, float]:
    distance, null = float(found.value.mean()), float(found.null.mean())
    row = {"distance": distance, "null": null, "excess": distance - null}
    return row | {"low": found.low, "high": found.high, "p": found.p}


def _channels(found: Compared) -> pd.DataFrame:
    number = np.arange(len(found.value))
    return pd.DataFrame({"channel": number, "value": found.value, "null": found.null})


def _skips_of(net: nn.Module) -> tuple[int, ...] | None:
    """Levels of the skips of an architecture that is known; a level is the log of a stride."""
    layers = known_layers(net)
    levels = {
        int(layer.name[1:].rstrip(ascii_lowercase)).bit_length() - 1
        for layer in layers
        if layer.kind == "skip"
    }
    return tuple(sorted(levels)) if layers else None
