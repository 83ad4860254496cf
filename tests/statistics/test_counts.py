import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index
from torchmetrics.functional.segmentation import dice_score
from torchmetrics.segmentation import MeanIoU

from skipshift.statistics.counts import case_parts, constant_counts, count, dice, iou


@pytest.fixture
def pair(rng):
    return rng.integers(0, 3, (2, 5, 16, 24), dtype=np.uint8)


def test_iou_from_counts_agrees_with_torchmetrics(pair):
    masks, predictions = pair
    metric = MeanIoU(num_classes=3, per_class=True, input_format="index")
    # one tall image: torchmetrics averages over images, the paper pools them
    metric.update(*(torch.from_numpy(p.reshape(1, -1, 24)).long() for p in (predictions, masks)))
    assert iou(count(masks, predictions, 3).sum(0)) == pytest.approx(metric.compute().numpy())


def test_dice_from_counts_agrees_with_torchmetrics(pair):
    masks, predictions = (torch.from_numpy(p).long() for p in pair)
    theirs = dice_score(predictions, masks, 3, average=None, input_format="index")
    assert dice(count(*pair, 3)) == pytest.approx(theirs.numpy())


def test_counts_of_parts_add_up_to_counts_of_the_whole(pair):
    masks, predictions = pair
    whole = count(masks.reshape(1, -1, 24), predictions.reshape(1, -1, 24), 3)[0]
    assert np.array_equal(count(masks, predictions, 3).sum(0), whole)


def test_a_class_that_is_absent_everywhere_is_nan():
    empty = np.zeros((1, 4, 4), np.uint8)
    assert np.isnan(iou(count(empty, empty, 2))[0, 1])
    assert np.isnan(dice(count(empty, empty, 2))[0, 1])


def test_labels_beyond_the_classes_are_refused(pair):
    with pytest.raises(ValueError, match="class indices below 2"):
        count(*pair, 2)


def test_masks_and_predictions_must_have_one_shape(pair):
    with pytest.raises(ValueError, match=r"must have the same shape \(N, H, W\)"):
        count(pair[0], pair[1][:2], 3)


def test_constant_predictions_are_counted_as_if_they_were_made(pair):
    masks, predictions = pair
    counts = constant_counts(count(masks, predictions, 3))
    for k in range(3):
        assert np.array_equal(counts[:, k], count(masks, np.full_like(masks, k), 3))


def test_a_case_is_empty_by_its_reference_alone():
    scores, empty = case_parts(np.array([(8, 1, 1), (0, 0, 4), (0, 7, 0), (0, 0, 0)]))
    assert scores[:, 1, 1].tolist() == [1, 1, 0, 0]
    assert scores[:, 1, 0].tolist() == pytest.approx([0.8, 0, 0, 0], abs=1e-8)
    assert empty[:, 0].tolist() == [[0, 0], [0, 0], [1, 1], [0, 1]]
    assert empty[:, 1].tolist() == [[0, 0], [0, 0], [7, 1], [0, 1]]


def test_ignored_pixels_are_in_no_count():
    masks, predictions = np.array([[[2, 1, 1, 0]]], np.uint8), np.array([[[1, 2, 1, 2]]], np.uint8)
    counts = count(masks, predictions, 3, ignore=0)
    assert iou(counts)[0, 1:] == pytest.approx([1 / 3, 0])
    assert np.isnan(iou(counts)[0, 0])


@pytest.mark.parametrize("ignore", [0, 3, 255])
def test_iou_without_ignored_pixels_agrees_with_torchmetrics(pair, rng, ignore):
    masks, predictions = pair
    masks = np.where(rng.random(masks.shape) < 0.2, np.uint8(ignore), masks)
    theirs = multiclass_jaccard_index(
        *(torch.from_numpy(p).long() for p in (predictions, masks)), 3, "none", ignore_index=ignore
    )
    known = np.arange(3) != ignore
    ours = iou(count(masks, predictions, 3, ignore).sum(0))
    assert ours[known] == pytest.approx(theirs.numpy()[known])


def test_many_classes_are_counted_as_torchmetrics_counts_them(rng):
    masks, predictions = rng.integers(0, 255, (2, 2, 64, 64), dtype=np.uint8)
    theirs = multiclass_jaccard_index(
        *(torch.from_numpy(p).long() for p in (predictions, masks)), 255, "none"
    )
    assert iou(count(masks, predictions, 255).sum(0)) == pytest.approx(theirs.numpy(), abs=1e-7)


def test_a_class_cannot_be_ignored_nor_a_value_out_of_range(pair):
    with pytest.raises(ValueError, match="must be 0 or a mask value that is no class, got 2"):
        count(*pair, 3, ignore=2)
    with pytest.raises(ValueError, match=r"ignore must be a mask value in 0\.\.255, got 256"):
        count(*pair, 3, ignore=256)
    with pytest.raises(ValueError, match=r"classes must be 2\.\.255, got 256"):
        count(*pair, 256)
    with pytest.raises(ValueError, match="set ignore to the value of pixels"):
        count(np.full((1, 2, 2), 255, np.uint8), np.zeros((1, 2, 2), np.uint8), 2)
