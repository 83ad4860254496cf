"""What each command takes: the object that the command line fills is the function's argument."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from skipshift.errors import ArgumentError
from skipshift.names import FINGERPRINTS
from skipshift.specs import CarrySpec, EvaluationSpec, ExecutionSpec


@dataclass(frozen=True)
class StudyRunSpec:
    """Train, evaluate, profile and report a grid of runs; a second call goes on from there."""

    study: Path
    """YAML file with the fields of a study; relative paths in it start from its folder."""

    out: Path
    """Study folder to write."""

    plan: bool = field(default=False, kw_only=True)
    """Only say how many runs, images and epochs there are, what is done, and what is left."""

    execution: Annotated[ExecutionSpec, Parameter(name="*")] = field(
        default_factory=ExecutionSpec, kw_only=True
    )
    """Which runs to do now, and where."""


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
            raise ArgumentError(f"crop must be a multiple of 32, got {self.crop}")
        if self.workers < 1:
            raise ArgumentError(f"workers must be at least 1, got {self.workers}")


@dataclass(frozen=True)
class EvaluateSpec:
    """Evaluate one network on every domain of a manifest and every shift of its test cases."""

    net: Annotated[Path, Parameter(name="NET")]
    """Run folder, smp or nnU-Net folder, torch.export archive, or weights with a builder."""

    manifest: Path
    """Manifest whose test cases are evaluated."""

    out: Path
    """Folder to write: cases.parquet and iou.csv."""

    builder: Annotated[str | None, Parameter(name="--net")] = field(default=None, kw_only=True)
    """Function that makes the network for a file of weights, module:function."""

    classes: tuple[str, ...] = field(default=(), kw_only=True)
    """Names of the mask values 0, 1, ...; those of the run folder, or class 0, class 1, ..."""

    evaluation: Annotated[EvaluationSpec, Parameter(name="*")] = field(
        default_factory=EvaluationSpec, kw_only=True
    )
    """How they are evaluated."""


@dataclass(frozen=True)
class ProfileRunSpec:
    """Profile one network between two sets of images: no study and no masks needed.

    A set is a folder of images, a manifest, MANIFEST#domain, or for the shifted set a shift of the
    reference such as brightness:0.75. Images are PNG, JPEG, TIFF or BMP, arrays (.npy) or NIfTI.

    With --fingerprint one set is counted instead, NET IMAGES --fingerprint OUT.npz: histograms that
    can be sent in place of the images and stand for a set, as can several, A.npz,B.npz.
    """

    net: Annotated[Path, Parameter(name="NET")]
    """Run folder, smp or nnU-Net folder, torch.export archive, or weights with a builder."""

    reference: str
    """Images of the domain the network knows, or their fingerprint."""

    shifted: str | None = None
    """Images of the new domain, their fingerprint, or a shift such as brightness:0.75."""

    out: Path | None = None
    """Folder to write: profile.csv, channels.parquet, profile.json, and profile.svg, the first
    distance and pooling; others are profile-DISTANCE-POOLING.svg."""

    # the positional NET has no option of its own, so that --net can name what makes it
    builder: Annotated[str | None, Parameter(name="--net")] = field(default=None, kw_only=True)
    """Function that makes the network for a file of weights, module:function."""

    layers: tuple[str, ...] = field(default=(), kw_only=True)
    """A layer by name, address or pattern such as 's*' or 'encoder.*'; repeat it for more."""

    preprocess: str = field(default="unit", kw_only=True)
    """What is done to each image: unit, minmax, zscore, imagenet, none or module:function."""

    volumes: bool = field(default=False, kw_only=True)
    """Give the network whole volumes (NIfTI, NPY) instead of their slices."""

    crop: int | None = field(default=None, kw_only=True)
    """Side of a centred crop of the images, a multiple of 32; whole images without it."""

    distances: str = field(default="hellinger", kw_only=True)
    """Distances to measure, with commas between them; the first is drawn.

    By channel: hellinger, jensen-shannon, kullback-leibler, total-variation, kolmogorov-smirnov,
    wasserstein, wasserstein-scaled, energy. Of the layer as a whole: mmd, auc, gdv, cka.
    """

    pooling: str = field(default="average", kw_only=True)
    """What to keep of each cell of 32 x 32 pixels: average, sample or none, or more with commas."""

    bins: int | Literal["fd"] = field(default=100, kw_only=True)
    """Bins of the histograms, or fd: Freedman and Diaconis' number for each layer."""

    memory: float = field(default=1.0, kw_only=True)
    """GiB of pooled features to hold in memory; beyond it they go to a temporary folder."""

    seed: int = field(default=0, kw_only=True)
    """Seed of the null, of the intervals and of random positions."""

    fingerprint: Path | None = field(default=None, kw_only=True)
    """File to write, .npz or the larger .json: the fingerprint of the one set that is given."""

    edges: Path | None = field(default=None, kw_only=True)
    """Fingerprint whose edges and layers the new one takes, so that both can be compared."""

    part: int | None = field(default=None, kw_only=True)
    """Groups that a fingerprint counts together at least; 5, or more for over 60 groups."""

    def __post_init__(self) -> None:
        if self.fingerprint is None:
            if self.shifted is None or self.out is None:
                raise ArgumentError("SHIFTED and OUT are missing; or give --fingerprint OUT.npz")
            if self.edges is not None or self.part is not None:
                raise ArgumentError("edges and part belong to a new fingerprint; add --fingerprint")
            return
        if self.shifted is not None:
            raise ArgumentError("a fingerprint is of one set: leave SHIFTED and OUT out")
        if not str(self.fingerprint).endswith(FINGERPRINTS):
            raise ArgumentError(f"a fingerprint must end in .npz or .json, got {self.fingerprint}")
        if self.part is not None and (self.edges or self.reference.endswith(FINGERPRINTS)):
            raise ArgumentError("part comes with the fingerprint that is given; leave --part out")
        if self.bins == "fd":
            raise ArgumentError(
                "bins of a fingerprint must be a number, got fd: its edges stay fixed"
            )


@dataclass(frozen=True)
class CarryRunSpec:
    """Measure which path of a network carries the IoU that a shift costs, without training.

    One skip at a time, or the bottleneck, is fed what the reference has there while the rest of the
    network sees the shifted image. The IoU that returns is what that path carries.
    """

    net: Annotated[Path, Parameter(name="NET")]
    """Run folder, smp or nnU-Net folder, torch.export archive, or weights with a builder."""

    reference: str
    """Manifest, or MANIFEST#domain, whose test cases are of the domain the network knows."""

    shifted: str
    """Shift of the reference such as brightness:0.75, or MANIFEST#domain, cases paired by name."""

    out: Path
    """Folder to write: carry.csv, carry.json, carry.svg, carry.png."""

    # the positional NET has no option of its own, so that --net can name what makes it
    builder: Annotated[str | None, Parameter(name="--net")] = field(default=None, kw_only=True)
    """Function that makes the network for a file of weights, module:function."""

    preprocess: str = field(default="unit", kw_only=True)
    """What is done to each image: unit, minmax, zscore, imagenet, none or module:function."""

    crop: int | None = field(default=None, kw_only=True)
    """Side of a centred crop of the images, a multiple of 32; whole images without it."""

    settings: Annotated[CarrySpec, Parameter(name="*")] = field(
        default_factory=CarrySpec, kw_only=True
    )
    """How it is measured."""


@dataclass(frozen=True)
class ReportSpec:
    """Draw the figures and write the page again, from a study's tables alone."""

    out: Path
    """Study folder."""
