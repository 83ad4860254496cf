"""Everything that is looked for in a manifest, in one pass over its files."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from skipshift.data.checks.domains import judge_domains, measure_case
from skipshift.data.checks.duplicates import Descriptor, find_copies, fingerprint
from skipshift.data.checks.findings import Finding, found
from skipshift.data.images import read_mask, read_native, single_threaded_opencv, to_8_bit
from skipshift.data.manifest import centre_crop, check_sizes, read_rows, resolve_path, row_faults
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import STRIDE, check_sides
from skipshift.progress import Progress, silent

SPACING = "spacing"
"""Optional column of a manifest: the distance of pixels, ``0.25`` or ``1.2x1.25``, in one unit."""

UNREADABLE = "file that cannot be read"
UNEQUAL = "mask and image of different sizes"
SIDES = "sides that the network cannot take"

_WAYS_OUT = {
    UNREADABLE: "restore the file from its source",
    UNEQUAL: "export mask and image anew from one source",
    SIDES: f"choose an evaluation crop, a multiple of {STRIDE} that fits every image",
}


@dataclass(frozen=True)
class Look:
    """What one decoding of a case's files showed."""

    faults: dict[str, str]
    """What is wrong, by rule."""
    channels: int = 0
    """Of the image; 0 if it was not read."""
    labels: npt.NDArray[np.int64] | None = None
    """Pixels of each mask value, (256,)."""
    traits: dict[str, npt.NDArray[np.float64]] | None = None
    print: Descriptor | None = None


def check_manifest(
    manifest: Path,
    classes: Sequence[str] | None = None,
    crop: int | None = None,
    workers: int = 2,
    progress: Progress = silent,
) -> list[Finding]:
    """Find what would stop a study or make its numbers wrong, before anything is trained.

    Parameters
    ----------
    classes
        Names of the mask values 0, 1, ...; without them every value up to the highest of the
        training masks is a class.
    crop
        Side of the centred crop that is evaluated; without it whole images are.
    workers
        Threads that decode and measure.

    Returns
    -------
    Errors and warnings, none for a clean manifest. What breaks one rule is still held against the
    others, where it can be.
    """
    manifest = Path(manifest)
    try:
        rows = read_rows(manifest)
    except SkipshiftError as error:
        return found("error", "manifest that cannot be used", [str(error)], "mend the file")
    files = [
        [resolve_path(manifest, text) for text in rows[column]] for column in ("image", "mask")
    ]
    there = [[file is not None and file.is_file() for file in column] for column in files]
    cases = rows.assign(files=pd.Series(zip(*files, strict=True)))[np.all(there, axis=0)]
    with single_threaded_opencv(), ThreadPoolExecutor(workers) as pool:
        looking = pool.map(lambda pair: look_at(pair[0], pair[1], crop), cases["files"])
        looks = list(progress(looking, "check", len(cases)))
        findings = [*_row_findings(manifest, rows), *_file_findings(cases, looks)]
        findings += _label_findings(cases, looks, classes)
        whole = [look.traits is not None for look in looks]
        cases, looks = cases[whole], [look for look in looks if look.traits is not None]
        return [*findings, *_copy_findings(cases, looks), *_domain_findings(cases, looks)]


def look_at(image_file: Path, mask_file: Path, crop: int | None) -> Look:
    """Decode a case once and measure all that is asked of it."""
    faults: dict[str, str] = {}
    image = mask = None
    try:
        deep = read_native(image_file)
        image = to_8_bit(deep)
        mask = read_mask(mask_file, 256)
        check_sizes(mask_file, mask.shape, image.shape)
    except SkipshiftError as error:
        faults[UNREADABLE if mask is None else UNEQUAL] = str(error)
    labels = None
    if mask is not None:
        labels = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    if image is None:
        return Look(faults)
    try:
        check_sides(*(image if crop is None else centre_crop(image, crop)).shape[:2])
    except ArgumentError as error:
        faults[SIDES] = f"{image_file}: {error}"
    if mask is None or mask.shape != image.shape[:2]:
        return Look(faults, image.shape[2], labels)
    return Look(faults, image.shape[2], labels, measure_case(deep, mask), fingerprint(image))


