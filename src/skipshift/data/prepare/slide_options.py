"""Options of `register` and of the `prepare` readers of whole slides, as frozen dataclasses."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from skipshift.data.prepare.options import cpu_count
from skipshift.errors import ArgumentError
from skipshift.names import shown
from skipshift.validation import check_crop, check_fractions, check_least, check_numbers


@dataclass(frozen=True)
class RegisterSpec:
    """Register two slides of the same specimen: map each point of one to the other.

    The whole slide is aligned first, then recursively its quarters (a quad-tree), each from
    features at a finer scale. Held-out matches estimate the registration error. Writes
    registration.json, checkerboard pictures, and annotations transferred from FIXED to MOVING.

    Example: skipshift register A/s1.svs B/s1.tif registrations/B/s1
    """

    fixed: Path
    """Slide whose points and annotations are transferred."""

    moving: Path
    """Slide to transfer them to."""

    out: Path
    """Output folder."""

    annotations: Path | None = field(default=None, kw_only=True)
    """Annotations of FIXED to transfer to MOVING: COCO-style JSON, SlideRunner or QuPath."""

    depth: int = field(default=4, kw_only=True)
    """Maximum depth of the quad-tree."""

    side: int = field(default=768, kw_only=True)
    """Longer side in pixels of the image in which each part is matched."""

    workers: int = field(default_factory=cpu_count, kw_only=True)
    """Number of threads; does not affect the output."""

    def __post_init__(self) -> None:
        check_numbers(self)
        check_least(self, 0, "depth")
        check_least(self, 128, "side")
        check_least(self, 1, "workers")


@dataclass(frozen=True)
class SccSpec:
    """Convert whole-slide images with tissue outlines to the paper's MS-CCT set (section III-C).

    SRC holds slides named SPECIMEN_SCANNER.* or in a folder SCANNER, the polygons of CATCH or of
    the multi-scanner SCC set (COCO-style JSON or a SlideRunner database), and the table
    Slide;Dataset, which assigns specimens to train, val (used for training: a study draws its own
    folds) or test. Training specimens give random patches, test specimens a grid.

    Example: skipshift prepare scc SLIDES out/ms-cct --patches 32
    """

    src: Path
    """Folder that contains the slides, their annotations and the table."""

    out: Path
    """Output folder: images/, masks/, manifest.csv, prepare.json."""

    annotations: Path | None = field(default=None, kw_only=True)
    """JSON, SlideRunner database or folder of QuPath's GeoJSON in SRC; optional if there is one."""

    table: Path | None = field(default=None, kw_only=True)
    """CSV in SRC with the columns Slide;Dataset; optional if there is only one CSV."""

    scanners: tuple[str, ...] = field(
        default=("A=cs2", "B=nz210", "C=nz20", "D=p1000", "E=gt450"), kw_only=True
    )
    """DOMAIN=SCANNER of each; the first scan with outlines is a specimen's reference scan."""

    train: tuple[str, ...] = field(default=("A",), kw_only=True)
    """Training (source) domains; test specimens are cut in all domains."""

    patches: int = field(default=32, kw_only=True)
    """Random patches per training slide, drawn once: every epoch sees the same. The paper draws 32
    anew in each of its 50 epochs, which are up to 1,600 different ones."""

    size: int = field(default=512, kw_only=True)
    """Side of a patch in pixels."""

    mpp: float | None = field(default=None, kw_only=True)
    """Resolution of the patches in micrometres per pixel; full resolution by default."""

    tissue: float = field(default=0.5, kw_only=True)
    """Minimum fraction of tissue in a test patch."""

    registrations: Path | None = field(default=None, kw_only=True)
    """Folder of DOMAIN/SPECIMEN/registration.json from the reference scan to the other scans."""

    labels: tuple[str, ...] = field(default=(), kw_only=True)
    """NAME=background, NAME=non-tumor or NAME=tumor for annotated classes unknown to CATCH."""

    holdout: float = field(default=0.2, kw_only=True)
    """Fraction of test specimens if there is no table."""

    seed: int = field(default=0, kw_only=True)
    """Random seed of the hold-out and of the patches; each specimen is drawn independently."""

    workers: int = field(default_factory=cpu_count, kw_only=True)
    """Number of threads; does not affect the output."""

    def __post_init__(self) -> None:
        check_numbers(self)
        pairs = [text.partition("=") for text in self.scanners]
        names = [[domain for domain, _, _ in pairs], [scanner for _, _, scanner in pairs]]
        if not pairs or not all(map(all, pairs)) or any(len(set(n)) < len(n) for n in names):
            raise ArgumentError(
                f"scanners must be DOMAIN=SCANNER, each once, got {shown(self.scanners)}"
            )
        if not set(self.train) <= set(names[0]):
            raise ArgumentError(
                f"train must be some of the domains {shown(names[0])}, got {shown(self.train)}"
            )
        if self.mpp is not None and not self.mpp > 0:
            raise ArgumentError(f"mpp must be above 0, got {self.mpp}")
        for text in self.labels:
            if not re.fullmatch(r".+=(background|non-tumor|tumor)", text):
                raise ArgumentError(
                    f"labels must be NAME=background, =non-tumor or =tumor, got {text!r}"
                )
        check_crop("size", self.size)
        check_fractions(self, "tissue", "holdout")
        check_least(self, 1, "patches", "workers")
        check_least(self, 0, "seed")


