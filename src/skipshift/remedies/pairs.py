"""Pairs of remedies: one of the input and one of the features behind it, from the best single ones.

Which pairs are worth trying is told by the single remedies on all folds but one, and a pair counts
on the folds whose others offer it; on the rest it stands for the network as it is. So no masks that
a pair is judged by had a say in trying it. A pair that no fold offers changes nothing anywhere and
never has the largest statistic, so that the table is adjusted for all pairs there could be.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from skipshift.networks.changes import Change
from skipshift.remedies.judging import Judged, collapsed
from skipshift.remedies.places import INPUT, Place
from skipshift.remedies.ranking import Row
from skipshift.remedies.setting import JOIN, Fit, Remedy, Setting
from skipshift.statistics.recovery import foreground_iou

Score = Callable[[Judged], float]
"""How good a change is, as told by some folds; the larger, the better."""


def offered(rows: Sequence[Row], plain: Judged, setting: Setting) -> list[Row]:
    """Name the pairs that are worth trying, at most one for each fold that is left out.

    The best remedy of the input and the best of the features, if one of them is better than none.
    """
    number = setting.shifted.number
    if setting.shifted.data.masks is None:
        # the excess needs no masks
        scores: list[Score] = [_by_excess] * number
    else:
        scores = [_by_iou(setting.shifted.folds != fold) for fold in range(number)]
    found: dict[tuple[int, int], npt.NDArray[np.bool_]] = {}
    for fold, score in enumerate(scores):
        pair = _best_pair(rows, score, plain)
        if pair is not None:
            found.setdefault(pair, np.zeros(number, bool))[fold] = True
    return [_joined(rows[a], rows[b], folds) for (a, b), folds in found.items()]


def _by_iou(kept: npt.NDArray[np.bool_]) -> Score:
    return lambda judged: float(np.nan_to_num(foreground_iou(judged.counts[kept, None])[0][0]))


def _by_excess(judged: Judged) -> float:
    return -np.inf if judged.excess is None else -judged.excess.value


def _best_pair(rows: Sequence[Row], score: Score, plain: Judged) -> tuple[int, int] | None:
    values: dict[int, float] = {}
    for i, row in enumerate(rows):
        sound = [one for one in row.by_weight.values() if not collapsed(one, plain)]
        values |= {i: max(map(score, sound))} if sound else {}
    inputs = [i for i in values if rows[i].place.name == INPUT]
    features = [i for i in values if rows[i].place.name != INPUT]
    if not inputs or not features:
        return None
    ahead, behind = (max(own, key=values.__getitem__) for own in (inputs, features))
    return (ahead, behind) if max(values[ahead], values[behind]) > score(plain) else None


def _joined(first: Row, second: Row, folds: npt.NDArray[np.bool_]) -> Row:
    """Make a row of a pair that is not judged yet."""
    one, two = first.remedy, second.remedy

    def offer(setting: Setting, _place: Place) -> Fit | None:
        ahead = one.offer(setting, first.place)
        if ahead is None:
            return None

        @cache
        def behind(without: int | None) -> tuple[Change, Fit]:
            change = ahead(without, one.weights[0])
            fit = two.offer(setting.behind(change, second.place, without), second.place)
            assert fit is not None
            return change, fit

        def fit(without: int | None, weight: float) -> Change:
            change, own = behind(without if one.fitted else None)
            return change.then(own(without, weight))

        return fit

    remedy = Remedy(
        JOIN.join((one.name, two.name)),
        offer,
        two.weights,
        one.fitted or two.fitted,
        one.labelled or two.labelled,
    )
    place = Place(JOIN.join((first.place.name, second.place.name)), "part")
    return Row(remedy, place, folds=folds)
