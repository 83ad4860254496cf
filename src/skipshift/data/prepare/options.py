"""What sets to make or prepare, as frozen dataclasses; as `skipshift.specs`, free of torch."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from skipshift.errors import ArgumentError


@dataclass(frozen=True)
class SynthSpec:
    """Make the paper's synthetic malaria set (section III-A): images, masks and a manifest.

    With no smear the templates are drawn by the program. A smear needs boxes of one background,
    three cells and three artifacts: from a template file, from a BBBC041 annotation file, from the
    files that skipshift ships for two named BBBC041 images, or found automatically.
    """

    out: Path
    """Folder to write: images/, masks/, manifest.csv, synth.json, templates.png.

    From a smear also templates.json, the boxes that were cut, to correct and give as templates.
    """

    smear: Path | None = field(default=None, kw_only=True)
    """RGB picture of a real blood smear to cut templates from."""

    templates: Path | None = field(default=None, kw_only=True)
    """JSON file with the boxes to cut from the smear."""

    boxes: Path | None = field(default=None, kw_only=True)
    """BBBC041 annotation file (training.json) from which to pick the three cells."""

    images: int = field(default=1000, kw_only=True)
    """How many images to make."""

    cells: tuple[int, int] = field(default=(1, 100), kw_only=True)
    """Lowest and highest number of cells in an image, both included."""

    size: int = field(default=512, kw_only=True)
    """Side of the finished image in pixels."""

    canvas: int = field(default=1500, kw_only=True)
    """Side of the canvas on which cells are placed, in pixels, before it is resized."""

    holdout: float = field(default=0.2, kw_only=True)
    """Share of the images that form the hold-out test set."""

    seed: int = field(default=0, kw_only=True)
    """Seed; image i depends on (seed, i) alone."""

    workers: int = field(default_factory=lambda: os.cpu_count() or 1, kw_only=True)
    """Threads that make images; the bytes do not depend on it."""

    def __post_init__(self) -> None:
        low, high = self.cells
        if not 1 <= low <= high:
            raise ArgumentError(f"cells must be two numbers 1 <= LOW <= HIGH, got {low} {high}")
        if self.images < 1:
            raise ArgumentError(f"images must be at least 1, got {self.images}")
        if not 32 <= self.size <= self.canvas <= 20000:
            raise ArgumentError(
                f"size and canvas must be 32 <= size <= canvas <= 20000, "
                f"got {self.size} and {self.canvas}"
            )
        if not 0 <= self.holdout < 1:
            raise ArgumentError(f"holdout must be in [0, 1), got {self.holdout}")
        if self.seed < 0:
            raise ArgumentError(f"seed must be >= 0, got {self.seed}")
        if self.workers < 1:
            raise ArgumentError(f"workers must be at least 1, got {self.workers}")
        if self.smear is None and (self.templates or self.boxes):
            raise ArgumentError("templates and boxes belong to a smear: give smear too")
        if self.templates and self.boxes:
            raise ArgumentError("give templates or boxes, not both")


@dataclass(frozen=True)
class MmsSpec:
    """Prepare the M&Ms cardiac MR challenge as the paper's MV-MR set (section III-D).

    Reads the challenge as distributed (folders ID/ID_sa.nii.gz and ID_sa_gt.nii.gz below Training,
    Validation and Testing, and the information CSV), or volumes of one phase each with an index.csv
    of patient, vendor, centre, phase, image, label. Every labelled slice is a case.
    """

    src: Path
    """Folder with the information CSV or with index.csv."""

    out: Path
    """Folder to write: images/, masks/, manifest.csv, prepare.json."""

    centres: tuple[str, ...] = field(default=("A:1", "B:2", "C:4", "D:5"), kw_only=True)
    """VENDOR:CENTRE of each domain; the domain is named by the vendor."""

    train: str = field(default="A", kw_only=True)
    """Vendor that is trained on."""

    train_subjects: int = field(default=75, kw_only=True)
    """Training subjects, from the challenge's training part."""

    test_subjects: int = field(default=16, kw_only=True)
    """Test subjects of each vendor, from the testing part before the others."""

    leave_out: tuple[str, ...] = field(default=(), kw_only=True)
    """Subjects to leave out, by their ID."""

    keep_empty: bool = field(default=False, kw_only=True)
    """Keep slices of a labelled frame that hold no label. Not stated in the paper."""

    seed: int = field(default=0, kw_only=True)
    """Seed of the draw of subjects where there are more than asked for."""

    workers: int = field(default_factory=lambda: os.cpu_count() or 1, kw_only=True)
    """Threads that read volumes; the bytes do not depend on it."""

    def __post_init__(self) -> None:
        vendors = [text.partition(":")[0] for text in self.centres]
        if not all(all(text.partition(":")) for text in self.centres):
            raise ArgumentError(f"centres must be VENDOR:CENTRE, got {' '.join(self.centres)}")
        if len(set(vendors)) != len(vendors):
            raise ArgumentError(f"centres must name each vendor once, got {' '.join(self.centres)}")
        if self.train not in vendors:
            raise ArgumentError(f"train must be one of the vendors {vendors}, got {self.train!r}")
        if min(self.train_subjects, self.test_subjects) < 1:
            raise ArgumentError(
                f"train_subjects and test_subjects must be at least 1, "
                f"got {self.train_subjects} and {self.test_subjects}"
            )
        if self.seed < 0:
            raise ArgumentError(f"seed must be >= 0, got {self.seed}")
        if self.workers < 1:
            raise ArgumentError(f"workers must be at least 1, got {self.workers}")


