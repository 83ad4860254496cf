"""Evaluation of one network on every domain and shift: counts and metrics of each case."""

import multiprocessing
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from skipshift import shifts
from skipshift.data.images import Pixels
from skipshift.data.manifest import Case, read_cases
from skipshift.data.preprocess import prepare, preprocess_of
from skipshift.errors import ArgumentError, SkipshiftError, SkipshiftWarning
from skipshift.names import check_sides, shifted_domain
from skipshift.networks.as_found import evaluating
from skipshift.networks.checkpoints import load_net
from skipshift.networks.features import input_like
from skipshift.networks.inference import (
    best_device,
    fast_copy,
    labels_of,
    logits_of,
    probabilities_of,
    resolve_precision,
    run,
)
from skipshift.networks.outputs import find_output, giving_logits, warn_if_constant
from skipshift.networks.unet import Unet
from skipshift.progress import Progress, silent
from skipshift.records import TABLE_COLUMNS, run_record
from skipshift.specs import EvaluationSpec
from skipshift.statistics.counts import count
from skipshift.statistics.metric_scores import metric_scores
from skipshift.statistics.metrics import METRICS, Segmented, measure_case
from skipshift.statistics.scores import estimates, pooled_iou
from skipshift.validation import check_ignore

Shifted = tuple[Case, str, Pixels]
"""A case, its domain after the shift, and its shifted image."""

Labels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Evaluation:
    """Tables of one network, cases in order."""

    counts: pd.DataFrame
    """``domain, case, group, class, tp, fp, fn``, int64 counts."""

    metrics: pd.DataFrame
    """``domain, case, group, class, metric, present, part, numerator, denominator``: the metrics
    that were asked for, no row if there are none."""


def evaluate(
    net: nn.Module,
    cases: Iterable[Case],
    classes: Sequence[str],
    spec: EvaluationSpec | None = None,
) -> pd.DataFrame:
    """Count true and false positives and negatives of each case, class and domain.

    Parameters
    ----------
    net
        Takes (N, C, H, W), by default in [0, 1], and returns logits (N, classes, H, W), or one
        channel for two classes; runs on its own device.
    cases
        Decoded cases; each is read once for all shifts.
    classes
        Names of the mask values.
    spec
        Its ``shifts`` are applied to each case in addition to the original; its crop and processes
        are used by `evaluate_manifest` only.

    Returns
    -------
    ``domain, case, group, class, tp, fp, fn``, int64 counts, cases in order.

    `SkipshiftError` names a case that the network cannot take.
    """
    spec = replace(spec or EvaluationSpec(), metrics=())
    counts = measure(net, cases, classes, spec).counts
    warn_if_constant(counts_of(counts, classes))
    return counts


