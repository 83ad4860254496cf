"""Options of `synth`, `register` and the `prepare` readers, as frozen dataclasses.

Each is the argument of a function and of its command alike; the docstrings are the command's help.
This module must stay free of torch, so that help starts at once.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from skipshift.errors import ArgumentError
from skipshift.names import shown
from skipshift.validation import (
    check_fractions,
    check_least,
    check_most,
    check_names,
    check_numbers,
)

_MOST_IMAGES, _MOST_CELLS = 1_000_000, 10_000
"""Bounds far above any set in use, so that a slip of the keyboard fills no disk."""


def cpu_count() -> int:
    """Count the CPUs, the default number of threads."""
    return os.cpu_count() or 1


@dataclass(frozen=True)
class SynthSpec:
    """Generate the paper's synthetic malaria set (section III-A): images, masks and a manifest.

    By default the templates are drawn procedurally. With --smear they are cut from a real blood
    smear: one background, three cells and three artifacts. Their boxes come from --templates, from
    a BBBC041 annotation file (--boxes), or from the files shipped for two BBBC041 images; otherwise
    they are detected automatically.

    Artifacts are cut out along their stain, as cells are, and the mask does not change where one
    lies on a cell. Neither is stated in the paper.

    Example: skipshift synth out/synthetic --images 100
    """

    out: Path
    """Output folder: images/, masks/, manifest.csv, synth.json, templates.png.

    With a smear also templates.json: the boxes that were cut, to edit and pass as --templates.
    """

    smear: Path | None = field(default=None, kw_only=True)
    """RGB image of a real blood smear to cut the templates from."""

    templates: Path | None = field(default=None, kw_only=True)
    """JSON file with the boxes to cut from the smear."""

    boxes: Path | None = field(default=None, kw_only=True)
    """BBBC041 annotation file (training.json) to pick the three cells from."""

    images: int = field(default=1000, kw_only=True)
    """Number of images."""

    cells: tuple[int, int] = field(default=(1, 100), kw_only=True)
    """Minimum and maximum number of cells in an image, both included."""

    size: int = field(default=512, kw_only=True)
    """Side of the final image in pixels."""

    canvas: int = field(default=1500, kw_only=True)
    """Side of the canvas in pixels on which cells are placed before it is resized."""

    holdout: float = field(default=0.2, kw_only=True)
    """Fraction of the images in the hold-out test set."""

    seed: int = field(default=0, kw_only=True)
    """Random seed; image i depends on (seed, i) only."""

    workers: int = field(default_factory=cpu_count, kw_only=True)
    """Number of threads; does not affect the output."""

    def __post_init__(self) -> None:
        check_numbers(self)
        low, high = self.cells
        if not 1 <= low <= high:
            raise ArgumentError(f"cells must be two numbers 1 <= LOW <= HIGH, got {low},{high}")
        if high > _MOST_CELLS:
            raise ArgumentError(f"cells must be at most {_MOST_CELLS}, got {high}")
        if not 32 <= self.size <= self.canvas <= 20000:
            raise ArgumentError(
                f"size and canvas must be 32 <= size <= canvas <= 20000, "
                f"got {self.size} and {self.canvas}"
            )
        if self.smear is None and (self.templates or self.boxes):
            raise ArgumentError("templates and boxes need smear")
        if self.templates and self.boxes:
            raise ArgumentError("templates and boxes exclude each other")
        check_fractions(self, "holdout")
        check_least(self, 1, "images", "workers")
        check_most(self, _MOST_IMAGES, "images")
        check_least(self, 0, "seed")


@dataclass(frozen=True)
class MmsSpec:
    """Convert the M&Ms cardiac MR challenge to the paper's MV-MR set (section III-D).

    SRC is the challenge as distributed (ID/ID_sa.nii.gz and ID_sa_gt.nii.gz under Training,
    Validation and Testing, with the information CSV), or one volume per phase with an index.csv of
    patient, vendor, centre, phase, image, label. Every labelled slice becomes a case.

    Example: skipshift prepare mms OpenDataset out/mv-mr
    """

    src: Path
    """Folder with the information CSV or with index.csv."""

    out: Path
    """Output folder: images/, masks/, manifest.csv, prepare.json."""

    centres: tuple[str, ...] = field(default=("A:1", "B:2", "C:4", "D:5"), kw_only=True)
    """VENDOR:CENTRE of each domain; the domain is named after the vendor."""

    train: str = field(default="A", kw_only=True)
    """Vendor of the training set (source domain)."""

    train_subjects: int = field(default=75, kw_only=True)
    """Number of training subjects, drawn from the challenge's training part."""

    test_subjects: int = field(default=16, kw_only=True)
    """Number of test subjects per vendor, drawn from the testing part first."""

    leave_out: tuple[str, ...] = field(default=(), kw_only=True)
    """IDs of subjects to exclude."""

    keep_empty: bool = field(default=False, kw_only=True)
    """Keep slices without a label in labelled frames, mostly at base and apex; left out by default.
    What it does with them is not stated in the paper."""

    seed: int = field(default=0, kw_only=True)
    """Random seed for drawing subjects where there are more than requested."""

    workers: int = field(default_factory=cpu_count, kw_only=True)
    """Number of threads; does not affect the output."""

    def __post_init__(self) -> None:
        check_numbers(self)
        vendors = [text.partition(":")[0] for text in self.centres]
        if not all(all(text.partition(":")) for text in self.centres):
            raise ArgumentError(f"centres must be VENDOR:CENTRE, got {shown(self.centres)}")
        if len(set(vendors)) != len(vendors):
            raise ArgumentError(f"centres must name each vendor once, got {shown(self.centres)}")
        if self.train not in vendors:
            raise ArgumentError(
                f"train must be one of the vendors {shown(vendors)}, got {self.train}"
            )
        check_least(self, 1, "train_subjects", "test_subjects", "workers")
        check_least(self, 0, "seed")


