"""Images and masks: read from and written to files."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.records import write_bytes

Pixels = npt.NDArray[np.uint8]
NativePixels = npt.NDArray[Any]
"""Pixels as they are in a file: uint8, uint16 or float32."""


def read_image(path: Path) -> Pixels:
    """Decode an image as (H, W, C) uint8, C = 3 (RGB) or 1 (grey); alpha is dropped.

    16-bit levels are rounded to the nearest of 8 bits. `SkipshiftError` as `read_native`.
    """
    return to_8_bit(read_native(path))


def read_native(path: Path, floats: bool = False) -> NativePixels:
    """Decode an image as (H, W, C) as it is stored, uint8 or uint16; ``floats`` of one channel too.

    `SkipshiftError` if the file is absent, no image, truncated, too large or of other depths.
    """
    with _opened(path, floats) as image:
        if image.mode.startswith("I;16"):
            return np.asarray(image, dtype=np.uint16)[..., None]
        if image.mode == "F":
            return np.asarray(image, dtype=np.float32)[..., None]
        if _is_16_bit(image):
            # Pillow gives the upper half of a 16-bit colour and says nothing
            return _decode_16_bit_colour(path, image)
        grey = image.mode in ("L", "1", "LA")
        direct = image.mode in ("L", "RGB")
        converted = image if direct else image.convert("L" if grey else "RGB")
        pixels = np.asarray(converted, dtype=np.uint8)
    return pixels[..., None] if grey else pixels


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image, from its header alone."""
    with _opened(path) as image:
        return image.size


def to_8_bit(pixels: NativePixels) -> Pixels:
    """Round 16-bit levels to the nearest of 8 bits: 65535 is 255, so x / 65535 stays x / 255.

    >>> to_8_bit(np.array([0, 128, 129, 65535], np.uint16)).tolist()
    [0, 0, 1, 255]
    """
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def convert_channels(pixels: NativePixels, channels: int) -> NativePixels:
    """Turn (H, W, 1) or (H, W, 3) into grey (ITU-R 601, 1) or colour (3)."""
    if pixels.shape[2] == channels:
        return pixels
    code = cv2.COLOR_GRAY2RGB if channels == 3 else cv2.COLOR_RGB2GRAY
    turned: NativePixels = np.asarray(cv2.cvtColor(pixels, code), dtype=pixels.dtype)
    # OpenCV drops the axis of a single channel
    return turned.reshape(*pixels.shape[:2], channels)


def stretch_to_16_bit(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint16] | None:
    """Stretch numbers of any kind to the full range of 16 bits; None where all are equal.

    `ArgumentError` for NaN or infinity.
    """
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite(low + high):
        raise ArgumentError("has values that are no finite numbers; correct the file")
    if low == high:
        return None
    levels = (pixels.astype(np.float64) - low) * (65535 / (high - low))
    return np.rint(levels).astype(np.uint16)


def read_mask(path: Path, classes: int) -> Pixels:
    """Decode a mask of class indices as (H, W) uint8; `SkipshiftError` for unknown values."""
    labels = read_labels(path)
    unknown = sorted(int(value) for value in np.unique(labels) if value >= classes)
    if unknown:
        raise SkipshiftError(
            f"{path}: mask has labels {unknown[:5]}, but the classes are 0..{classes - 1}; "
            f"name every class or correct the mask"
        )
    return labels.astype(np.uint8, copy=False)


def read_labels(path: Path) -> NativePixels:
    """Decode a file of one channel as (H, W) numbers: of a palette image its indices."""
    with _opened(path) as image:
        if image.mode.startswith("I;16"):
            return np.asarray(image, dtype=np.uint16)
        if image.mode not in ("L", "P", "1"):
            raise SkipshiftError(
                f"{path}: a mask holds class indices in one channel, got mode {image.mode}"
            )
        # Pillow's own conversion would turn the class index 1 of a bitmap into grey level 255
        return np.asarray(image, dtype=np.uint8)


def read_mask_codes(path: Path, in_colour: bool = False) -> npt.NDArray[np.int64]:
    """Decode a file as (H, W) numbers: those of `read_labels`, or 0xRRGGBB of a colour.

    With ``in_colour`` grey levels and palettes are colours too.
    """
    with _opened(path) as image:
        one_channel = image.mode in ("L", "P", "1") or image.mode.startswith("I;16")
    if one_channel and not in_colour:
        return read_labels(path).astype(np.int64)
    colours = convert_channels(to_8_bit(read_native(path)), 3)
    return np.asarray(colours @ np.array([1 << 16, 1 << 8, 1]), dtype=np.int64)


@contextlib.contextmanager
def _opened(path: Path, floats: bool = False) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                known = _is_16_bit(image) or (floats and image.mode == "F")
                if image.mode.startswith(("I", "F")) and not known:
                    raise SkipshiftError(
                        f"{path}: is not of 8 or 16 bits (mode {image.mode}); convert it"
                    )
                yield image
    except UnidentifiedImageError:
        raise SkipshiftError(f"{path}: is not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        # Pillow looks at the header and refuses before it decodes
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise SkipshiftError(f"{path}: has more than {limit} pixels; cut it into tiles") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SkipshiftError(f"{path}: cannot be read as an image: {reason}") from None


def _is_16_bit(image: Image.Image) -> bool:
    """Whether a file stores 16 bits a channel; the mode alone does not tell it of colours."""
    stored = repr([tile[3] for tile in getattr(image, "tile", ())])
    return image.mode.startswith("I;16") or ";16" in stored


def _decode_16_bit_colour(path: Path, image: Image.Image) -> npt.NDArray[np.uint16]:
    # OpenCV fills what a truncated file lacks; Pillow refuses it
    image.load()
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise SkipshiftError(f"{path}: cannot be read as a 16-bit image; write it anew as PNG")
    channels = pixels[..., :1] if image.mode == "LA" else pixels[..., 2::-1]
    return np.ascontiguousarray(channels, dtype=np.uint16)


def write_png(path: Path, pixels: NativePixels) -> None:
    """Write (H, W), (H, W, 1) or (H, W, 3) RGB, uint8 or uint16, as PNG, in one piece."""
    if pixels.ndim == 3 and pixels.shape[-1] == 3:
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    done, buffer = cv2.imencode(".png", pixels)
    if not done:
        raise ArgumentError(f"cannot encode an array of shape {pixels.shape} as PNG")
    write_bytes(path, buffer.tobytes())


@contextlib.contextmanager
def single_threaded_opencv() -> Iterator[None]:
    """Keep OpenCV to the calling thread, where images are shared out among threads already."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
