"""Sentences about a study: headline, answers, where the shift enters, and the uncertainty."""

from collections.abc import Sequence

import pandas as pd

from skipshift.names import BASELINE, listed
from skipshift.page.comparison_sentences import claim, leading, tally
from skipshift.page.ordering import excesses, grid, layer_order, of_pair, pairs_of
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
from skipshift.statistics.multiplicity import ALPHA

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


_VERDICTS = {
    HIGHER: ("is", "are", "higher", " than {baseline}"),
    LOWER: ("is", "are", "lower", " than {baseline}"),
    EQUIVALENT: ("is", "are", "equivalent within {margin:g}", " to {baseline}"),
    OPEN: ("is", "are", "not told apart", " from {baseline}"),
    BOTH_FAIL: ("fails", "fail", "as the baseline does", " ({baseline})"),
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
        one, several, words, first = _VERDICTS[str(verdict)]
        names = listed(f"{name} ({mean[name]:.3f})" for name in rows["variant"])
        who = f"the checkpoint{'s' * (len(rows) > 1)} of {names}" if of == CHECKPOINT else names
        verb = one if len(rows) == 1 else several
        base = f"{'that of ' * (of == CHECKPOINT)}the baseline ({mean[BASELINE]:.3f})"
        words = words.format(margin=results.margin)
        said.append(f"{who} {verb} {words}{'' if said else first.format(baseline=base)}")
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
