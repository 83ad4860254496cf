from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from skipshift.statistics.comparisons import AWAY, compare, group_effects, holm, places_of
from skipshift.statistics.counts import dice, iou
from skipshift.statistics.scores import MEAN

EXACT = 1e-8


def measured_of(cases, metric="dice"):
    """Rows of metrics.parquet whose sums are those of the IoU, in each case with the class."""
    sums = {"numerator": cases["tp"], "denominator": cases[["tp", "fp", "fn"]].sum(axis=1)}
    table = cases.assign(metric=metric, present=cases["tp"] + cases["fn"] > 0, part=0, **sums)
    return table.drop(columns=["tp", "fp", "fn"]).astype({"numerator": float, "denominator": float})


def cases_of(counts, variant="baseline", domain="original", name="cell", fold=0):
    """Rows of cases.parquet: (groups, 3) counts, a case for each group."""
    frame = pd.DataFrame(np.asarray(counts), columns=["tp", "fp", "fn"])
    labels = [f"g{i:03d}" for i in range(len(frame))]
    frame = frame.assign(domain=domain, case=labels, group=labels)
    return frame.assign(run=f"resnet18.{variant}.fold{fold}.seed0", **{"class": name})


def pair(ours, theirs, **names):
    return pd.concat([cases_of(theirs, **names), cases_of(ours, "L1-pruned", **names)])


def some(rng, groups=30, less=0):
    hits = rng.integers(40, 90, groups) - less
    return np.column_stack([hits, rng.integers(0, 20, groups), 100 - hits])


def one(tests, metric="iou", domain="original"):
    rows = tests[(tests["metric"] == metric) & (tests["domain"] == domain)]
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.mark.parametrize(("groups", "swaps"), [(8, 9999), (40, 9999)])
@pytest.mark.parametrize(("metric", "score"), [("case_iou", iou), ("case_dice", dice)])
def test_p_is_that_of_scipys_paired_permutation_test(rng, groups, swaps, metric, score):
    ours, theirs = some(rng, groups), some(rng, groups, less=4)
    p = one(compare(pair(ours, theirs), 0.01, swaps=swaps), metric)["p"]
    expected = stats.permutation_test(
        (score(ours), score(theirs)),
        lambda x, y, axis: np.mean(x - y, axis),
        permutation_type="samples",
        vectorized=True,
        rng=rng,
    )
    assert p == pytest.approx(expected.pvalue, abs=EXACT if 2**groups <= swaps + 1 else 0.02)


def test_p_of_the_pooled_iou_is_that_of_every_swap_of_the_counts(rng):
    ours, theirs = some(rng, 7), some(rng, 7, less=8)
    row = one(compare(pair(ours, theirs), 0.01))
    effects = []
    for swap in product([False, True], repeat=7):
        a, b = np.where(np.array(swap)[:, None], (theirs, ours), (ours, theirs))
        effects.append(iou(a.sum(0)) - iou(b.sum(0)))
    assert row["effect"] == pytest.approx(effects[0])
    assert row["p"] == pytest.approx(np.mean(np.abs(effects) >= abs(effects[0]) - 1e-12))


@pytest.mark.parametrize("margin", [0.005, 0.02, 0.2])
def test_equivalence_is_that_of_two_one_sided_t_tests(rng, margin):
    ours, theirs = some(rng), some(rng)
    row = one(compare(pair(ours, theirs), margin), "case_iou")
    differences = iou(ours) - iou(theirs)
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    # from 0.5 on it is called 1
    expected = max(below, above) if abs(row["effect"]) < margin else 1
    assert row["p_equivalence"] == pytest.approx(expected, rel=1e-6)


def test_the_error_of_pooled_iou_is_near_that_of_its_bootstrap(rng):
    ours, theirs = some(rng, 200), some(rng, 200)
    row = one(compare(pair(ours, theirs), 0.01))
    picked = rng.integers(200, size=(4000, 200))
    effects = iou(ours[picked].sum(1)) - iou(theirs[picked].sum(1))
    assert row["spread_groups"] == pytest.approx(effects.std(), rel=0.05)


