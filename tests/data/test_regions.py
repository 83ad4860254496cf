"""Regions of slides: thresholds, masks and samples against brute force and laws."""

import cv2
import numpy as np
import pytest

from skipshift.data.prepare.regions import (
    BACKGROUND,
    UNKNOWN,
    TissueMap,
    grid_corners,
    label_pixels,
    paint_outlines,
    sample_centres,
    white_level,
)

SQUARE = np.array([[20.0, 30.0], [79.0, 30.0], [79.0, 69.0], [20.0, 69.0]])


def tissue_map(tissues, downsample=4.0):
    return TissueMap(np.asarray(tissues, np.uint8), downsample, 200.0)


def test_the_white_level_is_between_glass_and_tissue(rng):
    picture = np.full((200, 200, 3), 242, np.uint8)
    picture[50:150, 60:140] = (180, 90, 160)
    noisy = np.clip(picture + rng.normal(0, 4, picture.shape), 1, 255).astype(np.uint8)
    assert 130 < white_level(noisy) < 235
    padded = np.pad(noisy, ((0, 200), (0, 0), (0, 0)))
    assert 130 < white_level(padded) < 235


def test_an_outline_fills_exactly_its_own_pixels():
    painted = paint_outlines(np.zeros((100, 120), np.uint8), [(3, SQUARE)], (0, 0), 1)
    assert (painted[30:70, 20:80] == 3).all()
    assert (painted > 0).sum() == 40 * 60


@pytest.mark.parametrize("downsample", [1.0, 2.0, 3.7])
def test_a_mask_at_any_scale_equals_the_downsampled_full_one(rng, downsample):
    angles = np.sort(rng.uniform(0, 2 * np.pi, 30))
    radii = rng.uniform(300, 420, 30)[:, None]
    points = 500 + radii * np.column_stack([np.cos(angles), np.sin(angles)])
    full = paint_outlines(np.zeros((1000, 1000), np.uint8), [(1, points)], (0, 0), 1)
    side = round(600 / downsample)
    part = paint_outlines(np.zeros((side, side), np.uint8), [(1, points)], (90, 210), downsample)
    expected = cv2.resize(full[210:810, 90:690], (side, side), interpolation=cv2.INTER_AREA)
    assert (part != expected).mean() < 0.01


def test_enclosed_outlines_are_on_top_in_any_order():
    inner = SQUARE * 0.5 + 25
    outlines = [(1, SQUARE), (2, inner)]
    ways = [
        paint_outlines(np.zeros((100, 120), np.uint8), order, (0, 0), 1)
        for order in (outlines, outlines[::-1])
    ]
    assert np.array_equal(*ways)
    assert (ways[0] == 2).sum() > 0


def test_outlines_far_larger_than_a_patch_fill_it():
    huge = (SQUARE - 50) * 4000 + 50
    assert (paint_outlines(np.zeros((64, 64), np.uint8), [(1, huge)], (0, 0), 1) == 1).all()
    away = SQUARE + 1000
    assert not paint_outlines(np.zeros((64, 64), np.uint8), [(1, away)], (0, 0), 1).any()


def test_colour_decides_only_outside_outlines():
    pixels = np.full((100, 120, 3), 240, np.uint8)
    pixels[:, 60:] = 100
    pixels[:5] = 0
    labels = label_pixels(pixels, [(7, SQUARE)], (0, 0), 1, 200)
    assert (labels[30:70, 20:80] == 7).all()
    assert (labels[80:, :60] == BACKGROUND).all()
    assert (labels[80:, 60:] == UNKNOWN).all()
    assert (labels[:5] == BACKGROUND).all()


def test_the_grid_keeps_the_squares_of_an_exhaustive_search(rng):
    tissues = (cv2.GaussianBlur(rng.random((90, 130)), (0, 0), 8) > 0.5).astype(np.uint8)
    corners = grid_corners(tissue_map(tissues), 40.0, 0.5)
    expected = [
        (x * 4, y * 4)
        for y in range(0, 90, 10)
        for x in range(0, 130, 10)
        if tissues[y : y + 10, x : x + 10].mean() > 0.5
    ]
    assert corners == expected
    assert 0 < len(corners) < 9 * 13


def test_no_square_of_the_grid_leaves_the_slide():
    tissues = np.ones((93, 137))
    corners = np.array(grid_corners(tissue_map(tissues), 50.0, 0.5))
    assert len(corners) == (93 * 4 // 50) * (137 * 4 // 50)
    assert ((corners + 50) <= [137 * 4, 93 * 4]).all()


def test_samples_follow_the_weights_and_are_uniform_over_tissues(rng):
    tissues = np.zeros((60, 60))
    tissues[:10], tissues[10:50], tissues[50:52] = 1, 2, 3
    drawn = sample_centres(tissue_map(tissues), [[0], [2, 3], [1]], (0.1, 0.45, 0.45), 4000, rng)
    shares = np.bincount([index for index, _ in drawn], minlength=3) / 4000
    assert np.allclose(shares, (0.1, 0.45, 0.45), atol=0.03)
    rows = np.array([place[1] / 4 for index, place in drawn if index == 1])
    assert ((rows >= 10) & (rows < 52)).all()
    assert np.mean(rows >= 50) == pytest.approx(0.5, abs=0.05)


def test_the_weight_of_an_absent_class_goes_to_the_others(rng):
    drawn = sample_centres(tissue_map(np.ones((9, 9))), [[0], [2], [1]], (0.1, 0.45, 0.45), 50, rng)
    assert {index for index, _ in drawn} == {2}
    assert sample_centres(tissue_map(np.full((9, 9), 5)), [[0]], (1.0,), 5, rng) == []


def test_more_samples_start_with_the_same_ones():
    tissues = tissue_map(np.arange(400).reshape(20, 20) % 3)
    few, many = (
        sample_centres(tissues, [[0], [1], [2]], (1, 1, 1), count, np.random.default_rng(5))
        for count in (4, 32)
    )
    for (index, place), (other, there) in zip(few, many[:4], strict=True):
        assert index == other
        assert np.array_equal(place, there)
