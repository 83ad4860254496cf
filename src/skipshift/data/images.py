"""Images and masks: read from and written to files."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

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


@contextlib.contextmanager
def one_thread_an_image() -> Iterator[None]:
    """Keep OpenCV to the calling thread, where images are shared out among threads already."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