def test_the_interval_of_equal_groups_is_that_of_t(rng):
    ours, theirs = some(rng), some(rng, less=5)
    row = one(compare(pair(ours, theirs), 0.01), "case_dice")
    apart = dice(ours) - dice(theirs)
    expected = stats.ttest_1samp(apart, 0).confidence_interval(0.95)
    assert [row["low"], row["high"]] == pytest.approx(list(expected))


def simulated(rng, studies, groups, lift=0.0):
    """Studies as domains of one table; true IoU 0.6 + lift and 0.6, cases of unlike hardness."""
    share = rng.beta(12, 8, (studies, groups))
    ours, theirs = (rng.binomial(200, np.clip(share + up, 0, 1)) for up in (lift, 0))
    counts = [np.stack([hits, 0 * hits, 200 - hits], -1) for hits in (ours, theirs)]
    return pd.concat([pair(*of, domain=str(i)) for i, of in enumerate(zip(*counts, strict=True))])


@pytest.mark.slow  # hundreds of draws
@pytest.mark.parametrize("groups", [8, 40])
def test_at_the_margin_the_interval_holds_95_and_equivalence_is_found_5_times_in_100(rng, groups):
    tests = compare(simulated(rng, 300, groups, lift=0.02), 0.02, swaps=1).query("metric == 'iou'")
    covered = (tests["low"] <= 0.02) & (tests["high"] >= 0.02)
    assert 0.91 <= covered.mean() <= 0.98
    assert 0.01 <= (tests["p_equivalence"] < 0.05).mean() <= 0.08


@pytest.mark.slow  # hundreds of draws
def test_noise_is_called_a_difference_about_5_times_in_100(rng):
    tests = compare(simulated(rng, 300, 12), 0.01).query("metric == 'iou'")
    assert 0.02 <= (tests["p"] < 0.05).mean() <= 0.08


def test_noise_gives_any_verdict_of_a_difference_in_few_families(rng):
    families = [compare(simulated(rng, 10, 12), 0.01).query("metric == 'iou'") for _ in range(20)]
    assert sum((tests["p_adjusted"] < 0.05).any() for tests in families) <= 4


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_rule_rejects(p):
    adjusted = holm(np.array(p))
    for alpha in (0.01, 0.05, 0.2):
        rejected, ranked = set(), sorted(range(len(p)), key=p.__getitem__)
        for step, i in enumerate(ranked):
            if p[i] * (len(p) - step) >= alpha:
                break
            rejected.add(i)
        assert {i for i in range(len(p)) if adjusted[i] < alpha} == rejected


def test_a_family_is_the_variants_and_domains_of_one_encoder_class_and_metric(rng):
    parts = [pair(some(rng, 9), some(rng, 9), domain=d, name=c) for d in "AB" for c in ("x", "y")]
    tests = compare(pd.concat(parts), 0.01)
    for _, family in tests.groupby(["class", "metric"]):
        assert family["domain"].tolist() == ["A", "B"]
        # at least as good as Holm's, which knows nothing of how the two go together
        assert (family["p_adjusted"] >= family["p"]).all()
        assert (family["p_adjusted"] <= holm(family["p"].to_numpy()) + 1e-9).all()
        equal = holm(family["p_equivalence"].to_numpy())
        assert family["p_equivalence_adjusted"].to_numpy() == pytest.approx(equal)


def test_the_baseline_is_equivalent_to_itself(rng):
    counts = some(rng)
    tests = compare(pair(counts, counts), 0.01)
    assert (tests[["effect", "low", "high"]] == 0).all(axis=None)
    assert (tests["p"] == 1).all()
    assert set(tests["verdict"]) == {"equivalent"}


def test_changing_sides_changes_the_sign_alone(rng):
    ours, theirs = some(rng), some(rng, less=3)
    forth, back = (compare(pair(*sides), 0.01) for sides in ((ours, theirs), (theirs, ours)))
    assert back["effect"].to_numpy() == pytest.approx(-forth["effect"].to_numpy())
    assert back["low"].to_numpy() == pytest.approx(-forth["high"].to_numpy())
    for name in ("p", "p_equivalence"):
        assert back[name].to_numpy() == pytest.approx(forth[name].to_numpy())


