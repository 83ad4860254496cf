"""What is done to an image before a network sees it: as the network's owner trained it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from skipshift.errors import ArgumentError
from skipshift.names import import_function

Floats = npt.NDArray[np.float32]

Preprocess = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""(C, H, W) or (C, D, H, W) as stored -> the same shape as the network takes it."""


def unit(image: npt.NDArray[Any]) -> Floats:
    """Divide by the largest level of the type: x / 255, or x / 65535 of 16 bits."""
    if image.dtype not in (np.uint8, np.uint16):
        raise ArgumentError(
            f"preprocess unit needs images of 8 or 16 bits, got {image.dtype}; "
            f"choose minmax, zscore, none or a function"
        )
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def minmax(image: npt.NDArray[Any]) -> Floats:
    """Stretch one image, all its channels together, to [0, 1]; a constant one is 0."""
    values = image.astype(np.float32)
    low, high = values.min(), values.max()
    return np.asarray((values - low) / (high - low or 1), np.float32)


def zscore(image: npt.NDArray[Any]) -> Floats:
    """Shift and scale each channel of one image to mean 0 and spread 1; a constant one is 0."""
    values = image.astype(np.float32)
    axes = tuple(range(1, values.ndim))
    spread = values.std(axes, keepdims=True)
    levels = (values - values.mean(axes, keepdims=True)) / np.where(spread > 0, spread, 1)
    return np.asarray(levels, np.float32)


def imagenet(image: npt.NDArray[Any]) -> Floats:
    """Scale RGB to unit, then by the means and spreads of ImageNet that torchvision gives."""
    if image.shape[0] != 3:
        raise ArgumentError(f"preprocess imagenet needs 3 channels, got {image.shape[0]}")
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    spread = np.array([0.229, 0.224, 0.225], np.float32)
    levels = np.moveaxis(unit(image), 0, -1)
    return np.moveaxis((levels - mean) / spread, -1, 0)


def none(image: npt.NDArray[Any]) -> Floats:
    """Leave the values as they are stored."""
    return image.astype(np.float32)


PREPROCESS: Mapping[str, Preprocess] = {
    f.__name__: f for f in (unit, minmax, zscore, imagenet, none)
}
"""Ways to prepare an image by name."""


def preprocess_of(name: str) -> Preprocess:
    """Find a function of `PREPROCESS`, or another one by ``module:function``.

    `ArgumentError` if there is none.
    """
    if ":" in name:
        return import_function(name)
    if name not in PREPROCESS:
        choices = ", ".join(PREPROCESS)
        raise ArgumentError(f"unknown preprocess {name!r}; choose {choices} or module:function")
    return PREPROCESS[name]


def prepare(images: npt.NDArray[Any], function: Preprocess) -> Floats:
    """Prepare each image of a batch (N, H, W, C) or (N, D, H, W, C) by itself, channels first.

    >>> prepare(np.full((1, 2, 2, 3), 255, np.uint8), unit).shape
    (1, 3, 2, 2)
    """
    done = [np.asarray(function(np.moveaxis(image, -1, 0)), np.float32) for image in images]
    return np.stack(done)
