"""The commands of one network: `evaluate`, `profile`, `fingerprint`, `carry` and `export`."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipshift.cli.arguments import (
    CarryRunSpec,
    EvaluateSpec,
    ExportSpec,
    FingerprintRunSpec,
    ProfileRunSpec,
)
from skipshift.cli.inputs import (
    as_text,
    check_network,
    drawn_parts,
    load_network,
    made_from,
    units,
)
from skipshift.errors import SkipshiftError, naming
from skipshift.progress import Progress, silent
from skipshift.specs import ReadingSpec

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from skipshift.profile.profile import Profile


def evaluate(spec: EvaluateSpec, progress: Progress = silent) -> str:
    """Evaluate one network on every domain and shift."""
    from skipshift.checksums import files_digest
    from skipshift.data.manifest import read_cases
    from skipshift.data.sets.groups import unit_text
    from skipshift.data.sets.sources import read_test_rows
    from skipshift.networks.outputs import warn_if_constant
    from skipshift.page.command_pages import evaluation_findings
    from skipshift.page.findings import write_findings
    from skipshift.page.report import main_table
    from skipshift.page.wording import printed
    from skipshift.records import REPORT, write_json, write_table
    from skipshift.study.evaluation import (
        class_names,
        counts_of,
        evaluate_manifest,
        iou_table,
        metrics_table,
        settle_output,
    )

    check_network(spec.net, spec.running)
    rows = read_test_rows(str(spec.manifest))
    network = load_network(spec.net, spec.running)
    net, settings = network.net, replace(spec.evaluation, preprocess=network.preprocess)
    with naming(f"{spec.net} on {spec.manifest}"):
        first = next(read_cases(rows[:1], 256, settings.crop))
        how = settle_output(net, first, settings, spec.classes)
        classes = class_names(net, spec.net, first, how, spec.classes)
    done = evaluate_manifest(
        spec.net, rows, classes, how, progress, spec.running.builder, network.device
    )
    warn_if_constant(counts_of(done.counts, classes))
    iou = iou_table(net, done.counts)
    write_table(spec.out / "cases.parquet", done.counts)
    write_table(spec.out / "iou.csv", iou)
    parts = [main_table(iou)]
    about = {
        "name": str(spec.manifest),
        "images": len(rows),
        "groups": rows["group"].nunique(),
        "unit": unit_text(list(rows["group"]), told=True),
        "digest": files_digest([*rows["image"], *rows["mask"]]),
    }
    record = made_from(network, {"manifest": about}, settings=settings)
    write_json(spec.out / "evaluate.json", record | {"classes": list(classes)})
    parts.append(f"{about['unit']}; {network.told()}")
    if settings.metrics:
        metrics = metrics_table(net, done.metrics)
        write_table(spec.out / "metrics.parquet", done.metrics)
        write_table(spec.out / "metrics.csv", metrics)
        parts.append(printed(metrics.drop(columns=["variant", "encoder"])))
    text = as_text(record)
    write_findings(spec.out, evaluation_findings(iou, text), text)
    return "\n\n".join([*parts, f"page: {spec.out / REPORT}"])


def profile(spec: ProfileRunSpec, progress: Progress = silent) -> str:
    """Profile one network between two sets of images or their fingerprints."""
    from skipshift.networks.layers import layers_of
    from skipshift.page.profile_sentences import beyond_edges
    from skipshift.page.wording import printed
    from skipshift.profile.inputs import find_inputs, read_inputs
    from skipshift.profile.profiling import profile_shift
    from skipshift.records import REPORT

    settings = spec.settings
    check_network(spec.net, spec.running)
    found = find_inputs(spec.reference, spec.shifted, spec.reading, settings.seed)
    network = load_network(spec.net, spec.running)
    net = network.net
    layers = layers_of(net, spec.layers) if spec.layers else None
    sets = read_inputs(found, network.preprocess, settings.batch_size, progress)
    groups = (sets[0].groups, sets[1].groups)
    with naming(f"{spec.net} on {spec.reference}, {spec.shifted}"):
        result = profile_shift(net, sets[0].images, sets[1].images, layers, groups, settings)
    about = {"reference": sets[0].about, "shifted": sets[1].about}
    record = made_from(network, about, reading=spec.reading, layers=spec.layers)
    result.save(spec.out, record)
    _write_pictures(result, spec)
    _write_profile_page(spec, result, net, as_text(record))
    # the verdict tells what the other columns are for
    hidden = ["behind", "behind_low", "behind_high", "groups", "least_p"]
    table = printed(result.layers.drop(columns=hidden))
    parts = [table, result.verdict(), beyond_edges(result.outside), units(network, about)]
    parts.append(f"page: {spec.out / REPORT}")
    return "\n\n".join(filter(None, parts))


def fingerprint(spec: FingerprintRunSpec, progress: Progress = silent) -> str:
    """Write the fingerprint of one set of images, or merge several fingerprints."""
    from skipshift.networks.layers import layers_of
    from skipshift.profile.fingerprinting import make_fingerprint
    from skipshift.profile.inputs import describe, find_input, read_input, read_matching
    from skipshift.records import write_json

    check_network(spec.net, spec.running)
    found = find_input(spec.images, spec.reading, spec.settings.seed)
    network = load_network(spec.net, spec.running)
    net, settings = network.net, replace(spec.settings, preprocess=network.preprocess)
    layers = layers_of(net, spec.layers) if spec.layers else None
    edges = None if spec.edges is None else read_matching(str(spec.edges), settings.preprocess)
    images, groups, about = read_input(
        found, settings.preprocess, settings.batch_size, "images", progress
    )
    with naming(f"{spec.net} on {spec.images}"):
        result = make_fingerprint(net, images, edges, layers, groups, settings)
        result.save(spec.out)
    record = made_from(network, {"images": about}, reading=spec.reading, settings=settings)
    # beside it, since names must not be sent with the file
    write_json(spec.out.with_suffix(".made.json"), record)
    parts = (describe(result, groups), f"{about['unit']}; {network.told()}")
    return "\n\n".join([*parts, f"fingerprint: {spec.out}"])


def carry(spec: CarryRunSpec, progress: Progress = silent) -> str:
    """Measure by activation patching which path of a network carries the loss."""
    from skipshift.page.carry_sentences import carry_sentence
    from skipshift.patching.carry import carry as patch
    from skipshift.patching.inputs import find_inputs, read_inputs
    from skipshift.patching.paths import paths_of
    from skipshift.records import REPORT

    check_network(spec.net, spec.running)
    found = find_inputs((spec.reference, spec.shifted), spec.settings, spec.reading)
    network = load_network(spec.net, spec.running)
    net = network.net
    inputs = read_inputs(net, found, spec.settings, network.preprocess, progress)
    paths = paths_of(net, spec.settings.paths, next(iter(inputs.images[0])))
    with naming(f"{spec.net} on {spec.reference}, {spec.shifted}"):
        table = patch(net, *inputs.images, inputs.masks, inputs.groups, spec.settings)
    said = carry_sentence(table)
    record = made_from(
        network, inputs.about, reading=spec.reading, paths=paths, settings=spec.settings
    )
    _write_carry(spec, table, record | {"verdict": said})
    _write_carry_page(spec, table, net, as_text(record))
    return "\n\n".join(
        [_carry_text(table), said, units(network, inputs.about), f"page: {spec.out / REPORT}"]
    )


def export(spec: ExportSpec, progress: Progress = silent) -> str:  # noqa: ARG001
    """Write a network for other programs, each file compared with it."""
    import torch

    from skipshift.data.preprocess import prepare, preprocess_of
    from skipshift.data.sets.reading import read_found
    from skipshift.data.sets.sources import find_set
    from skipshift.records import run_record
    from skipshift.study.export import About, export_net

    check_network(spec.net, spec.running)
    study = spec.net.absolute().parent.parent
    record = run_record(spec.net)
    source, reading = _export_images(spec, study)
    found = find_set(source, reading)
    found = replace(found, items=found.items[:_EXPORT_IMAGES])
    network = load_network(spec.net, spec.running)
    net, pixels = network.net, read_found(found).images
    images = torch.from_numpy(prepare(pixels, preprocess_of(network.preprocess)))
    about = About(
        spec.net.absolute().stem if spec.net.is_file() else spec.net.absolute().name,
        network.preprocess,
        tuple(record.get("classes", ())),
        _domains(net, spec.net),
    )
    with naming(f"{spec.net} on {source}"):
        checks = export_net(net, images, spec.out, about)
    return f"{checks.to_string(index=False)}\n\nexport: {spec.out}"


_EXPORT_IMAGES = 8
"""Images on which the files of an export are compared."""


def _export_images(spec: ExportSpec, study: Path) -> tuple[str, ReadingSpec]:
    """Name the images to compare an export on: as given, or those of the run's study."""
    from skipshift.page.study_results import read_study_spec
    from skipshift.records import STUDY

    if spec.images is not None:
        return spec.images, spec.reading
    if not (study / STUDY).exists():
        raise SkipshiftError(
            f"{spec.net}: is no run of a study, whose images could be taken; give --images, a "
            f"folder or manifest of real ones"
        )
    settings = read_study_spec(study)
    own = spec.reading
    if own.sides is None and settings.evaluation_crop is not None:
        own = replace(own, crop=settings.evaluation_crop)
    return str(settings.manifest), own


