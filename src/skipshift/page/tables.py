"""Rows of the page's tables, as numbers in display order."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from skipshift.page.ordering import Marks, excesses, grid, marks, ordered_variants, panels
from skipshift.page.profile_sentences import rivals, top_layer
from skipshift.page.study_results import StudyResults, tests_on
from skipshift.page.wording import many
from skipshift.statistics.comparisons import AWAY
from skipshift.statistics.layer_tests import is_clear

# Table II: trainable parameters for two classes.
PAPER_PARAMETERS = {
    "resnet18": {
        "baseline": 14_328_354,
        "L1-pruned": 14_309_922,
        "L2-pruned": 14_273_058,
        "L3-pruned": 14_125_602,
        "L4-pruned": 13_535_778,
    },
    "resnet34": {
        "baseline": 24_436_514,
        "L1-pruned": 24_418_082,
        "L2-pruned": 24_381_218,
        "L3-pruned": 24_233_762,
        "L4-pruned": 23_643_938,
    },
}


UNKNOWN = float("nan")
UNBOUND = {"low": UNKNOWN, "high": UNKNOWN}


def labelled(networks: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """Row headings: encoder, variant, and whether the row is the first of its encoder."""
    heads: list[dict[str, Any]] = []
    for encoder, variant in networks:
        first = not heads or heads[-1]["encoder"] != encoder
        heads.append({"encoder": encoder, "variant": variant, "first": first})
    return heads


def summary(results: StudyResults) -> list[dict[str, Any]]:
    """Headline IoU of each network: in-domain, mean over the others, loss and lowest domain."""
    values = grid(results.iou, results.headline)
    homes, away = values[list(results.homes)], values[list(results.away)]
    mean = pd.DataFrame({"home": homes.mean(axis=1), "away": away.mean(axis=1)})
    bold = marks(results.tests, results.headline)
    home = results.homes[0] if len(results.homes) == 1 else ""
    over = AWAY if len(results.away) > 1 else "".join(results.away)
    bounds = _bounds(results.iou, results.headline)
    runs = results.runs.groupby(["encoder", "variant"]).size()
    lines = []
    for head in labelled(values.index):
        key = (head["encoder"], head["variant"])
        ranked = away.loc[key].dropna().sort_values()
        lines.append(
            {
                **head,
                "home": mean["home"][key],
                **(bounds[*key, home] if home else UNBOUND),
                "away": mean["away"][key],
                "lost": mean["home"][key] - mean["away"][key],
                "lowest": ranked.iloc[0] if len(ranked) else UNKNOWN,
                "where": ranked.index[0] if len(ranked) else "",
                "best_home": (*key, home) in bold,
                "best_away": (*key, over) in bold,
                "runs": runs.get(key, 0),
            }
        )
    return lines


def iou_panels(
    iou: pd.DataFrame, class_name: str, bold: Marks = frozenset()
) -> list[dict[str, Any]]:
    """IoU of one class with its intervals, one table per panel of domains.

    Parameters
    ----------
    bold
        Cells that are set in bold, as from `marks`.
    """
    values = grid(iou, class_name)
    bounds = _bounds(iou, class_name)

    def cell(key: tuple[str, str], domain: str) -> dict[str, Any]:
        score = {"domain": domain, "iou": values[domain][key], "best": (*key, domain) in bold}
        return {**score, **bounds.get((*key, domain), UNBOUND)}

    return laid_out(values.columns, values.index, cell)


def metric_panels(
    results: StudyResults, metric: str, class_name: str | None = None
) -> list[dict[str, Any]]:
    """Scores of one class by one metric, the constant predictions last, as by `iou_panels`."""
    label = class_name or results.headline
    scores = results.scores[results.scores["metric"] == metric].rename(columns={"value": "iou"})
    bold = marks(results.tests, label, metric)
    return iou_panels(home_first(results, scores), label, bold)


def empty_cases(results: StudyResults) -> int:
    """Count the cases whose reference lacks a foreground class, in the domain with most of them."""
    cases = results.cases[results.cases["class"].isin(results.foreground)]
    empty = cases[cases["tp"] + cases["fn"] == 0]
    return int(empty.groupby("domain")["case"].nunique().max()) if len(empty) else 0


def effect_panels(results: StudyResults, metric: str) -> list[dict[str, Any]]:
    """Differences from the baseline by one metric, one table per panel of domains; may be none."""
    tests = results.tests[results.tests["class"] == results.headline]
    tests = tests[(tests["metric"] == metric) & (tests["domain"] != AWAY)]
    tests = home_first(results, tests)
    named = {(t["encoder"], t["variant"], t["domain"]): t for t in tests.to_dict("records")}
    compared = {key[:2] for key in named}
    networks = [key for key in grid(results.iou, results.headline).index if key in compared]
    if not networks:
        return []
    return laid_out(tests["domain"].unique(), networks, lambda key, d: named.get((*key, d)))


def standings(results: StudyResults) -> list[dict[str, Any]]:
    """Compare all variants with the baseline, in-domain and on the mean of the others."""
    settings: list[tuple[tuple[str, ...], str]] = [((home,), home) for home in results.homes]
    if results.away:
        mean = f"mean of {many(results.away)}"
        settings.append((results.away, mean if len(results.away) > 1 else results.away[0]))
    lines: list[dict[str, Any]] = []
    for encoder in results.iou["encoder"].unique():
        for domains, where in settings:
            tests = tests_on(results, encoder, domains).set_index("variant")
            for variant in ordered_variants(tests.index):
                first = not lines or lines[-1]["encoder"] != encoder
                head = {"variant": variant, "where": where, "first": first}
                lines.append({**head, **dict(tests.loc[variant])})
    return lines


def home_first(results: StudyResults, table: pd.DataFrame) -> pd.DataFrame:
    """Put the rows of the source domains first."""
    return table.sort_values("domain", key=lambda d: ~d.isin(results.homes), kind="stable")


def laid_out(
    domains: Iterable[str],
    networks: Iterable[tuple[str, str]],
    cell: Callable[[tuple[str, str], str], Any],
) -> list[dict[str, Any]]:
    """Lay cells out, one table per panel of domains."""
    heads = labelled(networks)
    return [
        {
            "title": panel.title,
            "labels": panel.labels,
            "rows": [
                {
                    **head,
                    "cells": [cell((head["encoder"], head["variant"]), d) for d in panel.domains],
                }
                for head in heads
            ],
        }
        for panel in panels(domains)
    ]


def _bounds(iou: pd.DataFrame, class_name: str) -> dict[tuple[str, str, str], dict[str, float]]:
    """Interval of one class by (encoder, variant, domain)."""
    rows = iou[iou["class"] == class_name]
    columns = (rows[name] for name in ("encoder", "variant", "domain", "low", "high"))
    return {
        (e, v, d): {"low": low, "high": high} for e, v, d, low, high in zip(*columns, strict=True)
    }


def parameters(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Trainable parameters of each network, and those of the paper."""
    paper = PAPER_PARAMETERS
    counts = runs.groupby(["encoder", "variant"], sort=False)["parameters"].first()
    return [
        {**head, "here": int(here), "paper": paper.get(head["encoder"], {}).get(head["variant"])}
        for head, here in zip(labelled(counts.index), counts, strict=True)
    ]


