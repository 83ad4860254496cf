import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from skipshift.names import AGREEMENT
from skipshift.statistics.confidence import (
    BINS,
    WIDTH,
    Confidence,
    agreement,
    histograms,
    true_counts,
)
from skipshift.statistics.corrected import Known, conformal_quantile, correction
from skipshift.statistics.counts import iou
from skipshift.statistics.estimates import METHODS
from skipshift.statistics.oddness import oddness
from skipshift.statistics.quantification import class_shares, share_intervals


def drawn(rng, pixels=200_000, images=1, share=0.3, apart=2.0):
    """Log-odds of two classes that are calibrated, the classes of the pixels, their histograms."""
    masks = rng.random((images, pixels)) < share
    # log-likelihood ratio of two normal distributions, and the prior odds
    scores = rng.normal(np.where(masks, apart**2 / 2, -(apart**2) / 2), apart)
    odds = scores + np.log(share / (1 - share))
    bins = np.floor(np.stack([-odds, odds], 1) / WIDTH) + BINS // 2
    bins = np.clip(bins, 0, BINS - 1).astype(np.uint8)
    predictions = (odds > 0).astype(np.uint8)
    return odds, masks, histograms(bins, predictions, masks.astype(np.uint8))


FITTED = [name for name in METHODS if name not in ("average confidence", AGREEMENT)]


def of_itself(method, counts):
    return METHODS[method](Confidence(counts))(Confidence(counts))


def test_histograms_count_what_masks_and_predictions_count(rng):
    odds, masks, found = drawn(rng, 1000)
    both, either = ((odds > 0) & masks).sum(), ((odds > 0) | masks).sum()
    assert found.sum() == 2 * 1000
    assert iou(true_counts(found))[0, 1] == pytest.approx(both / either)


def test_ignored_pixels_are_in_no_histogram():
    bins, labels = np.zeros((1, 2, 4), np.uint8), np.zeros((1, 4), np.uint8)
    masks = np.array([[0, 255, 1, 255]], np.uint8)
    assert histograms(bins, labels, masks, 255).sum((0, 2, 3, 4)).tolist() == [2, 2]


def test_average_confidence_is_the_iou_of_expected_counts(rng):
    odds, _, found = drawn(rng)
    chance, predicted = 1 / (1 + np.exp(-odds)), odds > 0
    hit = chance[predicted].sum()
    expected = hit / (predicted.sum() + chance[~predicted].sum())
    estimated = of_itself("average confidence", found[0])
    assert estimated[1] == pytest.approx(expected, abs=0.002)


def test_average_confidence_is_right_where_confidence_is_calibrated(rng):
    _, _, found = drawn(rng)
    estimated = of_itself("average confidence", found[0])
    assert estimated == pytest.approx(iou(true_counts(found[0])), abs=0.01)


@pytest.mark.parametrize("method", FITTED)
def test_a_fitted_method_gives_the_iou_of_the_set_that_it_was_fitted_on(method, rng):
    _, _, found = drawn(rng, apart=1.5)
    # a threshold is that of a bin
    assert of_itself(method, found[0]) == pytest.approx(
        iou(true_counts(found[0])), abs=0.05 if method == "threshold" else 0.01
    )


def test_agreement_is_the_mean_jaccard_index_with_the_peers(rng):
    ours, *theirs = rng.integers(0, 3, (3, 5, 4, 6)).astype(np.uint8)
    masks = rng.integers(0, 3, ours.shape).astype(np.uint8)
    theirs.append(ours.copy())
    counts = np.stack([agreement(ours, one, 4, masks, 2) for one in theirs], 1)
    found = METHODS[AGREEMENT](None)(Confidence(None, counts.sum(0)))
    kept = masks != 2
    each = [jaccard_score(one[kept], ours[kept], average=None) for one in theirs]
    assert each[-1].tolist() == [1, 1, 1]
    assert found[:3] == pytest.approx(np.mean(each, 0))
    assert np.isnan(found[3])  # neither network predicts it