def _domains(net: "nn.Module", folder: Path) -> "pd.DataFrame | None":
    """Pool the IoU of a run of a study by domain and class; None for other networks."""
    from skipshift.records import read_table
    from skipshift.study.evaluation import iou_table

    counts = folder / "cases.parquet"
    return iou_table(net, read_table(counts)) if counts.exists() else None


def _carry_text(table: "pd.DataFrame") -> str:
    """Show the columns of carry.csv that hold anything, a share and its interval as one."""
    shown = table[["path", "iou"]].round(3)
    for name, low, high in (
        ("share", "low", "high"),
        *((name, f"{name}_low", f"{name}_high") for name in ("missing", "passed", "shapley")),
    ):
        if table[name].notna().any():
            ends = table[low].map(" [{:.2f}, ".format) + table[high].map("{:.2f}]".format)
            ends = ends.where(table[low].notna(), "")
            shown[name] = table[name].map("{:.2f}".format).where(table[name].notna(), "-") + ends
    return shown.fillna({"iou": "-"}).to_string(index=False)


def _write_carry(spec: CarryRunSpec, table: "pd.DataFrame", record: Mapping[str, Any]) -> None:
    from skipshift.page.carry_chart import carry_figure
    from skipshift.page.style import to_png, to_svg
    from skipshift.records import write_bytes, write_json, write_table

    figure = carry_figure(table, f"{spec.reference} against {spec.shifted}")
    write_table(spec.out / "carry.csv", table)
    write_json(spec.out / "carry.json", record)
    write_bytes(spec.out / "carry.svg", to_svg(figure))
    write_bytes(spec.out / "carry.png", to_png(figure))


