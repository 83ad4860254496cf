"""The commands `estimate` and `score`: images that nobody labelled."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from skipshift.cli.arguments import Reading, Running, RunningSpec
from skipshift.cli.inputs import as_text, check_network, load_network, made_from, units
from skipshift.errors import ArgumentError, SkipshiftError, naming
from skipshift.estimate.settings import EstimateSpec
from skipshift.names import AGREEMENT
from skipshift.progress import Progress, silent
from skipshift.specs import Activation, ReadingSpec
from skipshift.validation import check_least

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05
"""An image whose p is below is unlike the reference, where so small a p can be."""


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
    used; or a shift of the reference such as brightness:0.75."""

    out: Path
    """Folder to write: report.html, estimate.csv and estimate.json."""

    reading: Reading = field(default_factory=ReadingSpec, kw_only=True)
    """How the images are read."""

    running: Running = field(default_factory=RunningSpec, kw_only=True)
    """The network, and where it runs."""

    agree: tuple[Path, ...] = field(default=(), kw_only=True)
    """Other networks of the same classes and input, such as other runs of a study, with commas
    between them: adds the method agreement. Each takes as long as NET."""

    settings: Annotated[EstimateSpec, Parameter(name="*")] = field(
        default_factory=EstimateSpec, kw_only=True
    )
    """How it is estimated."""

    def __post_init__(self) -> None:
        if self.settings.method == AGREEMENT and not self.agree:
            raise ArgumentError("method agreement needs other networks: add agree")


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
    """Folder to write: report.html, scores.csv and score.json."""

    reading: Reading = field(default_factory=ReadingSpec, kw_only=True)
    """How the images are read."""

    running: Running = field(default_factory=RunningSpec, kw_only=True)
    """The network, and where it runs."""

    output: str | None = field(default=None, kw_only=True)
    """Name or index of the network's output that holds the logits, where it returns several."""

    activation: Activation = field(default="auto", kw_only=True)
    """What the network ends in: none (it returns logits), sigmoid or softmax (probabilities)."""

    batch_size: int = field(default=8, kw_only=True)
    """Images per forward pass."""

    def __post_init__(self) -> None:
        check_least(self, 1, "batch_size")


def estimate(spec: EstimateRunSpec, progress: Progress = silent) -> str:
    """Estimate the IoU on images without masks; `SkipshiftError` if the reference has none."""
    from skipshift.data.sets.sources import find_pair
    from skipshift.estimate.estimating import estimated
    from skipshift.networks.weights import weights_hash
    from skipshift.page.command_pages import estimate_findings
    from skipshift.page.findings import write_findings
    from skipshift.page.wording import printed
    from skipshift.profile.fingerprints import Fingerprint
    from skipshift.records import REPORT, write_json, write_table
    from skipshift.remedies.inputs import read_inputs

    settings = spec.settings
    for source in (spec.net, *spec.agree):
        check_network(source, spec.running)
    pair = find_pair(spec.reference, spec.shifted, spec.reading, settings.seed)
    network, *peers = (load_network(source, spec.running) for source in (spec.net, *spec.agree))
    for peer in peers:
        if peer.preprocess != network.preprocess:
            raise SkipshiftError(
                f"{peer.source}: takes other input than {spec.net}, preprocessed by "
                f"{peer.preprocess} and not {network.preprocess}; leave it out of --agree"
            )
    inputs = read_inputs(
        network.net, pair, network.preprocess, settings.batch_size, settings.ignore
    )
    if inputs.masks[0] is None:
        raise SkipshiftError(
            f"{spec.reference}: has no masks, which tell confidence from accuracy; give a manifest "
            f"of labelled cases as REFERENCE"
        )
    images, shifted = inputs.images
    assert not isinstance(images, Fingerprint)
    others = f" beside {', '.join(map(str, spec.agree))}" if peers else ""
    with naming(f"{spec.net} on {spec.reference}, {spec.shifted}{others}"):
        found = estimated(
            network.net, (images, shifted), inputs.masks[0], inputs.groups, settings,
            network.classes, progress, [peer.net for peer in peers],
        )  # fmt: skip
    answered = found.table["answered"].map({True: "true", False: "false"})
    write_table(spec.out / "estimate.csv", found.table.assign(answered=answered))
    about = made_from(network, inputs.about, reading=spec.reading, settings=settings)
    if peers:
        about["agree"] = {str(peer.source): weights_hash(peer.net) for peer in peers}
    write_json(spec.out / "estimate.json", found.record() | about)
    text = as_text(about)
    write_findings(spec.out, estimate_findings(found.table, found.verdict(), text), text)
    parts = [printed(found.table), found.verdict()]
    return "\n\n".join([*parts, units(network, inputs.about), f"page: {spec.out / REPORT}"])