@dataclass(frozen=True)
class FolderSpec:
    """Prepare any folders of images and masks: PNG, TIFF, JPEG, BMP, NPY or NIfTI, 8 or 16 bit.

    A pattern is a path below SRC with * for any text and the fields {domain}, {group} and {case}
    for text that means something. What a pattern does not tell, a table may. NIfTI volumes are cut
    into slices along their third axis.
    """

    src: Path
    """Folder with everything below it."""

    out: Path
    """Folder to write: images/, masks/, manifest.csv, prepare.json."""

    images: str = field(default="{domain}/images/{case}.*", kw_only=True)
    """Pattern of the images."""

    masks: tuple[str, ...] = field(default=("{domain}/masks/{case}.*",), kw_only=True)
    """Pattern of the masks; or NAME=PATTERN of each class, painted in order where above 0."""

    classes: tuple[str, ...] = field(default=(), kw_only=True)
    """Name of each mask value 0, 1, ...; what the masks name, or background and object."""

    colours: tuple[str, ...] = field(default=(), kw_only=True)
    """NAME=#RRGGBB or NAME=VALUE of each colour or level of the masks; the first is class 0."""

    instances: bool = field(default=False, kw_only=True)
    """Masks number their objects: any value above 0 is class 1; several files are put together."""

    border: bool = field(default=False, kw_only=True)
    """With instances, the outermost pixels of each object are class 2."""

    channels: Literal[1, 3] | None = field(default=None, kw_only=True)
    """Write all images grey (1) or in colour (3); as they are if absent."""

    rescale: bool = field(default=False, kw_only=True)
    """Stretch each image or slice to the full range; for numbers that are not of 8 or 16 bits."""

    square: bool = field(default=False, kw_only=True)
    """Cut the centred square whose side is the shorter side down to a multiple of 32."""

    table: Path | None = field(default=None, kw_only=True)
    """CSV below SRC with a row per image: case, and any of domain, group, split, stratum."""

    columns: tuple[str, ...] = field(default=(), kw_only=True)
    """NAME=COLUMN where the table calls case, domain, group, split or stratum otherwise."""

    train: tuple[str, ...] = field(default=(), kw_only=True)
    """Domains that are trained on; all others are for testing. The only domain if absent."""

    holdout: float = field(default=0.2, kw_only=True)
    """Share of the groups of the training domains that is held out, equal in each stratum."""

    seed: int = field(default=0, kw_only=True)
    """Seed of the hold-out."""

    workers: int = field(default_factory=lambda: os.cpu_count() or 1, kw_only=True)
    """Threads that read images; the bytes do not depend on it."""

    def __post_init__(self) -> None:
        named = ["=" in text for text in self.masks]
        if not self.masks or (any(named) and not all(named)) or named.count(False) > 1:
            raise ArgumentError(
                f"masks must be one pattern, or NAME=PATTERN each, got {list(self.masks)}"
            )
        if sum((bool(self.colours), self.instances, any(named))) > 1:
            raise ArgumentError("colours, instances and masks of NAME=PATTERN exclude each other")
        if self.border and not self.instances:
            raise ArgumentError("border belongs to instances: give instances too")
        if not 0 <= self.holdout < 1:
            raise ArgumentError(f"holdout must be in [0, 1), got {self.holdout}")
        if self.columns and self.table is None:
            raise ArgumentError("columns belong to a table: give table too")
        if self.seed < 0:
            raise ArgumentError(f"seed must be >= 0, got {self.seed}")
        if self.workers < 1:
            raise ArgumentError(f"workers must be at least 1, got {self.workers}")


