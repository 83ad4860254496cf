"""Plan of a study: its size, its progress, and the time and memory that the rest will take."""

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtrit

from skipshift.data.manifest import read_cases
from skipshift.data.splits import split_fold
from skipshift.names import BASELINE, listed, shifted_domain
from skipshift.networks.allocator import keep_memory
from skipshift.statistics.comparisons import AWAY, least_p, places_of
from skipshift.statistics.multiplicity import ALPHA, FIRST
from skipshift.study.grid import Run, Study, changes, is_done
from skipshift.study.opening import open_study
from skipshift.study.steps import do
from skipshift.study.study import chosen_runs, failed
from skipshift.study_specs import ExecutionSpec, StudySpec

T = TypeVar("T")

PROBE_STEPS, PROBE_CASES = 5, 4
"""Training steps of the probe, and its number of cases in validation and in each test domain."""


FEW_RUNS = 5
"""With fewer runs of each variant the plan advises more."""


@dataclass(frozen=True)
class Cost:
    """Time and memory of a run on this machine."""

    seconds: float

    cures: float
    """Seconds that activation patching and remedies add to a baseline, where a study asks."""

    memory: float
    """Peak in bytes, of the GPU where there is one."""


def plan_study(spec: StudySpec, out: Path, execution: ExecutionSpec) -> str:
    """Describe the size of a study, what is done, and time and memory of the rest."""
    study = open_study(spec, Path(out))
    runs = chosen_runs(study, execution)
    left = [run for run in runs if not is_done(study, run) and not failed(study, run)]
    training, validation = split_fold(study.folds, runs[0].fold)
    tests = study.cases[study.cases["split"] == "test"]
    plan = spec.training
    steps = -(-len(training) * plan.crops_per_image // plan.batch_size)
    domains = tests["domain"].nunique()
    lines = [
        f"runs    {len(runs)}: " + " x ".join(_axes(runs)),
        f"images  {len(training)} for training, {len(validation)} for validation, {len(tests)} for "
        f"testing from {_many(domains, 'domain')}, under {_many(len(spec.shifts), 'shift')}",
        f"epochs  {plan.epochs} per run, each {_many(steps, 'step')} of {plan.batch_size} crops of "
        f"{plan.crop} x {plan.crop}; {plan.epochs * len(left)} epochs left in total",
        f"done    {sum(is_done(study, run) for run in runs)} runs, "
        f"{sum(failed(study, run) for run in runs)} failed",
    ]
    if changed := [run.name for run in runs if changes(study, run)]:
        lines.append(f"changed {', '.join(changed)}: made with other settings, see --redo-changed")
    lines += _reach(study)
    lines.append(_rest(study, left, execution))
    return "\n".join(lines)


def _reach(study: Study) -> Iterator[str]:
    """Say what the tests will be about, and what no data could show."""
    spec = study.spec
    variants = len(spec.variants) - 1
    if variants < 1:
        return
    runs = len({(run.fold, run.seed) for run in study.runs()})
    if runs > 1:
        one, family = (least_effect(runs, tail) for tail in _tails(2 * variants))
        yield (
            f"tests   {runs} runs of each variant: to be told apart from the baseline it must "
            f"differ by more than {one:.1f} standard deviations between trainings, as one of "
            f"{_many(variants, 'variant')} by {family:.1f}"
            f"{'; plan 5 or more runs' if runs < FEW_RUNS else ''}"
        )
        return
    yield "tests   one run of each variant: verdicts will be about checkpoints, not about variants"
    shown: dict[tuple[int, float], list[str]] = {}
    for name, number, least in _least(study):
        if least >= ALPHA:
            shown.setdefault((number, least), []).append(name)
    for (number, least), names in shown.items():
        yield (
            f"        no difference can be shown on {listed(names)}, whatever the data: with "
            f"{_many(number, 'group')} no adjusted p can be below {least:.2g}"
        )


def _least(study: Study) -> Iterator[tuple[str, int, float]]:
    """Name each place of the comparisons, with its number of groups and least adjusted p."""
    tests = study.cases[study.cases["split"] == "test"]
    groups: dict[str, set[str]] = {}
    for domain, own in tests.groupby("domain", sort=False)["group"]:
        shifted = (shifted_domain(str(domain), shift) for shift in study.spec.shifts)
        groups |= {name: set(own) for name in (str(domain), *shifted)}
    homes = [domain for domain in groups if domain in set(study.folds["domain"])]
    places = places_of(list(groups), homes)
    numbers = [len(set().union(*(groups[d] for d in place.domains))) for place in places]
    least = least_p(np.array(numbers), np.array([place.first for place in places]))
    for place, number, value in zip(places, numbers, least, strict=True):
        yield "the mean over the others" if place.name == AWAY else place.name, number, value


def _tails(comparisons: int) -> tuple[float, float]:
    """Tail of a single two-sided test, and that of the first of Holm's steps on the first level."""
    return ALPHA / 2, ALPHA * FIRST / comparisons / 2


def least_effect(runs: int, tail: float) -> float:
    """Smallest effect that trainings alone let a t-test find, in their standard deviations.

    >>> [round(least_effect(runs, 0.025), 1) for runs in (2, 3, 5, 10)]
    [9.0, 2.5, 1.2, 0.7]
    """
    return float(-stdtrit(runs - 1, tail) / runs**0.5)


def _axes(runs: Sequence[Run]) -> Iterator[str]:
    for axis in ("encoder", "variant", "fold", "seed"):
        yield _many(len({getattr(run, axis) for run in runs}), axis)


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _rest(study: Study, left: Sequence[Run], execution: ExecutionSpec) -> str:
    """Estimate time and memory of the remaining runs from a probe of one run per encoder."""
    if not left:
        return "left    nothing"
    # a baseline if there is one, which alone is patched and cured
    firsts = {run.encoder: run for run in sorted(left, key=_is_baseline)}
    costs = {encoder: probe(study, run) for encoder, run in firsts.items()}
    jobs = min(execution.jobs or study.spec.jobs, len(left))
    # jobs in excess of the cores share them and gain nothing
    parallel = min(jobs, max(1, (os.cpu_count() or 1) // study.spec.threads))
    whole = sum(costs[r.encoder].seconds + _is_baseline(r) * costs[r.encoder].cures for r in left)
    whole /= parallel
    each = ", ".join(f"{_time(cost.seconds)} with {name}" for name, cost in costs.items())
    memory = max(cost.memory for cost in costs.values()) / 2**30
    return (
        f"left    {_many(len(left), 'run')}, about {_time(whole)} on this machine with "
        f"{_many(jobs, 'job')} ({each} per run), and {memory:.1f} GiB of memory per job"
    )


def _is_baseline(run: Run) -> bool:
    return run.variant == BASELINE


def _time(seconds: float) -> str:
    """Write a duration in the two largest units that matter.

    >>> _time(50), _time(600), _time(7500), _time(200000)
    ('50 s', '10 min', '2 h 5 min', '2 d 7 h')
    """
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def probe(study: Study, run: Run) -> Cost:
    """Run a few steps of a run in a separate process and extrapolate to the whole run."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_probe, study, run).result()


def _probe(study: Study, run: Run) -> Cost:
    keep_memory()
    clock = _Clock()
    with tempfile.TemporaryDirectory(prefix="skipshift-") as folder:
        small = _reduced(study, run, Path(folder))
        do(small, run, clock)
    training, validation = split_fold(study.folds, run.fold)
    tests, plan = study.cases[study.cases["split"] == "test"], study.spec.training
    profiled = len(small.cases[small.cases["split"] == "test"])
    step, case = clock.step("train"), clock.wholes["evaluate"] / profiled
    image = case / (1 + len(study.spec.shifts))
    few = min(PROBE_CASES, len(validation))
    end = max(0.0, clock.spans["train"][-1] - few * image)  # time to write checkpoints
    steps = max(1, len(training) * plan.crops_per_image // plan.batch_size)
    seconds = plan.epochs * (steps * step + len(validation) * image + end) + len(tests) * case
    seconds += clock.wholes["profile"] * len(tests) / profiled
    cures = sum(clock.wholes[word] for word in ("carry", "remedies", "pairs"))
    cures *= len(tests) / profiled
    return Cost(seconds, cures, _peak(small, study, len(training) + len(validation) + len(tests)))


def _reduced(study: Study, run: Run, folder: Path) -> Study:
    """Reduce a study to a few cases of each kind and one epoch."""
    plan, cases = study.spec.training, study.cases
    training, validation = split_fold(study.folds, run.fold)
    enough = -(-PROBE_STEPS * plan.batch_size // plan.crops_per_image)
    folds = pd.concat([training[:enough], validation[:PROBE_CASES]])
    tests = cases[cases["split"] == "test"].groupby("domain", sort=False).head(PROBE_CASES)
    training_rows = cases.merge(folds[["case", "domain"]], on=["case", "domain"])
    spec = replace(study.spec, training=replace(plan, epochs=1), trackers=())
    few = pd.concat([training_rows, tests])
    return replace(
        study, spec=spec, cases=few, folds=folds, out=folder, instruction_set="of no account"
    )


def _peak(small: Study, study: Study, cases: int) -> float:
    """Estimate the peak memory of this process if all cases of the study were decoded in it."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    # macOS counts in bytes, other systems in KiB
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    spec = study.spec
    first = next(read_cases(small.cases[:1], len(spec.classes), ignore=spec.ignore))
    return peak + (cases - len(small.cases)) * (first.image.nbytes + first.mask.nbytes)


class _Clock:
    """A `Progress` that times each item, by the first word of its label."""

    def __init__(self) -> None:
        self.spans: dict[str, list[float]] = defaultdict(list)
        self.wholes: dict[str, float] = defaultdict(float)

    def __call__(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:  # noqa: ARG002
        word, started = label.split()[0], time.perf_counter()
        then = started
        for item in items:
            yield item
            now = time.perf_counter()
            self.spans[word].append(now - then)
            then = now
        self.wholes[word] += time.perf_counter() - started

    def step(self, word: str) -> float:
        """Return the median time of an item, without first and last, which include other work."""
        spans = self.spans[word]
        return median(spans[1:-1] or spans)