@dataclass(frozen=True)
class FolderSpec:
    """Convert any folders of images and masks: pictures, arrays or volumes of 8 or 16 bit.

    A pattern is a path relative to SRC in which * matches any text and {domain}, {group} and {case}
    match the text they name. Fields that the paths do not contain may come from a table. Volumes
    are split into slices along their third axis. Formats: PNG, JPEG, TIFF, BMP, GIF, WebP, JP2, PGM
    and PPM; NPY and NPZ; NIfTI, MetaImage, NRRD, DICOM (also a folder with a series) and OME-Zarr.

    Example: skipshift prepare folder SCANS out/scans --train A
    """

    src: Path
    """Folder that contains all images and masks."""

    out: Path
    """Output folder: images/, masks/, manifest.csv, prepare.json."""

    images: str = field(default="{domain}/images/{case}.*", kw_only=True)
    """Pattern of the image paths."""

    masks: tuple[str, ...] = field(default=("{domain}/masks/{case}.*",), kw_only=True)
    """Pattern of the mask paths; or NAME=PATTERN per class, where above 0, later ones on top."""

    classes: tuple[str, ...] = field(default=(), kw_only=True)
    """Names of the mask values 0, 1, ...; by default those in --masks, or background and object."""

    colours: tuple[str, ...] = field(default=(), kw_only=True)
    """NAME=#RRGGBB or NAME=VALUE for each colour or value in the masks; the first is class 0."""

    instances: bool = field(default=False, kw_only=True)
    """Instance masks: every value above 0 is class 1; several files per image are merged."""

    threshold: int | None = field(default=None, kw_only=True)
    """Mask values above it are objects, all others background; by default every value above 0, or
    the nearer of two levels where nearly all values are near one (JPEG, resized masks)."""

    ignore: int | None = field(default=None, kw_only=True)
    """Mask value of pixels that are not to be counted; they become 255."""

    valid: str | None = field(default=None, kw_only=True)
    """Pattern of the field-of-view masks, one per image: where they are 0, the mask becomes 255,
    which is not counted."""

    pages: tuple[Literal["channels", "slices", "objects"], ...] = field(default=(), kw_only=True)
    """What the pages of TIFF files are: channels or slices of an image, or objects of a mask."""

    border: bool = field(default=False, kw_only=True)
    """With --instances, label the outermost pixels of each object as class 2."""

    channels: Literal[1, 3] | None = field(default=None, kw_only=True)
    """Convert all images to grey (1) or colour (3); by default the channels are kept."""

    rescale: bool = field(default=False, kw_only=True)
    """Rescale each image or slice to the full 16-bit range; for data other than 8 or 16 bit."""

    square: bool = field(default=False, kw_only=True)
    """Crop the centred square whose side is the shorter side rounded down to a multiple of 32."""

    table: Path | None = field(default=None, kw_only=True)
    """CSV in SRC with one row per image: case, and any of domain, group, split, stratum."""

    columns: tuple[str, ...] = field(default=(), kw_only=True)
    """NAME=COLUMN if the table uses other names for case, domain, group, split or stratum."""

    train: tuple[str, ...] = field(default=(), kw_only=True)
    """Training (source) domains; all others are test domains. Optional if there is only one."""

    holdout: float = field(default=0.2, kw_only=True)
    """Fraction of the groups of the training domains held out for testing, stratified."""

    seed: int = field(default=0, kw_only=True)
    """Random seed of the hold-out."""

    workers: int = field(default_factory=cpu_count, kw_only=True)
    """Number of threads; does not affect the output."""

    def __post_init__(self) -> None:
        check_numbers(self)
        check_names("classes", self.classes)
        named = ["=" in text for text in self.masks]
        if not self.masks or (any(named) and not all(named)) or named.count(False) > 1:
            raise ArgumentError(
                "masks must be one pattern, or NAME=PATTERN for each class, "
                f"got {shown(self.masks)}"
            )
        instances = self.instances or "objects" in self.pages
        if sum((bool(self.colours), instances, any(named))) > 1:
            raise ArgumentError(
                "colours, instances, pages of objects and masks of NAME=PATTERN exclude each other"
            )
        if self.border and not self.instances:
            raise ArgumentError("border needs instances")
        _check_masks(self)
        if self.columns and self.table is None:
            raise ArgumentError("columns need table")
        check_fractions(self, "holdout")
        check_least(self, 0, "seed")
        check_least(self, 1, "workers")


