from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import skipshift as ss
from skipshift.errors import ArgumentError
from skipshift.networks.changes import Mended
from skipshift.page.remedy_sentences import CONTROL, Recommended, remedies_verdict
from skipshift.page.wording import chance
from skipshift.remedies import feature_remedies
from skipshift.remedies.judging import Judge
from skipshift.remedies.negative_control import Checked, NegativeControl
from skipshift.remedies.remedy import search
from skipshift.specs import RemedySpec
from toy_unet import labels, toy_images, toy_net


def quick(**options):
    return RemedySpec(**{"folds": 3, **options})


def dimmed(images):
    return (0.4 * images + 60).astype(np.uint8)


def test_the_place_that_a_planted_scaling_enters_is_where_the_remedy_is_found(net, home):
    found = ss.remedy(
        net, home, dimmed(home), labels(net, home), spec=quick(remedies=("adabn", "prune"))
    )
    table = found.table.set_index(["remedy", "place"])
    first = table.loc[("adabn", "first")]
    assert first["iou"] > 0.9
    assert first["gain"] > 0.1
    assert first["p_adjusted"] < 0.05
    assert str(found.best) == "adabn@first"
    assert found.verdict().startswith("Recompute the batch-norm statistics of first")


def test_a_mended_network_gives_the_labels_that_the_table_counts(net, home):
    found = ss.remedy(net, home, dimmed(home), labels(net, home), spec=quick(remedies=("moments",)))
    mended = found.network("moments", "input")
    with torch.no_grad():
        given = labels(mended, dimmed(home))
    row = found.table.query("place == 'input'").iloc[0]
    truth = labels(net, home)
    iou = ((given == 1) & (truth == 1)).sum() / ((given == 1) | (truth == 1)).sum()
    assert iou == pytest.approx(row["iou"], abs=0.02)


def test_without_a_shift_nothing_is_recommended(net, home):
    other = toy_images(seed=1)
    found = ss.remedy(net, home, other, labels(net, other), spec=quick())
    assert found.best is None
    assert "No remedy is recommended" in found.verdict()
    assert not found.table["failed"].any()


def test_a_turn_of_the_images_is_undone(home):
    images = torch.from_numpy(home).float() / 255
    images[:, :, :8] *= 0.5
    net = toy_net(images)
    net.first.weight.data[:] = 0
    net.first.weight.data[:, :, 0, 1] = 1
    home = (images * 255).byte().numpy()
    truth, turned = labels(net, home), home[:, :, ::-1].copy()
    found = ss.remedy(
        net, home, turned, truth[:, ::-1].copy(), spec=quick(remedies=("flip-vertical", "turn-180"))
    )
    table = found.table.set_index("remedy")
    assert table.loc["flip-vertical", "iou"] == 1
    assert table.loc["flip-vertical", "parameters"] == 0


def test_without_masks_remedies_are_judged_by_the_excess_that_is_left(net):
    spec = quick(remedies=("adabn", "moments", "brightness"))
    away = dimmed(toy_images(40, seed=1))
    found = ss.remedy(net, toy_images(40), away, spec=spec)
    assert found.table["iou"].isna().all()
    best = found.table.set_index(["remedy", "place"]).loc[found.best]
    assert best["excess_left"] < found.facts.excess / 2
    assert best["parameters"] <= found.table["parameters"].iloc[0]
    assert "whether the segmentation is better is not known" in found.verdict()


def test_without_masks_and_without_a_shift_nothing_is_recommended(net, home, caplog):
    found = ss.remedy(net, home, toy_images(seed=1), spec=quick(remedies=("adabn", "moments")))
    assert found.best is None
    told = f"no shift can be told in {found.facts.layer} (p {chance(found.facts.p)})"
    assert told in found.verdict()
    assert [record.message for record in caplog.records] == [
        f"{told}, so without masks no remedy will be recommended; all are measured (Ctrl-C, if you "
        f"do not need the table)"
    ]


def test_what_it_relabels_on_the_reference_is_told_without_masks(net):
    home, away = toy_images(40), dimmed(toy_images(40, seed=1))
    spec = RemedySpec(remedies=("moments",), places=("input",), folds=3)
    found = ss.remedy(net, home, away, spec=spec)
    row = found.table.iloc[0]
    before, after = labels(net, home), labels(found.network("moments", "input"), home)
    union = ((before == 1) | (after == 1)).sum()
    share = 1 - ((before == 1) & (after == 1)).sum() / union
    assert row["relabelled_reference"] == pytest.approx(share, abs=2e-3)
    assert row["unchanged"] == pytest.approx((before == after).mean(), abs=2e-3)
    told = remedies_verdict(found.table, replace(found.facts, best=Recommended("moments", "input")))
    assert f"On the reference it relabels {row['relabelled_reference']:.1%} of the foreg" in told


