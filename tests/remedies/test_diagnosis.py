import json

import numpy as np
import pytest
import torch

import skipshift as ss
from skipshift.specs import RemedySpec
from toy_unet import labels, toy_images, toy_net

FEW = RemedySpec(folds=2, remedies=("adabn", "minmax"))


@pytest.fixture
def net():
    return toy_net(torch.from_numpy(toy_images(40)).float() / 255)


def test_a_shift_of_the_scanner_is_no_mistake(net):
    away = (toy_images(40, seed=1) * np.linspace(0.3, 0.7, 32)).astype(np.uint8)
    found = ss.diagnose(net, toy_images(40), away, labels(net, toy_images(40, seed=1)), spec=FEW)
    assert found.cause == "none"
    assert found.layer in set(found.profile.layers["layer"])
    assert len(found.causes.table) > 10
    assert "No mistake that was tried" in found.verdict()


@pytest.mark.parametrize(
    ("mistake", "cause"),
    [
        (lambda images: 255 - images, "inversion"),
        (lambda images: (images / 255 / 255).astype(np.float32), "range"),
        (lambda images: images[:, ::-1].copy(), "channel order"),
    ],
)
def test_a_mistake_is_named(mistake, cause):
    tint = np.array([1.0, 0.7, 0.4])[None, :, None, None]
    home, away = ((toy_images(40, seed=s) * tint).astype(np.uint8) for s in (0, 1))
    net = toy_net(torch.from_numpy(home).float() / 255)
    found = ss.diagnose(net, home, mistake(away), spec=FEW)
    assert found.cause == cause
    assert "Probably a mistake" in found.verdict()


def test_without_a_shift_nothing_is_named_or_recommended(net):
    found = ss.diagnose(net, toy_images(40), toy_images(40, seed=1), spec=FEW)
    assert (found.cause, found.layer, found.remedies.best) == ("none", None, None)
    assert len(found.causes.table) == 0
    assert "No mistake was looked for" in found.verdict()


def test_the_cost_is_estimated_where_only_the_reference_has_masks(net):
    home, away = toy_images(12), (0.7 * toy_images(12, seed=1)).astype(np.uint8)
    truth = labels(net, home)
    found = ss.diagnose(net, home, away, (truth, None), spec=FEW)
    alone = ss.estimate(net, home, truth, away)
    assert found.estimate.verdict() == alone.verdict()
    assert f"The shifted images have no masks. {alone.verdict()}" in found.verdict()
    rows = json.loads(json.dumps(found.record()))["estimate"]
    assert [row["class"] for row in rows] == list(alone.table["class"])
    assert [row["answered"] for row in rows] == list(alone.table["answered"])


@pytest.mark.slow
def test_the_iou_with_the_recommended_remedy_is_estimated_too(net):
    home, away = toy_images(40), (0.3 * toy_images(40, seed=1)).astype(np.uint8)
    truth = labels(net, home)
    spec = RemedySpec(folds=2, remedies=("brightness",), places=("input",))
    found = ss.diagnose(net, home, away, (truth, None), spec=spec)
    (change,) = found.remedies.change(*found.remedies.best).inputs
    mended = change(torch.from_numpy(away).float() / 255).numpy()
    alone = ss.estimate(net, home, truth, mended)
    np.testing.assert_array_equal(found.mended.table["iou"], alone.table["iou"])
    told = alone.verdict()
    assert f"With the recommended remedy in place, t{told[1:]}" in found.verdict()
    assert found.record()["mended_estimate"] == found.mended.rows()


def test_the_record_and_the_notebook_say_what_the_verdict_says(net):
    away = (0.4 * toy_images(40, seed=1) + 60).astype(np.uint8)
    truth = labels(net, toy_images(40, seed=1))
    found = ss.diagnose(net, toy_images(40), away, (None, truth), spec=FEW)
    record = json.loads(json.dumps(found.record()))
    assert record["remedy"] == found.remedies.best.remedy
    assert record["lost"] is None
    assert record["verdict"] == found.verdict()
    page = found._repr_html_()
    assert "<svg" in page
    assert "What can be done?" in page
