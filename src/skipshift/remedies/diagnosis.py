"""Diagnosis of a shift: cause, layer, loss, and remedy, from one network and two sets of images."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from skipshift.errors import ArgumentError
from skipshift.estimate.estimating import Estimate, calibrate
from skipshift.estimate.settings import EstimateSpec
from skipshift.networks.as_found import evaluating
from skipshift.networks.features import Images
from skipshift.page.diagnosis_page import Diagnosed
from skipshift.page.diagnosis_sentences import diagnosis_verdict
from skipshift.page.remedy_sentences import Facts
from skipshift.page.u_drawing import Link
from skipshift.patching.carry import carry
from skipshift.patching.labelled import Labelled
from skipshift.patching.paths import links_of, paths_of
from skipshift.profile.profile import Profile
from skipshift.profile.profiling import profile_shift
from skipshift.remedies.causes import Cause, find_cause
from skipshift.remedies.examples import cases_to_show
from skipshift.remedies.remedy import GroupsOfBoth, MasksOfBoth, remedy
from skipshift.remedies.result import Remedies
from skipshift.specs import CarrySpec, RemedySpec
from skipshift.statistics.layer_tests import is_clear


@dataclass(frozen=True)
class Diagnosis:
    """What is known of a shift inside one network."""

    cause: str
    """A mistake in reading or preprocessing that made the shift, or ``none``."""

    profile: Profile

    carry: pd.DataFrame | None
    """Activation patching; None unless the sets are paired and have masks."""

    remedies: Remedies

    causes: Cause = field(repr=False)
    """What was left beside a reference with each mistake."""

    estimate: Estimate | None = None
    """IoU estimated from confidence; None unless only the reference has masks."""

    mended: Estimate | None = None
    """The same with the recommended remedy, seen as one more set of images by the network that was
    calibrated; None where none is recommended."""

    @property
    def layer(self) -> str | None:
        """Layer of the largest excess among those clear of their noise floor; None if none is."""
        rows = self.profile.of()
        clear = rows[is_clear(rows)]
        return None if clear.empty else str(clear["layer"].iloc[int(clear["excess"].argmax())])

    @property
    def lost(self) -> float:
        """IoU on the reference minus that on the shifted set; NaN without masks of both."""
        return self.remedies.facts.in_domain - self.remedies.facts.iou

    def verdict(self) -> str:
        """Say in a few sentences what the cause is, where it enters, what it costs, what to do."""
        return diagnosis_verdict(*self._known())

    def found(self) -> Diagnosed:
        """Collect what the page shows."""
        return Diagnosed(
            *self._known(),
            self.causes.table,
            [Link(*link) for link in links_of(self.remedies.setting.net)],
            cases_to_show(self.remedies),
        )

    def _known(
        self,
    ) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame, Facts, str, bool, str]:
        table, facts = self.remedies.table, self.remedies.facts
        estimate = "" if self.estimate is None else self.estimate.verdict()
        if self.mended is not None:
            told = self.mended.verdict()
            estimate += f" With the recommended remedy in place, {told[0].lower()}{told[1:]}"
        return self.profile.of(), self.carry, table, facts, self.cause, self.causes.clear, estimate

    def record(self) -> dict[str, Any]:
        """Collect what ``diagnosis.json`` holds."""
        best = self.remedies.best
        gain = self.remedies.facts.chosen[1]
        return {
            "cause": self.cause,
            "layer": self.layer,
            "lost": None if np.isnan(self.lost) else self.lost,
            "remedy": None if best is None else best.remedy,
            "place": None if best is None else best.place,
            "gain": None if best is None or np.isnan(gain) else gain,
            "estimate": None if self.estimate is None else self.estimate.rows(),
            "mended_estimate": None if self.mended is None else self.mended.rows(),
            "verdict": self.verdict(),
        }

    def _repr_html_(self) -> str:
        from skipshift.page.diagnosis_page import diagnosis_findings
        from skipshift.page.findings import findings_body

        return findings_body(diagnosis_findings(self.found()))


def diagnose(
    net: nn.Module,
    reference: Images,
    shifted: Images,
    masks: MasksOfBoth = None,
    groups: GroupsOfBoth = None,
    spec: RemedySpec | None = None,
) -> Diagnosis:
    """Tell where a shift enters a network, whether it is a mistake, what it costs, what to do.

    Profile, activation patching (paired sets with masks), remedies, and an estimate of the IoU
    where only the reference has masks, in one go; the arguments are those of `skipshift.remedy`.
    `ArgumentError` names the argument at fault.
    """
    return examine(remedy(net, reference, shifted, masks, groups, spec))


def examine(remedies: Remedies) -> Diagnosis:
    """Add to remedies that were found what else a diagnosis tells.

    `ArgumentError` if they were found without images of the reference.
    """
    setting = remedies.setting
    if setting.home is None:
        raise ArgumentError("a diagnosis needs images of the reference, not its fingerprint")
    net, spec, home, away = setting.net, setting.spec, setting.home.data, setting.shifted.data
    with evaluating(net):
        profile = profile_shift(net, home.images, away.images, None, (home.groups, away.groups))
        causes = find_cause(setting)
    carried = None
    if spec.paired and home.masks is not None and away.masks is not None:
        carried = _carried(net, home, away, spec)
    before, after = None, None
    if home.masks is not None and away.masks is None:
        before, after = _estimates(remedies, home, away)
    return Diagnosis(causes.name, profile, carried, remedies, causes, before, after)


def _estimates(
    remedies: Remedies, home: Labelled, away: Labelled
) -> tuple[Estimate, Estimate | None]:
    """Estimate the IoU of the network as it is, and with the recommended remedy if there is one."""
    net, spec, best = remedies.setting.net, remedies.setting.spec, remedies.best
    settings = EstimateSpec(
        ignore=spec.ignore, output=spec.output, activation=spec.activation,
        batch_size=spec.batch_size, seed=spec.seed,
    )  # fmt: skip
    change, classes = None if best is None else remedies.change(*best), remedies.setting.classes
    with evaluating(net):
        calibration = calibrate(net, home, settings)
        before = calibration.estimate(calibration.measured(away), classes)
        if change is None:
            return before, None
        return before, calibration.estimate(calibration.measured(away, change), classes)


def _carried(
    net: nn.Module, home: Labelled, away: Labelled, spec: RemedySpec
) -> pd.DataFrame | None:
    """Patch the skips of a network; None where it is not known which tensors its decoder reads."""
    try:
        paths_of(net)
    except ArgumentError:
        return None
    assert home.masks is not None
    assert away.masks is not None
    return carry(
        net,
        home.images,
        away.images,
        (home.masks, away.masks),
        (home.groups, away.groups),
        CarrySpec(precision="fp32", batch_size=spec.batch_size),
    )
