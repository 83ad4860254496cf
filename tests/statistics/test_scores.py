import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit, logit

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
    out = pooled_iou(estimates(cases))
    assert out["variant"].tolist() == ["L1-pruned", "baseline", "L1-pruned"]
    assert out["domain"].tolist() == ["original", "original", "brightness:0.5"]


def test_a_case_counts_by_its_reference_alone_and_empty_ones_are_reported_apart():
    counts = [(8, 1, 1), (0, 0, 0), (0, 3, 0), (5, 5, 2), (0, 0, 4)]
    out = estimates(table(counts)).set_index("metric")["value"]
    assert out["case_iou"] == pytest.approx((0.8 + 5 / 12 + 0) / 3)
    assert out["case_dice"] == pytest.approx((16 / 18 + 10 / 17 + 0) / 3)
    assert out["empty_alarm"] == pytest.approx(1 / 2)
    assert out["empty_pixels"] == pytest.approx(3 / 2)


def test_false_positives_in_empty_cases_leave_the_means_over_cases_alone():
    right = table([(80, 10, 10)] * 6 + [(0, 0, 0)] * 6)
    wrong = table([(80, 10, 10)] * 6 + [(0, 5, 0)] * 6)
    a, b = (estimates(each).set_index("metric")["value"] for each in (right, wrong))
    assert a[["case_iou", "case_dice"]].equals(b[["case_iou", "case_dice"]])
    assert (a["empty_alarm"], b["empty_alarm"]) == (0, 1)


def test_the_interval_is_that_of_t_over_groups_on_the_scale_of_the_logit(rng):
    counts = rng.integers(0, 60, (15, 3)) + np.array([60, 0, 0])
    cases = table(counts)
    row = estimates(cases.assign(group=cases["case"])).query("metric == 'case_dice'").iloc[0]
    scores = dice(counts)
    width = stats.t.ppf(0.975, 14) * stats.sem(scores) / (scores.mean() * (1 - scores.mean()))
    expected = expit(logit(scores.mean()) + np.array([-width, width]))
    assert [row["low"], row["high"]] == pytest.approx(list(expected))


def test_several_runs_bring_the_spread_between_trainings(rng):
    counts = rng.integers(0, 60, (15, 3)) + np.array([60, 0, 0])
    runs = [table(counts + np.array([0, 0, 9 * i]), f"run{i}") for i in range(3)]
    one, three = (estimates(pd.concat(runs[:n])).iloc[0] for n in (1, 3))
    assert np.isnan(one["spread_runs"])
    each = [iou((counts + np.array([0, 0, 9 * i])).sum(0)) for i in range(3)]
    assert three["spread_runs"] == pytest.approx(np.std(each, ddof=1), rel=0.05)
    assert three["high"] - three["low"] > one["high"] - one["low"]


def test_the_constant_predictions_are_rows_of_their_own():
    cell = table([(20, 5, 10), (0, 4, 0)])
    ground = table([(65, 10, 5), (96, 0, 4)]).assign(**{"class": "background"})
    out = estimates(pd.concat([ground, cell])).query("encoder == 'constant' and `class` == 'cell'")
    value = out.set_index(["variant", "metric"])["value"]
    assert value["all-cell", "iou"] == pytest.approx(30 / 200)
    assert value["all-cell", "case_iou"] == pytest.approx(30 / 100)
    assert value["all-cell", "empty_alarm"] == 1
    assert value["all-cell", "empty_pixels"] == 100
    assert value["all-background", "iou"] == 0


def test_runs_on_other_masks_are_refused():
    cell, ground = table([(20, 5, 10)]), table([(65, 10, 5)]).assign(**{"class": "background"})
    other = table([(21, 5, 10)], "b")
    with pytest.raises(ValueError, match="c0 of original does not have as many pixels of cell"):
        estimates(pd.concat([ground, cell, other]))


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
    expected, out = (pooled_iou(estimates(cases))[columns] for cases in (whole, parts))
    pd.testing.assert_frame_equal(out, expected)


def test_one_group_has_a_score_and_no_interval():
    row = estimates(table([(8, 1, 1)])).iloc[0]
    assert row["value"] == pytest.approx(0.8)
    assert np.isnan([row["low"], row["high"]]).all()


def test_runs_without_a_network_must_be_named_after_one():
    cases = table([(8, 1, 1)]).drop(columns=["encoder", "variant"])
    with pytest.raises(ValueError, match=r"named ENCODER\.VARIANT\.foldF\.seedS, got 'a'"):
        estimates(cases)
