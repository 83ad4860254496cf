"""What each command does: a function of the same frozen dataclass that the command line fills.

Each returns the lines to show at the end. Torch is imported only by the commands that need it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipshift import records
from skipshift.cli.arguments import (
    CarryRunSpec,
    CheckSpec,
    EvaluateSpec,
    ProfileRunSpec,
    ReportSpec,
    StudyRunSpec,
)
from skipshift.data.prepare.options import (
    FolderSpec,
    MitosisSpec,
    MmsSpec,
    RegisterSpec,
    SccSpec,
    SynthSpec,
)
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import FINGERPRINTS, parse_shift
from skipshift.progress import Progress, silent
from skipshift.specs import DemoSpec, StudySpec, read_spec, to_plain

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from skipshift.data.prepare.point_patches import Propose
    from skipshift.data.preprocess import Preprocess
    from skipshift.profile.fingerprints import Fingerprint
    from skipshift.specs import ProfileSpec


def synth(spec: SynthSpec, progress: Progress = silent) -> str:
    """Make the synthetic malaria set."""
    from skipshift.data.prepare.synthetic import write_synthetic

    return f"manifest: {write_synthetic(spec, progress)}"


def prepare_mms(spec: MmsSpec, progress: Progress = silent) -> str:
    """Prepare the M&Ms challenge."""
    from skipshift.data.prepare import mms, writing

    mms.prepare_mms(spec, progress)
    return writing.describe(spec.out)


def prepare_folder(spec: FolderSpec, progress: Progress = silent) -> str:
    """Prepare folders of images and masks."""
    from skipshift.data.prepare import folder, writing

    folder.prepare_folder(spec, progress)
    return writing.describe(spec.out)


def prepare_scc(spec: SccSpec, progress: Progress = silent) -> str:
    """Prepare slides with outlines of tissues."""
    from skipshift.data.prepare import scc, writing

    scc.prepare_scc(spec, progress)
    return writing.describe(spec.out)


def prepare_mitosis(spec: MitosisSpec, progress: Progress = silent) -> str:
    """Prepare slides with points on mitotic figures."""
    from skipshift.data.prepare import mitosis, stains, writing
    from skipshift.page.review import write_review

    propose: Propose = stains.propose
    if spec.proposals is not None:
        from skipshift.data.preprocess import preprocess_of
        from skipshift.networks.checkpoints import load_net
        from skipshift.networks.mask_proposals import proposer

        propose = proposer(load_net(spec.proposals, spec.net), preprocess_of(spec.preprocess))
    mitosis.prepare_mitosis(spec, progress, propose)
    told = writing.describe(spec.out)
    return f"{told}\n{write_review(spec.out)}" if spec.review else told


def register(spec: RegisterSpec, progress: Progress = silent) -> str:
    """Register two scans of one specimen."""
    from skipshift.data.images import write_png
    from skipshift.data.slides import annotations, overlays, quadtree, registration
    from skipshift.data.slides.reader import open_slide

    drawn = None
    if spec.annotations is not None:
        known = annotations.read_annotations(spec.annotations)
        if spec.fixed.name not in known:
            raise SkipshiftError(
                f"{spec.annotations}: has no slide {spec.fixed.name}; "
                f"its first is {next(iter(known), '-')}"
            )
        drawn = known[spec.fixed.name]
    with open_slide(spec.fixed) as fixed, open_slide(spec.moving) as moving:
        found = quadtree.register(fixed, moving, spec.depth, spec.side, spec.workers, progress)
        pictures = overlays.draw_overlays(fixed, moving, found)
    for name, pixels in pictures.items():
        write_png(spec.out / f"{name}.png", pixels)
    if drawn is not None:
        carried = registration.transfer_annotations(found, drawn)
        annotations.write_coco(spec.out / "annotations.json", carried)
    found.save(spec.out)
    return f"{registration.describe(found)}\nregistration: {spec.out / registration.RECORD}"


def demo(spec: DemoSpec, progress: Progress = silent) -> str:
    """Show the whole story."""
    from skipshift.study.demo import run_demo

    return _told(run_demo(spec, progress))


def check(spec: CheckSpec, progress: Progress = silent) -> str:
    """Check a manifest; `CheckError` with all findings if one of them is an error."""
    from skipshift.data.checks import findings as told
    from skipshift.data.checks.preflight import check_manifest

    findings = check_manifest(
        spec.manifest, spec.classes or None, spec.crop, spec.workers, progress
    )
    report = told.to_json(findings) if spec.json else told.to_text(findings)
    if told.errors_of(findings):
        raise told.CheckError(f"{spec.manifest}: {told.summary(findings)}; mend the errors", report)
    return report


def study(spec: StudyRunSpec, progress: Progress = silent) -> str:
    """Do what is missing of a study, or say what that is."""
    import dataclasses

    from skipshift.study.plan import plan_study
    from skipshift.study.study import run_study

    asked = read_spec(StudySpec, spec.study)
    weights = asked.training.encoder_weights
    if weights not in (None, "imagenet"):
        weights = str((spec.study.parent / weights).absolute())
    asked = dataclasses.replace(
        asked,
        manifest=spec.study.parent / asked.manifest,
        training=dataclasses.replace(asked.training, encoder_weights=weights),
    )
    if spec.plan:
        return plan_study(asked, spec.out, spec.execution)
    return _told(run_study(asked, spec.out, spec.execution, progress))


def report(spec: ReportSpec, progress: Progress = silent) -> str:  # noqa: ARG001
    """Write the page again."""
    from skipshift.page.report import write_report

    return _told(write_report(spec.out))


def evaluate(spec: EvaluateSpec, progress: Progress = silent) -> str:
    """Evaluate one network on every domain and shift."""
    from skipshift.data.manifest import read_cases, read_manifest
    from skipshift.data.preprocess import preprocess_of
    from skipshift.networks.checkpoints import load_net
    from skipshift.networks.unet import Unet
    from skipshift.page.report import main_table
    from skipshift.statistics.scores import estimates, pooled_iou
    from skipshift.study.evaluation import count_classes, evaluate_manifest

    how = spec.evaluation
    rows = read_manifest(spec.manifest)
    rows = rows[rows["split"] == "test"]
    if rows.empty:
        raise SkipshiftError(f"{spec.manifest}: has no test cases; give some the split test")
    preprocess_of(how.preprocess)
    net, record = load_net(spec.net, spec.builder), spec.net / records.RUN_RECORD
    classes = spec.classes or (records.read_json(record).get("classes") if record.exists() else ())
    try:
        number = count_classes(net, next(read_cases(rows[:1], 256, how.crop)), how)
        classes = classes or [f"class {index}" for index in range(number)]
        if len(classes) != number:
            raise ArgumentError(f"it tells {number} classes apart, not {', '.join(classes)}")
    except ArgumentError as error:
        raise SkipshiftError(f"{spec.net} on {spec.manifest}: {error}") from None
    counts = evaluate_manifest(spec.net, rows, classes, how, progress, spec.builder)
    encoder, variant = type(net).__name__, spec.net.name
    if isinstance(net, Unet):
        encoder, variant = net.encoder_name, net.name
    iou = pooled_iou(estimates(counts.assign(encoder=encoder, variant=variant)))
    records.write_table(spec.out / "cases.parquet", counts)
    records.write_table(spec.out / "iou.csv", iou)
    return f"{main_table(iou)}\n\ntables: {spec.out}"


def profile(spec: ProfileRunSpec, progress: Progress = silent) -> str:
    """Profile one network between two sets of images, or count one set as a fingerprint."""
    from skipshift.data.preprocess import preprocess_of
    from skipshift.networks.checkpoints import load_net
    from skipshift.networks.inference import best_device
    from skipshift.networks.layers import layers_of
    from skipshift.page.style import to_svg
    from skipshift.profile.profiling import profile_shift
    from skipshift.specs import ProfileSpec

    settings = ProfileSpec(
        distances=tuple(spec.distances.split(",")),
        pooling=tuple(spec.pooling.split(",")),
        bins=spec.bins,
        memory=spec.memory,
        seed=spec.seed,
    )
    function = preprocess_of(spec.preprocess)
    net = load_net(spec.net, spec.builder).to(best_device())
    layers = layers_of(net, spec.layers) if spec.layers else None
    sides = _sides(spec, function, settings.batch_size, progress)
    if spec.fingerprint is not None:
        return _write_fingerprint(spec, net, sides[0], layers, settings)
    assert spec.out is not None
    (reference, own), (shifted, others) = sides
    try:
        measured = profile_shift(net, reference, shifted, layers, (own, others), settings)
    except ArgumentError as error:
        raise SkipshiftError(f"{spec.net} on {spec.reference}, {spec.shifted}: {error}") from None
    measured.save(spec.out)
    kinds = product(settings.distances, settings.pooling)
    for number, (measure, pooling) in enumerate(kinds):
        label = f"{spec.reference} against {spec.shifted}: {measure}, {pooling}"
        name = f"profile-{measure}-{pooling}.svg" if number else "profile.svg"
        records.write_bytes(spec.out / name, to_svg(measured.plot(label, measure, pooling)))
    parts = [measured.layers.round(3).to_string(index=False), measured.verdict()]
    if measured.outside:
        layer = max(measured.outside, key=measured.outside.__getitem__)
        share = measured.outside[layer]
        parts.append(f"Up to {share:.1%} of a layer ({layer}) lies beyond the fingerprint's edges.")
    return "\n\n".join([*parts, f"profile: {spec.out}"])


def _sides(
    spec: ProfileRunSpec, function: "Preprocess", size: int, progress: Progress
) -> "list[tuple[Fingerprint | _Batches, tuple[str, ...] | None]]":
    """Read the sets that are named: fingerprints, or images with their groups."""
    from skipshift.data.sources import ImageSet, read_pair, read_set

    names = [name for name in (spec.reference, spec.shifted) if name is not None]
    sets: Sequence[Fingerprint | ImageSet]
    if len(names) == 2 and not any(name.endswith(FINGERPRINTS) for name in names):
        sets = read_pair(names[0], names[1], spec.crop, spec.volumes)
    else:
        sets = [
            _held(name, spec)
            if name.endswith(FINGERPRINTS)
            else read_set(name, spec.crop, spec.volumes)
            for name in names
        ]
    return [
        (_Batches(side.images, function, size, label, progress), side.groups)
        if isinstance(side, ImageSet)
        else (side, None)
        for side, label in zip(sets, ("reference", "shifted"), strict=False)
    ]


def _held(name: str, spec: ProfileRunSpec) -> "Fingerprint":
    from skipshift.profile.fingerprints import read_fingerprint

    if spec.shifted is not None and parse_shift(spec.shifted):
        raise SkipshiftError(f"{name}: is a fingerprint, and {spec.shifted} changes images")
    held = read_fingerprint(name)
    if held.making.preprocess != spec.preprocess:
        raise SkipshiftError(
            f"{name}: was made with another preprocess than {spec.preprocess}; "
            f"say --preprocess {held.making.preprocess}"
        )
    return held


def _write_fingerprint(
    spec: ProfileRunSpec,
    net: "nn.Module",
    side: "tuple[Fingerprint | _Batches, tuple[str, ...] | None]",
    layers: dict[str, str] | None,
    settings: "ProfileSpec",
) -> str:
    from skipshift.profile.counting import fingerprint, fingerprint_like
    from skipshift.profile.fingerprints import Fingerprint
    from skipshift.specs import FingerprintSpec

    # as the spec holds where a fingerprint is asked for
    assert spec.fingerprint is not None
    assert not isinstance(spec.bins, str)
    fresh = FingerprintSpec(
        preprocess=spec.preprocess,
        pooling=spec.pooling,
        bins=spec.bins,
        part=spec.part,
        memory=spec.memory,
        seed=spec.seed,
    )
    images, groups = side
    edges = None if spec.edges is None else _held(str(spec.edges), spec)
    try:
        if edges is not None:
            made = fingerprint_like(edges, net, images, layers, groups, settings)
        elif isinstance(images, Fingerprint):
            made = fingerprint_like(images, net, images, layers, groups, settings)
        else:
            made = fingerprint(net, images, None, layers, groups, fresh)
        made.save(spec.fingerprint)
    except ArgumentError as error:
        raise SkipshiftError(f"{spec.net} on {spec.reference}: {error}") from None
    told = f"{made}; {max(made.outside().values()):.1%} of a layer beyond the edges at most"
    left = 0 if groups is None else len(set(groups)) - made.groups.sum()
    if left:
        told += f"; groups left out, as they fill no part: {left}"
    return f"{told}\n\nfingerprint: {spec.fingerprint}"


def carry(spec: CarryRunSpec, progress: Progress = silent) -> str:
    """Measure which path of one network carries the loss."""
    import numpy as np

    from skipshift.data.preprocess import preprocess_of
    from skipshift.data.sources import read_labelled_pair
    from skipshift.networks.checkpoints import load_net
    from skipshift.networks.inference import best_device
    from skipshift.page.carry_chart import carry_figure
    from skipshift.page.carry_sentences import carry_sentence
    from skipshift.page.style import to_png, to_svg
    from skipshift.patching.carry import carry as measure
    from skipshift.patching.carry import paths_of

    function = preprocess_of(spec.preprocess)
    net = load_net(spec.net, spec.builder).to(best_device())
    settings = spec.settings
    paths = paths_of(net, settings.paths)
    # as many classes as counts tell apart where the network does not say its own
    classes, paired = getattr(net, "classes", 16), settings.mode == "paired"
    sets = read_labelled_pair(spec.reference, spec.shifted, classes, spec.crop, paired)
    reference, shifted = (
        _Batches(
            np.stack([case.image for case in cases]), function, settings.batch_size, "carry", shown
        )
        for cases, shown in zip(sets, (silent, progress), strict=True)
    )
    masks, others = (np.stack([case.mask for case in cases]) for cases in sets)
    groups, their_groups = ([case.group for case in cases] for cases in sets)
    try:
        table = measure(net, reference, shifted, (masks, others), (groups, their_groups), settings)
    except ArgumentError as error:
        raise SkipshiftError(f"{spec.net} on {spec.reference}, {spec.shifted}: {error}") from None
    about = {"net": str(spec.net), "reference": spec.reference, "shifted": spec.shifted}
    records.write_table(spec.out / "carry.csv", table)
    records.write_json(
        spec.out / "carry.json", {**about, "paths": paths, "settings": to_plain(settings)}
    )
    figure = carry_figure(table, f"{spec.reference} against {spec.shifted}")
    records.write_bytes(spec.out / "carry.svg", to_svg(figure))
    records.write_bytes(spec.out / "carry.png", to_png(figure))
    told = table.round(3).dropna(axis=1, how="all").to_string(index=False)
    return f"{told}\n\n{carry_sentence(table)}\n\ncarry: {spec.out}"


@dataclass(frozen=True)
class _Batches:
    """Images (N, H, W, C) prepared a batch at a time, as often as they are read."""

    images: "npt.NDArray[Any]"
    function: "Preprocess"
    size: int
    label: str
    progress: Progress

    def __iter__(self) -> "Iterator[npt.NDArray[np.float32]]":
        from skipshift.data.preprocess import prepare

        starts = range(0, len(self.images), self.size)
        parts = [self.images[start : start + self.size] for start in starts]
        return (prepare(part, self.function) for part in self.progress(parts, self.label))


def _told(page: Path) -> str:
    """Show the main table of a study, what its tests say, and where its page is."""
    from skipshift.page.comparison_sentences import verdict_sentences
    from skipshift.page.report import main_table
    from skipshift.page.study_results import read_results, read_study_spec

    found = read_results(page.parent, read_study_spec(page.parent))
    iou = records.read_table(page.parent / records.TABLES / "iou.csv")
    table = main_table(iou.sort_values("domain", key=lambda d: ~d.isin(found.homes), kind="stable"))
    said = verdict_sentences(found.tests, found.margin)
    return "\n\n".join([table.rstrip(), *(["\n".join(said)] if said else []), f"page: {page}"])
