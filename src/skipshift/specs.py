"""What to do, as frozen dataclasses: one object is the argument, the command line and the file.

This module must stay free of torch, so that help and reports start at once.
"""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from skipshift.names import (
    PAPER_SHIFTS,
    VARIANTS,
    all_variants,
    paper_shifts,
    parse_shift,
    skips_of,
)

Precision = Literal["auto", "bf16", "fp32"]

Spec = TypeVar("Spec")

_STRICT = ConfigDict(extra="forbid")
"""A misspelt key in a file is an error, never ignored."""


class SkipshiftError(Exception):
    """A file or folder of the user's is wrong: the message names it, the fault and the way out."""


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
            raise ValueError(f"cells must be two numbers 1 <= LOW <= HIGH, got {low} {high}")
        if self.images < 1:
            raise ValueError(f"images must be at least 1, got {self.images}")
        if not 32 <= self.size <= self.canvas <= 20000:
            raise ValueError(
                f"size and canvas must be 32 <= size <= canvas <= 20000, "
                f"got {self.size} and {self.canvas}"
            )
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout must be in [0, 1), got {self.holdout}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if self.smear is None and (self.templates or self.boxes):
            raise ValueError("templates and boxes belong to a smear: give smear too")
        if self.templates and self.boxes:
            raise ValueError("give templates or boxes, not both")


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """How one network is trained. The defaults are the paper's protocol (section IV-C).

    Fields that the paper leaves open say so.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    encoder_weights: str | None = "imagenet"
    """First weights of the encoder: imagenet, none, or a file (torchvision, timm or smp keys)."""

    epochs: int = 50
    """Passes over the training set."""

    batch_size: int = 8
    """Images in one step."""

    learning_rate: float = 1e-4
    """Adam's initial learning rate."""

    decay_every: int = 20
    """Epochs after which the learning rate is decayed. Not stated in the paper."""

    decay_factor: float = 0.1
    """What the learning rate is multiplied by at each decay. Not stated in the paper."""

    cross_entropy: float = 1.0
    """Weight of the cross-entropy in the loss. Not stated in the paper."""

    dice: float = 1.0
    """Weight of the generalised Dice loss (Sudre 2017) in the loss. Not stated in the paper."""

    crop: int = 512
    """Side of the random training crop in pixels, a multiple of 32. Not stated in the paper."""

    crops_per_image: int = 1
    """Crops drawn from each training image in an epoch. Not stated in the paper."""

    flip: float = 0.5
    """Probability of a horizontal and, drawn apart, of a vertical flip. Not stated in the paper."""

    rotation: float = 180.0
    """Largest rotation either way in degrees. Not stated in the paper."""

    scale: tuple[float, float] = (0.8, 1.25)
    """Range of the magnification. Not stated in the paper."""

    precision: Precision = "auto"
    """bf16 autocast, fp32, or bf16 wherever the processor computes in it (auto)."""

    workers: int = 0
    """Processes that cut and warp crops; 0 does it in the training process itself."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "decay_every", "crops_per_image"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.workers < 0:
            raise ValueError(f"workers must be >= 0, got {self.workers}")
        if self.crop < 32 or self.crop % 32:
            raise ValueError(f"crop must be a multiple of 32, got {self.crop}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if min(self.cross_entropy, self.dice) < 0 or self.cross_entropy + self.dice == 0:
            raise ValueError("cross_entropy and dice must be >= 0 and not both 0")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be 0 < LOW <= HIGH, got {self.scale}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip must be a probability in [0, 1], got {self.flip}")


@dataclass(frozen=True, kw_only=True)
class ProfileSpec:
    """How a profile is measured (section IV-B)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    bins: int = 100
    """Bins of the histograms, B of eq. 4. Not stated in the paper."""

    null_draws: int = 100
    """Random halvings of the reference domain, by group, from which the null is averaged."""

    bootstrap_draws: int = 200
    """Bootstrap resamples of the groups from which the 95 % interval is taken."""

    batch_size: int = 8
    """Images in one forward pass."""

    seed: int = 0
    """Seed of the halvings and resamples."""

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"bins must be at least 2, got {self.bins}")
        for name in ("null_draws", "bootstrap_draws", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A grid of runs: encoders x variants x folds x seeds, each evaluated on every domain."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    manifest: Path
    """The cases: a CSV `case,image,mask,domain,group,split,stratum`."""

    classes: tuple[str, ...] = ("background", "cell")
    """Name of each mask value 0, 1, ...; class 0 is background."""

    encoders: tuple[str, ...] = ("resnet18", "resnet34")
    """Encoders of segmentation_models_pytorch."""

    skips: Literal["paper", "all"] | tuple[str, ...] = "paper"
    """Variants to train: the paper's five, all 16 sets of skips, or names such as skips-13."""

    folds: int = 5
    """Folds into which the training cases are split, stratified and grouped."""

    run_folds: tuple[int, ...] | None = None
    """Folds to run; all of them if absent."""

    seeds: tuple[int, ...] = (0,)
    """Seeds of each training."""

    shifts: tuple[str, ...] = field(default_factory=paper_shifts)
    """Synthetic shifts of the test images to evaluate, each a domain."""

    profile_shifts: tuple[str, ...] = ("brightness:0.75",)
    """Shifts or domains to profile against the original test images (Fig. 8)."""

    evaluation_crop: int | None = None
    """Side of a centred crop of validation and test images, a multiple of 32; whole if absent."""

    training: TrainingSpec = field(default_factory=TrainingSpec)
    """How each run is trained."""

    profile: ProfileSpec = field(default_factory=ProfileSpec)
    """How profiles are measured."""

    def __post_init__(self) -> None:
        for variant in self.variants:
            skips_of(variant)
        if len(set(self.variants)) != len(self.variants) or not self.variants:
            raise ValueError(f"skips must be distinct variants, got {list(self.variants)}")
        for shift in self.shifts:
            if parse_shift(shift) is None:
                kinds = ", ".join(PAPER_SHIFTS)
                raise ValueError(f"shift {shift!r} must be KIND:FACTOR with KIND one of {kinds}")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must be at least two distinct names")
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}")
        if not set(self.run_folds or ()) <= set(range(self.folds)):
            raise ValueError(f"run_folds must be in 0..{self.folds - 1}, got {self.run_folds}")
        if self.evaluation_crop is not None and (
            self.evaluation_crop < 32 or self.evaluation_crop % 32
        ):
            raise ValueError(
                f"evaluation_crop must be a multiple of 32, got {self.evaluation_crop}"
            )

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants of the grid."""
        if self.skips == "paper":
            return tuple(VARIANTS)
        return all_variants() if self.skips == "all" else self.skips


@dataclass(frozen=True)
class DemoSpec:
    """Show the whole story on synthetic data, in minutes on two cores.

    Makes a small synthetic malaria set, trains a baseline U-net and two pruned ones from scratch,
    measures each on every shift of the paper, profiles them layer by layer and writes a page.
    """

    out: Path
    """Folder to write, a study folder with the images in synthetic/; a second call goes on."""

    smear: Path | None = field(default=None, kw_only=True)
    """RGB picture of a real blood smear to cut templates from; drawn templates without it."""

    templates: Path | None = field(default=None, kw_only=True)
    """JSON file with the boxes to cut from the smear; shipped or found ones without it."""

    size: Literal["small", "smallest"] = field(default="small", kw_only=True)
    """small is true to the paper's findings; smallest only shows that everything runs."""

    seed: int = field(default=0, kw_only=True)
    """Seed of images and training."""


