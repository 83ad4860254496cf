"""Metrics beside IoU on a study's page: their names, and their tables."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from skipshift.names import listed
from skipshift.page.ordering import grid, lower_is_better, marks
from skipshift.page.study_results import StudyResults
from skipshift.page.tables import effect_panels, home_first, labelled, laid_out
from skipshift.statistics.metrics import ALL, METRICS

NAMES = {
    "dice": "Dice",
    "group_dice": "mean Dice of groups",
    "volume_bias": "volume bias",
    "boundary_iou": "boundary IoU",
    "surface_dice": "surface Dice",
    "object_f1": "object F1",
    "brier": "Brier score",
    "ece": "calibration error",
    "entropy": "entropy in nats",
}
"""Names of `METRICS` on the page, which has the IoU anyway."""


def beside_iou(results: StudyResults) -> dict[str, Any] | None:
    """Lay out the metrics beside IoU of the headline class, or None if none was measured.

    Returns
    -------
    ``names`` of the metrics, and in words those where ``lower`` is better and those that networks
    are ``compared`` by; ``homes``: a table of all metrics for each source domain, ``domain`` and
    ``rows``; ``metrics``: of each metric ``name``, ``lower`` (whether lower is better),
    ``panels`` of its values on every domain and ``effects`` of the differences from the baseline.
    """
    table = results.metrics
    shown = [] if table is None else [name for name in NAMES if name in set(table["metric"])]
    if table is None or not shown:
        return None
    networks = list(grid(results.iou, results.headline).index)
    cells = {name: _cells(results, table, name) for name in shown}

    def at_home(home: str) -> list[dict[str, Any]]:
        return [
            {**head, "cells": [cells[name].get((*network, home)) for name in shown]}
            for network, head in zip(networks, labelled(networks), strict=True)
        ]

    def of_metric(name: str) -> dict[str, Any]:
        domains = home_first(results, results.iou)["domain"].unique()
        values = laid_out(domains, networks, lambda key, domain: cells[name].get((*key, domain)))
        about = {"name": NAMES[name], "lower": lower_is_better(name), "panels": values}
        return about | {"effects": effect_panels(results, name)}

    return {
        "names": [NAMES[name] for name in shown],
        "lower": _named(name for name in shown if lower_is_better(name)),
        "compared": _named(name for name in shown if METRICS[name].compared),
        "homes": [{"domain": home, "rows": at_home(home)} for home in results.homes],
        "metrics": [of_metric(name) for name in shown],
    }


def _named(metrics: Iterable[str]) -> str:
    names = [NAMES[name] for name in metrics]
    return listed(names) if names else ""


def _cells(
    results: StudyResults, table: pd.DataFrame, metric: str
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Values of one metric by (encoder, variant, domain): columns of metrics.csv, and `best`."""
    label = results.headline if METRICS[metric].by_class else ALL
    own = table[(table["metric"] == metric) & (table["class"] == label)]
    bold, cells = marks(results.tests, label, metric), {}
    for row in own.to_dict("records"):
        key = (row["encoder"], row["variant"], row["domain"])
        cells[key] = {**{str(name): value for name, value in row.items()}, "best": key in bold}
    return cells
