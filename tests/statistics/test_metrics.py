from itertools import permutations

import cv2
import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from monai.metrics.panoptic_quality import compute_panoptic_quality
from torchmetrics.functional.classification import multiclass_calibration_error

from skipshift.errors import ArgumentError
from skipshift.names import SEGMENTATION_METRICS
from skipshift.statistics.metrics import METRICS, Segmented, inner_band, match_objects, measure_case

CLASSES = ("ground", "left", "right")


def blobs(rng, shape=(48, 40), classes=3):
    """Smooth random masks: the largest of as many blurred noises; some touch the border."""
    noise = rng.normal(size=(classes, *shape)).astype(np.float32)
    return (
        np.stack([cv2.GaussianBlur(each, (0, 0), 3) for each in noise]).argmax(0).astype(np.uint8)
    )


def near(mask, rng):
    """A mask with some pixels moved: rows and columns rolled, and a few labels changed."""
    moved = np.roll(mask, rng.integers(-2, 3, 2), (0, 1))
    return np.where(rng.random(mask.shape) < 0.03, blobs(rng, mask.shape), moved)


def sums(name, mask, labels, **more):
    case = Segmented(mask, labels, more.pop("classes", 3), **more)
    return METRICS[name].measure(case)[:, 0]


def ratios(*given, **more):
    parts = sums(*given, **more)
    with np.errstate(invalid="ignore"):
        return parts[:, 0] / parts[:, 1]


def one_hot(labels, classes=3):
    return torch.from_numpy(np.stack([labels == index for index in range(classes)])[None])


def test_every_metric_has_its_name_in_the_table():
    assert tuple(METRICS) == SEGMENTATION_METRICS


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.2, 0.5)])
@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.5])
def test_surface_dice_is_that_of_monai(spacing, tolerance):
    rng = np.random.default_rng(1)
    for _ in range(5):
        mask = blobs(rng)
        labels = near(mask, rng)
        theirs = compute_surface_dice(
            one_hot(labels),
            one_hot(mask),
            [tolerance] * 3,
            include_background=True,
            spacing=spacing,
        )
        ours = ratios("surface_dice", mask, labels, tolerance=tolerance, spacing=spacing)
        np.testing.assert_allclose(ours, theirs[0], rtol=1e-6)


def test_surface_dice_in_pixels_is_that_of_pairwise_distances():
    rng = np.random.default_rng(2)
    mask, labels = (rng.integers(0, 2, (9, 12)).astype(np.uint8) for _ in "ab")

    def surface(cells):
        padded = np.pad(cells, 1)
        around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        return np.argwhere(cells & ~around)

    a, b = surface(mask == 1), surface(labels == 1)
    far = np.hypot(*(((a[:, None] - b[None]) * (1.5, 0.7)).transpose(2, 0, 1)))
    hits = (far.min(1) <= 1.0).sum() + (far.min(0) <= 1.0).sum()
    ours = sums("surface_dice", mask, labels, classes=2, tolerance=1.0, spacing=(1.5, 0.7))
    assert ours[1].tolist() == [hits, len(a) + len(b)]


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_band_holds_the_pixels_near_the_outside(width):
    mask = blobs(np.random.default_rng(3)) == 1
    padded = np.pad(mask, width)  # what is beyond the border is outside
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * width + 1,) * 2)
    assert np.array_equal(inner_band(mask, width), mask & ~windows.all((2, 3)))


def test_boundary_iou_is_the_iou_of_bands_of_two_percent_of_the_diagonal():
    rng = np.random.default_rng(4)
    mask = blobs(rng, (120, 160))  # a diagonal of 200: bands of 4
    labels = near(mask, rng)
    parts = sums("boundary_iou", mask, labels)
    for index in range(3):
        a, b = (inner_band(m == index, 4) for m in (mask, labels))
        assert parts[index].tolist() == [(a & b).sum(), (a | b).sum()]


