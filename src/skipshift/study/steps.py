"""The steps of one run: training, evaluation, samples and profiles, each done once."""

import contextlib
import errno
import io
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from skipshift import records
from skipshift.data.manifest import Case
from skipshift.data.splits import split_fold, training_domains
from skipshift.names import BASELINE, LARGEST_LABEL, parse_shift, skips_of
from skipshift.networks.feature_store import FeatureStore
from skipshift.networks.features import Features, collect
from skipshift.networks.inference import best_device, instruction_set
from skipshift.networks.unet import Unet
from skipshift.profile.profiling import profile_features
from skipshift.progress import Progress, silent
from skipshift.specs import EvaluationSpec, ProfileSpec
from skipshift.study.cures import write_carry, write_estimates, write_remedies
from skipshift.study.evaluation import Evaluation, evaluate_manifest, predict
from skipshift.study.grid import Run, Study, estimate_inputs, expected_inputs
from skipshift.study.loggers import loggers_of
from skipshift.study.made import done, read_made, step_done, write_made
from skipshift.study.sets import home_rows, read_rows, shifted_cases, test_rows
from skipshift.study.training import CHECKPOINTS, RunOutput, train

SAMPLE_CASES = 2
"""Test cases whose predictions a run keeps for the report's pictures."""

SAMPLE_SHIFTS = 2
"""Profiled shifts, the first ones, under which it keeps them too."""


def attempt(study: Study, run: Run, progress: Progress = silent) -> None:
    """Do the missing steps of a run; if one fails, record the reason and return.

    A full or read-only disk is not the run's failure: it is raised as an `UnwritableError`, made
    by `unwritable`.
    """
    try:
        do(study, run, progress)
    except records.UnwritableError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise records.unwritable(study.folder(run), error) from error
        record_failure(study, run, " ".join(f"{type(error).__name__}: {error}".split()))


def record_failure(study: Study, run: Run, reason: str) -> None:
    """Write the reason why a run failed into its folder."""
    records.write_json(study.folder(run) / records.FAILURE, {"reason": reason})


def do(study: Study, run: Run, progress: Progress = silent) -> None:
    """Do the missing steps of a run in order, on the study's number of threads."""
    with _threads(study.spec.threads):
        for step, wanted in expected_inputs(study, run).items():
            _do_step(study, run, step, wanted, _MAKERS[step], progress)


def estimate(study: Study, done: Sequence[Run], progress: Progress = silent) -> None:
    """Make the missing estimates of the baselines among finished runs, if the study asks for them.

    A run's peers are the other runs of its network, so all runs are done first.
    """
    for run in done if study.spec.estimate else ():
        if run.variant != BASELINE:
            continue
        alike = [one for one in done if (one.encoder, one.variant) == (run.encoder, run.variant)]
        peers = [one for one in alike if one != run]
        wanted, make = estimate_inputs(study, run, peers), partial(write_estimates, peers=peers)
        with _threads(study.spec.threads):
            _do_step(study, run, records.ESTIMATES, wanted, make, progress)


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Maker = Callable[..., None]
"""Takes a study, a run and ``progress``, and writes the files of a step."""


