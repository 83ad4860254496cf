"""Ranking of judged remedies: the table, and the rule that recommends one of them or none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skipshift.page.remedy_sentences import Facts, Recommended
from skipshift.records import TABLE_COLUMNS
from skipshift.remedies.judging import Judge, Judged, Offered, collapsed, shares_of
from skipshift.remedies.negative_control import Checked
from skipshift.remedies.places import Place
from skipshift.remedies.setting import JOIN, Remedy, Setting
from skipshift.remedies.without_masks import ByExcess, Check
from skipshift.statistics.gains import choose, constant_iou, gain_table, harm_table
from skipshift.statistics.multiplicity import ALPHA, smallest_swap_p
from skipshift.statistics.recovery import Counts, foreground_iou

COLUMNS = tuple(TABLE_COLUMNS["remedies.csv"])


@dataclass(frozen=True)
class Row:
    """A remedy at a place."""

    remedy: Remedy
    place: Place
    judged: Mapping[float, Judged] | str = ""
    """By weight; or why it could not be fitted."""

    folds: Offered = None

    @property
    def by_weight(self) -> Mapping[float, Judged]:
        """What was judged; nothing if it could not be fitted."""
        return {} if isinstance(self.judged, str) else self.judged


Control = Callable[[Remedy, Place, float], Checked]
"""Remedy, place and weight -> what the negative control found."""


def ranked(
    rows: Sequence[Row],
    judge: Judge,
    headroom: Mapping[str, float],
    control: Control | None = None,
) -> tuple[pd.DataFrame, Facts]:
    """Make the table of all rows, best first, and what the verdict needs beside it.

    ``headroom`` is the IoU that comes back when a place is fed the reference's features, where that
    is known. ``control`` is asked of what may be recommended without masks; None without images of
    the reference, and of a search that was cut short.
    """
    setting, plain = judge.setting, judge.plain
    masks = setting.shifted.data.masks is not None
    fitted = [joined(row, judge) for row in rows]
    table = pd.DataFrame([_about(row, one, setting) for row, one in zip(rows, fitted, strict=True)])
    table = table.reindex(columns=list(COLUMNS))
    good = [i for i, one in enumerate(fitted) if one is not None]
    done = [one for one in fitted if one is not None]
    index = table.index[good]
    if masks and done:
        counts = np.stack([plain.counts, *(one.counts for one in done)], 1)
        gains = gain_table(counts, setting.spec.seed).set_index(index)
        table.loc[index, list(gains)] = gains
    if setting.home is not None and setting.home.data.masks is not None and done:
        known = {i: one.judged.home for i, one in zip(good, done, strict=True)}
        known = {i: counts for i, counts in known.items() if len(counts)}
        harms = harm_table(np.stack([plain.home, *known.values()], 1))
        table.loc[list(known), list(harms)] = harms.to_numpy()
    table["headroom"] = table["place"].map(dict(headroom)).astype(float)
    table["passed_over"] = ""
    table["collapsed"] = [one is not None and collapsed(one.judged, plain) for one in fitted]
    for i, one in zip(good, done, strict=True):
        left = _excess_left(one.judged, judge.layer in rows[i].place.name.split(JOIN))
        table.loc[i, ["excess_left", "excess_low", "excess_high"]] = left
    facts = _facts(table, rows, fitted, judge, control)
    order = ["gain", "excess_left"] if masks else ["excess_left", "gain"]
    table = table.sort_values(order, ascending=[not masks, masks], kind="stable")
    return table[list(COLUMNS)].reset_index(drop=True), facts


@dataclass(frozen=True)
class Joined:
    """A remedy at a place with the weight that cross-fitting chose."""

    weight: float
    counts: Counts
    """(groups, classes, 3): each group by the weight that is best on the other folds; unmended
    where those do not offer a pair."""
    judged: Judged
    """With the weight that is best on all folds."""


def costs_asked(one: Joined, judge: Judge, named: bool) -> bool:
    """Whether a change is to be run on the reference, once: it is ``named``, or it helps.

    It gains more than the margin, or without masks lowers the excess, and loses no class.
    """
    plain, setting = judge.plain, judge.setting
    if setting.home is None or len(one.judged.home):
        return False
    if named or collapsed(one.judged, plain):
        return named
    if setting.shifted.data.masks is None:
        left, before = one.judged.excess, plain.excess
        return left is not None and before is not None and left.value < before.value
    values = foreground_iou(np.stack([plain.counts, one.counts], 1))[0]
    return bool(values[1] - values[0] > setting.spec.margin)


def joined(row: Row, judge: Judge) -> Joined | None:
    """Choose the weight of a remedy by cross-fitting; None if it could not be fitted."""
    plain, folds = judge.plain, judge.setting.shifted.folds
    weights = list(row.by_weight)
    if not weights:
        return None
    judged = list(row.by_weight.values())
    if judge.setting.shifted.data.masks is not None:
        counts = np.stack([one.counts for one in judged], 1)
        best = int(np.argmax(np.nan_to_num(foreground_iou(counts)[0], nan=-1.0)))
        own = choose(counts, folds).counts
        if row.folds is not None:
            own = np.where(row.folds[folds][:, None, None], own, plain.counts)
        return Joined(weights[best], own, judged[best])
    left = [np.inf if (e := one.excess) is None else e.value for one in judged]
    best = int(np.argmin(left))
    return Joined(weights[best], judged[best].counts, judged[best])


def _about(row: Row, one: Joined | None, setting: Setting) -> dict[str, object]:
    used = setting.labelled if row.remedy.labelled else None
    about = {
        "remedy": row.remedy.name,
        "place": row.place.name,
        "labels": 0 if used is None else len(used.groups),
        "failed": row.judged if isinstance(row.judged, str) else "",
    }
    if one is None:
        return about
    return about | {
        "parameters": one.judged.parameters,
        "seconds": sum(judged.seconds for judged in row.by_weight.values()),
        "weight": one.weight,
        "unchanged": one.judged.unchanged,
        "relabelled_reference": one.judged.relabelled,
    }


def _excess_left(judged: Judged, same: bool) -> list[float]:
    """Excess with its interval; NaN where the change acts in the layer that is measured."""
    if same or judged.excess is None:
        return [np.nan] * 3
    return [judged.excess.value, *judged.excess.interval()]


def _facts(
    table: pd.DataFrame,
    rows: Sequence[Row],
    fitted: Sequence[Joined | None],
    judge: Judge,
    control: Control | None,
) -> Facts:
    setting, plain = judge.setting, judge.plain
    data = setting.shifted.data
    masks = data.masks is not None
    groups = len(setting.shifted.folds)
    iou, constant, chosen = np.nan, np.nan, (np.nan,) * 4
    if masks:
        iou = float(foreground_iou(plain.counts[:, None])[0][0])
        constant = constant_iou(plain.counts)
        chosen = _choice(rows, plain, setting)
    in_domain = np.nan
    if setting.home is not None and setting.home.data.masks is not None:
        in_domain = float(foreground_iou(plain.home[:, None])[0][0])
    best, relabelled = None, None
    if masks:
        best = _best_by_iou(table, constant, setting.spec.margin)
    elif not judge.unjudged:
        check = None if control is None else _check(rows, fitted, control)
        judged = [None if one is None else one.judged for one in fitted]
        rule = ByExcess(table, judged, plain, check)
        best = rule.best()
        for row in rule.lower:
            table.loc[row, "passed_over"] = rule.passed_over(row)
        for row, (_, found) in rule.asked.items():
            if found is not None:
                table.loc[row, ["relabelled", "relabelled_unshifted"]] = list(found)
            if row == best:
                relabelled = found
    return Facts(
        best=None if best is None else Recommended(*table.loc[best, ["remedy", "place"]]),
        iou=iou,
        in_domain=in_domain,
        constant=constant,
        chosen=chosen,
        layer=judge.layer,
        excess=np.nan if plain.excess is None else plain.excess.value,
        p=judge.p,
        groups=groups,
        known=judge.known,
        images=len(data.groups),
        masks=masks,
        margin=setting.spec.margin,
        least_p=smallest_swap_p(groups),
        predicted=tuple(shares_of(plain.pixels)),
        expected=tuple(shares_of(plain.home_pixels)),
        classes=setting.classes,
        mended=_shares_with(None if best is None else fitted[best]),
        relabelled=relabelled,
    )


def _check(rows: Sequence[Row], fitted: Sequence[Joined | None], control: Control) -> Check:
    """Ask the control of a row of the table, with the weight that is chosen."""

    def check(index: int) -> Checked:
        one, row = fitted[index], rows[index]
        assert one is not None  # it lowers the excess
        return control(row.remedy, row.place, one.weight)

    return check


def _shares_with(one: Joined | None) -> tuple[float, ...]:
    return () if one is None else tuple(shares_of(one.judged.pixels))


def _choice(
    rows: Sequence[Row], plain: Judged, setting: Setting
) -> tuple[float, float, float, float]:
    """IoU, gain and interval of the rule that chooses the best row, or none, on other folds."""
    every = np.ones(setting.shifted.number, bool)
    candidates = [(plain, every)] + [
        (one, every if row.folds is None else row.folds)
        for row in rows
        for one in row.by_weight.values()
        if not collapsed(one, plain)
    ]
    counts = np.stack([one.counts for one, _ in candidates], 1)
    offered = np.stack([folds for _, folds in candidates], 1)
    picked = choose(counts, setting.shifted.folds, offered).counts
    row = gain_table(np.stack([plain.counts, picked], 1)).iloc[0]
    return float(row["iou"]), float(row["gain"]), float(row["low"]), float(row["high"])


def _best_by_iou(table: pd.DataFrame, constant: float, margin: float) -> int | None:
    """Return the smallest change among those whose gain is within the margin of the largest.

    A pair must gain more than the margin above every single remedy that keeps all classes.
    """
    sound = table[~table["collapsed"] & table["gain"].notna()]
    pairs = _are_pairs(sound)
    least = sound.loc[~pairs, "gain"].max() + margin
    fit = sound[
        (sound["p_adjusted"] < ALPHA)
        & (sound["gain"] > margin)
        & (sound["iou"] > constant)
        & ~(pairs & (sound["gain"] <= least))
    ]
    if fit.empty:
        return None
    near = fit[fit["gain"] >= fit["gain"].max() - margin]
    order = near.sort_values(["parameters", "gain"], ascending=[True, False], kind="stable")
    return int(order.index[0])


def _are_pairs(table: pd.DataFrame) -> pd.Series:
    return table["remedy"].str.contains(JOIN, regex=False)
