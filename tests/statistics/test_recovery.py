from itertools import permutations

import numpy as np
import pytest
from benchmarks.truth_carry import coverage

from skipshift.specs import CarrySpec
from skipshift.statistics.passing import passed_between_sets, passed_in_pairs
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


def test_rests_are_all_paths_but_one():
    assert list(rows_of(("a", "b", "c"), subsets=False, rests=True)) == [
        "none", "a", "b", "c", "a+b", "a+c", "b+c", "all",
    ]  # fmt: skip
    assert list(rows_of(("a",), subsets=False, rests=True)) == ["none", "a", "all"]


def test_two_groups_that_lose_differently_have_no_interval():
    found = table([[50, 25, 25], [50, 20, 30]], [[10, 50, 40], [45, 30, 25]])
    assert found.loc["all", "share"] == 1
    assert found["low"].isna().all()
    assert found.loc["none", "lost_low"] < 0 < found.loc["none", "lost_high"]


@pytest.mark.slow
@pytest.mark.parametrize("groups", [3, 5, 20])
def test_the_interval_of_a_share_holds_its_level(groups):
    covered, given = coverage(groups, repeats=400, seed=groups)
    assert covered > 0.92
    assert given > {3: 0.2, 5: 0.7, 20: 0.99}[groups]


def test_how_much_of_the_distance_goes_has_an_interval_over_groups():
    passed, low, high = passed_in_pairs(np.array([[1.0, 4], [2, 4], [3, 6], [1, 6]]))
    assert passed == pytest.approx(0.65)
    assert low < 0.65 < high
    assert np.isnan(passed_in_pairs(np.array([[1.0, 4]]))[1:]).all()
    assert np.isnan(passed_in_pairs(np.zeros((3, 2)))).all()


def test_between_sets_half_a_shift_leaves_a_quarter_of_the_squared_distance(rng):
    own, others = rng.normal(0, 0.02, (30, 6)), rng.normal(0, 0.02, (20, 6))
    names = (np.arange(30), 100 + np.arange(20))
    passed, low, high = passed_between_sets(own, others + 0.1, others + 0.2, names)
    assert low < 0.75 < high
    assert passed == pytest.approx(0.75, abs=0.05)
    # nothing differs: no share of it, or no interval
    assert np.isnan(passed_between_sets(own, others, others, names)[1])


@pytest.mark.slow  # hundreds of tables
def test_without_a_path_that_recovers_anything_none_is_sure_in_19_of_20():
    paths = ("a", "b", "c", "d", "e")
    rows = rows_of(paths, subsets=False)
    groups = (np.arange(20), np.arange(20))
    sure, alone, draws = 0, 0, 300
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        counts = [np.zeros((20, n, 2, 3), np.int64) for n in (1, len(rows))]
        counts[0][:, 0, 1] = np.column_stack(
            [rng.integers(85, 95, 20), *rng.integers(1, 9, (2, 20))]
        )
        hits = rng.integers(40, 60, 20)
        for row in range(len(rows)):
            # no path changes more than chance does, apart from all of them
            moved = hits + rng.normal(0, 4, 20).round().astype(int)
            counts[1][:, row, 1] = np.column_stack([moved, 20 + 0 * hits, 100 - moved])
        counts[1][:, -1] = counts[0][:, 0]
        table = share_table(rows, tuple(counts), groups, CarrySpec()).set_index("path")
        sure += table.loc[list(paths), "sure"].any()
        alone += (table.loc[list(paths), "low"] > 0).any()
    assert sure / draws <= 0.05 < alone / draws
