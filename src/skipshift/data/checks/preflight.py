"""The preflight check: all rules and detectors in one pass over the files of a manifest."""

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
from skipshift.data.checks.duplicates import Signature, compute_signature, find_duplicates
from skipshift.data.checks.findings import Finding, finding_at
from skipshift.data.images import (
    centre_crop,
    read_mask,
    read_native,
    single_threaded_opencv,
    to_8_bit,
)
from skipshift.data.manifest import check_sizes, is_file, read_rows, resolve_path, row_faults
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import STRIDE, check_sides
from skipshift.progress import Progress, silent

SPACING = "spacing"
"""Optional column of a manifest: the pixel spacing, ``0.25`` or ``1.2x1.25``, in any one unit."""

UNREADABLE = "file that cannot be read"
UNEQUAL = "mask and image of different sizes"
SIDES = "sides that the network cannot take"

_WAYS_OUT = {
    UNREADABLE: "restore the file from its source",
    UNEQUAL: "export mask and image from the same source",
    SIDES: f"choose an evaluation crop, a multiple of {STRIDE} that fits every image",
}


@dataclass(frozen=True)
class CaseCheck:
    """Faults and measurements of one case, from a single decoding of its files."""

    faults: dict[str, str]
    """Rule -> message, for each rule that is broken."""
    channels: int = 0
    """Channels of the image; 0 if it cannot be read."""
    labels: npt.NDArray[np.int64] | None = None
    """(256,) pixel counts by mask value, without those that are not to be counted."""
    measurements: dict[str, npt.NDArray[np.float64]] | None = None
    """As from `measure_case`."""
    signature: Signature | None = None


def check_manifest(
    manifest: Path,
    classes: Sequence[str] | None = None,
    crop: int | None = None,
    workers: int = 2,
    progress: Progress = silent,
    ignore: int | None = None,
) -> list[Finding]:
    """Check a manifest for faults that would stop a study or falsify its results.

    Parameters
    ----------
    classes
        Names of the mask values 0, 1, ...; without them, every value up to the highest in the
        training masks is a class.
    crop
        Side of the centre crop used in evaluation; without it, whole images are used.
    workers
        Threads.
    ignore
        Mask value of pixels that are not to be counted.

    Returns
    -------
    Errors and warnings, none for a clean manifest. A case that breaks one rule is still checked
    against the others where possible.
    """
    manifest = Path(manifest)
    try:
        rows = read_rows(manifest)
    except SkipshiftError as error:
        return finding_at(
            "error", "manifest that cannot be used", [str(error)], "correct the manifest"
        )
    files = [
        [resolve_path(manifest, text) for text in rows[column]] for column in ("image", "mask")
    ]
    exist = [[file is not None and is_file(file) for file in column] for column in files]
    cases = rows.assign(files=pd.Series(zip(*files, strict=True)))[np.all(exist, axis=0)]
    with single_threaded_opencv(), ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda pair: check_case(pair[0], pair[1], crop, ignore), cases["files"])
        checks = list(progress(results, "check", len(cases)))
        findings = [*_row_findings(manifest, rows), *_file_findings(cases, checks)]
        findings += _label_findings(cases, checks, classes, ignore)
        complete = [check.measurements is not None for check in checks]
        cases, checks = cases[complete], [c for c in checks if c.measurements is not None]
        return [*findings, *_duplicate_findings(cases, checks), *_domain_findings(cases, checks)]


def check_case(
    image_file: Path, mask_file: Path, crop: int | None, ignore: int | None = None
) -> CaseCheck:
    """Decode the files of a case once, check them and measure them."""
    faults: dict[str, str] = {}
    image = mask = None
    try:
        native = read_native(image_file)
        image = to_8_bit(native)
        mask = read_mask(mask_file, 256)
        check_sizes(mask_file, mask.shape, image.shape)
    except SkipshiftError as error:
        faults[UNREADABLE if mask is None else UNEQUAL] = str(error)
    labels = None
    if mask is not None:
        labels = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel().astype(np.int64)
        if ignore is not None:
            labels[ignore], mask = 0, np.where(mask == ignore, np.uint8(0), mask)
    if image is None:
        return CaseCheck(faults)
    try:
        check_sides(*(image if crop is None else centre_crop(image, crop)).shape[:2])
    except ArgumentError as error:
        faults[SIDES] = f"{image_file}: {error}"
    if mask is None or mask.shape != image.shape[:2]:
        return CaseCheck(faults, image.shape[2], labels)
    measurements, signature = measure_case(native, mask), compute_signature(image)
    return CaseCheck(faults, image.shape[2], labels, measurements, signature)


