"""Remedies of a shift: try changes at every place, judge them cross-fitted, recommend the best."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

from skipshift.errors import ArgumentError
from skipshift.names import shown
from skipshift.networks.addresses import unwrap
from skipshift.networks.as_found import evaluating
from skipshift.networks.changes import Change
from skipshift.networks.features import Groups, Images, as_input, input_like
from skipshift.networks.outputs import Output, giving_logits
from skipshift.patching.carry import carry
from skipshift.patching.labelled import NAMES, Labelled, Masks, labelled, output_of, subset
from skipshift.progress import Progress, silent
from skipshift.remedies.feature_remedies import FEATURE_REMEDIES
from skipshift.remedies.gathering import folded, gather
from skipshift.remedies.input_remedies import INPUT_REMEDIES
from skipshift.remedies.judging import Judge, Judged
from skipshift.remedies.places import ALL, INPUT, Place, places_of
from skipshift.remedies.ranking import Row, ranked
from skipshift.remedies.result import Remedies
from skipshift.remedies.setting import Remedy, Setting
from skipshift.specs import CarrySpec, RemedySpec
from skipshift.statistics.recovery import NONE

REMEDIES: Mapping[str, Remedy] = {r.name: r for r in (*FEATURE_REMEDIES, *INPUT_REMEDIES)}
"""All remedies by name; those of features first, which the question is about."""


class Known(Protocol):
    """What was judged already, by remedy, place and weight, such as a dict."""

    def get(self, name: str, /) -> Judged | None:
        """Return what was judged, or None."""
        ...

    def __setitem__(self, name: str, judged: Judged, /) -> None:
        """Keep what was judged."""
        ...


def remedy(
    net: nn.Module,
    reference: Images,
    shifted: Images,
    masks: Masks | tuple[Masks | None, Masks | None] | None = None,
    groups: Groups | tuple[Groups | None, Groups | None] | None = None,
    spec: RemedySpec | None = None,
) -> Remedies:
    """Find the smallest change of a network that brings back the IoU lost to a shift.

    A remedy is a change at one place of the network (`skipshift.remedies.places`): of the images,
    of statistics, of feature maps, or of weights. Each is fitted on all groups of the shifted set
    but those of one fold, and judged on that fold: by IoU where the shifted set has masks, else by
    the excess that is left in the network's last layer.

    Parameters
    ----------
    net
        Any network that returns logits (N, classes, H, W), or one channel for two classes. It is
        run as it is, in evaluation mode, and left as it was.
    reference, shifted
        Arrays (N, C, H, W), of volumes (N, C, D, H, W), or loaders that can be iterated more than
        once; uint8 is divided by 255, floats are used as they are. They need not be paired.
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
    found = search(net, (reference, shifted), masks, groups, spec or RemedySpec())
    if not found.complete:
        raise KeyboardInterrupt
    return found


def search(
    net: nn.Module,
    images: tuple[Images, Images],
    masks: Masks | tuple[Masks | None, Masks | None] | None,
    groups: Groups | tuple[Groups | None, Groups | None] | None,
    spec: RemedySpec,
    known: Known | None = None,
    progress: Progress = silent,
) -> Remedies:
    """Do what `remedy` does, with what is known already, and show progress.

    `ArgumentError` as there, and if none of the remedies changes anything at any of the places.
    """
    net, known = unwrap(net), {} if known is None else known
    chosen = _chosen(spec)
    sets = _sets(images, masks, groups, spec)
    with evaluating(net), _logits(net, sets, spec) as output:
        setting = _setting(net, *sets, spec, output)
        places = [_named(setting.places, name) for name in spec.places] or list(setting.places)
        judge = Judge(setting)
        plain, permuted = judge.plain()
        rows, complete = [], True
        try:
            pairs = [(one, place) for place in places for one in chosen]
            for one, place in progress(pairs, "remedies"):
                judged = _tried(judge, known, one, place)
                rows += [] if judged is None else [Row(one, place, judged)]
        except KeyboardInterrupt:
            complete = False
        if complete and not rows:
            raise ArgumentError(
                f"nothing to try: {shown(one.name for one in chosen)} changes nothing at "
                f"{shown(place.name for place in places)}"
            )
        headroom = _headroom(setting) if spec.paired and complete else {}
    table, facts = ranked(rows, plain, permuted, setting, judge.layer, headroom)

    def refit(name: str, place: str, weight: float) -> Change:
        with evaluating(net), giving_logits(net, setting.output):
            fit = REMEDIES[name].offer(setting, _named(setting.places, place))
            assert fit is not None
            return fit(None, weight)

    return Remedies(table, facts, complete, refit, setting)


