"""Pictures: network and variants (Fig. 1), images and masks (Fig. 3), predictions with errors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from skipshift.names import LARGEST_LABEL, LEVELS, VARIANTS, skips_of
from skipshift.page.ordering import ordered_variants
from skipshift.page.style import FAINT, INK, MUTED, WIDTH, colour_of, frame, styled, write
from skipshift.statistics.counts import count, iou

Pixels = npt.NDArray[np.uint8]

FALSE_POSITIVES = "#d55e00"
FALSE_NEGATIVES = "#0072b2"
WRONG_CLASS = "#f0e442"

STRIPE = 4
"""Width of the stripes where pixels are not counted."""


@styled()
def variants_figure(variants: Sequence[str] = tuple(VARIANTS)) -> Figure:
    """Draw the network, its strides and skip levels, and the skips of each variant (Fig. 1)."""
    order = ordered_variants(variants)
    tall = max(3.5, 1.3 + 0.36 * len(order))
    figure = Figure(figsize=(WIDTH, tall))
    axes = frame(figure, 0.05, (tall - 3.5) / 2, 6.6, 3.5)
    axes.set(xlim=(0, 6.6), ylim=(0, 3.5))
    axes.axis("off")
    _network(axes)
    _kept(figure, order, tall)
    return figure


def _network(axes: Axes) -> None:
    """Draw the blocks of the U, one row per stride."""
    rows = {2**k: 3.2 - 0.58 * k for k in range(6)}
    ends = {2**k: (1.05 + 0.3 * k, 5.85 - 0.3 * k) for k in range(5)}
    middle = 3.45
    ends[32] = (middle, middle)
    for stride, y in rows.items():
        axes.text(0.0, y, f"stride {stride}", color=MUTED, size=8, va="center")
        if stride > 1:
            _block(axes, (ends[stride][0], y), f"e{stride}", "#e3ebf2")
        if stride < 32:
            _block(axes, (ends[stride][1], y), f"d{stride}", "#f3ebe0")
        if 1 < stride < 32:
            _arrow(axes, (ends[stride][0] + 0.34, y), (ends[stride][1] - 0.36, y), INK)
            axes.text(
                middle, y, f"L{stride.bit_length() - 1}", ha="center", va="center", weight="bold",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 2.5},
            )  # fmt: skip
    _block(axes, (ends[1][0], rows[1]), "image", "white")
    for a, b in zip(list(rows)[:4], list(rows)[1:5], strict=True):
        (xa, xd), (xb, xe) = ends[a], ends[b]
        _arrow(axes, (xa + 0.1, rows[a] - 0.17), (xb - 0.1, rows[b] + 0.18), MUTED)
        _arrow(axes, (xe + 0.1, rows[b] + 0.17), (xd - 0.1, rows[a] - 0.18), MUTED)
    _arrow(axes, (ends[16][0] + 0.15, rows[16] - 0.17), (middle - 0.36, rows[32]), MUTED)
    _arrow(axes, (middle + 0.34, rows[32]), (ends[16][1] - 0.15, rows[16] - 0.18), MUTED)
    axes.text(ends[1][1] + 0.42, rows[1], "mask", va="center")


def _block(axes: Axes, centre: tuple[float, float], name: str, colour: str) -> None:
    x, y = centre
    axes.add_patch(
        FancyBboxPatch(
            (x - 0.3, y - 0.14), 0.6, 0.28, boxstyle="round,pad=0.02,rounding_size=0.06",
            facecolor=colour, edgecolor=MUTED, linewidth=0.8,
        )
    )  # fmt: skip
    axes.text(x, y, name, ha="center", va="center_baseline", size=9)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=9, color=colour, lw=1.2,
            shrinkA=0, shrinkB=0,
        )
    )  # fmt: skip


def _kept(figure: Figure, order: Sequence[str], tall: float) -> None:
    """Draw a dot for each skip kept and a ring for each skip pruned."""
    high = 0.36 * len(order)
    axes = frame(figure, 8.15, (tall - high) / 2 - 0.1, 2.2, high)
    axes.set(xlim=(0.5, 4.5), ylim=(len(order) - 0.5, -0.5))
    axes.axis("off")
    for level in LEVELS:
        axes.text(level, -0.75, f"L{level}", ha="center", weight="bold")
    for i, variant in enumerate(order):
        kept = skips_of(variant)
        pruned = [level for level in LEVELS if level not in kept]
        axes.plot(pruned, [i] * len(pruned), "o", ms=11, mfc="white", mec=FAINT, mew=1.3)
        axes.plot(kept, [i] * len(kept), "o", ms=12, color=colour_of(variant), mew=0)
        axes.text(0.3, i, variant, ha="right", va="center_baseline")
    axes.text(0.5, len(order) - 0.1, "dot: kept, ring: pruned", size=8, color=MUTED, va="top")


@styled()
def examples_figure(images: Pixels, masks: Pixels, titles: Sequence[str]) -> Figure:
    """Images above their masks (Fig. 3).

    Parameters
    ----------
    images
        (K, H, W, C) uint8, C = 3 or 1.
    masks
        (K, H, W) class indices; 0, the background, is white, and 255, not counted, is striped.
    titles
        One per image.
    """
    classes = max(int(masks.max(where=masks != LARGEST_LABEL, initial=0)) + 1, 2)
    side, gap = min(2.4, (WIDTH - 0.1) / len(images) - 0.1), 0.1
    shape = images.shape[1] / images.shape[2]
    tall = side * shape
    figure = Figure(figsize=(len(images) * (side + gap) + 0.1, 2 * tall + gap + 0.36))
    for i, (image, mask, title) in enumerate(zip(images, masks, titles, strict=True)):
        x = 0.1 + i * (side + gap)
        _show(frame(figure, x, tall + gap + 0.05, side, tall), image)
        _show(frame(figure, x, 0.05, side, tall), mask_colours(mask, classes))
        write(figure, x, 2 * tall + gap + 0.12, shortened(title, int(side * 13)), va="bottom")
    return figure


@styled()
def views_figure(rows: Sequence[Sequence[Mapping[str, Any]]], classes: int) -> Figure:
    """Images of every test domain above their masks, one column a domain (Fig. 4 to 6).

    Parameters
    ----------
    rows
        Of each row the views ``image`` (H, W, C) uint8, ``mask`` (H, W), ``case``, ``domain``.
    classes
        Number of mask values.
    """
    columns, gap, left = len(rows[0]), 0.08, 0.05
    side = min(2.0, (WIDTH - left) / columns - gap)
    figure = Figure(figsize=(left + columns * (side + gap), len(rows) * 2 * (side + gap) + 0.3))
    y = figure.get_size_inches()[1] - 0.26
    for i, row in enumerate(rows):
        for j, view in enumerate(row):
            x = left + j * (side + gap)
            if i == 0:
                title = shortened(view["domain"], int(side * 11))
                write(figure, x, y + 0.06, title, weight="bold", va="bottom")
            pixels = view["image"], mask_colours(view["mask"], classes)
            for down, shown in enumerate(pixels, 1):
                _fit(figure, (x, y - down * (side + gap) + gap, side), shown)
        y -= 2 * (side + gap)
    return figure


def _fit(figure: Figure, square: tuple[float, float, float], pixels: Pixels) -> None:
    """Show pixels in the middle of a square, at their own ratio of sides."""
    x, y, side = square
    tall, wide = (side * length / max(pixels.shape[:2]) for length in pixels.shape[:2])
    _show(frame(figure, x + (side - wide) / 2, y + (side - tall) / 2, wide, tall), pixels)


@styled()
def samples_figure(samples: Mapping[str, Any]) -> Figure:
    """Image, mask and each variant's prediction with its errors coloured, one row per case.

    Parameters
    ----------
    samples
        images (K, H, W, C) uint8, masks (K, H, W), 255 where a pixel is not counted, predictions
        {variant: (K, H, W)}, titles (K,); classes, the names of the mask values, if known.
    """
    images, masks, predictions = samples["images"], samples["masks"], samples["predictions"]
    variants = ordered_variants(predictions)
    labels = [masks[masks != LARGEST_LABEL], *predictions.values()]
    most = max(int(np.max(label, initial=0)) for label in labels)
    classes = max(2, len(samples.get("classes", ())), 1 + most)
    left, top, gap = 1.2, 0.52, 0.07
    side = min(1.5, (WIDTH - left) / (2 + len(variants)) - gap)
    tall = side * images.shape[1] / images.shape[2]
    step = tall + 0.2
    height = top + len(images) * step + 0.05
    figure = Figure(figsize=(left + (2 + len(variants)) * (side + gap), height))
    for j, name in enumerate(("image", "mask", *variants)):
        x = left + j * (side + gap)
        write(figure, x, height - top + 0.04, name, weight="bold", size=8.5)
    for i, title in enumerate(samples["titles"]):
        y = height - top - i * step - tall - 0.02
        lines = [shortened(line, 16) for line in str(title).split("\n")]
        write(figure, 0.04, y + tall / 2, "\n".join(lines), va="center", size=8, linespacing=1.5)
        cells = [images[i], mask_colours(masks[i], classes)]
        cells += [error_colours(masks[i], predictions[v][i], classes) for v in variants]
        for j, cell in enumerate(cells):
            _show(frame(figure, left + j * (side + gap), y, side, tall), cell)
        for j, variant in enumerate(variants, start=2):
            text = _agreement(masks[i], predictions[variant][i], classes)
            write(figure, left + j * (side + gap), y - 0.03, text, va="top", size=7, color=MUTED)
    _error_legend(figure, samples.get("classes", range(classes)))
    return figure


def shortened(text: str, most: int) -> str:
    """Shorten a text to at most so many characters by omitting its middle.

    >>> shortened("a-very-long-name.png", 11)
    'a-ver…e.png'
    """
    if len(text) <= most:
        return text
    head = most // 2
    return f"{text[:head]}…{text[len(text) - (most - head - 1) :]}"


def _show(axes: Axes, pixels: Pixels) -> None:
    grey = pixels.ndim == 3 and pixels.shape[2] == 1
    axes.imshow(pixels[..., 0] if grey else pixels, cmap="gray", vmin=0, vmax=255, aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=FAINT, linewidth=0.8)


def _greys(classes: int) -> Pixels:
    """(classes, 3): white for the background, then greys, dark first, for the others."""
    shades = np.linspace(0x55, 0xC4, max(classes - 1, 1)).astype(np.uint8)
    if classes == 2:
        shades[:] = 0x8C
    return np.repeat(np.concatenate([[255], shades]).astype(np.uint8)[:, None], 3, axis=1)


def mask_colours(mask: Pixels, classes: int) -> Pixels:
    """Colour labels (H, W) as (H, W, 3): greys, and stripes where a pixel is not counted."""
    ignored = mask == LARGEST_LABEL
    coloured: Pixels = _greys(classes)[np.where(ignored, 0, mask)]
    stripes = np.add.outer(*map(np.arange, mask.shape)) // STRIPE % 2 == 0
    coloured[ignored & stripes] = rgb_of(FAINT)
    return coloured


def error_colours(mask: Pixels, prediction: Pixels, classes: int) -> Pixels:
    """Colour errors as (H, W, 3): grey where both agree, one colour per kind of error."""
    coloured = mask_colours(mask, classes)
    prediction = np.where(mask == LARGEST_LABEL, mask, prediction)
    coloured[(mask == 0) & (prediction > 0)] = rgb_of(FALSE_POSITIVES)
    coloured[(mask > 0) & (prediction == 0)] = rgb_of(FALSE_NEGATIVES)
    coloured[(mask > 0) & (prediction > 0) & (mask != prediction)] = rgb_of(WRONG_CLASS)
    return coloured


def rgb_of(colour: str) -> tuple[int, ...]:
    """Red, green and blue of a colour, 0 to 255 each."""
    return tuple(round(255 * part) for part in to_rgb(colour))


def _agreement(mask: Pixels, prediction: Pixels, classes: int) -> str:
    counts = count(mask[None], prediction[None], classes, LARGEST_LABEL)[0, 1:]
    each = iou(counts)
    return f"IoU {np.nanmean(each):.2f}" if np.isfinite(each).any() else "no foreground"


def _error_legend(figure: Figure, names: Sequence[object]) -> None:
    classes = len(names)
    greys = _greys(classes)[1:] / 255
    names = [f"{name}, correct" for name in names[1:]]
    handles = [Patch(color=tuple(g), label=n) for g, n in zip(greys, names, strict=True)]
    handles += [
        Patch(color=FALSE_POSITIVES, label="false positive"),
        Patch(color=FALSE_NEGATIVES, label="false negative (missed)"),
    ]
    if classes > 2:
        handles.append(Patch(color=WRONG_CLASS, label="wrong class"))
    figure.legend(
        handles=handles, loc="upper left", ncols=len(handles), bbox_to_anchor=(0, 1.0),
        fontsize=8.5 if classes < 5 else 7, handlelength=1.1, columnspacing=1.5, borderaxespad=0.2,
    )  # fmt: skip
