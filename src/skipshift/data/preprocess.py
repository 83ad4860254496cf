"""Preprocessing: from stored pixels to the input values that a network was trained on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skipshift.errors import ArgumentError
from skipshift.names import import_function

Floats = npt.NDArray[np.float32]

Preprocess = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""(C, H, W) or (C, D, H, W) as stored -> input values of the same shape."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of torchvision, for RGB in [0, 1]."""


def unit(image: npt.NDArray[Any]) -> Floats:
    """Divide by the largest level: x / 255, or x / 65535 for 16 bits.

    `ArgumentError` for other types.
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise ArgumentError(
            f"preprocess unit needs 8-bit or 16-bit images, got {image.dtype}; "
            f"choose minmax, zscore, none or a function"
        )
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


def minmax(image: npt.NDArray[Any]) -> Floats:
    """Rescale an image, all channels together, to [0, 1]; a constant image becomes 0."""
    values = image.astype(np.float32)
    low, high = values.min(), values.max()
    return np.asarray((values - low) / (high - low or 1), np.float32)


def zscore(image: npt.NDArray[Any]) -> Floats:
    """Standardise each channel of an image to mean 0 and standard deviation 1; constants to 0."""
    values = image.astype(np.float32)
    axes = tuple(range(1, values.ndim))
    std = values.std(axes, keepdims=True)
    levels = (values - values.mean(axes, keepdims=True)) / np.where(std > 0, std, 1)
    return np.asarray(levels, np.float32)


def standardise(image: npt.NDArray[Any], mean: Sequence[float], std: Sequence[float]) -> Floats:
    """Scale to [0, 1], then subtract a mean and divide by a standard deviation a channel.

    `ArgumentError` for other types than `unit` takes, or another number of channels.
    """
    if image.shape[0] != len(mean):
        raise ArgumentError(
            f"preprocess with {len(mean)} means needs {len(mean)} channels, got {image.shape[0]}"
        )
    levels = np.moveaxis(unit(image), 0, -1)
    scaled = (levels - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.moveaxis(np.asarray(scaled, np.float32), -1, 0)


def imagenet(image: npt.NDArray[Any]) -> Floats:
    """Scale RGB to [0, 1], then standardise by the ImageNet statistics of torchvision.

    `ArgumentError` for other types or numbers of channels.
    """
    if image.shape[0] != 3:
        raise ArgumentError(f"preprocess imagenet needs 3 channels, got {image.shape[0]}")
    return standardise(image, IMAGENET_MEAN, IMAGENET_STD)


def none(image: npt.NDArray[Any]) -> Floats:
    """Keep the stored values, as float32."""
    return image.astype(np.float32)


PREPROCESS: Mapping[str, Preprocess] = {
    f.__name__: f for f in (unit, minmax, zscore, imagenet, none)
}
"""Preprocessing functions by name."""


def preprocess_of(name: str) -> Preprocess:
    """Look up a function in `PREPROCESS`, or import one given as ``module:function``.

    ``standardise(mean=(0.5,), std=(0.5,))`` is `standardise` with these numbers.
    `ArgumentError` for an unknown name.
    """
    if name.startswith("standardise("):
        return import_function(f"{__name__}:{name}")
    if ":" in name:
        return import_function(name)
    if name not in PREPROCESS:
        choices = ", ".join(PREPROCESS)
        raise ArgumentError(f"unknown preprocess {name!r}; choose {choices} or module:function")
    return PREPROCESS[name]


def prepare(images: npt.NDArray[Any], function: Preprocess) -> Floats:
    """Preprocess each image of a batch (N, H, W, C) or (N, D, H, W, C); channels come first.

    >>> prepare(np.full((1, 2, 2, 3), 255, np.uint8), unit).shape
    (1, 3, 2, 2)
    """
    done = [np.asarray(function(np.moveaxis(image, -1, 0)), np.float32) for image in images]
    return np.stack(done)
