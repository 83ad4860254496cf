"""One network on every domain and shift: confusion counts of each case."""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from skipshift import shifts
from skipshift.counts import count
from skipshift.data.images import Pixels
from skipshift.data.manifest import Case, read_cases
from skipshift.inference import best_device, fast_copy, labels_of
from skipshift.models import Unet
from skipshift.names import ORIGINAL, check_sides
from skipshift.progress import Progress, silent
from skipshift.specs import EvaluationSpec, Precision, SkipshiftError

Shifted = tuple[Case, str, Pixels]
"""A case, the domain it is in once shifted, and its shifted image."""


def evaluate(
    net: nn.Module,
    cases: Iterable[Case],
    classes: Sequence[str],
    domains: Sequence[str] = (),
    batch_size: int = 8,
    precision: Precision = "auto",
) -> pd.DataFrame:
    """Count true and false positives and negatives of each case, class and domain.

    Parameters
    ----------
    net
        Takes (N, C, H, W) in [0, 1] and gives logits (N, classes, H, W); runs where it is.
    cases
        Decoded cases; each is read once, whatever the number of shifts.
    classes
        Names of the mask's values.
    domains
        Synthetic shifts to apply to each case, e.g. ``brightness:0.75``, beside the case itself.

    Returns
    -------
    ``domain, case, group, class, tp, fp, fn``, int64 counts, cases in order.
    """
    rows = []
    for (case, domain, _), labels in predict(net, cases, domains, batch_size, precision):
        counts = count(case.mask[None], labels[None], len(classes))[0]
        rows += [
            (domain, case.case, case.group, name, *map(int, numbers))
            for name, numbers in zip(classes, counts, strict=True)
        ]
    return pd.DataFrame(rows, columns=["domain", "case", "group", "class", "tp", "fp", "fn"])


def evaluate_manifest(
    folder: Path,
    rows: pd.DataFrame,
    classes: Sequence[str],
    spec: EvaluationSpec,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Evaluate the network of a run folder on rows of a manifest, on one or more processes.

    Process r of n takes the cases r, r + n, ..., so that each case is counted once and the table
    is the same for any number of processes.

    Returns
    -------
    As `evaluate`, with the folder's name as ``run``.
    """
    shards = [rows.iloc[rank :: spec.processes] for rank in range(spec.processes)]
    shards = [shard for shard in shards if len(shard)]
    jobs = [(folder, shard, classes, spec, rank) for rank, shard in enumerate(shards)]
    if len(jobs) == 1:
        parts = [_evaluate_shard(jobs[0], progress)]
    else:
        threads = max(1, torch.get_num_threads() // len(jobs))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(jobs), context, torch.set_num_threads, (threads,)) as pool:
            results = pool.map(_evaluate_shard, jobs)
            parts = list(progress(results, f"evaluate {folder.name}", len(jobs)))
    per_case = len(parts[0]) // len(shards[0])
    places = [
        np.repeat(np.arange(rank, len(rows), len(parts)), per_case) for rank in range(len(parts))
    ]
    order = np.argsort(np.concatenate(places), kind="stable")
    table = pd.concat(parts, ignore_index=True).iloc[order].reset_index(drop=True)
    return table.assign(run=folder.absolute().name)


def _evaluate_shard(
    job: tuple[Path, pd.DataFrame, Sequence[str], EvaluationSpec, int],
    progress: Progress = silent,
) -> pd.DataFrame:
    folder, rows, classes, spec, rank = job
    place = best_device()
    if place == "cuda":
        place = f"cuda:{rank % torch.cuda.device_count()}"
    net = Unet.load(folder).to(place)
    loaded = read_cases(rows, len(classes), spec.crop)
    shown = progress(loaded, f"evaluate {folder.name}", len(rows))
    return evaluate(net, shown, classes, spec.shifts, precision=spec.precision)


def predict(
    net: nn.Module,
    cases: Iterable[Case],
    domains: Sequence[str] = (),
    batch_size: int = 8,
    precision: Precision = "auto",
) -> Iterator[tuple[Shifted, npt.NDArray[np.uint8]]]:
    """Segment each case as it is and under each shift; yields (H, W) uint8 class indices."""
    place = next(net.parameters()).device
    fast: nn.Module | None = None
    for batch in _batches(_shifted(cases, domains), batch_size):
        pixels = torch.from_numpy(np.stack([image for _, _, image in batch]))
        images = pixels.permute(0, 3, 1, 2).to(place)
        _check(net, batch[0][0])
        if fast is None:
            fast = fast_copy(net, images[:1].float() / 255, precision)
            dtype = next(fast.parameters()).dtype
        with torch.inference_mode():
            labels = labels_of(fast(images.to(dtype) / 255))
        yield from zip(batch, labels, strict=True)


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
    except ValueError as error:
        raise SkipshiftError(f"case {case.case}: {error}") from None
    if case.image.shape[2] != channels:
        raise SkipshiftError(
            f"case {case.case}: has {case.image.shape[2]} channels, the network takes {channels}"
        )
