"""Sentences about remedies: which one is recommended, what it gains and costs, or why none is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from skipshift.page.wording import chance, counted
from skipshift.statistics.multiplicity import ALPHA


class Recommended(NamedTuple):
    """A remedy and its place."""

    remedy: str
    place: str

    def __str__(self) -> str:
        return f"{self.remedy}@{self.place}"


class Relabelled(NamedTuple):
    """What a remedy changes: 1 - IoU of the labels before and after, mean over the foreground."""

    shifted: float
    """On the shifted set."""

    unshifted: float
    """On the halves of the reference with most and with least foreground, each brought to the
    other."""


TIMES = 3
"""A remedy must relabel more than so many times as much of the shifted set as without a shift."""

LEAST_GROUPS = 6
"""Groups of the reference, of which the negative control takes half at a time."""

LOST, CUT, SHIFTED = "class lost", "skip cut", "still shifted"
CONTROL, UNEXPLAINED = "negative control", "mistake not found"
"""Why a remedy that clearly lowers the excess is passed over without masks: next to nothing of a
class is left on the shifted images or the reference; what a cut skip no longer tells cannot differ;
the excess that is left is clear; it relabels no more than `TIMES` times as much as without a shift,
or could not be fitted there; the mistake that it undoes does not explain the shift."""

_PASSED: Mapping[str, str] = {
    SHIFTED: "a shift is still clear",
    LOST: "next to nothing of a class is left there or on the reference",
    CUT: "a skip is cut",
    CONTROL: f"1/{TIMES} as much or more is relabelled without a shift, between two halves of the "
    "reference (negative control)",
    UNEXPLAINED: "the mistake that is undone does not explain the shift",
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the verdict needs beside the table; NaN where it is not known."""

    best: Recommended | None
    """None where nothing is recommended."""

    iou: float
    """IoU of the unmended network on the shifted images that are judged on."""

    in_domain: float
    """Its IoU on the reference."""

    constant: float
    """IoU of the best constant prediction on the shifted images."""

    chosen: tuple[float, float, float, float]
    """IoU, gain and its 95 % interval of choosing the best row, or none, on the other folds: what a
    choice among so many gives on images that it did not see."""

    layer: str
    """Layer in which the excess is measured; empty where none is known."""

    excess: float
    """Excess of the unmended network there."""

    p: float
    """Permutation test of that layer."""

    groups: int
    """Groups judged on."""

    known: int
    """Groups of the reference; 0 without its images."""

    images: int
    """Images judged on."""

    masks: bool
    """Whether the shifted set has masks: judged by IoU, else by the excess that is left."""

    margin: float
    """Largest gain of IoU that does not matter."""

    least_p: float
    """Least p_adjusted that these groups could give."""

    predicted: tuple[float, ...]
    """Share of each class among the unmended network's pixels on the shifted set."""

    expected: tuple[float, ...]
    """Likewise on the reference."""

    classes: tuple[str, ...] = ()
    """Names of the classes; empty if they are not known."""

    mended: tuple[float, ...] = ()
    """Likewise on the shifted set with the recommended remedy; empty where none is."""

    relabelled: Relabelled | None = None
    """Without masks: what the recommended remedy changes; None without images of the reference, or
    where it undoes a mistake."""


_MOST = 0.99
"""Share of the pixels beyond which a network is said to call everything one class."""

_APART = 1.5
"""Ratio of the foreground of two sets beyond which they may differ in what they hold."""

_DOES: Mapping[str, str] = {
    "adabn": "recompute the batch-norm statistics of {place} on unlabelled new images",
    "moments": "match mean and spread of each channel of {place} to the reference",
    "quantile": "match the distribution of each channel of {place} to the reference",
    "tent": "adapt the normalisation layers by entropy on unlabelled new images",
    "prune": "cut the skip {place}",
    "finetune": "train {place} on {labels} labelled new images",
    "scale": "train a scale and an offset of each channel of {place} on {labels} labelled images",
    "brightness": "multiply the images by one factor",
    "gamma": "bend the intensities by a power",
    "image-moments": "give each image the mean and spread of the reference",
    "image-histogram": "match the histogram of each image to the reference",
    "zscore": "standardise each image",
    "minmax": "rescale each image to [0, 1]",
    "flip-mean": "average the predictions over flips",
    "invert": "invert the images",
    "reverse-channels": "swap red and blue",
    "reinhard": "give each image the colours of the reference (Reinhard)",
    "macenko": "give each image the stain of the reference (Macenko)",
    "spacing": "resample the images to the spacing of the reference",
}


