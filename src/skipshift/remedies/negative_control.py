"""Negative control of a remedy: how much it relabels where nothing is shifted.

It is fitted between two halves of the reference, so that all it changes there is harm. The halves
are the groups with most and with least foreground: what differs between images of one scanner, and
looks like a shift of intensities. A matched histogram, say, moves the background of whichever half
has more of it.
"""

from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from skipshift.networks.inference import labels_of
from skipshift.page.remedy_sentences import Relabelled
from skipshift.patching.labelled import subset
from skipshift.remedies.gathering import folded, gather
from skipshift.remedies.passes import FAULTS, NULL, count_labels
from skipshift.remedies.places import Place
from skipshift.remedies.setting import Remedy, Setting
from skipshift.statistics.recovery import Counts, foreground_iou


class NegativeControl:
    """Halves of the reference, on which remedies of a search are fitted again."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def __call__(self, remedy: Remedy, place: Place, weight: float) -> Relabelled | None:
        """Fit a remedy on the shifted set, and on each half; None where that cannot be done."""
        try:
            shifted = _relabelled(self._setting, remedy, place, weight)
            halves = [_relabelled(half, remedy, place, weight) for half in self._halves]
        except FAULTS:
            return None
        return Relabelled(_apart(shifted), _apart(np.sum(halves, 0)))

    @cached_property
    def _halves(self) -> list[Setting]:
        """Each half of the reference as the shifted set, with the other as its reference."""
        setting, spec = self._setting, self._setting.spec
        assert setting.home is not None
        data = setting.home.data
        codes = np.unique(data.groups, return_inverse=True)[1]
        order = np.argsort(self._foreground(), kind="stable")
        most = np.isin(codes, order[len(order) // 2 :])
        halves = [folded(subset(data, own), 1, spec.seed) for own in (most, ~most)]
        known = [gather(setting.net, setting.places, half, spec) for half in halves]
        return [
            replace(setting, reference=halves[i], shifted=halves[1 - i], known=known[i])
            for i in (0, 1)
        ]

    def _foreground(self) -> npt.NDArray[np.float64]:
        """Mean share (groups,) of the foreground that is predicted on images of the reference."""
        setting = self._setting
        assert setting.home is not None
        sums = np.zeros((len(setting.home.folds), 2))
        with torch.no_grad():
            for _, images, _, codes in setting.home.batches(setting.net, setting.spec.batch_size):
                labels = labels_of(NULL.logits(setting.net, images))
                shares = (labels > 0).reshape(len(labels), -1).mean(1)
                np.add.at(sums, codes, np.stack([shares, np.ones(len(shares))], 1))
        return np.asarray(sums[:, 0] / sums[:, 1])


def _relabelled(setting: Setting, remedy: Remedy, place: Place, weight: float) -> Counts:
    """Count (classes, 3) what a remedy predicts on the shifted set against the unmended network."""
    fit = remedy.offer(setting, place)
    assert fit is not None  # it was offered in the search, from the same places
    change, net = fit(None, weight), setting.net
    counts = []
    with torch.no_grad():
        for _, images, _, _ in setting.shifted.batches(net, setting.spec.batch_size):
            before, after = NULL.logits(net, images), change.logits(net, images)
            labels, classes = (labels_of(before), labels_of(after)), max(2, before.shape[1])
            counts.append(count_labels(*labels, classes).sum(0))
    return np.asarray(np.sum(counts, 0))


def _apart(counts: Counts) -> float:
    """One minus the IoU; 0 without any foreground."""
    value = float(foreground_iou(counts[None, None])[0][0])
    return 0.0 if np.isnan(value) else 1 - value
