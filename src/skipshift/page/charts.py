"""Charts: heatmap of IoU (Fig. 7), violins of distances (Fig. 8), profiles and training curves."""

import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Arc, Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from skipshift.errors import ArgumentError
from skipshift.names import skips_of
from skipshift.page.ordering import Marks, Panel, grid, layer_order, ordered_variants, panels
from skipshift.page.style import INK, MUTED, NULL, WIDTH, colour_of, frame, styled, write
from skipshift.statistics.layer_tests import is_clear

_CELL_W, _CELL_H = 0.46, 0.30
_COLOURS = mpl.colormaps["viridis"]
_PATH, _SKIP = "#0072b2", "#d55e00"


@styled()
def heatmap(iou: pd.DataFrame, class_name: str, bold: Marks = frozenset()) -> Figure:
    """IoU of one class, every encoder and variant on every domain (Fig. 7, and Fig. 9's scanners).

    `ArgumentError` if the table lacks the class.

    Parameters
    ----------
    iou
        Columns of iou.csv.
    class_name
        Which class of the table to show.
    bold
        Cells that are set in bold, as from `marks`.
    """
    values = grid(iou, class_name)
    if values.empty:
        raise ArgumentError(f"the table has no class {class_name!r}: {sorted(set(iou['class']))}")
    return _mapped(values, bold, "IoU")


@styled()
def excess_map(layers: pd.DataFrame, network: str) -> Figure:
    """Excess in every layer for every shift or domain, bold if above the null; none of itself.

    Parameters
    ----------
    layers
        Columns of profile.csv, of one network, distance and pooling.
    """
    clear = layers[is_clear(layers)]
    bold = frozenset((network, *key) for key in zip(clear["layer"], clear["shifted"], strict=True))
    named = layers.assign(encoder=network, variant=layers["layer"])
    values = named.pivot_table("excess", ["encoder", "variant"], "shifted", dropna=False)
    rows = pd.MultiIndex.from_product([[network], layer_order(layers)], names=values.index.names)
    columns = [layers["reference"].iloc[0], *layers["shifted"].unique()]
    return _mapped(values.reindex(rows, columns=columns), bold, "excess")


def _mapped(values: pd.DataFrame, bold: Marks, what: str) -> Figure:
    """Draw values, rows (encoder, variant) and columns domains, as coloured cells."""
    encoders = list(values.index.get_level_values("encoder"))
    tops = _row_tops(encoders)
    left, gap, bar = 1.5, 0.24, 0.75
    lines = _flow(panels(values.columns), (WIDTH - left - bar + gap), gap)
    titled = len(lines) > 1 or len(lines[0]) > 1
    heads = [(0.42 if titled else 0.32) + _label_height(line) for line in lines]
    depth = -tops[-1] + _CELL_H
    line_width = max(sum(len(p.domains) * _CELL_W + gap for p in line) for line in lines) - gap
    height = sum(heads) + len(lines) * depth + 0.3 * (len(lines) - 1) + 0.1
    figure = Figure(figsize=(left + line_width + bar, height))
    y = height
    for line, head in zip(lines, heads, strict=True):
        y -= head
        _row_labels(figure, values.index, tops, left, y)
        x = left
        for panel in line:
            _panel(figure, panel, (x, y, depth), values, bold, tops)
            x += len(panel.domains) * _CELL_W + gap
        y -= depth + 0.3
    _colour_bar(figure, left + line_width + 0.22, height - heads[0], depth, what)
    return figure


def _row_tops(encoders: Sequence[str]) -> list[float]:
    tops, y = [], 0.0
    for i, encoder in enumerate(encoders):
        y -= 0.14 if i and encoder != encoders[i - 1] else 0
        tops.append(y)
        y -= _CELL_H
    return tops


def _flow(panels_shown: Sequence[Panel], room: float, gap: float) -> list[list[Panel]]:
    most = int(room / _CELL_W)
    lines: list[list[Panel]] = [[]]
    for panel in panels_shown:
        for i in range(0, len(panel.domains), most):
            piece = Panel(panel.title, panel.domains[i : i + most], panel.labels[i : i + most])
            used = sum(len(p.domains) * _CELL_W + gap for p in lines[-1])
            if lines[-1] and used + len(piece.domains) * _CELL_W > room:
                lines.append([])
            lines[-1].append(piece)
    return lines


