"""Remedies of the input: its intensities matched to the reference, and mistakes undone."""

from collections.abc import Callable, Mapping
from itertools import permutations

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
    channels = _channels(setting)
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
    return Channels((2, 1, 0)) if _channels(setting) == 3 else None


def imagenet(setting: Setting) -> nn.Module | None:
    """Standardise colours in [0, 1] by ImageNet's statistics, which was forgotten."""
    mean, std = IMAGENET
    return Affine(1 / std, -mean / std) if _channels(setting) == 3 else None


def undo_imagenet(setting: Setting) -> nn.Module | None:
    """Undo a standardisation by ImageNet's statistics, which was done twice."""
    return Affine(IMAGENET[1], IMAGENET[0]) if _channels(setting) == 3 else None


def flip_mean(setting: Setting) -> nn.Module:
    """Average the predictions over flips (test-time augmentation)."""
    return MeanOverFlips(setting.sides)


def _times(factor: float) -> Make:
    return lambda _setting: Affine(torch.tensor([factor]), torch.zeros(1))


def _spacing(factor: float) -> Make:
    return lambda _setting: Resampled(factor, STRIDE)


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

SPACINGS: Mapping[str, Make] = {
    "spacing-0.5": _spacing(0.5),
    "spacing-0.67": _spacing(2 / 3),
    "spacing-1.5": _spacing(1.5),
    "spacing-2": _spacing(2.0),
}
"""Images resampled by a factor; predictions are resampled back."""

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


def _fixed(name: str, make: Make) -> Remedy:
    def offer(setting: Setting, place: Place) -> Fit | None:
        change = make(setting) if place.name == INPUT else None
        return None if change is None else lambda _without, _weight: Change(inputs=(change,))

    return Remedy(name, offer, fitted=False)


def _fitted(name: str, make: Callable[[Setting, int | None], nn.Module]) -> Remedy:
    def offer(setting: Setting, place: Place) -> Fit | None:
        if place.name != INPUT:
            return None
        return lambda without, _weight: Change(inputs=(make(setting, without),))

    return Remedy(name, offer)


INPUT_REMEDIES = (
    _fitted("brightness", brightness),
    _fitted("gamma", gamma),
    _fixed("image-moments", image_moments),
    _fixed("image-histogram", image_histogram),
    _fixed("zscore", zscore),
    _fixed("minmax", minmax),
    _fixed("flip-mean", flip_mean),
    *(_fixed(name, make) for name, make in MISTAKES.items()),
)


def _channels(setting: Setting) -> int:
    return len(setting.known.moments(INPUT)[0])