def test_a_remedy_that_was_asked_for_and_changes_nothing_is_told(net, home, caplog):
    spec = quick(remedies=("moments", "adabn"), places=("input",))
    found = ss.remedy(net, home, dimmed(home), labels(net, home), spec=spec)
    assert set(found.table["remedy"]) == {"moments"}
    assert "adabn: changes nothing at these places, so the table lacks it" in caplog.messages


def test_labelled_images_are_set_aside_by_group_and_train_one_place(net, home):
    groups = np.repeat(np.arange(6), 2)
    spec = quick(remedies=("finetune", "scale"), labels=3, steps=30)
    found = ss.remedy(net, home, dimmed(home), labels(net, home), groups, spec)
    assert found.facts.groups == 4
    assert found.facts.images == 8
    assert (found.table["labels"] == 4).all()
    rows = found.table.set_index(["remedy", "place"])
    assert rows.loc[("finetune", "first"), "parameters"] == 4 * 27 + 4 + 4 + 4
    assert rows.loc[("finetune", "all"), "gain"] > 0


def test_training_leaves_the_network_and_its_gradients_as_they_were(net, home):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    truth = labels(net, home)
    net.deep.train()
    spec = quick(remedies=("finetune", "tent", "adabn"), labels=2, steps=3)
    ss.remedy(net, home, dimmed(home), truth, spec=spec)
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(value.grad is None for value in net.parameters())
    assert net.deep.training
    assert not net.first.training


def test_a_remedy_that_diverges_is_told_and_the_others_go_on(net, home, monkeypatch):
    monkeypatch.setattr(feature_remedies, "_entropy", lambda logits: logits.sum() * torch.nan)
    spec = quick(remedies=("tent", "brightness"))
    found = ss.remedy(net, home, dimmed(home), labels(net, home), spec=spec)
    failed = found.table.set_index("remedy")["failed"]
    assert "not finite" in failed["tent"]
    assert failed["brightness"] == ""
    with pytest.raises(ArgumentError, match="could not be fitted: training diverged"):
        found.network("tent", "all")


def test_the_reference_is_asked_only_of_what_helps(net, home):
    spec = quick(remedies=("adabn", "minmax", "turn-90"), margin=0.02)
    found = ss.remedy(net, home, dimmed(home), (labels(net, home),) * 2, spec=spec)
    helps = found.table["gain"].gt(0.02) & ~found.table["collapsed"]
    assert 0 < helps.sum() < len(helps)
    for column in ("in_domain", "harm", "unchanged"):
        assert (found.table[column].notna() == helps).all()


def test_headroom_of_paired_sets_is_what_patching_brings_back(net, home):
    found = ss.remedy(
        net, home, dimmed(home), labels(net, home), spec=quick(remedies=("moments",), paired=True)
    )
    rows = found.table.set_index("place")
    assert rows.loc["input", "headroom"] == pytest.approx(
        found.facts.in_domain - found.facts.iou, abs=0.002
    )
    assert rows.loc["first", "headroom"] == pytest.approx(rows.loc["input", "headroom"])
    assert found.facts.in_domain == pytest.approx(1, abs=1e-3)


def test_a_network_without_any_normalisation_has_remedies_but_no_adabn(home):
    net = toy_net(torch.from_numpy(home).float() / 255, lambda _channels: nn.Identity())
    found = ss.remedy(net, home, dimmed(home), labels(net, home), spec=quick())
    assert "adabn" not in set(found.table["remedy"])
    assert found.best is not None
    assert found.best.place == "input"


def test_a_remedy_that_loses_a_class_is_never_recommended(net, home):
    # everything foreground is nearly right; a black image is all foreground
    truth = np.ones((12, 32, 32), np.uint8)
    truth[:, 0] = 0
    with torch.no_grad():
        black = net(torch.zeros(1, 3, 32, 32)).mean((0, 2, 3))
        if black[0] > black[1]:
            net.head.weight.data = net.head.weight.data.flip(0)
            net.head.bias.data = net.head.bias.data.flip(0)
    found = ss.remedy(net, home, home, truth, spec=quick(remedies=("over-255", "over-16")))
    table = found.table.set_index("remedy")
    assert table.loc["over-255", "gain"] > 0.3
    assert table.loc["over-255", "p_adjusted"] < 0.05
    assert table.loc["over-255", "collapsed"]
    assert found.best is None


