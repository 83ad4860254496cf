"""The commands `remedy` and `diagnose`: a search that goes on where it stopped, and its files."""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skipshift.cli.arguments import DiagnoseSpec, RemedyRunSpec
from skipshift.cli.inputs import load_network
from skipshift.errors import SkipshiftError, naming
from skipshift.progress import Progress, silent
from skipshift.spec_files import to_plain
from skipshift.specs import RemedySpec

if TYPE_CHECKING:
    from torch import nn

    from skipshift.remedies.inputs import RemedyInputs
    from skipshift.remedies.kept import KeptOnDisk
    from skipshift.remedies.result import Remedies


def remedy(spec: RemedyRunSpec, progress: Progress = silent) -> str:
    """Find the smallest change of a network that brings back the IoU lost to a shift."""
    found = _searched(spec, progress)
    shown = found.table[found.table["failed"] == ""].head(10)
    shown = shown[["remedy", "place", "parameters", "iou", "gain", "low", "high", "p_adjusted",
                   "in_domain", "harm", "headroom", "excess_left"]]  # fmt: skip
    parts = [shown.dropna(axis=1, how="all").round(3).to_string(index=False, na_rep="-")]
    parts.append(found.verdict())
    if taken := spec.take or found.best:
        parts.append(f"mended: {spec.out / 'mended'} has {taken}")
    return "\n\n".join([*parts, f"remedies: {spec.out}"])


def diagnose(spec: DiagnoseSpec, progress: Progress = silent) -> str:
    """Diagnose a shift on one page; `SkipshiftError` if the reference is a fingerprint."""
    import json

    from skipshift.page.diagnosis_page import write_diagnosis_page
    from skipshift.page.diagnosis_sentences import diagnosis_answers
    from skipshift.profile.inputs import is_fingerprint
    from skipshift.records import REPORT, write_json, write_table
    from skipshift.remedies.diagnosis import examine

    if is_fingerprint(spec.reference):
        raise SkipshiftError(
            f"{spec.reference}: is a fingerprint, and a diagnosis needs images; use skipshift "
            f"remedy, or skipshift profile"
        )
    remedies = _searched(spec, progress)
    with _naming(spec):
        found = examine(remedies)
    found.profile.save(spec.out)
    if found.carry is not None:
        write_table(spec.out / "carry.csv", found.carry)
    about = _about(spec, remedies.setting.net)
    write_diagnosis_page(spec.out / REPORT, found.findings(), about)
    record = found.record() | about
    write_json(spec.out / "diagnosis.json", record)
    if spec.json:
        return json.dumps(record, indent=2)
    answers = diagnosis_answers(*found.findings()[:5])
    lines = [f"{question} {text}" for question, text in answers]
    return "\n".join([*lines, f"page: {spec.out / REPORT}"])


def _naming(spec: "RemedyRunSpec | DiagnoseSpec") -> AbstractContextManager[None]:
    return naming(f"{spec.net} on {spec.reference}, {spec.shifted}")


def _searched(spec: "RemedyRunSpec | DiagnoseSpec", progress: Progress) -> "Remedies":
    """Try remedies, go on where a search stopped, and write what was found, also if cut short."""
    from skipshift.records import write_json
    from skipshift.remedies.remedy import search

    net, inputs, settings, known = _inputs(spec)
    with _naming(spec):
        found = search(
            net, inputs.images, inputs.masks, inputs.groups, settings, known, progress,
            inputs.spacing,
        )  # fmt: skip
        _write_remedies(spec, found)
    best = found.best
    record = {
        "complete": found.complete,
        "remedy": None if best is None else best.remedy,
        "place": None if best is None else best.place,
        "verdict": found.verdict(),
    }
    if spec.take is not None and found.complete:
        record["taken"] = spec.take
    write_json(spec.out / "remedy.json", record | _about(spec, net))
    return found.whole()


def _inputs(
    spec: "RemedyRunSpec | DiagnoseSpec",
) -> "tuple[nn.Module, RemedyInputs, RemedySpec, KeptOnDisk]":
    """Load the network, read both sets, and find what was judged on them already."""
    import hashlib

    from skipshift.networks.weights import weights_hash
    from skipshift.remedies.inputs import read_inputs
    from skipshift.remedies.kept import KeptOnDisk

    net = load_network(spec.net, spec.builder, spec.preprocess)
    names, settings = (spec.reference, spec.shifted), spec.settings
    inputs = read_inputs(
        net, names, spec.preprocess, spec.crop, settings.batch_size, settings.ignore
    )
    paired = settings.paired or (inputs.paired and inputs.masks[0] is not None)
    settings = replace(settings, paired=paired)
    judged_by = replace(settings, remedies=(), places=(), margin=0.0)
    key_of = repr((to_plain(judged_by), spec.preprocess, weights_hash(net)))
    key = hashlib.sha256((key_of + inputs.digest()).encode()).hexdigest()
    return net, inputs, settings, KeptOnDisk(spec.out / "judged", key)


def _about(spec: "RemedyRunSpec | DiagnoseSpec", net: "nn.Module") -> dict[str, Any]:
    """Say what a finding was made from."""
    from importlib.metadata import version

    from skipshift.networks.weights import weights_hash

    return {
        "net": str(spec.net),
        "network": {"name": type(net).__name__, "sha256": weights_hash(net)},
        "reference": spec.reference,
        "shifted": spec.shifted,
        "preprocess": spec.preprocess,
        "crop": spec.crop,
        "settings": to_plain(spec.settings),
        "version": version("skipshift"),
    }


def _write_remedies(spec: "RemedyRunSpec | DiagnoseSpec", found: "Remedies") -> None:
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
            named = {"remedy": taken[0], "place": taken[1], "preprocess": spec.preprocess}
            save_mended(folder, found.setting.net, change, spec.net, named, found.setting.output)