@contextlib.contextmanager
def _logits(
    net: nn.Module, sets: tuple[Labelled, Labelled, Labelled | None], spec: RemedySpec
) -> Iterator[Output]:
    """Make the network return its logits, and yield where they are."""
    output = output_of(net, sets[:2], spec)
    with giving_logits(net, output):
        yield output


def _chosen(spec: RemedySpec) -> list[Remedy]:
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


def _tried(
    judge: Judge, known: Known, one: Remedy, place: Place
) -> dict[float, Judged] | str | None:
    """Judge a remedy at a place with each weight; None if it changes nothing, or why it fails."""
    keys = {weight: f"{one.name}@{place.name}@{weight:g}" for weight in one.weights}
    found = {weight: known.get(key) for weight, key in keys.items()}
    if missing := [weight for weight, judged in found.items() if judged is None]:
        start = time.perf_counter()
        fit = one.offer(judge.setting, place)
        if fit is None:
            return None
        for weight in missing:
            try:
                found[weight] = known[keys[weight]] = judge(fit, weight, one.fitted, start)
            except (ArgumentError, RuntimeError) as error:
                return " ".join(str(error).split())
            start = time.perf_counter()
    return {weight: judged for weight, judged in found.items() if judged is not None}


def _sets(
    images: tuple[Images, Images],
    masks: Masks | tuple[Masks | None, Masks | None] | None,
    groups: Groups | tuple[Groups | None, Groups | None] | None,
    spec: RemedySpec,
) -> tuple[Labelled, Labelled, Labelled | None]:
    """Join images, masks and groups, and set labelled images aside."""
    both = masks if isinstance(masks, tuple) else (masks if spec.paired else None, masks)
    named = isinstance(groups, tuple) and len(groups) == 2 and not isinstance(groups[1], str)
    labels: Any = groups if named else (groups if spec.paired else None, groups)
    reference, shifted = (
        labelled(name, *each, spec.paired)
        for name, each in zip(NAMES, zip(images, both, labels, strict=True), strict=True)
    )
    if spec.paired and not np.array_equal(reference.groups, shifted.groups):
        raise ArgumentError(
            f"paired sets need the same groups in the same order, got {len(reference.groups)} "
            f"images and {len(shifted.groups)}"
        )
    for data in (reference, shifted):
        _check_masks(data, spec.ignore)
    lessons = None
    if spec.labels:
        taken = _set_aside(shifted, spec)
        lessons = subset(shifted, taken)
        reference = subset(reference, ~taken) if spec.paired else reference
        shifted = subset(shifted, ~taken)
    number = len(np.unique(shifted.groups))
    if number < 2:
        raise ArgumentError(
            f"shifted must have at least 2 groups, to fit on some and judge on others, got {number}"
        )
    return reference, shifted, lessons


def _check_masks(data: Labelled, ignore: int | None) -> None:
    """Raise `ArgumentError` for masks of 0 and 255, and for those without any foreground."""
    if data.masks is None:
        return
    labels = set(np.unique(data.masks).tolist())
    if labels == {0, 255} and ignore != 0:
        raise ArgumentError(
            f"masks of the {data.name} hold 0 and 255; give class indices: masks // 255 if 255 is "
            f"the foreground"
        )
    if not labels - {0, ignore}:
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
    net: nn.Module,
    reference: Labelled,
    shifted: Labelled,
    lessons: Labelled | None,
    spec: RemedySpec,
    output: Output,
) -> Setting:
    home, away = folded(reference, 1, spec.seed), folded(shifted, spec.folds, spec.seed)
    first, _, _ = next(reference.batches(spec.batch_size))
    example = as_input(first[:1], input_like(net))
    places = places_of(net, example)
    known, seen = (gather(net, places, each, spec.batch_size, spec.seed) for each in (home, away))
    if len(known.moments(INPUT)[0]) != len(seen.moments(INPUT)[0]):
        raise ArgumentError(
            f"both sets must have the same channels, got {len(known.moments(INPUT)[0])} "
            f"and {len(seen.moments(INPUT)[0])}"
        )
    return Setting(net, places, home, away, lessons, known, seen, example.ndim - 2, spec, output)


def setting_of(
    net: nn.Module, images: tuple[Images, Images], groups: tuple[Groups, Groups], spec: RemedySpec
) -> Setting:
    """Gather what is known of two sets without masks and a network that gives logits."""
    home, away, _ = _sets(images, None, groups, spec)
    return _setting(net, home, away, None, spec, Output())


def _headroom(setting: Setting) -> dict[str, float]:
    """IoU that comes back when each place is fed the reference's features of the same image."""
    home, away = setting.reference.data, setting.shifted.data
    if home.masks is None or away.masks is None:
        return {}
    paths = {place.name: place.address for place in setting.places if place.address is not None}
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
