"""Negative control of a remedy: how much it relabels where nothing is shifted.

It is fitted between two halves of the reference, so that all it changes there is harm. The halves
are the groups with most and with least foreground: what differs between images of one scanner, and
looks like a shift of intensities. A matched histogram, say, moves the background of whichever half
has more of it.

What undoes a mistake is fitted on nothing, and does the same to any image. It passes if the mistake
explains the shift (`skipshift.remedies.causes`).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch

from skipshift.networks.inference import labels_of
from skipshift.page.remedy_sentences import CONTROL, TIMES, UNEXPLAINED, Relabelled
from skipshift.patching.labelled import subset
from skipshift.remedies.causes import find_cause
from skipshift.remedies.gathering import folded, gather
from skipshift.remedies.input_remedies import MISTAKES
from skipshift.remedies.judging import Judge
from skipshift.remedies.passes import FAULTS, Labels, count_labels, relabelled
from skipshift.remedies.places import Place
from skipshift.remedies.setting import JOIN, Remedy, Setting
from skipshift.statistics.recovery import Counts


class Checked(NamedTuple):
    """What a control found of a remedy."""

    against: str
    """Why the remedy does not pass; empty if it does."""

    relabelled: Relabelled | None = None
    """None of what undoes a mistake, or cannot be fitted."""


class NegativeControl:
    """Halves of the reference, on which remedies of a search are fitted again."""

    def __init__(self, judge: Judge) -> None:
        self._setting = judge.setting
        self._home, self._shifted = (list(chain.from_iterable(own)) for own in judge.labels)

    def __call__(self, remedy: Remedy, place: Place, weight: float) -> Checked:
        """Fit a remedy on the shifted set, and on each half; or see if its mistake was made."""
        if set(remedy.name.split(JOIN)) & set(MISTAKES):
            return Checked("" if remedy.name == self._undone_by else UNEXPLAINED)
        try:
            sets = ((self._setting, self._shifted), *self._halves)
            shifted, *halves = (_counted(*own, remedy, place, weight) for own in sets)
        except FAULTS:
            return Checked(CONTROL)
        found = Relabelled(relabelled(shifted), relabelled(np.sum(halves, 0)))
        return Checked("" if found.shifted > TIMES * found.unshifted else CONTROL, found)

    @cached_property
    def _undone_by(self) -> str:
        """Remedy that undoes the mistake that explains the shift, or empty."""
        return find_cause(self._setting).undone_by

    @cached_property
    def _halves(self) -> list[tuple[Setting, list[Labels]]]:
        """Each half of the reference as the shifted set, with the other as its reference.

        And what the unmended network calls its images.
        """
        setting, spec = self._setting, self._setting.spec
        assert setting.home is not None
        data = setting.home.data
        codes = np.unique(data.groups, return_inverse=True)[1]
        foreground = np.array([(labels > 0).mean() for labels in self._home])
        order = np.argsort(np.bincount(codes, foreground) / np.bincount(codes), kind="stable")
        most = np.isin(codes, order[len(order) // 2 :])
        parts = (most, ~most)
        halves = [folded(subset(data, own), 1, spec.seed) for own in parts]
        known = [gather(setting.net, setting.places, half, spec) for half in halves]
        before = [[self._home[i] for i in np.flatnonzero(own)] for own in parts]
        return [
            (replace(setting, reference=halves[i], shifted=half, known=known[i]), before[1 - i])
            for i, half in enumerate(reversed(halves))
        ]


def _counted(
    setting: Setting, before: Sequence[Labels], remedy: Remedy, place: Place, weight: float
) -> Counts:
    """Count (classes, 3) what a remedy predicts on the shifted set against the unmended network."""
    fit = remedy.offer(setting, place)
    assert fit is not None  # it was offered in the search, from the same places
    change, net, old = fit(None, weight), setting.net, iter(before)
    counts = []
    with torch.no_grad():
        for _, images, _, _ in setting.shifted.in_one.batches(net, setting.spec.batch_size):
            logits = change.logits(net, images)
            labels = np.stack(list(islice(old, len(images))))
            counts.append(count_labels(labels, labels_of(logits), max(2, logits.shape[1])).sum(0))
    return np.asarray(np.sum(counts, 0))