def _leans(labels: Sequence[str]) -> bool:
    return any(len(label) > 8 for label in labels)


def _label_height(line: Sequence[Panel]) -> float:
    longest = [max(len(label) for label in p.labels) for p in line if _leans(p.labels)]
    return max([0.06 + 0.047 * n for n in longest], default=0.0)


def _row_labels(
    figure: Figure, rows: "pd.Index[Any]", tops: Sequence[float], left: float, y: float
) -> None:
    for (_, variant), top in zip(rows, tops, strict=True):
        write(figure, left - 0.1, y + top - _CELL_H / 2, variant, ha="right", va="center")
    encoders = rows.get_level_values("encoder")
    for encoder in encoders.unique():
        block = [top for name, top in zip(encoders, tops, strict=True) if name == encoder]
        middle = y + (block[0] + block[-1] - _CELL_H) / 2
        if len(block) > 2:
            write(
                figure, 0.16, middle, encoder,
                rotation=90, ha="center", va="center", weight="bold",
            )  # fmt: skip
        else:
            write(figure, 0.02, middle, encoder, va="center", weight="bold", size=8)


def _panel(
    figure: Figure,
    panel: Panel,
    position: tuple[float, float, float],
    values: pd.DataFrame,
    bold: Marks,
    tops: Sequence[float],
) -> None:
    x, y, depth = position
    columns = len(panel.domains)
    axes = frame(figure, x, y - depth, columns * _CELL_W, depth)
    axes.set(xlim=(0, columns), ylim=(-depth, 0))
    axes.axis("off")
    lean: dict[str, Any] = {"rotation": 38, "ha": "left"} if _leans(panel.labels) else {}
    for j, (domain, label) in enumerate(zip(panel.domains, panel.labels, strict=True)):
        for i, top in enumerate(tops):
            marked = (*values.index[i], domain) in bold
            _cell(axes, (j, top), float(values[domain].iloc[i]), marked)
        at = (j + (0.3 if lean else 0.5), 0.06)
        axes.text(*at, label, **{"ha": "center", "va": "bottom", "size": 8, "color": INK, **lean})
    title_y = y + 0.24 + (_label_height([panel]) if lean else 0)
    if panel.domains != tuple(values.columns):
        write(figure, x, title_y, panel.title, weight="bold", va="bottom", size=9.5)


def _cell(axes: Axes, position: tuple[float, float], value: float, bold: bool) -> None:
    known = np.isfinite(value)
    colour = _COLOURS(value) if known else (0.95, 0.95, 0.95, 1.0)
    x, y = position
    axes.add_patch(
        Rectangle((x, y - _CELL_H), 1, _CELL_H, facecolor=colour, edgecolor="white", linewidth=1.2)
    )
    axes.text(
        x + 0.5, y - _CELL_H / 2, f"{value:.2f}" if known else "-",
        ha="center", va="center_baseline", size=8.5, color=readable_on(colour),
        weight="bold" if bold else "normal",
    )  # fmt: skip


def readable_on(colour: tuple[float, float, float, float]) -> str:
    """Choose black or white, whichever has more contrast (WCAG relative luminance)."""
    rgb = np.asarray(colour[:3])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return "#000000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#ffffff"


def _colour_bar(figure: Figure, x: float, y: float, depth: float, what: str) -> None:
    tall = min(depth, 2.4)
    axes = frame(figure, x, y - tall, 0.13, tall)
    ramp = np.linspace(0, 1, 256)[:, None]
    axes.imshow(ramp, cmap=_COLOURS, aspect="auto", origin="lower", extent=(0, 1, 0, 1))
    axes.set(xticks=[], yticks=[0, 0.5, 1])
    axes.yaxis.tick_right()
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    axes.set_title(what, size=8, weight="normal", loc="center", pad=4)


