"""Images and masks: read from and written to files."""

import contextlib
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from skipshift.records import write_bytes
from skipshift.specs import SkipshiftError

Pixels = npt.NDArray[np.uint8]


def read_image(path: Path) -> Pixels:
    """Decode an 8-bit image as (H, W, C) uint8, C = 3 (RGB) or 1 (grey); alpha is dropped.

    `SkipshiftError` if the file is absent, no image, truncated, 16-bit or too large.
    """
    mode, pixels = _decode(path)
    if mode in ("L", "1", "LA"):
        return pixels[..., None]
    return pixels


def read_deep(path: Path) -> npt.NDArray[Any]:
    """Decode an image as (H, W, C) as it is stored: uint8, uint16 or float32; C as in `read_image`.

    `SkipshiftError` as `read_image`, and for values of other types.
    """
    if path.suffix.lower() not in (".png", ".tif", ".tiff"):
        return read_image(path)
    try:
        stored = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error):
        stored = None
    if stored is not None and stored.dtype == np.uint8:
        # palettes and bitmaps are read in our own way
        return read_image(path)
    try:
        # OpenCV fills what a truncated file lacks; Pillow, which has no float colours, refuses it
        with contextlib.suppress(UnidentifiedImageError), Image.open(path) as image:
            image.load()
    except OSError as error:
        raise SkipshiftError(f"{path}: cannot be read as an image: {error}") from None
    if stored is None:
        return read_image(path)
    if stored.dtype not in (np.uint16, np.float32):
        raise SkipshiftError(f"{path}: holds {stored.dtype}; write it as 8 or 16 bits or float32")
    return stored[..., 2::-1] if stored.ndim == 3 else stored[..., None]


def read_mask(path: Path, classes: int) -> Pixels:
    """Decode a mask of class indices as (H, W) uint8; `SkipshiftError` for unknown values."""
    mode, pixels = _decode(path)
    if mode not in ("L", "P", "1"):
        raise SkipshiftError(f"{path}: a mask holds class indices in one channel, got mode {mode}")
    unknown = sorted(int(value) for value in np.unique(pixels) if value >= classes)
    if unknown:
        raise SkipshiftError(
            f"{path}: mask has labels {unknown[:5]}, but the classes are 0..{classes - 1}; "
            f"name every class or correct the mask"
        )
    return pixels


def _decode(path: Path) -> tuple[str, Pixels]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                mode = image.mode
                if mode.startswith(("I", "F")):
                    raise SkipshiftError(f"{path}: is not 8-bit (mode {mode}); convert it to 8-bit")
                direct = mode in ("L", "P", "RGB")
                grey = mode in ("1", "LA")
                if mode == "1":
                    # Pillow's own conversion would turn the class index 1 into grey level 255
                    return mode, np.asarray(image, dtype=np.uint8)
                converted = image if direct else image.convert("L" if grey else "RGB")
                return mode, np.asarray(converted, dtype=np.uint8)
    except UnidentifiedImageError:
        raise SkipshiftError(f"{path}: is not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        # Pillow looks at the header and refuses before it decodes
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise SkipshiftError(f"{path}: has more than {limit} pixels; cut it into tiles") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SkipshiftError(f"{path}: cannot be read as an image: {reason}") from None


def write_png(path: Path, pixels: Pixels) -> None:
    """Write (H, W), (H, W, 1) or (H, W, 3) RGB uint8 as PNG, in one piece."""
    if pixels.ndim == 3 and pixels.shape[-1] == 3:
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), dtype=np.uint8)
    done, buffer = cv2.imencode(".png", pixels)
    if not done:
        raise ValueError(f"cannot encode an array of shape {pixels.shape} as PNG")
    write_bytes(path, buffer.tobytes())
