"""Chart of comparisons that few groups leave open: difference, t-interval, and a dot a group."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from skipshift.page.ordering import ordered_variants
from skipshift.page.style import FAINT, INK, MUTED, WIDTH, colour_of, frame, styled, write
from skipshift.page.wording import counted, signed
from skipshift.statistics.comparisons import AWAY

_ROW = 0.34
_LEFT, _RIGHT = 2.3, 2.5


@styled()
def groups_figure(tests: pd.DataFrame, groups: pd.DataFrame, margin: float) -> Figure:
    """Differences from the baseline where no p can be small, a panel for each domain.

    A dot is a group, the diamond the difference of all cases together with its 95 % t-interval,
    which is cut off at an arrow where it is far wider than the groups are apart.

    Parameters
    ----------
    tests
        Columns of tests.csv, of one class and metric.
    groups
        Columns of `group_effects`, of the same class.
    margin
        Equivalence margin, drawn as a band.
    """
    places = list(tests["domain"].unique())
    heights = [_ROW * (tests["domain"] == place).sum() for place in places]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.32 * len(places) + 0.85))
    reach = _reach(tests, groups, margin)
    y = figure.get_size_inches()[1] - 0.3
    for place, height in zip(places, heights, strict=True):
        y -= height + 0.32
        axes = frame(figure, _LEFT, y, WIDTH - _LEFT - _RIGHT, height)
        own = groups[groups["domain"] == place]
        rows = _ordered(tests[tests["domain"] == place])
        axes.axvspan(-margin, margin, color=FAINT, lw=0, zorder=0)
        axes.axvline(0, color=MUTED, lw=0.9, zorder=1)
        axes.set(xlim=(-reach, reach), ylim=(len(rows) - 0.5, -0.5))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.tick_params(labelbottom=place == places[-1], length=0)
        title = "mean of the other domains" if place == AWAY else str(place)
        number = counted(int(rows["groups"].max()), "group")
        write(figure, 0.05, y + height + 0.06, f"{title}, {number}", weight="bold", size=9)
        for i, (_, row) in enumerate(rows.iterrows()):
            _row(axes, row, own, i, reach)
            middle = y + height - _ROW * (i + 0.5)
            name = f"{row['encoder']} {row['variant']}"
            write(figure, _LEFT - 0.12, middle, name, ha="right", va="center", size=8.5)
            write(figure, WIDTH - _RIGHT + 0.12, middle, _told(row), va="center", size=8.5)
    axes.set_xlabel("difference from the baseline in IoU")
    _legend(figure, margin)
    return figure


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    order = ordered_variants(rows["variant"])
    return rows.sort_values("variant", key=lambda v: v.map(order.index), kind="stable").sort_values(
        "encoder", kind="stable"
    )


def _reach(tests: pd.DataFrame, groups: pd.DataFrame, margin: float) -> float:
    """Half of the axis: all dots, and the intervals up to twice as far."""
    dots = np.abs(np.concatenate([groups["effect"], tests["effect"].dropna(), [margin]])).max()
    ends = np.nan_to_num(np.abs(tests[["low", "high"]].to_numpy(float))).max(initial=0)
    return float(1.1 * max(dots, min(ends, 2 * dots)))


def _row(axes: Axes, row: pd.Series, groups: pd.DataFrame, y: int, reach: float) -> None:
    same = (groups["encoder"] == row["encoder"]) & (groups["variant"] == row["variant"])
    dots, colour = groups[same]["effect"].to_numpy(float), colour_of(str(row["variant"]))
    axes.plot(
        dots, np.full(len(dots), y), "o", ms=6, mfc=colour, mec="white", mew=0.6, alpha=0.75,
        zorder=3,
    )  # fmt: skip
    if np.isfinite(row["low"]):
        ends = np.array([row["low"], row["high"]], float)
        axes.plot(ends, [y, y], color=INK, lw=1.2, zorder=2)
        for end, mark in zip(ends, "|" * 2, strict=True):
            inside = abs(end) <= reach
            arrow = "<" if end < 0 else ">"
            at = end if inside else np.sign(end) * reach * 0.985
            axes.plot(at, y, mark if inside else arrow, ms=7, color=INK, zorder=2)
    axes.plot(row["effect"], y, "D", ms=5, mfc="white", mec=INK, mew=1.1, zorder=4)


def _told(row: pd.Series) -> str:
    if not np.isfinite(row["low"]):
        return f"{signed(row['effect'])}  no interval"
    return f"{signed(row['effect'])}  [{signed(row['low'])}, {signed(row['high'])}]"


def _legend(figure: Figure, margin: float) -> None:
    dot = Line2D([], [], marker="o", ls="", ms=6, mfc=MUTED, mec="white", label="one group")
    diamond = Line2D(
        [], [], marker="D", ms=5, mfc="white", mec=INK, color=INK, lw=1.2,
        label="all cases together, 95 % interval",
    )  # fmt: skip
    band = Patch(color=FAINT, label=f"margin of {margin:g}")
    figure.legend(
        handles=[dot, diamond, band], loc="upper right", ncols=3, bbox_to_anchor=(1.0, 1.0),
        fontsize=8.5, borderaxespad=0.2,
    )  # fmt: skip
