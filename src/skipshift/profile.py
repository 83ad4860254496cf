"""The profile: how far two sets of images lie apart in each layer, beside what chance gives."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from skipshift.distances import channel_range, hellinger_of_counts, histogram, joint_range
from skipshift.features import Features, collect
from skipshift.layers import Layers
from skipshift.records import read_json, read_table, write_json, write_table
from skipshift.specs import ProfileSpec, from_plain, to_plain
from skipshift.statistics import Weights, centred_interval, halves, resamples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Images = npt.NDArray[Any] | Tensor | Iterable[Any]
"""(N, C, H, W) uint8 or float, or a loader of such batches (of tuples that begin with one)."""

Groups = Sequence[str] | npt.NDArray[Any]
"""Label of each image's group; images of one group are never taken apart."""

_CELLS = 2**22
"""Counts held in float64 at a time by one matrix product, 32 MiB."""


@dataclass(frozen=True)
class Profile:
    """Layer x channel distances between two sets of images inside one network."""

    layers: pd.DataFrame
    """``layer, depth, distance, null, excess, low, high``, a row per layer in depth order.

    ``distance`` is the mean over channels (eq. 10), ``null`` the same between two random halves of
    the reference, ``excess`` their difference, ``low`` and ``high`` a 95 % interval of ``distance``
    by bootstrap over groups. With a single group null, excess and interval are NaN.
    """

    channels: pd.DataFrame
    """``layer, depth, channel, value, null``: the Hellinger distance of each channel (eq. 9)."""

    spec: ProfileSpec
    """How it was measured."""

    def plot(self, label: str = "") -> "Figure":
        """Draw the distance of each layer with its interval, above the null."""
        from skipshift.page.figures import profile_figure

        return profile_figure(self.layers, label)

    def save(self, folder: Path) -> None:
        """Write layers and channels as tables and the settings as JSON."""
        write_table(Path(folder) / "profile.csv", self.layers)
        write_table(Path(folder) / "channels.parquet", self.channels)
        write_json(Path(folder) / "profile.json", to_plain(self.spec))

    @classmethod
    def load(cls, folder: Path) -> "Profile":
        """Read what `save` wrote; `SkipshiftError` names a file that is absent or broken."""
        folder = Path(folder)
        spec = from_plain(
            ProfileSpec, read_json(folder / "profile.json"), str(folder / "profile.json")
        )
        layers, channels = (read_table(folder / n) for n in ("profile.csv", "channels.parquet"))
        return cls(layers, channels, spec)


def profile_shift(
    net: nn.Module,
    reference: Images,
    shifted: Images,
    layers: Layers | None = None,
    groups: tuple[Groups, Groups] | None = None,
    spec: ProfileSpec | None = None,
) -> Profile:
    """Measure how far two sets of images lie apart in each layer of a network (eq. 4-10).

    Parameters
    ----------
    net
        Any network; its answer may be a tensor, tuple or dict.
    reference, shifted
        Arrays (N, C, H, W), of volumes (N, C, D, H, W), or loaders; uint8 is divided by 255, floats
        go in as they are.
    layers
        Names, addresses or patterns (`skipshift.layers`). By default encoder stages, bottleneck,
        decoder blocks, and skips that do more than hand on a stage, of an architecture that is
        known; of another one the last module at each size of its maps.
    groups
        Label of each image's group in the reference and in the shifted set; each image is its own
        group by default. Groups with the same label in both sets are resampled together.

    Returns
    -------
    A `Profile`. `ValueError` names the argument or layer at fault.
    """
    spec = spec or ProfileSpec()
    sets = [
        collect(net, batches_of(images, spec.batch_size, name), layers)
        for name, images in (("reference", reference), ("shifted", shifted))
    ]
    labels = groups or (None, None)
    return profile_features(
        (sets[0], sets[1]),
        (_codes(sets[0], labels[0], "reference"), _codes(sets[1], labels[1], "shifted")),
        spec,
    )


