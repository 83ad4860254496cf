"""Images of a page with mask and predictions, before and after a remedy, as small data URIs."""

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from skipshift.data.images import shrink
from skipshift.names import LARGEST_LABEL
from skipshift.page.pictures import (
    FALSE_NEGATIVES,
    FALSE_POSITIVES,
    WRONG_CLASS,
    error_colours,
    mask_colours,
    rgb_of,
)
from skipshift.page.shell import data_uri

Pixels = npt.NDArray[np.uint8]

LONGEST = 256
"""Longest side in pixels of what is shown."""

MENDED, BROKEN, CHANGED = "#009e73", "#cc79a7", "#0072b2"


class Case(NamedTuple):
    """One image with its labels."""

    title: str
    group: str
    image: Pixels
    """(H, W, C), C = 1 or 3."""

    mask: Pixels | None
    """(H, W); 255 where a pixel is not counted."""

    before: Pixels
    """(H, W): prediction of the network as it is."""

    after: Pixels | None
    """Likewise with the remedy, if there is one."""

    ious: tuple[float, float]
    """Mean IoU of the foreground before and after; NaN where it is not known."""


class Example(NamedTuple):
    """One row of pictures, as data URIs; empty where there is none."""

    title: str
    image: str
    mask: str
    before: str
    after: str
    changed: str
    share: str
    """Share of the pixels that change."""

    scores: str


class Examples(NamedTuple):
    """Rows of pictures."""

    rows: Sequence[Example]
    key: Sequence[tuple[str, str]]
    """Colour as data URI, and what it means."""

    note: str


def examples(cases: Sequence[Case], note: str) -> Examples | None:
    """Draw cases: errors coloured where there is a mask; None without cases."""
    if not cases:
        return None
    labels = [each for case in cases for each in (case.mask, case.before, case.after)]
    most = max(
        int(each.max(where=each != LARGEST_LABEL, initial=0)) for each in labels if each is not None
    )
    return Examples([_row(case, max(2, most + 1)) for case in cases], list(_key(cases, most)), note)


def _row(case: Case, classes: int) -> Example:
    mask, after = case.mask, case.after

    def drawn(labels: Pixels) -> str:
        small = _labels(labels)
        if mask is None:
            return _png(mask_colours(small, classes))
        return _png(error_colours(_labels(mask), small, classes))

    scores = [f"{value:.3f}" for value in case.ious if value == value]
    return Example(
        f"{case.title}, group {case.group}",
        _jpeg(shrink(case.image, LONGEST)),
        "" if mask is None else _png(mask_colours(_labels(mask), classes)),
        drawn(case.before),
        "" if after is None else drawn(after),
        "" if after is None else _png(_changes(case)),
        "" if after is None else f"{(case.before != after).mean():.1%}",
        " | ".join(scores),
    )


def _changes(case: Case) -> Pixels:
    """(h, w, 3): pixels that the remedy changes, to the mask's class or away from it."""
    assert case.after is not None
    before, after = (_labels(each) for each in (case.before, case.after))
    coloured = np.full((*before.shape, 3), 255, np.uint8)
    coloured[before != after] = rgb_of(CHANGED)
    if case.mask is not None:
        mask = _labels(case.mask)
        coloured[(before != after) & (after == mask)] = rgb_of(MENDED)
        coloured[(before == mask) & (after != mask)] = rgb_of(BROKEN)
        coloured[mask == LARGEST_LABEL] = 255
    return coloured


def _key(cases: Sequence[Case], most: int) -> Iterator[tuple[str, str]]:
    masks = any(case.mask is not None for case in cases)
    if masks:
        yield _swatch(FALSE_POSITIVES), "false positive"
        yield _swatch(FALSE_NEGATIVES), "false negative (missed)"
        if most > 1:
            yield _swatch(WRONG_CLASS), "wrong class"
    if any(case.after is not None for case in cases):
        if masks:
            yield _swatch(MENDED), "changed to the mask's class"
            yield _swatch(BROKEN), "changed away from it"
        if not masks or most > 1:
            yield _swatch(CHANGED), "changed"


def _swatch(colour: str) -> str:
    return _png(np.full((4, 4, 3), rgb_of(colour), np.uint8))


def _labels(labels: Pixels) -> Pixels:
    return shrink(labels, LONGEST, cv2.INTER_NEAREST)


def _png(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).quantize(16).save(buffer, format="png", optimize=True)
    return data_uri("image/png", buffer.getvalue())


def _jpeg(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    shown = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    shown.save(buffer, format="jpeg", quality=88, subsampling=0)
    return data_uri("image/jpeg", buffer.getvalue())
