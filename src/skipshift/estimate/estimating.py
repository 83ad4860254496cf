"""IoU of images without masks: estimated from confidence, corrected by calibration shifts."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor, nn

from skipshift.errors import ArgumentError
from skipshift.estimate.calibration_shifts import KINDS, calibration_shifts
from skipshift.estimate.measuring import Measured, Peer, find_peer, last_layer, measure
from skipshift.estimate.settings import BEST, EstimateSpec
from skipshift.names import AGREEMENT, ORIGINAL
from skipshift.networks.addresses import unwrap
from skipshift.networks.as_found import evaluating
from skipshift.networks.changes import Change
from skipshift.networks.features import Groups, Images, as_input, input_like
from skipshift.networks.outputs import Output, find_output, giving_logits
from skipshift.page.estimate_sentences import Reason, estimate_verdict
from skipshift.patching.labelled import (
    NAMES,
    Labelled,
    Masks,
    are_pair,
    check_indices,
    labelled,
    subset,
)
from skipshift.profile.layerwise import compare, draw
from skipshift.progress import Progress, silent
from skipshift.specs import ProfileSpec
from skipshift.statistics.confidence import Confidence, stacked, true_counts
from skipshift.statistics.corrected import Correction, Known, correction
from skipshift.statistics.counts import iou
from skipshift.statistics.estimates import LEAST_GROUPS, METHODS, WIDEST

_QUICK = ProfileSpec(permutation_draws=0)

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """What is known of a network's IoU on images without masks."""

    table: pd.DataFrame
    """One row per class, background too: ``class, iou, low, high, method, answered``. ``iou`` is
    that of all pixels of the set together, ``low`` and ``high`` its 95 % interval; all three are
    NaN where ``answered`` is false. ``method`` is the estimate that was corrected."""

    reasons: tuple[Reason, ...]
    """Why a class is not answered, for each class."""

    home: Array = field(repr=False)
    """(C,): IoU on the reference."""

    distance: float
    """Excess of the shifted set in the network's last layer."""

    shifts: int
    """Kinds of calibration shift that were tried."""

    def verdict(self) -> str:
        """Say for each class of the foreground what its IoU is, or why that cannot be said."""
        return estimate_verdict(self.table, self.reasons, self.home)

    def rows(self) -> list[dict[str, Any]]:
        """List the rows of the table, with None for what is not known."""
        return [
            {str(name): None if value != value else value for name, value in row.items()}
            for row in self.table.to_dict("records")
        ]

    def record(self) -> dict[str, Any]:
        """Collect what ``estimate.json`` holds."""
        return {
            "verdict": self.verdict(),
            "reasons": list(self.reasons),
            "reference_iou": [None if np.isnan(value) else float(value) for value in self.home],
            "excess": None if np.isnan(self.distance) else self.distance,
            "calibration_shifts": self.shifts,
        }

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.verdict())}</p>{self.table.round(3).to_html(index=False)}"


def estimate(
    net: nn.Module,
    reference: Images,
    masks: Masks,
    shifted: Images,
    groups: Groups | tuple[Groups | None, Groups | None] | None = None,
    spec: EstimateSpec | None = None,
    peers: Sequence[nn.Module] = (),
) -> Estimate:
    """Estimate the IoU of a network on images without masks, with an interval, or not at all.

    A method reads the IoU off the network's confidence. Confidence is misleading under shift, so
    its error is measured on the reference under some 70 known shifts (`calibration_shifts`), and
    predicted for the new images from what they have in common with those: how far the features of
    the last layer lie from the reference's, how much of the image is predicted to be of the class,
    and the confidence itself. A set that is like none of them is not answered, nor is a class whose
    interval is wider than 0.7, that fewer than 6 groups of the reference have, or that none has.

    Parameters
    ----------
    net
        Any network that returns logits (N, classes, H, W), or probabilities; it is run in
        evaluation mode and left as it was.
    reference, shifted
        Arrays (N, C, H, W), of volumes (N, C, D, H, W), or loaders that can be iterated more than
        once; uint8 is divided by 255, floats are used as they are.
    masks
        (N, H, W) uint8 class indices of the reference.
    groups
        Label of each reference image's group, or a pair of such sequences, of the reference and of
        the shifted images; by default each image is a group of its own.
    peers
        Other networks of the same classes and input, such as other trainings: then their agreement
        with the network is a method, too. Each takes as long as the network itself.

    Returns
    -------
    `Estimate`. `ArgumentError` names the argument at fault.
    """
    spec = spec or EstimateSpec()
    return estimated(net, (reference, shifted), masks, groups, spec, peers=peers)


