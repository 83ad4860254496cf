"""Order, labels and selection of the tables' rows, shared by figures, pages and terminal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from skipshift.names import ORIGINAL, VARIANTS, parse_shift
from skipshift.statistics.comparisons import HIGHER, LOWER, VARIANT
from skipshift.statistics.metrics import METRICS
from skipshift.statistics.scores import MEAN

Marks = frozenset[tuple[str, str, str]]
"""(encoder, variant, domain) of what is set in bold."""


@dataclass(frozen=True)
class Panel:
    """Columns of a table that belong together: one kind of shift, or the domains without one."""

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
    """Name the source domain: `original`, or else the first that is no synthetic shift.

    >>> in_domain(["brightness:0.5", "original"]), in_domain(["A", "B"])
    ('original', 'A')
    """
    names = list(domains)
    plain = [name for name in names if parse_shift(name) is None]
    return ORIGINAL if ORIGINAL in plain or not plain else plain[0]


def panels(domains: Iterable[str]) -> list[Panel]:
    """Group domains as in Fig. 7: one panel per kind of shift, by factor, the source domain at 1.

    Domains that are no synthetic shifts form the last panel, the source domain first.

    >>> panels(["original", "brightness:1.5", "brightness:0.5"])[0].labels
    ('0.5', 'original', '1.5')
    """
    names = list(dict.fromkeys(domains))
    source = in_domain(names)
    kinds: dict[str, list[tuple[float, str, str]]] = {}
    for name in names:
        shift = parse_shift(name)
        if shift is not None:
            kinds.setdefault(shift[0], []).append((shift[1], f"{shift[1]:g}", name))
    grouped = []
    for kind, columns in kinds.items():
        ranked = sorted([*columns, (1.0, source, source)] if source in names else columns)
        grouped.append(Panel(kind, tuple(c[2] for c in ranked), tuple(c[1] for c in ranked)))
    plain = [name for name in names if parse_shift(name) is None]
    if not kinds or len(plain) > 1:
        rest = (source, *(name for name in plain if name != source))
        grouped.append(Panel("domains", rest, rest))
    return grouped


def of_classes(table: pd.DataFrame, foreground: Sequence[str]) -> pd.DataFrame:
    """Rows of the foreground classes, their mean first."""
    rows = table[table["class"].isin([MEAN, *foreground])]
    return rows.sort_values("class", key=lambda c: c != MEAN, kind="stable", ignore_index=True)


def grid(iou: pd.DataFrame, class_name: str) -> pd.DataFrame:
    """IoU of one class: one row per (encoder, variant) in display order, one column per domain."""
    rows = iou[iou["class"] == class_name]
    wide = rows.pivot_table(
        index=["encoder", "variant"], columns="domain", values="iou", dropna=False, sort=False
    )
    return wide.reindex(index=_networks(rows), columns=rows["domain"].unique())


def _networks(rows: pd.DataFrame) -> pd.MultiIndex:
    """List (encoder, variant) of each network in a table, in display order."""
    names = ["encoder", "variant"]
    present = set(rows[names].itertuples(index=False, name=None))
    order = [
        (encoder, variant)
        for encoder in rows["encoder"].unique()
        for variant in ordered_variants(rows["variant"])
        if (encoder, variant) in present
    ]
    return pd.MultiIndex.from_tuples(order, names=names)


def marks(tests: pd.DataFrame, class_name: str, metric: str = "iou") -> Marks:
    """Select (encoder, variant, domain) of the variants that are told to be better, for bold.

    That is the verdict ``higher``, and ``lower`` of a metric whose high values are the worse. A
    single checkpoint has no mark: its verdict says nothing of the variant.

    Parameters
    ----------
    tests
        Columns of tests.csv.
    """
    rows = tests[(tests["class"] == class_name) & (tests["metric"] == metric)]
    better = LOWER if lower_is_better(metric) else HIGHER
    rows = rows[(rows["verdict"] == better) & (rows["of"] == VARIANT)]
    return frozenset(zip(rows["encoder"], rows["variant"], rows["domain"], strict=True))


def lower_is_better(metric: str) -> bool:
    """Whether high values of a metric, one of `METRICS` or of `SCORES`, are the worse.

    >>> lower_is_better("brier"), lower_is_better("iou")
    (True, False)
    """
    return metric in METRICS and METRICS[metric].worse == "high"


def layer_order(layers: pd.DataFrame) -> list[str]:
    """Names of the layers from the input to the output."""
    return list(layers.sort_values("depth", kind="stable")["layer"].unique())


def excesses(layers: pd.DataFrame) -> pd.DataFrame:
    """Excess of one pair of domains: rows (encoder, variant), columns layers."""
    wide = layers.pivot_table(
        index=["encoder", "variant"], columns="layer", values="excess", sort=False
    )
    return wide.reindex(index=_networks(layers), columns=layer_order(layers))


def pairs_of(layers: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs (reference, shifted) of a profile table, in its order."""
    unique = layers[["reference", "shifted"]].drop_duplicates()
    return list(zip(unique["reference"], unique["shifted"], strict=True))


def of_pair(table: pd.DataFrame, pair: tuple[str, str]) -> pd.DataFrame:
    """Rows of one pair of domains."""
    return table[(table["reference"] == pair[0]) & (table["shifted"] == pair[1])]
