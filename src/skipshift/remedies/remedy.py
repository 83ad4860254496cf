"""Remedies of a shift: try changes at every place, judge them cross-fitted, recommend the best."""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from skipshift.errors import ArgumentError
from skipshift.names import shown
from skipshift.networks.addresses import unwrap
from skipshift.networks.as_found import evaluating
from skipshift.networks.changes import Change
from skipshift.networks.feature_store import FeatureStore
from skipshift.networks.features import Groups, Images, as_input, input_like
from skipshift.networks.outputs import Output, giving_logits
from skipshift.networks.weights import weights_hash
from skipshift.patching.carry import carry
from skipshift.patching.labelled import (
    NAMES,
    Labelled,
    Masks,
    are_pair,
    check_indices,
    labelled,
    output_of,
    subset,
)
from skipshift.profile.fingerprints import Fingerprint
from skipshift.progress import Progress, silent
from skipshift.remedies.attempts import Known, together, tried
from skipshift.remedies.feature_remedies import FEATURE_REMEDIES
from skipshift.remedies.gathering import Folded, folded, gather, gathered_of
from skipshift.remedies.input_remedies import INPUT_REMEDIES
from skipshift.remedies.judging import Judge
from skipshift.remedies.negative_control import NegativeControl
from skipshift.remedies.pairs import offered
from skipshift.remedies.places import ALL, INPUT, Place, places_of
from skipshift.remedies.ranking import Row, ranked
from skipshift.remedies.result import Remedies
from skipshift.remedies.setting import JOIN, Remedy, Setting
from skipshift.specs import CarrySpec, RemedySpec
from skipshift.statistics.recovery import NONE

MasksOfBoth = Masks | tuple[Masks | None, Masks | None] | None
"""Masks of the shifted images, or of the reference and of the shifted images."""

GroupsOfBoth = Groups | tuple[Groups | None, Groups | None] | None
"""Group labels, likewise."""

Sets = tuple[Labelled | Fingerprint, Labelled, Labelled | None]
"""Reference, shifted, and the labelled images that were set aside of the shifted."""

_LOG = logging.getLogger("skipshift")

REMEDIES: Mapping[str, Remedy] = {r.name: r for r in (*FEATURE_REMEDIES, *INPUT_REMEDIES)}
"""All remedies by name; those of features first, which the question is about."""


def remedy(
    net: nn.Module,
    reference: Images | Fingerprint,
    shifted: Images,
    masks: MasksOfBoth = None,
    groups: GroupsOfBoth = None,
    spec: RemedySpec | None = None,
) -> Remedies:
    """Find the smallest change of a network that brings back the IoU lost to a shift.

    A remedy is a change at one place of the network (`skipshift.remedies.places`): of the images,
    of statistics, of feature maps, or of weights. Each is fitted on all groups of the shifted set
    but those of one fold, and judged on that fold: by IoU where the shifted set has masks, else by
    the excess that is left in the network's last layer. Then pairs are tried, one remedy of the
    images and one of the features behind it, from the best single ones
    (`skipshift.remedies.pairs`).

    Parameters
    ----------
    net
        Any network that returns logits (N, classes, H, W), or one channel for two classes. It is
        run as it is, in evaluation mode, and left as it was.
    reference, shifted
        Arrays (N, C, H, W), of volumes (N, C, D, H, W), or loaders that can be iterated more than
        once; uint8 is divided by 255, floats are used as they are. They need not be paired. The
        reference may be a `Fingerprint` of this network: then remedies that need its images are
        left out, and harm is not known.
    masks
        (N, H, W) uint8 class indices of the shifted images, or a pair, of the reference and of the
        shifted images; None for those without. With ``spec.paired`` one array serves both.
    groups
        Label of each shifted image's group, or a pair of such sequences; by default each image is a
        group of its own.

    Returns
    -------
    `Remedies`. `ArgumentError` names the argument at fault.
    """
    return search(net, (reference, shifted), masks, groups, spec or RemedySpec()).whole()