def remedies_verdict(table: pd.DataFrame, facts: Facts) -> str:
    """Say in a few sentences which remedy is recommended, or that none is, and why."""
    if facts.best is None:
        return " ".join([_none(table, facts), *_state(facts)])
    row = table[(table["remedy"] == facts.best.remedy) & (table["place"] == facts.best.place)].iloc[
        0
    ]
    what = does(row)
    numbers = counted(int(row["parameters"]), "number")
    first = f"{what[0].upper()}{what[1:]} ({facts.best}, {numbers})"
    if not facts.masks:
        return (
            f"{first}: the excess in {facts.layer} falls from {facts.excess:.3f} to "
            f"{row['excess_left']:.3f} [{row['excess_low']:.3f}, {row['excess_high']:.3f}]. The "
            f"shifted images have no masks: whether the segmentation is better is not known. "
            f"{_rivals(table, facts)}{_shares(facts)}{_cost(row, facts)}"
        )
    iou, gain, low, high = facts.chosen
    bounds = f" [{low:.3f}, {high:.3f}]" if low == low else ""
    return (
        f"{first}: IoU {facts.iou:.3f} -> {row['iou']:.3f} on images that it was not fitted on. "
        f"Choosing among {_tried(table)} on other images gives {iou:.3f}, a gain of {gain:.3f}"
        f"{bounds}.{_cost(row, facts)}{_without_a_shift(facts)}"
    )


def _rivals(table: pd.DataFrame, facts: Facts) -> str:
    """Say why this remedy and no other is recommended without masks."""
    assert facts.best is not None
    known = facts.relabelled is not None
    sound = "keep every class" + " and pass the negative control" * known
    if "+" in facts.best.remedy:
        said = f"this pair leaves clearly less than the single remedies that {sound}"
    else:
        least = "leave about the least excess" + ("," if known else " and")
        said = f"it is the smallest change of those that {least} {sound}"
    if facts.relabelled is None:
        alone = (
            "It is fitted on nothing, and undoes a mistake that explains the shift."
            if facts.known
            else "There is no negative control without images of the reference."
        )
        return f"Of {_tried(table)} {said}. {alone}"
    shifted, unshifted = facts.relabelled
    return (
        f"Of {_tried(table)} {said}: it relabels {shifted:.1%} of the foreground, and fitted "
        f"between two halves of the reference, where nothing is shifted, {unshifted:.1%}."
    )


def _shares(facts: Facts) -> str:
    """Say how much is predicted to be foreground, and whether the unmended network has failed."""
    sets = {"reference": facts.expected, "shifted images": facts.predicted}
    sets["with the remedy"] = facts.mended
    told = [f"{name} {1 - shares[0]:.1%}" for name, shares in sets.items() if len(shares)]
    said = f" Predicted foreground: {', '.join(told)}."
    if _failed(facts) is None:
        return said + _more_foreground(facts)
    return (
        f"{said} As it is it calls nearly all of the shifted images one class, and features do not "
        f"tell foreground from background: look at the images with the remedy before you use it."
    )


def _more_foreground(facts: Facts) -> str:
    """Warn where the sets may differ in what they hold, and not in the scanner."""
    if not facts.expected:
        return ""
    before, after = 1 - facts.expected[0], 1 - facts.predicted[0]
    if before <= _APART * after and after <= _APART * before:
        return ""
    return (
        " The sets differ in predicted foreground. If they do hold different amounts of it, that "
        "alone makes features differ, and the remedy may harm."
    )


def _failed(facts: Facts) -> int | None:
    """Class that nearly all pixels of the shifted set are called, if not those of the reference."""
    most = max(range(len(facts.predicted)), key=facts.predicted.__getitem__)
    known = facts.expected[most] if facts.expected else 0.0
    return most if facts.predicted[most] > _MOST and not known >= _MOST else None


