import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from skipshift import shifts
from skipshift.names import PAPER_SHIFTS, paper_shifts

FACTORS = st.floats(0, 4, allow_nan=False)


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)


@given(FACTORS)
def test_brightness_is_bit_equal_to_pillow(factor):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    theirs = ImageEnhance.Brightness(Image.fromarray(levels)).enhance(factor)
    assert np.array_equal(shifts.brightness(levels, factor), np.asarray(theirs))


@given(FACTORS)
def test_contrast_follows_equation_2_with_the_unrounded_mean(factor):
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    mean = np.asarray(Image.fromarray(image).convert("L"), np.float64).mean()
    exact = np.clip(image * factor + mean * (1 - factor), 0, 255)
    # OpenCV and Pillow round the grey of a pixel apart by one level at most
    assert np.abs(shifts.contrast(image, factor) - np.floor(exact)).max() <= 1


def test_contrast_truncates_what_pillow_rounds():
    image = np.array([[[10, 10, 10], [21, 21, 21]]], np.uint8)
    assert shifts.contrast(image, 0.5)[0, :, 0].tolist() == [12, 18]  # 12.75 and 18.25


@pytest.mark.parametrize("factor", PAPER_SHIFTS["saturation"])
def test_saturation_is_within_rounding_of_equation_3(image, factor):
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float64)[..., None]
    exact = np.clip(factor * image + (1 - factor) * grey, 0, 255)
    assert np.abs(shifts.saturation(image, factor) - exact).max() <= 0.5 + 1 - factor


def test_saturation_rounds_to_the_nearest_level():
    image = np.array([[[255, 0, 0]]], np.uint8)  # its grey is 76
    assert shifts.saturation(image, 0.25).tolist() == [[[121, 57, 57]]]  # 120.75 and 57


@pytest.mark.parametrize("kind", shifts.SHIFTS)
def test_factor_one_is_the_identity(image, kind):
    assert np.array_equal(shifts.SHIFTS[kind](image, 1), image)


@pytest.mark.parametrize("domain", paper_shifts())
def test_a_batch_is_its_images_one_by_one(rng, domain):
    batch = rng.integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    one_by_one = [shifts.apply(image, domain) for image in batch]
    assert np.array_equal(shifts.apply(batch, domain), np.stack(one_by_one))


@pytest.mark.parametrize("domain", paper_shifts())
def test_grey_images_keep_their_shape_and_equal_grey_colours(rng, domain):
    grey = rng.integers(0, 256, (16, 24, 1), dtype=np.uint8)
    shifted = shifts.apply(grey, domain)
    assert shifted.shape == grey.shape
    assert np.array_equal(shifted, shifts.apply(grey.repeat(3, 2), domain)[..., :1])


@pytest.mark.parametrize("kind", shifts.SHIFTS)
def test_an_image_is_never_changed_in_place(image, kind):
    before = image.copy()
    shifts.SHIFTS[kind](image, 0.5)
    shifts.SHIFTS[kind](image, 1)[:] = 0
    assert np.array_equal(image, before)


@pytest.mark.parametrize("factor", [-1, float("nan"), float("inf")])
def test_an_impossible_factor_is_refused(image, factor):
    with pytest.raises(ValueError, match="factor must be a finite number >= 0"):
        shifts.brightness(image, factor)


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8)])
def test_an_array_that_is_no_image_is_refused(bad):
    with pytest.raises(ValueError, match="image must be uint8 of shape"):
        shifts.saturation(bad, 0.5)


def test_an_unknown_shift_names_the_choices(image):
    with pytest.raises(ValueError, match="KIND one of brightness, contrast, saturation"):
        shifts.apply(image, "hue:0.5")


def test_the_paper_grid_has_fourteen_shifts_and_no_identity():
    assert len(paper_shifts()) == 14
    assert not any(domain.endswith(":1") for domain in paper_shifts())
