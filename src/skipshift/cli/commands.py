"""One function per command: reads, calls the library, writes, and returns the text to show.

Each takes the frozen dataclass that the command line fills. Heavy modules are imported inside, so
that help does not wait for them.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipshift.cli.arguments import (
    CheckSpec,
    DiagnoseSpec,
    ReportSpec,
    StudyRunSpec,
)
from skipshift.cli.doctor_command import doctor
from skipshift.cli.estimate_commands import estimate, score
from skipshift.cli.inputs import check_folder
from skipshift.cli.network_commands import carry, evaluate, export, fingerprint, profile
from skipshift.cli.remedy_commands import diagnose, remedy
from skipshift.data.prepare.options import FolderSpec, MergeSpec, MmsSpec, SynthSpec
from skipshift.data.prepare.slide_options import MitosisSpec, RegisterSpec, SccSpec
from skipshift.errors import SkipshiftError
from skipshift.names import BASELINE
from skipshift.progress import Progress, silent
from skipshift.spec_files import read_study
from skipshift.specs import ReadingSpec
from skipshift.study_specs import DemoSpec

if TYPE_CHECKING:
    from skipshift.data.prepare.point_patches import Propose

__all__ = [
    "carry", "check", "demo", "diagnose", "doctor", "estimate", "evaluate", "export", "fingerprint",
    "prepare_folder", "prepare_merge", "prepare_mitosis", "prepare_mms", "prepare_scc", "profile",
    "register", "remedy", "report", "score", "study", "synth",
]  # fmt: skip


def synth(spec: SynthSpec, progress: Progress = silent) -> str:
    """Make the synthetic malaria set."""
    from skipshift.data.prepare.synthetic import RECIPE, write_synthetic
    from skipshift.records import read_json

    manifest = write_synthetic(spec, progress)
    source = read_json(spec.out / RECIPE)["templates"]["source"]
    return f"templates: {source}\nmanifest: {manifest}"


def prepare_mms(spec: MmsSpec, progress: Progress = silent) -> str:
    """Prepare the M&Ms challenge."""
    from skipshift.data.prepare.mms import prepare_mms as prepare

    return _prepare(prepare, spec, progress)


def prepare_folder(spec: FolderSpec, progress: Progress = silent) -> str:
    """Prepare folders of images and masks."""
    from skipshift.data.prepare.folder import prepare_folder as prepare

    return _prepare(prepare, spec, progress)


def prepare_merge(spec: MergeSpec, progress: Progress = silent) -> str:
    """Join several manifests into one set."""
    from skipshift.data.prepare.merge import merge_sets
    from skipshift.data.prepare.writing import describe

    merge_sets(spec, progress)
    return describe(spec.out)


def prepare_scc(spec: SccSpec, progress: Progress = silent) -> str:
    """Prepare slides with outlined tissue."""
    from skipshift.data.prepare.scc import prepare_scc as prepare

    return _prepare(prepare, spec, progress)


def prepare_mitosis(spec: MitosisSpec, progress: Progress = silent) -> str:
    """Prepare slides with annotated mitotic figures."""
    from skipshift.data.prepare import mitosis, stains
    from skipshift.page.review import write_review

    propose: Propose = stains.propose
    if spec.proposals is not None:
        from skipshift.networks.mask_proposals import load_proposer

        propose = load_proposer(spec.proposals, spec.builder, spec.preprocess)
    prepare = partial(mitosis.prepare_mitosis, proposer=propose)
    text = _prepare(prepare, spec, progress)
    return f"{text}\n{write_review(spec.out)}" if spec.review else text


def register(spec: RegisterSpec, progress: Progress = silent) -> str:
    """Register two scans of one specimen."""
    from skipshift.data.images import write_png
    from skipshift.data.slides import annotations, overlays, quadtree, registration
    from skipshift.data.slides.reader import open_slide

    drawn = None
    if spec.annotations is not None:
        drawn = annotations.read_slide_annotations(spec.annotations, spec.fixed.name)
    with open_slide(spec.fixed) as fixed, open_slide(spec.moving) as moving:
        result = quadtree.register(fixed, moving, spec.depth, spec.side, spec.workers, progress)
        pictures = overlays.draw_overlays(fixed, moving, result)
    for name, pixels in pictures.items():
        write_png(spec.out / f"{name}.png", pixels)
    if drawn is not None:
        moved = registration.transfer_annotations(result, drawn)
        annotations.write_coco(spec.out / "annotations.json", moved)
        annotations.write_qupath(spec.out / "annotations.geojson", moved)
    result.save(spec.out)
    return f"{registration.describe(result)}\nregistration: {spec.out / registration.RECORD}"


def demo(spec: DemoSpec, progress: Progress = silent) -> str:
    """Run the whole pipeline on synthetic data, and diagnose its baseline at the end."""
    from skipshift.records import RUNS, run_name
    from skipshift.study.demo import REMEDIES, SHIFT, STUDIES, run_demo

    text = _study_text(run_demo(spec, progress))
    baseline = run_name("resnet18", BASELINE, 0, spec.seed)
    shift = DiagnoseSpec(
        spec.out / RUNS / baseline,
        str(spec.out / "synthetic/manifest.csv"),
        SHIFT,
        spec.out / "diagnosis",
        reading=ReadingSpec(crop=STUDIES[spec.size]["evaluation_crop"]),
        settings=REMEDIES[spec.size],
    )
    return f"{text}\n\nDiagnosis of {baseline}, {SHIFT}:\n{diagnose(shift, progress)}"


def check(spec: CheckSpec, progress: Progress = silent) -> str:
    """Check a manifest; `CheckError` with all findings if one of them is an error.

    `SkipshiftError` if it is not a whole manifest.
    """
    from skipshift.data.checks import findings as checks
    from skipshift.data.checks.preflight import check_manifest

    file, hash_, _ = str(spec.manifest).partition("#")
    if hash_ and Path(file).exists():
        raise SkipshiftError(
            f"{spec.manifest}: '#domain' is not taken; check reads whole manifests"
        )
    if not spec.manifest.exists():
        raise SkipshiftError(f"{spec.manifest}: does not exist; give a manifest")
    if spec.manifest.is_dir():
        raise SkipshiftError(f"{spec.manifest}: is a folder; give a manifest")
    findings = check_manifest(
        spec.manifest, spec.classes or None, spec.crop, spec.workers, progress, spec.ignore
    )
    report = checks.to_json(findings) if spec.json else checks.to_text(findings)
    if checks.errors_of(findings):
        summary = f"{spec.manifest}: {checks.summary(findings)}"
        raise checks.CheckError(f"{summary}; fix the errors above", report)
    return report


def study(spec: StudyRunSpec, progress: Progress = silent) -> str:
    """Run what a study still lacks, or with ``plan`` say what that is."""
    from skipshift.study.plan import plan_study
    from skipshift.study.study import run_study

    settings = read_study(spec.study)
    if spec.plan:
        return plan_study(settings, spec.out, spec.execution)
    return _study_text(run_study(settings, spec.out, spec.execution, progress))


def report(spec: ReportSpec, progress: Progress = silent) -> str:  # noqa: ARG001
    """Write figures and page again; `SkipshiftError` if the folder is not that of a study."""
    from skipshift.page.report import write_report
    from skipshift.records import STUDY

    check_folder(spec.out)
    if not (spec.out / STUDY).exists():
        raise SkipshiftError(f"{spec.out}: is not a study folder (no {STUDY})")
    return _study_text(write_report(spec.out))


def _prepare(prepare: Callable[[Any, Progress], object], spec: Any, progress: Progress) -> str:
    """Prepare the set of a spec's folder, and describe it."""
    from skipshift.data.prepare.writing import describe

    check_folder(spec.src)
    prepare(spec, progress)
    return describe(spec.out)


def _study_text(page: Path) -> str:
    """Show the main table of a study, the verdicts of its tests, and where its page is."""
    from skipshift import records
    from skipshift.page.comparison_sentences import verdict_sentences
    from skipshift.page.report import main_table
    from skipshift.page.study_results import read_results, read_study_spec

    found = read_results(page.parent, read_study_spec(page.parent))
    iou = records.read_table(page.parent / records.TABLES / "iou.csv")
    iou = iou.sort_values("domain", key=lambda d: ~d.isin(found.homes), kind="stable")
    table = main_table(iou, found.tests)
    said = verdict_sentences(found.tests, found.margin)
    return "\n\n".join([table.rstrip(), *(["\n".join(said)] if said else []), f"page: {page}"])