@styled()
def violins(shift: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """Distances of the channels of every layer between one pair of domains (Fig. 8).

    One row per encoder; in each layer one violin per variant, over the channels of all its runs,
    with the mean as a dot. Grey is the null (noise floor): a line at its mean, a band from its 5th
    to its 95th percentile over channels. `ArgumentError` if there are several pairs or distances.

    Parameters
    ----------
    shift
        Columns of shift.parquet, of one reference, one shifted domain and one distance.
    layers
        Columns of layers.csv, for the order of the layers.
    """
    for name in ("reference", "shifted", "distance"):
        if shift[name].nunique() != 1:
            raise ArgumentError(f"violins need one {name}, got {sorted(shift[name].unique())}")
    names = layer_order(layers if set(shift["layer"]) <= set(layers["layer"]) else shift)
    variants = ordered_variants(shift["variant"])
    encoders = list(shift["encoder"].unique())
    tall, top, bottom = 2.7, 0.62, 0.45
    figure = Figure(figsize=(WIDTH, top + bottom + len(encoders) * (tall + 0.42) - 0.42))
    highest = float(np.nanmax(shift[["value", "null"]].to_numpy())) * 1.06 or 1.0
    for i, encoder in enumerate(encoders):
        y = bottom + (len(encoders) - 1 - i) * (tall + 0.42)
        axes = frame(figure, 0.62, y, WIDTH - 0.72, tall)
        _violin_row(axes, shift[shift["encoder"] == encoder], names, variants)
        axes.set(ylim=(0, highest), ylabel=_distance_label(shift))
        axes.set_title(encoder, pad=5)
        _halves(axes, names)
    handles = [Patch(color=colour_of(v), alpha=0.8) for v in variants]
    dot = Line2D([], [], marker="o", ls="", ms=4, mfc="white", mec=INK)
    null = (Patch(color=NULL), Line2D([], [], color=MUTED, lw=1.4))
    labels = [*variants, "mean", "null (noise floor): mean and 90 % of channels"]
    figure.legend(
        handles=[*handles, dot, null], labels=labels, loc="upper left", ncols=len(handles) + 2,
        bbox_to_anchor=(0.05, 1.0), columnspacing=1.4, handlelength=1.2, handletextpad=0.5,
        borderaxespad=0.2, fontsize=9 if len(handles) < 7 else 7,
    )  # fmt: skip
    return figure


def _violin_row(
    axes: Axes, rows: pd.DataFrame, names: Sequence[str], variants: Sequence[str]
) -> None:
    slot = 0.86 / len(variants)
    by_cell = dict(list(rows.groupby(["layer", "variant"])))
    for j, variant in enumerate(variants):
        at = {name: i - 0.43 + slot * (j + 0.5) for i, name in enumerate(names)}
        cells = {x: by_cell[n, variant] for n, x in at.items() if (n, variant) in by_cell}
        values = {x: cell["value"].dropna().to_numpy() for x, cell in cells.items()}
        _null_steps(axes, cells, slot)
        values = {x: v for x, v in values.items() if len(v)}
        if not values:
            continue
        drawn = axes.violinplot(
            list(values.values()), list(values), widths=slot * 0.92,
            showextrema=False, points=48,
        )  # fmt: skip
        bodies: Any = drawn["bodies"]
        for body in bodies:
            body.set(facecolor=colour_of(variant), edgecolor="none", alpha=0.8, zorder=2)
        means = [float(v.mean()) for v in values.values()]
        axes.plot(list(values), means, "o", ms=3.2, mfc="white", mec=INK, mew=0.7, zorder=4)
    axes.set(xlim=(-0.55, len(names) - 0.45))
    axes.set_xticks(range(len(names)), names, va="baseline")
    axes.tick_params(axis="x", length=0, pad=12)
    axes.grid(axis="y")
    for i in range(1, len(names)):
        axes.axvline(i - 0.5, color="#eeeeee", lw=0.8, zorder=0)


def _null_steps(axes: Axes, cells: dict[float, pd.DataFrame], slot: float) -> None:
    for x, cell in cells.items():
        null = cell["null"].dropna().to_numpy()
        if len(null):
            low, high = np.quantile(null, [0.05, 0.95])
            box = Rectangle((x - slot / 2, low), slot, high - low, color=NULL, lw=0, zorder=1.5)
            axes.add_patch(box)
            mean = float(null.mean())
            axes.plot([x - slot / 2, x + slot / 2], [mean, mean], color=MUTED, lw=1.4, zorder=3)


def _distance_label(shift: pd.DataFrame) -> str:
    return f"{str(shift['distance'].iloc[0]).capitalize()} distance"


def _halves(axes: Axes, names: Sequence[str]) -> None:
    """Mark the border of encoder and decoder, for layers named by kind and stride."""
    first = next((i for i, name in enumerate(names) if name[:1] in "sd"), 0)
    if not first or not _by_kind(names):
        return
    axes.axvline(first - 0.5, color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1)
    for x, text, side in ((first - 0.58, "encoder", "right"), (first - 0.42, "decoder", "left")):
        axes.text(
            x, 1.0, text, transform=axes.get_xaxis_transform(),
            ha=side, va="top", color=MUTED, size=8.5,
        )  # fmt: skip


def _by_kind(names: Sequence[str]) -> bool:
    """Whether all layers have names of a known architecture: e2, b32, s4, d4, e16b."""
    return all(re.fullmatch(r"[ebsd]\d+[a-z]?", name) for name in names)


@styled()
def profile_figure(layers: pd.DataFrame, label: str) -> Figure:
    """One network's profile: excess with its 95 % interval, distance and null (noise floor).

    The excess is the bias-corrected distance; hollow points are layers that are not significantly
    above their nulls. Without a null the distance stands alone. Skips with layers of their own (s4)
    are drawn off the line, before the block that reads them. Arcs below join the layers of kept
    skips if the table names a variant. `ArgumentError` if a layer has several rows.

    Parameters
    ----------
    layers
        One row per layer: layer, depth, distance, null, excess, low, high, p_adjusted, and variant
        if known.
    label
        Title of the figure.
    """
    rows = layers.sort_values("depth", kind="stable")
    names = [str(name) for name in rows["layer"]]
    if len(set(names)) != len(names):
        raise ArgumentError("a profile must have one row per layer; choose one run and one pair")
    skips = _skip_pairs(rows, names)
    crowded = len(names) * (max(map(len, names)) + 1) > 90
    strip = 0.95 if skips else 0.12
    bottom = strip + (0.35 if not crowded else 0.25 + 0.055 * max(map(len, names)))
    figure = Figure(figsize=(8.2, bottom + 3.1))
    axes = frame(figure, 0.62, bottom, 7.45, 2.65)
    _path_and_skips(axes, rows, names)
    values = rows[["distance", "null", "excess", "low", "high"]].to_numpy(float)
    top, least = float(np.nanmax(values)) * 1.12, min(0.0, float(np.nanmin(values)) * 1.12)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(least, top or 1.0), ylabel="distance")
    axes.set_xticks(range(len(names)), names, va="top" if crowded else "baseline")
    axes.tick_params(
        axis="x",
        length=0,
        pad=3 if crowded else 12,
        rotation=90 * crowded,
        labelsize=7 if crowded else 9,
    )
    axes.grid(axis="y")
    axes.set_title(label, pad=18)
    _halves(axes, names)
    axes.legend(
        loc="lower right", ncols=4, bbox_to_anchor=(1.005, 0.985), columnspacing=1.4, fontsize=8.5
    )
    if skips:
        _skip_arcs(frame(figure, 0.62, 0.08, 7.45, strip - 0.1), skips, len(names))
    return figure