def does(row: pd.Series) -> str:
    """Say what a remedy does, or a pair of them."""
    pair = zip(str(row["remedy"]).split("+"), str(row["place"]).split("+"), strict=True)
    return ", then ".join(_one_does(name, place, row["labels"]) for name, place in pair)


def _one_does(remedy: str, place: str, labels: int) -> str:
    known = _DOES.get(remedy, "change the input by {remedy}")
    where = f"the skip {place}" if place.startswith("L") else place
    return known.replace("the skip {place}", "{place}").format(
        place="the whole network" if place == "all" else where, labels=labels, remedy=remedy
    )


def _tried(table: pd.DataFrame) -> str:
    return counted(int((table["failed"] == "").sum()), "candidate")


def _cost(row: pd.Series, facts: Facts) -> str:
    if math.isnan(facts.in_domain):
        return _kept(row)
    ends = (
        f" [{row['harm_low']:.3f}, {row['harm_high']:.3f}]"
        if row["harm_low"] == row["harm_low"]
        else ""
    )
    return (
        f" In-domain {facts.in_domain:.3f} -> {row['in_domain']:.3f} (harm "
        f"{row['harm']:.3f}{ends}) if both domains share the change, unchanged if each has its "
        f"own."
    )


def _without_a_shift(facts: Facts) -> str:
    lost = facts.in_domain - facts.iou
    if not lost <= facts.margin:
        return ""
    return (
        f" The network loses {lost:.3f} IoU to the shift, no more than the margin: this would help "
        f"without a shift, too."
    )


def _kept(row: pd.Series) -> str:
    if row["unchanged"] != row["unchanged"]:
        return " What it costs on the reference is not known without its images."
    return (
        f" On the reference it relabels {row['relabelled_reference']:.1%} of the foreground "
        f"({row['unchanged']:.1%} of the pixels keep their label) if both domains share the change."
    )


def unjudged(layer: str, p: float, known: int) -> str:
    """Say why nothing can be recommended without masks, whatever it leaves; empty if it can.

    ``layer`` is where remedies would be judged, ``p`` that of its permutation test, ``known`` the
    groups of the reference, 0 without its images.
    """
    if not layer:
        return "no layer is known in which remedies could be judged"
    if not p < ALPHA:
        return f"no shift can be told in {layer}" + (f" (p {chance(p)})" if p == p else "")
    if 0 < known < LEAST_GROUPS:
        return (
            f"the negative control takes {LEAST_GROUPS} groups of the reference, which has {known}"
        )
    return ""


def _none(table: pd.DataFrame, facts: Facts) -> str:
    if not facts.masks and (why := unjudged(facts.layer, facts.p, facts.known)):
        return f"No remedy is recommended without masks of the shifted images: {why}."
    if not facts.masks:
        found = table["passed_over"].value_counts()
        reasons = [f"{why} ({found[one]})" for one, why in _PASSED.items() if one in found]
        over = f" but these, passed over: {'; '.join(reasons)}" if reasons else ""
        return (
            f"No remedy is recommended: none of {_tried(table)} clearly lowers the excess in "
            f"{facts.layer}, {facts.excess:.3f}{over}."
        )
    if facts.least_p >= ALPHA:
        return (
            f"No remedy is recommended: with {facts.groups} groups no gain can be told from chance "
            f"(p at least {facts.least_p:.3g}). The table shows what was measured."
        )
    return (
        f"No remedy is recommended: of {_tried(table)} none was found to help by more than the "
        f"margin of {facts.margin:g} IoU (from {facts.iou:.3f}; p < {ALPHA:g} for all together) "
        f"without losing a class."
    )


def _state(facts: Facts) -> list[str]:
    """Say what is odd about the unmended network's predictions."""
    said = []
    most = _failed(facts)
    if most is not None:
        named = facts.classes or ("background",)
        name = named[most] if most < len(named) else f"class {most}"
        said.append(f"The network calls {facts.predicted[most]:.1%} of the pixels {name}.")
    if facts.masks and facts.iou <= facts.constant:
        said.append(
            f"The network's IoU is not above that of calling every pixel one class, "
            f"{facts.constant:.3f}."
        )
    return said