def search(
    net: nn.Module,
    images: tuple[Images | Fingerprint, Images],
    masks: MasksOfBoth,
    groups: GroupsOfBoth,
    spec: RemedySpec,
    known: Known | None = None,
    progress: Progress = silent,
    spacing: tuple[float, ...] = (),
    classes: tuple[str, ...] = (),
    taken: str | None = None,
) -> Remedies:
    """Do what `remedy` does, with what is known already, and show progress.

    ``spacing`` is that of the shifted images over that of the reference, of each side, if known;
    ``classes`` are the names of the classes. What ``taken``, a remedy@place, costs on the reference
    is asked whether it helps or not. `ArgumentError` as there, if none of the remedies changes
    anything at any of the places, or if ``taken`` is not among what is tried.
    """
    net, known = unwrap(net), {} if known is None else known
    chosen = chosen_remedies(spec)
    sets = _sets(images, masks, groups, spec)
    with (
        evaluating(net),
        _logits(net, sets, spec) as output,
        FeatureStore(spec.memory * 2**29) as store,
    ):
        setting = replace(_setting(net, sets, spec, output, spacing), classes=classes)
        places = [_named(setting.places, name) for name in spec.places] or list(setting.places)
        singles = [
            Row(one, place)
            for place in places
            for one in chosen
            if place.name == INPUT or one not in INPUT_REMEDIES
        ]
        if taken is not None:
            _check_taken(taken, singles)
        judge, tries = Judge(setting, store), _Tries(taken)
        _warn(judge)
        try:
            tries.extend(judge, known, progress(singles, "remedies"), len(singles))
            _note_absent(spec.remedies, tries.rows)
            pairs = offered(tries.rows, judge.plain, setting)
            if pairs:
                tries.extend(judge, known, progress(pairs, "pairs"), len(pairs))
            complete = True
        except KeyboardInterrupt:
            complete = False
        if complete and not tries.rows:
            raise ArgumentError(
                f"nothing to try: {shown(one.name for one in chosen)} changes nothing at "
                f"{shown(place.name for place in places)}"
            )
        headroom = _headroom(setting) if spec.paired and complete else {}
        # of a search that was cut short nothing is recommended, so nothing is run any more
        asked = complete and setting.home is not None
        table, facts = ranked(
            tries.rows, judge, headroom, NegativeControl(judge) if asked else None
        )
    tried = {(row.remedy.name, row.place.name): row for row in tries.rows}

    def refit(name: str, place: str, weight: float) -> Change:
        row = tried[name, place]
        with evaluating(net), giving_logits(net, setting.output):
            fit = row.remedy.offer(setting, row.place)
            assert fit is not None
            return fit(None, weight)

    return Remedies(table, facts, None if complete else (tries.done, tries.of), refit, setting)


def _check_taken(taken: str, singles: Sequence[Row]) -> None:
    """Raise `ArgumentError` for a remedy@place, or a part of a pair, that is not among the rows."""
    remedies, _, places = taken.partition("@")
    tried = [(row.remedy.name, row.place.name) for row in singles]
    for name, place in zip_longest(remedies.split(JOIN), places.split(JOIN)):
        if (name, place) not in tried:
            there = [own for remedy, own in tried if remedy == name]
            names = dict.fromkeys(remedy for remedy, _ in tried)
            raise ArgumentError(
                f"take: {taken} is not tried; "
                + (f"{name} is tried at {shown(there)}" if there else f"tried are {shown(names)}")
            )


def _warn(judge: Judge) -> None:
    """Say before a long search if nothing that is tried could be recommended."""
    if judge.setting.shifted.data.masks is None and (why := judge.unjudged):
        _LOG.warning(
            f"{why}, so without masks no remedy will be recommended; all are measured (Ctrl-C, if "
            f"you do not need the table)"
        )


def _note_absent(named: Iterable[str], rows: Sequence[Row]) -> None:
    """Say which of the remedies that were asked for change nothing at any of the places."""
    changing = {row.remedy.name for row in rows}
    if changing and (absent := [name for name in named if name not in changing]):
        _LOG.warning(f"{shown(absent)}: changes nothing at these places, so the table lacks it")


