import copy

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import jaccard_score
from torch import nn

import skipshift as ss
from skipshift.errors import ArgumentError, SkipshiftError
from skipshift.estimate.calibration_shifts import KINDS, Shift, calibration_shifts
from skipshift.estimate.estimating import Calibration, Estimate, Meta, _part, excess
from skipshift.estimate.measuring import Measured, Peer, log_odds, measure
from skipshift.names import AGREEMENT
from skipshift.networks.as_found import evaluating
from skipshift.networks.outputs import Output
from skipshift.patching.labelled import labelled
from skipshift.statistics.confidence import (
    BINS,
    WIDTH,
    Confidence,
    histograms,
    stacked,
    true_counts,
)
from skipshift.statistics.counts import iou
from skipshift.statistics.estimates import METHODS
from toy_unet import labels, toy_images, toy_net

QUICK = {"splits": 1}


@pytest.fixture
def home():
    return toy_images()


@pytest.fixture
def net(home):
    return toy_net(torch.from_numpy(home).float() / 255)


@pytest.fixture
def spec():
    return ss.EstimateSpec(**QUICK)


def drawn(rng, shift, groups=8, pixels=4000):
    """Histograms of groups whose log-odds are too sure by a factor, and their features."""
    masks = rng.random((groups, pixels)) < 0.3
    odds = rng.normal(np.where(masks, 2, -2), 2) * (1 + shift)
    bins = np.clip(np.floor(np.stack([-odds, odds], 1) / WIDTH) + BINS // 2, 0, BINS - 1)
    counts = histograms(bins.astype(np.uint8), (odds > 0).astype(np.uint8), masks.astype(np.uint8))
    features = {"d1": rng.normal(shift, 0.3, (groups, 16, 3)).astype(np.float32)}
    names = np.array([f"{shift}-{rng.random()}-{index}" for index in range(groups)])
    return Measured(Confidence(counts), features, np.arange(groups), np.sort(names), 0, 1, 3)


def planted(net, rng):
    """Calibrate on kinds of shift under which confidence grows with the features' distance."""
    home, metas = drawn(rng, 0.0), []
    for kind, own in KINDS.items():
        for _ in own.amounts:
            away = drawn(rng, rng.uniform(0, 1))
            metas.append(Meta(kind, own.family, 0, away.confidence.total(), excess(home, away)))
    homes = stacked([home.confidence.total()])
    return Calibration(net, {}, Output(), home, homes, tuple(metas), ss.EstimateSpec())


def test_overconfidence_that_grows_with_the_distance_is_corrected(net, rng):
    calibration = planted(net, rng)
    for shift in (0.2, 0.8):
        away = drawn(rng, shift)
        found = calibration.estimate(away, ("background", "cell"))
        truth = iou(true_counts(away.confidence.counts.sum(0)))
        assert list(found.table) == ["class", "iou", "low", "high", "method", "answered"]
        assert found.table["answered"].all()
        assert found.table["iou"].to_numpy() == pytest.approx(truth, abs=0.03)
        assert (found.table["low"] <= truth).all()
        assert (truth <= found.table["high"]).all()
        assert found.verdict().startswith("The IoU of cell is estimated at 0.")
    with pytest.raises(ArgumentError, match="classes must be 2 names, got 1"):
        calibration.estimate(away, ("cell",))


def test_fewer_kinds_of_shift_than_the_level_needs_are_not_enough(net, rng):
    calibration = planted(net, rng)
    for family in ("level", "contrast"):
        calibration = calibration.without(family)
    assert set(calibration.estimate(drawn(rng, 0.2)).reasons) == {"wide"}


def peer_of(net, by=0.3):
    """Make a network that differs from another in its threshold alone."""
    peer = copy.deepcopy(net)
    with torch.no_grad():
        peer.head.bias[1] += by
    return peer


def test_agreement_is_counted_in_the_same_pass_group_by_group(net, home):
    groups, peers = np.arange(12) % 5, [copy.deepcopy(net), peer_of(net)]
    data = labelled("reference", home, labels(net, home), groups, False)
    with evaluating(net):
        plain = measure(net, data, {}, 5)
        seen = measure(net, data, {}, 5, peers=[Peer(one, Output()) for one in peers])
    np.testing.assert_array_equal(seen.confidence.counts, plain.confidence.counts)
    assert seen.confidence.agreed.shape == (5, 2, 2, 3)
    found = METHODS[AGREEMENT](seen.confidence)(seen.confidence)
    mine, *theirs = (labels(one, home) for one in (net, *peers))
    for group in range(5):
        own = groups == group
        each = [jaccard_score(one[own].ravel(), mine[own].ravel(), average=None) for one in theirs]
        assert each[0].tolist() == [1, 1]
        assert each[1].min() < 0.99
        # a pixel on the edge may fall either way in another batch
        assert found[group] == pytest.approx(np.mean(each, 0), abs=1e-3)


def test_agreement_is_one_method_of_several_and_no_peers_change_nothing(net, home, spec):
    away, truth = toy_images(seed=1), labels(net, home)
    plain = ss.estimate(net, home, truth, away, spec=spec)
    beside = ss.estimate(net, home, truth, away, spec=spec, peers=[peer_of(net)])
    other = ss.EstimateSpec(method="temperature", **QUICK)
    same = [ss.estimate(net, home, truth, away, spec=other, peers=peers).table
            for peers in ([], [peer_of(net)])]  # fmt: skip
    assert same[0].equals(same[1])
    assert AGREEMENT not in set(plain.table["method"])
    one = ss.EstimateSpec(method=AGREEMENT, **QUICK)
    found = ss.estimate(net, home, truth, away, spec=one, peers=[peer_of(net)])
    assert set(found.table["method"]) == {AGREEMENT}
    assert set(beside.table["method"]) <= set(METHODS)


def test_wrong_peers_are_refused(net, home, spec):
    grey, three = peer_of(net), peer_of(net)
    grey.first, three.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(6, 3, 1)
    for peers, message in (
        ([net], r"peers\[0\] is the network itself"),
        ([peer_of(net), three], r"peers\[1\] must have the 2 classes of the network, got 3"),
        ([grey], r"peers\[0\] must take the input of the network: .*\(8, 3, 32, 32\)"),
    ):
        with pytest.raises(ArgumentError, match=message):
            ss.estimate(net, home, labels(net, home), home, spec=spec, peers=peers)
    alone = ss.EstimateSpec(method=AGREEMENT)
    with pytest.raises(ArgumentError, match="method agreement needs peers"):
        ss.estimate(net, home, labels(net, home), home, spec=alone)


def test_images_like_no_calibration_shift_are_not_answered(net, home, spec):
    away = np.random.default_rng(0).normal(40, 30, (8, 3, 32, 32)).astype(np.float32)
    found = ss.estimate(net, home, labels(net, home), away, spec=spec)
    silent = found.table[~found.table["answered"]]
    assert len(silent) > 0
    assert silent[["iou", "low", "high"]].isna().all(axis=None)
    assert "cannot be said" in found.verdict()


def test_a_class_that_the_reference_lacks_is_not_answered(home, spec):
    net = toy_net(torch.from_numpy(home).float() / 255)
    wide = nn.Conv2d(6, 3, 1)
    with torch.no_grad():
        wide.weight[:2], wide.bias[:2] = net.head.weight, net.head.bias
        wide.weight[2], wide.bias[2] = 0, -9
    truth, net.head = labels(net, home), wide
    found = ss.estimate(net, home, truth, toy_images(seed=1), spec=spec)
    assert not found.table["answered"][2]
    assert found.reasons[2] == "absent"
    assert "The IoU of class 2 cannot be said: no mask of the reference has it." in found.verdict()


def test_few_groups_of_the_reference_are_not_enough(net, home, spec):
    found = ss.estimate(net, home[:5], labels(net, home[:5]), home[5:], spec=spec)
    assert not found.table["answered"].any()
    assert set(found.reasons) == {"groups"}


def test_one_image_is_answered_or_not_without_an_error(net, home, spec):
    found = ss.estimate(net, home, labels(net, home), home[:1], spec=spec)
    assert found.table["answered"].dtype == bool
    one = ss.estimate(net, home[:1], labels(net, home[:1]), home[1:], spec=spec)
    assert not one.table["answered"].any()


def test_logits_that_are_probabilities_give_the_same_shares(net, home):
    away, truth = toy_images(seed=1), labels(net, home)
    shares = ss.prevalence(net, home, truth, away)
    soft = nn.Sequential(net, nn.Softmax(1))
    same = ss.prevalence(soft, home, truth, away)
    np.testing.assert_allclose(same["share"], shares["share"], atol=1e-3)


def test_the_network_is_left_as_it_was(net, home, spec):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    ss.estimate(
        net, home, labels(toy_net(torch.from_numpy(home).float() / 255), home), home, spec=spec
    )
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (None, "masks must be those of the reference"),
        (np.full((12, 32, 32), 255, np.uint8) * np.eye(32, dtype=np.uint8), "hold 0 and 255"),
        (np.full((12, 32, 32), 7, np.uint8), "hold class 7, and the network has 2 classes"),
        (np.zeros((12, 16, 16), np.uint8), "must have the size of its images"),
    ],
)
def test_wrong_masks_are_refused(net, home, spec, masks, message):
    with pytest.raises(ArgumentError, match=message):
        ss.estimate(net, home, masks, home, spec=spec)


