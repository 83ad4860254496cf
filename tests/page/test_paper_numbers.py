from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import planted
from planted import Plan
from skipshift.page.paper_numbers import beside_paper, published
from skipshift.page.report import write_report
from skipshift.page.study_results import StudyResults, read_results, read_study_spec
from skipshift.study_specs import StudySpec, TrainingSpec

HEART = ("background", "LV", "MYO", "RV")
PAPER = StudySpec(manifest=Path("m.csv"), classes=HEART)


def results(folds=5, groups=16, homes=("A",), domains=("A", "B", "C", "D"), encoder="resnet18"):
    rows = [
        {
            "encoder": encoder, "variant": variant, "domain": domain, "class": name,
            "iou": 0.75, "low": 0.7, "high": 0.8,
        }
        for variant in ("baseline", "L1-pruned", "L2-pruned")
        for domain in domains
        for name in (*HEART[1:], "mean")
    ]  # fmt: skip
    cases = [(d, f"{d}{g}-ED", f"{d}{g}") for d in domains for g in range(groups)]
    return StudyResults(
        iou=pd.DataFrame(rows),
        foreground=HEART[1:],
        cases=pd.DataFrame(cases, columns=["domain", "case", "group"]),
        runs=pd.DataFrame({"fold": range(folds), "seed": 0}),
        homes=homes,
        scores=pd.DataFrame(),
        tests=pd.DataFrame(),
        margin=0.01,
    )


def test_the_paper_stands_beside_the_mean_iou_of_the_classes_by_variant_and_domain():
    found = beside_paper(results(), PAPER)
    assert found["figure"] == "Fig. 9c"
    told = {(row["variant"], row["domain"]): row for row in found["rows"]}
    assert len(told) == 8  # the paper has no L2-pruned there
    assert told["L1-pruned", "C"]["theirs"] == 0.69
    assert told["L1-pruned", "C"]["difference"] == pytest.approx(0.06)
    assert [row["first"] for row in found["rows"]] == [True] + [False] * 7
    assert found["differs"] == []


def test_what_differs_in_protocol_is_told():
    training = TrainingSpec(encoder_weights=None, epochs=16)
    spec = replace(PAPER, training=training, folds=4, run_folds=(0,), evaluation_crop=192)
    assert beside_paper(results(folds=1, groups=2), spec)["differs"] == [
        "encoder weights random (paper: imagenet)",
        "epochs 16 (paper: 50)",
        "mean over 1 of 4 folds (paper: over all 5)",
        "tested on centred crops of 192 pixels (paper: whole images)",
        "2 test subjects (paper: 16)",
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"homes": ("B",)},
        {"domains": ("E", "F")},
        {"encoder": "resnet50"},
    ],
)
def test_a_study_of_another_home_other_domains_or_another_encoder_has_no_counterpart(other):
    assert beside_paper(results(**other), PAPER) is None


def test_a_study_of_other_classes_has_no_counterpart():
    assert beside_paper(results(), replace(PAPER, classes=("a", "b", "c", "d"))) is None


def test_each_value_of_the_paper_is_an_iou_of_a_known_network():
    values = [
        (encoder, value)
        for experiment in published()
        for encoder, variants in experiment["iou"].items()
        for domains in variants.values()
        for value in domains.values()
    ]
    assert {encoder for encoder, _ in values} == {"resnet18", "resnet34"}
    assert len(values) == 6 + 2 * 3 * (6 + 5 + 4)
    assert all(0.3 <= value <= 0.91 for _, value in values)


def test_the_page_shows_the_paper_beside_a_study_that_repeats_it(tmp_path):
    plan = Plan(cases=6, classes=HEART, domains=("A", "B"), pairs=(), homes=("A",))
    folder = planted.plant(tmp_path, plan)
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert "IoU here and in the paper (Fig. 9c)" in page
    found = beside_paper(read_results(folder, read_study_spec(folder)), read_study_spec(folder))
    assert all(f"<td>{row['here']:.3f}<" in page for row in found["rows"])


def test_the_page_of_any_other_study_is_silent_about_it(tmp_path):
    folder = planted.plant(tmp_path, Plan(cases=6, channels=(4,) * 10))
    write_report(folder)
    assert "paper-table" not in (folder / "report.html").read_text()
