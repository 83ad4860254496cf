"""The settings of each command as frozen dataclasses: the command line fills them.

The docstrings of a class and of its fields are the help of its command.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from skipshift.errors import ArgumentError
from skipshift.names import FINGERPRINTS
from skipshift.specs import (
    CarrySpec,
    EvaluationSpec,
    FingerprintSpec,
    ProfileSpec,
    ReadingSpec,
    RemedySpec,
)
from skipshift.study_specs import ExecutionSpec
from skipshift.validation import check_crop, check_ignore, check_least, check_names, check_take


@dataclass(frozen=True, kw_only=True)
class RunningSpec:
    """The network of a command, and where it runs."""

    builder: str | None = None
    """Function that builds the network for a file of weights: module:function, or nets.py:function,
    with arguments if it needs any, as in nets:unet(classes=3)."""

    preprocess: str = "auto"
    """Preprocessing of each image: unit, minmax, zscore, imagenet, none or module:function; by
    default what the checkpoint brings. One that brings none needs it named."""

    device: str | None = None
    """Device to compute on: cpu, cuda or cuda:N; by default a GPU where there is one."""

    jobs: int | None = None
    """Threads to compute with; by default all that torch takes."""

    verbose: Annotated[bool, Parameter(name=("--verbose", "-v"))] = False
    """Say what is done: device, preprocessing, and short cuts that are not taken."""

    def __post_init__(self) -> None:
        if self.jobs is not None:
            check_least(self, 1, "jobs")


Reading = Annotated[ReadingSpec, Parameter(name="*")]
Running = Annotated[RunningSpec, Parameter(name="*")]


@dataclass(frozen=True)
class StudyRunSpec:
    """Train, evaluate, profile and report a grid of runs; run again, it resumes.

    Example: skipshift study studies/small-synthetic.yaml out/study --plan
    """

    study: Path
    """YAML file with the settings of a study; relative paths in it start from its folder."""

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
    """Check a manifest for what would stop a study or spoil its results, before any training.

    Errors: leakage (groups or images, also resized, cropped, flipped or recompressed, in both
    training and test), broken files, masks that do not match their images, labels and image sizes
    that cannot be used. Warnings of shifts that may be bugs: value range, bit depth, channel order,
    orientation, spacing, masks out of place, padding, duplicate images.

    Example: skipshift check manifest.csv --classes background,cell
    """

    manifest: Path
    """Manifest to check."""

    classes: tuple[str, ...] = field(default=(), kw_only=True)
    """Names of the mask values 0, 1, ...; by default all values of the training masks."""

    crop: int | None = field(default=None, kw_only=True)
    """Side of the centred crop to evaluate, a multiple of 32; whole images by default."""

    ignore: int | None = field(default=None, kw_only=True)
    """Mask value of pixels that are not to be counted, such as 255; by default there is none, and
    a value without a class is an error."""

    json: bool = field(default=False, kw_only=True)
    """Print the findings as JSON."""

    workers: int = field(default_factory=lambda: os.cpu_count() or 1, kw_only=True)
    """Threads that decode and measure images; one per CPU by default."""

    def __post_init__(self) -> None:
        check_names("classes", self.classes)
        check_crop("crop", self.crop)
        check_ignore(self.ignore, len(self.classes))
        check_least(self, 1, "workers")


@dataclass(frozen=True)
class EvaluateSpec:
    """Evaluate one network on every domain of a manifest, and on shifts of its test cases.

    Example: skipshift evaluate net.pt2 manifest.csv out/iou --metrics boundary_iou
    """

    net: Path
    """Run folder, smp or nnU-Net folder, MONAI bundle, archive of torch.export or TorchScript, or
    weights with --builder."""

    manifest: Path
    """Manifest whose test cases are evaluated."""

    out: Path
    """Folder to write: report.html, cases.parquet, iou.csv and evaluate.json; metrics.parquet and
    metrics.csv with --metrics."""

    running: Running = field(default_factory=RunningSpec, kw_only=True)
    """The network, and where it runs."""

    classes: tuple[str, ...] = field(default=(), kw_only=True)
    """Names of the mask values 0, 1, ...; by default the run folder's, or class 0, class 1, ..."""

    evaluation: Annotated[EvaluationSpec, Parameter(name="*")] = field(
        default_factory=EvaluationSpec, kw_only=True
    )
    """How the network is evaluated."""

    def __post_init__(self) -> None:
        check_names("classes", self.classes)
        check_ignore(self.evaluation.ignore, len(self.classes))


