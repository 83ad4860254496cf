"""Chart of activation patching: the recovered fraction of each path."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from skipshift.page.carry_sentences import carry_sentence, single_paths
from skipshift.page.style import INK, MUTED, NULL, frame, styled, write

_ROW = 0.36
_BACK, _WORSE = "#0072b2", "#d55e00"
_SHAPLEY: dict[str, Any] = {"marker": "D", "ls": "", "ms": 5.5, "mfc": "white", "mec": INK}


@styled()
def carry_figure(table: pd.DataFrame, label: str) -> Figure:
    """Draw the recovered fraction (share of the lost IoU) of each path, with its 95 % interval.

    Orange bars are negative: patching the path lowers IoU further. Diamonds are Shapley values, if
    the table has them.

    Parameters
    ----------
    table
        Columns of carry.csv; sets of several paths are left out.
    label
        Title of the figure.
    """
    shown = single_paths(table)
    left = 0.25 + 0.075 * max(map(len, shown["path"]))
    tall, right = _ROW * len(shown), 2.15
    width = max(7.6, left + 4.4 + right)
    figure = Figure(figsize=(width, tall + 1.5))
    axes = frame(figure, left, 0.62, width - left - right, tall)
    _draw_bars(axes, shown)
    top = 0.62 + tall
    write(figure, left, top + 0.58, label, weight="bold", size=9.5)
    write(figure, left, top + 0.33, carry_sentence(table), color=MUTED, size=8.5)
    write(figure, width - right + 0.15, top + 0.07, "recovered, 95 % interval", size=8, color=MUTED)
    write(figure, width - 0.12, top + 0.07, "IoU", size=8, color=MUTED, ha="right")
    for i, (_, row) in enumerate(shown.iterrows()):
        y = top - _ROW * (i + 0.5)
        write(figure, width - right + 0.15, y, _share_text(row), va="center", size=8.5)
        write(figure, width - 0.12, y, f"{row['iou']:.3f}", va="center", ha="right", size=8.5)
    if shown["shapley"].notna().any():
        mark = Line2D([], [], label="Shapley value", **_SHAPLEY)
        axes.legend(handles=[mark], loc="upper left", bbox_to_anchor=(1.0, -0.02), fontsize=8)
    return figure


def _draw_bars(axes: Axes, shown: pd.DataFrame) -> None:
    share, low, high = (shown[column].to_numpy(float) for column in ("share", "low", "high"))
    y = np.arange(len(shown))
    colours = [_BACK if value >= 0 else _WORSE for value in np.nan_to_num(share)]
    colours[-1] = NULL
    axes.barh(y, np.nan_to_num(share), height=0.58, color=colours, zorder=2)
    errors = np.nan_to_num(np.stack([share - low, high - share])).clip(0)
    axes.errorbar(
        np.nan_to_num(share), y, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5,
        zorder=3,
    )  # fmt: skip
    shapley = shown["shapley"].to_numpy(float)
    axes.plot(shapley, y, zorder=4, **_SHAPLEY)
    for x, dashes in ((0.0, (0, ())), (1.0, (0, (4, 3)))):
        axes.axvline(x, color=MUTED, lw=0.9, ls=dashes, zorder=1)
    ends = np.concatenate([np.nan_to_num(np.concatenate([share, low, high, shapley])), [0.0, 1.0]])
    room = 0.03 * (ends.max() - ends.min())
    axes.set(xlim=(ends.min() - room, ends.max() + room), ylim=(len(shown) - 0.5, -0.5))
    axes.set_yticks(y, list(shown["path"]))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    worse = "; orange: IoU falls further" if (share < 0).any() else ""
    axes.set_xlabel(f"recovered fraction of the lost IoU{worse}")


def _share_text(row: pd.Series) -> str:
    share, *ends = (
        f"{round(100 * row[column], 1) + 0.0:.1f}" for column in ("share", "low", "high")
    )
    if np.isnan(row["share"]):
        return "-"
    return f"{share} %" if np.isnan(row["low"]) else f"{share} %  [{', '.join(ends)}]"
