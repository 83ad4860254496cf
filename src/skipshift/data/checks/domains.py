"""Whether a domain differs from the training in a way that looks like a bug and no scanner."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.data.checks.alignment import judge_fit, measure_fit
from skipshift.data.checks.channel_order import judge_tint, measure_tint
from skipshift.data.checks.findings import Finding, found
from skipshift.data.checks.orientation import (
    judge_pose,
    judge_size,
    judge_spacing,
    measure_pose,
    measure_size,
)
from skipshift.data.checks.thumbnails import to_grey
from skipshift.data.checks.value_range import (
    judge_depth,
    judge_range,
    measure_levels,
    measure_padding,
)

Numbers = npt.NDArray[np.float64]
Judge = Callable[[Numbers, Numbers], str | None]

PADDED = 0.02
"""Share of an image's area in constant borders that is told."""


@dataclass(frozen=True)
class Detector:
    """Compares a trait's means over groups, (G, ...) in training with (G', ...) in a domain."""

    what: str
    trait: str
    judge: Judge
    way_out: str


DETECTORS = (
    Detector("value range", "levels", judge_range, "rescale both alike, unless the scanner is so"),
    Detector("bit depth", "levels", judge_depth, "convert again from the originals"),
    Detector("channel order", "tint", judge_tint, "write the channels as RGB"),
    Detector("orientation", "pose", judge_pose, "bring images and masks into one orientation"),
    Detector("spacing", "spacing", judge_spacing, "resample to one spacing, or know why not"),
    Detector("object size", "size", judge_size, "see if the magnification is the same"),
)
"""What is compared with training, in this order."""


def measure_case(image: npt.NDArray[Any], mask: npt.NDArray[np.uint8]) -> dict[str, Numbers]:
    """Measure every trait of an image (H, W, C), uint8 or uint16, and its mask (H, W)."""
    grey = to_grey(image)
    return {
        "levels": measure_levels(image),
        "padding": np.array(measure_padding(image)),
        "tint": measure_tint(image),
        "pose": measure_pose(grey),
        "size": np.array(measure_size(mask)),
        "fit": measure_fit(grey, mask),
    }


def judge_domains(cases: pd.DataFrame, traits: Mapping[str, Numbers]) -> list[Finding]:
    """Find the domains that look wrong.

    Parameters
    ----------
    cases
        (N) rows with ``case, domain, group, split``.
    traits
        (N, ...) of each trait of `measure_case`, and ``spacing`` (N,), NaN where it is not known.

    Returns
    -------
    Warnings. Each part of the cases, a domain's training or test cases, is compared with all
    training cases but itself; masks and padding are judged by themselves.
    """
    findings: dict[tuple[str, str], Finding] = {}
    for domain, part, reference in _parts(cases):
        for detector in DETECTORS:
            values = traits[detector.trait]
            sides = [by_group(values[rows], cases["group"][rows]) for rows in (reference, part)]
            evidence = detector.judge(*sides)
            if evidence:
                what = f"{detector.what} of domain {domain!r}: {evidence}"
                (finding,) = found("warning", what, cases["case"][part], detector.way_out)
                findings.setdefault((detector.what, domain), finding)
    return [*findings.values(), *_misfits(cases, traits["fit"]), *_padded(cases, traits["padding"])]


def by_group(values: Numbers, groups: pd.Series) -> Numbers:
    """Mean of (N, ...) over each of G groups, (G, ...); NaN is left out."""
    flat = pd.DataFrame(values.reshape(len(values), -1))
    means = flat.groupby(groups.to_numpy(), sort=False).mean().to_numpy()
    return np.asarray(means).reshape(len(means), *values.shape[1:])


def _parts(
    cases: pd.DataFrame,
) -> Iterator[tuple[str, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    """Each domain's training or test cases, and the training cases to compare them with."""
    train = (cases["split"] == "train").to_numpy()
    for (domain, split), _ in cases.groupby(["domain", "split"], sort=False):
        own = ((cases["domain"] == domain) & (cases["split"] == split)).to_numpy()
        if (train & ~own).any():
            yield str(domain), own, train & ~own


def _misfits(cases: pd.DataFrame, fit: Numbers) -> Iterator[Finding]:
    for domain, rows in cases.groupby("domain", sort=False):
        evidence = judge_fit(by_group(fit[cases["domain"] == domain], rows["group"]))
        if evidence:
            what = f"masks of domain {domain!r}: {evidence}"
            yield from found("warning", what, rows["case"], "lay a few masks on their images")


def _padded(cases: pd.DataFrame, padding: Numbers) -> Iterator[Finding]:
    for domain, rows in cases.groupby("domain", sort=False):
        shares = padding[cases["domain"] == domain]
        padded = shares >= PADDED
        what = (
            f"padding in domain {domain!r}: {padded.sum()} of {len(rows)} images have constant "
            f"borders of up to {shares.max():.0%} of the area"
        )
        yield from found("warning", what, rows["case"][padded], "crop the borders away")
