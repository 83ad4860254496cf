"""Chart of activation patching: what each path brings back alone, and what is missed without."""

import textwrap
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from skipshift.page.carry_sentences import carry_sentence, single_paths, sure_loss
from skipshift.page.style import INK, MUTED, NULL, frame, styled, write

_ROW = 0.36
_BACK, _WORSE = "#0072b2", "#d55e00"
_SHAPLEY: dict[str, Any] = {"marker": "D", "ls": "", "ms": 5.5, "mfc": "white", "mec": INK}
_MISSING: dict[str, Any] = {"marker": "o", "ls": "", "ms": 5, "mfc": "white", "mec": INK}
_MARKS = (
    ("missing", "stays lost without it", _MISSING),
    ("shapley", "Shapley value", _SHAPLEY),
)
_MISSED = 0.2
"""How far below the middle of a bar its second mark stands, in rows."""
_LINE = 100
"""Characters of a line of the sentence, at the least width."""

Values = npt.NDArray[np.float64]


@styled()
def carry_figure(table: pd.DataFrame, label: str) -> Figure:
    """Draw the share of the lost IoU that each path recovers alone, with its 95 % interval.

    Orange bars are negative: patching the path lowers IoU further. Circles are what stays lost with
    all other paths patched, diamonds Shapley values, if the table has them. A pale bar is of a
    patch that leads the block behind it away from the reference, or of a loss that may be chance.

    Parameters
    ----------
    table
        Columns of carry.csv; sets of several paths are left out.
    label
        Title of the figure.
    """
    shown = single_paths(table)
    left = 0.25 + 0.075 * max(map(len, _labels(shown)))
    tall, right = _ROW * len(shown), 2.15
    width = max(7.6, left + 4.4 + right)
    said = textwrap.wrap(carry_sentence(table), int(_LINE * width / 7.6))
    figure = Figure(figsize=(width, tall + 1.3 + 0.17 * len(said)))
    axes = frame(figure, left, 0.62, width - left - right, tall)
    _draw_bars(axes, shown, sure_loss(table))
    top = 0.62 + tall
    write(figure, 0.25, top + 0.38 + 0.17 * len(said), label, weight="bold", size=9.5)
    for line, text in enumerate(reversed(said)):
        write(figure, 0.25, top + 0.33 + 0.17 * line, text, color=MUTED, size=8.5)
    write(figure, width - right + 0.15, top + 0.07, "alone, 95 % interval", size=8, color=MUTED)
    write(figure, width - 0.12, top + 0.07, "IoU", size=8, color=MUTED, ha="right")
    for i, (_, row) in enumerate(shown.iterrows()):
        y = top - _ROW * (i + 0.5)
        write(figure, width - right + 0.15, y, _share_text(row), va="center", size=8.5)
        write(figure, width - 0.12, y, f"{row['iou']:.3f}", va="center", ha="right", size=8.5)
    marks = [
        Line2D([], [], label=name, **mark)
        for column, name, mark in _MARKS
        if column in shown and shown[column].notna().any()
    ]
    if marks:
        axes.legend(
            handles=marks, loc="upper left", bbox_to_anchor=(1.0, -0.02), fontsize=8, frameon=False
        )
    return figure


def _labels(shown: pd.DataFrame) -> list[str]:
    read = shown["read"] if "read" in shown else [True] * len(shown)
    pairs = zip(shown["path"], read, strict=True)
    return [path if known else f"{path} (not read)" for path, known in pairs]


def _draw_bars(axes: Axes, shown: pd.DataFrame, sure: bool) -> None:
    share, low, high = (shown[column].to_numpy(float) for column in ("share", "low", "high"))
    y = np.arange(len(shown))
    colours = [_BACK if value >= 0 else _WORSE for value in np.nan_to_num(share)]
    colours[-1] = NULL
    bars = axes.barh(y, np.nan_to_num(share), height=0.58, color=colours, zorder=2)
    farther = shown["farther"].to_numpy(bool) if "farther" in shown else np.zeros(len(y), bool)
    for bar, pale in zip(bars, farther | (not sure), strict=True):
        bar.set_alpha(0.35 if pale else 1.0)
    errors = np.nan_to_num(np.stack([share - low, high - share])).clip(0)
    axes.errorbar(
        np.nan_to_num(share), y, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5,
        zorder=3,
    )  # fmt: skip
    shapley = shown["shapley"].to_numpy(float)
    axes.plot(shapley, y, zorder=4, **_SHAPLEY)
    for x, dashes in ((0.0, (0, ())), (1.0, (0, (4, 3)))):
        axes.axvline(x, color=MUTED, lw=0.9, ls=dashes, zorder=1)
    missing = _draw_missing(axes, shown, y + _MISSED)
    drawn = np.concatenate([share, low, high, shapley, missing.ravel()])
    ends = np.concatenate([np.nan_to_num(drawn), [0.0, 1.0]])
    room = 0.03 * (ends.max() - ends.min())
    axes.set(xlim=(ends.min() - room, ends.max() + room), ylim=(len(shown) - 0.5, -0.5))
    axes.set_yticks(y, _labels(shown))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    worse = "; orange: IoU falls further" if (share < 0).any() else ""
    axes.set_xlabel(f"share of the lost IoU{worse}")


def _draw_missing(axes: Axes, shown: pd.DataFrame, y: npt.NDArray[np.floating]) -> Values:
    """Draw what stays lost without each path; give all values of it."""
    if "missing" not in shown:
        return np.zeros(0)
    columns = ["missing", "missing_low", "missing_high"]
    values = shown[columns].to_numpy(float).T
    errors = np.nan_to_num(np.abs(values[1:] - values[0]))
    axes.errorbar(values[0], y, xerr=errors, fmt="none", ecolor=MUTED, elinewidth=1.0, zorder=3)
    axes.plot(values[0], y, zorder=5, **_MISSING)
    return values


def _share_text(row: pd.Series) -> str:
    share, *ends = (
        f"{round(100 * row[column], 1) + 0.0:.1f}" for column in ("share", "low", "high")
    )
    if np.isnan(row["share"]):
        return "-"
    return f"{share} %" if np.isnan(row["low"]) else f"{share} %  [{', '.join(ends)}]"
