"""Domains that differ from training as a bug would make them, and a scanner would not."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.data.checks.alignment import judge_alignment, measure_alignment
from skipshift.data.checks.channel_order import judge_channel_order, measure_red_blue
from skipshift.data.checks.findings import Finding, finding_at
from skipshift.data.checks.group_tests import Numbers, group_means
from skipshift.data.checks.magnification import (
    judge_object_size,
    judge_spacing,
    measure_object_size,
)
from skipshift.data.checks.orientation import judge_orientation, measure_orientation
from skipshift.data.checks.padding import PADDED, measure_padding
from skipshift.data.checks.thumbnails import to_grey
from skipshift.data.checks.value_range import judge_depth, judge_range, measure_levels

Judge = Callable[[Numbers, Numbers], str | None]
"""Group means (G, ...) of training and (G', ...) of a domain -> what differs, or None."""


@dataclass(frozen=True)
class Detector:
    """Compares one measurement of a domain with that of training."""

    what: str
    measurement: str
    judge: Judge
    way_out: str


DETECTORS = (
    Detector(
        "value range", "levels", judge_range, "rescale both alike, unless the scanner is the cause"
    ),
    Detector("bit depth", "levels", judge_depth, "convert the files from the originals again"),
    Detector("channel order", "red_blue", judge_channel_order, "write the channels as RGB"),
    Detector(
        "orientation", "orientation", judge_orientation, "reorient images and masks consistently"
    ),
    Detector("spacing", "spacing", judge_spacing, "resample to one spacing, or know why not"),
    Detector("object size", "object_size", judge_object_size, "compare the magnifications"),
)
"""Comparisons with training, in the order of the findings."""


def measure_case(image: npt.NDArray[Any], mask: npt.NDArray[np.uint8]) -> dict[str, Numbers]:
    """Measure an image (H, W, C), uint8 or uint16, and its mask (H, W) for every detector."""
    grey = to_grey(image)
    return {
        "levels": measure_levels(image),
        "padding": np.array(measure_padding(image)),
        "red_blue": measure_red_blue(image),
        "orientation": measure_orientation(grey),
        "object_size": np.array(measure_object_size(mask)),
        "alignment": measure_alignment(grey, mask),
    }


def judge_domains(cases: pd.DataFrame, measurements: Mapping[str, Numbers]) -> list[Finding]:
    """Find the domains that look wrong.

    Parameters
    ----------
    cases
        (N) rows with ``case, domain, group, split``.
    measurements
        (N, ...) of each name in `measure_case`, and ``spacing`` (N,), NaN where unknown.

    Returns
    -------
    Warnings. The training cases and the test cases of each domain are compared with all other
    training cases; alignment and padding are judged within the domain.
    """
    findings: dict[tuple[str, str], Finding] = {}
    for domain, part, reference in _parts(cases):
        for detector in DETECTORS:
            values = measurements[detector.measurement]
            sides = [group_means(values[rows], cases["group"][rows]) for rows in (reference, part)]
            evidence = detector.judge(*sides)
            if evidence:
                what = f"{detector.what} of domain {domain!r}: {evidence}"
                (finding,) = finding_at("warning", what, cases["case"][part], detector.way_out)
                findings.setdefault((detector.what, domain), finding)
    misaligned = _misaligned(cases, measurements["alignment"])
    return [*findings.values(), *misaligned, *_padded(cases, measurements["padding"])]


def _parts(
    cases: pd.DataFrame,
) -> Iterator[tuple[str, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    """Pair the training or test cases of each domain with the training cases to compare."""
    train = (cases["split"] == "train").to_numpy()
    for (domain, split), _ in cases.groupby(["domain", "split"], sort=False):
        part = ((cases["domain"] == domain) & (cases["split"] == split)).to_numpy()
        if (train & ~part).any():
            yield str(domain), part, train & ~part


def _misaligned(cases: pd.DataFrame, alignment: Numbers) -> Iterator[Finding]:
    for domain, rows in cases.groupby("domain", sort=False):
        evidence = judge_alignment(group_means(alignment[cases["domain"] == domain], rows["group"]))
        if evidence:
            what = f"masks of domain {domain!r}: {evidence}"
            yield from finding_at("warning", what, rows["case"], "overlay a few masks on images")


def _padded(cases: pd.DataFrame, padding: Numbers) -> Iterator[Finding]:
    for domain, rows in cases.groupby("domain", sort=False):
        fractions = padding[cases["domain"] == domain]
        padded = fractions >= PADDED
        what = (
            f"padding in domain {domain!r}: {padded.sum()} of {len(rows)} images have constant "
            f"borders of up to {fractions.max():.0%} of the area"
        )
        yield from finding_at("warning", what, rows["case"][padded], "crop the borders")
