"""Settings as frozen dataclasses: one object is the argument, the command line and the file.

Imports neither torch nor pandas, pydantic or yaml, so that help starts at once.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

from skipshift.errors import ArgumentError
from skipshift.names import (
    DISTANCE_NAMES,
    MOST_CLASSES,
    POOLINGS,
    VARIANTS,
    all_variants,
    paper_shifts,
    shown,
    skips_of,
)
from skipshift.validation import (
    check_choices,
    check_crop,
    check_distinct,
    check_ignore,
    check_least,
    check_metrics,
    check_names,
    check_numbers,
    check_shifts,
)

Precision = Literal["auto", "bf16", "fp32"]
Tracker = Literal["tensorboard", "mlflow", "wandb"]

LengthUnit = Literal["px", "mm"]

Activation = Literal["auto", "none", "sigmoid", "softmax"]

CarryMode = Literal["paired", "quantile", "zero", "mean"]

_STRICT = {"extra": "forbid"}
"""Settings of pydantic: a misspelt key in a file is an error, never ignored."""


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """How one network is trained. The defaults are the paper's protocol (section IV-C).

    Fields that the paper does not specify say so.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

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


@dataclass(frozen=True, kw_only=True)
class ProfileSpec:
    """How a profile is measured (section IV-B)."""

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    distances: tuple[str, ...] = ("hellinger",)
    """Distances to measure side by side; figures show the first.

    Per channel: hellinger, jensen-shannon, kullback-leibler, total-variation, kolmogorov-smirnov,
    wasserstein, wasserstein-scaled, energy. Of a layer as a whole: mmd, auc, gdv, cka.
    """

    pooling: tuple[str, ...] = ("average",)
    """How to pool the features of each cell of 32 x 32 pixels: average, sample, none.

    The paper's average is over up to 1,024 positions in shallow layers; sample keeps one random
    position instead, none keeps all.
    """

    bins: int | Literal["fd"] = 100
    """Bins of the histograms (B of eq. 4), or fd: by Freedman and Diaconis' rule in each layer.

    Not stated in the paper.
    """

    null_draws: int = 100
    """Random comparisons without a shift, by group, to average the null (the noise floor) over."""

    bootstrap_draws: int = 200
    """Without effect: intervals leave out one group at a time. Kept for scripts that set it."""

    permutation_draws: int = 1000
    """Permutations of the groups between the two sets for p."""

    memory: float = 1.0
    """GiB of pooled features to keep in memory; the rest goes to a temporary folder."""

    batch_size: int = 8
    """Images per forward pass."""

    seed: int = 0
    """Seed of nulls, permutations and random positions."""

    def __post_init__(self) -> None:
        check_numbers(self)
        check_choices("distances", "distance", self.distances, DISTANCE_NAMES)
        check_choices("pooling", "pooling", self.pooling, POOLINGS)
        if self.bins != "fd" and self.bins < 2:
            raise ArgumentError(f"bins must be at least 2, or fd, got {self.bins}")
        check_least(self, 0, "null_draws", "bootstrap_draws", "permutation_draws", "memory", "seed")
        check_least(self, 1, "batch_size")