@dataclass(frozen=True)
class CheckSpec:
    """Find what would stop a study or make its numbers wrong, before anything is trained.

    Errors: groups or images (also resized, cropped, flipped or compressed again) on both sides of
    the split, broken files, masks that do not match, labels and sides that cannot be used. Warnings
    that a shift may be a bug: value range, bit depth, channel order, orientation, spacing, masks
    that were moved, padding, images that are there twice.
    """

    manifest: Path
    """Manifest to check."""

    classes: tuple[str, ...] = field(default=(), kw_only=True)
    """Names of the mask values 0, 1, ...; all values of the training masks without it."""

    crop: int | None = field(default=None, kw_only=True)
    """Side of the centred crop that is evaluated, a multiple of 32; whole images without it."""

    json: bool = field(default=False, kw_only=True)
    """Print the findings as JSON."""

    workers: int = field(default_factory=lambda: os.cpu_count() or 1, kw_only=True)
    """Threads that decode and measure."""

    def __post_init__(self) -> None:
        if self.crop is not None and (self.crop < 32 or self.crop % 32):
            raise ValueError(f"crop must be a multiple of 32, got {self.crop}")
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")


@dataclass(frozen=True)
class StudyRunSpec:
    """Train, evaluate, profile and report a grid of runs; a second call goes on from there."""

    study: Path
    """YAML file with the fields of a study; relative paths in it start from its folder."""

    out: Path
    """Study folder to write."""

    only: str = field(default="*", kw_only=True)
    """Pattern of the names of the runs to do now, e.g. 'resnet18.*.fold0.*'."""

    retry_failed: bool = field(default=False, kw_only=True)
    """Do runs again that failed before."""


