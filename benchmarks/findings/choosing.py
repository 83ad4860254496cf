"""Answers to the plan's questions about choosing: prune, augment or mend, and which skips."""

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from benchmarks.findings.answers import (
    CUT_FOLDS,
    JITTERS,
    Answer,
    compared,
    effects_of,
    said_of,
    shown,
)
from benchmarks.findings.tables import (
    away,
    by_fold,
    done,
    first_folds,
    of_variant,
    read,
    renamed,
    scores,
    study_cases,
)
from skipshift.names import BASELINE, ORIGINAL, listed
from skipshift.records import run_parts
from skipshift.statistics.comparisons import AWAY

JOIN = "+"
"""Between the parts of a variant's name: what it is, how it was trained or mended."""


def choice() -> Answer:
    """Question 6: prune, augment or mend? With what choosing by in-domain validation costs."""
    cured, runs = read("mended"), read("runs")
    parts, trainings = [of_variant(study_cases("none"), BASELINE)], {}
    for study, prefix in (("none", ""), ("jitter50", "jitter")):
        cases = study_cases(study)
        own = runs[runs["study"] == study]
        valid = own.groupby(run_parts(own["run"])["variant"].to_numpy())["validation_iou"].mean()
        best = str(valid.drop(BASELINE).idxmax())
        plain = of_variant(cases, BASELINE)
        mended = cured[cured["study"] == study]
        home = plain[(plain["domain"] == ORIGINAL) & plain["run"].isin(mended["run"])]
        mended = pd.concat([home, mended[list(home)]], ignore_index=True)
        rows = {best: (of_variant(cases, best), len(valid)), "mended": (mended, 1)}
        if prefix:
            rows = {"": (plain, 1), **rows}
        for name, (counts, number) in rows.items():
            whole = JOIN.join(filter(None, (prefix, name)))
            trainings[whole] = number
            parts.append(renamed(counts, whole))
    cases = pd.concat(parts, ignore_index=True)
    judged = cases["case"].isin(cured.loc[cured["study"] == "none", "case"].unique())
    tests = compared(cases[judged].reset_index(drop=True))
    table = shown(tests, ORIGINAL, AWAY)
    table.insert(3, "iou", table["baseline"] + table["effect"])
    table["trainings"] = table["variant"].map(trainings)
    mean = table[table["domain"] != ORIGINAL].sort_values("effect", ascending=False)
    named = mean["variant"] + " (" + effects_of(mean) + ")"
    told = said_of(named, mean["answer"])
    chosen = validation()
    lost = chosen["lost by choosing so"]
    sentence = (
        f"On the mean of the shifts, against the baseline as it is, {'; '.join(told)}. Choosing "
        f"the set of skips by validation IoU loses {lost.min():.3f} to {lost.max():.3f} there "
        f"against the best in hindsight."
    )
    return Answer(
        sentence,
        {
            "Each against the unaugmented baseline": table,
            "Validation IoU and mean over shifts": chosen,
            "Exploratory: IoU on each shift": on_each(cases[judged]),
            "What was recommended, by shift": recommended(cured),
        },
        {"choice": "Differences from the unaugmented baseline; grey: the margin"},
    )


def on_each(cases: pd.DataFrame) -> pd.DataFrame:
    """IoU of every variant on each domain, mean over runs."""
    means = scores(cases).groupby(["domain", "variant"])["iou"].mean().unstack()
    return means.reset_index()


def recommended(cured: pd.DataFrame) -> pd.DataFrame:
    """What the search recommended for each shift, and in how many of the networks."""
    own = cured[cured["study"].isin(JITTERS)]
    taken = own.groupby(["study", "domain", "run"])["recommended"].first().replace("", "nothing")
    counts = taken.groupby(["study", "domain"]).value_counts()
    told = counts.reset_index().assign(
        said=lambda rows: rows["recommended"] + " (" + rows["count"].astype(str) + ")"
    )
    wide = told.groupby(["domain", "study"])["said"].agg(", ".join).unstack()
    return wide.rename(columns=lambda study: f"jitter {JITTERS[study]}").reset_index()