def _path_and_skips(axes: Axes, rows: pd.DataFrame, names: Sequence[str]) -> None:
    x = np.arange(len(names))
    distance, null, excess, low, high = (
        rows[c].to_numpy(float) for c in ("distance", "null", "excess", "low", "high")
    )
    clear = is_clear(rows).to_numpy()
    aside = np.array([_by_kind(names) and name[0] == "s" for name in names])
    path = ~aside
    axes.axhline(0, color=MUTED, lw=0.8, zorder=1)
    axes.plot(x[path], distance[path], color=MUTED, lw=1.2, label="distance")
    axes.plot(x[path], null[path], color=MUTED, ls=(0, (4, 2)), lw=1.2, label="null (noise floor)")
    errors = np.nan_to_num(np.stack([excess - low, high - excess])).clip(0)
    bars: dict[str, Any] = {"mec": "white", "capsize": 3, "elinewidth": 1.3, "zorder": 3}
    axes.errorbar(
        x[path], excess[path], errors[:, path], color=_PATH, marker="o", ms=6,
        label="excess (bias-corrected distance), 95 % interval", **bars,
    )  # fmt: skip
    if aside.any():
        axes.plot(x[aside], distance[aside], "_", color=MUTED, ms=9, mew=1.2)
        axes.plot(x[aside], null[aside], ls="", marker=".", color=MUTED, ms=4)
        axes.errorbar(
            x[aside], excess[aside], errors[:, aside], color=_SKIP, marker="D", ms=6, ls="",
            label="excess at a skip", **bars,
        )  # fmt: skip
    hollow = ~clear & ~np.isnan(excess)
    axes.plot(
        x[hollow], excess[hollow], ls="", marker=".", ms=5, mfc="white", mec="white", zorder=4
    )


