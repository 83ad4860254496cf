"""Remedies of the input: its intensities matched to the reference, and mistakes undone."""

from collections.abc import Callable, Mapping
from itertools import permutations

import numpy as np
import torch
from scipy.optimize import brentq
from torch import nn

from skipshift.names import STRIDE
from skipshift.networks.changes import (
    Affine,
    Axes,
    Change,
    Channels,
    Gamma,
    ImageHistogram,
    ImageMoments,
    ImageRange,
    MeanOverFlips,
    Resampled,
)
from skipshift.networks.quantile_map import quantiles_of
from skipshift.networks.stain_maps import Macenko, Reinhard
from skipshift.remedies.places import INPUT, Place
from skipshift.remedies.setting import Fit, Remedy, Setting

Make = Callable[[Setting], nn.Module | None]
"""A map of the input from the sets, or None where it would change nothing."""

IMAGENET = (torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225]))
"""Mean and standard deviation by which torchvision's networks standardise colours in [0, 1]."""


def brightness(setting: Setting, without: int | None) -> nn.Module:
    """Multiply all channels by one factor, so that the mean is that of the reference."""
    wanted = setting.known.moments(INPUT)[0].mean()
    seen = setting.seen.moments(INPUT, without)[0].mean()
    factor = wanted / seen if seen != 0 else torch.tensor(1.0)
    return Affine(factor.reshape(1), torch.zeros(1))


def gamma(setting: Setting, without: int | None) -> nn.Module:
    """Bend all values by one power within the reference's range, to the reference's mean."""
    known, seen = setting.known.values(INPUT), setting.seen.values(INPUT, without)
    low, high = float(known.min()), float(known.max())
    if high <= low:
        return Gamma(1.0, 0.0, 1.0)

    def apart(log: float) -> float:
        return float(Gamma(2.0**log, low, high)(seen).mean() - known.mean())

    ends = (-3.0, 3.0)
    if apart(ends[0]) * apart(ends[1]) > 0:
        return Gamma(1.0, low, high)
    return Gamma(2.0 ** float(brentq(apart, *ends, xtol=1e-3)), low, high)


def image_moments(setting: Setting) -> nn.Module:
    """Give each channel of each image the mean and spread of the reference's values."""
    return ImageMoments(*setting.known.moments(INPUT))


def image_histogram(setting: Setting) -> nn.Module:
    """Match the histogram of each channel of each image to that of the reference's values."""
    return ImageHistogram(quantiles_of(setting.known.values(INPUT)))


def zscore(setting: Setting) -> nn.Module:
    """Standardise each channel of each image."""
    channels = setting.size[0]
    return ImageMoments(torch.zeros(channels), torch.ones(channels))


def minmax(setting: Setting) -> nn.Module:  # noqa: ARG001
    """Rescale each image to [0, 1]."""
    return ImageRange(0.0, 1.0)


def invert(setting: Setting) -> nn.Module:
    """Turn dark to bright: 1 - x for values in [0, 1], else within the reference's range."""
    known = setting.known.values(INPUT)
    low, high = known.aminmax()
    total = torch.ones(1) if low >= 0 and high <= 1 else (low + high).reshape(1)
    return Affine(-torch.ones(1), total)


def reverse_channels(setting: Setting) -> nn.Module | None:
    """Swap red and blue."""
    return Channels((2, 1, 0)) if setting.size[0] == 3 else None


def imagenet(setting: Setting) -> nn.Module | None:
    """Standardise colours in [0, 1] by ImageNet's statistics, which was forgotten."""
    mean, std = IMAGENET
    return Affine(1 / std, -mean / std) if setting.size[0] == 3 else None


def undo_imagenet(setting: Setting) -> nn.Module | None:
    """Undo a standardisation by ImageNet's statistics, which was done twice."""
    return Affine(IMAGENET[1], IMAGENET[0]) if setting.size[0] == 3 else None


def stain(kind: type[Reinhard] | type[Macenko]) -> Callable[[Setting, Place], Fit | None]:
    """Give RGB images in [0, 1] the stain of the reference, by torchstain."""

    def offer(setting: Setting, place: Place) -> Fit | None:
        if place.name != INPUT or INPUT not in setting.known.sums or setting.size[0] != 3:
            return None
        known = setting.known.values(INPUT)
        if setting.sides != 2 or known.min() < 0 or known.max() > 1:
            return None
        return lambda _without, _weight: Change(inputs=(kind.fitted(known),))

    return offer


def flip_mean(setting: Setting) -> nn.Module:
    """Average the predictions over flips (test-time augmentation)."""
    return MeanOverFlips(setting.sides)