def estimated(
    net: nn.Module,
    images: tuple[Images, Images],
    masks: Masks | None,
    groups: Groups | tuple[Groups | None, Groups | None] | None,
    spec: EstimateSpec,
    names: tuple[str, ...] = (),
    progress: Progress = silent,
    peers: Sequence[nn.Module] = (),
) -> Estimate:
    """Do what `estimate` does, with names of the classes, and show progress.

    `ArgumentError` as there.
    """
    net, *others = map(unwrap, (net, *peers))
    home, away = labelled_sets(images, masks, groups, spec.ignore)
    with ExitStack() as stack:
        for one in (net, *others):
            stack.enter_context(evaluating(one))
        calibration = calibrate(net, home, spec, progress, others)
        seen = calibration.measured(away)
    return calibration.estimate(seen, names)


def labelled_sets(
    images: tuple[Images, Images],
    masks: Masks | None,
    groups: Groups | tuple[Groups | None, Groups | None] | None,
    ignore: int | None,
) -> tuple[Labelled, Labelled]:
    """Join images, masks of the reference, and groups.

    `ArgumentError` if they do not fit, or there are no masks of the reference, or they are 0 and
    255.
    """
    if masks is None:
        raise ArgumentError(
            "masks must be those of the reference: without them nothing tells confidence from "
            "accuracy"
        )
    labels: Any = groups if are_pair(groups) else (groups, None)
    home, away = (
        labelled(name, *each, False)
        for name, each in zip(NAMES, zip(images, (masks, None), labels, strict=True), strict=True)
    )
    check_indices(home, ignore)
    return home, away


class Meta(NamedTuple):
    """Half of the reference under a calibration shift, to be estimated from the other half."""

    kind: str
    family: str
    home: int
    """Which half of which split is the reference."""

    confidence: Confidence
    """That of the half under the shift, its groups together."""

    distance: float
    """Excess in the last layer between the halves."""


class _Looks(NamedTuple):
    """What sets look like without their masks."""

    values: Array
    """(M, C): IoU by a method, not corrected."""

    traits: Array
    """(M, C, 3): distance, change of the predicted share, and distance of the estimate from 1."""