def test_of_a_large_disc_moved_by_a_pixel_the_boundary_tells_more_than_the_area():
    y, x = np.mgrid[:128, :128]
    mask, labels = ((np.hypot(y - 64, x - c) < 50).astype(np.uint8) for c in (64, 66))
    assert ratios("iou", mask, labels, classes=2)[1] > 0.94
    assert ratios("boundary_iou", mask, labels, classes=2)[1] < 0.7


def objects(labels):
    """(H, W) numbers of the connected parts, by OpenCV."""
    return cv2.connectedComponents(labels.astype(np.uint8), connectivity=8)[1]


def test_object_f1_is_the_recognition_quality_of_monai():
    rng = np.random.default_rng(5)
    for _ in range(10):
        mask = blobs(rng)
        labels = near(mask, rng)
        theirs = [
            compute_panoptic_quality(
                torch.from_numpy(objects(labels == index)),
                torch.from_numpy(objects(mask == index)),
                metric_name="rq",
                match_iou_threshold=0.49999,  # theirs must be exceeded, ours reached
            )
            for index in range(3)
        ]
        np.testing.assert_allclose(ratios("object_f1", mask, labels), theirs, atol=1e-5)


def test_at_an_overlap_of_one_half_as_many_objects_are_matched_as_can_be():
    # both halves of an object have an IoU of 0.5 with it: one of them is its match
    mask, labels = np.zeros((2, 3, 9), bool)
    mask[0] = True
    labels[0, :4] = labels[0, 5:] = True
    mask[0, 8] = False
    labels[0, 8] = False
    assert match_objects(mask, labels) == (1, 1, 2)


def test_matches_are_as_many_as_the_best_of_all_assignments():
    rng = np.random.default_rng(6)
    for _ in range(20):
        mask, labels = (rng.random((5, 7)) < 0.35 for _ in "ab")
        a, b = objects(mask), objects(labels)
        own, found = range(1, a.max() + 1), range(1, b.max() + 1)
        fits = {
            (i, j)
            for i in own
            for j in found
            if 2 * ((a == i) & (b == j)).sum() >= ((a == i) | (b == j)).sum()
        }
        if len(own) > len(found):
            own, found, fits = found, own, {(j, i) for i, j in fits}
        orders = permutations(found, len(own))
        best = max(sum(pair in fits for pair in zip(own, order, strict=True)) for order in orders)
        assert match_objects(mask, labels) == (best, a.max(), b.max())


def random_probabilities(rng, shape=(30, 20), classes=3):
    logits = torch.from_numpy(rng.normal(0, 2, (classes, *shape)).astype(np.float32))
    return logits.softmax(0).numpy()


def test_calibration_error_is_that_of_torchmetrics():
    rng = np.random.default_rng(7)
    soft = random_probabilities(rng)
    mask = blobs(rng, (30, 20))
    case = Segmented(mask, soft.argmax(0).astype(np.uint8), 3, soft)
    parts = METRICS["ece"].measure(case)[0]
    theirs = multiclass_calibration_error(
        torch.from_numpy(soft.reshape(3, -1).T), torch.from_numpy(mask.ravel().astype(int)), 3, 15
    )
    assert np.abs(parts[:, 0]).sum() / parts[:, 1].sum() == pytest.approx(float(theirs), abs=1e-6)


def test_a_pixel_that_is_certain_is_in_the_last_bin():
    soft = np.stack([np.ones((2, 2)), np.zeros((2, 2))]).astype(np.float32)
    mask = np.array([[0, 0], [0, 1]], np.uint8)
    case = Segmented(mask, np.zeros((2, 2), np.uint8), 2, soft)
    assert METRICS["ece"].measure(case)[0, -1].tolist() == [1, 4]


def test_brier_and_entropy_are_those_of_a_sum_over_pixels():
    rng = np.random.default_rng(8)
    soft, mask = random_probabilities(rng), blobs(rng, (30, 20))
    case = Segmented(mask, soft.argmax(0).astype(np.uint8), 3, soft)
    errors, logs = np.zeros(3), 0.0
    for y, x in np.ndindex(mask.shape):
        for index in range(3):
            p = float(soft[index, y, x])
            errors[index] += (p - (mask[y, x] == index)) ** 2
            logs -= p * np.log(p)
    np.testing.assert_allclose(METRICS["brier"].measure(case)[:, 0, 0], errors, rtol=1e-5)
    assert METRICS["entropy"].measure(case)[0, 0] == pytest.approx((logs, 600), rel=1e-5)


