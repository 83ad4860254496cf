"""One network on every domain and shift: confusion counts of each case."""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
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
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.names import ORIGINAL, check_sides
from skipshift.networks.checkpoints import load_net
from skipshift.networks.inference import (
    best_device,
    fast_copy,
    labels_of,
    logits_of,
    resolve_precision,
    run,
)
from skipshift.progress import Progress, silent
from skipshift.specs import EvaluationSpec
from skipshift.statistics.counts import count

Shifted = tuple[Case, str, Pixels]
"""A case, the domain it is in once shifted, and its shifted image."""


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
        Takes (N, C, H, W), by default in [0, 1], and gives logits (N, classes, H, W), or one
        channel for two classes; runs where it is.
    cases
        Decoded cases; each is read once, whatever the number of shifts.
    classes
        Names of the mask's values.
    spec
        Its ``shifts`` are applied to each case beside the case itself; crop and processes are those
        of `evaluate_manifest`.

    Returns
    -------
    ``domain, case, group, class, tp, fp, fn``, int64 counts, cases in order.
    """
    rows = []
    for (case, domain, _), labels in predict(net, cases, spec or EvaluationSpec()):
        counts = count(case.mask[None], labels[None], len(classes))[0]
        rows += [
            (domain, case.case, case.group, name, *map(int, numbers))
            for name, numbers in zip(classes, counts, strict=True)
        ]
    return pd.DataFrame(rows, columns=["domain", "case", "group", "class", "tp", "fp", "fn"])


def evaluate_manifest(
    source: Path,
    rows: pd.DataFrame,
    classes: Sequence[str],
    spec: EvaluationSpec,
    progress: Progress = silent,
    builder: str | None = None,
) -> pd.DataFrame:
    """Evaluate a network that was saved on rows of a manifest, on one or more processes.

    ``source`` and ``builder`` are those of `skipshift.networks.checkpoints.load_net`.

    Process r of n takes the cases r, r + n, ..., so that each case is counted once and the table
    is the same for any number of processes.

    Returns
    -------
    As `evaluate`, with the source's name as ``run``.
    """
    # decided here, so that all processes compute alike
    spec = replace(spec, precision=resolve_precision(spec.precision, best_device()))
    shards = [rows.iloc[rank :: spec.processes] for rank in range(spec.processes)]
    shards = [shard for shard in shards if len(shard)]
    jobs = [(source, builder, shard, classes, spec, rank) for rank, shard in enumerate(shards)]
    if len(jobs) == 1:
        parts = [_evaluate_shard(jobs[0], progress)]
    else:
        threads = max(1, torch.get_num_threads() // len(jobs))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(jobs), context, torch.set_num_threads, (threads,)) as pool:
            results = pool.map(_evaluate_shard, jobs)
            parts = list(progress(results, f"evaluate {source.name}", len(jobs)))
    per_case = len(parts[0]) // len(shards[0])
    places = [
        np.repeat(np.arange(rank, len(rows), len(parts)), per_case) for rank in range(len(parts))
    ]
    order = np.argsort(np.concatenate(places), kind="stable")
    table = pd.concat(parts, ignore_index=True).iloc[order].reset_index(drop=True)
    return table.assign(run=source.absolute().name)


def _evaluate_shard(
    job: tuple[Path, str | None, pd.DataFrame, Sequence[str], EvaluationSpec, int],
    progress: Progress = silent,
) -> pd.DataFrame:
    source, builder, rows, classes, spec, rank = job
    place = best_device()
    if place == "cuda":
        place = f"cuda:{rank % torch.cuda.device_count()}"
    net = load_net(source, builder).to(place)
    loaded = read_cases(rows, len(classes), spec.crop)
    shown = progress(loaded, f"evaluate {source.name}", len(rows))
    return evaluate(net, shown, classes, spec)


def predict(
    net: nn.Module,
    cases: Iterable[Case],
    spec: EvaluationSpec,
) -> Iterator[tuple[Shifted, npt.NDArray[np.uint8]]]:
    """Segment each case as it is and under each shift; yields (H, W) uint8 class indices."""
    place = next(net.parameters()).device
    fast: nn.Module | None = None
    for batch in _batches(_shifted(cases, spec.shifts), spec.batch_size):
        pixels = np.stack([image for _, _, image in batch])
        _check(net, batch[0][0])
        if fast is None:
            example = _input(pixels[:1], spec.preprocess, place, torch.float32)
            fast = fast_copy(net, example, spec.precision)
            dtype = next(fast.parameters()).dtype
        with torch.inference_mode():
            labels = labels_of(logits_of(run(fast, _input(pixels, spec.preprocess, place, dtype))))
        yield from zip(batch, labels, strict=True)


def count_classes(net: nn.Module, case: Case, spec: EvaluationSpec) -> int:
    """How many classes a network tells apart, by its logits of a case."""
    place = next(net.parameters()).device
    image = _input(np.stack([case.image]), spec.preprocess, place, torch.float32)
    with torch.inference_mode():
        logits = logits_of(run(net, image))
    return max(2, logits.shape[1])


def _input(pixels: Pixels, preprocess: str, place: torch.device, dtype: torch.dtype) -> Tensor:
    """(N, H, W, C) levels as (N, C, H, W) that the network takes."""
    if preprocess == "unit":
        # a quarter of the bytes to the device
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(place).to(dtype) / 255
    return torch.from_numpy(prepare(pixels, preprocess_of(preprocess))).to(place, dtype)


def domain_of(case: Case, shift: str) -> str:
    """Domain of a shifted case: the shift's name, behind the case's own domain if it has one.

    >>> import numpy as np
    >>> pixels = np.zeros((1, 1, 3), np.uint8)
    >>> domain_of(Case("a", "original", "a", pixels, pixels[..., 0]), "brightness:0.75")
    'brightness:0.75'
    """
    return shift if case.domain == ORIGINAL else f"{case.domain}+{shift}"


def _shifted(cases: Iterable[Case], domains: Sequence[str]) -> Iterator[Shifted]:
    for case in cases:
        yield case, case.domain, case.image
        for domain in domains:
            yield case, domain_of(case, domain), shifts.apply(case.image, domain)


def _batches(items: Iterable[Shifted], size: int) -> Iterator[list[Shifted]]:
    """Batches of images of one shape, in order."""
    for _, alike in groupby(items, key=lambda item: item[2].shape):
        while batch := list(islice(alike, size)):
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