def _do_step(
    study: Study, run: Run, step: str, wanted: Mapping[str, Any], make: Maker, progress: Progress
) -> None:
    """Do a step, unless its files are whole and made with the inputs that are wanted."""
    folder = study.folder(run)
    made = read_made(folder)
    if step_done(folder, step, made, wanted):
        return
    begun = {"inputs": wanted}
    if step != records.RUN_RECORD:
        write_made(folder, {name: note for name, note in made.items() if name != step})
    elif made.get(step) != begun:
        # without made.json nothing in the folder counts, so it goes first
        (folder / records.MADE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        # an interrupted training resumes only with the same settings
        write_made(folder, {step: begun})
    make(study, run, progress=progress)
    write_made(folder, {**read_made(folder), step: done(folder, step, wanted)})


def _train(study: Study, run: Run, progress: Progress) -> None:
    spec, folder = study.spec, study.folder(run)
    training, validation = (_rows(study, part) for part in split_fold(study.folds, run.fold))
    loaded = read_rows(study, training, whole=True)
    checked = read_rows(study, validation)
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        net = Unet(
            run.encoder,
            len(spec.classes),
            skips_of(run.variant),
            spec.training.encoder_weights,
            loaded[0].image.shape[2],
        )
    output = RunOutput(folder, loggers_of(spec.trackers, study.out, run.name), progress)
    settings = replace(spec.training, precision=study.precision, ignore=spec.ignore)
    trained = train(net, loaded, checked, settings, run.seed, output)
    about = {
        **vars(run),
        "trained_on": training_domains(study.folds, run.fold),
        "instruction_set": study.instruction_set or instruction_set(best_device()),
    }
    about |= {"classes": list(spec.classes), **trained.record, "history": trained.history}
    trained.net.save(folder, **about)


def _write_history(study: Study, run: Run, progress: Progress) -> None:  # noqa: ARG001
    """Write the training curves as a table: a step of its own, made again without a training."""
    folder = study.folder(run)
    history = pd.DataFrame(records.read_json(folder / records.RUN_RECORD)["history"])
    text = history.to_csv(index=False, lineterminator="\n")
    records.write_bytes(folder / records.HISTORY, text.encode())


def _evaluate(study: Study, run: Run, progress: Progress) -> None:
    # a kill may have come between the record of the training and here
    shutil.rmtree(study.folder(run) / CHECKPOINTS, ignore_errors=True)
    table = _evaluation(study, run, (), progress).counts
    records.write_table(study.folder(run) / "cases.parquet", table)


def _measure(study: Study, run: Run, progress: Progress) -> None:
    """Measure the metrics beside IoU: a step of its own, so that they may be asked for later."""
    table = _evaluation(study, run, study.spec.metrics, progress).metrics
    records.write_table(study.folder(run) / "metrics.parquet", table)


def _evaluation(study: Study, run: Run, metrics: tuple[str, ...], progress: Progress) -> Evaluation:
    spec = study.spec
    how = EvaluationSpec(
        shifts=spec.shifts,
        crop=spec.evaluation_crop,
        ignore=spec.ignore,
        precision=study.precision,
        processes=spec.training.devices,
        metrics=metrics,
        tolerance=spec.tolerance,
        tolerance_unit=spec.tolerance_unit,
    )
    return evaluate_manifest(study.folder(run), test_rows(study, run), spec.classes, how, progress)


def _rows(study: Study, part: pd.DataFrame) -> pd.DataFrame:
    """Rows of the manifest that a table of folds names."""
    return study.cases.merge(part[["case", "domain"]], on=["case", "domain"])


def _write_samples(study: Study, run: Run, progress: Progress) -> None:  # noqa: ARG001
    """Keep a few test images with masks and predictions, unshifted and under a few profiled shifts.

    They are the first that have any foreground, all of one size so that one array holds them.
    Masks hold 255 where a pixel is not counted.
    """
    spec = study.spec
    net = Unet.load(study.folder(run)).to(best_device())
    sampled = [s for s in spec.profiled if parse_shift(s)][:SAMPLE_SHIFTS]
    loaded = read_rows(study, home_rows(study, run))
    telling = [c for c in loaded if ((c.mask > 0) & (c.mask != spec.ignore)).any()] or loaded
    alike = [case for case in telling if case.image.shape == telling[0].image.shape][:SAMPLE_CASES]
    how = EvaluationSpec(shifts=tuple(sampled), precision=study.precision)
    shown = list(predict(net, alike, how))
    masks = np.stack([case.mask for (case, _, _), _ in shown])
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=np.stack([image for (_, _, image), _ in shown]),
        masks=np.where(masks == spec.ignore, np.uint8(LARGEST_LABEL), masks),
        predictions=np.stack([labels for _, labels in shown]),
        cases=np.array([case.case for (case, _, _), _ in shown]),
        domains=np.array([domain for (_, domain, _), _ in shown]),
    )
    records.write_bytes(study.folder(run) / records.SAMPLES, buffer.getvalue())


def _write_profiles(study: Study, run: Run, progress: Progress) -> None:
    """Profile each shift or domain against the test cases of the domains trained on."""
    spec, folder = study.spec, study.folder(run)
    net = Unet.load(folder).to(best_device())
    reference = read_rows(study, home_rows(study, run))
    home = "+".join(dict.fromkeys(case.domain for case in reference))
    half = spec.profile.memory * 2**29
    layers, channels, evidence = [], [], []
    with FeatureStore(half) as held:
        shown = progress(_stacks(reference, spec.profile), f"profile {run.name} {home}")
        base = _features(net, shown, spec.profile, held)
        for shifted in spec.profiled:
            others = shifted_cases(study, run, reference, shifted)
            if not others:
                continue
            groups = tuple(np.array([case.group for case in side]) for side in (reference, others))
            with FeatureStore(half) as moving:
                shown = progress(_stacks(others, spec.profile), f"profile {run.name} {shifted}")
                moved = _features(net, shown, spec.profile, moving)
                sides, labels = (base, moved), (groups[0], groups[1])
                profile = profile_features(sides, labels, spec.profile, net.skips)
            about = {**vars(run), "reference": home, "shifted": shifted}
            layers.append(profile.layers.assign(**about))
            named = profile.channels.rename(columns={"measure": "distance"})
            channels.append(named.assign(**about))
            evidence.append(profile.evidence.assign(**about))
    tables = {"shift.parquet": channels, "evidence.parquet": evidence, "layers.csv": layers}
    for name, parts in tables.items():
        empty = pd.DataFrame(columns=list(records.TABLE_COLUMNS[name]))
        records.write_table(folder / name, pd.concat(parts) if parts else empty)


def _stacks(cases: Sequence[Case], spec: ProfileSpec) -> list[Sequence[Case]]:
    return [cases[i : i + spec.batch_size] for i in range(0, len(cases), spec.batch_size)]


def _features(
    net: Unet, stacks: Iterable[Sequence[Case]], spec: ProfileSpec, store: FeatureStore
) -> dict[str, Features]:
    images = (torch.from_numpy(np.stack([case.image for case in stack])) for stack in stacks)
    batches = (stack.permute(0, 3, 1, 2) for stack in images)
    return collect(net, batches, None, spec.pooling, spec.seed, store)


_MAKERS: Mapping[str, Maker] = {
    records.RUN_RECORD: _train,
    records.HISTORY: _write_history,
    "cases.parquet": _evaluate,
    "metrics.parquet": _measure,
    records.SAMPLES: _write_samples,
    "layers.csv": _write_profiles,
    "carry.csv": write_carry,
    "remedies.csv": write_remedies,
}
