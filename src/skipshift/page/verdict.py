"""What the tables say, in sentences that claim no more than the tables hold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.counts import iou
from skipshift.names import parse_shift
from skipshift.page.findings import Findings
from skipshift.page.views import grid, layer_order, ordered_variants
from skipshift.statistics import percentile_interval, resamples

FEW_GROUPS = 20
"""Below this many groups an interval from resampling them is called rough."""


@dataclass(frozen=True)
class Gain:
    """Mean IoU of one variant minus that of another, with its 95 % interval over groups."""

    difference: float
    low: float
    high: float

    @property
    def settled(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Lead:
    """The highest variant of an encoder on some domains, beside the one it is compared with."""

    first: str
    other: str
    scores: tuple[float, float]
    gain: Gain
    ahead: int
    """On how many of the domains it is the higher of the two."""


def answer(found: Findings) -> list[tuple[str, str]]:
    """Answer the study's questions: in-domain, under shift, where, and how sure; (label, text)."""
    table = grid(found.iou, found.headline)
    home, away = found.homes, found.away
    said = [("In-domain", _scores(found, encoder, home)) for encoder in _encoders(table)]
    if away:
        said += [("Under shift", _scores(found, encoder, away)) for encoder in _encoders(table)]
    said += [("Where it enters", text) for text in _entries(found.layers)]
    return [*said, ("How sure", sureness(found))]


def headline(found: Findings) -> str:
    """Say in few words which variant is the highest, where the excess is, and how sure."""
    table = grid(found.iou, found.headline)
    places = [(found.homes, "in-domain")]
    if found.away:
        places.append((found.away, f"averaged over {many(found.away)}"))
    texts = []
    for encoder in _encoders(table):
        said = [_claim(found, encoder, domains, where) for domains, where in places]
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


def _encoders(table: pd.DataFrame) -> list[str]:
    return list(table.index.get_level_values("encoder").unique())


def _claim(found: Findings, encoder: str, domains: Sequence[str], where: str) -> tuple[str, str]:
    """Say what is claimed, and where with which IoU."""
    lead = leader(found, encoder, domains)
    if lead is None:
        values = grid(found.iou, found.headline).loc[[encoder], list(domains)].droplevel("encoder")
        mean = values.mean(axis=1)
        return f"{mean.index[0]} has", f"{mean.iloc[0]:.3f} {where}"
    first, second = (f"{score:.3f}" for score in lead.scores)
    if not lead.gain.settled:
        claim = f"{lead.first} and {lead.other} are not told apart by these cases"
        return claim, f"{where} ({first} and {second})"
    return f"{lead.first} is the highest", f"{where} ({first}, {lead.other} {second})"


def _scores(found: Findings, encoder: str, domains: Sequence[str]) -> str:
    """Give the IoU of every variant of one encoder, and who leads."""
    values = grid(found.iou, found.headline).loc[[encoder], list(domains)].droplevel("encoder")
    scores = listed(f"{value:.3f} for {variant}" for variant, value in values.mean(axis=1).items())
    what = "mean IoU of the classes" if len(found.foreground) > 1 else f"{found.headline} IoU"
    home = set(domains) <= set(found.homes)
    where = f"On {listed(domains)}" if home else f"Averaged over {many(domains)}"
    text = f"{where}, {what} with {encoder} is {scores}."
    lead = leader(found, encoder, domains)
    return text if lead is None else f"{text} {_lead_text(lead, len(domains))}"


def _lead_text(lead: Lead, domains: int) -> str:
    amount = _amount(lead.scores[0] - lead.scores[1])
    text = f"The highest is {lead.first}, {amount} above {lead.other}"
    if not np.isfinite(lead.gain.low):
        return f"{text}; there are too few groups for an interval."
    text += f" (95 % interval of the difference {lead.gain.low:.3f} to {lead.gain.high:.3f})"
    if not lead.gain.settled:
        text += ", which includes 0: these cases do not tell the two apart"
    if domains > 1:
        text += f"; it is the higher of the two on {lead.ahead} of the {domains}"
    return f"{text}."


def leader(found: Findings, encoder: str, domains: Sequence[str]) -> Lead | None:
    """Find the highest variant, and compare it with the baseline or, if it is that, the second."""
    values = grid(found.iou, found.headline).loc[[encoder], list(domains)].droplevel("encoder")
    mean = values.mean(axis=1).dropna().sort_values(ascending=False, kind="stable")
    if len(mean) < 2:
        return None
    first = str(mean.index[0])
    other = "baseline" if "baseline" in mean.index and first != "baseline" else str(mean.index[1])
    return Lead(
        first,
        other,
        (float(mean[first]), float(mean[other])),
        gain(found, encoder, (first, other), domains),
        sum(bool(values[d][first] > values[d][other]) for d in domains),
    )


