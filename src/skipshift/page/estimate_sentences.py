"""Sentences about an estimated IoU: what it is for each class, or why it cannot be said."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.statistics.estimates import LEAST_GROUPS, WIDEST

Reason = Literal["", "absent", "groups", "unlike", "wide"]
"""Why a class is not answered; empty where it is."""

ANSWERED = "answered"
"""Stands for the empty reason in tables."""

WHY = {
    "absent": "no mask of the reference has it",
    "groups": f"fewer than {LEAST_GROUPS} groups of the reference have it",
    "unlike": "the images are like no calibration shift of the reference",
    "wide": f"its interval would be wider than {WIDEST:g}",
}


def estimate_verdict(
    table: pd.DataFrame, reasons: Sequence[Reason], home: npt.NDArray[np.float64]
) -> str:
    """Say what the IoU of each class is, or why that cannot be said; background is left out."""
    rows = zip(table.itertuples(index=False), reasons, home, strict=True)
    return " ".join(_of_class(row, reason, own) for row, reason, own in [*rows][1:])


def _of_class(row: object, reason: Reason, home: float) -> str:
    name, value, low, high = row[:4]  # type: ignore[index]
    if reason:
        return f"The IoU of {name} cannot be said: {WHY[reason]}."
    return (
        f"The IoU of {name} is estimated at {value:.2f} (95 % interval {low:.2f} to {high:.2f}); "
        f"on the reference it is {home:.2f}."
    )
