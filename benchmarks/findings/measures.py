"""What the findings measure on trained networks beyond what their studies do: a table each."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

import skipshift as ss
from skipshift.data.batches import stack_cases
from skipshift.data.images import centre_crop
from skipshift.data.manifest import Case, read_cases, read_manifest
from skipshift.data.sets.sources import read_test_rows
from skipshift.names import all_variants, paper_shifts, skips_of
from skipshift.networks.unet import Unet
from skipshift.specs import EvaluationSpec, ProfileSpec
from skipshift.study.evaluation import evaluate

SEARCH_CROP = 128
"""Side of what a search for a remedy sees of each image; what it recommends is judged on all."""

POOLINGS = ("average", "sample", "none")

SEARCHED = ss.RemedySpec(
    remedies=(
        "moments",
        "quantile",
        "image-moments",
        "image-histogram",
        "gamma",
        "brightness",
        "zscore",
        "minmax",
        "adabn",
    ),
    places=("input", "e2", "encoder", "all"),
)
"""Remedies without labels that are searched for a mended network, at four places."""


def test_cases(manifest: Path, classes: int, crop: int) -> list[Case]:
    """Read the test cases of a manifest."""
    return list(read_cases(read_test_rows(str(manifest)), classes, crop))


def arrays(cases: Sequence[Case]) -> tuple[np.ndarray, list[str]]:
    """Images (N, C, H, W) and groups."""
    images, _, groups = stack_cases(cases)
    return np.ascontiguousarray(np.moveaxis(images, -1, 1)), list(groups)


def shifted(cases: Iterable[Case], shift: str) -> list[Case]:
    """The same cases under a synthetic shift."""
    return [replace(case, domain=shift, image=ss.shifts.apply(case.image, shift)) for case in cases]


def cropped(cases: Iterable[Case]) -> list[Case]:
    """Centres of `SEARCH_CROP` pixels of the cases' images."""
    return [
        replace(
            case,
            image=centre_crop(case.image, SEARCH_CROP),
            mask=centre_crop(case.mask, SEARCH_CROP),
        )
        for case in cases
    ]


def profiles(cases: Sequence[Case], runs: Sequence[Path]) -> Iterator[pd.DataFrame]:
    """Profile of every network, trained and not, under every shift, with every pooling."""
    images, groups = arrays(cases)
    spec = ProfileSpec(pooling=POOLINGS, permutation_draws=0)
    for number, run in enumerate(runs):
        torch.manual_seed(number)
        untrained = Unet("resnet18", classes=2, encoder_weights=None).eval()
        for trained, net in ((True, ss.load_net(run)), (False, untrained)):
            for shift in paper_shifts():
                away, _ = arrays(shifted(cases, shift))
                layers = ss.profile_shift(net, images, away, None, (groups, groups), spec).layers
                columns = ["layer", "depth", "pooling", "distance", "null", "excess", "low", "high"]
                yield layers[columns].assign(network=run.name, trained=trained, shift=shift)


def mended_for_shifts(run: Path, manifest: Path, shifts: Sequence[str]) -> pd.DataFrame:
    """Mend a network for each synthetic shift of the test cases."""
    net, cases = ss.load_net(run), test_cases(manifest, 2, 256)
    parts = [mended(net, cases, shifted(cases, s), ("background", "cell")) for s in shifts]
    return pd.concat(parts, ignore_index=True).assign(run=run.name)


def mended_for_domain(
    run: Path, manifest: Path, domains: tuple[str, str], classes: Sequence[str], crop: int
) -> pd.DataFrame:
    """Mend a network of the first domain for the second."""
    cases = test_cases(manifest, len(classes), crop)
    home, away = ([case for case in cases if case.domain == domain] for domain in domains)
    return mended(ss.load_net(run), home, away, classes).assign(run=run.name)


def mended(
    net: nn.Module, home: Sequence[Case], away: Sequence[Case], classes: Sequence[str]
) -> pd.DataFrame:
    """Mend a network without masks, and count on images that nothing was fitted on.

    Half of the shifted groups are shown to the search, beside groups of the source domain that are
    not among them, and what it recommends is judged on the other half. Where nothing is recommended
    the network is judged as it is.

    Returns
    -------
    Counts of each shifted case that was judged, and what was ``recommended``, empty if nothing.
    """
    names = np.random.default_rng(0).permutation(sorted({case.group for case in away}))
    seen = set(names[::2])
    # the same images of both domains would tell more than a user has
    own = [case for case in home if case.group not in seen] or list(home)
    reference, groups = arrays(cropped(own))
    images, labels = arrays(cropped([case for case in away if case.group in seen]))
    found = ss.remedy(net, reference, images, None, (groups, labels), SEARCHED)
    cured = net if found.best is None else found.network()
    rest = [case for case in away if case.group not in seen]
    counts = evaluate(cured, rest, classes, EvaluationSpec(precision="fp32"))
    return counts.assign(recommended="" if found.best is None else "@".join(found.best))


def subsets(run: Path, manifest: Path) -> pd.DataFrame:
    """Counts of every set of skips of one network, by the decoder's statistics.

    On half of the test cases; statistics are recomputed on the first 64 training images.
    """
    net = ss.load_net(run)
    assert isinstance(net, Unet)
    rows = read_manifest(manifest)
    training = list(read_cases(rows[rows["split"] == "train"].head(64), 2, 128))
    cases = test_cases(manifest, 2, 256)[::2]
    spec = EvaluationSpec(shifts=tuple(paper_shifts()), precision="auto")
    parts = []
    for variant in all_variants():
        own = net.with_skips(skips_of(variant)).eval()
        for statistics in ("as trained", "recomputed"):
            judged = own if statistics == "as trained" else recomputed(own, training)
            counts = evaluate(judged, cases, ("background", "cell"), spec)
            parts.append(counts.assign(variant=variant, statistics=statistics))
    return pd.concat(parts, ignore_index=True).assign(run=run.name)


def recomputed(net: Unet, training: Sequence[Case]) -> Unet:
    """Copy a network, the decoder's batch-norm statistics taken from training images."""
    net = copy.deepcopy(net)
    norms = [m for m in net.decoder.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        # None: the plain mean over all batches
        norm.momentum = None
        norm.train()
    images, _ = arrays(training)
    with torch.no_grad():
        for first in range(0, len(images), 8):
            net(torch.from_numpy(images[first : first + 8]).float() / 255)
    return net.eval()