@dataclass(frozen=True)
class RegisterSpec:
    """Find where each place of a slide lies on another scan of the same specimen.

    The whole slide is fitted first and then quarter by quarter, each by features of its own finer
    view. Matches that were held out tell how far off a place may be. Writes registration.json,
    pictures of both scans in turn, and annotations carried from FIXED to MOVING.
    """

    fixed: Path
    """Slide whose places, and annotations, are carried."""

    moving: Path
    """Slide that they are carried to."""

    out: Path
    """Folder to write."""

    annotations: Path | None = field(default=None, kw_only=True)
    """JSON or SlideRunner database that holds annotations of FIXED, to carry to MOVING."""

    depth: int = field(default=4, kw_only=True)
    """How often the slide is quartered at most."""

    side: int = field(default=768, kw_only=True)
    """Longer side of the view of a part, in its own pixels."""

    workers: int = field(default_factory=lambda: os.cpu_count() or 1, kw_only=True)
    """Threads; the result does not depend on it."""

    def __post_init__(self) -> None:
        _check_least(self, depth=0, side=128, workers=1)


@dataclass(frozen=True)
class SccSpec:
    """Prepare whole-slide images with outlines of tissues as the paper's MS-CCT set (III-C).

    Reads slides named SPECIMEN_SCANNER.* or in a folder SCANNER below SRC, the polygons of CATCH
    or of the multi-scanner SCC set (COCO-style JSON or a SlideRunner database), and the table
    Slide;Dataset that says which specimens are train, val (trained on too: folds are drawn by the
    study) and test. Specimens for training give patches drawn at random, those for testing a grid.
    """

    src: Path
    """Folder with the slides, their annotations and the table below it."""

    out: Path
    """Folder to write: images/, masks/, manifest.csv, prepare.json."""

    annotations: Path | None = field(default=None, kw_only=True)
    """JSON or SlideRunner database below SRC; the only one if absent."""

    table: Path | None = field(default=None, kw_only=True)
    """CSV below SRC with the columns Slide;Dataset; the only CSV if absent."""

    scanners: tuple[str, ...] = field(
        default=("A=cs2", "B=nz210", "C=nz20", "D=p1000", "E=gt450"), kw_only=True
    )
    """DOMAIN=SCANNER of each; regions are chosen on a specimen's first scan with outlines."""

    train: tuple[str, ...] = field(default=("A",), kw_only=True)
    """Domains whose slides of training specimens are cut; test specimens are cut in all."""

    patches: int = field(default=32, kw_only=True)
    """Patches drawn from each slide for training; 32 is an epoch of the paper."""

    size: int = field(default=512, kw_only=True)
    """Side of a patch in its own pixels."""

    mpp: float | None = field(default=None, kw_only=True)
    """Micrometres of a patch's pixel; the full resolution of each slide if absent."""

    tissue: float = field(default=0.5, kw_only=True)
    """Share of a test patch that must be more than that tissue."""

    registrations: Path | None = field(default=None, kw_only=True)
    """Folder of DOMAIN/SPECIMEN/registration.json that say where the first scan lies on others."""

    labels: tuple[str, ...] = field(default=(), kw_only=True)
    """NAME=background, NAME=non-tumor or NAME=tumor of annotated classes that CATCH has not."""

    holdout: float = field(default=0.2, kw_only=True)
    """Share of the specimens that is for testing where there is no table."""

    seed: int = field(default=0, kw_only=True)
    """Seed of the hold-out and of the draws; those of a specimen hang on no other."""

    workers: int = field(default_factory=lambda: os.cpu_count() or 1, kw_only=True)
    """Threads that read slides; the bytes do not depend on it."""

    def __post_init__(self) -> None:
        pairs = [text.partition("=") for text in self.scanners]
        names = [[domain for domain, _, _ in pairs], [scanner for _, _, scanner in pairs]]
        if not pairs or not all(map(all, pairs)) or any(len(set(n)) < len(n) for n in names):
            raise ArgumentError(
                f"scanners must be DOMAIN=SCANNER, each once, got {' '.join(self.scanners)}"
            )
        if not set(self.train) <= set(names[0]):
            raise ArgumentError(f"train must be some of the domains {names[0]}, got {self.train}")
        if self.size < 32 or self.size % 32:
            raise ArgumentError(f"size must be a multiple of 32, got {self.size}")
        if self.mpp is not None and self.mpp <= 0:
            raise ArgumentError(f"mpp must be above 0, got {self.mpp}")
        for name in ("tissue", "holdout"):
            if not 0 <= getattr(self, name) < 1:
                raise ArgumentError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for text in self.labels:
            if not re.fullmatch(r".+=(background|non-tumor|tumor)", text):
                raise ArgumentError(
                    f"labels must be NAME=background, =non-tumor or =tumor, got {text!r}"
                )
        _check_least(self, patches=1, seed=0, workers=1)


