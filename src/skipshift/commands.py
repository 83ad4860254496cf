"""What each command does: a function of the same frozen dataclass that the command line fills.

Each returns the lines to show at the end. Torch is imported only by the commands that need it.
"""

from itertools import product
from pathlib import Path

from skipshift import records
from skipshift.arguments import (
    DemoSpec,
    EvaluateSpec,
    ProfileRunSpec,
    ReportSpec,
    StudyRunSpec,
)
from skipshift.data.specs import FolderSpec, MmsSpec, SynthSpec
from skipshift.progress import Progress, silent
from skipshift.specs import SkipshiftError, StudySpec, read_spec


def synth(spec: SynthSpec, progress: Progress = silent) -> str:
    """Make the synthetic malaria set."""
    from skipshift.data.synthetic import write_synthetic

    return f"manifest: {write_synthetic(spec, progress)}"


def prepare_mms(spec: MmsSpec, progress: Progress = silent) -> str:
    """Prepare the M&Ms challenge."""
    from skipshift.data import mms, writing

    mms.prepare_mms(spec, progress)
    return writing.describe(spec.out)


def prepare_folder(spec: FolderSpec, progress: Progress = silent) -> str:
    """Prepare folders of images and masks."""
    from skipshift.data import folder, writing

    folder.prepare_folder(spec, progress)
    return writing.describe(spec.out)


def demo(spec: DemoSpec, progress: Progress = silent) -> str:
    """Show the whole story."""
    from skipshift.demo import run_demo

    return _told(run_demo(spec, progress))


def study(spec: StudyRunSpec, progress: Progress = silent) -> str:
    """Do what is missing of a study, or say what that is."""
    import dataclasses

    from skipshift.plan import plan_study
    from skipshift.study import run_study

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
    from skipshift.data.manifest import read_manifest
    from skipshift.evaluation import evaluate_manifest
    from skipshift.models import Unet
    from skipshift.page.report import main_table
    from skipshift.scores import estimates, pooled_iou

    net = Unet.load(spec.net)
    about = records.read_json(spec.net / records.RUN_RECORD)
    classes = about.get("classes") or [f"class {i}" for i in range(net.classes)]
    rows = read_manifest(spec.manifest)
    rows = rows[rows["split"] == "test"]
    if rows.empty:
        raise SkipshiftError(f"{spec.manifest}: has no test cases; give some the split test")
    counts = evaluate_manifest(spec.net, rows, classes, spec.evaluation, progress)
    iou = pooled_iou(estimates(counts.assign(encoder=net.encoder_name, variant=net.name)))
    records.write_table(spec.out / "cases.parquet", counts)
    records.write_table(spec.out / "iou.csv", iou)
    return f"{main_table(iou)}\n\ntables: {spec.out}"


def profile(spec: ProfileRunSpec, progress: Progress = silent) -> str:
    """Profile one network between two sets of images."""
    from skipshift.checkpoints import load_net
    from skipshift.data.preprocess import prepare, preprocess_of
    from skipshift.data.sources import read_pair
    from skipshift.inference import best_device
    from skipshift.layers import taps_of
    from skipshift.page.style import to_svg
    from skipshift.profile import profile_shift
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
    layers = taps_of(net, spec.layers) if spec.layers else None
    sets = read_pair(spec.reference, spec.shifted, spec.crop, spec.volumes)
    size = settings.batch_size
    batches = [[s.images[i : i + size] for i in range(0, len(s.images), size)] for s in sets]
    loaders = [
        (prepare(batch, function) for batch in progress(parts, label))
        for parts, label in zip(batches, ("reference", "shifted"), strict=True)
    ]
    groups = (sets[0].groups, sets[1].groups)
    try:
        measured = profile_shift(net, loaders[0], loaders[1], layers, groups, settings)
    except ValueError as error:
        raise SkipshiftError(f"{spec.net} on {spec.reference}, {spec.shifted}: {error}") from None
    measured.save(spec.out)
    kinds = product(settings.distances, settings.pooling)
    for number, (measure, pooling) in enumerate(kinds):
        label = f"{spec.reference} against {spec.shifted}: {measure}, {pooling}"
        name = f"profile-{measure}-{pooling}.svg" if number else "profile.svg"
        records.write_bytes(spec.out / name, to_svg(measured.plot(label, measure, pooling)))
    table = measured.layers.round(3).to_string(index=False)
    return f"{table}\n\n{measured.verdict()}\n\nprofile: {spec.out}"


def _told(page: Path) -> str:
    """Show the main table of a study, what its tests say, and where its page is."""
    from skipshift.comparisons import verdict_sentences
    from skipshift.page.report import main_table

    tables = page.parent / records.TABLES
    margin = read_spec(StudySpec, page.parent / records.STUDY).margin
    said = verdict_sentences(records.read_table(tables / "tests.csv"), margin)
    table = main_table(records.read_table(tables / "iou.csv"))
    return "\n\n".join([table.rstrip(), *(["\n".join(said)] if said else []), f"page: {page}"])