def profile_features(
    sets: tuple[Features, Features],
    groups: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    spec: ProfileSpec,
) -> Profile:
    """Compare features that are already pooled, layer by layer.

    Parameters
    ----------
    sets
        Reference and shifted, each layer name -> (N, K, D).
    groups
        Label of each image's group in either set.
    """
    draws = _draws(groups, spec)
    layers, channels = [], []
    for depth, name in enumerate(sets[0], 1):
        a, b = sets[0][name], sets[1][name]
        if a.shape[2] != b.shape[2]:
            raise ValueError(
                f"layer {name}: both sets must have the same channels, "
                f"got {a.shape[2]} and {b.shape[2]}"
            )
        value, null, drawn = _compare(a, b, draws, spec)
        low, high = centred_interval(value.mean(), drawn)
        layers.append(
            {
                "layer": name,
                "depth": depth,
                "distance": value.mean(),
                "null": null.mean(),
                "excess": value.mean() - null.mean(),
                "low": np.clip(low, 0, 1),
                "high": np.clip(high, 0, 1),
            }
        )
        channel = pd.DataFrame({"channel": np.arange(len(value)), "value": value, "null": null})
        channels.append(channel.assign(layer=name, depth=depth))
    order = ["layer", "depth", "channel", "value", "null"]
    return Profile(pd.DataFrame(layers), pd.concat(channels, ignore_index=True)[order], spec)


@dataclass(frozen=True)
class _Draws:
    """Weights of groups in each draw, and the group of each image, for both sets."""

    images: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    halves: Weights | None
    resamples: tuple[Weights, Weights]


def _draws(groups: tuple[npt.NDArray[Any], npt.NDArray[Any]], spec: ProfileSpec) -> _Draws:
    rng = np.random.default_rng(spec.seed)
    (names_a, a), (names_b, b) = (np.unique(g, return_inverse=True) for g in groups)
    half = halves(len(names_a), spec.null_draws, rng) if len(names_a) > 1 else None
    drawn_a = resamples(len(names_a), spec.bootstrap_draws, rng)
    if np.array_equal(names_a, names_b):
        return _Draws((a, b), half, (drawn_a, drawn_a))
    return _Draws((a, b), half, (drawn_a, resamples(len(names_b), spec.bootstrap_draws, rng)))


def _compare(
    a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], draws: _Draws, spec: ProfileSpec
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Distance and null of each channel (D,), and the layer's distance in each resample (draws,).

    Everything follows from the histograms of groups: a half or a resample is a weighted sum.
    """
    sides = (a, b)
    low, high = joint_range(*(channel_range(side.reshape(-1, side.shape[2])) for side in sides))
    p, q = (
        _group_histograms(side, images, low, high, spec.bins)
        for side, images in zip(sides, draws.images, strict=True)
    )
    value = hellinger_of_counts(p.sum(0), q.sum(0))
    channels = value.shape[0]
    null = np.full(channels, np.nan)
    drawn = np.full(spec.bootstrap_draws, np.nan if draws.halves is None else 0.0)
    step = max(1, _CELLS // (spec.bins * max(spec.bootstrap_draws, spec.null_draws)))
    for start in range(0, channels, step):
        part = slice(start, start + step)
        pp, qq = p[:, part].astype(np.float64), q[:, part].astype(np.float64)
        if draws.halves is not None:
            first, second = _sum(draws.halves, pp), _sum(1 - draws.halves, pp)
            null[part] = hellinger_of_counts(first, second).mean(0)
            resampled = hellinger_of_counts(*map(_sum, draws.resamples, (pp, qq)))
            drawn += resampled.sum(1) / channels
    return value, null, drawn


def _group_histograms(
    features: npt.NDArray[np.float32],
    groups: npt.NDArray[np.int64],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    bins: int,
) -> npt.NDArray[np.int32]:
    """(N, K, D) features of N images as (G, D, B) counts of G groups."""
    counts = np.zeros((groups.max() + 1, features.shape[2], bins), np.int32)
    for image, group in zip(features, groups, strict=True):
        counts[group] += histogram(image, low, high, bins).astype(np.int32)
    return counts


def _sum(weights: Weights, counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(draws, G) x (G, D, B) -> (draws, D, B)."""
    return np.tensordot(weights, counts, 1)


def batches_of(images: Images, size: int, name: str) -> Iterator[Tensor]:
    """Batches of an array, or of a loader as they come; `ValueError` names an empty array."""
    if isinstance(images, np.ndarray | Tensor):
        if images.ndim not in (4, 5) or len(images) == 0:
            raise ValueError(f"{name} must be (N, C, H, W) with N >= 1, got {tuple(images.shape)}")
        array, starts = images, range(0, len(images), size)
        images = (array[start : start + size] for start in starts)
    for batch in images:
        yield torch.as_tensor(batch[0] if isinstance(batch, list | tuple) else batch)


def _codes(features: Features, groups: Groups | None, name: str) -> npt.NDArray[Any]:
    images = len(next(iter(features.values())))
    # without labels nothing says that images are paired, so no name may be in both sets
    own = [f"{name} {index}" for index in range(images)]
    labels = np.asarray(own if groups is None else groups)
    if labels.shape != (images,):
        raise ValueError(f"groups of the {name} must be one label per image, {images}")
    return labels
