"""Whole-slide images: read any rectangle at any scale from an image pyramid."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from skipshift.data.images import Pixels
from skipshift.errors import SkipshiftError
from skipshift.extras import load_extra

_EXTRA = "slides"

ENDINGS = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".dcm")
"""File endings that mark a slide in a folder."""

_TIFFS = (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif")

_COARSEST = 50.0
"""Pixel size in micrometres above which a header means a print resolution, not a microscope's."""

_SILENT = logging.NullHandler()

_MOST_PIXELS = 1 << 27

_SAME_SCALE = 0.01
"""Relative difference of scales below which a level is read without resizing."""


@dataclass(frozen=True, eq=False)
class Slide:
    """An open slide; coordinates are full-resolution pixels, x to the right and y down."""

    path: Path

    size: tuple[int, int]
    """Width and height at full resolution."""

    mpp: tuple[float, float] | None
    """Pixel size along x and y in micrometres; None if the file does not state it."""

    levels: tuple[tuple[int, int], ...]
    """Width and height of each level, the finest first."""

    downsamples: tuple[float, ...]
    """Full-resolution pixels per pixel of each level."""

    read_level: Callable[[int, tuple[int, int], tuple[int, int]], Pixels]
    """Level, (x, y) in its pixels, (width, height) -> (H, W, 3), or (H, W, 4) with alpha."""

    def downsample(self, mpp: float | None) -> float:
        """Full-resolution pixels per pixel of ``mpp`` micrometres; 1 for None.

        `SkipshiftError` if the file does not state its pixel size.
        """
        if mpp is None:
            return 1.0
        if self.mpp is None:
            raise SkipshiftError(
                f"{self.path}: states no pixel size; leave mpp out to read it at full resolution"
            )
        return mpp / (sum(self.mpp) / 2)

    def spacing(self, downsample: float) -> str:
        """Format the spacing for the manifest: rows x columns in millimetres, empty if unknown."""
        if self.mpp is None:
            return ""
        return "x".join(f"{side * downsample / 1000:.5g}" for side in reversed(self.mpp))

    def read(self, x: float, y: float, width: int, height: int, downsample: float = 1.0) -> Pixels:
        """Read a rectangle whose top left corner is (x, y).

        Parameters
        ----------
        width, height
            Size of the result in pixels.
        downsample
            Full-resolution pixels per pixel of the result, above 0.

        Returns
        -------
        (height, width, 3) RGB, white outside of the slide, resized by area averages from the
        coarsest level that is at least as fine. `SkipshiftError` if a tile is broken, or if more
        than 134 million pixels would have to be read.
        """
        fine = [
            i for i, step in enumerate(self.downsamples) if step <= downsample * (1 + _SAME_SCALE)
        ]
        level = max(fine, default=0)
        step, sides = self.downsamples[level], (width, height)
        scale = downsample / step
        if abs(scale - 1) > _SAME_SCALE:
            sides = (max(1, round(width * scale)), max(1, round(height * scale)))
        if sides[0] * sides[1] > _MOST_PIXELS:
            raise SkipshiftError(
                f"{self.path}: has no coarse level: {width} x {height} pixels would be made from "
                f"{sides[0]} x {sides[1]}; convert the file to a pyramid"
            )
        pixels = self._paste(level, (round(x / step), round(y / step)), sides)
        if sides == (width, height):
            return pixels
        method = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(pixels, (width, height), interpolation=method), dtype=np.uint8)

    def thumbnail(self, side: int) -> Pixels:
        """Read the whole slide with a longest side of at most ``side`` pixels."""
        downsample = max(1.0, max(self.size) / side)
        width, height = (max(1, round(length / downsample)) for length in self.size)
        return self.read(0, 0, width, height, downsample)

    def _paste(self, level: int, corner: tuple[int, int], sides: tuple[int, int]) -> Pixels:
        """Read a rectangle of a level, white where it leaves the level."""
        low = [min(max(at, 0), most) for at, most in zip(corner, self.levels[level], strict=True)]
        ends = [at + side for at, side in zip(corner, sides, strict=True)]
        high = [min(max(end, 0), most) for end, most in zip(ends, self.levels[level], strict=True)]
        width, height = (end - start for start, end in zip(low, high, strict=True))
        inside = min(width, height) > 0
        if inside and (width, height) == sides:
            return _on_white(self._read(level, (low[0], low[1]), sides))
        canvas = np.full((sides[1], sides[0], 3), 255, np.uint8)
        if inside:
            left, top = low[0] - corner[0], low[1] - corner[1]
            part = _on_white(self._read(level, (low[0], low[1]), (width, height)))
            canvas[top : top + height, left : left + width] = part
        return canvas

    def _read(self, level: int, corner: tuple[int, int], sides: tuple[int, int]) -> Pixels:
        try:
            return self.read_level(level, corner, sides)
        except Exception as error:
            raise _unreadable(self.path, error) from None


