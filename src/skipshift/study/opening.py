"""Opening of a study: its manifest, folds and hashes, and refusals before anything is done."""

import itertools
import warnings
from pathlib import Path

import pandas as pd

from skipshift import records
from skipshift.checksums import read_sealed
from skipshift.data.images import image_size
from skipshift.data.manifest import parse_spacing, read_manifest
from skipshift.data.splits import CASE_COLUMNS, draw_folds, leave_out_domains, read_folds
from skipshift.errors import SkipshiftError, naming
from skipshift.names import STRIDE, parse_shift, skips_of
from skipshift.networks.unet import check_variant
from skipshift.progress import Progress, silent
from skipshift.specs import Precision
from skipshift.statistics.comparisons import AWAY
from skipshift.study.contents import read_contents
from skipshift.study.grid import Study
from skipshift.study.made import read_made
from skipshift.study_specs import StudySpec


def open_study(spec: StudySpec, out: Path, progress: Progress = silent) -> Study:
    """Read a study's manifest and folds, and check early for what would fail after training.

    Folds already in the study's folder are kept if they are of the same cases and settings. Each
    file is hashed once, and again only if its size or time has changed. `SkipshiftError` for
    encoders, test cases, crops or ``profile_shifts`` that the study cannot use.
    """
    with naming("encoders"):
        for encoder, variant in itertools.product(spec.encoders, spec.variants):
            check_variant(encoder, skips_of(variant))
    cases = read_manifest(spec.manifest)
    trained = cases.loc[cases["split"] == "train", "domain"]
    test = cases[cases["split"] == "test"]
    home = test["domain"].isin(trained)
    if not home.any():
        raise SkipshiftError(f"{spec.manifest}: has no test cases of the domain that is trained on")
    if AWAY in set(test["domain"]):
        raise SkipshiftError(
            f"{spec.manifest}: {AWAY!r} stands for the mean of several domains; rename that domain"
        )
    if spec.tolerance_unit == "mm" and "surface_dice" in spec.metrics:
        _check_spacing(spec.manifest, test)
    _check_crops(spec, cases)
    for shifted in spec.profiled:
        others = home if parse_shift(shifted) else test["domain"] == shifted
        if not others.any():
            known = ", ".join(test["domain"].unique())
            raise SkipshiftError(
                f"profile_shifts: {shifted!r} is not a shift such as brightness:0.75, nor a domain "
                f"of the test cases ({known})"
            )
        if spec.evaluation_crop is None and not parse_shift(shifted):
            _check_sizes(test.loc[others, "image"])
    if spec.profiled and spec.evaluation_crop is None:
        _check_sizes(test.loc[home, "image"])
    folds = _folds(spec, cases, out / records.SPLITS)
    contents = read_contents(spec, cases, out, progress)
    return Study(spec, cases, folds, out, _known_precision(spec, out), contents=contents)


def _folds(spec: StudySpec, cases: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Draw the folds, or take those in the file if they are of the same cases and as many."""
    draw = leave_out_domains if spec.leave_one_domain_out else draw_folds
    folds = draw(cases, spec.folds)
    if file.exists():
        kept = read_folds(file)
        alike = list(kept) == list(folds) and kept["fold"].nunique() == folds["fold"].nunique()
        if alike and kept[CASE_COLUMNS].equals(folds[CASE_COLUMNS]):
            folds = kept
        else:
            warnings.warn(
                f"{file}: is of other cases or folds, so they are drawn again", stacklevel=2
            )
    return folds


def _check_crops(spec: StudySpec, cases: pd.DataFrame) -> None:
    """Raise for a crop that no training image can give, or that one image cannot give whole."""
    train = cases["split"] == "train"
    if spec.evaluation_crop is not None:
        for file in cases["image"]:
            if spec.evaluation_crop > min(size := image_size(Path(file))):
                raise SkipshiftError(
                    f"evaluation_crop: {spec.evaluation_crop} does not fit {file}, which is "
                    f"{size[1]} x {size[0]} (height x width); choose a smaller one"
                )
    largest = 0
    for file in cases.loc[train, "image"]:
        largest = max(largest, min(image_size(Path(file))))
        if largest >= spec.training.crop:
            return
    raise SkipshiftError(
        f"training.crop: {spec.training.crop} is larger than every training image of "
        f"{spec.manifest}; choose at most {max(STRIDE, largest // STRIDE * STRIDE)}"
    )


def _check_sizes(images: "pd.Series[str]") -> None:
    """Raise for images of several sizes in a profile, whose features are one array."""
    first = image_size(Path(images.iloc[0]))
    for file in images:
        size = image_size(Path(file))
        if size != first:
            raise SkipshiftError(
                f"{file}: is {size[0]} x {size[1]}, other test images of its domain are "
                f"{first[0]} x {first[1]}; set evaluation_crop, or profile_shifts to []"
            )


def _check_spacing(manifest: Path, test: pd.DataFrame) -> None:
    """`SkipshiftError` names the first test case whose pixels have no known size."""
    for case, text in zip(test["case"], test.get("spacing", [""] * len(test)), strict=True):
        if parse_spacing(text) is None:
            raise SkipshiftError(
                f"{manifest}: case {case} has no spacing, and the tolerance of surface_dice is in "
                f"mm; add it to the column spacing, or give the tolerance in px"
            )


def _known_precision(spec: StudySpec, out: Path) -> Precision:
    """Precision that the settings ask for or, where that is ``auto``, that the study began with."""
    asked = spec.training.precision
    if asked != "auto":
        return asked
    began = read_sealed(out / records.ENVIRONMENT) or {}
    notes = map(read_made, sorted((out / records.RUNS).glob("*")))
    # should environment.json be lost, any run tells
    trained = [note[records.RUN_RECORD]["inputs"] for note in notes if records.RUN_RECORD in note]
    known = [began, *(inputs["training"] for inputs in trained)]
    return next((each["precision"] for each in known if "precision" in each), "auto")
