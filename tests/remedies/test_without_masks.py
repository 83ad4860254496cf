"""What is recommended without masks: the smallest change of those that pass a negative control."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import skipshift as ss
from skipshift.networks.feature_store import FeatureStore
from skipshift.networks.outputs import giving_logits
from skipshift.page.diagnosis_page import best_remedies
from skipshift.page.remedy_sentences import (
    CONTROL,
    CUT,
    LEAST_GROUPS,
    LOST,
    SHIFTED,
    TIMES,
    UNEXPLAINED,
    remedies_verdict,
)
from skipshift.remedies.judging import Judge
from skipshift.remedies.negative_control import Checked, NegativeControl
from skipshift.remedies.remedy import REMEDIES, setting_of
from skipshift.remedies.without_masks import ByExcess
from skipshift.specs import RemedySpec
from skipshift.statistics.excess import Excess
from toy_unet import labels, toy_images, toy_net

SPEC = RemedySpec(batch_size=4)

PASSED, FAILED = Checked(""), Checked(CONTROL)


def judged(value, spread=1e-4, pixels=(50, 50), home=(50, 50)):
    """An excess with its jackknife, and pixels of two classes on both sets."""
    square = np.sign(value) * value**2
    units = square + spread * np.random.default_rng(int(1e4 * abs(value))).normal(size=12)
    return SimpleNamespace(
        excess=Excess(np.array([square, *units]), np.repeat([0, 1], 6), 2.0),
        pixels=np.array(pixels),
        home_pixels=np.array(home),
    )


def rule(rows, checked=None):
    """Rows of (remedy, parameters, judged); what the control finds of each, by its number."""
    table = pd.DataFrame(
        [(name, numbers, one.excess.value) for name, numbers, one in rows],
        columns=["remedy", "parameters", "excess_left"],
    )
    given = {} if checked is None else checked
    asked = []

    def check(row):
        asked.append(row)
        return given.get(row, PASSED)

    found = ByExcess(table, [one for *_, one in rows], judged(0.5), check)
    return found, asked


def test_of_those_that_leave_about_as_little_the_smallest_change_is_taken():
    rows = [
        ("quantile", 900, judged(-0.101)),
        ("moments", 6, judged(-0.100)),
        ("gamma", 3, judged(0.3)),
    ]
    assert rule(rows)[0].best() == 1
    # with a small error the rest differ clearly
    sharp = [(name, n, judged(one.excess.value, 1e-7)) for name, n, one in rows]
    assert rule(sharp)[0].best() == 0


def test_what_relabels_as_much_without_a_shift_is_passed_over():
    rows = [("quantile", 900, judged(-0.2, 1e-7)), ("moments", 6, judged(-0.1, 1e-7))]
    assert rule(rows, {0: FAILED})[0].best() == 1
    assert rule(rows, {0: FAILED, 1: FAILED})[0].best() is None
    found, _ = rule(rows, {0: FAILED})
    assert found.passed_over(0) == ""  # not asked yet
    found.best()
    assert [found.passed_over(row) for row in (0, 1)] == [CONTROL, ""]


def test_what_leaves_a_clear_excess_is_no_cure():
    found, asked = rule([("moments", 6, judged(0.2, 1e-7))])
    assert found.best() is None
    assert found.passed_over(0) == SHIFTED
    assert asked == []
    assert rule([("moments", 6, judged(0.2, 3e-2))])[0].best() == 0


def test_rows_that_do_not_lower_the_excess_are_not_asked():
    rows = [("quantile", 900, judged(0.5)), ("moments", 6, judged(0.49, 1.0))]
    found, asked = rule(rows)
    assert found.best() is None
    assert asked == []


@pytest.mark.parametrize(
    ("name", "one", "why"),
    [
        ("prune", judged(-0.1), CUT),
        ("minmax+prune", judged(-0.1), CUT),
        ("moments", judged(-0.1, pixels=(99, 1)), LOST),
        ("moments", judged(-0.1, home=(99, 1)), LOST),
    ],
)
def test_a_cut_skip_or_a_lost_class_is_not_recommended(name, one, why):
    found, _ = rule([(name, 2, one)])
    assert found.best() is None
    assert found.passed_over(0) == why


def test_a_pair_must_leave_clearly_less_than_the_single_one():
    rows = [("minmax", 0, judged(-0.1)), ("minmax+adabn", 99, judged(-0.2))]
    assert rule(rows)[0].best() == 1
    assert rule([rows[0], ("minmax+adabn", 99, judged(-0.101))])[0].best() == 0
    assert rule(rows, {1: FAILED})[0].best() == 0


def test_without_images_of_the_reference_nothing_is_asked():
    found, asked = rule([("moments", 6, judged(-0.1))])
    found.check = None
    assert found.best() == 0
    assert asked == []


def two_levels(shares, seed=0):
    """Images (N, 3, 32, 32) of two grey levels with noise, bright in a share of their rows."""
    rng = np.random.default_rng(seed)
    bright = np.arange(32)[None] < np.asarray(shares)[:, None] * 32
    levels = np.where(bright, 180.0, 60.0)[:, None, :, None]
    return (levels + rng.uniform(-8, 8, (len(shares), 3, 32, 32))).round().astype(np.uint8)


def asked(setting, name, place="input", weight=1.0):
    (where,) = [one for one in setting.places if one.name == place]
    with giving_logits(setting.net, setting.output):
        control = NegativeControl(Judge(setting, FeatureStore(2**30)))
        return control(REMEDIES[name], where, weight)


def test_the_control_counts_what_differs_between_labels_before_and_after(net, home):
    away = (0.4 * home + 60).astype(np.uint8)
    found = asked(setting_of(net, (home, away), (None, None), SPEC), "moments")
    mended = ss.remedy(
        net,
        home,
        away,
        labels(net, away),
        spec=RemedySpec(remedies=("moments",), places=("input",)),
    )
    before, after = labels(net, away) == 1, labels(mended.network("moments", "input"), away) == 1
    assert found.relabelled.shifted == pytest.approx(
        1 - (before & after).sum() / (before | after).sum(), abs=2e-3
    )


def cells(shares, seed=0):
    """Two-level images and a network that tells their levels apart."""
    home = two_levels(shares, seed)
    net = toy_net(torch.from_numpy(home).float() / 255)
    with torch.no_grad():
        apart = net(torch.from_numpy(home).float() / 255).diff(dim=1)[:, 0]
        bright = torch.from_numpy(home[:, 0] > 120)
        net.head.bias[1] -= (apart[bright].mean() + apart[~bright].mean()) / 2
    return net, home


def test_matching_a_histogram_relabels_images_that_differ_in_foreground_alone():
    shares = np.random.default_rng(1).uniform(0.1, 0.6, 8)
    net, home = cells(shares)
    setting = setting_of(net, (home, two_levels(shares[::-1], 1)), (None, None), SPEC)
    matched = asked(setting, "quantile")
    assert matched.relabelled.shifted < 0.01  # the sets hold as much of each level
    assert matched.relabelled.unshifted > 0.2  # the halves do not
    assert asked(setting, "moments").relabelled.unshifted < matched.relabelled.unshifted


@pytest.mark.parametrize("name", ["brightness", "moments", "quantile", "minmax", "adabn"])
def test_no_remedy_passes_where_the_sets_differ_in_foreground_alone(name):
    net, home = cells(np.linspace(0.1, 0.5, 8))
    away = two_levels(np.linspace(0.3, 0.6, 8), 1)
    setting = setting_of(net, (home, away), (None, None), SPEC)
    found = asked(setting, name, "first" if name == "adabn" else "input")
    assert found.relabelled.shifted < TIMES * found.relabelled.unshifted
    assert found.against == CONTROL


def test_what_cannot_be_fitted_on_halves_has_no_control(net):
    home = toy_images(2)
    found = asked(
        setting_of(net, (home, toy_images(seed=1)), (None, None), SPEC), "moments", weight=1.0
    )
    assert found.relabelled is not None  # one image a half is enough for moments
    home[0] = 0
    stained = setting_of(net, (home, toy_images(seed=1)), (None, None), SPEC)
    assert asked(stained, "macenko") == Checked(CONTROL)


@pytest.mark.parametrize("mistake", [True, False])
def test_undoing_a_mistake_passes_only_where_the_mistake_explains_the_shift(net, mistake):
    home, away = toy_images(40), toy_images(40, seed=1)
    away = 255 - away if mistake else (0.4 * away).astype(np.uint8)
    setting = setting_of(net, (home, away), (None, None), SPEC)
    assert asked(setting, "invert") == Checked("" if mistake else UNEXPLAINED)


def test_the_mistake_that_a_diagnosis_names_is_undone():
    shares = np.linspace(0.1, 0.4, 24)
    net, home = cells(shares)
    away = two_levels(shares, 1)
    spec = RemedySpec(remedies=("invert", "quantile"), places=("input",), folds=2)
    found = ss.diagnose(net, home, 255 - away, spec=spec)
    assert found.cause == "inversion"
    assert found.remedies.best == ("invert", "input")
    assert "undoes a mistake that explains the shift" in found.verdict()


def test_the_verdict_gives_the_control(net):
    spec = RemedySpec(remedies=("adabn", "moments", "brightness"), folds=3)
    found = ss.remedy(
        net, toy_images(40), (0.4 * toy_images(40, seed=1) + 60).astype(np.uint8), spec=spec
    )
    row = found.table.set_index(["remedy", "place"]).loc[found.best]
    shifted, unshifted = row["relabelled"], row["relabelled_unshifted"]
    assert shifted > TIMES * unshifted
    assert f"pass the negative control: it relabels {shifted:.1%} of the foreground" in (
        found.verdict()
    )
    assert f"where nothing is shifted, {unshifted:.1%}." in found.verdict()
    # a search that recommends nothing says why of each that lowers the excess
    reasons = ["", SHIFTED, *[CONTROL] * 2] * len(found.table)
    table = found.table.assign(passed_over=reasons[: len(found.table)])
    none = remedies_verdict(table, replace(found.facts, best=None))
    counts = table["passed_over"].value_counts()
    assert f"a shift is still clear ({counts[SHIFTED]}); 1/3 as much or more is relabelled" in none
    assert none.endswith(f"(negative control) ({counts[CONTROL]}).")


@pytest.mark.parametrize("number", [LEAST_GROUPS - 1, LEAST_GROUPS])
def test_the_control_takes_groups_of_the_reference(net, caplog, number):
    spec = RemedySpec(remedies=("brightness",), places=("input",), folds=3)
    away = (0.3 * toy_images(60, seed=1)).astype(np.uint8)
    found = ss.remedy(net, toy_images(number), away, spec=spec)
    few = f"the negative control takes {LEAST_GROUPS} groups of the reference, which has {number}"
    assert (found.best is None) == (few in found.verdict()) == (number < LEAST_GROUPS)
    assert any(few in record.message for record in caplog.records) == (number < LEAST_GROUPS)


def test_the_verdict_warns_where_the_sets_may_differ_in_what_they_hold(net):
    spec = RemedySpec(remedies=("brightness",), places=("input",), folds=3)
    away = (0.3 * toy_images(40, seed=1)).astype(np.uint8)
    found = ss.remedy(net, toy_images(40), away, spec=spec)
    warning = "and the remedy may harm"
    alike = replace(found.facts, expected=(0.7, 0.3), predicted=(0.6, 0.4))
    apart = replace(found.facts, expected=(0.9, 0.1), predicted=(0.6, 0.4))
    assert warning not in remedies_verdict(found.table, alike)
    assert warning in remedies_verdict(found.table, apart)


def test_a_table_shows_the_recommended_remedy_first_and_no_empty_column(net):
    spec = RemedySpec(remedies=("adabn", "moments", "brightness"), folds=3)
    away = (0.4 * toy_images(40, seed=1) + 60).astype(np.uint8)
    found = ss.remedy(net, toy_images(40), away, spec=spec)
    shown = best_remedies(found.table, found.best)
    assert tuple(shown.iloc[0][["remedy", "place"]]) == tuple(found.best)
    rest = found.table[found.table["failed"] == ""]["excess_left"].drop(shown.index[0])
    np.testing.assert_array_equal(shown["excess_left"].iloc[1:], rest)
    assert {"relabelled", "relabelled_unshifted"} <= set(shown)
    assert not {"iou", "gain", "harm"} & set(shown)
