"""Mistakes in reading and preprocessing, made on images: the inverse of what undoes them."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from skipshift.names import STRIDE
from skipshift.networks.changes import Affine, Axes, Channels, ImageMoments, Resampled, resize
from skipshift.remedies.input_remedies import AXES, MISTAKES, RANGES, SPACINGS
from skipshift.remedies.setting import Setting

CAUSES: Mapping[str, str] = {
    "flip-horizontal": "flip",
    "flip-vertical": "flip",
    "transpose-180": "flip",
    "turn-90": "turn",
    "turn-180": "turn",
    "turn-270": "turn",
    "transpose": "axis order",
    **dict.fromkeys(AXES, "axis order"),
    "reverse-channels": "channel order",
    "invert": "inversion",
    **dict.fromkeys(RANGES, "range"),
    "imagenet": "normalisation",
    "undo-imagenet": "normalisation",
    "image-moments": "normalisation",
    **dict.fromkeys(SPACINGS, "spacing"),
}
"""What undoes a mistake -> the name of the mistake."""


class TurnedBack(nn.Module):
    """The inverse of turning images."""

    def __init__(self, axes: Axes) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (N, C, ...) back."""
        return self.axes.back(images)


class Respaced(nn.Module):
    """Resample images by a factor for each side, or one for all.

    They are cut at the centre to sides that the network takes: a side stays a multiple of the
    largest power of 2, up to 32, that divides it.
    """

    def __init__(self, factor: float | Sequence[float]) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        """Resample images (N, C, ...)."""
        old = images.shape[2:]
        steps = [math.gcd(side, STRIDE) for side in old]
        factors = self.factor if isinstance(self.factor, Sequence) else [self.factor] * len(old)
        new = [round(side * factor) for side, factor in zip(old, factors, strict=True)]
        cut = [max(step, side // step * step) for side, step in zip(new, steps, strict=True)]
        new = [max(pair) for pair in zip(new, cut, strict=True)]
        return centred(resize(images, new), cut)


def centred(images: Tensor, sides: Sequence[int]) -> Tensor:
    """Cut the centre out of images (N, C, ...), along the sides that are longer."""
    for axis, side in enumerate(sides, 2):
        if (over := images.shape[axis] - side) > 0:
            images = images.narrow(axis, over // 2, side)
    return images


def mistakes(setting: Setting) -> Iterator[tuple[str, nn.Module]]:
    """Yield what undoes each mistake that images like these can have, and what makes it."""
    for name, make in MISTAKES.items():
        undo = make(setting)
        if undo is not None:
            yield name, _inverse(undo)
    yield "image-moments", ImageMoments(torch.zeros(1), torch.ones(1))


def _inverse(undo: nn.Module) -> nn.Module:
    if isinstance(undo, Affine):
        return Affine(1 / undo.scale, -undo.offset / undo.scale)
    if isinstance(undo, Channels):
        return Channels(tuple(map(undo.order.index, range(len(undo.order)))))
    if isinstance(undo, Resampled):
        factors = undo.factor
        inverse = tuple(1 / f for f in factors) if isinstance(factors, tuple) else 1 / factors
        return Respaced(inverse)
    assert isinstance(undo, Axes)
    return TurnedBack(undo)