@dataclass(frozen=True)
class MergeSpec:
    """Join the sets of several manifests into one, for domains that lie in different layouts.

    Images, masks and columns are kept, and so is the split: prepare each set with its own.

    Example: skipshift prepare merge out/all --manifests a.csv,b.csv
    """

    out: Path
    """Output folder: images/, masks/, manifest.csv, prepare.json."""

    manifests: tuple[Path, ...] = field(default=(), kw_only=True)
    """Manifests to join, two or more."""

    workers: int = field(default_factory=cpu_count, kw_only=True)
    """Number of threads; does not affect the output."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if len(set(self.manifests)) < max(2, len(self.manifests)):
            raise ArgumentError(
                f"manifests must be two or more, each once, got {shown(self.manifests)}"
            )
        check_least(self, 1, "workers")


def _check_masks(spec: FolderSpec) -> None:
    if spec.colours and spec.threshold is not None:
        raise ArgumentError("colours and threshold exclude each other")
    if any("=#" in text for text in spec.colours) and spec.ignore is not None:
        raise ArgumentError("ignore needs masks of values, got colours; give them as NAME=VALUE")
    for name in ("threshold", "ignore"):
        value = getattr(spec, name)
        if value is not None and value < 0:
            raise ArgumentError(f"{name} must be at least 0, got {value}")
    if len(set(spec.pages)) < len(spec.pages):
        raise ArgumentError(f"pages must name each kind once, got {shown(spec.pages)}")