@dataclass(frozen=True)
class MitosisSpec:
    """Convert slides with points on mitotic figures to the paper's MS-MF set (section III-B).

    SRC holds the annotations of MIDOG 2021, MIDOG++ (JSON) or MITOS_WSI_CMC (SlideRunner), and
    slides or TIFF regions as SCANNER/SLIDE.*, or with the scanner in a table. Every figure gives a
    patch centred on it. Masks are proposed from the points, for review.

    Example: skipshift prepare mitosis SLIDES out/ms-mf --review
    """

    src: Path
    """Folder with the annotations and, below it, the slides."""

    out: Path
    """Output folder: images/, masks/, manifest.csv, prepare.json, and with --review review/."""

    annotations: tuple[Path, ...] = field(default=(), kw_only=True)
    """JSON, GeoJSON or SlideRunner files in SRC; by default all that lie directly in SRC."""

    tables: tuple[Path, ...] = field(default=(), kw_only=True)
    """CSVs in SRC: Slide and any of Dataset (train, val, test), Scanner and Specimen."""

    scanners: tuple[str, ...] = field(default=(), kw_only=True)
    """DOMAIN=SCANNER to rename a scanner's domain; several scanners may share a domain."""

    labels: tuple[str, ...] = field(default=(), kw_only=True)
    """NAME=figure, NAME=negative or NAME=other for annotated classes unknown to these sets."""

    train: str = field(default="A", kw_only=True)
    """Training (source) domain, whose annotations are transferred to other scans of a slide."""

    holdout: int = field(default=4, kw_only=True)
    """Number of test slides in the training domain if no table has a Dataset."""

    leave_out: tuple[str, ...] = field(default=(), kw_only=True)
    """File names of slides to exclude."""

    hard_negatives: bool = field(default=False, kw_only=True)
    """Also cut patches around hard negatives: cells that resemble mitotic figures."""

    size: int = field(default=128, kw_only=True)
    """Side of a patch in pixels."""

    mpp: float | None = field(default=None, kw_only=True)
    """Resolution of the patches in micrometres per pixel; full resolution by default."""

    registrations: Path | None = field(default=None, kw_only=True)
    """Folder of DOMAIN/SPECIMEN/registration.json that transfer points to other scans."""

    most_error: float = field(default=1.0, kw_only=True)
    """Maximum registration error at a point in micrometres; points above it are left out."""

    proposals: Path | None = field(default=None, kw_only=True)
    """Network that proposes the masks (class 1: mitotic figure); Otsu's threshold by default."""

    builder: str | None = field(default=None, kw_only=True)
    """Function that builds this network for a weights file, module:function."""

    preprocess: str = field(default="unit", kw_only=True)
    """Preprocessing of its input: unit, minmax, zscore, imagenet, none or module:function."""

    review: bool = field(default=False, kw_only=True)
    """Write pages to check and correct every mask that has not been reviewed."""

    corrections: Path | None = field(default=None, kw_only=True)
    """Folder with review results: CSVs of case,mark,mask and repainted masks CASE.png."""

    seed: int = field(default=0, kw_only=True)
    """Random seed of the hold-out."""

    workers: int = field(default_factory=cpu_count, kw_only=True)
    """Number of threads; does not affect the output."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if not all(all(text.rpartition("=")) for text in self.scanners):
            raise ArgumentError(f"scanners must be DOMAIN=SCANNER, got {shown(self.scanners)}")
        kinds = {text.rpartition("=")[2] for text in self.labels}
        if not kinds <= {"figure", "negative", "other"}:
            raise ArgumentError(
                f"labels must be NAME=figure, =negative or =other, got {shown(self.labels)}"
            )
        if not min(1.0 if self.mpp is None else self.mpp, self.most_error) > 0:
            raise ArgumentError(
                f"mpp and most_error must be above 0, got {self.mpp} and {self.most_error}"
            )
        if self.proposals is None and (self.builder or self.preprocess != "unit"):
            raise ArgumentError("builder and preprocess need proposals")
        check_crop("size", self.size)
        check_least(self, 1, "holdout", "workers")
        check_least(self, 0, "seed")