def score(spec: ScoreSpec, progress: Progress = silent) -> str:
    """Score images against a fingerprint, one by one.

    `SkipshiftError` if it was made with another preprocessing than is asked for.
    """
    from skipshift.data.sets.sources import find_set
    from skipshift.estimate.scoring import score_images
    from skipshift.page.command_pages import scores_findings
    from skipshift.page.findings import write_findings
    from skipshift.page.wording import printed
    from skipshift.profile.fingerprints import Fingerprint, read_fingerprint
    from skipshift.profile.inputs import find_input, read_input, read_matching
    from skipshift.records import IMAGE_SCORES, REPORT, write_json, write_table

    if not isinstance(find_input(str(spec.fingerprint), spec.reading), str):
        raise SkipshiftError(
            f"{spec.fingerprint}: holds images; give their fingerprint, by skipshift fingerprint"
        )
    found = find_set(spec.images, spec.reading)
    reference = read_fingerprint(str(spec.fingerprint))
    running = spec.running
    if running.preprocess == "auto":
        running = replace(running, preprocess=reference.making.preprocess)
    read_matching(str(spec.fingerprint), running.preprocess)
    network = load_network(spec.net, running)
    given = read_input(found, running.preprocess, spec.batch_size, progress=progress)
    assert not isinstance(given.images, Fingerprint)
    with naming(f"{spec.net} on {spec.images}, {spec.fingerprint}"):
        table = score_images(
            network.net, reference, given.images, [item.case for item in found.items],
            spec.output, spec.activation, spec.batch_size,
        )  # fmt: skip
    write_table(spec.out / "scores.csv", table, IMAGE_SCORES)
    odd, told = _unlike(table["p"], len(reference.alone))
    about = {"images": given.about}
    record = made_from(network, about, fingerprint=str(spec.fingerprint), reading=spec.reading)
    write_json(spec.out / "score.json", {"unlike": odd, "level": LEVEL} | record)
    text = as_text(record)
    write_findings(spec.out, scores_findings(table, told, text), text)
    least = printed(table.sort_values("p", kind="stable").head(10))
    more = f"(the first 10 of {len(table)})" if len(table) > 10 else ""
    parts = [f"{least}\n{more}".strip("\n"), told, units(network, about)]
    return "\n\n".join([*parts, f"page: {spec.out / REPORT}"])


def _unlike(p: "pd.Series[float]", known: int) -> tuple[int | None, str]:
    """Count images below the level and say so; None where the known images are too few for it."""
    least = 1 / (known + 1)
    if least >= LEVEL:
        return None, (
            f"The fingerprint has {known} images, so that no p is below {least:.3f}, and none can "
            f"be told to be unlike the reference at {LEVEL}: that needs {round(1 / LEVEL)} images."
        )
    odd = int((p < LEVEL).sum())
    return odd, (
        f"{odd} of {len(p)} images are unlike the reference (p < {LEVEL}); of images that are "
        f"like it, at most one in {round(1 / LEVEL)} is, on average."
    )
