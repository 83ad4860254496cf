"""Images to show of each set, with the predictions before and after the recommended remedy."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from skipshift.names import LARGEST_LABEL
from skipshift.networks.as_found import evaluating
from skipshift.networks.changes import Change
from skipshift.networks.features import as_input, input_like
from skipshift.networks.inference import labels_of
from skipshift.networks.outputs import giving_logits
from skipshift.page.example_pictures import Case
from skipshift.patching.labelled import Labelled
from skipshift.remedies.passes import NULL
from skipshift.remedies.result import Remedies
from skipshift.remedies.setting import Setting
from skipshift.statistics.counts import count, iou

_WINDOW = (0.5, 99.5)
"""Percentiles of the reference's shown images that are black and white, unless all are in 0..1."""

Labels = npt.NDArray[np.uint8]


class _Seen(NamedTuple):
    """One image with its labels, as arrays."""

    image: npt.NDArray[np.float32]
    mask: Labels | None
    before: Labels
    after: Labels | None
    ious: tuple[float, float]
    group: str


def cases_to_show(remedies: Remedies) -> list[Case]:
    """Choose the worst and the median image of each set.

    Worst by the mean IoU of the foreground before the remedy, of masks that have any. A set without
    masks is ordered by the share of pixels that the remedy changes, most first; without a remedy,
    by the share that is predicted to be foreground, least first.
    """
    setting, best = remedies.setting, remedies.best
    change = None if best is None else remedies.change(*best)
    shown: list[tuple[str, _Seen]] = []
    with evaluating(setting.net), giving_logits(setting.net, setting.output), torch.no_grad():
        sets = [folded.data for folded in (setting.home, setting.shifted) if folded is not None]
        for data in sets:
            ranks = [_rank(each) for each in _seen(setting, data, change)]
            unmasked = "least foreground" if change is None else "most changed"
            wanted = _chosen(ranks, unmasked if data.masks is None else "worst")
            again = enumerate(_seen(setting, data, change, set(wanted)))
            seen = {number: each for number, each in again if number in wanted}
            for number, what in wanted.items():
                title = f"{data.name} set, {what}: image {number + 1} of {len(ranks)}"
                shown.append((title, seen[number]))
    window = _window([each.image for _, each in shown[:2]])
    return [_case(title, each, window) for title, each in shown]


def _seen(
    setting: Setting, data: Labelled, change: Change | None, only: set[int] | None = None
) -> Iterator[_Seen]:
    """Predict the images of a set one by one, all or those of a batch that holds a wanted one."""
    start, like = 0, input_like(setting.net)
    for images, masks, _ in data.batches(setting.spec.batch_size):
        numbers = range(start, start + len(images))
        start = numbers.stop
        batch = as_input(images, like)
        idle = only is not None and not only & set(numbers)
        before = np.zeros(len(batch)) if idle else _labels(setting, NULL, batch)
        after = None if change is None or idle else _labels(setting, change, batch)
        for i, number in enumerate(numbers):
            mask = None if masks is None else _counted(masks[i], setting.spec.ignore)
            ends = before[i], None if after is None else after[i]
            ious = (np.nan, np.nan) if idle else _ious(mask, *ends)
            pixels = batch[i].float().cpu().numpy()
            yield _Seen(pixels, mask, *ends, ious, str(data.groups[number]))


def _labels(setting: Setting, change: Change, batch: Tensor) -> Labels:
    return labels_of(change.logits(setting.net, batch))


def _counted(mask: Labels, ignore: int | None) -> Labels:
    return mask if ignore is None else np.where(mask == ignore, np.uint8(LARGEST_LABEL), mask)


def _ious(mask: Labels | None, before: Labels, after: Labels | None) -> tuple[float, float]:
    return _iou(mask, before), np.nan if after is None else _iou(mask, after)


def _iou(mask: Labels | None, labels: Labels) -> float:
    """Mean IoU of the foreground classes of one image; NaN without a mask or any foreground."""
    if mask is None:
        return float("nan")
    classes = 1 + max(int(labels.max()), int(mask.max(where=mask != LARGEST_LABEL, initial=1)), 1)
    truth, found = (each.reshape(1, len(each), -1) for each in (mask, labels))
    each = iou(count(truth, found, classes, LARGEST_LABEL)[0, 1:])
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def _rank(seen: _Seen) -> float:
    """Say by what images are ordered, the worst first; NaN of a mask without foreground."""
    if seen.mask is not None:
        return seen.ious[0] if (seen.mask % LARGEST_LABEL).any() else float("nan")
    if seen.after is None:
        return float((seen.before > 0).mean())
    return -float((seen.before != seen.after).mean())


def _chosen(ranks: list[float], first: str) -> Mapping[int, str]:
    """Index -> what it is: the first and the median of those that have a rank."""
    known = [i for i in np.argsort(ranks, kind="stable") if ranks[i] == ranks[i]]
    if not known:
        return {}
    found = {int(known[0]): first}
    found.setdefault(int(known[len(known) // 2]), "median")
    return found


def _window(images: list[npt.NDArray[np.float32]]) -> tuple[float, float]:
    """Values that are shown black and white."""
    if not images or all(image.min() >= 0 and image.max() <= 1 for image in images):
        return 0.0, 1.0
    low, high = np.percentile(np.concatenate([image.ravel() for image in images]), _WINDOW)
    return float(low), float(max(high, low + 1e-6))


def _case(title: str, seen: _Seen, window: tuple[float, float]) -> Case:
    image, labels = seen.image, [seen.mask, seen.before, seen.after]
    if image.ndim == 4:  # of a volume the slice with most foreground
        told = seen.before if seen.mask is None else seen.mask % LARGEST_LABEL
        most = int((told > 0).sum((1, 2)).argmax())
        image, labels = image[:, most], [None if each is None else each[most] for each in labels]
    channels = image[: 3 if len(image) >= 3 else 1]
    scaled = (channels - window[0]) / (window[1] - window[0])
    pixels = np.rint(255 * scaled.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)
    mask, before, after = (None if each is None else each.astype(np.uint8) for each in labels)
    assert before is not None
    return Case(title, seen.group, np.ascontiguousarray(pixels), mask, before, after, seen.ious)