@contextlib.contextmanager
def open_slide(path: Path) -> Iterator[Slide]:
    """Open a slide with OpenSlide, or with tiffslide if it is a TIFF that OpenSlide rejects.

    Reading is thread-safe. `SkipshiftError` if the file does not exist, if neither library can read
    it, or if ``skipshift[slides]`` is not installed.
    """
    openslide = load_extra("openslide", _EXTRA)
    if not path.is_file():
        raise SkipshiftError(f"{path}: does not exist; check the path")
    try:
        source, name = openslide.OpenSlide(path), "openslide"
    except openslide.OpenSlideError as refused:
        if path.suffix.lower() not in _TIFFS:
            raise _unreadable(path, refused) from None
        source, name = _open_tiff(path), "tiffslide"
    downsamples = tuple(map(float, source.level_downsamples))
    with source:

        def read(level: int, corner: tuple[int, int], sides: tuple[int, int]) -> Pixels:
            origin = (round(corner[0] * downsamples[level]), round(corner[1] * downsamples[level]))
            return np.asarray(source.read_region(origin, level, sides))

        levels = tuple((int(width), int(height)) for width, height in source.level_dimensions)
        yield Slide(path, levels[0], _spacing(source.properties, name), levels, downsamples, read)


def states_levels(path: Path) -> bool:
    """Whether OpenSlide knows the format of a file, or it is a TIFF with a pyramid.

    `SkipshiftError` if ``skipshift[slides]`` is not installed.
    """
    openslide = load_extra("openslide", _EXTRA)
    if openslide.OpenSlide.detect_format(path) is not None:
        return True
    if path.suffix.lower() not in _TIFFS:
        return False
    try:
        with _open_tiff(path) as source:
            return len(source.level_dimensions) > 1
    except SkipshiftError:
        return False


def _open_tiff(path: Path) -> Any:
    tiffslide = load_extra("tiffslide", _EXTRA)
    # its decoder also logs the fault that the error reports
    logging.getLogger("tifffile").addHandler(_SILENT)
    with contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(tiffslide.TiffSlide(path))
            # the header is read lazily
            _ = source.level_downsamples
        except Exception as error:
            raise _unreadable(path, error) from None
        stack.pop_all()
    return source


def _spacing(properties: Any, name: str) -> tuple[float, float] | None:
    try:
        x, y = (float(properties[f"{name}.mpp-{axis}"]) for axis in "xy")
    except (KeyError, TypeError, ValueError):
        return None
    return (x, y) if min(x, y) > 0 and max(x, y) < _COARSEST else None


def _on_white(pixels: Pixels) -> Pixels:
    """Convert grey, RGB or RGBA to RGB (H, W, 3), blending transparency with white."""
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape[2] == 3:
        return pixels
    colours = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), dtype=np.uint8)
    alpha = pixels[..., 3]
    if alpha.min() == 255:
        return colours
    opacity = alpha[..., None] / 255
    return np.rint(colours * opacity + 255 * (1 - opacity)).astype(np.uint8)


def _unreadable(path: Path, error: Exception) -> SkipshiftError:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    return SkipshiftError(f"{path}: cannot be read as a slide: {reason or type(error).__name__}")