def test_nan_in_an_image_is_refused(net, home, spec):
    away = home.astype(np.float32)
    away[3, 0, 0, 0] = np.nan
    with pytest.raises(ArgumentError, match="images of the shifted hold NaN"):
        ss.estimate(net, home, labels(net, home), away, spec=spec)


def test_an_unknown_method_is_refused():
    with pytest.raises(ArgumentError, match="method must be one of best, average confidence"):
        ss.EstimateSpec(method="guess")


@pytest.mark.parametrize("channels", [1, 3])
def test_calibration_shifts_keep_shape_and_range(channels):
    images = torch.rand(2, channels, 32, 32) * 5 - 2
    for shift in calibration_shifts(-2, 3, channels):
        changed = shift.images(images)
        assert changed.shape == images.shape
        assert changed.min() >= -2
        assert changed.max() <= 3.00001


def test_masks_move_as_images_do():
    images = torch.zeros(1, 1, 32, 32)
    images[:, :, 8:24, 10:20] = 1
    masks = images[:, 0].numpy().astype(np.uint8)
    for name in (name for name, kind in KINDS.items() if kind.moves):
        shift = Shift(name, KINDS[name].amounts[1], 0, 1)
        moved = shift.images(images)[:, 0].numpy() > 0.5
        assert (moved == shift.masks(masks)).mean() > 0.97