def _check_least(spec: Any, **least: int) -> None:
    for name, number in least.items():
        if getattr(spec, name) < number:
            raise ArgumentError(f"{name} must be at least {number}, got {getattr(spec, name)}")


@dataclass(frozen=True)
class MitosisSpec:
    """Prepare slides with points on mitotic figures as the paper's MS-MF set (section III-B).

    Reads the annotations of MIDOG 2021 and MIDOG++ (JSON) and of MITOS_WSI_CMC (SlideRunner), and
    slides or TIFF regions as SCANNER/SLIDE.*, or with the scanner in a table. Every figure is a
    patch with the figure in its middle. Masks are proposed from the points, to be reviewed.
    """

    src: Path
    """Folder with the annotations and, below it, the slides."""

    out: Path
    """Folder to write: images/, masks/, manifest.csv, prepare.json, and review/ if asked for."""

    annotations: tuple[Path, ...] = field(default=(), kw_only=True)
    """JSON or SlideRunner databases, by their paths below SRC; all in SRC itself if absent."""

    tables: tuple[Path, ...] = field(default=(), kw_only=True)
    """CSVs below SRC: Slide and any of Dataset (train, val, test), Scanner and Specimen."""

    scanners: tuple[str, ...] = field(default=(), kw_only=True)
    """DOMAIN=SCANNER where a domain is to be named otherwise; several may be one domain."""

    labels: tuple[str, ...] = field(default=(), kw_only=True)
    """NAME=figure, NAME=negative or NAME=other of annotated classes that those sets have not."""

    train: str = field(default="A", kw_only=True)
    """Domain that is trained on, and whose annotations are carried to other scans of a slide."""

    holdout: int = field(default=4, kw_only=True)
    """Slides of that domain that are for testing, where no table has a Dataset."""

    leave_out: tuple[str, ...] = field(default=(), kw_only=True)
    """Slides to leave out, by the names of their files."""

    hard_negatives: bool = field(default=False, kw_only=True)
    """Cut patches around cells that look like mitotic figures and are none, too."""

    size: int = field(default=128, kw_only=True)
    """Side of a patch in its own pixels."""

    mpp: float | None = field(default=None, kw_only=True)
    """Micrometres of a patch's pixel; the full resolution of each slide if absent."""

    registrations: Path | None = field(default=None, kw_only=True)
    """Folder of DOMAIN/SPECIMEN/registration.json that carry points to other scans."""

    most_error: float = field(default=1.0, kw_only=True)
    """Micrometres by which a registration may be off where a point is, or it is left out."""

    proposals: Path | None = field(default=None, kw_only=True)
    """Network that proposes the masks, class 1 a mitotic figure; a threshold if absent."""

    net: str | None = field(default=None, kw_only=True)
    """Function that makes that network for a file of weights, module:function."""

    preprocess: str = field(default="unit", kw_only=True)
    """What is done to its images: unit, minmax, zscore, imagenet, none or module:function."""

    review: bool = field(default=False, kw_only=True)
    """Write pages that show every mask that is not reviewed, to judge and to paint."""

    corrections: Path | None = field(default=None, kw_only=True)
    """Folder of what came back: CASE.png as painted, CSVs of case,mark,mask."""

    seed: int = field(default=0, kw_only=True)
    """Seed of the hold-out."""

    workers: int = field(default_factory=lambda: os.cpu_count() or 1, kw_only=True)
    """Threads that read slides; the bytes do not depend on it."""

    def __post_init__(self) -> None:
        if not all(all(text.rpartition("=")) for text in self.scanners):
            raise ArgumentError(f"scanners must be DOMAIN=SCANNER, got {' '.join(self.scanners)}")
        kinds = {text.rpartition("=")[2] for text in self.labels}
        if not kinds <= {"figure", "negative", "other"}:
            raise ArgumentError(
                f"labels must be NAME=figure, =negative or =other, got {' '.join(self.labels)}"
            )
        for name in ("holdout", "workers"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not min(self.mpp or 1.0, self.most_error) > 0:
            raise ArgumentError(
                f"mpp and most_error must be above 0, got {self.mpp} and {self.most_error}"
            )
        if self.size < 32 or self.size % 32:
            raise ArgumentError(f"size must be a multiple of 32, got {self.size}")
        if self.proposals is None and (self.net or self.preprocess != "unit"):
            raise ArgumentError("net and preprocess belong to proposals: give proposals too")
        if self.seed < 0:
            raise ArgumentError(f"seed must be at least 0, got {self.seed}")