def _row_findings(manifest: Path, rows: pd.DataFrame) -> Iterator[Finding]:
    broken = defaultdict(list)
    for fault in row_faults(manifest, rows):
        broken[fault.rule, fault.way_out].append(fault.where)
    for (rule, way_out), where in broken.items():
        yield from found("error", rule, where, way_out)


def _file_findings(cases: pd.DataFrame, looks: Sequence[Look]) -> Iterator[Finding]:
    for rule, way_out in _WAYS_OUT.items():
        broken = [look.faults[rule] for look in looks if rule in look.faults]
        yield from found("error", rule, broken, way_out)
    train = [look.channels for look in _of_training(cases, looks) if look.channels]
    odd = [
        f"{file}: {look.channels}"
        for file, look in zip(cases["image"], looks, strict=True)
        if train and look.channels not in (0, train[0])
    ]
    what = f"images with other channels than the {train[0]} of training" if train else ""
    yield from found("error", what, odd, "write all images in colour, or all in grey")


def _label_findings(
    cases: pd.DataFrame, looks: Sequence[Look], classes: Sequence[str] | None
) -> Iterator[Finding]:
    counts = [look.labels for look in _of_training(cases, looks) if look.labels is not None]
    if not counts:
        return
    trained = np.sum(counts, axis=0)
    number = int(np.flatnonzero(trained).max()) + 1 if classes is None else len(classes)
    beyond = [
        f"{file}: {', '.join(map(str, np.flatnonzero(look.labels[number:])[:5] + number))}"
        for file, look in zip(cases["mask"], looks, strict=True)
        if look.labels is not None and look.labels[number:].any()
    ]
    what = f"labels outside the classes 0..{number - 1}"
    yield from found("error", what, beyond, "name every class or correct the masks")
    names = classes or [f"class {index}" for index in range(number)]
    missing = [name for name, count in zip(names, trained, strict=False) if not count]
    way_out = "number the classes 0, 1, ... in the masks, or leave the class out"
    yield from found("error", "class with no pixel in training", missing, way_out)


def _of_training(cases: pd.DataFrame, looks: Sequence[Look]) -> list[Look]:
    return [look for split, look in zip(cases["split"], looks, strict=True) if split == "train"]


def _copy_findings(cases: pd.DataFrame, looks: Sequence[Look]) -> Iterator[Finding]:
    split, group, file = (cases[name].tolist() for name in ("split", "group", "image"))
    across, within = [], []
    for copy in find_copies([look.print for look in looks if look.print is not None]):
        a, b = copy.first, copy.second
        place = f"{file[a]} and {file[b]} are {'the same' if copy.exact else 'copies'}"
        if split[a] != split[b]:
            across.append(place)
        # pictures of one group may well be alike: phases of a heart, scans of a slide
        elif copy.exact or group[a] != group[b]:
            within.append(place)
    what = "same image on both sides of the split"
    yield from found("error", what, across, "give both one group and one side, or drop one")
    way_out = "drop one, or give both one group"
    yield from found("warning", "same image twice in a split", within, way_out)


def _domain_findings(cases: pd.DataFrame, looks: Sequence[Look]) -> list[Finding]:
    measured = [look.traits for look in looks if look.traits is not None]
    if not measured:
        return []
    traits = {name: np.stack([one[name] for one in measured]) for name in measured[0]}
    texts = cases[SPACING] if SPACING in cases else [""] * len(cases)
    traits[SPACING] = np.array([_distance(text) for text in texts])
    return judge_domains(cases.reset_index(drop=True), traits)


def _distance(text: str) -> float:
    """Geometric mean of the distances along rows and columns; NaN where they are not known."""
    try:
        sides = np.array([float(side) for side in text.split("x")])
    except ValueError:
        return float("nan")
    return float(np.exp(np.log(sides).mean())) if (sides > 0).all() else float("nan")