def test_log_odds_are_those_of_the_softmax():
    logits = torch.randn(2, 4, 3, 3)
    chances = logits.softmax(1)
    assert torch.allclose(log_odds(logits), chances.logit(), atol=1e-4)
    one = torch.randn(2, 1, 3, 3)
    assert torch.allclose(log_odds(one)[:, 1:], one)


def test_shares_add_up_to_one_and_are_near_those_of_the_masks(net, home):
    away = toy_images(seed=1)
    found = ss.prevalence(net, home, labels(net, home), away)
    assert list(found) == ["class", "share", "low", "high"]
    assert found["share"].sum() == pytest.approx(1)
    assert found["share"][1] == pytest.approx(labels(net, away).mean(), abs=0.05)


def test_images_planted_among_those_of_the_reference_are_found(net):
    home, away = toy_images(60), toy_images(50, seed=1)
    away[:5] = 255 - away[:5] // 3
    fingerprint = ss.fingerprint(net, home)
    found = ss.score(net, fingerprint, away)
    assert list(found) == ["case", "p", "layer", "iou"]
    assert found["p"].between(0, 1, inclusive="right").all()
    assert set(found["p"].nsmallest(5).index) == set(range(5))
    assert (found["p"][5:] <= 0.05).mean() <= 0.15


def test_a_fingerprint_on_disk_scores_alike(net, home, tmp_path):
    fingerprint = ss.fingerprint(net, home)
    for name in ("a.npz", "a.json"):
        fingerprint.save(tmp_path / name)
        loaded = ss.Fingerprint.load(tmp_path / name)
        assert ss.score(net, loaded, home[:3]).equals(ss.score(net, loaded, home[:3]))
        np.testing.assert_allclose(loaded.alone, fingerprint.alone, rtol=1e-6)


def test_a_fingerprint_of_another_network_or_without_scores_is_refused(net, home):
    fingerprint = ss.fingerprint(net, home)
    other = toy_net(torch.rand(4, 3, 32, 32))
    with pytest.raises(SkipshiftError, match="fingerprint is of another network"):
        ss.score(other, fingerprint, home)
    with pytest.raises(ArgumentError, match="images cannot be scored against this fingerprint"):
        ss.score(net, fingerprint.merge(ss.fingerprint(net, home // 2, fingerprint)), home)
    with pytest.raises(ArgumentError, match="images must be 3 x 32 x 32"):
        ss.score(net, fingerprint, home[:, :, :16])


def test_of_each_image_only_pooled_features_are_kept(net):
    layers, kept = {"d1": "join"}, []
    for number in (4, 16):
        groups = np.arange(number) % 4
        data = labelled("shifted", toy_images(number), None, groups, False)
        with evaluating(net):
            seen = measure(net, data, layers, 8)
        assert seen.confidence.counts.shape == (4, 2, 2, 2, BINS)
        kept.append(sum(part.nbytes for part in (seen.groups, *seen.features.values())) / number)
    assert kept[0] == kept[1]
    logits = 4 * 2 * 32 * 32
    assert kept[0] < logits / 50


def test_groups_of_a_rare_class_are_given_shifts():
    masks = np.zeros((30, 4, 4), np.uint8)
    masks[::4, 0, 0] = 1
    data = labelled("reference", np.zeros((30, 3, 4, 4), np.uint8), masks, None, False)
    part = _part(data, ss.EstimateSpec(images=8))
    assert masks[part].any((1, 2)).sum() >= 6
    assert part.sum() < 16


def test_a_notebook_shows_the_verdict_and_names_of_classes_as_text():
    table = pd.DataFrame(
        [("b", 0.9, 0.8, 1.0, "atc", True), ("<i>", 0.5, 0.4, 0.6, "atc", True)],
        columns=["class", "iou", "low", "high", "method", "answered"],
    )
    shown = Estimate(table, ("", ""), np.array([0.9, 0.7]), 0.1, 3)._repr_html_()
    assert "<p>The IoU of &lt;i&gt; is estimated at 0.50" in shown
    assert "<i>" not in shown
