import numpy as np
import pandas as pd
import pytest

from skipshift.statistics.counts import dice, iou
from skipshift.statistics.scores import MEAN, estimates, pooled_iou


def table(counts, run="a", variant="baseline"):
    rows = [("original", f"c{i}", f"g{i // 2}", "cell", *c) for i, c in enumerate(counts)]
    frame = pd.DataFrame(rows, columns=["domain", "case", "group", "class", "tp", "fp", "fn"])
    return frame.assign(run=run, encoder="resnet18", variant=variant)


def test_iou_is_pooled_over_cases_then_averaged_over_runs():
    cases = pd.concat([table([(8, 1, 1), (0, 5, 5)]), table([(6, 2, 2), (0, 0, 0)], "b")])
    row = pooled_iou(estimates(cases)).iloc[0]
    assert row["iou"] == pytest.approx((8 / 20 + 6 / 10) / 2)
    assert row["cases"] == 2


def test_groups_that_are_alike_leave_no_spread():
    row = pooled_iou(estimates(table([(8, 1, 1)] * 10))).iloc[0]
    assert (row["low"], row["iou"], row["high"]) == pytest.approx((0.8, 0.8, 0.8))


def test_the_interval_covers_the_truth_about_95_times_in_100(rng):
    studies = []
    for study in range(300):
        hits = rng.binomial(50, rng.beta(14, 6, 40))  # cases differ in how hard they are
        studies.append(table([(h, 50 - h, 0) for h in hits]).assign(domain=str(study)))
    cases = pd.concat(studies)
    out = pooled_iou(estimates(cases.assign(group=cases["case"])))
    covered = (out["low"] <= 0.7) & (out["high"] >= 0.7)
    assert 0.91 <= covered.mean() <= 0.98


def test_variants_and_domains_keep_their_order_of_appearance():
    pruned = table([(1, 1, 1)], "b", "L1-pruned")
    cases = pd.concat([pruned, table([(1, 1, 1)]), pruned.assign(domain="brightness:0.5")])
    out = pooled_iou(estimates(cases, 10))
    assert out["variant"].tolist() == ["L1-pruned", "baseline", "L1-pruned"]
    assert out["domain"].tolist() == ["original", "original", "brightness:0.5"]


def test_the_means_of_cases_are_means_of_what_has_a_score():
    counts = np.array([(8, 1, 1), (0, 0, 0), (0, 3, 0), (5, 5, 2)])
    out = estimates(table([tuple(c) for c in counts]), 10).set_index("metric")["value"]
    assert out["case_iou"] == pytest.approx(np.nanmean(iou(counts)))
    assert out["case_dice"] == pytest.approx(np.nanmean(dice(counts)))
    assert out["case_iou"] == pytest.approx((0.8 + 0 + 5 / 12) / 3)


def test_the_interval_is_that_of_a_plain_bootstrap_over_groups(rng):
    counts = rng.integers(0, 60, (30, 3)) + np.array([60, 0, 0])
    cases = table(counts)
    row = estimates(cases, 4000).query("metric == 'case_dice'").iloc[0]
    scores = dice(counts)
    draws = []
    for _ in range(4000):
        groups = rng.integers(0, 15, 15)
        draws.append(scores[np.r_[2 * groups, 2 * groups + 1]].mean())
    tail = 0.0132  # that of 15 groups, as t has it
    expected = np.quantile(draws, [tail, 1 - tail])
    assert [row["low"], row["high"]] == pytest.approx(expected, abs=5e-3)


def test_several_foreground_classes_have_a_mean_with_an_interval(rng):
    counts = rng.integers(1, 60, (20, 3))
    names = ("background", "LV", "RV")
    cases = pd.concat([table(counts + 9 * i).assign(**{"class": n}) for i, n in enumerate(names)])
    out = pooled_iou(estimates(cases)).set_index("class")
    assert out.index.tolist() == [*names, MEAN]
    assert out["iou"][MEAN] == pytest.approx(out["iou"][["LV", "RV"]].mean())
    assert out["low"][MEAN] < out["iou"][MEAN] < out["high"][MEAN]


def test_the_order_of_the_rows_is_irrelevant(rng):
    cases = pd.concat([table(rng.integers(0, 60, (20, 3)), run) for run in ("a", "b")])
    shuffled = cases.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(estimates(cases), estimates(shuffled), check_exact=True)


def test_a_case_in_two_halves_of_one_group_scores_the_same_when_pooled():
    whole, parts = table([(8, 2, 4)] * 6), table([(4, 1, 2)] * 12)
    parts = parts.assign(group=np.repeat([f"g{i // 2}" for i in range(6)], 2))
    columns = ["iou", "low", "high"]
    expected, out = (pooled_iou(estimates(cases, 50))[columns] for cases in (whole, parts))
    pd.testing.assert_frame_equal(out, expected)


def test_one_group_has_a_score_and_no_interval():
    row = estimates(table([(8, 1, 1)]), 10).iloc[0]
    assert row["value"] == pytest.approx(0.8)
    assert np.isnan([row["low"], row["high"]]).all()


def test_runs_without_a_network_must_be_named_after_one():
    cases = table([(8, 1, 1)]).drop(columns=["encoder", "variant"])
    with pytest.raises(ValueError, match=r"named ENCODER\.VARIANT\.foldF\.seedS, got 'a'"):
        estimates(cases)