@dataclass(frozen=True)
class Calibration:
    """A network's confidence on the reference, and how it misleads under calibration shifts."""

    net: nn.Module
    layers: dict[str, str]
    output: Output
    reference: Measured
    homes: Confidence
    """(2 * splits, ...): that of halves without a shift, the groups of each together."""

    metas: tuple[Meta, ...]
    spec: EstimateSpec
    peers: Sequence[Peer] = ()

    def without(self, family: str) -> "Calibration":
        """Leave out the calibration shifts of a family."""
        return replace(self, metas=tuple(m for m in self.metas if m.family != family))

    def measured(self, data: Labelled, change: Change | None = None) -> Measured:
        """Pass over a set, with the network changed if a change is given."""
        with giving_logits(self.net, self.output):
            return measure(
                self.net, data, self.layers, self.spec.batch_size, peers=self.peers, change=change
            )

    def estimate(self, seen: Measured, names: tuple[str, ...] = ()) -> Estimate:
        """Estimate the IoU on a set without masks.

        `ArgumentError` if there are more or fewer names than classes.
        """
        home = self.reference.confidence.counts
        classes = home.shape[1]
        if names and len(names) != classes:
            raise ArgumentError(f"classes must be {classes} names, got {len(names)}")
        distance = excess(self.reference, seen)
        new = Meta("", "", 0, seen.confidence.total(), distance)
        rows, reasons = [], []
        for own in range(classes):
            value, reason = self._of_class(own, new)
            rows.append((names[own] if names else f"class {own}", *value, not reason))
            reasons.append(reason)
        columns = ["class", "iou", "low", "high", "method", "answered"]
        return Estimate(
            pd.DataFrame(rows, columns=columns),
            tuple(reasons),
            iou(true_counts(home.sum(0))),
            distance,
            len({meta.kind for meta in self.metas} - {ORIGINAL}),
        )

    def _of_class(self, own: int, new: Meta) -> tuple[tuple[float, float, float, str], Reason]:
        nothing = (np.nan, np.nan, np.nan)
        home = self.reference.confidence
        groups = int(home.counts[:, own, :, 1].any((-1, -2)).sum())
        if groups < LEAST_GROUPS:
            return (*nothing, self.spec.method), "groups" if groups else "absent"
        if own not in self.corrections:  # never in one half of the groups and seen in the other
            return (*nothing, self.spec.method), "wide"
        method, correct = self.corrections[own]
        looks = _looks(method, stacked([home.total()]), [new])
        value, traits = looks.values[0, own], looks.traits[:, own]
        if not np.isfinite(traits).all():
            return (*nothing, method), "unlike"
        error, half, alike = (part[0] for part in correct(traits))
        if not alike:
            return (*nothing, method), "unlike"
        low, high = np.clip([value - error - half, value - error + half], 0, 1)
        if not high - low <= WIDEST:
            return (*nothing, method), "wide"
        return (float(np.clip(value - error, 0, 1)), float(low), float(high), method), ""

    @cached_property
    def corrections(self) -> dict[int, tuple[str, Correction]]:
        """Class -> the method that is best on left-out families, and its correction."""
        every = [method for method in METHODS if method != AGREEMENT or self.peers]
        methods = every if self.spec.method == BEST else [self.spec.method]
        looks = {method: _looks(method, self.homes, self.metas) for method in methods}
        truth = iou(true_counts(stacked([meta.confidence for meta in self.metas]).counts))
        found = {}
        for own in range(truth.shape[1]):
            known = {method: self._known(own, looks[method], truth) for method in methods}
            each = [(method, correction(one)) for method, one in known.items()
                    if len(np.unique(one.families)) > 1]  # fmt: skip
            if each:
                found[own] = min(each, key=lambda pair: pair[1].loss)
        return found

    def _known(self, own: int, looks: _Looks, truth: Array) -> Known:
        there = np.array([self.homes.counts[m.home, own, :, 1].any() for m in self.metas])
        kept = there & np.isfinite(truth[:, own]) & np.isfinite(looks.traits[:, own]).all(-1)
        kinds, families = (
            np.array([getattr(meta, name) for meta in self.metas])[kept]
            for name in ("kind", "family")
        )
        return Known(looks.traits[kept, own], (looks.values - truth)[kept, own], kinds, families)


def calibrate(
    net: nn.Module,
    home: Labelled,
    spec: EstimateSpec,
    progress: Progress = silent,
    peers: Sequence[nn.Module] = (),
) -> Calibration:
    """Measure the reference as it is and under all calibration shifts.

    The networks are in evaluation mode. `ArgumentError` as for `estimate`.
    """
    if spec.method == AGREEMENT and not peers:
        raise ArgumentError("method agreement needs peers: other networks of the same classes")
    output, example = prepared(net, home, spec)
    own = Peer(net, output)
    others = [find_peer(own, one, number, example, spec) for number, one in enumerate(peers)]
    layers = last_layer(net, example)
    part = _part(home, spec)
    few = subset(home, part)
    with giving_logits(net, output):
        whole = measure(net, home, layers, spec.batch_size, spec.ignore, peers=others)
        plain = measure(net, few, layers, spec.batch_size, spec.ignore, peers=others)
        halves = _halves(len(plain.names), spec) if len(plain.names) >= LEAST_GROUPS else []
        metas = [*_seen(halves, plain, plain, ORIGINAL, ORIGINAL)]
        shifts = calibration_shifts(whole.low, whole.high, whole.channels)
        for shift in progress(shifts if halves else [], "calibration shifts"):
            seen = measure(net, few, layers, spec.batch_size, spec.ignore, shift, others)
            metas += _seen(halves, plain, seen, shift.name, KINDS[shift.name].family)
    homes = [plain.confidence.of(one).total() for one, _ in halves] or [plain.confidence.total()]
    return Calibration(net, layers, output, whole, stacked(homes), tuple(metas), spec, others)


