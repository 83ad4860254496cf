import numpy as np
import pytest
import torch
from sklearn.preprocessing import minmax_scale, scale
from torchvision.transforms.v2.functional import normalize

from skipshift.data.preprocess import PREPROCESS, prepare, preprocess_of


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (3, 8, 6), dtype=np.uint8)


def test_unit_maps_the_largest_level_to_one_for_8_and_16_bits(image):
    wide = image.astype(np.uint16) * 257
    assert np.allclose(PREPROCESS["unit"](image), image / 255)
    assert np.allclose(PREPROCESS["unit"](wide), image / 255)


def test_minmax_and_zscore_equal_those_of_scikit_learn(image):
    together = minmax_scale(image.reshape(-1).astype(float)).reshape(image.shape)
    apart = np.stack([scale(c.reshape(-1).astype(float)).reshape(c.shape) for c in image])
    assert np.allclose(PREPROCESS["minmax"](image), together, atol=1e-6)
    assert np.allclose(PREPROCESS["zscore"](image), apart, atol=1e-5)


def test_imagenet_equals_that_of_torchvision(image):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = normalize(torch.from_numpy(image / 255).float(), mean, std)
    assert np.allclose(PREPROCESS["imagenet"](image), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["minmax", "zscore"])
def test_a_constant_image_becomes_zero(name):
    assert (PREPROCESS[name](np.full((2, 4, 4, 4), 7, np.int16)) == 0).all()


def test_each_image_of_a_batch_is_preprocessed_by_itself(rng):
    images = rng.normal(size=(3, 4, 5, 6, 2))
    whole = prepare(images, PREPROCESS["minmax"])
    alone = [prepare(image[None], PREPROCESS["minmax"])[0] for image in images]
    assert whole.shape == (3, 2, 4, 5, 6)
    assert np.array_equal(whole, np.stack(alone))


def test_a_user_function_is_imported_by_name(image):
    assert np.array_equal(preprocess_of("numpy:flipud")(image), np.flipud(image))


@pytest.mark.parametrize(
    ("name", "values", "fault"),
    [
        ("unit", np.zeros((1, 4, 4)), "unit needs 8-bit or 16-bit images, got float64; choose"),
        ("imagenet", np.zeros((1, 4, 4), np.uint8), "imagenet needs 3 channels, got 1"),
    ],
)
def test_unsuitable_images_are_an_error(name, values, fault):
    with pytest.raises(ValueError, match=fault):
        PREPROCESS[name](values)


def test_an_unknown_preprocess_lists_the_choices():
    with pytest.raises(ValueError, match="unknown preprocess 'z'; choose unit, minmax, zscore, im"):
        preprocess_of("z")
