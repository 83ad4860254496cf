"""Images and masks: reading, converting, cropping and writing."""

import contextlib
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from skipshift.errors import ArgumentError, SkipshiftError, unreadable
from skipshift.names import LARGEST_LABEL, shown
from skipshift.records import write_bytes

Pixels = npt.NDArray[np.uint8]
"""(H, W, C) or (H, W) of 8 bits."""
Level = TypeVar("Level", bound=np.generic)

NativePixels = npt.NDArray[Any]
"""Pixels at the bit depth of their file: uint8, uint16, int32 or float32."""

_ORIENTATION, _LAST_UPRIGHT = 274, 4
"""EXIF's tag of an orientation, and the last of its values that leaves rows as rows."""

_DESCRIPTION = 270
"""TIFF's tag of a description."""

_LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000")


def read_image(path: Path) -> Pixels:
    """Read an image as (H, W, C) uint8, C = 3 (RGB) or 1 (grey); alpha is dropped.

    16 bits are rounded to 8. `SkipshiftError` as in `read_native`.
    """
    return to_8_bit(read_native(path))


def read_native(path: Path, any_depth: bool = False) -> NativePixels:
    """Read an image as (H, W, C) at its own bit depth, uint8 or uint16, turned as its EXIF says.

    ``any_depth`` also accepts 32-bit images of one channel, int32 or float32. `SkipshiftError` if
    the file is missing, not an image, truncated, too large, of several pages or of another depth.
    """
    with _opened(path, any_depth) as image:
        whole = image.mode in ("I", "F") or image.mode.startswith("I;16")
        if _is_16_bit(image) and not whole:
            # Pillow silently keeps the upper byte of 16-bit colours
            return _decode_16_bit_colour(path, image)
        grey = _is_grey(image)
        upright = ImageOps.exif_transpose(image)
        direct = whole or image.mode in ("L", "RGB")
        pixels = np.asarray(upright if direct else upright.convert("L" if grey else "RGB"))
    pixels = _native_order(pixels)
    return pixels[..., None] if grey else pixels


def image_size(path: Path) -> tuple[int, int]:
    """Read width and height from an image's header; `SkipshiftError` if it cannot be read."""
    height, width, _ = image_shape(path)
    return width, height


def image_shape(path: Path) -> tuple[int, int, int]:
    """Shape (H, W, C) that `read_native` gives, from an image's header.

    `SkipshiftError` if it cannot be read.
    """
    with _opened(path, any_depth=True) as image:
        width, height = image.size[::-1] if _is_sideways(image) else image.size
        return height, width, 1 if _is_grey(image) else 3


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("L", "1", "LA", "I", "F") or image.mode.startswith("I;16")


def to_8_bit(pixels: NativePixels) -> Pixels:
    """Round 16 bits to 8: 65535 becomes 255, so x / 65535 equals x / 255.

    >>> to_8_bit(np.array([0, 128, 129, 65535], np.uint16)).tolist()
    [0, 0, 1, 255]
    """
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def convert_channels(pixels: NativePixels, channels: int) -> NativePixels:
    """Convert (H, W, 1) or (H, W, 3) to grey (ITU-R 601) for 1 channel, or to RGB for 3."""
    if pixels.shape[2] == channels:
        return pixels
    code = cv2.COLOR_GRAY2RGB if channels == 3 else cv2.COLOR_RGB2GRAY
    converted: NativePixels = np.asarray(cv2.cvtColor(pixels, code), dtype=pixels.dtype)
    # OpenCV drops the axis of a single channel
    return converted.reshape(*pixels.shape[:2], channels)