def _write_carry_page(
    spec: CarryRunSpec, table: "pd.DataFrame", net: "nn.Module", about: dict[str, str]
) -> None:
    from skipshift.page.command_pages import carry_findings
    from skipshift.page.findings import write_findings

    write_findings(spec.out, carry_findings(table, drawn_parts(net), about), about)


def _write_profile_page(
    spec: ProfileRunSpec, profile: "Profile", net: "nn.Module", about: dict[str, str]
) -> None:
    from skipshift.page.command_pages import profile_findings
    from skipshift.page.findings import write_findings
    from skipshift.page.profile_sentences import beyond_edges

    _, links = drawn_parts(net)
    shown = profile_findings(profile.layers, links, about, beyond_edges(profile.outside))
    write_findings(spec.out, shown, about)


def _write_pictures(profile: "Profile", spec: ProfileRunSpec) -> None:
    """Draw each distance and pooling; the first, which the verdict is of, is profile.svg."""
    from skipshift.page.style import to_svg
    from skipshift.records import write_bytes

    shown = product(spec.settings.distances, spec.settings.pooling)
    for number, (measure, pooling) in enumerate(shown):
        label = f"{spec.reference} against {spec.shifted}: {measure}, {pooling}"
        name = f"profile-{measure}-{pooling}.svg" if number else "profile.svg"
        write_bytes(spec.out / name, to_svg(profile.plot(label, measure, pooling)))
