import numpy as np
import pandas as pd
import pytest

from skipshift.statistics import (
    centred_interval,
    percentile_interval,
    pooled_iou,
    resamples,
)


def test_a_resample_draws_as_many_groups_as_there_are(rng):
    weights = resamples(6, 4000, rng)
    assert (weights.sum(1) == 6).all()
    assert weights.var(0) == pytest.approx(np.full(6, 5 / 6), abs=0.08)


def test_the_centred_interval_is_not_moved_by_an_offset_of_the_draws(rng):
    draws = rng.normal(size=(2000, 3))
    low, high = centred_interval(np.zeros(3), draws)
    assert np.allclose(centred_interval(np.zeros(3), draws + 5), (low, high))
    assert np.r_[-low, high] == pytest.approx(np.full(6, 1.96), abs=0.2)


def test_percentiles_leave_nan_draws_out_and_keep_nan_columns():
    draws = np.column_stack([np.r_[np.nan, np.arange(101)], np.full(102, np.nan)])
    low, high = percentile_interval(draws, 0.9)
    assert (low[0], high[0]) == pytest.approx((5, 95))
    assert np.isnan([low[1], high[1]]).all()


def table(counts, run="a", variant="baseline"):
    rows = [("original", f"c{i}", f"g{i // 2}", "cell", *c) for i, c in enumerate(counts)]
    frame = pd.DataFrame(rows, columns=["domain", "case", "group", "class", "tp", "fp", "fn"])
    return frame.assign(run=run, encoder="resnet18", variant=variant)


def test_iou_is_pooled_over_cases_then_averaged_over_runs():
    cases = pd.concat([table([(8, 1, 1), (0, 5, 5)]), table([(6, 2, 2), (0, 0, 0)], "b")])
    row = pooled_iou(cases).iloc[0]
    assert row["iou"] == pytest.approx((8 / 20 + 6 / 10) / 2)
    assert row["cases"] == 2


def test_groups_that_are_alike_leave_no_spread():
    row = pooled_iou(table([(8, 1, 1)] * 10)).iloc[0]
    assert (row["low"], row["iou"], row["high"]) == pytest.approx((0.8, 0.8, 0.8))


def test_the_interval_covers_the_truth_about_95_times_in_100(rng):
    covered = 0
    for _ in range(200):
        hits = rng.binomial(50, 0.7, 40)
        row = pooled_iou(table([(h, 50 - h, 0) for h in hits for _ in (0, 1)]), 400).iloc[0]
        covered += row["low"] <= 0.7 <= row["high"]
    assert 180 <= covered <= 199


def test_variants_and_domains_keep_their_order_of_appearance():
    pruned = table([(1, 1, 1)], "b", "L1-pruned")
    cases = pd.concat([pruned, table([(1, 1, 1)]), pruned.assign(domain="brightness:0.5")])
    out = pooled_iou(cases, 10)
    assert out["variant"].tolist() == ["L1-pruned", "baseline", "L1-pruned"]
    assert out["domain"].tolist() == ["original", "original", "brightness:0.5"]
