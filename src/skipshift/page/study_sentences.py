"""Sentences about a study: headline, answers, where the shift enters, and the uncertainty."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from skipshift.names import BASELINE, listed
from skipshift.page.comparison_sentences import claim, leading, tally
from skipshift.page.ordering import excesses, grid, layer_order, of_pair, pairs_of
from skipshift.page.study_results import StudyResults, headline_tests, tests_on
from skipshift.page.wording import counted, many
from skipshift.statistics.comparisons import EQUIVALENT, FEW_GROUPS, OPEN
from skipshift.statistics.scores import group_sums

TERMS = (
    "The null is the noise floor, the distance expected without a shift; the excess is the "
    "bias-corrected distance, the distance minus its null."
)
"""Definition of null and excess, once on the page."""


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
    said += [("Where it enters", text) for text in _entries(results.layers)]
    warned = [("The data", f"The check warned of {text}.") for text in results.warnings]
    return [*said, ("Uncertainty", uncertainty(results)), *warned]


def headline(results: StudyResults) -> str:
    """Summarise which variant is the highest, and where the shift is largest."""
    several = len(results.homes) > 1
    settings: dict[tuple[str, ...], str] = {
        (home,): f"on {home}" if several else "in-domain" for home in results.homes
    }
    if results.away:
        settings[results.away] = f"averaged over {many(results.away)}"
    texts = []
    for encoder in _encoders(results):
        said = [_claim(results, encoder, domains, where) for domains, where in settings.items()]
        claims = list(dict.fromkeys(claim for claim, _ in said))
        each = [f"{claim} {listed(d for c, d in said if c == claim)}" for claim in claims]
        texts.append(f"With {encoder}, {listed(each)}.")
    if results.layers is not None:
        pair = pairs_of(results.layers)[0]
        texts.append(_short_entry(of_pair(results.layers, pair)))
    if results.runs.groupby(["encoder", "variant"]).size().max() == 1:
        texts.append("Each network was trained once, so the variance of training is unknown.")
    return " ".join(texts)


def _short_entry(layers: pd.DataFrame) -> str:
    """Name the layer with the largest excess in most of the networks that show a shift."""
    table = excesses(layers)
    clear = [network for network in table.index if _is_clear(_layer_means(layers, network))]
    reference, shifted = pairs_of(layers)[0]
    if not clear:
        return f"No layer shows a shift from {reference} to {shifted} above the noise floor."
    tops = table.loc[clear].idxmax(axis=1).value_counts()
    of = f" in {tops.iloc[0]} of {len(table)} networks" if len(table) > 1 else ""
    layer = _position(str(tops.index[0]))
    return f"The shift from {reference} to {shifted} is largest at {layer}{of}."


def _encoders(results: StudyResults) -> list[str]:
    return [str(encoder) for encoder in results.iou["encoder"].unique()]


def _means(results: StudyResults, encoder: str, domains: Sequence[str]) -> "pd.Series[float]":
    """IoU of each variant of an encoder, averaged over some domains."""
    values = grid(results.iou, results.headline).loc[[encoder], list(domains)]
    return values.droplevel("encoder").mean(axis=1)


def _claim(
    results: StudyResults, encoder: str, domains: Sequence[str], where: str
) -> tuple[str, str]:
    """Give the claim, and where it holds with which IoU."""
    mean = _means(results, encoder, domains)
    tests = tests_on(results, encoder, domains)
    if tests.empty:
        return f"{mean.idxmax()} has", f"{mean.max():.3f} {where}"
    top = leading(tests)
    variant = str(top["variant"])
    ours, theirs = f"{mean[variant]:.3f}", f"{mean[BASELINE]:.3f}"
    if top["verdict"] == OPEN:
        claimed = f"{variant} and {BASELINE} do not differ significantly"
    elif top["verdict"] == EQUIVALENT:
        claimed = f"{variant} and {BASELINE} are equivalent within {results.margin:g}"
    elif top["effect"] > 0:
        return f"{variant} is the highest", f"{where} ({ours}, {BASELINE} {theirs})"
    else:
        return f"{BASELINE} is the highest", f"{where} ({theirs}, {variant} {ours})"
    return claimed, f"{where} ({ours} and {theirs})"


def _scores(results: StudyResults, encoder: str, domains: Sequence[str]) -> str:
    """Give the IoU of all variants of one encoder, and compare the highest with the baseline."""
    mean = _means(results, encoder, domains)
    scores = listed(f"{value:.3f} for {variant}" for variant, value in mean.items())
    what = "mean IoU of the classes" if len(results.foreground) > 1 else f"{results.headline} IoU"
    where = f"On {domains[0]}" if len(domains) == 1 else f"Averaged over {many(domains)}"
    text = f"{where}, {what} with {encoder} is {scores}."
    tests = tests_on(results, encoder, domains)
    if tests.empty:
        return f"{text} No baseline was trained to compare with." if len(mean) > 1 else text
    top = leading(tests)
    if top["effect"] > 0:
        link = ", but" if top["verdict"] == OPEN else ";"
        text += f" The highest is {top['variant']}{link} {claim(top, results.margin, named=False)}."
    else:
        text += f" No variant is above the baseline: {claim(top, results.margin)}."
    if len(domains) > 1:
        each = headline_tests(results)
        own = (each["encoder"] == encoder) & (each["variant"] == top["variant"])
        text += (
            f" Domain by domain, {tally(each[own & each['domain'].isin(domains)], results.margin)}."
        )
    return text


def _entries(layers: pd.DataFrame | None) -> list[str]:
    if layers is None or layers.empty:
        return ["No profile was measured, so where the shift enters is unknown."]
    first, *others = [entry(of_pair(layers, pair)) for pair in pairs_of(layers)]
    return [f"{first} {TERMS}", *others]


def entry(layers: pd.DataFrame) -> str:
    """Say at which layer the excess is largest, in how many networks, and how certain that is.

    Parameters
    ----------
    layers
        Columns of layers.csv, one pair of domains.
    """
    table = excesses(layers).dropna(how="all")
    reference, shifted = pairs_of(layers)[0]
    if table.empty:
        return (
            f"Between {reference} and {shifted} the distances have no null, because a reference of "
            "one group cannot be split; without a null no layer can be named."
        )
    tops = table.idxmax(axis=1)
    encoders = table.index.get_level_values("encoder").nunique()
    names = [f"{e} {v}" if encoders > 1 else str(v) for e, v in table.index]
    means = [_layer_means(layers, network) for network in table.index]
    networks_at = {
        str(layer): [n for n, at in zip(names, tops, strict=True) if at == layer]
        for layer in tops.unique()
    }
    at = "; ".join(
        f"at {_position(layer)} {_inside(who, names)}" for layer, who in networks_at.items()
    )
    ranked = means[0].sort_values("excess", ascending=False, kind="stable")
    top = ranked.iloc[0]
    text = (
        f"Between {reference} and {shifted} the excess is largest {at}."
        f" In {names[0]} it is {top['excess']:.2f} there: a distance of {top['distance']:.2f}"
        f" over a null of {top['null']:.2f}."
    )
    if len(ranked) > 1:
        text += f" The next is {ranked.index[1]} with {ranked['excess'].iloc[1]:.2f}."
    flat = [n for n, mean in zip(names, means, strict=True) if not _is_clear(mean)]
    near = [n for n, mean in zip(names, means, strict=True) if _is_tied(mean) and n not in flat]
    if flat:
        text += (
            f" The interval of the highest layer reaches down to its null {_inside(flat, names)}."
        )
    if near:
        text += (
            f" The intervals of the two highest layers overlap {_inside(near, names)},"
            " so their order is uncertain."
        )
    return text


def _layer_means(layers: pd.DataFrame, network: tuple[str, str]) -> pd.DataFrame:
    """Mean over runs of the columns of layers.csv, one row per layer."""
    rows = layers[(layers["encoder"] == network[0]) & (layers["variant"] == network[1])]
    columns = ["distance", "null", "excess", "low", "high"]
    return rows.groupby("layer")[columns].mean().reindex(layer_order(layers))


def _is_clear(mean: pd.DataFrame) -> bool:
    top = mean.sort_values("excess", ascending=False, kind="stable").iloc[0]
    return bool(top["low"] > top["null"])


def _is_tied(mean: pd.DataFrame) -> bool:
    ranked = mean.sort_values("excess", ascending=False, kind="stable")
    lows, highs = ranked["low"] - ranked["null"], ranked["high"] - ranked["null"]
    return len(ranked) > 1 and bool(highs.iloc[1] > lows.iloc[0])


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
    folds, seeds = (results.runs[name].nunique() for name in ("fold", "seed"))
    groups, cases = results.cases["group"].nunique(), results.cases["case"].nunique()
    if runs.max() == 1:
        text = (
            "Each network was trained once (one fold, one seed), so the variance of training is "
            "unknown, and a difference between variants may be no larger than that."
        )
    else:
        each = f"{runs.min()}" if runs.min() == runs.max() else f"{runs.min()} to {runs.max()}"
        grid_of = f"{counted(folds, 'fold')}, {counted(seeds, 'seed')}"
        text = f"Each number is a mean over {each} runs ({grid_of})."
        text += f" {_spread(results)}"
        if seeds == 1:
            text += (
                " With one seed, the variance between seeds cannot be separated from that between "
                "training splits."
            )
    text += (
        f" Intervals and tests treat the {counted(groups, 'group')} of the test set"
        f" ({counted(cases, 'case')}) as the sample and leave the variance of training out."
    )
    if groups < FEW_GROUPS:
        text += f" With only {counted(groups, 'group')} all intervals are approximate."
    if results.runs["variant"].nunique() > 2:
        text += " The score of the highest of several variants is biased upwards by the selection."
    return text


def _spread(results: StudyResults) -> str:
    """Give the largest in-domain range of the single runs of a network."""
    cases = results.cases[results.cases["domain"].isin(results.homes)]
    sums = group_sums(cases, results.foreground, results.foreground)
    each = sums.runs.assign(iou=sums.scores(np.ones((1, sums.groups)))[0, :, -1, 0])
    ranges = each.groupby(["encoder", "variant"])["iou"].agg(["min", "max"])
    widest = (ranges["max"] - ranges["min"]).max()
    return f"In-domain, single runs of one network differ by up to {widest:.3f}."
