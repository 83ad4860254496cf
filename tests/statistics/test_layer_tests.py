import numpy as np
import pandas as pd
import pytest

from skipshift.statistics.excess import Excess
from skipshift.statistics.layer_tests import (
    ALPHA,
    behind,
    is_clear,
    layer_table,
    over_runs,
    statistic,
    step_down,
)
from skipshift.statistics.resampling import Groups, p_value, permutations


def drawn(rng, layers, groups, shift=(), common=0.5):
    """Statistics of layers (layers, 1 + draws) that share part of the groups' values."""
    both = Groups(np.arange(groups), np.arange(groups, 2 * groups))
    sides = permutations(both, 199, rng)
    shared = rng.normal(size=(2 * groups, 8))
    rows = []
    for number in range(layers):
        own = rng.normal(size=shared.shape)
        values = np.sqrt(common) * shared + np.sqrt(1 - common) * own
        values[groups:] += shift[number] if number < len(shift) else 0
        rows.append(statistic(values @ values.T, sides, both))
    return np.array(rows)


def test_one_layer_is_not_adjusted(rng):
    rows = drawn(rng, 1, 6)
    assert step_down(rows) == pytest.approx([p_value(rows[0])])


def test_step_down_is_a_naive_reading_of_westfall_and_young(rng):
    rows = drawn(rng, 6, 8, (2, 1))
    scaled = (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)
    order, expected, least = np.argsort(-scaled[:, 0]), np.zeros(6), 0.0
    for place, layer in enumerate(order):
        most = scaled[order[place:]].max(0)
        most[0] = scaled[layer, 0]
        least = max(least, (most >= most[0]).mean())
        expected[layer] = least
    assert step_down(rows) == pytest.approx(expected)


def test_any_number_of_equal_layers_has_the_p_of_one(rng):
    row = drawn(rng, 1, 5, (3,))
    assert step_down(np.repeat(row, 40, 0)) == pytest.approx(np.full(40, p_value(row[0])))


def test_a_layer_without_permutations_has_no_p(rng):
    rows = drawn(rng, 3, 6)
    rows[1, 5] = np.nan
    assert np.isnan(step_down(rows)).tolist() == [False, True, False]
    assert np.isnan(step_down(np.full((2, 1), np.nan))).all()


def test_a_false_layer_is_found_in_one_profile_of_twenty():
    wrong = np.array(
        [step_down(drawn(np.random.default_rng((31, r)), 10, 8)).min() < ALPHA for r in range(300)]
    )
    assert wrong.mean() == pytest.approx(0.05, abs=0.038)  # three standard errors


def test_beside_layers_that_have_shifted_the_others_are_found_as_rarely():
    wrong, right = [], []
    for repeat in range(200):
        p = step_down(drawn(np.random.default_rng((32, repeat)), 20, 6, [3.0] * 5))
        right.append((p[:5] < ALPHA).mean())
        wrong.append((p[5:] < ALPHA).any())
    assert np.mean(right) > 0.9  # Holm over 20 layers: none, since p >= 2 / 924 = 0.0022 * 20
    assert np.mean(wrong) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


@pytest.mark.parametrize(
    ("noise", "sizes"), [((1, 5), (12, 12)), ((1, 3), (30, 8)), ((3, 1), (30, 8))]
)
def test_p_holds_its_level_where_groups_of_the_sets_differ_in_noise_and_number(noise, sizes):
    found = []
    both = Groups(np.arange(sizes[0]), np.arange(sizes[0], sum(sizes)))
    for repeat in range(400):
        rng = np.random.default_rng((33, repeat))
        values = rng.normal(size=(sum(sizes), 8)) * np.repeat(noise, sizes)[:, None]
        found.append(p_value(statistic(values @ values.T, permutations(both, 99, rng), both)))
    assert (np.array(found) <= 0.05).mean() == pytest.approx(0.05, abs=0.035)


def test_a_layer_is_clear_by_its_adjusted_p_alone():
    rows = pd.DataFrame({"p_adjusted": [0.049, 0.05, np.nan]})
    assert is_clear(rows).tolist() == [True, False, False]