@dataclass
class _Tries:
    """What has been tried so far, also where the search is cut short."""

    taken: str | None
    """Remedy@place whose cost on the reference is asked in any case."""

    rows: list[Row] = field(default_factory=list)
    """Those that change anything, judged."""

    done: int = 0
    of: int = 0

    def extend(self, judge: Judge, known: Known, rows: Iterable[Row], number: int) -> None:
        """Try some more."""
        self.of += number
        for _, group in groupby(rows, together):
            own = list(group)
            self.rows += tried(judge, known, own, self.taken)
            self.done += len(own)


@contextlib.contextmanager
def _logits(net: nn.Module, sets: Sets, spec: RemedySpec) -> Iterator[Output]:
    """Make the network return its logits, and yield where they are."""
    output = output_of(net, [data for data in sets[:2] if isinstance(data, Labelled)], spec)
    with giving_logits(net, output):
        yield output


def chosen_remedies(spec: RemedySpec) -> list[Remedy]:
    """Remedies to try; `ArgumentError` for an unknown one, or one that has no labels to use."""
    if unknown := [name for name in spec.remedies if name not in REMEDIES]:
        raise ArgumentError(f"unknown remedy {unknown[0]!r}; choose from {shown(REMEDIES)}")
    named = [REMEDIES[name] for name in spec.remedies]
    if not spec.labels and (odd := [one.name for one in named if one.labelled]):
        raise ArgumentError(f"remedy {odd[0]} needs labelled images; give labels, such as 4")
    return named or [one for one in REMEDIES.values() if spec.labels or not one.labelled]


def _named(places: Sequence[Place], name: str) -> Place:
    for place in places:
        if place.name == name:
            return place
    raise ArgumentError(f"unknown place {name!r}; choose from {shown(p.name for p in places)}")


def _sets(
    images: tuple[Images | Fingerprint, Images],
    masks: MasksOfBoth,
    groups: GroupsOfBoth,
    spec: RemedySpec,
) -> Sets:
    """Join images, masks and groups, and set labelled images aside."""
    both = masks if isinstance(masks, tuple) else (masks if spec.paired else None, masks)
    labels: Any = groups if are_pair(groups) else (groups if spec.paired else None, groups)
    given, away = images
    shifted = labelled(NAMES[1], away, both[1], labels[1], spec.paired)
    _check_masks(shifted, spec.ignore)
    if isinstance(given, Fingerprint):
        if spec.paired:
            raise ArgumentError("paired needs images of the reference, not its fingerprint")
        reference: Labelled | Fingerprint = given
    else:
        reference = labelled(NAMES[0], given, both[0], labels[0], spec.paired)
        _check_masks(reference, spec.ignore)
        _check_paired(reference, shifted, spec)
    lessons = None
    if spec.labels:
        taken = _set_aside(shifted, spec)
        lessons = subset(shifted, taken)
        if spec.paired and isinstance(reference, Labelled):
            reference = subset(reference, ~taken)
        shifted = subset(shifted, ~taken)
    check_groups(shifted.groups)
    return reference, shifted, lessons


def check_groups(groups: Iterable[Any]) -> None:
    """Raise `ArgumentError` for fewer than 2 groups of shifted images."""
    if (number := len(set(groups))) < 2:
        raise ArgumentError(
            f"shifted must have at least 2 groups, to fit on some and judge on others, got "
            f"{number}; tiles of one slide are one group, as are slices of one volume"
        )


def _check_paired(reference: Labelled, shifted: Labelled, spec: RemedySpec) -> None:
    if spec.paired and not np.array_equal(reference.groups, shifted.groups):
        raise ArgumentError(
            f"paired sets need the same groups in the same order, got {len(reference.groups)} "
            f"images and {len(shifted.groups)}"
        )