@dataclass(frozen=True)
class ProfileRunSpec:
    """Profile one network between two sets of images: no study and no masks needed.

    For each layer: the distance between the features of both sets, its null (noise floor: the
    distance expected without a shift), and whether the shift is significant. A set is a folder of
    images, a manifest, MANIFEST#domain, a fingerprint (several with commas between them), or for
    the shifted set a shift of the reference such as brightness:0.75. Images are PNG, JPEG, TIFF or
    BMP files, arrays (.npy) or NIfTI volumes.

    Example: skipshift profile net.pt2 scanner-a/ scanner-b/ out --pooling average,none
    """

    net: Path
    """Run folder, smp or nnU-Net folder, MONAI bundle, archive of torch.export or TorchScript, or
    weights with --builder."""

    reference: str
    """Images of the domain that the network knows (source domain), or their fingerprint."""

    shifted: str
    """Images of the new domain (target domain), their fingerprint, or a shift."""

    out: Path
    """Folder to write: report.html, the network as u.svg, u.pdf and u.png, layers.csv,
    channels.parquet, profile.json and profile.svg, which shows the first distance and pooling;
    profile-DISTANCE-POOLING.svg show the others."""

    reading: Reading = field(default_factory=ReadingSpec, kw_only=True)
    """How the images are read."""

    running: Running = field(default_factory=RunningSpec, kw_only=True)
    """The network, and where it runs."""

    layers: tuple[str, ...] = field(default=(), kw_only=True)
    """Layers by name, address or pattern such as 's*' or 'encoder.*'; by default encoder stages,
    bottleneck, decoder blocks and skips with features of their own."""

    settings: Annotated[ProfileSpec, Parameter(name="*")] = field(
        default_factory=ProfileSpec, kw_only=True
    )
    """How the profile is measured."""


@dataclass(frozen=True)
class FingerprintRunSpec:
    """Write a set of images as per-channel histograms of a network's features.

    The file can be sent in place of the images: profile takes it as REFERENCE or SHIFTED. Both
    fingerprints of a comparison need the same edges: make the first without --edges, the second
    with --edges FIRST. Fingerprints in place of IMAGES, with commas between them, are merged.

    Example: skipshift fingerprint net.pt2 scanner-b/ site.npz --edges vendor.npz
    """

    net: Path
    """Run folder, smp or nnU-Net folder, MONAI bundle, archive of torch.export or TorchScript, or
    weights with --builder."""

    images: str
    """Folder of images, manifest, MANIFEST#domain, or fingerprints to merge."""

    out: Path
    """File to write: .npz, or the same as .json, which is larger."""

    reading: Reading = field(default_factory=ReadingSpec, kw_only=True)
    """How the images are read."""

    running: Running = field(default_factory=RunningSpec, kw_only=True)
    """The network, and where it runs."""

    layers: tuple[str, ...] = field(default=(), kw_only=True)
    """Layers by name, address or pattern such as 's*' or 'encoder.*'; by default those of --edges,
    or else as for profile."""

    edges: Path | None = field(default=None, kw_only=True)
    """Fingerprint whose histogram edges, layers and size of parts to use."""

    settings: Annotated[FingerprintSpec, Parameter(name="*")] = field(
        default_factory=FingerprintSpec, kw_only=True
    )
    """How the fingerprint is made."""

    def __post_init__(self) -> None:
        if not str(self.out).endswith(FINGERPRINTS):
            raise ArgumentError(f"OUT must end in .npz or .json, got {self.out}")
        merged = self.images.endswith(FINGERPRINTS)
        if self.settings.part is not None and (self.edges is not None or merged):
            raise ArgumentError(
                "part is fixed by the fingerprint given as --edges or IMAGES; leave it out"
            )


@dataclass(frozen=True)
class CarryRunSpec:
    """Measure which path of a network carries the IoU lost to a shift, without training.

    Activation patching: one skip at a time, or the bottleneck, is fed the reference's features
    while the rest of the network sees the shifted image. The share is the recovered fraction of
    the lost IoU. Modes zero and mean ablate (knock out) the path instead.

    Example: skipshift carry net.pt2 manifest.csv brightness:0.75 out --paths L1,L2
    """

    net: Path
    """Run folder, smp or nnU-Net folder, MONAI bundle, archive of torch.export or TorchScript, or
    weights with --builder."""

    reference: str
    """Manifest, or MANIFEST#domain: test cases of the domain that the network knows."""

    shifted: str
    """Shift of the reference such as brightness:0.75, or MANIFEST#domain, paired by case name."""

    out: Path
    """Folder to write: report.html, the network as u.svg, u.pdf and u.png, carry.csv, carry.json,
    carry.svg and carry.png."""

    reading: Reading = field(default_factory=ReadingSpec, kw_only=True)
    """How the images are read."""

    running: Running = field(default_factory=RunningSpec, kw_only=True)
    """The network, and where it runs."""

    settings: Annotated[CarrySpec, Parameter(name="*")] = field(
        default_factory=CarrySpec, kw_only=True
    )
    """How it is measured."""