@dataclass(frozen=True)
class EvaluateSpec:
    """Evaluate one network on every domain of a manifest and every shift of its test cases."""

    net: Path
    """Run folder with weights.safetensors and run.json."""

    manifest: Path
    """Manifest whose test cases are evaluated."""

    out: Path
    """Folder to write: cases.parquet and iou.csv."""

    shifts: tuple[str, ...] = field(default=(), kw_only=True)
    """Synthetic shifts to apply as well, e.g. brightness:0.75."""

    crop: int | None = field(default=None, kw_only=True)
    """Side of a centred crop of the images, a multiple of 32; whole images without it."""

    precision: Precision = field(default="auto", kw_only=True)
    """bf16, fp32, or bf16 wherever the processor computes in it (auto)."""


@dataclass(frozen=True)
class ProfileRunSpec:
    """Profile one network between two sets of images: no study and no masks needed.

    A set is a folder of images, a manifest, MANIFEST#domain, or for the shifted set a shift of the
    reference such as brightness:0.75.
    """

    net: Path
    """Run folder with weights.safetensors and run.json."""

    reference: str
    """Images of the domain the network knows."""

    shifted: str
    """Images of the new domain, or a shift such as brightness:0.75."""

    out: Path
    """Folder to write: profile.csv, channels.parquet, profile.json, profile.svg."""

    crop: int | None = field(default=None, kw_only=True)
    """Side of a centred crop of the images, a multiple of 32; whole images without it."""

    bins: int = field(default=100, kw_only=True)
    """Bins of the histograms."""

    seed: int = field(default=0, kw_only=True)
    """Seed of the null and of the intervals."""


@dataclass(frozen=True)
class ReportSpec:
    """Draw the figures and write the page again, from a study's tables alone."""

    out: Path
    """Study folder."""


def to_plain(spec: object) -> Any:
    """Turn a spec into dicts, lists and strings, as YAML and JSON take them."""
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        return {f.name: to_plain(getattr(spec, f.name)) for f in dataclasses.fields(spec)}
    if isinstance(spec, tuple | list):
        return [to_plain(item) for item in spec]
    return os.fspath(spec) if isinstance(spec, Path) else spec


def from_plain(kind: type[Spec], values: object, source: str) -> Spec:
    """Build a spec from plain values; `SkipshiftError` names ``source`` and the first fault."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        reason = fault["msg"].removeprefix("Value error, ")
        raise SkipshiftError(f"{source}: {where + ': ' if where else ''}{reason}") from None


def read_spec(kind: type[Spec], path: Path) -> Spec:
    """Read a spec from a YAML file; relative paths in it stay as written."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SkipshiftError(f"{path}: cannot be read as YAML: {reason}") from None
    return from_plain(kind, values, str(path))
