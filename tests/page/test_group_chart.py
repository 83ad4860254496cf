import numpy as np
import pandas as pd
import pytest

from skipshift.page.group_chart import groups_figure
from skipshift.statistics.comparisons import AWAY


@pytest.fixture
def tables():
    """Two variants on a domain and on the mean of others, three groups each."""
    rows = [(v, d) for d in ("A", AWAY) for v in ("L4-pruned", "L1-pruned")]
    tests = pd.DataFrame(rows, columns=["variant", "domain"]).assign(encoder="resnet18", groups=3)
    tests = tests.assign(effect=[-0.02, 0.01, -0.03, 0.02], low=-0.05, high=0.06)
    groups = pd.concat([tests.assign(group=f"g{i}", effect=0.01 * i - 0.02) for i in range(3)])
    return tests, groups


def drawn(figure, mark):
    """Positions of all points with a mark, panel by panel."""
    return [
        [
            float(x)
            for line in axes.get_lines()
            if line.get_marker() == mark
            for x in line.get_xdata()
        ]
        for axes in figure.axes
    ]


def test_each_group_is_a_dot_and_each_variant_a_diamond(tables):
    figure = groups_figure(*tables, 0.01)
    assert drawn(figure, "o") == [pytest.approx([-0.02, -0.01, 0.0] * 2)] * 2
    # the order of the variants, not that of the table
    assert drawn(figure, "D") == [pytest.approx([0.01, -0.02]), pytest.approx([0.02, -0.03])]


def test_an_interval_far_wider_than_the_groups_ends_in_arrows_and_is_told_in_numbers(tables):
    tests, groups = tables
    figure = groups_figure(tests.assign(low=-2.0, high=2.0), groups, 0.01)
    assert all(len(panel) == 2 for panel in drawn(figure, ">"))
    ends = np.array([axes.get_xlim() for axes in figure.axes])
    assert np.abs(ends).max() < 0.1
    assert sum("[-2.000, +2.000]" in text.get_text() for text in figure.texts) == 4


def test_a_variant_without_an_interval_says_so(tables):
    tests, groups = tables
    figure = groups_figure(tests.assign(low=np.nan, high=np.nan), groups, 0.01)
    assert sum("no interval" in text.get_text() for text in figure.texts) == 4
