"""Sentences about a study: headline, answers, where the shift enters, and the uncertainty."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from skipshift.names import BASELINE, listed
from skipshift.page.comparison_sentences import claim, leading, tally
from skipshift.page.ordering import excesses, grid, of_pair, pairs_of
from skipshift.page.profile_sentences import no_verdict, rivals, top_layer
from skipshift.page.study_results import StudyResults, headline_tests, tests_on
from skipshift.page.wording import chance, counted, many, on_domains
from skipshift.statistics.comparisons import (
    AWAY,
    BOTH_FAIL,
    CHECKPOINT,
    EQUIVALENT,
    HIGHER,
    LOWER,
    OPEN,
)
from skipshift.statistics.layer_tests import is_clear
from skipshift.statistics.multiplicity import ALPHA

TERMS = (
    "The null is the noise floor, the distance expected without a shift; the excess is the "
    "bias-corrected distance, for which the null is subtracted where noise adds (on the square), "
    "so it is not their difference."
)
"""Definition of null and excess, once on the page."""

MOST_ENTRIES = 3
"""Pairs of domains that have a sentence each; of more all but the first are counted."""


def answer(results: StudyResults) -> list[tuple[str, str]]:
    """Answer the study's questions, (label, text): in-domain, under shift, where, uncertainty.

    Warnings of the data check come last.
    """
    said = [
        ("In-domain", _scores(results, encoder, (home,)))
        for home in results.homes
        for encoder in _encoders(results)
    ]
    if results.away:
        said += [("Under shift", _scores(results, e, results.away)) for e in _encoders(results)]
    said += [("Where it shows", text) for text in _entries(results.layers)]
    warned = [("The data", f"The check warned of {text}.") for text in results.warnings]
    return [*said, ("Uncertainty", uncertainty(results)), *warned]


def headline(results: StudyResults) -> str:
    """Summarise the verdicts at home and over the shifts, and where the shift is largest."""
    several = len(results.homes) > 1
    settings: dict[tuple[str, ...], str] = {
        (home,): f"on {home}" if several else "in-domain" for home in results.homes
    }
    if results.away:
        settings[results.away] = f"averaged over {many(results.away)}"
    texts = []
    for encoder in _encoders(results):
        said = [_claims(results, encoder, domains, where) for domains, where in settings.items()]
        texts.append(f"With {encoder}, {'; '.join(said)}.")
    if results.layers is not None:
        pair = pairs_of(results.layers)[0]
        texts.append(_short_entry(of_pair(results.layers, pair)))
    if results.runs.groupby(["encoder", "variant"]).size().max() == 1:
        texts.append("Each network was trained once, so nothing is said of variants.")
    return " ".join(texts)


def _short_entry(layers: pd.DataFrame) -> str:
    """Say in how many networks the shift is clear, and where it is significantly the largest."""
    networks = _networks(layers)
    reference, shifted = pairs_of(layers)[0]
    clear = [rows for rows in networks.values() if is_clear(rows).any()]
    if not clear:
        known = pd.concat(networks.values())
        return f"No layer shows a significant shift from {reference} to {shifted}{_because(known)}."
    text = f"The shift from {reference} to {shifted} is above the noise floor"
    if len(networks) > 1:
        text += f" in {len(clear)} of {len(networks)} networks"
    sure = pd.Series([top_layer(rows) for rows in clear if not rivals(rows)], dtype=object)
    if sure.empty:
        return f"{text}; which layer shifts most is uncertain."
    layer, number = sure.value_counts().index[0], int(sure.value_counts().iloc[0])
    every = "all" if number == len(clear) else str(number)
    of = f" in {every} of them" if len(networks) > 1 else ""
    return f"{text}, and significantly largest at {_position(str(layer))}{of}."


def _encoders(results: StudyResults) -> list[str]:
    return [str(encoder) for encoder in results.iou["encoder"].unique()]


def _means(results: StudyResults, encoder: str, domains: Sequence[str]) -> "pd.Series[float]":
    """IoU of each variant of an encoder, averaged over some domains."""
    values = grid(results.iou, results.headline).loc[[encoder], list(domains)]
    return values.droplevel("encoder").mean(axis=1)


_VERDICTS = {
    HIGHER: ("is higher", "are higher", " than {baseline}"),
    LOWER: ("is lower", "are lower", " than {baseline}"),
    EQUIVALENT: (
        "is equivalent within {margin:g}",
        "are equivalent within {margin:g}",
        " to {baseline}",
    ),
    OPEN: ("is not told apart", "are not told apart", " from {baseline}"),
    BOTH_FAIL: ("fails", "fail", " and so does {baseline}"),
}
"""Words of each verdict: of one network, of several, and the baseline where it is first named."""


def _claims(results: StudyResults, encoder: str, domains: Sequence[str], where: str) -> str:
    """Say of all variants or checkpoints of an encoder, by verdict, how they compare."""
    mean = _means(results, encoder, domains)
    tests = tests_on(results, encoder, domains)
    if tests.empty:
        return f"{where} {listed(f'{variant} has {value:.3f}' for variant, value in mean.items())}"
    said: list[str] = []
    for (verdict, of), rows in tests.groupby(["verdict", "of"], sort=False):
        one, several, first = _VERDICTS[str(verdict)]
        names = listed(f"{name} ({mean[name]:.3f})" for name in rows["variant"])
        who = f"the checkpoint{'s' * (len(rows) > 1)} of {names}" if of == CHECKPOINT else names
        words = (one if len(rows) == 1 else several).format(margin=results.margin)
        base = f"{'that of ' * (of == CHECKPOINT)}the baseline ({mean[BASELINE]:.3f})"
        said.append(f"{who} {words}{'' if said else first.format(baseline=base)}")
    return f"{where} {', '.join(said)}"


def _scores(results: StudyResults, encoder: str, domains: Sequence[str]) -> str:
    """Give the IoU of all variants of one encoder, and the test of the largest effect."""
    mean = _means(results, encoder, domains)
    scores = listed(f"{value:.3f} for {variant}" for variant, value in mean.items())
    what = "mean IoU of the classes" if len(results.foreground) > 1 else f"{results.headline} IoU"
    where = f"On {domains[0]}" if len(domains) == 1 else f"Averaged over {many(domains)}"
    text = f"{where}, {what} with {encoder} is {scores}."
    tests = tests_on(results, encoder, domains)
    if tests.empty:
        return f"{text} No baseline was trained to compare with." if len(mean) > 1 else text
    top = leading(tests)
    said = claim(top, results.margin)
    if top["effect"] > 0:
        text += f" {_capital(said)}."
    else:
        text += f" No score is above the baseline's: {said}."
    if len(domains) > 1:
        each = headline_tests(results)
        each = each[(each["encoder"] == encoder) & each["domain"].isin(domains)]
        own = each[each["variant"] == top["variant"]]
        text += f" Domain by domain, {tally(own, results.margin)}."
        failed = own[own["verdict"] == BOTH_FAIL]["domain"]
        if len(failed):
            text += f" The mean includes {listed(failed)}, where both fail."
    return text


def _entries(layers: pd.DataFrame | None) -> list[str]:
    if layers is None or layers.empty:
        return ["No profile was measured, so where the shift enters is unknown."]
    pairs = pairs_of(layers)
    if len(pairs) > MOST_ENTRIES:
        tallies = [_tally_of(name, rows) for name, rows in _networks(layers).items()]
        return [f"{entry(of_pair(layers, pairs[0]))} {TERMS}", *tallies]
    first, *others = [entry(of_pair(layers, pair)) for pair in pairs]
    return [f"{first} {TERMS}", *others]


def _tally_of(network: str, layers: pd.DataFrame) -> str:
    """Count the pairs of domains that are clear in a network, and where they are the largest."""
    pairs = [of_pair(layers, pair) for pair in pairs_of(layers)]
    clear = [rows for rows in pairs if is_clear(rows).any()]
    sure = pd.Series([top_layer(rows) for rows in clear if not rivals(rows)], dtype=object)
    text = (
        f"{len(clear)} of {len(pairs)} shifts and domains are above the noise floor in {network}, "
        f"each tested by itself"
    )
    if len(sure):
        tops = listed(f"{layer} ({number})" for layer, number in sure.value_counts().items())
        text += f"; the excess is significantly the largest at {tops}"
    if left := len(clear) - len(sure):
        text += f"; which layer shifts most is uncertain in {left}"
    return f"{text}."


def entry(layers: pd.DataFrame) -> str:
    """Say at which layer the excess is largest, in how many networks, and how certain that is.

    Parameters
    ----------
    layers
        Columns of profile.csv, one pair of domains.
    """
    networks = _networks(layers)
    reference, shifted = pairs_of(layers)[0]
    if not networks:
        return (
            f"Between {reference} and {shifted} the distances have no null, because a reference of "
            "one group cannot be split; without a null no layer can be named."
        )
    names = list(networks)
    tops = {name: top_layer(rows) for name, rows in networks.items() if is_clear(rows).any()}
    flat = [name for name in names if name not in tops]
    if not tops:
        name, rows = next(iter(networks.items()))
        return (
            f"Between {reference} and {shifted} no layer is significantly above its null "
            f"{_inside(flat, names)}{_because(rows)}. The largest excess in {name} is "
            f"{_told(rows, str(rows['excess'].idxmax()))} at {rows['excess'].idxmax()}."
        )
    at = "; ".join(
        f"at {_position(layer)} {_inside([n for n, top in tops.items() if top == layer], names)}"
        for layer in dict.fromkeys(tops.values())
    )
    name, top = next(iter(tops.items()))
    row = networks[name].loc[top]
    text = (
        f"Between {reference} and {shifted} the excess is largest {at}. In {name} it is "
        f"{_told(networks[name], top)} there: a distance of {row['distance']:.2f} beside a null of "
        f"{row['null']:.2f}."
    )
    if flat:
        text += (
            f" No layer is significantly above its null {_inside(flat, names)}"
            f"{_because(pd.concat([networks[name] for name in flat]))}."
        )
    unsure = {n: near for n in tops if (near := rivals(networks[n]))}
    if unsure:
        first, near = next(iter(unsure.items()))
        text += (
            f" The order of the largest layers is uncertain {_inside(list(unsure), names)}: in "
            f"{first} the largest is not significantly larger than {listed(near)}."
        )
    return text


def _networks(layers: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of each network that has a null, by its name, indexed by layer."""
    encoders = layers["encoder"].nunique()
    found = {}
    for encoder, variant in excesses(layers).dropna(how="all").index:
        rows = layers[(layers["encoder"] == encoder) & (layers["variant"] == variant)]
        name = f"{encoder} {variant}" if encoders > 1 else str(variant)
        found[name] = rows.set_index("layer", drop=False)
    return found


