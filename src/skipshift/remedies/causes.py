"""Causes of a shift that are mistakes, not scanners: undone, the profile returns to its null."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from skipshift.networks.features import Features, collect
from skipshift.patching.labelled import Labelled
from skipshift.profile.profiling import profile_features
from skipshift.remedies.input_remedies import AXES, MISTAKES, RANGES, SPACINGS
from skipshift.remedies.setting import Setting
from skipshift.specs import ProfileSpec
from skipshift.statistics.layer_tests import is_clear

NONE = "none"

CAUSES: Mapping[str, str] = {
    "flip-horizontal": "flip",
    "flip-vertical": "flip",
    "transpose-180": "flip",
    "turn-90": "turn",
    "turn-180": "turn",
    "turn-270": "turn",
    "transpose": "axis order",
    **dict.fromkeys(AXES, "axis order"),
    "reverse-channels": "channel order",
    "invert": "inversion",
    **dict.fromkeys(RANGES, "range"),
    "imagenet": "normalisation",
    "undo-imagenet": "normalisation",
    **dict.fromkeys(SPACINGS, "spacing"),
}
"""What undoes a mistake -> the name of the mistake."""

REST = 0.1
"""Part of the squared excess that may be left of a mistake that was undone."""

_QUICK = ProfileSpec(permutation_draws=199, null_draws=60)


@dataclass(frozen=True)
class Cause:
    """What made the shift, as far as the profile tells."""

    name: str
    """`NONE` if no mistake that was undone brings the profile back to its null."""

    undone_by: str
    """Remedy of the input that undoes it, or empty."""

    table: pd.DataFrame
    """``remedy, cause, clear, left``, best first: layers that are clear of their null once a
    mistake is undone, and the part of the squared excess that is left, over all layers."""


def find_cause(setting: Setting) -> Cause:
    """Undo each mistake that images like these can have, and profile what is left.

    A mistake is the cause if the profile was clear of its null, no layer is once it is undone, and
    at most a tenth of the squared excess is left: of those, the one that leaves least.
    """
    assert setting.home is not None
    reference = _features(setting, setting.home.data, nn.Identity())
    plain = _profile(setting, reference, nn.Identity())
    before = _squares(plain)
    rows = []
    if is_clear(plain).any() and before > 0:
        for name, change in _undone(setting):
            left = _profile(setting, reference, change)
            rows.append((name, CAUSES[name], int(is_clear(left).sum()), _squares(left) / before))
    table = pd.DataFrame(rows, columns=["remedy", "cause", "clear", "left"])
    table = table.sort_values("left", kind="stable").reset_index(drop=True)
    found = table[(table["clear"] == 0) & (table["left"] <= REST)]
    if found.empty:
        return Cause(NONE, "", table)
    return Cause(str(found["cause"].iloc[0]), str(found["remedy"].iloc[0]), table)


def _undone(setting: Setting) -> Iterator[tuple[str, nn.Module]]:
    for name, make in MISTAKES.items():
        change = make(setting)
        if change is not None:
            yield name, change


@dataclass(frozen=True)
class _Mapped:
    """Images of a set, each batch mapped."""

    data: Labelled
    change: nn.Module
    size: int

    def __iter__(self) -> Iterator[Tensor]:
        for images, _, _ in self.data.batches(self.size):
            scale = 255 if images.dtype == torch.uint8 else 1
            yield self.change(images.float() / scale)


def _features(setting: Setting, data: Labelled, change: nn.Module) -> Features:
    mapped = _Mapped(data, change, setting.spec.batch_size)
    return collect(setting.net, mapped, pooling=_QUICK.pooling)[_QUICK.pooling[0]]


def _profile(setting: Setting, reference: Features, change: nn.Module) -> pd.DataFrame:
    shifted = _features(setting, setting.shifted.data, change)
    pooling = _QUICK.pooling[0]
    assert setting.home is not None
    groups = (setting.home.data.groups, setting.shifted.data.groups)
    sets = ({pooling: reference}, {pooling: shifted})
    return profile_features(sets, groups, replace(_QUICK, seed=setting.spec.seed)).of()


def _squares(layers: pd.DataFrame) -> float:
    """Sum over layers of the squared excess, with its sign, so that noise adds up to nothing."""
    excess = layers["excess"].to_numpy()
    return float(np.nansum(np.sign(excess) * excess**2))