def _row_findings(manifest: Path, rows: pd.DataFrame) -> Iterator[Finding]:
    places = defaultdict(list)
    for fault in row_faults(manifest, rows):
        places[fault.rule, fault.way_out].append(fault.where)
    for (rule, way_out), where in places.items():
        yield from finding_at("error", rule, where, way_out)


def _file_findings(cases: pd.DataFrame, checks: Sequence[CaseCheck]) -> Iterator[Finding]:
    for rule, way_out in _WAYS_OUT.items():
        broken = [check.faults[rule] for check in checks if rule in check.faults]
        yield from finding_at("error", rule, broken, way_out)
    train = [check.channels for check in _of_training(cases, checks) if check.channels]
    odd = [
        f"{file}: {check.channels}"
        for file, check in zip(cases["image"], checks, strict=True)
        if train and check.channels not in (0, train[0])
    ]
    what = f"images whose number of channels is not the {train[0]} of training" if train else ""
    yield from finding_at("error", what, odd, "convert all images to colour, or all to grey")


def _label_findings(
    cases: pd.DataFrame,
    checks: Sequence[CaseCheck],
    classes: Sequence[str] | None,
    ignore: int | None,
) -> Iterator[Finding]:
    counts = [check.labels for check in _of_training(cases, checks) if check.labels is not None]
    if not counts:
        return
    trained = np.sum(counts, axis=0)
    highest = int(np.flatnonzero(trained).max(initial=1))
    number = highest + 1 if classes is None else len(classes)
    beyond = [
        f"{file}: {', '.join(map(str, np.flatnonzero(check.labels[number:])[:5] + number))}"
        for file, check in zip(cases["mask"], checks, strict=True)
        if check.labels is not None and check.labels[number:].any()
    ]
    what = f"labels outside the classes 0..{number - 1}"
    ignored = "" if ignore is not None else ", or ignore the value if it is not to be counted"
    yield from finding_at("error", what, beyond, f"name every class or correct the masks{ignored}")
    names = classes or [f"class {index}" for index in range(number)]
    missing = [name for i, name in enumerate(names) if not trained[i] and i != ignore]
    way_out = f"number the classes 0, 1, ... in the masks, or remove the class{ignored}"
    yield from finding_at("error", "class with no pixel in training", missing, way_out)


def _of_training(cases: pd.DataFrame, checks: Sequence[CaseCheck]) -> list[CaseCheck]:
    return [check for split, check in zip(cases["split"], checks, strict=True) if split == "train"]


def _duplicate_findings(cases: pd.DataFrame, checks: Sequence[CaseCheck]) -> Iterator[Finding]:
    split, group, file = (cases[name].tolist() for name in ("split", "group", "image"))
    across, within = [], []
    signatures = [check.signature for check in checks if check.signature is not None]
    for pair in find_duplicates(signatures, cases["domain"].tolist()):
        a, b = pair.first, pair.second
        place = f"{file[a]} and {file[b]} are {'the same' if pair.exact else 'copies'}"
        if split[a] != split[b]:
            across.append(place)
        # near-duplicates are normal within a group: phases of a heart, scans of a slide
        elif pair.exact or group[a] != group[b]:
            within.append(place)
    what = "same image on both sides of the split"
    yield from finding_at(
        "error", what, across, "give both the same group and split, or remove one"
    )
    way_out = "remove one, or give both the same group"
    yield from finding_at("warning", "same image twice in a split", within, way_out)


def _domain_findings(cases: pd.DataFrame, checks: Sequence[CaseCheck]) -> list[Finding]:
    measured = [check.measurements for check in checks if check.measurements is not None]
    if not measured:
        return []
    measurements = {name: np.stack([one[name] for one in measured]) for name in measured[0]}
    texts = cases[SPACING] if SPACING in cases else [""] * len(cases)
    measurements[SPACING] = np.array([_mean_spacing(text) for text in texts])
    return judge_domains(cases.reset_index(drop=True), measurements)


def _mean_spacing(text: str) -> float:
    """Geometric mean of the spacings of rows and columns; NaN if unknown."""
    try:
        sides = np.array([float(side) for side in text.split("x")])
    except ValueError:
        return float("nan")
    return float(np.exp(np.log(sides).mean())) if (sides > 0).all() else float("nan")
