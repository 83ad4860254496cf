"""Figures of the findings, from their tables alone."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.findings import answers, choosing, predictors
from benchmarks.findings.tables import TABLES, read, scores, study_cases
from skipshift.names import ORIGINAL, VARIANTS
from skipshift.page.style import FAINT, INK, MUTED, styled, to_svg

FOLDER = TABLES.parent / "pictures"
SHADES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")


def effects(ax: Axes, tables: Mapping[str, pd.DataFrame], margin: float) -> None:
    """Effects with intervals: a row per variant, a colour per table."""
    names = list(dict.fromkeys(name for table in tables.values() for name in table["variant"]))
    for i, (label, table) in enumerate(tables.items()):
        at = [names.index(name) + (i - (len(tables) - 1) / 2) * 0.15 for name in table["variant"]]
        reach = np.abs(table[["low", "high"]].to_numpy().T - table["effect"].to_numpy())
        colour = SHADES[i % len(SHADES)]
        ax.errorbar(table["effect"], at, xerr=reach, fmt="o", ms=4, color=colour, label=label)
    ax.axvspan(-margin, margin, color=FAINT, alpha=0.5, zorder=0)
    ax.axvline(0, color=MUTED, lw=0.8)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel("IoU minus the baseline's")


def pruning() -> Figure:
    """Question 1: in-domain and on the mean of the shifts."""
    tables = answers.pruning().tables
    return two_panels({name: table for name, table in tables.items() if "domain" in table})


def choice() -> Figure:
    """Question 6, likewise."""
    first = next(iter(choosing.choice().tables.values()))
    return two_panels({"": first})


def two_panels(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Effects in-domain beside those on the mean of the shifts."""
    figure = Figure((9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for ax, domain, title, margin in (
        (left, ORIGINAL, "In-domain", answers.MARGINS[ORIGINAL]),
        (right, "mean of shifts", "Mean of the 14 shifts", answers.MARGIN),
    ):
        effects(ax, {n: t[t["domain"] == domain] for n, t in tables.items()}, margin)
        ax.set_title(title)
    if len(tables) > 1:
        right.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def heatmap() -> Figure:
    """IoU of every variant on every domain, without jitter (as Fig. 7)."""
    table = scores(study_cases("none"))
    wide = table.groupby(["variant", "domain"])["iou"].mean().unstack()
    order = [ORIGINAL, *(d for d in table["domain"].unique() if d != ORIGINAL)]
    wide = wide.loc[[v for v in VARIANTS if v in wide.index], order]
    figure = Figure((9, 2.8), layout="constrained")
    ax = figure.subplots()
    ax.imshow(wide, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    ax.set_xticks(range(len(order)), order, rotation=40, ha="right")
    ax.set_yticks(range(len(wide)), wide.index)
    for (row, column), value in np.ndenumerate(wide.to_numpy()):
        ink = "white" if value < 0.6 else "black"
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=7.5)
    ax.spines[:].set_visible(False)
    return figure


def depth() -> Figure:
    """Question 3: mean excess by layer and pooling, trained and untrained."""
    table = read("profiles")
    figure = Figure((9, 3), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    order = table.sort_values("depth")["layer"].unique()
    for ax, pooling in zip(axes, predictors.POOLINGS, strict=True):
        for trained, colour in ((True, SHADES[0]), (False, MUTED)):
            own = table[(table["pooling"] == pooling) & (table["trained"] == trained)]
            by = own.groupby(["network", "layer"])["excess"].mean().unstack()[order]
            for line in by.to_numpy():
                ax.plot(line, color=colour, lw=0.7, alpha=0.5)
            label = "trained" if trained else "untrained"
            ax.plot(by.mean().to_numpy(), color=colour, lw=2, label=label)
        ax.set_xticks(range(len(order)), order)
        ax.set_title(f"pooling {pooling}")
    axes[0].set_ylabel("excess, mean over 14 shifts")
    axes[0].legend()
    return figure


def cure() -> Figure:
    """Question 4: gain beside headroom and excess, skips and bottleneck."""
    table = read("cures")
    own = table[table["place"].str.fullmatch(r"L\d|bottleneck")]
    figure = Figure((9, 3.2), layout="constrained")
    for ax, by in zip(figure.subplots(1, 2, sharey=True), ("headroom", "excess"), strict=True):
        for i, (place, rows) in enumerate(own.groupby("place")):
            colour = (*SHADES, INK)[i]
            ax.plot(rows[by], rows["gain"], "o", ms=4, alpha=0.7, color=colour, label=place)
        ax.set_xlabel(f"{by} of the place")
    figure.axes[0].set_ylabel("largest gain of IoU there")
    figure.axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def loss() -> Figure:
    """Question 5: IoU lost beside what may predict it."""
    table = read("losses")
    figure = Figure((9, 2.8), layout="constrained")
    names = {"e2": "excess of e2", "e32": "excess of e32", "intensity": "shift of mean intensity"}
    for ax, (by, label) in zip(figure.subplots(1, 3, sharey=True), names.items(), strict=True):
        for colour, (kind, rows) in zip(SHADES, table.groupby("kind"), strict=False):
            ax.plot(rows[by], rows["lost"], "o", ms=4, alpha=0.7, color=colour, label=kind)
        ax.set_xlabel(label)
    figure.axes[0].set_ylabel("IoU lost")
    figure.axes[0].legend()
    return figure


def one_training() -> Figure:
    """Question 7: sets cut from one network beside those trained alone."""
    table = next(iter(choosing.one_training().tables.values()))
    figure = Figure((5.2, 4), layout="constrained")
    ax = figure.subplots()
    for colour, name in zip(SHADES, [c for c in table if c.startswith("cut")], strict=False):
        ax.plot(table["trained alone"], table[name], "o", ms=4, color=colour, label=name)
    # the others lie too close together to be named
    for _, row in table[table["variant"].isin(["L2-pruned", "L3-pruned", "L4-pruned"])].iterrows():
        at = (row["trained alone"], row["cut, as trained"])
        style = {"fontsize": 7.5, "color": MUTED, "textcoords": "offset points", "va": "center"}
        ax.annotate(row["variant"], at, (6, 0), **style)
    ends = table["trained alone"].min(), table["trained alone"].max()
    ax.plot(ends, ends, color=FAINT, lw=1, zorder=0)
    ax.set_xlabel("mean IoU over the shifts, trained alone")
    ax.set_ylabel("cut from one network")
    ax.legend()
    return figure


PICTURES: Mapping[str, Callable[[], Figure]] = {
    "pruning": pruning,
    "heatmap": heatmap,
    "depth": depth,
    "cure": cure,
    "loss": loss,
    "choice": choice,
    "one-training": one_training,
}


def draw(name: str) -> Path:
    """Write one figure."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with styled():
        (FOLDER / f"{name}.svg").write_bytes(to_svg(PICTURES[name]()))
    return FOLDER / f"{name}.svg"