def test_a_probability_of_0_has_no_entropy():
    soft = np.stack([np.ones((2, 2)), np.zeros((2, 2))]).astype(np.float32)
    case = Segmented(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), 2, soft)
    assert METRICS["entropy"].measure(case)[0, 0].tolist() == [0, 4]


def test_the_bias_has_the_sign_of_what_is_too_much():
    mask, labels = np.zeros((2, 4, 4), np.uint8)
    mask[0], labels[:3] = 1, 1
    assert ratios("volume_bias", mask, labels, classes=2)[1] == 2
    assert ratios("volume_bias", labels, mask, classes=2)[1] == pytest.approx(-2 / 3)


@pytest.mark.parametrize("name", ["iou", "dice", "boundary_iou", "surface_dice", "object_f1"])
def test_an_empty_mask_has_nothing_to_divide_and_a_false_object_counts_as_missed(name):
    empty, false = np.zeros((2, 32, 32), np.uint8)
    false[4:9, 20:32] = 1
    assert sums(name, empty, empty, classes=2)[1].tolist() == [0, 0]
    for mask, labels in ((empty, false), (false, empty)):
        above, below = sums(name, mask, labels, classes=2)[1]
        assert above == 0
        assert below > 0
    assert ratios(name, false, false, classes=2)[1] == 1


@pytest.mark.parametrize("name", [n for n, metric in METRICS.items() if not metric.soft])
def test_mirrored_images_have_the_same_sums(name):
    rng = np.random.default_rng(9)
    mask = blobs(rng)
    labels = near(mask, rng)
    assert np.array_equal(sums(name, mask, labels), sums(name, mask[::-1], labels[::-1]))
    if name != "volume_bias":
        assert np.array_equal(sums(name, mask, labels), sums(name, labels, mask))


def test_rows_say_whether_a_class_is_in_the_mask():
    mask = np.zeros((8, 8), np.uint8)
    mask[:2] = 2
    rows = measure_case(Segmented(mask, mask, 3), ["iou"], CLASSES)
    assert [(row[0], row[2]) for row in rows] == [
        ("ground", True),
        ("left", False),
        ("right", True),
    ]


def test_an_unknown_metric_and_absent_probabilities_are_named():
    case = Segmented(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), 2)
    with pytest.raises(ArgumentError, match=r"metrics must be of iou, .*, got hausdorff"):
        measure_case(case, ["hausdorff"], CLASSES[:2])
    with pytest.raises(ArgumentError, match="ece needs the probabilities"):
        measure_case(case, ["ece"], CLASSES[:2])


@pytest.mark.parametrize("ignore", [0, 255])
def test_what_is_ignored_is_as_if_outside_of_the_image(ignore):
    rng = np.random.default_rng(3)
    mask, labels = 1 + blobs(rng, (40, 40), 2), blobs(rng, (40, 40))
    soft = rng.dirichlet(np.ones(3), (40, 40)).transpose(2, 0, 1).astype(np.float32)
    inside = mask[:, :34], labels[:, :34], 3, np.ascontiguousarray(soft[..., :34])
    mask = mask.copy()
    mask[:, 34:] = ignore
    whole = measure_case(
        Segmented(mask, labels, 3, soft, ignore=ignore), SEGMENTATION_METRICS, CLASSES
    )
    part = measure_case(Segmented(*inside), SEGMENTATION_METRICS, CLASSES)
    for ours, theirs in zip(whole, part, strict=True):
        if ours[0] != "ground" or ignore:
            assert ours[:4] == theirs[:4]
            assert ours[4:] == pytest.approx(theirs[4:], rel=1e-6)