def validation() -> pd.DataFrame:
    """Rank correlation over variants of validation and shifted IoU, and what choosing so costs."""
    runs, rows = read("runs"), []
    for study, jitter in JITTERS.items():
        if not done(study):
            continue
        cases = study_cases(study)
        if study == "none":
            cases = first_folds(study_cases(*done(study, "sets")), CUT_FOLDS)
        table = scores(cases)
        means = away(table)
        valid = runs[runs["study"].isin([study, "sets"])].set_index("run")["validation_iou"]
        both = pd.DataFrame({"away": means, "valid": valid}).dropna()
        both["variant"] = run_parts(both.index.to_series())["variant"]
        by = both.groupby("variant")[["away", "valid"]].mean()
        chosen = by["valid"].idxmax()
        rows.append({
            "jitter": jitter, "variants": len(by),
            "rank correlation": spearmanr(by["valid"], by["away"])[0], "chosen": chosen,
            "its mean of shifts": by.loc[chosen, "away"], "best": by["away"].idxmax(),
            "lost by choosing so": by["away"].max() - by.loc[chosen, "away"],
        })  # fmt: skip
    return pd.DataFrame(rows)


def one_training() -> Answer:
    """Question 7: do sets of skips of one network rank as networks trained alone do?"""
    subsets, alone = read("subsets"), first_folds(study_cases("none", "sets"), CUT_FOLDS)
    alone = alone[alone["case"].isin(subsets["case"].unique())]
    trained = by_fold(scores(alone)).dropna()
    folds = list(trained)
    between = [
        spearmanr(trained[a], trained[b])[0] for i, a in enumerate(folds) for b in folds[i + 1 :]
    ]
    shown, ranks = {"trained alone": trained.mean(axis=1)}, {}
    for statistics, own in subsets.groupby("statistics"):
        parts = []
        for variant, counts in own.groupby("variant"):
            parts.append(scores(renamed(counts, str(variant))))
        wide = by_fold(pd.concat(parts)).loc[trained.index]
        shown[f"cut, {statistics}"] = wide.mean(axis=1)
        # one training beside one, as the bar has it
        ranks[statistics] = [spearmanr(trained[a], wide[b])[0] for a in folds for b in wide]
    held = float(np.mean(between)) - 0.1
    told = {name: float(np.mean(values)) for name, values in ranks.items()}
    words = "; ".join(
        f"{value:.2f} with the decoder's statistics {name} ({min(ranks[name]):.2f} to "
        f"{max(ranks[name]):.2f})"
        for name, value in told.items()
    )
    usable = [name for name, value in told.items() if value > held]
    answer = f"Yes, with statistics {listed(usable)}" if usable else "Not by the plan's rule"
    sentence = (
        f"{answer}: the mean over the shifts of {len(trained)} sets cut from one network has a "
        f"rank correlation with that of the sets trained alone of {words}; two separate trainings "
        f"agree by {np.mean(between):.2f} ({min(between):.2f} to {max(between):.2f}), and the rule "
        f"asks for more than {held:.2f}."
    )
    frame = pd.DataFrame(shown).sort_values("trained alone", ascending=False)
    few = frame.drop(index=["L3-pruned", "L4-pruned"])
    apart = [
        {
            "sets": f"{len(own)}{words}",
            **{name: spearmanr(own["trained alone"], own[name])[0] for name in list(own)[1:]},
        }
        for own, words in ((frame, ""), (few, ", without L3- and L4-pruned"))
    ]
    return Answer(
        sentence,
        {
            "Mean IoU over the shifts": frame.reset_index(names="variant"),
            "Exploratory: the same with the means over folds of both, which are less noisy": (
                pd.DataFrame(apart)
            ),
        },
        {"one-training": "Sets cut from one network beside networks trained alone; line: equal"},
    )