@dataclass(frozen=True, kw_only=True)
class FingerprintSpec:
    """How a fingerprint is made: the per-channel histograms of a set's features."""

    preprocess: str = "unit"
    """Preprocessing of each image: unit, minmax, zscore, imagenet, none or module:function."""

    pooling: str = "average"
    """How to pool the features of each cell of 32 x 32 pixels: average, sample or none."""

    bins: int = 100
    """Bins between the edges; one more at each end counts the values beyond them."""

    part: int | None = None
    """Groups per part, the least that is counted by itself; 5 or, for at most 12 parts, more."""

    memory: float = 1.0
    """GiB of pooled features to keep in memory; the rest goes to a temporary folder."""

    batch_size: int = 8
    """Images per forward pass."""

    seed: int = 0
    """Seed of random positions, and of which groups share a part."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.pooling not in POOLINGS:
            raise ArgumentError(
                f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}"
            )
        check_least(self, 2, "bins")
        check_least(self, 0, "memory", "seed")
        check_least(self, 1, "batch_size")
        if self.part is not None:
            check_least(self, 1, "part")


@dataclass(frozen=True, kw_only=True)
class CarrySpec:
    """How activation patching is done: which paths are patched, with what, and how often."""

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    paths: dict[str, str] | tuple[str, ...] | None = None
    """Paths to patch: names such as L1, or addresses; every skip and the bottleneck by default."""

    mode: CarryMode = "paired"
    """What a path is fed. Patching: the reference's features of the same image (paired), or its own
    mapped to the reference's distribution (quantile). Ablation: zero, or the reference's mean."""

    subsets: bool = False
    """Patch every subset of the k paths, 2^k of them, and attribute the loss by Shapley values."""

    ignore: int | None = None
    """Mask value of pixels that are not to be counted, such as 255; by default there is none, and
    a value without a class is an error."""

    draws: int = 1000
    """Without effect: the intervals need no resamples. Kept for scripts that set it."""

    batch_size: int = 8
    """Images per forward pass."""

    precision: Precision = "auto"
    """bf16, fp32, or auto: bf16 where the hardware is faster with it."""

    output: str | None = None
    """Name or index of the network's output that holds the logits, where it returns several."""

    activation: Activation = "auto"
    """What the network ends in: none (it returns logits), sigmoid or softmax (probabilities); by
    default told by whether its values lie in [0, 1]."""

    seed: int = 0
    """Seed of the random positions that quantiles and means are taken from."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.mode not in get_args(CarryMode):
            choices = ", ".join(get_args(CarryMode))
            raise ArgumentError(f"mode must be one of {choices}, got {self.mode!r}")
        check_choices("activation", "activation", (self.activation,), get_args(Activation))
        check_least(self, 1, "draws", "batch_size")
        check_least(self, 0, "seed")
        check_ignore(self.ignore)


@dataclass(frozen=True, kw_only=True)
class RemedySpec:
    """Which remedies are tried where, and how they are judged."""

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

    remedies: tuple[str, ...] = ()
    """Remedies to try, with commas between them; by default all that need no labels, and with
    labels all. Pairs are tried of these."""

    places: tuple[str, ...] = ()
    """Places to try them at, with commas between them; by default all."""

    labels: int = 0
    """Labelled images of the shifted set to set aside for remedies that are trained, whole groups
    at a time. They are not judged on."""

    folds: int = 5
    """Parts of the shifted groups: a remedy is fitted on all but one and judged on that one."""

    margin: float = 0.01
    """Largest gain of IoU that does not matter: no remedy below it is recommended."""

    paired: bool = False
    """Both sets are the same images in the same order: masks serve both, and headroom is known."""

    steps: int = 60
    """Training steps of remedies that use labelled images."""

    ignore: int | None = None
    """Value of the masks whose pixels are not counted; 0, or no class."""

    output: str | None = None
    """Name or index of the network's output that holds the logits, where it returns several."""

    activation: Activation = "auto"
    """What the network ends in: none (it returns logits), sigmoid or softmax (probabilities); by
    default told by whether its values lie in [0, 1]."""

    batch_size: int = 8
    """Images per forward pass."""

    memory: float = 1.0
    """GiB to keep: samples of feature maps, predictions and pooled features of the reference. Fewer
    are sampled, or they go to a temporary folder; nothing else outlives its batch."""

    seed: int = 0
    """Seed of the folds, the labelled images and the positions that quantiles are taken from."""

    def __post_init__(self) -> None:
        check_numbers(self)
        check_names("remedies", self.remedies)
        check_names("places", self.places)
        check_least(self, 2, "folds")
        check_least(self, 1, "steps", "batch_size")
        check_least(self, 0, "labels", "seed", "memory")
        check_choices("activation", "activation", (self.activation,), get_args(Activation))
        check_ignore(self.ignore)
        if not 0 <= self.margin < 1:
            raise ArgumentError(f"margin must be at least 0 and below 1, got {self.margin}")


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A grid of runs: encoders x variants x folds x seeds, each evaluated on every domain."""

    __pydantic_config__: ClassVar[dict[str, str]] = _STRICT

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

    profile_shifts: tuple[str, ...] = ("brightness:0.75",)
    """Shifts or domains to profile against the original test images (Fig. 8)."""

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
        check_distinct("profile_shifts", self.profile_shifts)
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


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """How a network is evaluated on test cases."""

    shifts: tuple[str, ...] = ()
    """Synthetic shifts to evaluate too, e.g. brightness:0.75."""

    crop: int | None = None
    """Side of a centred crop of the images, a multiple of 32; whole images by default."""

    ignore: int | None = None
    """Mask value of pixels that are not to be counted, such as 255; by default there is none, and
    a value without a class is an error."""

    precision: Precision = "auto"
    """bf16, fp32, or auto: bf16 where the hardware is faster with it."""

    preprocess: str = "unit"
    """Preprocessing of each image: unit, minmax, zscore, imagenet, none or module:function."""

    output: str | None = None
    """Name or index of the network's output that holds the logits, where it returns several."""

    activation: Activation = "auto"
    """What the network ends in: none (it returns logits), sigmoid or softmax (probabilities); by
    default told by whether its values lie in [0, 1]."""

    batch_size: int = 8
    """Images per forward pass."""

    processes: int = 1
    """Processes that share the cases, each on a GPU of its own where there are several."""

    metrics: tuple[str, ...] = ()
    """Metrics to measure beside the pooled IoU: iou and dice (for their interval, worst case and
    5th percentile), group_dice, volume_bias, boundary_iou, surface_dice, object_f1, brier, ece,
    entropy."""

    tolerance: float = 2.0
    """Tolerance of surface_dice: the largest distance at which a boundary counts as found."""

    tolerance_unit: LengthUnit = "px"
    """Unit of the tolerance: px, or mm by the manifest's column spacing."""

    def __post_init__(self) -> None:
        check_numbers(self)
        check_choices("activation", "activation", (self.activation,), get_args(Activation))
        check_metrics(self.metrics, self.tolerance)
        check_least(self, 1, "processes", "batch_size")
        check_shifts(self.shifts)
        check_crop("crop", self.crop)
        check_ignore(self.ignore)