def _told(rows: pd.DataFrame, layer: str) -> str:
    row: Any = rows.loc[layer]
    known = "" if np.isnan(row["low"]) else f"95 % interval {row['low']:.2f} to {row['high']:.2f}, "
    p = "p unknown" if np.isnan(row["p_adjusted"]) else f"adjusted p {chance(row['p_adjusted'])}"
    return f"{row['excess']:.2f} ({known}{p})"


def _because(rows: pd.DataFrame) -> str:
    """Say why no p could be small or is known, if that is so for all rows; else nothing."""
    if (rows["least_p"] >= ALPHA).all():
        return f": {no_verdict(rows)}"
    if rows["p_adjusted"].isna().all():
        return ": their p is not known"
    return ""


def _inside(who: Sequence[str], everyone: Sequence[str]) -> str:
    whole = len(who) == len(everyone) > 1
    return f"in all {len(who)} networks" if whole else f"in {listed(who)}"


def _position(layer: str) -> str:
    part = {"e": "encoder", "d": "decoder"}.get(layer[:1])
    known = part and layer[1:].isdecimal()
    return f"{layer} ({part}, stride {layer[1:]})" if known else layer


def uncertainty(results: StudyResults) -> str:
    """Give the numbers of runs, cases and groups, and what they leave uncertain."""
    runs = results.runs.groupby(["encoder", "variant"], sort=False).size()
    groups, cases = results.cases["group"].nunique(), results.cases["case"].nunique()
    sample = f"{counted(groups, 'group')} of the test set ({counted(cases, 'case')})"
    if runs.max() == 1:
        text = (
            "Each network was trained once (one fold, one seed), so the variance of training is "
            "unknown, verdicts are about these checkpoints and not about variants, and another "
            f"training may turn them. Intervals and tests treat the {sample} as the sample."
        )
    else:
        text = (
            f"{_runs(results)} Intervals and tests treat the runs and the {sample} as two samples, "
            f"both drawn. {_spread(results)}"
        )
    text += _beyond_reach(results)
    if results.runs["variant"].nunique() > 2:
        text += " The score of the highest of several variants is biased upwards by the selection."
    return text


