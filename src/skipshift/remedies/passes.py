"""Passes over a set with changes of a network: of each batch, what they share runs once."""

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from skipshift.errors import SkipshiftError
from skipshift.networks.changes import Change
from skipshift.networks.feature_store import FeatureStore
from skipshift.networks.hooks import captured
from skipshift.networks.inference import labels_of, same_logits
from skipshift.networks.pooling import cells_of, pooled, vectors
from skipshift.patching.cached_forward import Forward, cached, out_of_place, plainly
from skipshift.patching.labelled import Codes, Masks
from skipshift.remedies.gathering import Folded
from skipshift.remedies.last_layer import LastLayer
from skipshift.remedies.places import Place
from skipshift.specs import RemedySpec
from skipshift.statistics.counts import count
from skipshift.statistics.recovery import Counts, foreground_iou

NULL = Change()
"""The network as it is."""

FAULTS = (SkipshiftError, RuntimeError)
"""What a remedy that cannot be fitted or run raises; the search goes on without it."""

Labels = npt.NDArray[np.uint8]

_LOG = logging.getLogger("skipshift")


def reason(fault: Exception) -> str:
    """Say in one line why a remedy failed."""
    return " ".join(str(fault).split())


@dataclass(frozen=True)
class Fitted:
    """A change as it was fitted without each fold."""

    changes: Mapping[int, Change] = field(default_factory=dict)
    """By fold; on folds that are missing it stands for the network as it is."""

    apart: bool = False
    """Whether it differs between folds."""

    seconds: float = 0.0
    """What fitting took."""

    def __call__(self, fold: int) -> Change:
        """Return the change by which the images of a fold are judged."""
        return self.changes.get(fold, NULL)


@dataclass(frozen=True)
class Seen:
    """What one change did to some images of a set."""

    codes: Codes
    """(N,): index of each image's group."""

    counts: Counts
    """(N, classes, 3); all 0 without masks."""

    pixels: npt.NDArray[np.int64]
    """(classes,): predicted pixels."""

    kept: Counts
    """(classes, 3) against the labels of the unmended network; all 0 where those are not known."""

    blocks: list[npt.NDArray[np.float32]]
    """Pooled features of the last layer."""

    seconds: float

    def by_group(self, number: int) -> Counts:
        """Add the counts of each group up, (groups, classes, 3)."""
        counts = np.zeros((number, *self.counts.shape[1:]), np.int64)
        np.add.at(counts, self.codes, self.counts)
        return counts


