"""Answers to the plan's questions about profiles, carry and what predicts a loss."""

from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from benchmarks import estimate, remedies
from benchmarks.findings.answers import Answer, spread, t_interval
from benchmarks.findings.measures import POOLINGS
from benchmarks.findings.tables import read
from skipshift.names import listed
from skipshift.statistics.multiplicity import ALPHA
from skipshift.statistics.resampling import holm

RIVALS = {
    "intensity": "the shift of the mean intensity of the pixels",
    "entropy": "the network's own entropy",
    "nothing": "the mean of the other losses",
}
"""What an excess must do better than to be worth its computation."""

ENCODER = ("e2", "e4", "e8", "e16", "e32")


def depth() -> Answer:
    """Question 3: do shallow layers shift more?"""
    profiles = read("profiles")
    own = profiles[profiles["layer"].isin(ENCODER)]
    keys = ["trained", "pooling", "network", "shift"]
    ranks = own.groupby(keys).apply(
        lambda rows: spearmanr(rows["depth"], rows["excess"])[0], include_groups=False
    ).rename("rank").reset_index()  # fmt: skip
    ranks["kind"] = ranks["shift"].str.partition(":")[0]
    rows = []
    for trained, pooling in product((True, False), POOLINGS):
        part = ranks[(ranks["trained"] == trained) & (ranks["pooling"] == pooling)]
        cells = part.groupby(["network", "kind"])["rank"].mean().unstack()
        by_network = cells.mean(axis=1)
        rows.append({
            "networks": "trained" if trained else "untrained", "pooling": pooling,
            "rank correlation with depth": by_network.mean(), "least": by_network.min(),
            "most": by_network.max(), "p": flips(cells.to_numpy()),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    for name in ("trained", "untrained"):
        at = table["networks"] == name
        table.loc[at, "p adjusted"] = holm(table.loc[at, "p"].to_numpy())
    said = {}
    for name in ("trained", "untrained"):
        rows = table[table["networks"] == name]
        yes = rows[rows["p adjusted"] < ALPHA]
        told = listed([
            f"{row['rank correlation with depth']:.2f} (pooling {row['pooling']}, adjusted p "
            f"{row['p adjusted']:.3f})" for _, row in rows.iterrows()
        ])  # fmt: skip
        said[name] = len(yes), told
    number, told = said["trained"]
    answer = (
        f"{'Yes' if number == len(POOLINGS) else f'With {number} of {len(POOLINGS)} poolings'}: "
        f"over the encoder the excess has a mean rank correlation with depth of {told}. "
    )
    number, told = said["untrained"]
    answer += (
        f"Networks with random weights {'show it too' if number else 'do not show it'}: {told}"
        f"{'; so training is not needed for it' if number else ''}."
    )
    mean = (
        own[own["trained"]].groupby(["pooling", "layer"])["excess"].mean().unstack()[list(ENCODER)]
    )
    return Answer(
        answer,
        {"Rank correlation of the excess with depth, e2 to e32": table,
         "Mean excess of the trained networks over the 14 shifts": mean.reset_index()},
        {"depth": "Mean excess by layer for three poolings, of trained and untrained networks"},
    )  # fmt: skip


def flips(cells: np.ndarray) -> float:
    """One-sided p that the mean is below 0, by flipping signs of rows times signs of columns.

    Rows are networks, columns kinds of shift. All patterns are taken: the least p is
    2 / 2^(rows + columns).
    """
    rows, columns = cells.shape
    observed, count = cells.mean(), 0
    patterns = list(product((1, -1), repeat=rows + columns))
    for signs in patterns:
        flipped = cells * np.outer(signs[:rows], signs[rows:])
        count += flipped.mean() <= observed + 1e-12
    return count / len(patterns)


def cure() -> Answer:
    """Question 4: does carry, or the excess, say where the cure is?"""
    cells = read("cures")
    table = pd.concat([remedies.answer(cells, by) for by in ("headroom", "excess")])
    table["p_adjusted"] = holm(table["p_alike"].to_numpy())
    pairs = cells.drop_duplicates(["net", "shift"])
    kinds = pairs["shift"].str.partition(":")[0].value_counts()
    rising = table[(table["slope"] > 0) & (table["p_adjusted"] < ALPHA)]
    told = []
    for places, rows in table.groupby("places", sort=False):
        named = [f"{row['by']} in {row['same place']:.0%}" for _, row in rows.iterrows()]
        told.append(
            f"among {places} the place of the largest gain is that of the largest "
            f"{listed(named)} (chance {rows['chance'].iloc[0]:.0%})"
        )
    sentence = (
        f"{_rising(rising, table)} {told[0][0].upper()}{'; '.join(told)[1:]}. So it is in "
        f"{len(pairs)} pairs of network and shift that cost more than {remedies.LOST}, of which "
        f"{listed([f'{number} are {kind}' for kind, number in kinds.items()])}."
    )
    first = cells[cells["place"].str.fullmatch(r"L\d|bottleneck")]
    by_shift = first.groupby(["shift", "place"])[["headroom", "gain"]].mean().unstack().round(3)
    by_shift.columns = [f"{a} {b}" for a, b in by_shift.columns]
    return Answer(
        sentence,
        {"Tests": table, "Means over networks": by_shift.reset_index()},
        {"cure": "Largest gain of a place beside its headroom and its excess"},
    )


def _rising(rising: pd.DataFrame, table: pd.DataFrame) -> str:
    """Say of which of the tests gain rises within network and shift."""
    if len(rising) == len(table):
        most = rising["p_adjusted"].max()
        return (
            f"Within a network and shift the gain of a place rises with its headroom and with its "
            f"excess, among all places and among skips alone (adjusted p at most {most:.3f})."
        )
    tests = [f"{row['by']} among {row['places']}" for _, row in rising.iterrows()]
    return f"Within a network and shift the gain of a place rises with {listed(tests) or 'none'}."


def loss() -> Answer:
    """Question 5: does the excess predict the IoU lost?"""
    losses = read("losses")
    errors, ranks = estimate.errors_of(losses), estimate.ranks_of(losses)
    rows, better = [], []
    for name in errors:
        row = {"by": name, "error": errors[name].mean()}
        row["rank correlation"] = ranks[name].mean() if name in ranks else np.nan
        for rival in RIVALS:
            if name != rival:
                mean, low, high = t_interval(errors[name] - errors[rival])
                row[f"less {rival}"] = spread(mean, low, high)
                better += [(name, rival)] if high < 0 else []
        rows.append(row)
    layers = [name for name in errors if name not in RIVALS]
    told = []
    for rival, words in RIVALS.items():
        names = [name for name in layers if (name, rival) in better]
        told.append(f"that of {listed(names)}" if names else "none")
        told[-1] += f" is better than {words}"
    answer = (
        f"Of the excesses of {listed(layers)}, {listed(told)}, for the IoU lost under a kind of "
        f"shift that was left out"
    )
    words = ", ".join(f"{name} {errors[name].mean():.3f}" for name in errors)
    return Answer(
        f"{answer}. Mean absolute error: {words}.",
        {"Errors, and their differences over the networks": pd.DataFrame(rows)},
        {"loss": "IoU lost beside the excess of e2, of e32, and the shift of the mean intensity"},
    )