def test_the_order_of_the_rows_is_irrelevant(rng):
    cases = pair(some(rng), some(rng))
    shuffled = pd.concat([cases.iloc[:30].sample(frac=1), cases.iloc[30:].sample(frac=1)])
    pd.testing.assert_frame_equal(compare(cases, 0.01), compare(shuffled, 0.01), check_exact=True)


def test_images_of_one_group_count_as_one(rng):
    cases = pair(some(rng, 10), some(rng, 10))
    copies = pd.concat([cases, cases.assign(case=cases["case"] + "b")])
    columns = ["effect", "low", "high", "groups", "p", "p_equivalence"]
    once, twice = (compare(table, 0.01)[columns] for table in (cases, copies))
    pd.testing.assert_frame_equal(once, twice)


def test_folds_are_averaged_and_those_of_one_side_alone_are_left_out(rng):
    ours, theirs = ([some(rng, 9) for _ in range(3)] for _ in range(2))
    tables = [pair(ours[f], theirs[f], fold=f) for f in range(2)]
    effect = one(compare(pd.concat([*tables, cases_of(theirs[2], fold=2)]), 0.01))["effect"]
    each = [iou(ours[f].sum(0)) - iou(theirs[f].sum(0)) for f in range(2)]
    assert effect == pytest.approx(np.mean(each))


def test_the_mean_of_classes_and_of_domains_away_is_a_row_of_its_own(rng):
    parts = [
        pair(some(rng, 12), some(rng, 12), domain=domain, name=name)
        for domain in "ABC"
        for name in ("background", "LV", "RV")
    ]
    tests = compare(pd.concat(parts), 0.01, homes=["A"]).query("metric == 'iou'")
    effects = tests.set_index(["domain", "class"])["effect"].unstack()
    assert list(effects.columns) == ["LV", "RV", MEAN]
    assert effects[MEAN].to_numpy() == pytest.approx(effects[["LV", "RV"]].mean(axis=1).to_numpy())
    assert effects.loc[AWAY].to_numpy() == pytest.approx(effects.loc[["B", "C"]].mean().to_numpy())


def test_a_class_that_no_case_has_is_left_open():
    empty = np.zeros((5, 3), int)
    row = one(compare(pair(empty, empty), 0.01))
    assert row[["effect", "low", "p", "p_equivalence"]].isna().all()
    assert row["verdict"] == "cannot tell"


def test_a_single_group_is_left_open(rng):
    row = one(compare(pair(some(rng, 1), some(rng, 1)), 0.01))
    assert row[["low", "high", "p", "p_equivalence"]].isna().all()
    assert row["verdict"] == "cannot tell"


def test_one_pair_of_runs_is_about_checkpoints_and_several_about_variants(rng):
    runs = [pair(some(rng, 9), some(rng, 9), fold=fold) for fold in range(3)]
    first, all_of_them = (one(compare(pd.concat(runs[:n]), 0.01)) for n in (1, 3))
    assert (first["of"], first["runs"]) == ("checkpoint", 1)
    assert (all_of_them["of"], all_of_them["runs"]) == ("variant", 3)
    assert np.isnan([first["spread_runs"], first["more_runs"], all_of_them["least_p"]]).all()
    assert first["least_p"] == 2.0**-8


def test_no_more_trainings_are_asked_for_only_where_there_is_a_verdict(rng):
    variants = ["L1-pruned", "L2-pruned", "L3-pruned", "L4-pruned"]
    runs = []
    for fold in range(4):
        theirs = some(rng, 30)
        lifts = rng.normal([2, 2, 0, 0], 1).round().astype(int)[:, None] * [1, 0, -1]
        runs += [cases_of(theirs, fold=fold)]
        runs += [cases_of(theirs + u, v, fold=fold) for u, v in zip(lifts, variants, strict=True)]
    tests = compare(pd.concat(runs), 0.005)
    told = tests["verdict"] != "cannot tell"
    assert told[tests["more_runs"] == 0].all()
    assert (tests["more_runs"] > 0).any()