def _check_masks(data: Labelled, ignore: int | None) -> None:
    """Raise `ArgumentError` for masks of 0 and 255, and for those without any foreground."""
    check_indices(data, ignore)
    if data.masks is not None and not set(np.unique(data.masks).tolist()) - {0, ignore}:
        raise ArgumentError(
            f"masks of the {data.name} have no pixel of the foreground that is counted"
        )


def _set_aside(shifted: Labelled, spec: RemedySpec) -> npt.NDArray[np.bool_]:
    """Draw whole groups until they have as many images as are to be labelled."""
    if shifted.masks is None:
        raise ArgumentError("labels needs masks of the shifted images")
    names = np.random.default_rng(spec.seed).permutation(np.unique(shifted.groups))
    taken = np.zeros(len(shifted.groups), bool)
    for name in names:
        if taken.sum() < spec.labels:
            taken |= shifted.groups == name
    if len(np.unique(shifted.groups[~taken])) < 2:
        raise ArgumentError(
            f"labels must leave at least 2 groups to judge on, got {spec.labels} of "
            f"{len(taken)} images in {len(names)} groups"
        )
    return taken


def _setting(
    net: nn.Module, sets: Sets, spec: RemedySpec, output: Output, spacing: tuple[float, ...]
) -> Setting:
    given, shifted, lessons = sets
    away = folded(shifted, spec.folds, spec.seed)
    first, _, _ = next(shifted.batches(spec.batch_size))
    example = as_input(first[:1], input_like(net))
    places = places_of(net, example)
    if isinstance(given, Fingerprint):
        reference: Folded | Fingerprint = given
        _check_fingerprint(net, given, shifted, tuple(first.shape[1:]))
        known = gathered_of(given, places)
    else:
        reference = folded(given, 1, spec.seed)
        channels = next(given.batches(spec.batch_size))[0].shape[1]
        if channels != first.shape[1]:
            raise ArgumentError(
                f"both sets must have the same channels, got {channels} and {first.shape[1]}"
            )
        known = gather(net, places, reference, spec)
    size = tuple(first.shape[1:])
    spacing = (1.0,) * (len(size) - 1 - len(spacing)) + spacing if spacing else ()
    return Setting(net, places, reference, away, lessons, known, size, spec, output, spacing)


def _check_fingerprint(
    net: nn.Module, given: Fingerprint, shifted: Labelled, size: tuple[int, ...]
) -> None:
    """Raise `ArgumentError` for a fingerprint of another network, or one that nothing can tell."""
    given.check(replace(given.making, network=weights_hash(net), size=size))
    groups = len(np.unique(shifted.groups))
    if shifted.masks is None and groups < given.making.part:
        raise ArgumentError(
            f"shifted must have masks, or the {given.making.part} groups of a part of the "
            f"fingerprint, to be judged, got {groups} groups; make the fingerprint of smaller parts"
        )


def setting_of(
    net: nn.Module, images: tuple[Images, Images], groups: tuple[Groups, Groups], spec: RemedySpec
) -> Setting:
    """Gather what is known of two sets without masks and a network that gives logits."""
    return _setting(net, _sets(images, None, groups, spec), spec, Output(), ())


def _headroom(setting: Setting) -> dict[str, float]:
    """IoU that comes back when each place is fed the reference's features of the same image."""
    assert setting.home is not None
    home, away = setting.home.data, setting.shifted.data
    if home.masks is None or away.masks is None:
        return {}
    paths = {place.name: place.mapped for place in setting.places if place.mapped is not None}
    spec = CarrySpec(
        paths=paths,
        precision="fp32",
        batch_size=setting.spec.batch_size,
        ignore=setting.spec.ignore,
    )
    table = carry(
        setting.net, home.images, away.images, (home.masks, away.masks),
        (home.groups, away.groups), spec,
    ).set_index("path")["iou"]  # fmt: skip
    gains = table - table[NONE]
    return {**gains.drop([NONE, ALL]).to_dict(), INPUT: gains[ALL], ALL: gains[ALL]}