def domain_rows(results: StudyResults, paper: Mapping[str, str]) -> list[dict[str, Any]]:
    """Facts of each test domain beside the paper's, if there are several domains (Table I).

    Parameters
    ----------
    paper
        Domain -> what the paper says of it.
    """
    table = results.domains
    if table is None or len(table) < 2:
        return []
    rows = home_first(results, table).to_dict("records")
    return [
        {str(name): value for name, value in row.items()}
        | {"home": row["domain"] in results.homes, "paper": paper.get(row["domain"], "")}
        for row in rows
    ]


def excess_rows(layers: pd.DataFrame) -> list[dict[str, Any]]:
    """Excess of every network in every layer for one pair of domains; which are clear, or the top.

    A layer is the ``top`` if its excess is significantly larger than that of every other.
    """
    table, lines = excesses(layers), []
    for network, head in zip(table.index, labelled(table.index), strict=True):
        own = (layers["encoder"] == network[0]) & (layers["variant"] == network[1])
        rows = layers[own].set_index("layer", drop=False)
        clear = is_clear(rows).reindex(table.columns, fill_value=False)
        top = top_layer(rows) if clear.any() and not rivals(rows) else None
        cells = [
            {"value": value, "clear": bool(clear[layer]), "top": layer == top}
            for layer, value in table.loc[network].items()
        ]
        lines.append({**head, "cells": cells})
    return lines


def training(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Training of each network over its runs: epochs, validation IoU and time."""
    lines: list[dict[str, Any]] = []
    for (encoder, variant), part in runs.groupby(["encoder", "variant"], sort=False):
        first, last = part["best_epoch"].min(), part["best_epoch"].max()
        lines.append(
            {
                "encoder": encoder,
                "variant": variant,
                "first": not lines or lines[-1]["encoder"] != encoder,
                "runs": len(part),
                "epochs": part["epochs"].max(),
                "best_epoch": first if first == last else f"{first} to {last}",
                "validation_iou": part["validation_iou"].mean(),
                "minutes": part["seconds"].mean() / 60,
            }
        )
    return lines


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested settings to (dotted name, text).

    >>> flat({"training": {"crop": 128}, "seeds": [0, 1], "smear": None})
    [('training.crop', '128'), ('seeds', '0, 1'), ('smear', 'none')]
    """
    lines: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            lines.append((prefix + name, ", ".join(map(str, value)) or "none"))
        else:
            lines.append((prefix + name, "none" if value is None else str(value)))
    return lines