@dataclass(frozen=True)
class RemedyRunSpec:
    """Find the smallest change of a network that brings back the IoU lost to a shift.

    A remedy is a change at one place: of the images, of batch-norm statistics, of feature maps, or
    with labelled images of weights. Each is fitted on some groups of the shifted images and judged
    on the others: by IoU where they have masks, else by the excess that is left in the last layer.
    Interrupted, the same command goes on where it stopped.

    Example: skipshift remedy net.pt2 old.csv new.csv out --take adabn@encoder.conv1
    """

    net: Path
    """Run folder, smp or nnU-Net folder, torch.export archive, or weights with --builder."""

    reference: str
    """Images of the domain that the network knows (source domain): a folder, a manifest, or
    MANIFEST#domain; of a manifest the test cases, whose masks tell what a remedy costs there. Or
    their fingerprint: then harm is not known."""

    shifted: str
    """Images of the new domain (target domain), likewise, or a shift such as brightness:0.75. They
    need not be paired with the reference."""

    out: Path
    """Folder to write: report.html, the network as u.svg, u.pdf and u.png, remedies.csv,
    remedy.json, and mended/, the network with the recommended remedy, which can be given as NET."""

    reading: Reading = field(default_factory=ReadingSpec, kw_only=True)
    """How the images are read."""

    running: Running = field(default_factory=RunningSpec, kw_only=True)
    """The network, and where it runs."""

    take: str | None = field(default=None, kw_only=True)
    """Remedy to write to mended/ as REMEDY@PLACE, instead of the recommended one."""

    settings: Annotated[RemedySpec, Parameter(name="*")] = field(
        default_factory=RemedySpec, kw_only=True
    )
    """Which remedies are tried, and how they are judged."""

    def __post_init__(self) -> None:
        check_take(self.take)


@dataclass(frozen=True)
class DiagnoseSpec:
    """Diagnose a shift: is it a mistake, where does it enter, what does it cost, what to change.

    Profile, activation patching and remedies on one page. Two folders of images are enough; masks
    of one or both sets, by manifests, add what they can. Interrupted, the same command goes on
    where it stopped.

    Example: skipshift diagnose net.pt2 scanner-a/ scanner-b/ out
    """

    net: Path
    """Run folder, smp or nnU-Net folder, torch.export archive, or weights with --builder."""

    reference: str
    """Images of the domain that the network knows (source domain): a folder, a manifest, or
    MANIFEST#domain; of a manifest the test cases."""

    shifted: str
    """Images of the new domain (target domain), likewise, or a shift such as brightness:0.75."""

    out: Path
    """Folder to write: report.html, the network as u.svg, u.pdf and u.png, diagnosis.json,
    layers.csv, remedies.csv, mended/, and carry.csv of paired sets with masks."""

    reading: Reading = field(default_factory=ReadingSpec, kw_only=True)
    """How the images are read."""

    running: Running = field(default_factory=RunningSpec, kw_only=True)
    """The network, and where it runs."""

    take: str | None = field(default=None, kw_only=True)
    """Remedy to write to mended/ as REMEDY@PLACE, instead of the recommended one."""

    json: bool = field(default=False, kw_only=True)
    """Print diagnosis.json instead of the text."""

    settings: Annotated[RemedySpec, Parameter(name="*")] = field(
        default_factory=RemedySpec, kw_only=True
    )
    """Which remedies are tried, and how they are judged."""

    def __post_init__(self) -> None:
        check_take(self.take)


@dataclass(frozen=True)
class ExportSpec:
    """Write a network for other programs: safetensors, ONNX, torch.export and a model card.

    Each file is loaded again, ONNX by ONNX Runtime, and compared with the network on images. The
    card of a run of a study has its IoU on every domain.

    Example: skipshift export out/study/runs/RUN out/model
    """

    net: Path
    """Run folder, smp or nnU-Net folder, MONAI bundle, archive of torch.export, or weights with
    --builder."""

    out: Path
    """Folder to write, which must not exist: model.safetensors, model.onnx, model.pt2, config.json
    and README.md."""

    reading: Reading = field(default_factory=ReadingSpec, kw_only=True)
    """How the images are read."""

    running: Running = field(default_factory=RunningSpec, kw_only=True)
    """The network, and where it runs."""

    images: str | None = field(default=None, kw_only=True)
    """Images to compare on: a folder, a manifest or MANIFEST#domain; by default those of the study
    that a run is of."""


@dataclass(frozen=True)
class ReportSpec:
    """Draw the figures and write the page of a study again, from its tables alone.

    Example: skipshift report out/study
    """

    out: Path
    """Study folder."""
