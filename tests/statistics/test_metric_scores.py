import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from skipshift.statistics.metric_scores import metric_scores, tail
from skipshift.statistics.metrics import Segmented, measure_case
from skipshift.statistics.scores import estimates

CLASSES = ("ground", "cell")
METRICS = ("iou", "dice", "group_dice", "volume_bias", "brier", "ece", "entropy")


def drawn(rng, count, groups, run="net"):
    """Tables of random cases: the rows of metrics.parquet, of cases.parquet, and the cases."""
    metrics, counts, cases = [], [], []
    for index in range(count):
        mask = (rng.random((16, 16)) < rng.uniform(0.1, 0.5)).astype(np.uint8)
        logits = torch.from_numpy(rng.normal(0, 1, (2, 16, 16)).astype(np.float32))
        soft = (logits + 2 * torch.from_numpy(np.stack([mask == 0, mask == 1]))).softmax(0).numpy()
        case = Segmented(mask, soft.argmax(0).astype(np.uint8), 2, soft)
        about = (run, "A", f"case-{index}", f"group-{index % groups}")
        metrics += [(*about, *row) for row in measure_case(case, METRICS, CLASSES)]
        counts += [(*about, name, *row) for name, row in zip(CLASSES, case.counts, strict=True)]
        cases.append(case)
    keys = ["run", "domain", "case", "group", "class"]
    measured = [*keys, "metric", "present", "part", "numerator", "denominator"]
    net = {"encoder": "resnet18", "variant": "baseline"}
    return (
        pd.DataFrame(metrics, columns=measured).assign(**net),
        pd.DataFrame(counts, columns=[*keys, "tp", "fp", "fn"]).assign(**net),
        cases,
    )


def rows_of(table):
    return table.set_index(["metric", "class"])


def test_the_pooled_iou_and_its_interval_are_those_of_the_scores():
    metrics, counts, _ = drawn(np.random.default_rng(0), 12, 6)
    ours = rows_of(metric_scores(metrics)).loc[("iou", "cell")]
    theirs = rows_of(estimates(counts).query("encoder == 'resnet18'"))
    for name in ("value", "low", "high"):
        assert ours[name] == pytest.approx(theirs.loc[("iou", "cell"), name], abs=1e-12)
    assert ours["low"] < ours["value"] < ours["high"]
    assert ours["mean"] == pytest.approx(theirs.loc[("case_iou", "cell"), "value"])


def test_the_calibration_error_of_all_cases_is_that_of_all_pixels():
    metrics, _, cases = drawn(np.random.default_rng(1), 8, 4)
    soft = np.concatenate([case.probabilities.reshape(2, -1) for case in cases], 1).T
    truth = np.concatenate([case.mask.ravel() for case in cases]).astype(int)
    theirs = multiclass_calibration_error(torch.from_numpy(soft), torch.from_numpy(truth), 2, 15)
    ours = rows_of(metric_scores(metrics)).loc[("ece", "all")]
    assert ours["value"] == pytest.approx(float(theirs), abs=1e-6)
    assert ours["mean"] > ours["value"]  # gaps of single cases do not cancel out


def test_the_dice_of_groups_is_a_mean_of_ratios_of_their_sums():
    metrics, counts, _ = drawn(np.random.default_rng(2), 9, 3)
    cells = counts[counts["class"] == "cell"]
    sums = cells.groupby("group")[["tp", "fp", "fn"]].sum()
    each = 2 * sums["tp"] / (2 * sums["tp"] + sums["fp"] + sums["fn"])
    ours = rows_of(metric_scores(metrics)).loc[("group_dice", "cell")]
    assert ours["value"] == pytest.approx(each.mean())
    assert ours["worst"] == pytest.approx(each.min())
    assert ours["low"] < ours["value"] < ours["high"]
    assert ours["groups"] == 3
    alone = metrics[metrics["group"] == "group-0"]
    assert np.isnan(rows_of(metric_scores(alone)).loc[("group_dice", "cell"), "low"])


def test_worst_and_percentile_leave_out_cases_without_the_class_whatever_was_predicted():
    metrics, _, _ = drawn(np.random.default_rng(3), 40, 8)
    empty = metrics["case"] == "case-0"
    cell = empty & (metrics["class"] == "cell")
    metrics.loc[cell, "present"] = False
    metrics.loc[cell, "numerator"] = 0.0
    for denominator in (0.0, 50.0):  # nothing predicted, and something
        metrics.loc[cell, "denominator"] = denominator
        row = rows_of(metric_scores(metrics)).loc[("iou", "cell")]
        kept = metrics[~empty & (metrics["metric"] == "iou") & (metrics["class"] == "cell")]
        values = kept["numerator"] / kept["denominator"]
        assert row["worst"] == values.min()
        assert row["p5"] == np.quantile(values, 0.05, method="lower")
        assert (row["present"], row["cases"]) == (39, 40)


def test_the_worst_is_the_highest_error_and_the_bias_farthest_from_0():
    values = np.random.default_rng(4).normal(size=101)
    assert tail(values, "high", 0.05) == np.quantile(values, 0.95, method="higher")
    assert tail(values, "low", 0.05) == np.quantile(values, 0.05, method="lower")
    assert abs(tail(values, "far", 0)) == np.abs(values).max()


def test_runs_of_a_network_are_averaged():
    rng = np.random.default_rng(5)
    first, second = drawn(rng, 10, 5)[0], drawn(rng, 10, 5, "other")[0]
    alone = [rows_of(metric_scores(table)) for table in (first, second)]
    both = rows_of(metric_scores(pd.concat([first, second])))
    for name in ("value", "worst", "p5", "mean"):
        np.testing.assert_allclose(both[name], (alone[0][name] + alone[1][name]) / 2)
    assert both["cases"].eq(10).all()


@pytest.mark.slow
def test_an_interval_over_groups_covers_the_population_value():
    """Bernoulli groups of unequal accuracy: the ratio's interval holds the truth nearly as told."""
    rng, hits, sets = np.random.default_rng(6), 0, 300
    for _ in range(sets):
        good = rng.beta(8, 2, 12)  # of 12 groups; the population's mean is 0.8
        numbers = rng.binomial(200, good)
        table = pd.DataFrame(
            {
                "run": "net", "encoder": "e", "variant": "v", "domain": "A", "class": "cell",
                "case": [f"c{i}" for i in range(12)], "group": [f"g{i}" for i in range(12)],
                "metric": "surface_dice", "present": True, "part": 0,
                "numerator": numbers.astype(float), "denominator": 200.0,
            }
        )  # fmt: skip
        row = metric_scores(table).iloc[0]
        hits += row["low"] <= 0.8 <= row["high"]
    assert 0.89 <= hits / sets <= 0.99


def test_the_mean_of_the_classes_is_that_of_the_scores():
    metrics, counts, _ = drawn(np.random.default_rng(4), 12, 6)
    third = counts.query("`class` == 'cell'").assign(**{"class": "nucleus"}).assign(fp=0)
    sums = {"numerator": third["tp"], "denominator": third[["tp", "fn"]].sum(axis=1)}
    more = metrics.query("metric == 'iou' and `class` == 'cell'").assign(**{"class": "nucleus"})
    more = more.assign(**{name: values.to_numpy(float) for name, values in sums.items()})
    ours = rows_of(metric_scores(pd.concat([metrics, more]))).loc[("iou", "mean")]
    table = pd.concat([counts, third]).sort_values("case", kind="stable")
    theirs = rows_of(estimates(table)).query("encoder == 'resnet18'").loc[("iou", "mean")]
    for name in ("value", "low", "high"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-12)