def _times(factor: float) -> Make:
    return lambda _setting: Affine(torch.tensor([factor]), torch.zeros(1))


def _spacing(name: str) -> Make:
    return lambda setting: _resampled(setting).get(name)


def _resampled(setting: Setting) -> dict[str, Resampled]:
    """Resample by each factor; of several that give the same size, by the one nearest to it."""
    factors: dict[str, float | tuple[float, ...]] = {**_FACTORS}
    if setting.spacing:
        factors["spacing"] = setting.spacing
    sides = setting.size[1:]
    best: dict[tuple[int, ...], tuple[float, str]] = {}
    for name, factor in factors.items():
        change = Resampled(factor, STRIDE)
        wanted = np.broadcast_to(factor, len(sides)) * sides
        off = float(np.abs(np.log(wanted / change.sides(sides))).sum())
        found = (off if name in _FACTORS else -1.0, name)
        best[change.sides(sides)] = min(best.get(change.sides(sides), found), found)
    best.pop(tuple(sides), None)
    return {name: Resampled(factors[name], STRIDE) for _, name in best.values()}


def _turned(order: tuple[int, int], flips: tuple[int, ...]) -> Make:
    """Turn slices, or each plane of volumes."""

    def make(setting: Setting) -> nn.Module:
        first = setting.sides - 2
        moved = tuple(range(first)) + tuple(first + side for side in order)
        return Axes(moved, tuple(first + side for side in flips))

    return make


def _reordered(order: tuple[int, ...]) -> Make:
    return lambda setting: Axes(order) if setting.sides == 3 else None


TURNS: Mapping[str, Make] = {
    "flip-horizontal": _turned((0, 1), (1,)),
    "flip-vertical": _turned((0, 1), (0,)),
    "turn-180": _turned((0, 1), (0, 1)),
    "transpose": _turned((1, 0), ()),
    "turn-90": _turned((1, 0), (0,)),
    "turn-270": _turned((1, 0), (1,)),
    "transpose-180": _turned((1, 0), (0, 1)),
}
"""The seven ways to turn and flip a plane; turns are anticlockwise."""

AXES: Mapping[str, Make] = {
    "axes-" + "".join("DHW"[side] for side in order): _reordered(order)
    for order in permutations(range(3))
    if order[0] != 0
}
"""Other orders of a volume's axes; those that swap H and W alone are turns."""

RANGES: Mapping[str, Make] = {
    "times-255": _times(255),
    "over-255": _times(1 / 255),
    "times-16": _times(16),
    "over-16": _times(1 / 16),
}
"""Values of a wrong range: 8 bits not divided, or divided twice; 12 bits taken as 16, or back."""

_FACTORS = {"spacing-0.5": 0.5, "spacing-0.67": 2 / 3, "spacing-1.5": 1.5, "spacing-2": 2.0}

SPACINGS: Mapping[str, Make] = {name: _spacing(name) for name in ("spacing", *_FACTORS)}
"""Images resampled to the spacing of the reference, where both are known, or by a factor;
predictions are resampled back."""

MISTAKES: Mapping[str, Make] = {
    **TURNS,
    **AXES,
    "reverse-channels": reverse_channels,
    "invert": invert,
    **RANGES,
    "imagenet": imagenet,
    "undo-imagenet": undo_imagenet,
    **SPACINGS,
}
"""What undoes a mistake in reading or preprocessing."""


def _fixed(name: str, make: Make, needs_reference: bool = False) -> Remedy:
    def offer(setting: Setting, place: Place) -> Fit | None:
        if place.name != INPUT or (needs_reference and INPUT not in setting.known.sums):
            return None
        change = make(setting)
        return None if change is None else lambda _without, _weight: Change(inputs=(change,))

    return Remedy(name, offer, fitted=False)


def _fitted(name: str, make: Callable[[Setting, int | None], nn.Module]) -> Remedy:
    def offer(setting: Setting, place: Place) -> Fit | None:
        if place.name != INPUT or INPUT not in setting.known.sums:
            return None
        return lambda without, _weight: Change(inputs=(make(setting, without),))

    return Remedy(name, offer)


INPUT_REMEDIES = (
    _fitted("brightness", brightness),
    _fitted("gamma", gamma),
    _fixed("image-moments", image_moments, needs_reference=True),
    _fixed("image-histogram", image_histogram, needs_reference=True),
    Remedy("reinhard", stain(Reinhard), fitted=False),
    Remedy("macenko", stain(Macenko), fitted=False),
    _fixed("zscore", zscore),
    _fixed("minmax", minmax),
    _fixed("flip-mean", flip_mean),
    *(_fixed(name, make, make is invert) for name, make in MISTAKES.items()),
)