def _skip_pairs(rows: pd.DataFrame, names: Sequence[str]) -> list[tuple[int, int, str]]:
    if "variant" not in rows:
        return []
    ends = [(f"e{2**k}", f"d{2**k}", f"L{k}") for k in skips_of(str(rows["variant"].iloc[0]))]
    return [(names.index(e), names.index(d), k) for e, d, k in ends if {e, d} <= set(names)]


def _skip_arcs(axes: Axes, skips: Sequence[tuple[int, int, str]], layers: int) -> None:
    axes.set(xlim=(-0.5, layers - 0.5), ylim=(-1, 0))
    axes.axis("off")
    longest = max(end - start for start, end, _ in skips)
    for start, end, level in skips:
        depth = 0.8 * (end - start) / longest
        middle = (start + end) / 2
        axes.add_patch(
            Arc((middle, 0), end - start, 2 * depth, theta1=180, theta2=360, color=MUTED, lw=1.1)
        )
        axes.text(
            middle, -depth, level, ha="center", va="center", size=8, color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2},
        )  # fmt: skip


@styled()
def curves(history: pd.DataFrame) -> Figure:
    """Training loss and validation IoU by epoch; thin lines are runs, thick lines their mean.

    Parameters
    ----------
    history
        encoder, variant, fold, seed, epoch, train_loss, validation_iou.
    """
    encoders = list(history["encoder"].unique())
    variants = ordered_variants(history["variant"])
    shown = (("train_loss", "training loss"), ("validation_iou", "validation IoU"))
    tall = 2.2
    figure = Figure(figsize=(WIDTH, 0.85 + len(encoders) * (tall + 0.5) - 0.1))
    for i, encoder in enumerate(encoders):
        rows = history[history["encoder"] == encoder]
        y = 0.5 + (len(encoders) - 1 - i) * (tall + 0.5)
        for j, (column, label) in enumerate(shown):
            axes = frame(figure, 0.62 + j * 5.1, y, 4.4, tall)
            for variant in variants:
                _curve(axes, rows[rows["variant"] == variant], column, colour_of(variant))
            axes.set(ylabel=label, xlabel="epoch" if i == len(encoders) - 1 else "")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="y")
            axes.margins(x=0.02)
            if j == 0:
                axes.set_title(encoder, pad=5)
    handles = [Line2D([], [], color=colour_of(v), lw=2.2, label=v) for v in variants]
    figure.legend(handles=handles, loc="upper left", ncols=8, bbox_to_anchor=(0.05, 1.0))
    return figure


def _curve(axes: Axes, rows: pd.DataFrame, column: str, colour: str) -> None:
    runs: list[npt.NDArray[Any]] = [
        run[["epoch", column]].to_numpy(float) for _, run in rows.groupby(["fold", "seed"])
    ]
    mean = rows.groupby("epoch")[column].mean()
    many = len(runs) > 1
    for run in runs if many else []:
        axes.plot(run[:, 0], run[:, 1], color=colour, lw=0.7, alpha=0.35)
    point = {"marker": "o", "ms": 3} if len(mean) < 12 else {}
    axes.plot(mean.index, mean, color=colour, lw=2 if many else 1.6, **point)  # type: ignore[arg-type]
