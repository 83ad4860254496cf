"""Tests of a profile's layers: the statistic, p over all layers, order of layers, joined runs.

Whether a layer is clear of its null is decided here and nowhere else, by `is_clear`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.statistics.excess import Excess, Table, difference, noise_of
from skipshift.statistics.multiplicity import ALPHA
from skipshift.statistics.resampling import Groups, GroupWeights, p_value


def is_clear(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each layer of a profile lies significantly above its null (noise floor), at `ALPHA`.

    Parameters
    ----------
    rows
        With ``p_adjusted``; NaN is not clear.
    """
    return rows["p_adjusted"] < ALPHA


def statistic(table: Table, sides: GroupWeights, groups: Groups) -> npt.NDArray[np.float64]:
    """Compute what permutations compare: T = (|P - Q|^2 - v) / s of each draw, (draws,).

    |P - Q|^2 = e' K e, with the table K and the difference e of the weights, has mean v
    (`noise_of`) and variance 2 s^2, s^2 = sum over g != h of (e_g e_h K_gh)^2, without a shift
    (Chen and Qin 2010). Studentised by both, p holds its level where the groups of the two sets
    differ in number and in images or positions, and is exact where they do not (Janssen 1997; Chung
    and Romano 2013).
    """
    gap = sides[0] - sides[1]
    squares = table**2
    np.fill_diagonal(squares, 0)
    spread = np.sqrt(((gap**2 @ squares) * gap**2).sum(1))
    away = ((gap @ table) * gap).sum(1) - noise_of(table, sides, groups)
    return np.asarray(away / np.where(spread > 0, spread, 1))