def counts_of(table: pd.DataFrame, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Take the counts out of the table of `evaluate`: (rows, classes, 3)."""
    return table[["tp", "fp", "fn"]].to_numpy(np.int64).reshape(-1, len(classes), 3)


def measure(
    net: nn.Module, cases: Iterable[Case], classes: Sequence[str], spec: EvaluationSpec
) -> Evaluation:
    """Count as `evaluate` does and measure the spec's metrics, in one pass.

    `SkipshiftError` names a case that the network cannot take, or whose spacing is needed and
    unknown.
    """
    counts, metrics = [], []
    for (case, domain, _), labels, probabilities in _predict(net, cases, spec, len(classes)):
        about = (domain, case.case, case.group)
        numbers = count(case.mask[None], labels[None], len(classes), spec.ignore)[0]
        counts += [
            (*about, name, *map(int, row)) for name, row in zip(classes, numbers, strict=True)
        ]
        if spec.metrics:
            spacing = _spacing(case, spec)
            soft, wide = probabilities, spec.tolerance
            one = Segmented(case.mask, labels, len(classes), soft, wide, spacing, spec.ignore)
            metrics += [(*about, *row) for row in measure_case(one, spec.metrics, classes)]
    return Evaluation(
        pd.DataFrame(counts, columns=list(TABLE_COLUMNS["cases.parquet"])[1:]),
        pd.DataFrame(metrics, columns=list(TABLE_COLUMNS["metrics.parquet"])[1:]),
    )


def _spacing(case: Case, spec: EvaluationSpec) -> tuple[float, float]:
    """Size of a pixel in the unit of the tolerance."""
    if spec.tolerance_unit == "px" or "surface_dice" not in spec.metrics:
        return 1.0, 1.0
    if case.spacing is None:
        raise SkipshiftError(
            f"case {case.case}: has no spacing in the manifest, and the tolerance is in mm; give "
            f"each case its spacing, or the tolerance in px"
        )
    return case.spacing


def evaluate_manifest(
    source: Path,
    rows: pd.DataFrame,
    classes: Sequence[str],
    spec: EvaluationSpec,
    progress: Progress = silent,
    builder: str | None = None,
    device: str | None = None,
) -> Evaluation:
    """Evaluate a saved network on rows of a manifest, in one or more processes.

    ``source`` and ``builder`` are those of `skipshift.networks.checkpoints.load_net`; ``device`` is
    the best one by default.

    Process r of n evaluates the cases r, r + n, ..., so that each case is counted once and the
    tables are the same for any number of processes.

    Returns
    -------
    The tables of `measure`, with the name of ``source`` as ``run``.
    """
    # decided here, so that all processes compute alike
    device = device or best_device()
    kind = torch.device(device).type
    spec = replace(spec, precision=resolve_precision(spec.precision, kind))
    shards = [rows.iloc[rank :: spec.processes] for rank in range(spec.processes)]
    shards = [shard for shard in shards if len(shard)]
    how = (classes, spec, device)
    jobs = [(source, builder, shard, *how, rank) for rank, shard in enumerate(shards)]
    if len(jobs) == 1:
        parts = [_evaluate_shard(jobs[0], progress)]
    else:
        threads = max(1, torch.get_num_threads() // len(jobs))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(jobs), context, torch.set_num_threads, (threads,)) as pool:
            results = pool.map(_evaluate_shard, jobs)
            parts = list(progress(results, f"evaluate {source.name}", len(jobs)))
    name = source.absolute().name
    counts = _in_order([part.counts for part in parts], [len(shard) for shard in shards])
    metrics = _in_order([part.metrics for part in parts], [len(shard) for shard in shards])
    return Evaluation(counts.assign(run=name), metrics.assign(run=name))


def _in_order(parts: Sequence[pd.DataFrame], cases: Sequence[int]) -> pd.DataFrame:
    """Join the tables of processes in the order of the cases; each case has as many rows."""
    each = len(parts[0]) // cases[0]
    world, number = len(parts), sum(cases)
    positions = [np.repeat(np.arange(rank, number, world), each) for rank in range(world)]
    order = np.argsort(np.concatenate(positions), kind="stable")
    return pd.concat(parts, ignore_index=True).iloc[order].reset_index(drop=True)


def _evaluate_shard(
    job: tuple[Path, str | None, pd.DataFrame, Sequence[str], EvaluationSpec, str, int],
    progress: Progress = silent,
) -> Evaluation:
    source, builder, rows, classes, spec, device, rank = job
    if device == "cuda":
        device = f"cuda:{rank % torch.cuda.device_count()}"
    with warnings.catch_warnings():
        # said once, by who loaded the network to name its classes
        warnings.simplefilter("ignore", SkipshiftWarning)
        net = load_net(source, builder).to(device)
    loaded = read_cases(rows, len(classes), spec.crop, ignore=spec.ignore)
    shown = progress(loaded, f"evaluate {source.name}", len(rows))
    return measure(net, shown, classes, spec)


def iou_table(net: nn.Module, counts: pd.DataFrame) -> pd.DataFrame:
    """Pool the counts of `evaluate_manifest` to the columns of iou.csv.

    A network that is not ours has its class as ``encoder`` and its run as ``variant``.
    """
    return pooled_iou(estimates(_named(net, counts)))


def metrics_table(net: nn.Module, metrics: pd.DataFrame) -> pd.DataFrame:
    """Put the metrics of `evaluate_manifest` together: columns of metrics.csv, as `iou_table`."""
    return metric_scores(_named(net, metrics))


def _named(net: nn.Module, table: pd.DataFrame) -> pd.DataFrame:
    """Add ``encoder`` and ``variant`` to a table of one network."""
    if isinstance(net, Unet):
        return table.assign(encoder=net.encoder_name, variant=net.name)
    return table.assign(encoder=type(net).__name__, variant=table["run"])


def predict(
    net: nn.Module,
    cases: Iterable[Case],
    spec: EvaluationSpec,
) -> Iterator[tuple[Shifted, Labels]]:
    """Segment each case and its shifted versions; yields (H, W) uint8 class indices.

    `SkipshiftError` names a case that the network cannot take.
    """
    for shifted, labels, _ in _predict(net, cases, replace(spec, metrics=()), None):
        yield shifted, labels


def _predict(
    net: nn.Module, cases: Iterable[Case], spec: EvaluationSpec, classes: int | None
) -> Iterator[tuple[Shifted, Labels, Probabilities | None]]:
    """Segment as `predict` does; with (C, H, W) probabilities where a metric needs them."""
    device = input_like(net).device
    soft = any(METRICS[name].soft for name in spec.metrics)
    fast: nn.Module | None = None
    for batch in _batches(_shifted(cases, spec.shifts), spec.batch_size):
        pixels = np.stack([image for _, _, image in batch])
        _check(net, batch[0][0])
        if fast is None:
            # of every process the same, so that all of them take the same short cuts
            rng = torch.Generator().manual_seed(0)
            shape = _input(pixels[:1], spec.preprocess, device, torch.float32).shape
            example = torch.rand(shape, generator=rng)
            with evaluating(net):
                output = find_output(net, example, classes, spec.output, spec.activation)
            with giving_logits(net, output):
                fast = fast_copy(net, example, spec.precision)
            dtype = input_like(fast).dtype
        with evaluating(fast), torch.inference_mode():
            logits = logits_of(run(fast, _input(pixels, spec.preprocess, device, dtype)))
            labels = labels_of(logits)
            beside = probabilities_of(logits) if soft else [None] * len(batch)
        yield from zip(batch, labels, beside, strict=True)


def settle_output(
    net: nn.Module, case: Case, spec: EvaluationSpec, classes: Sequence[str] = ()
) -> EvaluationSpec:
    """Find a network's output and activation on a case, so that all processes take the same."""
    found = find_output(
        net, _example(net, case, spec), len(classes) or None, spec.output, spec.activation
    )
    return replace(spec, output=found.name or None, activation=found.activation)


def class_names(
    net: nn.Module, source: Path, case: Case, spec: EvaluationSpec, given: Sequence[str] = ()
) -> Sequence[str]:
    """Name the classes of a network: as given, as its run folder says, or class 0, class 1, ...

    `ArgumentError` if there are more or fewer names than classes in its logits of a case, or the
    spec ignores a class.
    """
    number = count_classes(net, case, spec, len(given) or None)
    names = given or run_record(source).get("classes")
    names = names or [f"class {index}" for index in range(number)]
    if len(names) != number:
        were = "name was" if len(names) == 1 else "names were"
        raise ArgumentError(
            f"the network predicts {number} classes but {len(names)} {were} given "
            f"({', '.join(names)})"
        )
    check_ignore(spec.ignore, number)
    return names


def count_classes(
    net: nn.Module, case: Case, spec: EvaluationSpec, named: int | None = None
) -> int:
    """Count the classes that a network predicts, from its logits for one case."""
    image = _example(net, case, spec)
    with evaluating(net):
        output = find_output(net, image, named, spec.output, spec.activation)
        with torch.inference_mode(), giving_logits(net, output):
            return max(2, logits_of(run(net, image)).shape[1])


def _example(net: nn.Module, case: Case, spec: EvaluationSpec) -> Tensor:
    """Make the input that a network gets of a case, (1, C, H, W)."""
    like = input_like(net)
    return _input(np.stack([case.image]), spec.preprocess, like.device, like.dtype)


def _input(pixels: Pixels, preprocess: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Convert images (N, H, W, C) to the network's input (N, C, H, W)."""
    if preprocess == "unit":
        # as uint8, a quarter of the bytes of float32, to the device
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device).to(dtype) / 255
    return torch.from_numpy(prepare(pixels, preprocess_of(preprocess))).to(device, dtype)


def _shifted(cases: Iterable[Case], domains: Sequence[str]) -> Iterator[Shifted]:
    for case in cases:
        yield case, case.domain, case.image
        for domain in domains:
            yield case, shifted_domain(case.domain, domain), shifts.apply(case.image, domain)


def _batches(items: Iterable[Shifted], size: int) -> Iterator[list[Shifted]]:
    """Yield batches of consecutive images of one shape."""
    for _, same_shape in groupby(items, key=lambda item: item[2].shape):
        while batch := list(islice(same_shape, size)):
            yield batch


def _check(net: nn.Module, case: Case) -> None:
    channels = getattr(net, "in_channels", case.image.shape[2])
    try:
        check_sides(*case.mask.shape)
    except ArgumentError as error:
        raise SkipshiftError(f"case {case.case}: {error}") from None
    if case.image.shape[2] != channels:
        raise SkipshiftError(
            f"case {case.case}: has {case.image.shape[2]} channels, the network takes {channels}"
        )
