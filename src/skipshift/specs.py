"""Settings as frozen dataclasses: one object is the argument, the command line and the file.

Imports neither torch nor pandas, pydantic or yaml, so that help starts at once.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from skipshift.errors import ArgumentError
from skipshift.names import (
    DISTANCE_NAMES,
    POOLINGS,
)
from skipshift.validation import (
    check_choices,
    check_crop,
    check_fractions,
    check_ignore,
    check_least,
    check_metrics,
    check_names,
    check_numbers,
    check_shifts,
)

Precision = Literal["auto", "bf16", "fp32"]

LengthUnit = Literal["px", "mm"]

Activation = Literal["auto", "none", "sigmoid", "softmax"]

CarryMode = Literal["paired", "quantile", "zero", "mean"]

STRICT = {"extra": "forbid"}
"""Settings of pydantic: a misspelt key in a file is an error, never ignored."""


@dataclass(frozen=True, kw_only=True)
class ReadingSpec:
    """How the images of a set are read."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

    crop: int | None = None
    """Side of a centred crop of the images, a multiple of 32; whole images by default."""

    resize: str | None = None
    """HEIGHTxWIDTH, or SIDE of a square, that images are resized to, in multiples of 32."""

    tile: int | None = None
    """Side of the tiles that large images are cut into, a multiple of 32: all that lie wholly in an
    image, of a whole slide those with tissue. Tiles of one file are one group."""

    tissue: float = 0.5
    """A tile of a whole slide is taken if more of it than this fraction is tissue."""

    mpp: float | None = None
    """Micrometres per pixel of tiles of slides; full resolution by default."""

    group: str | None = None
    """Which images of a folder are one group (patient, slide): a pattern of their names, such as
    {group}_*, or a CSV with the columns image,group. By default each file is a group."""

    sample: int | None = None
    """Images or tiles of each set, drawn at random, each group with its share; all by default."""

    volumes: bool = False
    """Give the network whole volumes (NIfTI, NPY) instead of their slices."""

    def __post_init__(self) -> None:
        check_numbers(self)
        check_crop("crop", self.crop)
        check_crop("tile", self.tile)
        check_fractions(self, "tissue")
        chosen = [name for name in ("crop", "resize", "tile") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ArgumentError(f"{chosen[0]} and {chosen[1]} exclude each other")
        if self.tile is not None and self.volumes:
            raise ArgumentError("tile and volumes exclude each other")
        if self.mpp is not None and (self.tile is None or not self.mpp > 0):
            raise ArgumentError(f"mpp needs tile, and must be above 0, got {self.mpp}")
        if self.sample is not None:
            check_least(self, 1, "sample")
        if self.resize is not None:
            for side in self._resized():
                check_crop("resize", side)

    def _resized(self) -> tuple[int, int]:
        height, _, width = str(self.resize).partition("x")
        if not (height.isdecimal() and (width or height).isdecimal()):
            raise ArgumentError(f"resize must be HEIGHTxWIDTH or SIDE, got {self.resize!r}")
        return int(height), int(width or height)

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width of each image once it is read; None for its own."""
        if self.resize is not None:
            return self._resized()
        side = self.tile or self.crop
        return None if side is None else (side, side)


@dataclass(frozen=True, kw_only=True)
class ProfileSpec:
    """How a profile is measured (section IV-B)."""

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

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

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

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

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

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
    """GiB to keep: samples of feature maps, fewer where they would take more, and the reference's
    predictions, which go to a temporary folder beyond it. Not counted are the pooled features of
    the last layer, of both sets; nothing else outlives its batch."""

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
