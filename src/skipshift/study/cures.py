"""Activation patching, remedies and estimates of a baseline run, for each profiled domain."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import pandas as pd

from skipshift import records
from skipshift.data.batches import Batches, stack_cases
from skipshift.data.images import Pixels
from skipshift.data.manifest import Case
from skipshift.data.preprocess import preprocess_of
from skipshift.estimate.calibration_shifts import FAMILIES
from skipshift.estimate.estimating import calibrate
from skipshift.estimate.measuring import measure
from skipshift.estimate.settings import EstimateSpec
from skipshift.names import parse_shift
from skipshift.networks.as_found import evaluating
from skipshift.networks.inference import best_device
from skipshift.networks.unet import Unet
from skipshift.page.estimate_sentences import ANSWERED
from skipshift.patching.carry import carry
from skipshift.patching.labelled import Labelled, labelled
from skipshift.progress import Progress
from skipshift.remedies.places import ALL, ENCODER, INPUT, place_names
from skipshift.remedies.remedy import search
from skipshift.specs import CarrySpec, RemedySpec
from skipshift.statistics.confidence import true_counts
from skipshift.statistics.counts import iou
from skipshift.study.grid import Run, Study
from skipshift.study.sets import home_rows, read_rows, shifted_cases

LARGEST = 3
"""Layers of the profile at which a study tries remedies: those of the largest excess."""

_Sides = tuple[list[Case], list[Case]]


def write_carry(study: Study, run: Run, progress: Progress) -> None:
    """Measure what each skip carries, where both sets show the same cases in the same order."""
    parts = []
    spec = CarrySpec(ignore=study.spec.ignore, precision=study.precision)
    net = Unet.load(study.folder(run)).to(best_device())
    for about, sides in progress(list(_pairs(study, run)), f"carry {run.name}"):
        if _paired(sides):
            images, masks, groups = _sets(sides, spec.batch_size)
            table = carry(net, *images, masks, groups, spec)
            parts.append(table.assign(**about))
    _write(study, run, "carry.csv", records.CARRIED, parts)


def write_remedies(study: Study, run: Run, progress: Progress) -> None:
    """Find the remedy of each shift; rows of all that were tried.

    Only at the input, in all of the encoder, in the whole network, and at the `LARGEST` layers: a
    search at every place takes some times as long, and `skipshift remedy` does it for one network.
    """
    parts = []
    net = Unet.load(study.folder(run)).to(best_device())
    for about, sides in _pairs(study, run):
        largest = map(place_names(net).get, _largest(study, run, str(about["shifted"])))
        places = (INPUT, ENCODER, ALL, *filter(None, largest))
        spec = RemedySpec(places=places, ignore=study.spec.ignore, paired=_paired(sides))
        images, masks, groups = _sets(sides, spec.batch_size)
        found = search(net, images, masks, groups, spec, progress=progress)
        if not found.complete:
            raise KeyboardInterrupt
        rows = zip(found.table["remedy"], found.table["place"], strict=True)
        chosen = [found.best is not None and pair == tuple(found.best) for pair in rows]
        parts.append(found.table.assign(recommended=chosen, **about))
    _write(study, run, "remedies.csv", records.REMEDIED, parts)


def write_estimates(study: Study, run: Run, peers: Sequence[Run], progress: Progress) -> None:
    """Estimate the IoU without masks beside that with masks, on its own and each profiled domain.

    The reference is every second group of the source domains' test cases, which no peer was trained
    on. No set has a group of the reference, and calibration leaves out the family of a set's shift.
    """
    spec, classes = EstimateSpec(ignore=study.spec.ignore), np.array(study.spec.classes)
    own, *others = (Unet.load(study.folder(one)).to(best_device()) for one in (run, *peers))
    cases = read_rows(study, home_rows(study, run))
    known = set(sorted({case.group for case in cases})[::2])
    home = "+".join(dict.fromkeys(case.domain for case in cases))
    at_home = {**vars(run), "reference": home, "shifted": home}
    parts = []
    with ExitStack() as stack:
        for net in (own, *others):
            stack.enter_context(evaluating(net))
        reference = _labelled("reference", [case for case in cases if case.group in known], spec)
        calibration = calibrate(own, reference, spec, progress, others)
        without = functools.cache(calibration.without)
        for about, (_, away) in [(at_home, (cases, cases)), *_pairs(study, run)]:
            new = [case for case in away if case.group not in known]
            if not new:
                continue
            data = _labelled("shifted", new, spec)
            shift = parse_shift(str(about["shifted"]))
            fair = without(FAMILIES[shift[0]]) if shift else calibration
            blind = Labelled(data.name, data.images, None, data.groups)
            found = fair.estimate(fair.measured(blind), study.spec.classes)
            counts = measure(own, data, {}, spec.batch_size, spec.ignore).confidence.counts
            answers = [reason or ANSWERED for reason in found.reasons]
            measured = iou(true_counts(counts.sum(0)))
            parts.append(found.table.assign(measured=measured, answer=answers, **about))
    foreground = [part[part["class"].isin(classes[1:])] for part in parts]
    _write(study, run, records.ESTIMATES, records.ESTIMATES, foreground)


def _labelled(name: str, cases: list[Case], spec: EstimateSpec) -> Labelled:
    pixels, masks, groups = stack_cases(cases)
    images = Batches(pixels, preprocess_of("unit"), spec.batch_size)
    return labelled(name, images, masks, groups, False)


def _largest(study: Study, run: Run, shifted: str) -> list[str]:
    """Layers of the largest excess in the profile of a shift, by its first distance and pooling."""
    how = study.spec.profile
    rows = records.read_table(study.folder(run) / "layers.csv")
    first = (rows["measure"] == how.distances[0]) & (rows["pooling"] == how.pooling[0])
    rows = rows[first & (rows["shifted"] == shifted)]
    return rows.nlargest(LARGEST, "excess")["layer"].tolist()


def _pairs(study: Study, run: Run) -> Iterator[tuple[dict[str, str | int], _Sides]]:
    reference = read_rows(study, home_rows(study, run))
    home = "+".join(dict.fromkeys(case.domain for case in reference))
    for shifted in study.spec.profiled:
        if others := shifted_cases(study, run, reference, shifted):
            yield {**vars(run), "reference": home, "shifted": shifted}, (reference, others)


def _paired(sides: _Sides) -> bool:
    return [case.case for case in sides[0]] == [case.case for case in sides[1]]


def _sets(
    sides: _Sides, size: int
) -> tuple[tuple[Batches, Batches], tuple[Pixels, Pixels], tuple[list[str], list[str]]]:
    """Images, masks and groups of both sides."""
    (home, truth, own), (away, others, theirs) = map(stack_cases, sides)
    unit = preprocess_of("unit")
    return (Batches(home, unit, size), Batches(away, unit, size)), (truth, others), (own, theirs)


def _write(study: Study, run: Run, name: str, table: str, parts: list[pd.DataFrame]) -> None:
    empty = pd.DataFrame(columns=list(records.TABLE_COLUMNS[table]))
    joined = pd.concat(parts) if parts else empty
    records.write_table(study.folder(run) / name, joined, table)