def test_the_interval_of_variants_is_wider_than_that_of_their_checkpoints_by_the_trainings(rng):
    theirs = some(rng, 40)
    lift = [np.array([up, 0, -up]) for up in (2, 10, 18)]
    runs = [pair(theirs + up, theirs, fold=fold) for fold, up in enumerate(lift)]
    row = one(compare(pd.concat(runs), 0.01), "case_iou")
    spread = np.std([(iou(theirs + up) - iou(theirs)).mean() for up in lift], ddof=1)
    assert row["spread_runs"] == pytest.approx(spread, rel=0.02)
    assert row["high"] - row["effect"] >= stats.t.ppf(0.975, 2) * spread / np.sqrt(3) * 0.98
    assert row["verdict"] == "cannot tell"


def test_domains_left_out_in_turn_are_compared_by_the_runs_that_left_them_out(rng):
    runs = [pair(some(rng, 9), some(rng, 9), domain=d, fold=f) for f, d in enumerate("ABC")]
    seen = [pair(some(rng, 9), some(rng, 9), domain="seen", fold=f) for f in range(3)]
    tests = compare(pd.concat([*runs, *seen]), 0.01, homes=["seen"]).query("metric == 'iou'")
    by = tests.set_index("domain")
    assert by["runs"].to_dict() == {"A": 1, "B": 1, "C": 1, "seen": 3, AWAY: 3}
    assert by["effect"][AWAY] == pytest.approx(by["effect"][list("ABC")].mean())
    assert np.isfinite(by["low"]).all()
    assert (by["p"][list("ABC")] < 1).any()


def test_home_and_the_mean_over_the_others_are_asked_first(rng):
    parts = [pair(some(rng, 6, -5), some(rng, 6, 20), domain=d) for d in "ABC"]
    tests = compare(pd.concat(parts), 0.01, homes=["A"]).query("metric == 'iou'")
    least = tests.set_index("domain")["least_p"]
    assert least[["A", AWAY]].tolist() == pytest.approx([0.046875] * 2)
    assert least[["B", "C"]].tolist() == pytest.approx([0.09375] * 2)
    assert (tests["p_adjusted"] >= tests["p"]).all()


def test_networks_that_call_everything_a_cell_both_fail(rng):
    cell, pixels = rng.integers(200, 300, 12), 1000
    everything = np.column_stack([cell, pixels - cell, 0 * cell])
    ground = np.column_stack([0 * cell, 0 * cell, pixels - cell])
    cases = pd.concat([pair(ground, ground, name="background"), pair(everything, everything)])
    row = one(compare(cases, 0.01))
    assert row["verdict"] == "both fail"
    assert row["floor"] == row["baseline"] == pytest.approx(cell.sum() / (12 * pixels))


def test_a_network_above_the_floor_has_a_verdict_beside_one_that_fails(rng):
    cell = rng.integers(200, 300, 12)
    fails = np.column_stack([cell, 1000 - cell, 0 * cell])
    finds = np.column_stack([cell - 20, 0 * cell + 20, 0 * cell + 20])
    ground = np.column_stack([980 - cell, 0 * cell + 20, 0 * cell + 20])
    cases = pd.concat([pair(ground, ground, name="background"), pair(finds, fails)])
    assert one(compare(cases, 0.01))["verdict"] == "higher"


def test_nine_slides_can_be_told_apart_among_four_variants_and_five_scanners(rng):
    theirs = some(rng, 9)
    parts = []
    for domain in "ABCDE":
        parts.append(cases_of(theirs, domain=domain))
        for k, name in enumerate(("L1-pruned", "L2-pruned", "L3-pruned", "L4-pruned")):
            up = rng.integers(-2, 3, (9, 1)) + 8 * (k == 0 and domain != "A")
            parts.append(cases_of(theirs + up * np.array([1, 0, -1]), name, domain))
    tests = compare(pd.concat(parts), 0.01, homes=["A"]).query("metric == 'iou'")
    found = tests[(tests["domain"] == AWAY) & (tests["variant"] == "L1-pruned")].iloc[0]
    assert found["p_adjusted"] < 0.05
    assert found["verdict"] == "higher"


