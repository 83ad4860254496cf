"""Settings of a study: its grid, its trainings, which of its runs to do now, and the demo."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from skipshift.errors import ArgumentError
from skipshift.names import (
    MOST_CLASSES,
    VARIANTS,
    all_variants,
    paper_shifts,
    shown,
    skips_of,
)
from skipshift.specs import STRICT, LengthUnit, Precision, ProfileSpec
from skipshift.validation import (
    check_crop,
    check_distinct,
    check_ignore,
    check_least,
    check_metrics,
    check_names,
    check_numbers,
    check_shifts,
)

Tracker = Literal["tensorboard", "mlflow", "wandb"]


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """How one network is trained. The defaults are the paper's protocol (section IV-C).

    Fields that the paper does not specify say so.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

    encoder_weights: str | None = "imagenet"
    """Initial encoder weights: imagenet, null (random), or a file (torchvision, timm, smp keys)."""

    epochs: int = 50
    """Passes over the training set. The network of the epoch with the highest validation mIoU is
    kept: the mean over all classes, background included. Which classes is not stated in the paper.
    """

    batch_size: int = 8
    """Images per training step. What is left over at an epoch's end is left out: not stated in the
    paper."""

    learning_rate: float = 1e-4
    """Adam's initial learning rate."""

    decay_every: int = 20
    """Epochs between two decays of the learning rate. Not stated in the paper."""

    decay_factor: float = 0.1
    """Factor of the learning rate at each decay. Not stated in the paper."""

    cross_entropy: float = 1.0
    """Weight of the cross-entropy in the loss. Not stated in the paper."""

    dice: float = 1.0
    """Weight of the generalised Dice loss (Sudre 2017) in the loss. Not stated in the paper."""

    crop: int = 512
    """Side of the random training crop in pixels, a multiple of 32, reflected beyond the image's
    border. Neither is stated in the paper."""

    crops_per_image: int = 1
    """Crops drawn from each training image per epoch. Not stated in the paper."""

    flip: float = 0.5
    """Probability of a horizontal flip, and of a vertical one. Not stated in the paper."""

    rotation: float = 180.0
    """Largest rotation in either direction, in degrees. Not stated in the paper."""

    scale: tuple[float, float] = (0.8, 1.25)
    """Range of the random magnification. Not stated in the paper."""

    color_jitter: float = 0.0
    """Largest change of brightness, contrast and saturation (eq. 1-3): for each crop three factors
    are drawn evenly from 1 - color_jitter to 1 + color_jitter. The paper uses none."""

    skip_dropout: float = 0.0
    """Probability that a skip is fed zeros in a training step, for each image and level alone. One
    network trained so can be used with any of its skips (`Unet.with_skips`). Not in the paper."""

    ignore: int | None = None
    """Mask value of pixels that are left out of loss and validation; a study sets it to its own."""

    precision: Precision = "auto"
    """bf16 (autocast), fp32, or auto: bf16 where the hardware is faster with it. Not stated in the
    paper."""

    workers: int = 0
    """Processes that load and augment crops; 0 does it in the training process itself."""

    devices: int = 1
    """GPUs (without one: processes) that share each batch of a run."""

    def __post_init__(self) -> None:
        check_numbers(self)
        check_least(self, 1, "epochs", "batch_size", "decay_every", "crops_per_image", "devices")
        check_least(self, 0, "workers")
        if self.batch_size % self.devices:
            raise ArgumentError(
                f"batch_size must be a multiple of devices, "
                f"got {self.batch_size} and {self.devices}"
            )
        check_crop("crop", self.crop)
        check_ignore(self.ignore)
        if not self.learning_rate > 0:
            raise ArgumentError(f"learning_rate must be above 0, got {self.learning_rate}")
        if min(self.cross_entropy, self.dice) < 0 or self.cross_entropy + self.dice == 0:
            raise ArgumentError("cross_entropy and dice must be >= 0 and not both 0")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ArgumentError(f"scale must be 0 < LOW <= HIGH, got {shown(self.scale)}")
        if not 0 <= self.flip <= 1:
            raise ArgumentError(f"flip must be a probability in [0, 1], got {self.flip}")
        if not 0 <= self.color_jitter <= 1:
            raise ArgumentError(f"color_jitter must be in [0, 1], got {self.color_jitter}")
        if not 0 <= self.skip_dropout < 1:
            raise ArgumentError(
                f"skip_dropout must be a probability in [0, 1), got {self.skip_dropout}"
            )


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A grid of runs: encoders x variants x folds x seeds, each evaluated on every domain."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

    manifest: Path
    """The cases: a CSV `case,image,mask,domain,group,split,stratum`."""

    classes: tuple[str, ...] = ("background", "cell")
    """Name of each mask value 0, 1, ...; class 0 is background."""

    ignore: int | None = None
    """Mask value of pixels that are not to be counted, such as 255; by default there is none, and
    a value without a class is an error."""

    encoders: tuple[str, ...] = ("resnet18", "resnet34")
    """Encoders of segmentation_models_pytorch."""

    skips: Literal["paper", "all"] | tuple[str, ...] = "paper"
    """Variants to train: paper (its five), all (16 subsets of skips), or names such as skips-13."""

    folds: int = 5
    """Folds into which the training cases are split, stratified and grouped."""

    leave_one_domain_out: bool = False
    """Train on all domains but one in turn: fold k leaves out the k-th domain of the manifest.

    The networks of a fold are selected on one in ``folds`` of the groups they are trained on.
    """

    run_folds: tuple[int, ...] | None = None
    """Folds to run; all by default."""

    seeds: tuple[int, ...] = (0,)
    """Seeds of each training."""

    shifts: tuple[str, ...] = field(default_factory=paper_shifts)
    """Synthetic shifts of the test images to evaluate; each is a domain of its own."""

    profile_shifts: tuple[str, ...] | None = None
    """Shifts or domains to profile against the original test images (Fig. 8); by default all of
    ``shifts``."""

    margin: float = 0.01
    """Equivalence margin: the largest negligible difference of a score (IoU, Dice), in (0, 1)."""

    evaluation_crop: int | None = None
    """Side of a centred crop of validation and test images, a multiple of 32; whole by default."""

    metrics: tuple[str, ...] = ()
    """Metrics to measure beside IoU and Dice, as ``--metrics`` of `skipshift evaluate`."""

    tolerance: float = 2.0
    """Tolerance of the metric surface_dice."""

    tolerance_unit: LengthUnit = "px"
    """Unit of the tolerance: px, or mm by the manifest's column spacing."""

    training: TrainingSpec = field(default_factory=TrainingSpec)
    """How each run is trained."""

    profile: ProfileSpec = field(default_factory=ProfileSpec)
    """How profiles are measured."""

    carry: bool = False
    """Measure what the skips of each baseline carry of the loss, for the shifts of profile_shifts
    and those of its domains that show the same cases (activation patching)."""

    remedies: bool = False
    """Search remedies for each baseline and each of profile_shifts: those without labels, at the
    input, in the encoder, in the whole network and at the three layers of largest excess.
    ``--plan`` tells how long that takes."""

    estimate: bool = False
    """Estimate the IoU of each baseline without masks, on other groups of its source domains and on
    each of profile_shifts, with its other runs as peers, beside what the masks say."""

    trackers: tuple[Tracker, ...] = ()
    """Loggers of training curves besides each run's history.csv: tensorboard, mlflow, wandb."""

    threads: int = 2
    """CPU threads per run. Rounding depends on them: with equal threads on one kind of processor
    the tables are equal to the byte, whatever the number of jobs."""

    jobs: int = 1
    """Runs at a time on one machine; --jobs of the command line overrides it."""

    def __post_init__(self) -> None:
        check_numbers(self)
        for variant in self.variants:
            skips_of(variant)
        axes = {"encoders": self.encoders, "skips": self.variants, "seeds": self.seeds}
        axes |= {} if self.run_folds is None else {"run_folds": self.run_folds}
        for name, values in axes.items():
            if len(set(values)) != len(values) or not values:
                raise ArgumentError(f"{name} must be distinct, at least one, got {shown(values)}")
            for value in values:
                if isinstance(value, int) and value < 0:
                    raise ArgumentError(f"{name} must be at least 0, got {value}")
        check_shifts(self.shifts)
        check_distinct("profile_shifts", self.profiled)
        check_names("classes", self.classes)
        if not 2 <= len(self.classes) <= MOST_CLASSES or "mean" in self.classes:
            raise ArgumentError(
                f"classes must be 2 to {MOST_CLASSES} distinct names, none of them 'mean', "
                f"got {len(self.classes)}"
            )
        if not 0 < self.margin < 1:
            raise ArgumentError(f"margin must be in (0, 1), got {self.margin}")
        check_metrics(self.metrics, self.tolerance)
        check_ignore(self.ignore, len(self.classes))
        if self.training.ignore not in (None, self.ignore):
            raise ArgumentError(
                "training.ignore must be left out; set ignore of the study, which holds for "
                "training and evaluation"
            )
        check_least(self, 2, "folds")
        check_least(self, 1, "threads", "jobs")
        check_crop("evaluation_crop", self.evaluation_crop)

    @property
    def profiled(self) -> tuple[str, ...]:
        """Shifts or domains that are profiled."""
        return self.shifts if self.profile_shifts is None else self.profile_shifts

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants of the grid."""
        if self.skips == "paper":
            return tuple(VARIANTS)
        return all_variants() if self.skips == "all" else self.skips


@dataclass(frozen=True, kw_only=True)
class ExecutionSpec:
    """Which runs of a study to do now, and where. None of it changes a result."""

    only: str = "*"
    """Do only runs whose names match this pattern, e.g. 'resnet18.*.fold0.*'."""

    retry_failed: bool = False
    """Repeat runs that failed before."""

    redo_changed: bool = False
    """Repeat runs whose settings differ from those of the study file now."""

    take: tuple[Path, ...] = ()
    """Folders of the same study to copy finished runs from."""

    on: Literal["local", "ray"] = "local"
    """Where to run: on this machine, or as tasks of a Ray cluster."""

    jobs: int | None = None
    """Runs at a time on this machine; the study file's jobs by default."""

    address: str | None = None
    """Address of the Ray cluster; by default RAY_ADDRESS, or a new cluster on this machine."""

    gpus: float = 0.0
    """GPUs of the Ray cluster per run; with a fraction several runs share one."""

    memory_per_run: float = 0.0
    """Memory of the Ray cluster per run, in GiB."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.jobs is not None:
            check_least(self, 1, "jobs")
        check_least(self, 0, "gpus", "memory_per_run")
        if self.address and self.on != "ray":
            raise ArgumentError("address is of a Ray cluster: add --on ray")


@dataclass(frozen=True)
class DemoSpec:
    """Run the whole pipeline on synthetic data, in minutes on two cores.

    Makes a small synthetic malaria set, trains a baseline U-net and two pruned ones from scratch,
    evaluates each on every shift of the paper, profiles them layer by layer and writes a page.

    Example: skipshift demo out/demo --size smallest
    """

    out: Path
    """Folder to write: a study, with the images in synthetic/; run again, it resumes."""

    smear: Path | None = field(default=None, kw_only=True)
    """RGB image of a real blood smear to cut templates from; drawn templates by default."""

    templates: Path | None = field(default=None, kw_only=True)
    """JSON file with the boxes to cut from the smear; by default shipped or detected ones."""

    size: Literal["small", "smallest"] = field(default="small", kw_only=True)
    """small reproduces the paper's findings; smallest only shows that everything runs."""

    seed: int = field(default=0, kw_only=True)
    """Seed of images and training."""

    def __post_init__(self) -> None:
        check_least(self, 0, "seed")