def _runs(results: StudyResults) -> str:
    runs = results.runs.groupby(["encoder", "variant"], sort=False).size()
    folds, seeds = (results.runs[name].nunique() for name in ("fold", "seed"))
    each = f"{runs.min()}" if runs.min() == runs.max() else f"{runs.min()} to {runs.max()}"
    grid_of = f"{counted(folds, 'fold')}, {counted(seeds, 'seed')}"
    text = f"Each number is a mean over {each} runs ({grid_of})."
    if folds > 1:
        text += " Folds share training cases, so their spread is that of trainings on such sets."
    if seeds == 1:
        text += (
            " With one seed, the variance between seeds cannot be separated from that between "
            "training splits."
        )
    return text


def _spread(results: StudyResults) -> str:
    """Give the spread between trainings beside that between groups, in-domain."""
    scores = results.scores
    own = (scores["class"] == results.headline) & (scores["metric"] == "iou")
    rows = scores[own & scores["domain"].isin(results.homes)]
    between, by_groups = rows["spread_runs"].max(), rows["spread_groups"].max()
    return (
        "In-domain, the standard deviation between trainings of one network is up to "
        f"{between:.3f}, the standard error by the choice of groups up to {by_groups:.3f}."
    )


def _beyond_reach(results: StudyResults) -> str:
    """Name the places where no data could show a difference."""
    tests = headline_tests(results)
    few = tests[tests["least_p"] >= ALPHA].drop_duplicates("domain")
    if few.empty:
        return ""
    best = few.sort_values("least_p").iloc[0]
    places = [domain for domain in few["domain"] if domain != AWAY]
    names = on_domains(places, tests[tests["domain"] != AWAY]["domain"].nunique())
    where = [f"on {names}"] * bool(places) + ["on the mean"] * (AWAY in set(few["domain"]))
    return (
        f" {_capital(listed(where))} no difference can be shown, whatever the data: with "
        f"{counted(int(best['groups']), 'group')} no adjusted p can be below "
        f"{chance(best['least_p'])}."
    )


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
