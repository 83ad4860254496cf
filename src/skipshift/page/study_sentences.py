"""What the tables say, in sentences that claim no more than the tables hold."""

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


def answer(found: StudyResults) -> list[tuple[str, str]]:
    """Answer the study's questions, (label, text): in-domain, under shift, where, how sure.

    What the check of the data warned of comes last.
    """
    said = [
        ("In-domain", _standing(found, encoder, (home,)))
        for home in found.homes
        for encoder in _encoders(found)
    ]
    if found.away:
        said += [("Under shift", _standing(found, e, found.away)) for e in _encoders(found)]
    said += [("Where it enters", text) for text in _entries(found.layers)]
    warned = [("The data", f"The check warned of {text}.") for text in found.warnings]
    return [*said, ("How sure", sureness(found)), *warned]


def headline(found: StudyResults) -> str:
    """Say in few words which variant is the highest, where the excess is, and how sure."""
    several = len(found.homes) > 1
    places: dict[tuple[str, ...], str] = {
        (home,): f"on {home}" if several else "in-domain" for home in found.homes
    }
    if found.away:
        places[found.away] = f"averaged over {many(found.away)}"
    texts = []
    for encoder in _encoders(found):
        said = [_claim(found, encoder, domains, where) for domains, where in places.items()]
        claims = list(dict.fromkeys(claim for claim, _ in said))
        each = [f"{claim} {listed(d for c, d in said if c == claim)}" for claim in claims]
        texts.append(f"With {encoder}, {listed(each)}.")
    if found.layers is not None:
        pair = pairs_of(found.layers)[0]
        texts.append(_short_entry(of_pair(found.layers, pair)))
    if found.runs.groupby(["encoder", "variant"]).size().max() == 1:
        texts.append("Each network was trained once, so chance in training is not ruled out.")
    return " ".join(texts)


def _short_entry(layers: pd.DataFrame) -> str:
    """Name the layer that has the largest excess in most networks, of those that show a shift."""
    table = excesses(layers)
    clear = [network for network in table.index if _is_clear(_layer_means(layers, network))]
    reference, shifted = pairs_of(layers)[0]
    if not clear:
        return f"No layer shows a shift from {reference} to {shifted} beyond the null."
    tops = table.loc[clear].idxmax(axis=1).value_counts()
    of = f" in {tops.iloc[0]} of {len(table)} networks" if len(table) > 1 else ""
    layer = _position(str(tops.index[0]))
    return f"The excess from {reference} to {shifted} is largest at {layer}{of}."


def _encoders(found: StudyResults) -> list[str]:
    return [str(encoder) for encoder in found.iou["encoder"].unique()]


def _means(found: StudyResults, encoder: str, domains: Sequence[str]) -> "pd.Series[float]":
    """IoU of each variant of an encoder, the mean of some domains."""
    values = grid(found.iou, found.headline).loc[[encoder], list(domains)]
    return values.droplevel("encoder").mean(axis=1)


def _claim(
    found: StudyResults, encoder: str, domains: Sequence[str], where: str
) -> tuple[str, str]:
    """Say what is claimed, and where with which IoU."""
    mean = _means(found, encoder, domains)
    tests = tests_on(found, encoder, domains)
    if tests.empty:
        return f"{mean.idxmax()} has", f"{mean.max():.3f} {where}"
    top = leading(tests)
    variant = str(top["variant"])
    ours, theirs = f"{mean[variant]:.3f}", f"{mean[BASELINE]:.3f}"
    if top["verdict"] == OPEN:
        claimed = f"{variant} and {BASELINE} are not told apart by these cases"
    elif top["verdict"] == EQUIVALENT:
        claimed = f"{variant} and {BASELINE} are equivalent within {found.margin:g}"
    elif top["effect"] > 0:
        return f"{variant} is the highest", f"{where} ({ours}, {BASELINE} {theirs})"
    else:
        return f"{BASELINE} is the highest", f"{where} ({theirs}, {variant} {ours})"
    return claimed, f"{where} ({ours} and {theirs})"


def _standing(found: StudyResults, encoder: str, domains: Sequence[str]) -> str:
    """Give the IoU of every variant of one encoder, and how the highest stands to the baseline."""
    mean = _means(found, encoder, domains)
    scores = listed(f"{value:.3f} for {variant}" for variant, value in mean.items())
    what = "mean IoU of the classes" if len(found.foreground) > 1 else f"{found.headline} IoU"
    where = f"On {domains[0]}" if len(domains) == 1 else f"Averaged over {many(domains)}"
    text = f"{where}, {what} with {encoder} is {scores}."
    tests = tests_on(found, encoder, domains)
    if tests.empty:
        return f"{text} No baseline was trained to compare with." if len(mean) > 1 else text
    top = leading(tests)
    if top["effect"] > 0:
        link = ", but" if top["verdict"] == OPEN else ";"
        text += f" The highest is {top['variant']}{link} {claim(top, found.margin, 'it')}."
    else:
        text += f" No variant is above the baseline: {claim(top, found.margin)}."
    if len(domains) > 1:
        each = headline_tests(found)
        own = (each["encoder"] == encoder) & (each["variant"] == top["variant"])
        text += f" One by one, {tally(each[own & each['domain'].isin(domains)], found.margin)}."
    return text


