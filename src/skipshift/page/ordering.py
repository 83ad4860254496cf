"""In what order and under which labels tables are shown: figures, page and terminal agree on it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from skipshift.names import ORIGINAL, VARIANTS, parse_shift
from skipshift.statistics.scores import MEAN


@dataclass(frozen=True)
class Panel:
    """Columns of a table that belong together: one kind of shift, or domains that are no shifts."""

    title: str
    domains: tuple[str, ...]
    labels: tuple[str, ...]


def ordered_variants(names: Iterable[str]) -> list[str]:
    """Baseline, L1- to L4-pruned, then any other sets of skips by name.

    >>> ordered_variants(["skips-13", "L4-pruned", "baseline", "L4-pruned"])
    ['baseline', 'L4-pruned', 'skips-13']
    """
    known = list(VARIANTS)
    return sorted(set(names), key=lambda v: (known.index(v) if v in known else len(known), v))


def in_domain(domains: Iterable[str]) -> str:
    """Name the domain that the networks were trained on: `original`, or else the first no-shift.

    >>> in_domain(["brightness:0.5", "original"]), in_domain(["A", "B"])
    ('original', 'A')
    """
    names = list(domains)
    plain = [name for name in names if parse_shift(name) is None]
    return ORIGINAL if ORIGINAL in plain or not plain else plain[0]


def panels(domains: Iterable[str]) -> list[Panel]:
    """Group domains as Fig. 7 does: per kind of shift by factor, the in-domain one at factor 1.

    Domains that are no shifts form the last panel, the in-domain one first.

    >>> panels(["original", "brightness:1.5", "brightness:0.5"])[0].labels
    ('0.5', 'original', '1.5')
    """
    names = list(dict.fromkeys(domains))
    home = in_domain(names)
    kinds: dict[str, list[tuple[float, str, str]]] = {}
    for name in names:
        shift = parse_shift(name)
        if shift is not None:
            kinds.setdefault(shift[0], []).append((shift[1], f"{shift[1]:g}", name))
    found = []
    for kind, columns in kinds.items():
        ranked = sorted([*columns, (1.0, home, home)] if home in names else columns)
        found.append(Panel(kind, tuple(c[2] for c in ranked), tuple(c[1] for c in ranked)))
    plain = [name for name in names if parse_shift(name) is None]
    if not kinds or len(plain) > 1:
        rest = (home, *(name for name in plain if name != home))
        found.append(Panel("domains", rest, rest))
    return found


def of_classes(table: pd.DataFrame, foreground: Sequence[str]) -> pd.DataFrame:
    """Rows of the foreground classes, those of their mean first."""
    rows = table[table["class"].isin([MEAN, *foreground])]
    return rows.sort_values("class", key=lambda c: c != MEAN, kind="stable", ignore_index=True)


def grid(iou: pd.DataFrame, class_name: str) -> pd.DataFrame:
    """IoU of one class: rows (encoder, variant) in the order shown, a column for each domain."""
    rows = iou[iou["class"] == class_name]
    wide = rows.pivot_table(
        index=["encoder", "variant"], columns="domain", values="iou", dropna=False, sort=False
    )
    present = set(wide.index)
    order = [
        (encoder, variant)
        for encoder in rows["encoder"].unique()
        for variant in ordered_variants(rows["variant"])
        if (encoder, variant) in present
    ]
    return wide.reindex(index=pd.MultiIndex.from_tuples(order, names=wide.index.names))[
        list(rows["domain"].unique())
    ]


def best(values: pd.DataFrame, digits: int) -> pd.DataFrame:
    """Where a variant is the highest of its encoder in a column, ties at ``digits`` included.

    An encoder with one variant has no best.

    Parameters
    ----------
    values
        As from `grid`.
    """
    rounded = values.round(digits)
    by_encoder = rounded.groupby(level="encoder", sort=False)
    rivals = by_encoder.transform("size").gt(1)
    return rounded.eq(by_encoder.transform("max")).mul(rivals, axis=0)


def layer_order(layers: pd.DataFrame) -> list[str]:
    """Names of the layers from the input to the output."""
    return list(layers.sort_values("depth", kind="stable")["layer"].unique())


def excesses(layers: pd.DataFrame) -> pd.DataFrame:
    """Excess of one pair of domains: a row for each (encoder, variant), a column for each layer.

    Runs are averaged.
    """
    wide = layers.pivot_table(
        index=["encoder", "variant"], columns="layer", values="excess", sort=False
    )
    order = [
        (encoder, variant)
        for encoder in layers["encoder"].unique()
        for variant in ordered_variants(layers["variant"])
        if (encoder, variant) in set(wide.index)
    ]
    rows = pd.MultiIndex.from_tuples(order, names=wide.index.names)
    return wide.reindex(index=rows, columns=layer_order(layers))


def pairs_of(layers: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs (reference, shifted) of a profile table, in its order."""
    unique = layers[["reference", "shifted"]].drop_duplicates()
    return list(zip(unique["reference"], unique["shifted"], strict=True))


def of_pair(table: pd.DataFrame, pair: tuple[str, str]) -> pd.DataFrame:
    """Rows of one pair of domains."""
    return table[(table["reference"] == pair[0]) & (table["shifted"] == pair[1])]
