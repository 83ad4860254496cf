from itertools import permutations

import numpy as np
import pytest

from skipshift.specs import CarrySpec
from skipshift.statistics.recovery import rows_of, shapley_weights, share_table


def table(inside, outside, **spec):
    """Shares of two rows, none and all, from (groups, 3) counts of the foreground."""
    counts = [np.zeros((len(part), n, 2, 3), np.int64) for part, n in ((inside, 1), (outside, 2))]
    counts[0][:, 0, 1], counts[1][:, 0, 1], counts[1][:, 1, 1] = inside, outside, inside
    rows = {"none": (), "all": ("a",)}
    groups = (np.arange(len(inside)), np.arange(len(outside)))
    return share_table(rows, tuple(counts), groups, CarrySpec(draws=400, **spec)).set_index("path")


def test_shapley_is_the_mean_over_all_orders_of_patching(rng):
    rows = rows_of(("a", "b", "c", "d"), subsets=True)
    values = dict(zip(map(frozenset, rows.values()), rng.random(len(rows)), strict=True))
    orders = list(permutations("abcd"))
    added = [
        [
            values[frozenset(o[: o.index(p) + 1])] - values[frozenset(o[: o.index(p)])]
            for o in orders
        ]
        for p in "abcd"
    ]
    found = shapley_weights(rows) @ np.array(list(values.values()))
    assert found == pytest.approx(np.mean(added, axis=1))


def test_rows_of_one_path_are_it_and_all():
    assert rows_of(("a",), subsets=True) == {"none": (), "a": ("a",), "all": ("a",)}


def test_iou_is_that_of_all_groups_together():
    found = table([[8, 1, 1], [90, 0, 10]], [[2, 4, 4], [50, 25, 25]])
    assert found["in_domain"].tolist() == [98 / 110] * 2
    assert found.loc["none", "iou"] == 52 / 110


def test_an_interval_needs_a_loss_that_is_sure(rng):
    inside = rng.integers(40, 60, (9, 3))
    clear = table(inside, inside * [1, 4, 4])
    other = np.roll(inside, 4, axis=0)
    other[:, 1] += 1
    unsure = table(inside, other)
    assert clear.loc["all", ["low", "high"]].tolist() == [1, 1]
    assert unsure.loc["none", "iou"] < unsure.loc["none", "in_domain"]
    assert unsure.loc["all", "share"] == 1
    assert np.isnan(unsure.loc["all", "low"])
