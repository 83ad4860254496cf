"""The commands `estimate` and `score`: images that nobody labelled."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from skipshift.cli.inputs import load_network
from skipshift.errors import SkipshiftError, naming
from skipshift.estimate.settings import EstimateSpec
from skipshift.progress import Progress, silent
from skipshift.spec_files import to_plain
from skipshift.specs import Activation
from skipshift.validation import check_crop, check_least

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class EstimateRunSpec:
    """Estimate the IoU on images without masks, with an interval, or say that it cannot be said.

    The reference's masks tell how the network's confidence misleads under some 70 known shifts of
    its images; the new images are taken for those that they are most like. What is like none of
    them, or would have an interval wider than 0.7, is not answered.

    Example: skipshift estimate net.pt2 manifest.csv#A scanner-b/ out
    """

    net: Path
    """Run folder, smp or nnU-Net folder, torch.export archive, or weights with --builder."""

    reference: str
    """Manifest, or MANIFEST#domain: test cases of the domain that the network knows, with masks."""

    shifted: str
    """Images of the new domain: a folder, a manifest, or MANIFEST#domain, whose masks are not
    read; or a shift of the reference such as brightness:0.75."""

    out: Path
    """Folder to write: estimate.csv and estimate.json."""

    builder: str | None = field(default=None, kw_only=True)
    """Function that builds the network for a file of weights, as module:function."""

    preprocess: str = field(default="unit", kw_only=True)
    """Preprocessing of each image: unit, minmax, zscore, imagenet, none or module:function."""

    crop: int | None = field(default=None, kw_only=True)
    """Side of a centred crop of the images, a multiple of 32; whole images by default."""

    settings: Annotated[EstimateSpec, Parameter(name="*")] = field(
        default_factory=EstimateSpec, kw_only=True
    )
    """How it is estimated."""

    def __post_init__(self) -> None:
        check_crop("crop", self.crop)


@dataclass(frozen=True)
class ScoreSpec:
    """Score each image by how unlike a fingerprint's images it is, layer by layer.

    Example: skipshift score net.pt2 scanner-a.npz incoming/ out
    """

    net: Path
    """Run folder, smp or nnU-Net folder, torch.export archive, or weights with --builder."""

    fingerprint: Path
    """Fingerprint of the reference, as `skipshift fingerprint` writes it."""

    images: str
    """Images to score: a folder, a manifest, or MANIFEST#domain."""

    out: Path
    """Folder to write: scores.csv and score.json."""

    builder: str | None = field(default=None, kw_only=True)
    """Function that builds the network for a file of weights, as module:function."""

    crop: int | None = field(default=None, kw_only=True)
    """Side of a centred crop of the images, a multiple of 32; whole images by default."""

    output: str | None = field(default=None, kw_only=True)
    """Name or index of the network's output that holds the logits, where it returns several."""

    activation: Activation = field(default="auto", kw_only=True)
    """What the network ends in: none (it returns logits), sigmoid or softmax (probabilities)."""

    batch_size: int = field(default=8, kw_only=True)
    """Images per forward pass."""

    def __post_init__(self) -> None:
        check_crop("crop", self.crop)
        check_least(self, 1, "batch_size")


def estimate(spec: EstimateRunSpec, progress: Progress = silent) -> str:
    """Estimate the IoU on images without masks; `SkipshiftError` if the reference has none."""
    from skipshift.estimate.estimating import estimated
    from skipshift.records import write_json, write_table
    from skipshift.remedies.inputs import read_inputs

    net = load_network(spec.net, spec.builder, spec.preprocess)
    settings = spec.settings
    names = (spec.reference, spec.shifted)
    inputs = read_inputs(
        net, names, spec.preprocess, spec.crop, settings.batch_size, settings.ignore
    )
    if inputs.masks[0] is None:
        raise SkipshiftError(
            f"{spec.reference}: has no masks, which tell confidence from accuracy; give a manifest "
            f"of labelled cases as REFERENCE"
        )
    with naming(f"{spec.net} on {spec.reference}, {spec.shifted}"):
        found = estimated(
            net, inputs.images, inputs.masks[0], inputs.groups, settings,
            _classes(spec.net), progress,
        )  # fmt: skip
    answered = found.table["answered"].map({True: "true", False: "false"})
    write_table(spec.out / "estimate.csv", found.table.assign(answered=answered))
    write_json(spec.out / "estimate.json", found.record() | _about(spec, net))
    table = found.table.round(3).to_string(index=False, na_rep="-")
    return f"{table}\n\n{found.verdict()}\n\nestimate: {spec.out}"


def score(spec: ScoreSpec, progress: Progress = silent) -> str:
    """Score images against a fingerprint, one by one."""
    from skipshift.data.batches import Batches
    from skipshift.data.preprocess import preprocess_of
    from skipshift.data.sources import read_set
    from skipshift.estimate.scoring import score_images
    from skipshift.profile.fingerprints import read_fingerprint
    from skipshift.records import IMAGE_SCORES, write_json, write_table

    reference = read_fingerprint(str(spec.fingerprint))
    preprocess = reference.making.preprocess
    net = load_network(spec.net, spec.builder, preprocess)
    given = read_set(spec.images, spec.crop)
    batches = Batches(given.images, preprocess_of(preprocess), spec.batch_size, "images", progress)
    with naming(f"{spec.net} on {spec.images}, {spec.fingerprint}"):
        table = score_images(
            net, reference, batches, _cases(spec.images, given.groups), spec.output,
            spec.activation, spec.batch_size,
        )  # fmt: skip
    write_table(spec.out / "scores.csv", table, IMAGE_SCORES)
    odd = int((table["p"] < 0.05).sum())
    record = {"images": len(table), "unlike": odd, "level": 0.05}
    write_json(spec.out / "score.json", record | _about(spec, net))
    least = table.sort_values("p", kind="stable").head(10).round(3).to_string(index=False)
    return (
        f"{least}\n\n{odd} of {len(table)} images are unlike the reference (p < 0.05); of images "
        f"that are like it, one in 20 is.\n\nscores: {spec.out / 'scores.csv'}"
    )


def _cases(source: str, groups: tuple[str, ...]) -> tuple[str, ...]:
    """Name the images: files of a folder without their ending, or cases of a manifest."""
    from skipshift.data.sources import read_test_rows

    if Path(source.partition("#")[0]).is_dir():
        return groups
    return tuple(read_test_rows(source)["case"])


def _classes(net: Path) -> tuple[str, ...]:
    """Names of the classes of a run of a study; none of another network."""
    from skipshift.records import RUN_RECORD, read_json

    record = net / RUN_RECORD
    return tuple(read_json(record).get("classes", ())) if record.exists() else ()


def _about(spec: EstimateRunSpec | ScoreSpec, net: "nn.Module") -> dict[str, Any]:
    """Say what a finding was made from."""
    from importlib.metadata import version

    from skipshift.networks.weights import weights_hash

    return {
        "network": {"name": type(net).__name__, "sha256": weights_hash(net)},
        "settings": to_plain(spec),
        "version": version("skipshift"),
    }