def test_estimates_do_not_read_masks(rng):
    _, _, found = drawn(rng)
    blind = np.zeros_like(found)
    blind[:, :, :, 0] = found.sum(3)
    for method in (*FITTED, "average confidence"):
        estimate = METHODS[method](Confidence(found[0]))
        np.testing.assert_array_equal(estimate(Confidence(found)), estimate(Confidence(blind)))


def test_the_conformal_quantile_of_equal_weights_is_an_order_statistic(rng):
    scores = rng.random(39)
    assert conformal_quantile(scores, np.ones(39)) == np.sort(scores)[37]
    assert conformal_quantile(scores[:18], np.ones(18)) == np.inf


def planted(rng, kinds=40):
    """Sets whose error is a smooth function of one trait, and noise."""
    traits = rng.uniform(0, 1, (kinds, 2))
    errors = np.sin(3 * traits[:, 0]) + rng.normal(0, 0.05, kinds)
    labels = np.array([f"kind {index}" for index in range(kinds)])
    return Known(traits, errors, labels, labels)


def test_a_correction_predicts_errors_from_traits(rng):
    mean, half, alike = correction(planted(rng))(np.array([[0.1, 0.5], [0.5, 0.5]]))
    assert mean == pytest.approx(np.sin([0.3, 1.5]), abs=0.2)
    assert (half > 0).all()
    assert alike.all()


def test_a_correction_covers_new_kinds():
    covered = []
    for seed in range(150):
        known = planted(np.random.default_rng(seed), 41)
        rest = Known(*(part[1:] for part in (known.traits, known.errors, known.kinds, known.kinds)))
        mean, half, _ = correction(rest)(known.traits[:1])
        covered.append(abs(known.errors[0] - mean[0]) <= half[0])
    assert np.mean(covered) >= 0.9  # 0.95 less three standard errors of 150 draws


def test_a_set_beyond_the_known_ones_is_unlike_them(rng):
    _, _, alike = correction(planted(rng))(np.array([[4.0, 0.5]]))
    assert not alike[0]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_shares_of_a_set_of_known_prevalence_are_found(share, rng):
    _, _, home = drawn(rng, apart=1.5)
    _, truth, _ = drawn(rng, share=share)
    # pixels of both classes as they are in the reference, in other numbers
    inside, outside = (home[0, 1].sum(0)[kind] for kind in (1, 0))
    counts = [rng.multinomial(n, part / part.sum()) for n, part in
              ((truth.sum(), inside), ((~truth).sum(), outside))]  # fmt: skip
    away = np.zeros_like(home[0])
    away[1, 0, 0], away[0, 0, 0] = sum(counts), sum(counts)[::-1]
    found = class_shares(home[0], away)
    assert found.sum() == pytest.approx(1)
    assert found[1] == pytest.approx(truth.mean(), abs=0.02)


def test_the_interval_of_a_share_covers_it():
    covered = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        _, _, home = drawn(rng, 300, images=10)
        _, _, away = drawn(rng, 300, images=10)
        _, low, high = share_intervals(Confidence(home), Confidence(away))
        covered.append(low[1] <= 0.3 <= high[1])
    assert np.mean(covered) >= 0.87  # 0.95 less three standard errors of 60 draws


def test_a_single_group_has_a_share_and_no_interval(rng):
    _, _, found = drawn(rng)
    one = Confidence(found)
    share, low, high = share_intervals(one, one)
    assert share.sum() == pytest.approx(1)
    assert np.isnan([low, high]).all()


def test_five_of_a_hundred_ordinary_observations_are_called_odd():
    alarms = []
    for seed in range(40):
        every = np.random.default_rng(seed).lognormal(size=(80, 4))
        alarms.append((oddness(every[:60], every[60:])[0] <= 0.05).mean())
    assert np.mean(alarms) <= 0.07
    assert np.mean(alarms) >= 0.03


def test_an_outlier_has_the_least_p_and_names_its_trait(rng):
    p, place = oddness(rng.normal(size=(50, 4)), np.array([[0, 0, 9.0, 0]]))
    assert p.tolist() == [pytest.approx(1 / 51)]
    assert place.tolist() == [2]