@pytest.mark.parametrize("margin", [0, 1, -0.1])
def test_a_margin_must_be_a_share(rng, margin):
    with pytest.raises(ValueError, match=r"margin must be in \(0, 1\), got"):
        compare(pair(some(rng), some(rng)), margin)


def test_names_of_means_are_reserved(rng):
    with pytest.raises(ValueError, match="domain 'away' and class 'mean' are reserved for means"):
        compare(pair(some(rng), some(rng), domain="away"), 0.01)


@pytest.mark.parametrize("runs", [1, 3])
def test_a_metric_with_the_sums_of_the_iou_is_compared_as_the_iou_is(rng, runs):
    names = ("ground", "cell", "nucleus")
    parts = [
        pair(some(rng, 9), some(rng, 9, 3), fold=f, name=name, domain=d)
        for f, name, d in product(range(runs), names, "ABC")
    ]
    # the floor needs as many pixels of a class in each run
    cases = pd.concat(parts).assign(fn=lambda t: 100 - t["tp"])
    tests = compare(cases, 0.01, ["A"], measured=measured_of(cases))
    keys = ["encoder", "variant", "domain", "class"]
    by_iou, by_metric = (tests.query(f"metric == '{m}'").set_index(keys) for m in ("iou", "dice"))
    assert set(by_metric.index.get_level_values("class")) == {"cell", "nucleus", MEAN}
    columns = by_iou.columns.drop(["metric", "floor"])
    pd.testing.assert_frame_equal(by_metric[columns], by_iou[columns])


def test_dice_of_groups_is_compared_as_the_mean_over_single_cases_is(rng):
    cases = pair(some(rng, 8), some(rng, 8, 4))
    counts = cases[["tp", "fp", "fn"]].to_numpy()
    measured = measured_of(cases, "group_dice").assign(
        numerator=2.0 * counts[:, 0], denominator=counts.sum(1) + counts[:, 0]
    )
    tests = compare(cases, 0.01, measured=measured)
    by_case, by_group = (one(tests, name) for name in ("case_dice", "group_dice"))
    for name in ("effect", "low", "p", "p_equivalence"):
        assert by_group[name] == pytest.approx(by_case[name], abs=1e-9)


def test_networks_that_fail_by_iou_fail_by_every_other_metric(rng):
    cell, pixels = rng.integers(200, 300, 12), 1000
    everything = np.column_stack([cell, pixels - cell, 0 * cell])
    ground = np.column_stack([0 * cell, 0 * cell, pixels - cell])
    cases = pd.concat([pair(ground, ground, name="background"), pair(everything, everything)])
    tests = compare(cases, 0.01, measured=measured_of(cases, "boundary_iou"))
    assert one(tests, "boundary_iou")["verdict"] == "both fail"


def test_networks_are_not_compared_by_what_has_no_better_end_or_is_no_ratio_of_sums(rng):
    cases = pair(some(rng), some(rng))
    other = pd.concat(measured_of(cases, name) for name in ("ece", "entropy", "volume_bias", "iou"))
    assert set(compare(cases, 0.01, measured=other)["metric"]) == {"iou", "case_iou", "case_dice"}


def test_the_difference_within_a_group_is_that_of_a_table_of_this_group_alone(rng):
    cases = pd.concat([pair(some(rng, 4), some(rng, 4, 5), domain=d) for d in "ABC"])
    found = group_effects(cases, places_of(list("ABC"), ["A"]))
    for group, own in cases.groupby("group"):
        alone = compare(own, 0.01, ["A"]).query("metric == 'iou'").set_index("domain")["effect"]
        mine = found[found["group"] == group].set_index("domain")["effect"]
        assert mine[alone.index].to_numpy() == pytest.approx(alone.to_numpy())


def test_a_group_without_the_class_has_no_difference(rng):
    ours, theirs = some(rng, 3), some(rng, 3)
    ours[0] = theirs[0] = 0
    found = group_effects(pair(ours, theirs), places_of(["original"], []))
    assert found["group"].tolist() == ["g001", "g002"]
