"""Findings of every command as small tables, with any names of domains, layers and groups."""

import numpy as np
import pandas as pd

from skipshift import records
from skipshift.page.command_pages import (
    carry_findings,
    estimate_findings,
    evaluation_findings,
    profile_findings,
    scores_findings,
)
from skipshift.page.diagnosis_page import Diagnosed, diagnosis_findings, remedy_findings
from skipshift.page.example_pictures import Case
from skipshift.page.remedy_sentences import Facts, Recommended
from skipshift.page.u_drawing import Link

EVIL = (
    "<script>alert(1)</script>",
    "\"' onload='alert(2)",
    "\u202egnp.exe",
    "\x1b[31mred\x07",
    "$\\frac{1}{2}$ {{ 7 * 7 }}",
    "x" * 10_000,
    "y" * 9_999 + "z",
)


def layers_table(names):
    rows = pd.DataFrame({"layer": names, "depth": range(len(names)), "measure": "hellinger"})
    numbers = {"distance": 0.6, "null": 0.3, "excess": 0.5, "low": 0.4, "high": 0.6}
    tests = {"p": 0.01, "p_adjusted": 0.02, "behind": 0.0, "behind_low": 0.0, "behind_high": 0.0}
    return rows.assign(pooling="average", groups="9 + 9", least_p=0.001, **numbers, **tests)


def carried_table(names):
    table = pd.DataFrame({"path": ["none", *names, "all"]})
    numbers = {"iou": 0.5, "share": 0.4, "low": 0.3, "high": 0.5, "missing": 0.2}
    loss = {"lost": 0.3, "lost_low": 0.2, "lost_high": 0.4, "in_domain": 0.8, "shapley": np.nan}
    ends = {"missing_low": 0.1, "missing_high": 0.3}
    sure = {"sure": True, "missing_sure": True, "farther": False, "read": True}
    return table.assign(**numbers, **loss, **ends, **sure)


def remedies_table(places):
    numbers = dict.fromkeys(records.TABLE_COLUMNS["remedies.csv"], 0.5)
    table = pd.DataFrame({"place": places}).assign(**{**numbers, "remedy": "adabn"})
    return table.assign(place=places, labels=0, failed="", passed_over="", collapsed=False)


def facts(place):
    return Facts(
        best=Recommended("adabn", place), iou=0.4, in_domain=0.8, constant=0.3,
        chosen=(0.6, 0.2, 0.1, 0.3), layer=place, excess=0.5, p=0.01, groups=9, known=9, images=9,
        masks=True, margin=0.01, least_p=0.001, predicted=(0.5, 0.5), expected=(0.5, 0.5),
    )  # fmt: skip


def case(group):
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
    image = np.zeros((8, 8, 3), np.uint8)
    return Case("shifted set, worst: image 1 of 9", group, image, labels, labels, labels[::-1],
                (0.4, 0.6))  # fmt: skip


def findings(names):
    about = {"net": names[0], "reference": names[1], "shifted": names[5], "manifest": names[2]}
    layers, links = layers_table(list(names)), [Link("L1", names[0], names[5])]
    iou = pd.DataFrame({"domain": names, "class": names, "iou": 0.5, "low": 0.4, "high": 0.6})
    causes = pd.DataFrame({"remedy": ["flip"], "cause": ["flip"], "clear": [3], "left": [0.9]})
    tried = remedies_table(list(names))
    diagnosed = Diagnosed(
        layers, carried_table(names), tried, facts(names[5]), "none", True, "", causes, links,
        [case(name) for name in names],
    )  # fmt: skip
    return {
        "diagnose": diagnosis_findings(diagnosed, about),
        "remedy": remedy_findings(tried, facts(names[5]), (names, links), [case(names[5])], about),
        "profile": profile_findings(layers, links, about),
        "carry": carry_findings(carried_table(names), (names, links), about),
        "evaluate": evaluation_findings(iou.assign(cases=9), about),
        "estimate": estimate_findings(iou.assign(method="threshold", answered=True), "0.5", about),
        "score": scores_findings(
            pd.DataFrame({"case": names, "p": 0.5, "layer": names, "iou": 0.5}), "None.", about
        ),
    }, about


PAGES = ("diagnose", "remedy", "profile", "carry", "evaluate", "estimate", "score", "study")
