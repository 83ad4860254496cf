import numpy as np
import pytest
import torch

import skipshift as ss
from skipshift.remedies.examples import cases_to_show
from skipshift.specs import RemedySpec
from skipshift.statistics.counts import count, iou
from toy_unet import labels, toy_images, toy_net

FEW = RemedySpec(folds=2, remedies=("adabn",), places=("all",))


def away():
    return (0.4 * toy_images(12, seed=1) + 60).astype(np.uint8)


@pytest.fixture
def net():
    return toy_net(torch.from_numpy(toy_images(40)).float() / 255)


def test_the_worst_and_the_median_image_are_shown(net):
    truth = labels(net, toy_images(12, seed=1))
    truth[3] = 0  # nothing to find: no foreground whose IoU could be the worst
    found = ss.remedy(net, toy_images(12), away(), truth, spec=FEW)
    shown = cases_to_show(found)
    with torch.no_grad():
        predicted = labels(net, away())
    scores = [
        float(np.nanmean(iou(count(t[None], p[None], int(truth.max()) + 1)[0, 1:])))
        for t, p in zip(truth, predicted, strict=True)
    ]
    assert scores[3] == 0
    scores[3] = np.inf
    own = [case for case in shown if case.title.startswith("shifted")]
    assert own[0].ious[0] == pytest.approx(min(scores))
    assert own[1].ious[0] == pytest.approx(sorted(scores)[5])
    number = int(np.argmin(scores))
    assert own[0].title == f"shifted set, worst: image {number + 1} of 12"
    np.testing.assert_array_equal(own[0].before, predicted[number])
    np.testing.assert_array_equal(own[0].mask, truth[number])
    np.testing.assert_array_equal(own[0].image, away()[number].transpose(1, 2, 0))


def test_without_masks_the_image_that_changes_most_is_shown(net):
    dark = (0.4 * toy_images(40, seed=1)).astype(np.uint8)
    found = ss.remedy(net, toy_images(40), dark, spec=RemedySpec(folds=2, remedies=("brightness",)))
    mended = found.network()
    own = [case for case in cases_to_show(found) if case.title.startswith("shifted")]
    changed = (labels(mended, dark) != labels(net, dark)).mean((1, 2))
    assert (own[0].before != own[0].after).mean() == pytest.approx(changed.max())


def test_without_masks_and_remedy_the_image_with_least_foreground_is_shown(net):
    images = toy_images(12, seed=1)
    shown = cases_to_show(ss.remedy(net, toy_images(12), images, spec=FEW))
    foreground = (labels(net, images) > 0).mean((1, 2))
    own = [case for case in shown if case.title.startswith("shifted")]
    assert [(case.before > 0).mean() for case in own] == [foreground.min(), np.sort(foreground)[6]]
    assert own[0].title.startswith("shifted set, least foreground")
    assert own[0].after is own[0].mask is None
