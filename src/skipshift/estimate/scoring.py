"""Scores of single images: how unlike the images of a fingerprint each of them is."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from skipshift.errors import ArgumentError
from skipshift.estimate.measuring import histograms_of, run_through
from skipshift.networks.addresses import unwrap
from skipshift.networks.as_found import evaluating
from skipshift.networks.features import Images, as_input, batches_of, input_like
from skipshift.networks.outputs import find_output, giving_logits
from skipshift.networks.weights import weights_hash
from skipshift.profile.fingerprinting import counted_images, distances_of
from skipshift.profile.fingerprints import Fingerprint
from skipshift.specs import Activation
from skipshift.statistics.confidence import Confidence
from skipshift.statistics.counts import ratio
from skipshift.statistics.estimates import METHODS
from skipshift.statistics.oddness import oddness


def score(net: nn.Module, fingerprint: Fingerprint, images: Images) -> pd.DataFrame:
    """Score each image by how unlike the images of a fingerprint it is, layer by layer.

    In each layer the image's features are compared with the reference's histograms, and so was each
    image of the reference with those of the other groups. ``p`` is the share of images, of the
    reference's and this one, that are as unlike the others as this one in the layer where they are
    the most unlike: of images that are like the reference, 5 % have p of at most 0.05.

    Parameters
    ----------
    net
        The network that the fingerprint was made with.
    images
        As for `skipshift.fingerprint`, preprocessed alike and of the same size.

    Returns
    -------
    One row per image: ``case, p, layer, iou``. ``layer`` is where it is the most unlike. ``iou`` is
    the mean over classes of the foreground that are predicted, as the network's confidence has it:
    not corrected, so too high under shift; NaN where none is. `ArgumentError` if the fingerprint is
    of another network or of images of another size, if images cannot be scored against it, or an
    image holds NaN.
    """
    return score_images(net, fingerprint, images)


def score_images(
    net: nn.Module,
    fingerprint: Fingerprint,
    images: Images,
    cases: Sequence[str] | None = None,
    output: str | None = None,
    activation: Activation = "auto",
    batch_size: int = 8,
) -> pd.DataFrame:
    """Do what `score` does, with names of the images; `ArgumentError` as there."""
    net = unwrap(net)
    _check(net, fingerprint)
    batches = batches_of(images, batch_size, "images")
    first = next(batches, None)
    if first is None:
        raise ArgumentError("images must hold at least one image")
    size = fingerprint.making.size
    if tuple(first.shape[1:]) != size:
        raise ArgumentError(
            f"images must be {' x '.join(map(str, size))} (channels first), as those of the "
            f"fingerprint, got {' x '.join(map(str, first.shape[1:]))}"
        )
    layers = dict(fingerprint.making.layers)
    total = fingerprint.counts.sum(0, dtype=np.int64)
    like, distances, guesses = input_like(net), [], []
    with evaluating(net), torch.no_grad():
        how = find_output(net, as_input(first, like), None, output, activation)
        with giving_logits(net, how):
            for images_ in chain([first], batches):
                batch = as_input(images_, like)
                if not batch.isfinite().all():
                    raise ArgumentError("images hold NaN or infinity")
                logits, features = run_through(net, batch, layers, fingerprint.making.pooling)
                counts = counted_images(features, fingerprint)
                distances.append(distances_of(counts, total, fingerprint))
                guesses.append(_iou(histograms_of(logits)))
    found = np.concatenate(distances)
    p, place = oddness(fingerprint.alone, found)
    names = [str(index) for index in range(len(found))] if cases is None else cases
    return pd.DataFrame({
        "case": names, "p": p, "layer": np.array(list(layers))[place],
        "iou": np.concatenate(guesses),
    })  # fmt: skip


def _iou(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Estimate the IoU (N,) of images by average confidence, mean over the predicted foreground."""
    seen = Confidence(counts)
    each = METHODS["average confidence"](seen)(seen)[:, 1:]
    there = counts[:, 1:, 1].sum((-1, -2)) > 0
    sums = np.where(there, each, 0).sum(1)
    return ratio(sums, there.sum(1))


def _check(net: nn.Module, fingerprint: Fingerprint) -> None:
    own, theirs = weights_hash(net), fingerprint.making.network
    if own != theirs:
        raise ArgumentError(
            f"fingerprint is of another network, {theirs[:12]}, and this one is {own[:12]}; make "
            f"one with this network"
        )
    if not np.isfinite(fingerprint.alone).all() or not fingerprint.alone.size:
        raise ArgumentError(
            "images cannot be scored against this fingerprint, which does not hold how its own "
            "images score: make it anew, of the images of at least 2 groups, not merged"
        )
