"""The commands `remedy` and `diagnose`: a search that goes on where it stopped, and its files."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skipshift.cli.arguments import DiagnoseSpec, RemedyRunSpec
from skipshift.cli.inputs import (
    Network,
    as_text,
    check_network,
    drawn_parts,
    load_network,
    made_from,
    units,
)
from skipshift.errors import SkipshiftError, naming
from skipshift.progress import Progress, silent
from skipshift.spec_files import to_plain
from skipshift.specs import RemedySpec

if TYPE_CHECKING:
    from skipshift.remedies.inputs import RemedyInputs
    from skipshift.remedies.kept import KeptOnDisk
    from skipshift.remedies.result import Remedies


def remedy(spec: RemedyRunSpec, progress: Progress = silent) -> str:
    """Find the smallest change of a network that brings back the IoU lost to a shift."""
    from skipshift.page.diagnosis_page import best_remedies
    from skipshift.page.wording import printed
    from skipshift.records import REPORT

    found, told, about = _searched(spec, progress)
    _write_remedy_page(spec, found, as_text(about))
    shown = printed(best_remedies(found.table, found.best).head(10))
    parts = [shown, found.verdict(), told]
    if taken := spec.take or found.best:
        other = ", which is not what is recommended" * (str(taken) != str(found.best))
        parts.append(f"mended: {spec.out / 'mended'} has {taken}{other}")
    return "\n\n".join([*parts, f"page: {spec.out / REPORT}"])


def _write_remedy_page(spec: RemedyRunSpec, found: "Remedies", about: Mapping[str, Any]) -> None:
    from skipshift.page.diagnosis_page import remedy_findings
    from skipshift.page.findings import write_findings
    from skipshift.remedies.examples import cases_to_show

    layers, links = drawn_parts(found.setting.net)
    if not layers:
        places = found.setting.places
        layers = [p.name for p in places if p.kind == "layer" and p.address is not None][1:]
    cases = cases_to_show(found)
    shown = remedy_findings(found.table, found.facts, (layers, links), cases, about)
    write_findings(spec.out, shown, about)


def diagnose(spec: DiagnoseSpec, progress: Progress = silent) -> str:
    """Diagnose a shift on one page; `SkipshiftError` if the reference is a fingerprint."""
    import json

    from skipshift.page.diagnosis_page import diagnosis_findings
    from skipshift.page.diagnosis_sentences import diagnosis_answers
    from skipshift.page.findings import write_findings
    from skipshift.profile.inputs import is_fingerprint
    from skipshift.records import REPORT, write_json, write_table
    from skipshift.remedies.diagnosis import examine

    if is_fingerprint(spec.reference):
        raise SkipshiftError(
            f"{spec.reference}: is a fingerprint, and a diagnosis needs images; use skipshift "
            f"remedy, or skipshift profile"
        )
    remedies, told, about = _searched(spec, progress)
    with _naming(spec):
        found = examine(remedies)
    found.profile.save(spec.out, about)
    if found.carry is not None:
        write_table(spec.out / "carry.csv", found.carry)
    text, shown = as_text(about), found.found()
    write_findings(spec.out, diagnosis_findings(shown, text), text)
    record = found.record() | about
    write_json(spec.out / "diagnosis.json", record)
    if spec.json:
        return json.dumps(record, indent=2)
    lines = [f"{question} {answer}" for question, answer in diagnosis_answers(*shown[:7])]
    return "\n".join([*lines, told, f"page: {spec.out / REPORT}"])


def _naming(spec: "RemedyRunSpec | DiagnoseSpec") -> AbstractContextManager[None]:
    return naming(f"{spec.net} on {spec.reference}, {spec.shifted}")


def _searched(
    spec: "RemedyRunSpec | DiagnoseSpec", progress: Progress
) -> "tuple[Remedies, str, dict[str, Any]]":
    """Try remedies, go on where a search stopped, and write what was found, also if cut short.

    Returned with what the sets were, in words and as a record.
    """
    from skipshift.records import write_json
    from skipshift.remedies.remedy import search

    network, inputs, settings, known = _inputs(spec)
    with _naming(spec):
        found = search(
            network.net, inputs.images, inputs.masks, inputs.groups, settings, known, progress,
            inputs.spacing, network.classes, spec.take,
        )  # fmt: skip
        _write_remedies(spec, network, found)
    best = found.best
    record = {
        "complete": found.complete,
        "remedy": None if best is None else best.remedy,
        "place": None if best is None else best.place,
        "verdict": found.verdict(),
    }
    if spec.take is not None and found.complete:
        record["taken"] = spec.take
    about = made_from(network, inputs.about, reading=spec.reading, settings=spec.settings)
    write_json(spec.out / "remedy.json", record | about)
    return found.whole(), units(network, inputs.about), about


def _inputs(
    spec: "RemedyRunSpec | DiagnoseSpec",
) -> "tuple[Network, RemedyInputs, RemedySpec, KeptOnDisk]":
    """Find both sets, load the network, read the sets, and find what was judged on them already."""
    import hashlib

    from skipshift.networks.mended import owners_source
    from skipshift.networks.weights import weights_hash
    from skipshift.profile.inputs import find_inputs
    from skipshift.remedies.inputs import read_inputs
    from skipshift.remedies.kept import KeptOnDisk
    from skipshift.remedies.remedy import check_groups, chosen_remedies

    settings = spec.settings
    chosen_remedies(settings)
    check_network(spec.net, spec.running)
    owners_source(spec.net)
    pair = find_inputs(spec.reference, spec.shifted, spec.reading, settings.seed, one_size=False)
    if not isinstance(pair[1], str):
        with _naming(spec):
            check_groups(pair[1].groups)
    network = load_network(spec.net, spec.running)
    inputs = read_inputs(
        network.net, pair, network.preprocess, settings.batch_size, settings.ignore
    )
    paired = settings.paired or (inputs.paired and inputs.masks[0] is not None)
    settings = replace(settings, paired=paired)
    judged_by = replace(settings, remedies=(), places=(), margin=0.0)
    digests = [about["digest"] for about in inputs.about.values()]
    made = (network.preprocess, weights_hash(network.net), digests, inputs.spacing)
    key = hashlib.sha256(repr((to_plain(judged_by), *made)).encode()).hexdigest()
    return network, inputs, settings, KeptOnDisk(spec.out / "judged", key)


def _write_remedies(
    spec: "RemedyRunSpec | DiagnoseSpec", network: Network, found: "Remedies"
) -> None:
    """Write the table; and of a whole search the network that is mended."""
    import shutil

    from skipshift.networks.mended import is_mended, save_mended
    from skipshift.records import atomic_folder, write_table

    write_table(spec.out / "remedies.csv", found.table)
    taken = found.best if spec.take is None else spec.take.split("@", 1)
    if not found.complete:
        return
    change = None if taken is None else found.change(*taken)
    mended = spec.out / "mended"
    if is_mended(mended):
        shutil.rmtree(mended)
    if taken is not None and change is not None:
        with atomic_folder(mended) as folder:
            named = {"remedy": taken[0], "place": taken[1], "preprocess": network.preprocess}
            save_mended(folder, found.setting.net, change, spec.net, named, found.setting.output)