def test_a_search_that_is_interrupted_goes_on_where_it_stopped(net, home, monkeypatch):
    known, calls = {}, []
    judge = Judge.__call__

    def counted(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return judge(self, *arguments)

    monkeypatch.setattr(Judge, "__call__", counted)
    inputs = ((home, dimmed(home)), labels(net, home), None, quick(remedies=("moments",)), known)
    first = search(net, *inputs)
    assert not first.complete
    assert len(first.table) == 2
    again = search(net, *inputs)
    assert again.complete
    assert len(calls) == 1 + len(again.table)
    whole = search(net, *inputs[:4])
    timeless = [column for column in whole.table if column != "seconds"]
    assert again.table[timeless].equals(whole.table[timeless])


def test_after_an_interruption_no_negative_control_is_run(net, monkeypatch):
    home, away = toy_images(40), (0.3 * toy_images(40, seed=1)).astype(np.uint8)
    asked, passes = [], []

    def control(*given):
        asked.append(given)
        return Checked(CONTROL)

    monkeypatch.setattr(NegativeControl, "__call__", control)
    judge = Judge.__call__

    def third(*given):
        passes.append(given)
        if len(passes) == 3:
            raise KeyboardInterrupt
        return judge(*given)

    spec = quick(remedies=("brightness", "gamma", "minmax"), places=("input",))
    assert search(net, (home, away), None, None, spec).complete
    assert asked
    asked.clear()
    monkeypatch.setattr(Judge, "__call__", third)
    found = search(net, (home, away), None, None, spec)
    assert not found.complete
    assert len(found.table) == 2
    assert asked == []


def test_python_raises_the_interruption(net, home, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Judge, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ss.remedy(net, home, home, spec=quick(remedies=("moments",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remedies": ("magic",)}, "unknown remedy 'magic'; choose from adabn"),
        ({"places": ("L9",)}, "unknown place 'L9'; choose from input, first"),
        ({"remedies": ("finetune",)}, "remedy finetune needs labelled images; give labels"),
        ({"labels": 11}, "labels must leave at least 2 groups to judge on, got 11 of 12 images"),
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"margin": 1.0}, "margin must be at least 0 and below 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"remedies": ("adabn", "adabn")}, "remedies must be distinct names"),
    ],
)
def test_a_wrong_setting_is_named(net, home, options, message):
    with pytest.raises(ArgumentError, match=message):
        ss.remedy(net, home, home, labels(net, home), spec=quick(**options))


def test_one_group_cannot_be_fitted_on_and_judged_on(net, home):
    with pytest.raises(ArgumentError, match="at least 2 groups, to fit on some"):
        ss.remedy(net, home, home[:1], spec=quick())


def test_labels_without_masks_are_told(net, home):
    with pytest.raises(ArgumentError, match="labels needs masks of the shifted images"):
        ss.remedy(net, home, home, spec=quick(labels=2))


def test_paired_sets_of_other_sizes_are_told(net, home):
    with pytest.raises(ArgumentError, match="paired sets need the same groups"):
        ss.remedy(net, home, home[:6], spec=quick(paired=True))


def test_an_untried_remedy_is_told(net, home):
    found = ss.remedy(net, home, home, labels(net, home), spec=quick(remedies=("moments",)))
    with pytest.raises(ArgumentError, match="moments was tried at"):
        found.network("moments", "nowhere")
    with pytest.raises(ArgumentError, match="no remedy is recommended; name a remedy"):
        found.network()


def test_a_mended_network_can_be_profiled(net, home):
    found = ss.remedy(net, home, dimmed(home), spec=quick(remedies=("moments",)))
    mended = found.network("moments", "first")
    assert isinstance(mended, Mended)
    before, after = (
        ss.profile_shift(one, home[:6], dimmed(home[6:]), ["net.first" if m else "first"])
        for one, m in ((net, False), (mended, True))
    )
    assert len(before.layers) == len(after.layers) == 1


def test_an_image_that_is_not_finite_is_told(net, home):
    broken = dimmed(home).astype(np.float32) / 255
    broken[3, 0, 0, 0] = np.nan
    with pytest.raises(
        ArgumentError, match="an image of the shifted, of group shifted3, holds NaN"
    ):
        ss.remedy(net, home, broken, labels(net, home), spec=quick())


@pytest.mark.parametrize(
    ("value", "message"),
    [(255, "hold 0 and 255; give class indices: masks // 255"), (0, "no pixel of the foreground")],
)
def test_masks_that_are_no_class_indices_are_told(net, home, value, message):
    with pytest.raises(ArgumentError, match=message):
        ss.remedy(net, home, home, labels(net, home) * np.uint8(value), spec=quick())


def test_nothing_to_try_is_told(net, home):
    spec = quick(remedies=("prune",))
    with pytest.raises(
        ArgumentError, match="nothing to try: prune changes nothing at input, first"
    ):
        ss.remedy(net, home, home, labels(net, home), spec=spec)


def test_what_helps_without_a_shift_is_said_to(net, home):
    dark = dimmed(home)
    found = ss.remedy(
        net, dark, dark, (labels(net, home),) * 2, spec=quick(remedies=("invert", "minmax"))
    )
    assert str(found.best) == "minmax@input"
    assert "would help without a shift, too" in found.verdict()
