"""Profile a network between two sets, given as images, pooled features or fingerprints."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from string import ascii_lowercase
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from skipshift.errors import ArgumentError
from skipshift.networks.architectures import known_layers
from skipshift.networks.feature_store import FeatureStore
from skipshift.networks.features import Features, Groups, Images, batches_of, collect, groups_of
from skipshift.networks.layers import Layers
from skipshift.profile.fingerprinting import fingerprint_like
from skipshift.profile.fingerprints import Fingerprint
from skipshift.profile.layerwise import Compared, Draws, compare, compare_counts, draw
from skipshift.profile.profile import Profile
from skipshift.records import PROFILE_LAYERS, TABLE_COLUMNS
from skipshift.specs import ProfileSpec
from skipshift.statistics.distances import CHANNEL_DISTANCES
from skipshift.statistics.layer_tests import layer_table


def profile_shift(
    net: nn.Module,
    reference: Images | Fingerprint,
    shifted: Images | Fingerprint,
    layers: Layers | None = None,
    groups: tuple[Groups | None, Groups | None] | None = None,
    spec: ProfileSpec | None = None,
) -> Profile:
    """Measure the distance between two sets of images in each layer of a network (eq. 4-10).

    Each set passes through the network once, whatever the spec.

    Parameters
    ----------
    net
        Any network; its output may be a tensor, tuple or dict.
    reference, shifted
        Source and target domain: arrays (N, C, H, W), of volumes (N, C, D, H, W), or loaders; uint8
        is divided by 255, floats are used as they are. Either may be a `Fingerprint` of this
        network: then its edges, layers, bins and pooling apply, images must be preprocessed as it
        says, and parts replace groups as units; left-over groups that fill no
        part are not used.
    layers
        Names, addresses or patterns (`layers_of`). By default, for known architectures, encoder
        stages, bottleneck, decoder blocks, and skips that change what they pass on; for others
        their stages, found by a trace of one forward pass.
    groups
        Group label of each image in the reference and in the shifted set; by default each image is
        its own group. Groups count alike, whatever their images. Groups with the same label in
        both sets are pairs: left out together and swapped in permutations.

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
    """Profile two sets of pooled features, layer by layer.

    Parameters
    ----------
    sets
        Reference and shifted, each pooling -> layer name -> blocks (n, K, D), with the poolings of
        the spec.
    groups
        Group label of each image in both sets.
    skips
        Skip levels that the network keeps, if known.

    Returns
    -------
    A `Profile`. `ArgumentError` if a layer has different channels in the two sets.
    """
    draws = draw(groups, spec)
    compared = []
    for pooling in spec.pooling:
        for name, a in sets[0][pooling].items():
            b = sets[1][pooling][name]
            widths = a[0].shape[2], b[0].shape[2]
            if widths[0] != widths[1]:
                raise ArgumentError(
                    f"layer {name}: both sets must have the same channels, "
                    f"got {widths[0]} and {widths[1]}"
                )
            compared.append((pooling, name, compare(a, b, draws, spec)))
    return _profile(compared, draws, spec, skips)