def _entries(layers: pd.DataFrame | None) -> list[str]:
    if layers is None or layers.empty:
        return ["No profile was measured, so nothing is said about where the shift enters."]
    return [entry(of_pair(layers, pair)) for pair in pairs_of(layers)]


def entry(layers: pd.DataFrame) -> str:
    """Say at which layer the excess is largest, in how many networks, and whether that is clear.

    Parameters
    ----------
    layers
        Columns of layers.csv, one pair of domains.
    """
    table = excesses(layers).dropna(how="all")
    reference, shifted = pairs_of(layers)[0]
    if table.empty:
        return (
            f"Between {reference} and {shifted} the distances have no null: a reference of one "
            "group cannot be halved, and without a null no layer can be named."
        )
    tops = table.idxmax(axis=1)
    encoders = table.index.get_level_values("encoder").nunique()
    names = [f"{e} {v}" if encoders > 1 else str(v) for e, v in table.index]
    means = [_layer_means(layers, network) for network in table.index]
    places = {
        str(layer): [n for n, at in zip(names, tops, strict=True) if at == layer]
        for layer in tops.unique()
    }
    at = "; ".join(f"at {_position(layer)} {_inside(who, names)}" for layer, who in places.items())
    ranked = means[0].sort_values("excess", ascending=False, kind="stable")
    top = ranked.iloc[0]
    text = (
        f"Between {reference} and {shifted} the excess is largest {at}."
        f" In {names[0]} it is {top['excess']:.2f} there: a distance of {top['distance']:.2f}"
        f" over a null of {top['null']:.2f}."
    )
    if len(ranked) > 1:
        text += f" Next comes {ranked.index[1]} with {ranked['excess'].iloc[1]:.2f}."
    flat = [n for n, mean in zip(names, means, strict=True) if not _is_clear(mean)]
    near = [n for n, mean in zip(names, means, strict=True) if _is_tied(mean) and n not in flat]
    if flat:
        text += f" The highest layer does not stand clear of its null {_inside(flat, names)}."
    if near:
        text += (
            f" The intervals of the two highest layers overlap {_inside(near, names)}:"
            " which of them is first is open."
        )
    return text


def _layer_means(layers: pd.DataFrame, network: tuple[str, str]) -> pd.DataFrame:
    """Mean over runs of what layers.csv holds, a row for each layer."""
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


def sureness(found: StudyResults) -> str:
    """How many runs, cases and groups stand behind the numbers, and what they cannot say."""
    runs = found.runs.groupby(["encoder", "variant"], sort=False).size()
    folds, seeds = (found.runs[name].nunique() for name in ("fold", "seed"))
    groups, cases = found.cases["group"].nunique(), found.cases["case"].nunique()
    if runs.max() == 1:
        text = (
            "Each network was trained once (one fold, one seed): nothing here says how much "
            "another training would differ, and a difference between variants may be no more "
            "than that."
        )
    else:
        each = f"{runs.min()}" if runs.min() == runs.max() else f"{runs.min()} to {runs.max()}"
        grid_of = f"{counted(folds, 'fold')}, {counted(seeds, 'seed')}"
        text = f"Each number is a mean over {each} runs ({grid_of})."
        text += f" {_spread(found)}"
        if seeds == 1:
            text += (
                " One seed says nothing about seed noise: what differs between these runs is "
                "the split of the training cases too."
            )
    text += (
        f" Intervals and tests take the {counted(groups, 'group')} of the test set"
        f" ({counted(cases, 'case')}) for a sample and hold no noise of training."
    )
    if groups < FEW_GROUPS:
        text += f" {counted(groups, 'group').capitalize()} are few: take every interval as rough."
    if found.runs["variant"].nunique() > 2:
        text += " The highest of several variants is flattered by having been picked."
    return text


def _spread(found: StudyResults) -> str:
    """Range of single runs in-domain, of every network."""
    cases = found.cases[found.cases["domain"].isin(found.homes)]
    sums = group_sums(cases, found.foreground, found.foreground)
    each = sums.runs.assign(iou=sums.scores(np.ones((1, sums.groups)))[0, :, -1, 0])
    ranges = each.groupby(["encoder", "variant"])["iou"].agg(["min", "max"])
    widest = (ranges["max"] - ranges["min"]).max()
    return f"In-domain, single runs of one network lie up to {widest:.3f} apart."