def gain(
    found: Findings,
    encoder: str,
    pair: tuple[str, str],
    domains: Sequence[str],
    draws: int = 2000,
) -> Gain:
    """Compare two variants on the same resamples of the groups.

    The mean is over runs, domains and foreground classes; groups, not cases or runs, are drawn.

    Parameters
    ----------
    pair
        The variant, and the one that it is compared with.
    domains
        Domains to average.
    """
    cases = found.cases[
        found.cases["domain"].isin(domains) & found.cases["class"].isin(found.foreground)
    ]
    groups = pd.Index(cases["group"].unique())
    ours, theirs = (_counts(cases, f"{encoder}.{variant}.fold", groups) for variant in pair)
    whole = np.ones((1, len(groups)))
    difference = float((_mean_iou(ours, whole) - _mean_iou(theirs, whole))[0])
    if len(groups) < 2:
        return Gain(difference, np.nan, np.nan)
    weights = resamples(len(groups), draws, np.random.default_rng(0))
    drawn = _mean_iou(ours, weights) - _mean_iou(theirs, weights)
    low, high = percentile_interval(drawn)
    return Gain(difference, float(low), float(high))


def _counts(cases: pd.DataFrame, prefix: str, groups: "pd.Index[str]") -> npt.NDArray[np.float64]:
    """Sum tp, fp, fn of each run, domain and class within the group: (groups, cells, 3)."""
    rows = cases[cases["run"].str.startswith(prefix)]
    cells = rows.groupby(["run", "domain", "class"], sort=False).ngroup().to_numpy()
    counts = np.zeros((len(groups), cells.max(initial=-1) + 1, 3))
    places = (groups.get_indexer(pd.Index(rows["group"])), cells)
    np.add.at(counts, places, rows[["tp", "fp", "fn"]].to_numpy(float))
    return counts


def _mean_iou(
    counts: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(draws,): mean over the cells that hold anything in that draw."""
    each = iou(np.tensordot(weights, counts, axes=1))
    known = np.isfinite(each)
    total = np.where(known, each, 0).sum(1)
    mean: npt.NDArray[np.float64] = np.full(len(each), np.nan)
    np.divide(total, known.sum(1), out=mean, where=known.any(1))
    return mean


def excesses(layers: pd.DataFrame) -> pd.DataFrame:
    """Excess of one pair of domains: a row for each (encoder, variant), a column for each layer.

    Runs are averaged.
    """
    wide = layers.pivot_table(
        index=["encoder", "variant"], columns="layer", values="excess", sort=False
    )
    order = [
        (encoder, variant)
        for encoder in layers["encoder"].unique()
        for variant in ordered_variants(layers["variant"])
        if (encoder, variant) in set(wide.index)
    ]
    rows = pd.MultiIndex.from_tuples(order, names=wide.index.names)
    return wide.reindex(index=rows, columns=layer_order(layers))


def pairs_of(layers: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs (reference, shifted) of a profile table, in its order."""
    unique = layers[["reference", "shifted"]].drop_duplicates()
    return list(zip(unique["reference"], unique["shifted"], strict=True))


def _entries(layers: pd.DataFrame | None) -> list[str]:
    if layers is None or layers.empty:
        return ["No profile was measured, so nothing is said about where the shift enters."]
    return [entry(of_pair(layers, pair)) for pair in pairs_of(layers)]


def of_pair(table: pd.DataFrame, pair: tuple[str, str]) -> pd.DataFrame:
    """Rows of one pair of domains."""
    return table[(table["reference"] == pair[0]) & (table["shifted"] == pair[1])]


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


def sureness(found: Findings) -> str:
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
        grid_of = f"{_count(folds, 'fold')}, {_count(seeds, 'seed')}"
        text = f"Each number is a mean over {each} runs ({grid_of})."
        text += f" {_spread(found)}"
        if seeds == 1:
            text += (
                " One seed says nothing about seed noise: what differs between these runs is "
                "the split of the training cases too."
            )
    text += (
        f" Intervals come from resampling the {_count(groups, 'group')} of the test set"
        f" ({_count(cases, 'case')}) and hold no noise of training."
    )
    if groups < FEW_GROUPS:
        text += f" {_count(groups, 'group').capitalize()} are few: take every interval as rough."
    if found.runs["variant"].nunique() > 2:
        text += " The highest of several variants is flattered by having been picked."
    return text


def _spread(found: Findings) -> str:
    """Range of single runs in-domain, of every network."""
    rows = found.cases[
        found.cases["domain"].isin(found.homes) & found.cases["class"].isin(found.foreground)
    ]
    sums = rows.groupby(["run", "domain", "class"], sort=False)[["tp", "fp", "fn"]].sum()
    each = pd.Series(iou(sums.to_numpy()), index=sums.index).groupby("run", sort=False).mean()
    network = each.index.str.replace(r"\.fold\d+\.seed\d+$", "", regex=True)
    ranges = each.groupby(network).agg(["min", "max"])
    widest = (ranges["max"] - ranges["min"]).max()
    return f"In-domain, single runs of one network lie up to {widest:.3f} apart."


def listed(items: Iterable[str]) -> str:
    """Join words as a sentence does.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def many(domains: Sequence[str]) -> str:
    """Count the domains, as shifts where they all are.

    >>> many(["brightness:0.5", "contrast:0.5"]), many(["B"])
    ('2 shifts', 'one other domain')
    """
    shifts = [domain for domain in domains if parse_shift(domain) is not None]
    return _count(len(domains), "shift" if len(shifts) == len(domains) else "other domain")


def _count(number: int, noun: str) -> str:
    return f"{'one' if number == 1 else number} {noun}{'' if number == 1 else 's'}"


def _amount(difference: float) -> str:
    return f"{difference:.3f}" if difference >= 0.0005 else "less than 0.001"