def centre_crop(pixels: npt.NDArray[Level], side: int) -> npt.NDArray[Level]:
    """Crop (H, W, ...) to the centred square of ``side``; `ArgumentError` if it does not fit."""
    height, width = pixels.shape[:2]
    if side > min(height, width):
        raise ArgumentError(f"a crop of {side} does not fit an image of {height} x {width}")
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def shrink(pixels: npt.NDArray[Any], side: int, method: int = cv2.INTER_AREA) -> npt.NDArray[Any]:
    """Resize (H, W, ...) to a longest side of at most ``side``; smaller images are not enlarged."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    wide, high = (max(1, round(length * scale)) for length in (width, height))
    small = cv2.resize(pixels, (wide, high), interpolation=method)
    # OpenCV drops the axis of a single channel
    return np.asarray(small).reshape(high, wide, *pixels.shape[2:])


def square_crop(pixels: npt.NDArray[Level]) -> npt.NDArray[Level]:
    """Crop to the centred square whose side is the shorter side rounded down to a multiple of 32.

    `ArgumentError` if a side is below 32.

    >>> [square_crop(np.zeros(shape)).shape for shape in [(240, 196), (512, 440)]]
    [(192, 192), (416, 416)]
    """
    height, width = pixels.shape[:2]
    if min(height, width) < 32:
        raise ArgumentError(f"an image must be at least 32 x 32, got {height} x {width}")
    return centre_crop(pixels, min(height, width) // 32 * 32)


def stretch_to_16_bit(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint16] | None:
    """Rescale numbers of any type to the full range of 16 bits; None if all are equal.

    `ArgumentError` for NaN or infinity.
    """
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite(low + high):
        raise ArgumentError("contains NaN or infinity; correct the file")
    if low == high:
        return None
    levels = (pixels.astype(np.float64) - low) * (65535 / (high - low))
    return np.rint(levels).astype(np.uint16)


def read_array(path: Path) -> NativePixels:
    """Read a NumPy array of real numbers, also the only one of an .npz archive.

    `SkipshiftError` if the file holds none.
    """
    try:
        array = np.load(path, allow_pickle=False)
        if isinstance(array, np.lib.npyio.NpzFile):
            with array:
                if len(array.files) != 1:
                    raise SkipshiftError(
                        f"{path}: holds {len(array.files)} arrays ({shown(array.files[:5])}); "
                        f"save the one that counts with numpy.save"
                    )
                array = array[array.files[0]]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise unreadable(path, "an array", error) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif" or not array.size:
        raise SkipshiftError(f"{path}: is not an array of numbers; save one with numpy.save")
    return _native_order(array)


def _native_order(pixels: NativePixels) -> NativePixels:
    """Numbers in this machine's order of bytes, whatever that of their file."""
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def read_mask(path: Path, classes: int, ignore: int | None = None) -> Pixels:
    """Read a mask of class indices as (H, W) uint8, with ``ignore`` where a pixel does not count.

    `SkipshiftError` for any other value that is no class.
    """
    labels = read_labels(path)
    values = np.unique(labels)
    if unknown := [int(value) for value in values if value >= classes and value != ignore]:
        way_out = "name every class or correct the mask"
        if set(values.tolist()) == {0, LARGEST_LABEL}:
            way_out = "where 255 is the foreground, skipshift prepare folder makes class indices"
        if ignore is None:
            way_out += ", or set ignore to the value of pixels that are not to be counted"
            way_out += f", as in --ignore {unknown[0]}"
        raise SkipshiftError(
            f"{path}: mask has labels {shown(unknown[:5])}, but the classes are 0..{classes - 1}; "
            f"{way_out}"
        )
    return labels.astype(np.uint8, copy=False)


def read_labels(path: Path) -> NativePixels:
    """Read an image of one channel as (H, W) numbers, a palette image as its indices.

    `SkipshiftError` if it has several channels or cannot be read.
    """
    with _opened(path, any_depth=True) as image:
        if not _is_one_channel(image):
            raise SkipshiftError(
                f"{path}: a mask must have one channel of class indices, got mode {image.mode}"
            )
        labels = np.asarray(ImageOps.exif_transpose(image))
    # Pillow's convert() would turn the class index 1 of a bitmap into grey level 255
    return labels.astype(np.uint8) if labels.dtype == np.bool_ else _native_order(labels)


def read_mask_codes(path: Path, in_colour: bool = False) -> NativePixels:
    """Read a mask as (H, W) codes: labels as in `read_labels`, or colours as 0xRRGGBB.

    ``in_colour`` reads grey levels and palettes as colours too. `SkipshiftError` if the file cannot
    be read.
    """
    with _opened(path, any_depth=True) as image:
        one_channel = _is_one_channel(image)
    if one_channel and not in_colour:
        return read_labels(path)
    colours = convert_channels(to_8_bit(read_native(path)), 3)
    return np.asarray(colours @ np.array([1 << 16, 1 << 8, 1]), dtype=np.int64)