class Passes:
    """Runs changes of one network over sets of images.

    What runs before a place runs once for all changes there (`skipshift.patching.cached_forward`),
    in networks whose logits that does not change.
    """

    def __init__(self, net: nn.Module, spec: RemedySpec, last: LastLayer) -> None:
        self._net, self._spec, self._last = net, spec, last
        self._agreed: dict[str, bool] = {}
        self._warned = False

    def __call__(
        self,
        data: Folded,
        tries: Sequence[Fitted],
        place: Place | None = None,
        before: Iterable[Labels] = (),
        store: FeatureStore | None = None,
    ) -> list[Seen | str]:
        """Run changes over a set, each image with those of its fold, or tell why one cannot run.

        Parameters
        ----------
        place
            Where all of them act; None if they change what the network is given.
        before
            Labels of each image in the unmended network, if known.
        store
            Where the labels of each image go.
        """
        before = iter(before)
        rngs = [np.random.default_rng(self._spec.seed) for _ in tries]
        parts: list[list[Seen]] = [[] for _ in tries]
        failed = [""] * len(tries)
        with torch.no_grad():
            for fold, images, masks, codes in data.batches(self._net, self._spec.batch_size):
                batch = _Batch(images, masks, codes, list(islice(before, len(images))))
                changes = [one(fold) for one in tries]
                with self._forward(images, changes, place) as forward:
                    for i, change in enumerate(changes):
                        if failed[i]:
                            continue
                        try:
                            parts[i].append(self._run(forward, change, batch, rngs[i], store))
                        except FAULTS as fault:
                            failed[i] = reason(fault)
        return [why or _joined(own) for why, own in zip(failed, parts, strict=True)]

    def _run(
        self,
        forward: Forward,
        change: Change,
        batch: "_Batch",
        rng: np.random.Generator,
        store: FeatureStore | None,
    ) -> Seen:
        start, cells = time.perf_counter(), cells_of(batch.images)

        def pool(_name: str, value: Tensor) -> npt.NDArray[np.float32]:
            # flips of the same images come behind them
            maps = pooled(value[: len(batch.codes)].float(), cells, self._last.pooling, rng)
            return vectors(maps).cpu().contiguous().numpy()

        with captured(self._net, self._last.addresses, pool) as features:
            logits = forward(change.logits)
        labels, classes = labels_of(logits), max(2, logits.shape[1])
        if store is not None:
            store.add("labels", labels)
        return Seen(
            batch.codes,
            batch.counts(labels, classes, self._spec.ignore),
            np.bincount(labels.ravel(), minlength=classes),
            batch.kept(labels, classes),
            list(features.values()),
            time.perf_counter() - start,
        )

    @contextlib.contextmanager
    def _forward(
        self, images: Tensor, changes: Sequence[Change], place: Place | None
    ) -> Iterator[Forward]:
        """Yield a function that gives the logits of a batch in the ways that changes have."""
        if place is None or len(changes) < 2 or not self._agrees(images[:1], changes, place):
            yield lambda way=plainly: way(self._net, images)
            return
        with self._cached(images, place) as forward:
            yield forward

    def _agrees(self, image: Tensor, changes: Sequence[Change], place: Place) -> bool:
        """Whether an image gets the same logits where what comes before a place is remembered.

        Tried once for a place, with the first change there and the last, a map if there is one.
        """
        if place.name not in self._agreed:
            self._agreed[place.name] = False
            with contextlib.suppress(*FAULTS):
                self._agreed[place.name] = self._compared(image, (changes[0], changes[-1]), place)
        return self._agreed[place.name]

    def _compared(self, image: Tensor, changes: Sequence[Change], place: Place) -> bool:
        expected = [change.logits(self._net, image) for change in changes]
        with self._cached(image, place) as forward:
            same = all(map(same_logits, (forward(own.logits) for own in changes), expected))
        if not same and not self._warned:
            self._warned = True
            _LOG.warning(
                f"what runs before {place.name} is not remembered, since the logits would not be "
                f"the same; each remedy there, and where else that is so, takes a whole forward "
                f"pass"
            )
        return same

    @contextlib.contextmanager
    def _cached(self, images: Tensor, place: Place) -> Iterator[Forward]:
        addresses = {} if place.mapped is None else {place.name: place.mapped}
        with (
            out_of_place(self._net),
            cached(self._net, addresses, images, place.modules) as forward,
        ):
            yield forward


@dataclass(frozen=True)
class _Batch:
    """Some images of a set, as the network takes them."""

    images: Tensor
    masks: Masks | None
    codes: Codes
    before: Sequence[Labels]

    def counts(self, labels: Labels, classes: int, ignore: int | None) -> Counts:
        """Count what was predicted, (N, classes, 3)."""
        if self.masks is None:
            return np.zeros((len(labels), classes, 3), np.int64)
        return count_labels(self.masks, labels, classes, ignore)

    def kept(self, labels: Labels, classes: int) -> Counts:
        """Count (classes, 3) what was predicted against the unmended network, if that is known."""
        if not self.before:
            return np.zeros((classes, 3), np.int64)
        return np.asarray(count_labels(np.stack(self.before), labels, classes).sum(0))


def relabelled(kept: Counts) -> float:
    """Say how much labels (classes, 3) differ from others: 1 - IoU; 0 without any foreground."""
    value = float(foreground_iou(kept[None, None])[0][0])
    return 0.0 if np.isnan(value) else 1 - value


def count_labels(masks: Masks, labels: Labels, classes: int, ignore: int | None = None) -> Counts:
    """Count labels (N, ...) of images or volumes against masks, (N, classes, 3)."""
    # a volume is as good as one wide image
    flat = [array.reshape(len(array), array.shape[1], -1) for array in (masks, labels)]
    return count(flat[0], flat[1], classes, ignore)


def _joined(parts: Sequence[Seen]) -> Seen:
    """Join what a change did to all batches."""
    return Seen(
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.sum([part.pixels for part in parts], 0),
        np.asarray(np.sum([part.kept for part in parts], 0)),
        [block for part in parts for block in part.blocks],
        sum(part.seconds for part in parts),
    )
