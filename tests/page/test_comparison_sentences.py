import numpy as np
import pandas as pd
import pytest

from skipshift.page.comparison_sentences import claim, tally, verdict_sentences
from skipshift.statistics.comparisons import compare


def cases_of(counts, variant="baseline", domain="original"):
    """Rows of cases.parquet: (groups, 3) counts, a case for each group."""
    frame = pd.DataFrame(np.asarray(counts), columns=["tp", "fp", "fn"])
    labels = [f"g{i:03d}" for i in range(len(frame))]
    frame = frame.assign(domain=domain, case=labels, group=labels)
    return frame.assign(run=f"resnet18.{variant}.fold0.seed0", **{"class": "cell"})


def pair(ours, theirs, **names):
    return pd.concat([cases_of(theirs, **names), cases_of(ours, "L1-pruned", **names)])


def some(rng, groups):
    hits = rng.integers(40, 90, groups)
    return np.column_stack([hits, rng.integers(0, 20, groups), 100 - hits])


def one(tests):
    return tests[tests["metric"] == "iou"].iloc[0]


def test_an_absent_class_is_inconclusive():
    empty = np.zeros((5, 3), int)
    assert "no case has the class" in claim(one(compare(pair(empty, empty), 0.01)), 0.01)


def test_each_domain_has_the_verdict_of_its_numbers(rng):
    better, same = some(rng, 60), some(rng, 60)
    worse = same + np.c_[np.full(60, -30), np.zeros((60, 1), int), np.full(60, 30)]
    cases = [
        pair(same, same, domain="same"),
        pair(same, worse, domain="up"),
        pair(worse, same, domain="down"),
        pair(better, same, domain="noise"),
    ]
    (said,) = verdict_sentences(compare(pd.concat(cases), 0.01), 0.01)
    start = "Against that of the baseline, this checkpoint of L1-pruned is higher on up (by 0."
    assert said.startswith(start)
    for words in ("lower on down (by 0.", "equivalent within 0.01 on same"):
        assert words in said
    assert said.endswith("inconclusive on noise.")


def test_two_samples_of_the_same_noise_are_inconclusive(rng):
    noise = some(rng, 80)
    row = one(compare(pair(noise[:40], noise[40:]), 0.01))
    assert row["verdict"] == "cannot tell"
    start = "the comparison of this checkpoint of L1-pruned with that of the baseline is inconcl"
    assert claim(row, 0.01).startswith(start)
    assert "is inconclusive" in verdict_sentences(row.to_frame().T, 0.01)[0]


def test_a_significant_difference_below_the_margin_is_called_small(rng):
    theirs = some(rng, 60)
    row = one(compare(pair(theirs + np.array([1, 0, -1]), theirs), 0.05))
    assert "higher than that of the baseline by 0.009" in claim(row, 0.05)
    assert "but by less than the margin of 0.05" in claim(row, 0.05)


def test_many_domains_are_counted_and_few_named(rng):
    theirs = some(rng, 60)
    shifted = [pair(theirs + np.array([9, 0, -9]), theirs, domain=f"d{i}") for i in range(5)]
    tests = compare(pd.concat(shifted), 0.01).query("metric == 'iou'")
    assert "higher on all 5 domains" in tally(tests, 0.01)
    assert "higher on d0 and d1" not in tally(tests, 0.01)
    assert "higher on both domains" in tally(tests.head(2), 0.01)


ROW = {
    "variant": "L1-pruned", "of": "variant", "groups": 9, "runs": 3, "effect": 0.02, "low": -0.01,
    "high": 0.05, "p_adjusted": 0.3, "p_equivalence_adjusted": 0.9, "verdict": "cannot tell",
    "more_runs": 2.0, "least_p": np.nan, "baseline": 0.8, "floor": 0.25,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "were effect and spreads as they seem, 2 more trainings of each network would settle"),
        ({"more_runs": np.nan}, "more images would be needed to settle it, not more trainings"),
        (
            {"of": "checkpoint", "groups": 4, "least_p": 0.1875, "more_runs": np.nan},
            "with 4 groups no adjusted p of a difference can be below 0.19",
        ),
        ({"more_runs": 0.0, "low": 0.001}, "not significant after correction for multiple tests"),
        ({"low": np.nan}, "a domain of a single group gives no interval"),
        (
            {"verdict": "both fail", "baseline": 0.244, "effect": 0.002, "floor": 0.244},
            "both fail: 0.246 and 0.244 are not above the best constant prediction (0.244) by more "
            "than 0.01",
        ),
    ],
)
def test_what_a_comparison_lacks_is_said(change, words):
    assert words in claim({**ROW, **change}, 0.01)


def test_a_sentence_about_several_trainings_names_variants_and_one_of_a_single_one_checkpoints():
    row = {**ROW, "verdict": "higher", "p_adjusted": 0.01}
    assert claim(row, 0.01).startswith("L1-pruned is higher than the baseline by 0.020")
    one = claim({**row, "of": "checkpoint"}, 0.01)
    assert one.startswith("this checkpoint of L1-pruned is higher than that of the baseline by")
