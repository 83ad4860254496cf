"""The paper's synthetic image shifts: brightness, contrast and saturation (eq. 1-3).

All take and return uint8 arrays: RGB (H, W, 3), (N, H, W, 3), or grey (H, W, 1), (N, H, W, 1).
A factor is any finite number >= 0, and factor 1 is exactly the identity. `ArgumentError` names a
factor or an image that is neither.
"""

from collections.abc import Callable, Mapping

import cv2
import numpy as np
import numpy.typing as npt

from skipshift.errors import ArgumentError
from skipshift.names import ORIGINAL, PAPER_SHIFTS, parse_shift

__all__ = ["PAPER_SHIFTS", "SHIFTS", "apply", "brightness", "contrast", "saturation"]

Pixels = npt.NDArray[np.uint8]

_LEVELS = np.arange(256, dtype=np.float64)


def brightness(image: Pixels, factor: float) -> Pixels:
    """Scale every level by ``factor``, clip to 0..255 and truncate (eq. 1).

    Bit-identical to Pillow's ``ImageEnhance.Brightness``, which computes in single precision.
    """
    _check(image, factor)
    return _look_up(image, np.float32(factor) * _LEVELS.astype(np.float32))


def contrast(image: Pixels, factor: float) -> Pixels:
    """Scale levels about the mean grey of each image by ``factor``, clip and truncate (eq. 2).

    The mean is that of the 8-bit ITU-R 601 grey image, not rounded.
    """
    _check(image, factor)
    if image.ndim == 4:
        return np.stack([contrast(one, factor) for one in image]) if len(image) else image.copy()
    mean = cv2.mean(_grey(image))[0]
    return _look_up(image, _LEVELS * factor + mean * (1 - factor))


def saturation(image: Pixels, factor: float) -> Pixels:
    """Blend each pixel with its 8-bit ITU-R 601 grey and round to the nearest level (eq. 3).

    Factor 0 gives the grey image; an image of one channel is unchanged.
    """
    _check(image, factor)
    if image.shape[-1] == 1 or factor == 1 or image.size == 0:
        return image.copy()
    grey = cv2.cvtColor(_grey(image), cv2.COLOR_GRAY2RGB)
    blend = cv2.addWeighted(_rows(image), factor, grey, 1 - factor, 0)
    return np.asarray(blend, dtype=np.uint8).reshape(image.shape)


SHIFTS: Mapping[str, Callable[[Pixels, float], Pixels]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
}


def apply(image: Pixels, domain: str) -> Pixels:
    """Apply the shift that a domain name specifies, e.g. ``brightness:0.75`` or ``original``.

    `ArgumentError` if the name is neither a shift nor ``original``.
    """
    shift = parse_shift(domain)
    if shift is None:
        if domain == ORIGINAL:
            return image
        raise ArgumentError(
            f"{domain!r} is not a shift; use KIND:FACTOR with KIND one of {', '.join(SHIFTS)}"
        )
    kind, factor = shift
    return SHIFTS[kind](image, factor)


def _check(image: Pixels, factor: float) -> None:
    if not 0 <= factor < float("inf"):
        raise ArgumentError(f"factor must be a finite number >= 0, got {factor}")
    if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] not in (1, 3):
        raise ArgumentError(
            f"image must be uint8 of shape (H, W, 3), (N, H, W, 3) or with one channel, "
            f"got {image.dtype} {image.shape}"
        )


def _rows(image: Pixels) -> Pixels:
    """Reshape (..., W, C) to (rows, W, C): to OpenCV a batch is one tall image."""
    return np.ascontiguousarray(image).reshape(-1, *image.shape[-2:])


def _grey(image: Pixels) -> Pixels:
    rows = _rows(image)
    grey = rows if rows.shape[-1] == 1 else cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY)
    return np.asarray(grey, dtype=np.uint8)


def _look_up(image: Pixels, levels: npt.NDArray[np.floating]) -> Pixels:
    if image.size == 0:
        return image.copy()
    table = np.clip(levels, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(_rows(image), table), dtype=np.uint8).reshape(image.shape)