def excess(value, spread=0.001, rng=None):
    noise = np.linspace(-1, 1, 10) if rng is None else rng.normal(size=10)
    return Excess(np.r_[value**2, value**2 + spread * noise], np.zeros(10, int), 2)


def test_layers_are_behind_the_largest_by_the_difference_of_their_excesses():
    rows = behind([excess(0.3), None, excess(0.5), excess(0.49, 0.01)])
    assert np.isnan(rows[1:3]).all()
    assert rows[0, 0] == pytest.approx(0.2)
    assert rows[0, 1] > 0  # surely smaller
    assert rows[3, 1] < 0 < rows[3, 2]


RUN = {"variant": "baseline", "encoder": "resnet18", "reference": "a", "shifted": "b"}
KIND = {"measure": "hellinger", "pooling": "average"}


def runs_of(rng, number, shift=0.0, key="same"):
    """layers.csv and evidence.parquet of several runs of a network, of two layers."""
    both = Groups(np.arange(8), np.arange(8, 16))
    sides = permutations(both, 199, np.random.default_rng(0))
    image = rng.normal(size=(16, 8))
    image[8:] += shift
    layers, evidence = [], []
    for fold in range(number):
        found, rows = [], []
        for _ in range(2):
            values = image @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
            rows.append(statistic(values @ values.T, sides, both))
            found.append(excess(0.3 + rng.normal() / 50, rng=rng))
        about = {**RUN, **KIND, "fold": fold, "seed": 0}
        table = layer_table(found, rows).assign(layer=["e2", "e4"], depth=[1, 2], **about)
        layers.append(table.assign(distance=0.5, null=0.3, groups="8 + 8", least_p=0.001))
        for layer, one, row in zip(["e2", "e4"], found, rows, strict=True):
            kept = {"squares": one.squares, "kinds": one.kinds, "power": 2.0}
            evidence.append({**about, "layer": layer, "groups": key, "permuted": row, **kept})
    return pd.concat(layers, ignore_index=True), pd.DataFrame(evidence)


def test_one_run_keeps_its_numbers(rng):
    layers, evidence = runs_of(rng, 1)
    joined = over_runs(layers, evidence)
    shared = [column for column in layers if column not in ("fold", "seed")]
    pd.testing.assert_frame_equal(joined[shared], layers[shared])
    assert joined["runs"].tolist() == [1, 1]


def test_several_runs_have_the_p_and_interval_of_their_mean(rng):
    layers, evidence = runs_of(rng, 4, 1.0)
    joined = over_runs(layers, evidence).set_index("layer")
    assert joined["runs"].tolist() == [4, 4]
    own = evidence[evidence["layer"] == "e2"]
    assert joined.loc["e2", "p"] == p_value(np.stack(own["permuted"].to_list()).mean(0))
    squares = np.stack(own["squares"].to_list()).mean(0)
    expected = Excess(squares, own["kinds"].iloc[0], 2)
    assert joined.loc["e2", "excess"] == pytest.approx(expected.value)
    assert tuple(joined.loc["e2", ["low", "high"]]) == pytest.approx(expected.interval())


@pytest.mark.slow  # 60 studies of three runs
def test_p_over_runs_holds_its_level_without_a_shift():
    found = [over_runs(*runs_of(np.random.default_rng((34, r)), 3))["p"][0] for r in range(60)]
    assert (np.array(found) <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


def test_runs_that_saw_other_groups_or_kept_no_evidence_have_no_p_of_their_mean(rng):
    layers, evidence = runs_of(rng, 2)
    evidence.loc[evidence["fold"] == 1, "groups"] = "others"
    for kept in (evidence, None):
        joined = over_runs(layers, kept)
        assert joined[["p", "p_adjusted", "low", "high", "behind"]].isna().to_numpy().all()
        assert joined["excess"].to_numpy() == pytest.approx(
            layers.groupby("layer")["excess"].mean()
        )