def prepared(net: nn.Module, home: Labelled, spec: EstimateSpec) -> tuple[Output, Tensor]:
    """Find a network's logits on the first images of the reference, and return these."""
    assert home.masks is not None
    images, _, _ = next(home.batches(spec.batch_size))
    example = as_input(images, input_like(net))
    kept = home.masks if spec.ignore is None else home.masks[home.masks != spec.ignore]
    classes = max(2, int(kept.max(initial=0)) + 1)
    return find_output(net, example, classes, spec.output, spec.activation), example


def excess(reference: Measured, shifted: Measured) -> float:
    """Excess of the Hellinger distance in the last layer; NaN where it has no null."""
    sides = [reference.names[reference.groups], shifted.names[shifted.groups]]
    name = next(iter(reference.features))
    found = compare(
        [reference.features[name]], [shifted.features[name]], draw((sides[0], sides[1]), _QUICK),
        _QUICK,
    )["hellinger"].excess  # fmt: skip
    return np.nan if found is None else found.value


def _part(home: Labelled, spec: EstimateSpec) -> npt.NDArray[np.bool_]:
    """Draw whole groups until they have the images that are to be given shifts.

    Beyond that number those are taken too that have a class which too few have so far.
    """
    assert home.masks is not None
    order = np.random.default_rng((spec.seed, 0)).permutation(np.unique(home.groups))
    taken, having = np.zeros(len(home.groups), bool), np.zeros(256, int)
    for name in order:
        own = home.groups == name
        classes = np.unique(home.masks[own])
        if (having[classes] < LEAST_GROUPS).any() or taken.sum() + own.sum() <= spec.images:
            taken |= own
            having[classes] += 1
    return taken


_Halves = list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
"""Groups of one half and of the other, each half of each split first once."""


def _halves(groups: int, spec: EstimateSpec) -> _Halves:
    found: _Halves = []
    for split in range(spec.splits):
        order = np.random.default_rng((spec.seed, 1, split)).permutation(groups)
        one, other = np.sort(order[: groups // 2]), np.sort(order[groups // 2 :])
        found += [(one, other), (other, one)]
    return found


def _seen(
    halves: _Halves, plain: Measured, shifted: Measured, kind: str, family: str
) -> Iterator[Meta]:
    """See the second half under a shift from the first without it."""
    for index, (home, away) in enumerate(halves):
        one, other = _of_groups(plain, home), _of_groups(shifted, away)
        yield Meta(kind, family, index, other.confidence.total(), excess(one, other))


def _of_groups(data: Measured, groups: npt.NDArray[np.int64]) -> Measured:
    own = np.isin(data.groups, groups)
    return Measured(
        data.confidence.of(groups),
        {name: part[own] for name, part in data.features.items()},
        np.searchsorted(groups, data.groups[own]),
        data.names[groups],
        data.low,
        data.high,
        data.channels,
    )


_RARE = 1e-3
"""Shares and errors far below this one count as equal."""


def _looks(method: str, homes: Confidence, metas: Sequence[Meta]) -> _Looks:
    """Estimate sets by a method that is fitted on the half that each is seen from."""
    seen = stacked([meta.confidence for meta in metas])
    seen_from = np.array([meta.home for meta in metas])
    values = np.zeros(seen.counts.shape[:2])
    for index in range(len(homes.counts)):
        own = seen_from == index
        values[own] = np.nan_to_num(METHODS[method](homes.of(index))(seen.of(own)))
    shares, before = (
        part[:, :, 1].sum((-1, -2)) / part.sum((-1, -2, -3)) for part in (seen.counts, homes.counts)
    )
    change = np.log((shares + _RARE) / (before[seen_from] + _RARE))
    distance = np.broadcast_to(np.array([m.distance for m in metas])[:, None], values.shape)
    return _Looks(values, np.stack([distance, change, np.log(1 + _RARE - values)], -1))
