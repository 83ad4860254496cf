"""Answers to the plan's questions about pruning, augmentation and mending, from counts alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import t

from benchmarks.findings.tables import (
    by_fold,
    done,
    first_folds,
    of_variant,
    read,
    renamed,
    scores,
    study_cases,
)
from skipshift.names import BASELINE, ORIGINAL, VARIANTS, listed
from skipshift.page.paper_numbers import published
from skipshift.statistics.comparisons import AWAY, BOTH_FAIL, compare
from skipshift.statistics.multiplicity import ALPHA

MARGINS = {ORIGINAL: 0.01}
"""Smallest difference of IoU that matters, by domain."""

MARGIN = 0.02
"""The same on every other domain."""

JITTERS = {"none": "none", "jitter25": "0.25", "jitter50": "0.5", "jitter75": "0.75"}
"""Colour jitter of each study."""

HELPS, HARMS, SAME, OPEN = "helps", "harms", "no difference that matters", "cannot say"

JUDGED = {
    HELPS: "these help: {}",
    HARMS: "these harm: {}",
    SAME: "these make no difference that matters: {}",
    OPEN: "of these nothing can be said: {}",
}
"""How an answer is said of some variants."""


CUT_FOLDS = 3
"""Folds in which all sets of skips are trained, and cut from one network."""


@dataclass(frozen=True)
class Answer:
    """What a page shows: a sentence, tables by their captions, figures and what they show."""

    sentence: str
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)


def decided(tests: pd.DataFrame, homes: Sequence[str] = (ORIGINAL,)) -> pd.DataFrame:
    """Answer each comparison by the plan's rule, as column ``answer``.

    A variant helps (harms) where the adjusted p is below 0.05 and the whole interval lies beyond
    the margin; there is no difference that matters where the interval lies within it; where both
    networks fail nothing is compared; all else cannot be said.
    """
    margin = tests["domain"].map(lambda d: MARGINS[ORIGINAL] if d in homes else MARGIN)
    clear = tests["p_adjusted"] < ALPHA
    found = [
        tests["verdict"] == BOTH_FAIL,
        clear & (tests["low"] > margin),
        clear & (tests["high"] < -margin),
        (tests["low"] > -margin) & (tests["high"] < margin),
    ]
    return tests.assign(answer=np.select(found, [BOTH_FAIL, HELPS, HARMS, SAME], OPEN))


def compared(cases: pd.DataFrame, homes: Sequence[str] = (ORIGINAL,)) -> pd.DataFrame:
    """Compare all variants with the baseline by IoU, both units varying, and answer."""
    tests = compare(cases, MARGIN, homes)
    last = "mean" if (tests["class"] == "mean").any() else tests["class"].iloc[-1]
    return decided(tests[(tests["metric"] == "iou") & (tests["class"] == last)], homes)


def shown(tests: pd.DataFrame, *domains: str) -> pd.DataFrame:
    """The columns of a comparison that a page shows."""
    own = tests[tests["domain"].isin(domains)] if domains else tests
    columns = ["variant", "domain", "baseline", "effect", "low", "high", "p_adjusted", "answer"]
    return own[columns].replace({"domain": {AWAY: "mean of shifts"}}).reset_index(drop=True)


def spread(effect: float, low: float, high: float) -> str:
    """Show an effect with its interval."""
    return f"{effect:+.3f} [{low:+.3f}, {high:+.3f}]"


def effects_of(tests: pd.DataFrame) -> "pd.Series[str]":
    """Show the effect of every comparison."""
    rows = tests[["effect", "low", "high"]].to_numpy()
    return pd.Series([spread(*row) for row in rows], tests.index, dtype=object)


def said_of(names: "pd.Series[str]", answers: "pd.Series[str]") -> list[str]:
    """Say each answer of those that have it."""
    return [
        words.format(listed(names[answers == answer]))
        for answer, words in JUDGED.items()
        if (answers == answer).any()
    ]


def pruning() -> Answer:
    """Question 1: does pruning help, and which?"""
    means, wholes, singles, answers = {}, {}, {}, []
    for study in done(*JITTERS, "resnet34"):
        tests = compared(study_cases(study))
        name = f"ResNet18, colour jitter {JITTERS[study]}" if study in JITTERS else "ResNet34"
        wholes[name] = shown(tests, ORIGINAL, AWAY)
        singles[f"{name}, each shift"] = each_shift(tests)
        means[name] = tests[tests["domain"] == AWAY]
        for domain, words in ((AWAY, "mean of shifts"), (ORIGINAL, "in-domain")):
            own = tests[tests["domain"] == domain].set_index("variant")["answer"]
            answers.append({"trained as": name, "on": words, **own})
    if done("sets"):
        wholes["All 16 sets of skips, three folds, no jitter"] = all_sets()
    told = []
    for answer, words in ((HELPS, "help"), (HARMS, "harm")):
        found = {name: own.loc[own["answer"] == answer, "variant"] for name, own in means.items()}
        where = [f"{listed(names)} ({name})" for name, names in found.items() if len(names)]
        told.append(f"shown to {words}: {listed(where) if where else 'none'}")
    return Answer(
        f"On the mean of the shifts, {'; '.join(told)}.",
        {"Answers": pd.DataFrame(answers), **wholes, **singles},
        {
            "pruning": "Differences from the baseline, in-domain and on the mean of the shifts, "
            "with 95 % intervals; grey: the margin",
            "heatmap": "Cell IoU of each variant on each domain without colour jitter, mean over "
            "the folds (as the paper's Fig. 7)",
        },
    )


def each_shift(tests: pd.DataFrame) -> pd.DataFrame:
    """Effects with intervals and answers, a row for each shift and a column for each variant."""
    own = tests[~tests["domain"].isin([ORIGINAL, AWAY])]
    told = effects_of(own) + " " + own["answer"]
    wide = own.assign(told=told).pivot(index="domain", columns="variant", values="told")
    return wide.reset_index(names="shift")


def all_sets() -> pd.DataFrame:
    """Rank all sets of skips by the mean over shifts, beside their in-domain IoU."""
    cases = first_folds(study_cases("none", "sets"), CUT_FOLDS)
    tests = compared(cases)
    table = scores(cases)
    home = table[table["domain"] == ORIGINAL].groupby("variant")["iou"].mean()
    means = by_fold(table)
    rows = pd.DataFrame({
        "original": home, "mean of shifts": means.mean(axis=1),
        "lowest": means.min(axis=1), "highest": means.max(axis=1),
    })  # fmt: skip
    mean = tests[tests["domain"] == AWAY].set_index("variant")
    rows = rows.join(mean[["effect", "low", "high", "p_adjusted", "answer"]])
    return rows.sort_values("mean of shifts", ascending=False).reset_index()


def interaction() -> Answer:
    """Question 2: is the harm of L1 gone under augmentation?"""
    rows = []
    for study in ("none", "jitter50"):
        cases = of_variant(study_cases(study), BASELINE, "L1-pruned")
        means = by_fold(scores(cases))
        rows.append((means.loc["L1-pruned"] - means.loc[BASELINE]).rename(JITTERS[study]))
    table = pd.concat(rows, axis=1).dropna()
    both = {f"jitter {name}": t_interval(table[name]) for name in table}
    both["difference"] = t_interval(table["none"] - table["0.5"])
    shown = pd.DataFrame(both, index=["L1-pruned - baseline", "low", "high"]).T
    first, second = both["jitter none"], both["jitter 0.5"]
    if first[1] <= MARGIN:
        sentence = (
            f"The premise is not met: without jitter pruning L1 changes the mean over the shifts "
            f"by {spread(*first)}, which does not lie above the margin of {MARGIN}, so there is no "
            f"harm of L1 that augmentation could remove. With jitter 0.5 it changes it by "
            f"{spread(*second)}."
        )
    elif second[2] < MARGIN:
        sentence = (
            "Yes: the gain of pruning L1 lies above the margin without jitter, below it with."
        )
    else:
        sentence = (
            "Cannot say: the gain of pruning L1 is there without jitter, and not excluded with."
        )
    return Answer(
        sentence,
        {
            "Mean over the shifts, by fold": shown.reset_index(names=""),
            "Exploratory: L1-pruned minus baseline on each shift, mean over folds": by_shift(),
        },
    )


def by_shift() -> pd.DataFrame:
    """IoU of the baseline and the gain of pruning L1 on each shift, without and with jitter 0.5."""
    columns = {}
    for study in ("none", "jitter50"):
        cases = of_variant(study_cases(study), BASELINE, "L1-pruned")
        wide = scores(cases).groupby(["domain", "variant"])["iou"].mean().unstack()
        columns[f"baseline, jitter {JITTERS[study]}"] = wide[BASELINE]
        columns[f"gain, jitter {JITTERS[study]}"] = wide["L1-pruned"] - wide[BASELINE]
    return pd.DataFrame(columns).reset_index()


def t_interval(values: "pd.Series[float]", level: float = 0.95) -> tuple[float, float, float]:
    """Mean and t-interval over runs."""
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half


def real(study: str, home: str) -> Answer:
    """Question 8, the parts of questions 1 and 6: pruning, and mending, on real domains."""
    cases, cured = study_cases(study), read("mended").query("study == @study")
    tests = compared(cases, (home,))
    order = {name: i for i, name in enumerate(VARIANTS)}
    tests = tests.sort_values("variant", key=lambda v: v.map(order), kind="stable")
    domains = list(dict.fromkeys(cases["domain"]))
    judged = cases["case"].isin(cured["case"].unique()).to_numpy()
    plain = of_variant(cases[judged], BASELINE)
    both = pd.concat([plain, renamed(cured[list(plain)], "mended")], ignore_index=True)
    mended = compared(both, (home,)).query("domain in @domains")
    told = [_real_sentence(tests[tests["domain"] == domain], domain, home) for domain in domains]
    told += [_real_sentence(mended, domain, home) for domain in mended["domain"]]
    taken = cured.groupby("run")["recommended"].first().replace("", "nothing")
    return Answer(
        " ".join(told),
        {
            f"{study}, five trainings each": shown(tests, *domains),
            "The baseline mended without masks, on images that the search did not see": shown(
                mended
            ),
            "What was recommended": taken.reset_index(),
        },
    )


def _real_sentence(own: pd.DataFrame, domain: str, home: str) -> str:
    """Say what was found on one domain."""
    told = []
    failing = own[own["answer"] == BOTH_FAIL]
    if len(failing):
        names = [f"the baseline ({failing['baseline'].iloc[0]:.3f})"]
        iou = (failing["baseline"] + failing["effect"]).map("{:.3f}".format)
        names += (failing["variant"] + " (" + iou + ")").tolist()
        told.append(
            f"the IoU of {listed(names)} is not above that of a constant prediction, so nothing is "
            f"compared"
        )
    said = {SAME: "makes no difference that matters", OPEN: "cannot be told from the baseline"}
    rest = own[own["answer"] != BOTH_FAIL]
    told += (
        rest["variant"] + " " + rest["answer"].replace(said) + " (" + effects_of(rest) + ")"
    ).tolist()
    where = f"In-domain ({domain})" if domain == home else f"On {domain}"
    return f"{where} {listed(told)}."


def paper() -> Answer:
    """The paper's IoU beside ours, wherever both have the encoder, the variant and the domain."""
    ours = {"section V-A on Fig. 7": ("none", "resnet34"), "Fig. 9c": ("hearts",)}
    rows = []
    for experiment in published():
        studies = done(*ours.get(experiment["figure"], ()))
        if not studies:
            continue
        cases = study_cases(*studies)
        found = scores(cases).groupby(["encoder", "variant", "domain"])["iou"].agg(["mean", "std"])
        for encoder, variants in experiment["iou"].items():
            for variant, domains in variants.items():
                for domain, theirs in domains.items():
                    if (encoder, variant, domain) in found.index:
                        mean, spread = found.loc[(encoder, variant, domain)]
                        rows.append({
                            "in the paper": experiment["figure"], "encoder": encoder,
                            "variant": variant, "domain": domain, "theirs": theirs, "ours": mean,
                            "spread of ours": spread, "difference": mean - theirs,
                        })  # fmt: skip
    table = pd.DataFrame(rows)
    apart = table["difference"].abs()
    sentence = (
        f"Of {len(table)} numbers that both have, ours lie below theirs in "
        f"{(table['difference'] < 0).sum()} and differ by {apart.min():.2f} to {apart.max():.2f}; "
        f"after so much less training they are no test of the paper's."
    )
    return Answer(sentence, {"Theirs (two decimals, five folds) beside ours": table})