def step_down(permuted: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Adjust p of several layers by step-down max-T (Westfall and Young 1993, algorithm 4.1).

    Layers share their permutations, and each is in units of its own. The smallest p that can come
    out is that of a single layer, however many there are.

    Parameters
    ----------
    permuted
        (layers, 1 + draws), the observed statistic first; layers with NaN stay NaN.

    Returns
    -------
    (layers,)
    """
    adjusted = np.full(len(permuted), np.nan)
    known = np.flatnonzero(~np.isnan(permuted).any(1))
    if not len(known):
        return adjusted
    rows = permuted[known].astype(np.float64)
    spread = rows.std(1, keepdims=True)
    rows = (rows - rows.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)
    order = np.argsort(rows[:, 0], kind="stable")
    # the largest of each layer and of all that lie below it
    largest = np.maximum.accumulate(rows[order], 0)
    p = [p_value(np.r_[own[0], most[1:]]) for own, most in zip(rows[order], largest, strict=True)]
    adjusted[known[order]] = np.maximum.accumulate(p[::-1])[::-1]
    return adjusted


def behind(layers: Sequence[Excess | None]) -> npt.NDArray[np.float64]:
    """How much larger the largest excess is than that of each layer, with a 95 % interval.

    Returns
    -------
    (layers, 3): difference, low, high; NaN for the layer of the largest excess itself and for
    layers without an excess.
    """
    rows = np.full((len(layers), 3), np.nan)
    known = [number for number, layer in enumerate(layers) if layer is not None]
    if known:
        values = [_excess(layers[number]).value for number in known]
        top = known[int(np.argmax(values))]
        for number in known:
            if number != top:
                rows[number] = difference(_excess(layers[top]), _excess(layers[number]))
    return rows


def _excess(layer: Excess | None) -> Excess:
    assert layer is not None
    return layer


NETWORK = ("variant", "encoder")
FAMILY = (*NETWORK, "reference", "shifted", "measure", "pooling")
"""Columns that name a family: the layers of one network between two domains."""

_RUN = ("fold", "seed")
_LAYER = ("layer", "depth")
_MEANS = ("distance", "null")


def over_runs(layers: pd.DataFrame, evidence: pd.DataFrame | None) -> pd.DataFrame:
    """Join the runs of each network: one row per layer, with tests of the mean over its runs.

    p is that of the mean statistic under the permutations that all runs share; the excess is the
    root of the mean over runs on the scale where noise adds, and its interval leaves one group out
    of all runs at a time. A network of a single run keeps its numbers.

    Parameters
    ----------
    layers
        Columns of a study's layers.csv.
    evidence
        Columns of evidence.parquet of the same runs; None if it was not kept. Without it, or where
        runs saw other groups, several runs have no p and no interval.

    Returns
    -------
    Columns of profile.csv.
    """
    parts = []
    for _, rows in layers.groupby(list(FAMILY), sort=False):
        runs = rows[list(_RUN)].drop_duplicates()
        joined = rows.drop_duplicates("layer").reset_index(drop=True)
        if len(runs) > 1:
            own = None if evidence is None else _matching(evidence, rows.iloc[0])
            joined = _joined(joined, rows, own, len(runs))
        parts.append(joined.drop(columns=list(_RUN)).assign(runs=len(runs)))
    return pd.concat(parts, ignore_index=True) if parts else layers.assign(runs=0)


def _matching(table: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    return table[(table[list(FAMILY)] == row[list(FAMILY)]).all(axis=1)]


def _joined(
    joined: pd.DataFrame, rows: pd.DataFrame, evidence: pd.DataFrame | None, runs: int
) -> pd.DataFrame:
    by_layer = rows.groupby("layer", sort=False)
    means = by_layer[[*_MEANS, "excess"]].mean()
    joined = joined.set_index("layer")
    joined[[*_MEANS, "excess"]] = means
    unknown = ["low", "high", "p", "p_adjusted", "behind", "behind_low", "behind_high"]
    joined[unknown] = np.nan
    if evidence is not None and evidence["groups"].nunique() == 1:
        kept = {str(layer): part for layer, part in evidence.groupby("layer", sort=False)}
        layers = [kept.get(str(layer)) for layer in joined.index]
        if all(part is not None and len(part) == runs for part in layers):
            permuted = [_mean(part, "permuted") for part in layers]
            excesses = [excess_over(part) for part in layers]
            joined[unknown] = layer_table(excesses, permuted)[unknown].to_numpy()
            joined["excess"] = [np.nan if e is None else e.value for e in excesses]
    return joined.reset_index()


def _mean(part: pd.DataFrame | None, column: str) -> npt.NDArray[np.float64]:
    assert part is not None
    rows = np.stack([np.asarray(row, np.float64) for row in part[column]])
    return np.asarray(rows.mean(0))


def excess_over(part: pd.DataFrame | None) -> Excess | None:
    """Excess over the runs of one layer, from their rows of evidence; None where there is none."""
    squares = _mean(part, "squares")
    assert part is not None
    first = part.iloc[0]
    kinds = np.asarray(first["kinds"], np.int64)
    return Excess(squares, kinds, float(first["power"])) if len(squares) else None


def layer_table(
    excesses: Sequence[Excess | None], permuted: Sequence[npt.NDArray[np.floating]]
) -> pd.DataFrame:
    """Excess, interval, p and order of the layers of one family, in their order.

    Parameters
    ----------
    excesses
        None for a layer without a null.
    permuted
        The statistic of each layer, (1 + draws,), the observed one first; empty without
        permutations.
    """
    values = [np.nan if one is None else one.value for one in excesses]
    ends = [(np.nan, np.nan) if one is None else one.interval() for one in excesses]
    drawn = [row if len(row) else np.full(1, np.nan) for row in permuted]
    table = pd.DataFrame({"excess": values})
    table[["low", "high"]] = np.array(ends).reshape(-1, 2)
    table["p"] = [p_value(row) for row in drawn]
    longest = max(map(len, drawn), default=0)
    rows = [row if len(row) == longest else np.full(longest, np.nan) for row in drawn]
    table["p_adjusted"] = step_down(np.array(rows).reshape(len(rows), longest))
    table[["behind", "behind_low", "behind_high"]] = behind(excesses)
    return table
