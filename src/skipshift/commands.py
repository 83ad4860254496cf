"""What each command does: a function of the same frozen dataclass that the command line fills.

Each returns the lines to show at the end. Torch is imported only by the commands that need it.
"""

from pathlib import Path

from skipshift import records
from skipshift.progress import Progress, silent
from skipshift.specs import (
    CheckSpec,
    DemoSpec,
    EvaluateSpec,
    ProfileRunSpec,
    ReportSpec,
    SkipshiftError,
    StudyRunSpec,
    StudySpec,
    SynthSpec,
    read_spec,
)


def synth(spec: SynthSpec, progress: Progress = silent) -> str:
    """Make the synthetic malaria set."""
    from skipshift.data.synthetic import write_synthetic

    return f"manifest: {write_synthetic(spec, progress)}"


def demo(spec: DemoSpec, progress: Progress = silent) -> str:
    """Show the whole story."""
    from skipshift.demo import run_demo

    return _told(run_demo(spec, progress))


def check(spec: CheckSpec, progress: Progress = silent) -> str:
    """Check a manifest; `CheckError` with all findings if one of them is an error."""
    from skipshift.checks import findings as told
    from skipshift.checks.preflight import check_manifest

    findings = check_manifest(
        spec.manifest, spec.classes or None, spec.crop, spec.workers, progress
    )
    report = told.to_json(findings) if spec.json else told.to_text(findings)
    if told.errors_of(findings):
        raise told.CheckError(f"{spec.manifest}: {told.summary(findings)}; mend the errors", report)
    return report


def study(spec: StudyRunSpec, progress: Progress = silent) -> str:
    """Do what is missing of a study."""
    import dataclasses

    from skipshift.study import run_study

    plan = read_spec(StudySpec, spec.study)
    weights = plan.training.encoder_weights
    if weights not in (None, "imagenet"):
        weights = str((spec.study.parent / weights).absolute())
    plan = dataclasses.replace(
        plan,
        manifest=spec.study.parent / plan.manifest,
        training=dataclasses.replace(plan.training, encoder_weights=weights),
    )
    return _told(run_study(plan, spec.out, progress, spec.only, spec.retry_failed))


def report(spec: ReportSpec, progress: Progress = silent) -> str:  # noqa: ARG001
    """Write the page again."""
    from skipshift.page.report import write_report

    return _told(write_report(spec.out))


def evaluate(spec: EvaluateSpec, progress: Progress = silent) -> str:
    """Evaluate one network on every domain and shift."""
    from skipshift.data.manifest import read_cases, read_manifest
    from skipshift.evaluation import evaluate as evaluate_cases
    from skipshift.inference import best_device
    from skipshift.models import Unet
    from skipshift.page.report import main_table
    from skipshift.statistics import pooled_iou

    net = Unet.load(spec.net).to(best_device())
    about = records.read_json(spec.net / records.RUN_RECORD)
    classes = about.get("classes") or [f"class {i}" for i in range(net.classes)]
    rows = read_manifest(spec.manifest)
    rows = rows[rows["split"] == "test"]
    cases = progress(read_cases(rows, net.classes, spec.crop), "evaluate", len(rows))
    counts = evaluate_cases(net, cases, classes, spec.shifts, precision=spec.precision)
    counts["run"] = spec.net.absolute().name
    iou = pooled_iou(counts.assign(encoder=net.encoder_name, variant=net.name))
    records.write_table(spec.out / "cases.parquet", counts)
    records.write_table(spec.out / "iou.csv", iou)
    return f"{main_table(iou)}\n\ntables: {spec.out}"


def profile(spec: ProfileRunSpec, progress: Progress = silent) -> str:
    """Profile one network between two sets of images."""
    from skipshift.data.sources import read_pair
    from skipshift.inference import best_device
    from skipshift.models import Unet
    from skipshift.page.style import to_svg
    from skipshift.profile import profile_shift
    from skipshift.specs import ProfileSpec

    net = Unet.load(spec.net).to(best_device())
    sets = read_pair(spec.reference, spec.shifted, spec.crop)
    settings = ProfileSpec(bins=spec.bins, seed=spec.seed)
    loaders = [
        progress(
            [s.images[i : i + 8].transpose(0, 3, 1, 2) for i in range(0, len(s.images), 8)], label
        )
        for s, label in zip(sets, ("reference", "shifted"), strict=True)
    ]
    groups = (sets[0].groups, sets[1].groups)
    try:
        measured = profile_shift(net, loaders[0], loaders[1], groups=groups, spec=settings)
    except ValueError as error:
        raise SkipshiftError(f"{spec.net} on {spec.reference}, {spec.shifted}: {error}") from None
    measured.save(spec.out)
    figure = measured.plot(f"{spec.reference} against {spec.shifted}")
    records.write_bytes(spec.out / "profile.svg", to_svg(figure))
    return f"{measured.layers.round(3).to_string(index=False)}\n\nprofile: {spec.out}"


def _told(page: Path) -> str:
    from skipshift.page.report import main_table

    table = main_table(records.read_table(page.parent / records.TABLES / "iou.csv"))
    return f"{table}\n\npage: {page}"
