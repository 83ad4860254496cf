"""Pixels of the sets that were found: cropped, resized or cut into tiles, with masks alike."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from skipshift import shifts
from skipshift.data.images import Pixels, centre_crop, read_mask, to_8_bit
from skipshift.data.manifest import check_sizes
from skipshift.data.sets.sources import (
    FoundSet,
    ImageSet,
    Item,
    find_pair,
    find_set,
    read_volume,
)
from skipshift.data.sets.tiles import is_slide, read_tiles
from skipshift.data.slices import read_slices, shape_of
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.specs import ReadingSpec


def read_found(found: FoundSet, classes: int | None = None, ignore: int | None = None) -> ImageSet:
    """Read a set; with its masks if the number of ``classes`` is given and it has them.

    Images with masks are rounded to 8 bits, as those of a training are. `SkipshiftError` names a
    broken file, a mask that does not fit its image or has other values, or a set that a shift
    cannot be applied to.
    """
    labelled = classes is not None and all(item.mask for item in found.items)
    images, masks = [], []
    for file, group in groupby(found.items, lambda item: item.file):
        own = list(group)
        for item, image in zip(own, _images(file, own, found.reading), strict=True):
            images.append(to_8_bit(image) if labelled else image)
            if labelled and classes is not None:
                masks.append(_mask(item, found.reading, classes, ignore))
    stacked = ImageSet(np.stack(images), found.groups, np.stack(masks) if masks else None)
    return stacked if found.shift is None else shift_set(stacked, found.shift)


def read_found_pair(
    found: tuple[FoundSet, FoundSet], classes: int | None = None, ignore: int | None = None
) -> tuple[ImageSet, ImageSet]:
    """Read both sets as `read_found` does; of a shift of the first, the first is read once."""
    first = read_found(found[0], classes, ignore)
    if found[1].shift is not None:
        return first, shift_set(first, found[1].shift)
    return first, read_found(found[1], classes, ignore)


def read_set(source: str, reading: ReadingSpec | None = None, seed: int = 0) -> ImageSet:
    """Find and read the images of a set; `SkipshiftError` as in `find_set`."""
    return read_found(find_set(source, reading, seed))


def read_pair(
    reference: str, shifted: str, reading: ReadingSpec | None = None, seed: int = 0
) -> tuple[ImageSet, ImageSet]:
    """Find and read two sets of images of one size.

    `SkipshiftError` as in `find_pair`, and if sizes differ.
    """
    return read_found_pair(find_pair(reference, shifted, reading, seed, one_size=True))


def shift_set(reference: ImageSet, shift: str) -> ImageSet:
    """Apply a synthetic shift to a set of images; each keeps its group and mask.

    `SkipshiftError` unless they are 8-bit images.
    """
    images = reference.images
    if images.dtype != np.uint8 or images.ndim != 4:
        kind = "volumes" if images.ndim == 5 else str(images.dtype)
        raise SkipshiftError(f"{shift}: shifts apply to 8-bit images, but the reference has {kind}")
    return replace(reference, images=shifts.apply(images, shift))


def _images(file: Path, items: Sequence[Item], reading: ReadingSpec) -> Iterator[npt.NDArray[Any]]:
    """Read the images of one file, cropped or resized, (H, W, C) or (D, H, W, C)."""
    if reading.tile is not None:
        yield from read_tiles(file, [item.part for item in items], reading.tile, reading.mpp)
        return
    pixels = read_volume(file) if reading.volumes else read_slices(file).pixels
    for item in items:
        yield _placed(pixels if reading.volumes else pixels[item.part or 0], reading, file)


def _mask(item: Item, reading: ReadingSpec, classes: int, ignore: int | None) -> Pixels:
    """Read the mask of an image, (H, W), cropped or resized alike."""
    if item.mask is None or is_slide(item.file):
        raise SkipshiftError(
            f"{item.file}: is a slide, whose mask is not cut; prepare tiles with skipshift prepare"
        )
    mask = read_mask(item.mask, classes, ignore)
    check_sizes(item.mask, mask.shape, shape_of(item.file)[1:])
    if reading.tile is not None:
        left, top = item.part
        return mask[top : top + reading.tile, left : left + reading.tile]
    return np.asarray(_placed(mask, reading, item.mask, cv2.INTER_NEAREST), np.uint8)


def _placed(
    image: npt.NDArray[Any], reading: ReadingSpec, file: Path, method: int | None = None
) -> npt.NDArray[Any]:
    """Crop or resize (H, W, ...) or a volume; images by area averages where they shrink."""
    if image.ndim == 4:
        return np.stack([_placed(part, reading, file, method) for part in image])
    if reading.resize is not None and reading.sides is not None:
        height, width = reading.sides
        shrinks = height * width < image.shape[0] * image.shape[1]
        if method is None:
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        # OpenCV knows no integers of 32 bits
        values = image.astype(np.float32) if image.dtype.itemsize > 2 else image
        resized = cv2.resize(values, (width, height), interpolation=method)
        # and drops the axis of a single channel
        image = np.asarray(resized).reshape(height, width, *image.shape[2:])
    if reading.crop is not None:
        try:
            image = centre_crop(image, reading.crop)
        except ArgumentError as error:
            raise SkipshiftError(f"{file}: {error}; choose a smaller --crop") from None
    return image
