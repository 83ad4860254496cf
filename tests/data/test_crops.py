from dataclasses import replace

import numpy as np
import pytest
from torch.utils.data import DataLoader

from skipshift.data.crops import Crops, EpochSampler, draw_affine, random_crop
from skipshift.data.manifest import Case
from skipshift.errors import ArgumentError
from skipshift.study_specs import TrainingSpec

PLAIN = TrainingSpec(crop=32, flip=0, rotation=0, scale=(1, 1))


@pytest.fixture
def case(rng):
    image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    return Case("a", "original", "a", image, (image[..., 0] > 127).astype(np.uint8))


def test_a_crop_without_augmentation_is_a_window_of_image_and_mask(case, rng):
    image, mask = random_crop(case.image, case.mask, PLAIN, rng)
    windows = [
        (y, x)
        for y in range(33)
        for x in range(65)
        if np.array_equal(case.image[y : y + 32, x : x + 32], image)
    ]
    assert len(windows) == 1
    y, x = windows[0]
    assert np.array_equal(case.mask[y : y + 32, x : x + 32], mask)


def test_flips_equal_those_of_numpy(case, rng):
    spec = replace(PLAIN, flip=1, crop=64)
    square = np.ascontiguousarray(case.image[:, :64])
    image, mask = random_crop(square, np.ascontiguousarray(case.mask[:, :64]), spec, rng)
    assert np.array_equal(image, square[::-1, ::-1])
    assert np.array_equal(mask, case.mask[::-1, :64][:, ::-1])


def test_mask_and_image_are_warped_alike(rng):
    mask = np.zeros((128, 128), np.uint8)
    mask[40:90, 30:80] = 1
    image = (mask * 255)[..., None].repeat(3, 2)
    for _ in range(20):
        warped, labels = random_crop(image, mask, TrainingSpec(crop=64), rng)
        assert ((warped[..., 0] > 127) != labels).mean() < 0.03


def test_magnification_and_rotation_stay_in_their_ranges(rng):
    spec = TrainingSpec(crop=64, rotation=30, flip=0, scale=(0.5, 2))
    linear = np.stack([draw_affine((256, 256), spec, rng)[:, :2] for _ in range(500)])
    scale = 1 / np.sqrt(np.linalg.det(linear))
    angle = np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    assert 0.5 <= scale.min() < 0.6
    assert 1.8 < scale.max() <= 2
    assert 28 < np.abs(angle).max() <= 30


def test_a_crop_that_fits_never_leaves_the_image(rng):
    spec = TrainingSpec(crop=64)
    corners = np.array([[0, 63, 0, 63], [0, 0, 63, 63], [1, 1, 1, 1]])
    for _ in range(200):
        mapped = draw_affine((256, 300), spec, rng) @ corners
        assert (mapped >= -1).all()
        assert (mapped <= np.array([[300], [256]])).all()


def test_a_crop_larger_than_the_image_is_filled_by_reflection(case, rng):
    image, mask = random_crop(case.image, case.mask, replace(PLAIN, crop=128), rng)
    assert image.shape == (128, 128, 3)
    assert mask.any(1).all()


def test_a_single_channel_keeps_its_axis(case, rng):
    assert random_crop(case.image[..., :1], case.mask, PLAIN, rng)[0].shape == (32, 32, 1)


def test_colour_jitter_changes_colours_by_the_papers_shifts_and_nothing_else(rng):
    # a constant grey image: contrast and saturation leave it, brightness scales it
    image, mask = np.full((64, 64, 3), 100, np.uint8), rng.integers(0, 2, (64, 64), dtype=np.uint8)
    spec = replace(PLAIN, color_jitter=0.5)
    levels = []
    for seed in range(200):
        plain = random_crop(image, mask, PLAIN, np.random.default_rng(seed))
        crop, labels = random_crop(image, mask, spec, np.random.default_rng(seed))
        assert np.array_equal(labels, plain[1])
        levels += np.unique(crop).tolist()
    # an even draw of 200 factors leaves no more than a sixth of the range empty at either end
    assert len(levels) == 200
    assert 49 <= min(levels) < 66
    assert 134 < max(levels) <= 150


def test_colour_jitter_needs_colours(case):
    two = replace(case, image=case.image[..., :2])
    with pytest.raises(ArgumentError, match="color_jitter needs grey or RGB images, but case a"):
        Crops([two], replace(PLAIN, color_jitter=0.5), 0)


def test_neither_order_nor_workers_change_a_crop(case):
    crops = Crops([case] * 3, replace(TrainingSpec(crop=32), crops_per_image=2), seed=1)
    loader = DataLoader(crops, 2, sampler=EpochSampler(6, 1), num_workers=2)
    alone = [crops[item][0] for item in EpochSampler(6, 1)]
    assert np.array_equal(np.concatenate([images for images, _ in loader]), np.stack(alone))


def test_order_and_crops_differ_between_epochs(case):
    sampler, crops = EpochSampler(20, 0), Crops([case], TrainingSpec(crop=32), 0)
    first = [index for _, index in sampler]
    sampler.set_epoch(1)
    second = [index for _, index in sampler]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert not np.array_equal(crops[0, 0][0], crops[1, 0][0])
