"""Profile a network between two sets, given as images, pooled features or fingerprints."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from string import ascii_lowercase
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from skipshift.errors import ArgumentError
from skipshift.networks.feature_store import FeatureStore
from skipshift.networks.features import Features, Groups, Images, batches_of, collect, groups_of
from skipshift.networks.layers import Layers, known_taps
from skipshift.profile.counting import fingerprint_like
from skipshift.profile.fingerprints import Fingerprint
from skipshift.profile.layerwise import Compared, compare, compare_counts, draw
from skipshift.profile.profile import Profile
from skipshift.specs import ProfileSpec
from skipshift.statistics.distances import DISTANCES
from skipshift.statistics.resampling import holm


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
        Names, addresses or patterns (`taps_of`). By default encoder stages, bottleneck, decoder
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
    taps = known_taps(net)
    levels = {
        int(tap.name[1:].rstrip(ascii_lowercase)).bit_length() - 1
        for tap in taps
        if tap.kind == "skip"
    }
    return tuple(sorted(levels)) if taps else None