def profile_fingerprints(
    reference: Fingerprint,
    shifted: Fingerprint,
    spec: ProfileSpec,
    skips: tuple[int, ...] | None = None,
) -> Profile:
    """Profile two fingerprints with the same edges, layer by layer, with parts as units.

    Null, interval and p are NaN if a set has fewer groups than a part: its histograms would be
    rougher than those of full parts. `ArgumentError` if the fingerprints are not comparable, or a
    distance of the spec needs more than histograms.
    """
    making = reference.making
    if whole := [name for name in spec.distances if name not in CHANNEL_DISTANCES]:
        raise ArgumentError(
            f"distances between fingerprints must be those of channels, got {whole[0]}; "
            f"choose from {', '.join(CHANNEL_DISTANCES)}"
        )
    reference.check(shifted)
    sizes = len(reference.groups), len(shifted.groups)
    drawn = spec
    if min(*reference.groups, *shifted.groups) < making.part:
        drawn = replace(spec, null_draws=0, permutation_draws=0)
    draws = draw((np.arange(sizes[0]), sizes[0] + np.arange(sizes[1])), drawn)
    parts = np.concatenate([reference.counts, shifted.counts])
    index = np.concatenate(draws.group_index)
    counts = np.stack([parts[index == group].sum(0) for group in range(sum(draws.groups.sizes))])
    width = (reference.high - reference.low) / counts.shape[2]
    compared = [
        (making.pooling, name, compare_counts(counts[:, own], width[own], draws, spec.distances))
        for name, own in reference.layers()
    ]
    outside = {n: max(share, shifted.outside()[n]) for n, share in reference.outside().items()}
    return replace(_profile(compared, draws, spec, skips), outside=outside)


def _profile(
    compared: Sequence[tuple[str, str, Mapping[str, Compared]]],
    draws: Draws,
    spec: ProfileSpec,
    skips: tuple[int, ...] | None,
) -> Profile:
    """Tables of layers, channels and evidence, from (pooling, layer, distances)."""
    layers, channels, evidence = [], [], []
    about: dict[str, Any] = {
        "groups": "{} + {}".format(*draws.groups.sizes),
        "least_p": draws.smallest_p,
    }
    for pooling, measure in product(spec.pooling, spec.distances):
        family = [(name, found[measure]) for at, name, found in compared if at == pooling]
        kind = {"measure": measure, "pooling": pooling}
        table = layer_table([one.excess for _, one in family], [one.permuted for _, one in family])
        names = [name for name, _ in family]
        table = table.assign(layer=names, depth=np.arange(len(names)) + 1, **about, **kind)
        for column in ("value", "null"):
            means = [float(getattr(one, column).mean()) for _, one in family]
            table["distance" if column == "value" else column] = means
        layers.append(table[list(TABLE_COLUMNS[PROFILE_LAYERS])])
        for depth, (name, one) in enumerate(family, 1):
            evidence.append(_evidence(one, draws) | {"layer": name, **kind})
            if measure in CHANNEL_DISTANCES:
                channels.append(_channels(one).assign(layer=name, depth=depth, **kind))
    empty = pd.DataFrame(columns=list(TABLE_COLUMNS["channels.parquet"]))
    parts = pd.concat(channels, ignore_index=True)[list(empty)] if channels else empty
    whole = pd.concat(layers, ignore_index=True)
    return Profile(whole, parts, spec, skips, evidence=pd.DataFrame(evidence))


def _evidence(layer: Compared, draws: Draws) -> dict[str, Any]:
    """Keep what joins the runs of a network: a layer under permutations, and without each unit."""
    labels = [draws.groups.reference, draws.groups.shifted]
    told = repr([[str(label) for label in side] for side in labels])
    squares: npt.NDArray[np.floating] = np.empty(0)
    kinds, power = np.empty(0, np.int64), 1.0
    if layer.excess is not None:
        squares, kinds, power = layer.excess.squares, layer.excess.kinds, layer.excess.power
    return {
        "groups": hashlib.sha256(told.encode()).hexdigest()[:16],
        "permuted": layer.permuted.astype(np.float32),
        "squares": squares,
        "kinds": kinds,
        "power": power,
    }


def _channels(layer: Compared) -> pd.DataFrame:
    number = np.arange(len(layer.value))
    return pd.DataFrame({"channel": number, "value": layer.value, "null": layer.null})


def _skips_of(net: nn.Module) -> tuple[int, ...] | None:
    """Skip levels of a known architecture; a level is the log2 of its stride."""
    layers = known_layers(net)
    levels = {
        int(layer.name[1:].rstrip(ascii_lowercase)).bit_length() - 1
        for layer in layers
        if layer.kind == "skip"
    }
    return tuple(sorted(levels)) if layers else None
