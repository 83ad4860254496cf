"""Pages of the findings say what their tables say, by rules that hold where nothing is there."""

import numpy as np
import pandas as pd
import pytest
from benchmarks.findings import pages, tables
from benchmarks.findings.answers import HARMS, HELPS, OPEN, SAME, compared, decided, t_interval
from benchmarks.findings.predictors import flips
from scipy import stats

PAGES = [page for page in sorted(pages.PAGES.glob("*.md")) if pages.blocks(page)]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_the_tables_say(page):
    assert pages.filled(page) == page.read_text(encoding="utf-8")


def test_every_answer_is_shown_once():
    shown = [name for page in PAGES for name in pages.blocks(page)]
    assert sorted(shown) == sorted(pages.ANSWERS)


def test_tables_are_small():
    assert sum(file.stat().st_size for file in tables.TABLES.iterdir()) < 5e6


def test_a_difference_is_named_only_beyond_its_margin():
    tests = pd.DataFrame(
        [
            ("original", 0.011, 0.03, 0.01, "", HELPS),
            ("away", 0.011, 0.03, 0.01, "", OPEN),
            ("away", -0.3, -0.021, 0.01, "", HARMS),
            ("away", -0.3, -0.021, 0.06, "", OPEN),
            ("away", -0.01, 0.015, 0.01, "", SAME),
            ("away", -0.01, 0.015, 0.01, "both fail", "both fail"),
        ],
        columns=["domain", "low", "high", "p_adjusted", "verdict", "expected"],
    )
    assert decided(tests)["answer"].tolist() == tests["expected"].tolist()


def test_where_nothing_differs_hardly_anything_is_said_to():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(40):
        rows = []
        for variant in ("baseline", "L1-pruned", "L2-pruned"):
            for fold in range(5):
                run = f"resnet18.{variant}.fold{fold}.seed0"
                base = rng.normal(0, 0.3)
                for case in range(12):
                    for domain in ("original", "brightness:0.5", "contrast:0.5"):
                        hits = int(1000 / (1 + np.exp(-1 - base - rng.normal(0, 0.3))))
                        rows.append((run, domain, f"c{case}", "cell", hits, 0, 1000 - hits))
        cases = pd.DataFrame(rows, columns=["run", "domain", "case", "class", "tp", "fp", "fn"])
        cases = cases.assign(group=cases["case"])
        other = cases.assign(**{"class": "background"})
        answers = compared(pd.concat([other, cases], ignore_index=True))["answer"]
        wrong += answers.isin([HELPS, HARMS]).any()
    assert wrong <= stats.binom.ppf(0.999, 40, 0.05)


def test_flips_of_two_ways_are_all_patterns():
    assert flips(np.full((5, 3), -1.0)) == 2 / 2**8
    assert flips(np.full((5, 3), 1.0)) == 1
    signs = np.outer([1, 1, 1, 1, -1], [1, 1, 1])
    # one network that disagrees: 9.0 of 15 is reached by it and the patterns of a smaller mean
    assert flips(-1.0 * signs) == 12 / 2**8


def test_an_interval_over_runs_is_that_of_t():
    values = pd.Series([0.1, 0.3, 0.2, 0.5])
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert t_interval(values) == pytest.approx((values.mean(), low, high))
