"""The paper's IoU beside a study's, and what differs in protocol."""

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from skipshift.page.study_results import StudyResults
from skipshift.study_specs import StudySpec

PROTOCOL = {"encoder_weights": "imagenet", "epochs": 50, "batch_size": 8, "learning_rate": 1e-4}
"""Fields of the training that the paper states (section IV-C), and their values."""

FOLDS = 5


def beside_paper(results: StudyResults, spec: StudySpec) -> dict[str, Any] | None:
    """Compare a study with the experiment of the paper that it repeats.

    Returns
    -------
    ``figure, rows, differs`` or None if there is none: a study repeats an experiment if it has its
    classes and its domain of training and tests one of its domains. A row is ``encoder, variant,
    first, domain, theirs, here, low, high, difference``; ``differs`` says in words how the study's
    protocol differs from what the paper states.
    """
    for experiment in published():
        if repeats(results, spec, experiment):
            rows = list(_rows(results, experiment))
            differs = protocol_differences(results, spec, experiment)
            if rows:
                return {"figure": experiment["figure"], "rows": rows, "differs": differs}
    return None


def table_one(results: StudyResults, spec: StudySpec) -> dict[str, str]:
    """Scanner, manufacturer and resolution of each domain in the paper (Table I).

    Empty for a study that repeats no experiment of it with several scanners.
    """
    found = (e for e in published() if "domains" in e and repeats(results, spec, e))
    return next((dict(experiment["domains"]) for experiment in found), {})


def published() -> list[dict[str, Any]]:
    """Read the paper's experiments: ``figure, classes, class, home, cases, test, iou, domains``."""
    text = files("skipshift.page").joinpath("paper_numbers.json").read_text(encoding="utf-8")
    experiments: list[dict[str, Any]] = json.loads(text)["experiments"]
    return experiments


def repeats(results: StudyResults, spec: StudySpec, experiment: Mapping[str, Any]) -> bool:
    """Whether a study has the classes, the home and the names of the cases of an experiment."""
    named = results.cases["case"].str.startswith(experiment["cases"]).all()
    home = results.homes == (experiment["home"],)
    return list(spec.classes) == experiment["classes"] and home and bool(named)


def _rows(results: StudyResults, experiment: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    shown = results.iou[results.iou["class"] == experiment["class"]]
    before = ""
    for row in shown.to_dict("records"):
        theirs = experiment["iou"].get(row["encoder"], {}).get(row["variant"], {})
        if row["domain"] in theirs:
            value = theirs[row["domain"]]
            about = {name: row[name] for name in ("encoder", "variant", "domain", "low", "high")}
            about |= {"first": row["encoder"] != before, "here": row["iou"], "theirs": value}
            before = row["encoder"]
            yield {**about, "difference": row["iou"] - value}


def protocol_differences(
    results: StudyResults, spec: StudySpec, experiment: Mapping[str, Any]
) -> list[str]:
    """Say how a study's protocol differs from the paper's, as far as the paper states its own."""
    told = []
    for name, theirs in PROTOCOL.items():
        here = getattr(spec.training, name)
        if here != theirs:
            shown = "random" if here is None else here
            told.append(f"{name.replace('_', ' ')} {shown} (paper: {theirs})")
    folds = results.runs["fold"].nunique()
    if spec.leave_one_domain_out:
        told.append("training on all domains but one (paper: on A)")
    elif (folds, spec.folds) != (FOLDS, FOLDS):
        told.append(f"mean over {folds} of {spec.folds} folds (paper: over all {FOLDS})")
    seeds = results.runs["seed"].nunique()
    if seeds > 1:
        told.append(f"mean over {seeds} seeds a fold (paper: one training a fold)")
    if spec.evaluation_crop is not None:
        told.append(
            f"tested on centred crops of {spec.evaluation_crop} pixels (paper: whole images)"
        )
    test = experiment["test"]
    unit = "group" if test["of"] == "subjects" else "case"
    at_home = results.cases[results.cases["domain"] == experiment["home"]][unit].nunique()
    if at_home != test["count"]:
        told.append(f"{at_home:,} test {test['of']} (paper: {test['count']:,})")
    return told
