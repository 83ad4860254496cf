"""Answers to the plan's questions about profiles, carry and what predicts a loss."""

from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from benchmarks import estimate, remedies
from benchmarks.findings.answers import Answer, t_interval
from benchmarks.findings.measures import POOLINGS
from benchmarks.findings.tables import read
from skipshift.names import listed
from skipshift.statistics.multiplicity import ALPHA
from skipshift.statistics.resampling import holm

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
        yes = rows.loc[rows["p adjusted"] < ALPHA, "pooling"].tolist()
        told = ", ".join(
            f"{row['pooling']} {row['rank correlation with depth']:+.2f} (adjusted p "
            f"{row['p adjusted']:.3f})" for _, row in rows.iterrows()
        )  # fmt: skip
        said[name] = (f"with pooling {', '.join(yes)}" if yes else "with no pooling", told, yes)
    where, told, yes = said["trained"]
    answer = (
        f"{'Yes' if yes else 'Not shown'}, {where}: mean rank correlation of the excess with depth "
        f"over the encoder {told}. "
    )
    where, told, yes = said["untrained"]
    answer += (
        f"Networks with random weights {'show it too' if yes else 'do not show it'}, {where}: "
        f"{told}{'; so training is not needed for it' if yes else ''}."
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
    cost = len(cells.drop_duplicates(["net", "shift"]))
    told = []
    for places, rows in table.groupby("places", sort=False):
        named = [
            f"the largest {row['by']} in {row['same place']:.2f}" for _, row in rows.iterrows()
        ]
        told.append(
            f"among {places} the place of the largest gain is that of {listed(named)} (chance "
            f"{rows['chance'].iloc[0]:.2f})"
        )
    rising = table[(table["slope"] > 0) & (table["p_adjusted"] < ALPHA)]
    tests = [f"{row['by']} of {row['places']}" for _, row in rising.iterrows()]
    found = "Gain does not rise clearly with either"
    if tests:
        found = (
            f"Within network and shift gain rises with {listed(tests)} (adjusted p at most "
            f"{rising['p_adjusted'].max():.3f})"
        )
    sentence = (
        f"{found}. Of {cost} pairs of network and shift that cost more than {remedies.LOST}, "
        f"{'; '.join(told)}."
    )
    first = cells[cells["place"].str.fullmatch(r"L\d|bottleneck")]
    by_shift = first.groupby(["shift", "place"])[["headroom", "gain"]].mean().unstack().round(3)
    by_shift.columns = [f"{a} {b}" for a, b in by_shift.columns]
    return Answer(
        sentence,
        {"Tests": table, "Means over networks": by_shift.reset_index()},
        {"cure": "Largest gain of a place beside its headroom and its excess"},
    )


def loss() -> Answer:
    """Question 5: does the excess predict the IoU lost?"""
    losses = read("losses")
    errors, ranks = estimate.errors_of(losses), estimate.ranks_of(losses)
    rows, better = [], []
    for name in errors:
        row = {"by": name, "error": errors[name].mean()}
        row["rank correlation"] = ranks[name].mean() if name in ranks else np.nan
        for rival in ("nothing", "intensity", "entropy"):
            if name != rival:
                mean, low, high = t_interval(errors[name] - errors[rival])
                row[f"less {rival}"] = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
                better += [(name, rival)] if high < 0 else []
        rows.append(row)
    told = "; ".join(
        f"{name} is better than {' and '.join(r for n, r in better if n == name)}"
        for name in dict.fromkeys(name for name, _ in better)
    )
    words = ", ".join(f"{name} {errors[name].mean():.3f}" for name in errors)
    return Answer(
        f"{told or 'No predictor is better than another'}. Mean absolute error of the IoU lost "
        f"under a kind of shift that was left out: {words}.",
        {"Errors, and their differences over the networks": pd.DataFrame(rows)},
        {"loss": "IoU lost beside the excess of e2, of e32, and the shift of the mean intensity"},
    )
