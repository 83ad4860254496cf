"""Views of the test domains for the page: the same places, or like images of each (Fig. 4 to 6)."""

import io
from typing import Any

import cv2
import numpy as np
import pandas as pd

from skipshift import records
from skipshift.data.images import shrink
from skipshift.data.manifest import COLUMNS, Case, parse_spacing, read_cases
from skipshift.study.grid import Study

PLACES = 2
"""Rows of the figure."""

CANDIDATES = 24
"""Cases of a place or a domain that are looked at for the one with most foreground."""

LONGEST = 320
"""Longest side in pixels of what is kept."""


def write_views(study: Study) -> None:
    """Write domains.csv, and views.npz of a study with several test domains.

    A place that several scanners have seen is a case of one name and group in all domains; those of
    most foreground are kept. Without any, each domain shows one group's case of most foreground.
    """
    tests = study.cases[study.cases["split"] == "test"]
    table = domain_facts(tests)
    records.write_table(study.out / records.TABLES / "domains.csv", table)
    if len(table) < 2:
        return
    rows = chosen_places(tests, len(study.spec.classes), study.spec.evaluation_crop)
    shown = [case for row in rows for case in row]
    arrays: dict[str, Any] = {
        "places": [number for number, row in enumerate(rows) for _ in row],
        "cases": [case.case for case in shown],
        "domains": [case.domain for case in shown],
    }
    for i, case in enumerate(shown):
        arrays[f"image-{i}"] = shrink(case.image, LONGEST)
        arrays[f"mask-{i}"] = shrink(case.mask, LONGEST, cv2.INTER_NEAREST)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    records.write_bytes(study.out / records.VIEWS, buffer.getvalue())


def chosen_places(tests: pd.DataFrame, classes: int, crop: int | None) -> list[list[Case]]:
    """Choose what is shown: places seen in all domains, else one row of a case a domain."""
    domains = list(tests["domain"].unique())
    place = pd.MultiIndex.from_frame(tests[["group", "case"]])
    everywhere = place.value_counts()[place].to_numpy() == len(domains)
    if everywhere.any():
        first = tests[everywhere & (tests["domain"] == domains[0])]
        # places of different groups show more than neighbours do
        first = first.iloc[np.argsort(first.groupby("group").cumcount(), kind="stable")]
        best = sorted(_read(first[:CANDIDATES], classes, crop), key=_foreground, reverse=True)
        names = [case.case for case in best[:PLACES]]
        return [_read(tests[tests["case"] == name], classes, crop) for name in names]
    row = []
    for _, own in tests.groupby("domain", sort=False):
        one = own[own["group"] == own["group"].iloc[0]]
        row.append(max(_read(one[:CANDIDATES], classes, crop), key=_foreground))
    return [row]


def domain_facts(tests: pd.DataFrame) -> pd.DataFrame:
    """Columns of domains.csv: of each test domain what its manifest says of it (Table I).

    ``spacing`` is the size of a pixel, and ``about`` names further columns of the manifest that
    hold one value in each domain.
    """
    own = [str(name) for name in tests if name not in (*COLUMNS, "stratum", "spacing")]
    by_domain = tests.groupby("domain", sort=False)
    fixed = [
        name
        for name in own
        if (by_domain[name].nunique() == 1).all() and tests[name].astype(bool).all()
    ]
    rows = []
    for domain, part in by_domain:
        about = [f"{name} {part[name].iloc[0]}" for name in fixed]
        known = map(spacing_text, part.get("spacing", pd.Series(dtype=str)))
        sizes = sorted({size for size in known if size})
        counts = {"groups": part["group"].nunique(), "cases": len(part)}
        spacing = " to ".join(dict.fromkeys(sizes[:1] + sizes[-1:]))
        rows.append({"domain": domain, "about": ", ".join(about), "spacing": spacing, **counts})
    return pd.DataFrame(rows)


def spacing_text(text: str) -> str:
    """Write the size of a pixel, in micrometres where they suit it; empty if unknown.

    >>> spacing_text("0.00025"), spacing_text("1.2x1.25"), spacing_text("")
    ('0.25 µm', '1.20 x 1.25 mm', '')
    """
    sides = parse_spacing(text)
    if sides is None:
        return ""
    factor, unit = (1000, "µm") if max(sides) < 0.1 else (1, "mm")
    words = dict.fromkeys(f"{side * factor:.2f}" for side in sides)
    return f"{' x '.join(words)} {unit}"


def _read(rows: pd.DataFrame, classes: int, crop: int | None) -> list[Case]:
    return list(read_cases(rows, classes, crop))


def _foreground(case: Case) -> float:
    return float((case.mask > 0).mean())
