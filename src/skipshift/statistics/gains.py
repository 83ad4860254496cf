"""Gain and harm of remedies from confusion counts, and the gain of choosing the best of them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.statistics.counts import constant_counts
from skipshift.statistics.crossed import Array
from skipshift.statistics.multiplicity import max_t, signs, swap_shares
from skipshift.statistics.recovery import Counts, Interval, Linear, foreground_iou, t_interval

SWAPS = 9999
"""Random swaps of groups where there are too many to try all."""


def gain_table(counts: Counts, seed: int = 0) -> pd.DataFrame:
    """Compare candidates with the unmended network on the same images.

    Parameters
    ----------
    counts
        (groups, 1 + candidates, classes, 3), the unmended network first.

    Returns
    -------
    ``iou, gain, low, high, p, p_adjusted``, a row per candidate: the IoU of the foreground, the
    difference to the unmended network, its 95 % t-interval over groups, and p from swapping the two
    networks within groups, adjusted for all candidates together (step-down max-T).
    """
    values, ends = _differences(counts)
    parts = np.stack([counts[..., 1:, 0], counts[..., 1:, :].sum(-1)], -1).astype(np.float64)
    shares = np.nan_to_num(swap_shares(parts[:, 1:], parts[:, :1])).mean(-1)
    p, adjusted = max_t(shares, signs(len(counts), SWAPS, np.random.default_rng(seed)))
    table = pd.DataFrame({"iou": values[1:], "gain": values[1:] - values[0]})
    table[["low", "high"]] = ends
    return table.assign(p=p, p_adjusted=adjusted)


def harm_table(counts: Counts) -> pd.DataFrame:
    """Compare candidates with the unmended network on the reference: what they cost there.

    Parameters
    ----------
    counts
        As for `gain_table`, of the reference's images.

    Returns
    -------
    ``in_domain, harm, harm_low, harm_high``: the IoU after the change, and how far it is below the
    unmended network's, with its 95 % t-interval over groups.
    """
    values, ends = _differences(counts)
    table = pd.DataFrame({"in_domain": values[1:], "harm": values[0] - values[1:]})
    table[["harm_low", "harm_high"]] = -ends[:, ::-1]
    return table


def _differences(counts: Counts) -> tuple[Array, Array]:
    values = foreground_iou(counts)[0]
    ends = [_gain_interval(counts[:, [0, row]]) for row in range(1, counts.shape[1])]
    # a difference of two IoUs lies in [-1, 1]
    return values, np.array(ends, np.float64).reshape(-1, 2).clip(-1, 1)


def _gain_interval(pair: Counts) -> Interval:
    """Interval of one candidate's gain: what else was tried has no part in it."""
    values, errors, weights = foreground_iou(pair)
    gain = Linear(values[1] - values[0], (errors[:, 1] - errors[:, 0])[:, None])
    return t_interval(gain, weights[:, None])


class Choice(NamedTuple):
    """The best candidate of each fold, chosen on the other folds and counted on its own."""

    counts: Counts
    """(groups, classes, 3)"""

    picks: npt.NDArray[np.int64]
    """(folds,): index of the candidate."""


def choose(
    counts: Counts, folds: npt.NDArray[np.int64], offered: npt.NDArray[np.bool_] | None = None
) -> Choice:
    """Choose the candidate of the highest IoU for each fold without looking at that fold.

    So the best of many candidates is not flattered: its IoU is that of a rule which never saw the
    masks that it is judged by.

    Parameters
    ----------
    counts
        (groups, candidates, classes, 3)
    folds
        (groups,): fold of each group.
    offered
        (folds, candidates): which may be chosen for a fold; all by default.
    """
    picks = []
    for fold in range(int(folds.max()) + 1):
        values = np.nan_to_num(foreground_iou(counts[folds != fold])[0], nan=-1.0)
        picks.append(
            int(np.argmax(values if offered is None else np.where(offered[fold], values, -2.0)))
        )
    own = np.array(picks)[folds]
    return Choice(counts[np.arange(len(counts)), own], np.array(picks))


def constant_iou(counts: Counts) -> float:
    """IoU of the best constant prediction: every pixel called one class.

    Parameters
    ----------
    counts
        (groups, classes, 3) of any network on the images.
    """
    return float(np.nanmax(foreground_iou(constant_counts(counts))[0]))