def is_picture(path: Path) -> bool:
    """Whether Pillow knows the format of a file; True for a missing one, which is another error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            Image.open(path).close()
    except UnidentifiedImageError:
        return False
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return True
    return True


def is_lossy(path: Path) -> bool:
    """Whether an image file's format may have changed pixel values; `SkipshiftError` as above."""
    with _opened(path, any_depth=True) as image:
        return image.format in _LOSSY or image.info.get("compression") == "jpeg"


@contextlib.contextmanager
def _opened(path: Path, any_depth: bool = False) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                wide = image.mode in ("I", "F") and not _is_16_bit(image)
                if wide and not any_depth:
                    raise SkipshiftError(
                        f"{path}: is not of 8 or 16 bits (mode {image.mode}); convert it"
                    )
                _check_pages(path, image)
                yield image
    except UnidentifiedImageError:
        raise SkipshiftError(f"{path}: is not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        # raised from the header, before decoding
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise SkipshiftError(f"{path}: has more than {limit} pixels; cut it into tiles") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise unreadable(path, "an image", error) from None


def _check_pages(path: Path, image: Image.Image) -> None:
    """Raise a `SkipshiftError` for pages as large as the first, of which none may be dropped.

    Smaller pages are levels of a pyramid or thumbnails.
    """
    pages = getattr(image, "n_frames", 1)
    area = image.width * image.height
    alike = 1
    # the further pictures of a phone's JPEG show the same scene
    for page in range(1, 1 if image.format == "MPO" else pages):
        image.seek(page)
        alike += image.width * image.height >= area
    if pages > 1:
        image.seek(0)
    # ImageJ describes the pages of its largest stacks in words alone
    words = str(getattr(image, "tag_v2", {}).get(_DESCRIPTION, ""))
    described = re.match(r"ImageJ=[\s\S]*?^images=(\d+)", words, re.MULTILINE)
    alike = max(alike, int(described[1]) if described else 1)
    if alike > 1:
        way_out = "save the one that counts as a file"
        if image.format == "TIFF":
            way_out = "prepare it with --pages channels, slices or objects, or save each as a file"
        raise SkipshiftError(f"{path}: has {alike} pages of one size; {way_out}")


def _is_one_channel(image: Image.Image) -> bool:
    return image.mode in ("L", "P", "1", "I", "F") or image.mode.startswith("I;16")


def exif_turn(path: Path) -> int:
    """Tell the orientation in a file's EXIF tag, 1 to 8; 1, upright, where there is none."""
    try:
        with Image.open(path) as image:
            return int(image.getexif().get(_ORIENTATION, 1))
    except OSError:  # other formats than Pillow's have no such tag
        return 1


def _is_sideways(image: Image.Image) -> bool:
    """Whether EXIF says that rows are columns; Pillow turns TIFF files itself."""
    return image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) > _LAST_UPRIGHT


def _is_16_bit(image: Image.Image) -> bool:
    """Whether a file stores 16 bits per channel; for colours, the mode does not show it."""
    stored = repr([tile[3] for tile in getattr(image, "tile", ())])
    return image.mode.startswith("I;16") or (";16" in stored and ";16S" not in stored)


def _decode_16_bit_colour(path: Path, image: Image.Image) -> npt.NDArray[np.uint16]:
    # raises if the file is truncated, which OpenCV would fill silently
    image.load()
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    if pixels is None or pixels.dtype != np.uint16:
        raise SkipshiftError(f"{path}: cannot be read as a 16-bit image; save it again as PNG")
    channels = pixels[..., None] if pixels.ndim == 2 else pixels[..., ::-1]
    return np.ascontiguousarray(channels, dtype=np.uint16)


def write_png(path: Path, pixels: NativePixels) -> None:
    """Write (H, W), (H, W, 1) or (H, W, 3) RGB, uint8 or uint16, as PNG, atomically.

    `ArgumentError` for arrays that PNG cannot store.
    """
    if pixels.ndim == 3 and pixels.shape[-1] == 3:
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    done, buffer = cv2.imencode(".png", pixels)
    if not done:
        raise ArgumentError(f"cannot encode an array of shape {pixels.shape} as PNG")
    write_bytes(path, buffer.tobytes())


@contextlib.contextmanager
def single_threaded_opencv() -> Iterator[None]:
    """Limit OpenCV to one thread per call, for loops that run one image per thread."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
