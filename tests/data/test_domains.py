"""Each detector on clean draws and on its bug; a draw is a small manifest in memory."""

import cv2
import numpy as np
import pandas as pd
import pytest

from skipshift import shifts
from skipshift.data.checks.alignment import judge_alignment
from skipshift.data.checks.channel_order import judge_channel_order, measure_red_blue
from skipshift.data.checks.domains import judge_domains, measure_case
from skipshift.data.checks.group_tests import group_means, groups_differ
from skipshift.data.checks.orientation import ORIENTATIONS, reorient
from skipshift.data.checks.padding import measure_padding
from skipshift.data.checks.value_range import measure_levels
from skipshift.data.images import read_image
from skipshift.data.prepare.options import SynthSpec
from skipshift.data.prepare.synthetic import compose, draw_layout, new_canvas, prepare_templates
from skipshift.data.prepare.templates import load_templates

POOL = 24
NOISE = np.random.default_rng(5)


def noisy(image):
    return np.clip(image + NOISE.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


SCANNERS = {
    "home": lambda image: image,
    "dark": lambda image: shifts.brightness(image, 0.75),
    "bright": lambda image: shifts.brightness(image, 1.25),
    "flat": lambda image: shifts.contrast(image, 0.75),
    "pale": lambda image: shifts.saturation(image, 0.5),
    "warm": lambda image: np.clip(image * [1.1, 1, 0.85], 0, 255).astype(np.uint8),
    "cold": lambda image: np.clip(image * [0.85, 1, 1.1], 0, 255).astype(np.uint8),
    "soft": lambda image: cv2.GaussianBlur(image, (0, 0), 1.2),
    "noisy": noisy,
}
"""Differences that a scanner may cause and that are not bugs."""


def draw_smear(kit, spec, templates, canvas, index):
    return compose(draw_layout(spec, templates, index), kit, spec.size, canvas)


def draw_chest(index):
    """A grey slice with an orientation: a body, a bright heart on the left, a spine below."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    jitter = rng.normal(0, 0.06, (3, 2))

    def disc(number, centre, radii):
        at = np.array(centre) + jitter[number]
        return ((x - at[0]) / radii[0]) ** 2 + ((y - at[1]) / radii[1]) ** 2 < 1

    heart = disc(1, (-0.25, -0.2), (0.25, 0.2))
    image = 60.0 * disc(0, (0, 0), (0.8, 0.6)) + 110 * heart + 50 * disc(2, (0.05, 0.4), (0.1, 0.1))
    image = cv2.GaussianBlur(image + rng.normal(20, 6, image.shape), (0, 0), 1)
    return np.clip(image, 0, 255).astype(np.uint8)[..., None], heart.astype(np.uint8)


@pytest.fixture(scope="module")
def smears(tmp_path_factory):
    spec = SynthSpec(
        tmp_path_factory.mktemp("pool"), images=POOL, size=192, canvas=750, cells=(3, 12)
    )
    templates = load_templates(spec)
    kit, canvas = prepare_templates(spec, templates), new_canvas(spec.canvas)
    return [draw_smear(kit, spec, templates, canvas, index) for index in range(POOL)]


@pytest.fixture(scope="module")
def chests():
    return [draw_chest(index) for index in range(POOL)]


def measure(cases, change=lambda image, mask: (image, mask)):
    """Measurements of cases, stacked, after a change of image and mask."""
    changed = [change(image, mask) for image, mask in cases]
    every = [measure_case(*map(np.ascontiguousarray, pair)) for pair in changed]
    measurements = {name: np.stack([one[name] for one in every]) for name in every[0]}
    return measurements | {"spacing": np.full(len(cases), np.nan)}


@pytest.fixture(scope="module")
def scanned(smears):
    """Measurements of the pool on each scanner."""

    def on(scan):
        return measure(smears, lambda image, mask: (scan(image), mask))

    return {name: on(scan) for name, scan in SCANNERS.items()}


def judge(home, away, rng):
    """Warnings for a manifest of 12 training cases and 8 others of another domain."""
    order = rng.permutation(POOL)
    train, test = order[:12], order[12:20]
    measurements = {name: np.concatenate([home[name][train], away[name][test]]) for name in home}
    cases = pd.DataFrame({"case": [f"c{i}" for i in order[:20]]})
    cases["group"] = cases["case"]
    cases["domain"], cases["split"] = ["A"] * 12 + ["B"] * 8, ["train"] * 12 + ["test"] * 8
    return judge_domains(cases, measurements)


def reported(findings):
    return {finding.what.split(" domain ")[0] for finding in findings}


@pytest.mark.parametrize("scanner", SCANNERS)
def test_no_false_alarm_in_100_draws_of_another_scanner(scanner, scanned):
    rng = np.random.default_rng(0)
    assert not [f for _ in range(100) for f in judge(scanned["home"], scanned[scanner], rng)]


def test_no_false_alarm_in_100_draws_of_oriented_images(chests):
    measurements, rng = measure(chests), np.random.default_rng(0)
    assert not [finding for _ in range(100) for finding in judge(measurements, measurements, rng)]


def moved(mask, right, down, scale=1.0):
    height, width = mask.shape
    matrix = np.float32([[scale, 0, right + (1 - scale) * width / 2], [0, scale, down]])
    matrix[1, 2] += (1 - scale) * height / 2
    return cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST)


def at_half_magnification(pixels, method):
    """Half the magnification, reflected to the same size."""
    half = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=method)
    return cv2.copyMakeBorder(half, 0, len(half), 0, len(half), cv2.BORDER_REFLECT)


BUGS = {
    "half of the levels": ("value range of", lambda i, m: (i // 2, m)),
    "levels 0 and 1": ("value range of", lambda i, m: (i // 255, m)),
    "16 levels": ("bit depth of", lambda i, m: (i // 16 * 17, m)),
    "BGR": ("channel order of", lambda i, m: (i[..., ::-1], m)),
    "BGR and dark": ("channel order of", lambda i, m: (shifts.brightness(i, 0.8)[..., ::-1], m)),
    "half the magnification": (
        "object size of",
        lambda i, m: (at_half_magnification(i, 3), at_half_magnification(m, 0)),
    ),
    "masks 2 % right": ("masks of", lambda i, m: (i, moved(m, 4, 0))),
    "masks 4 % up": ("masks of", lambda i, m: (i, moved(m, 0, -8))),
    "masks enlarged": ("masks of", lambda i, m: (i, moved(m, 0, 0, 1.15))),
    "masks shrunk": ("masks of", lambda i, m: (i, moved(m, 0, 0, 0.88))),
    "masks flipped": ("masks of", lambda i, m: (i, m[:, ::-1])),
    "masks transposed": ("masks of", lambda i, m: (i, m.T)),
    "padded": ("padding in", lambda i, m: (np.pad(i[8:-8], ((8, 8), (0, 0), (0, 0))), m)),
}


@pytest.mark.parametrize("bug", BUGS)
def test_each_bug_is_reported_by_its_own_detector_alone(bug, smears, scanned):
    expected, plant = BUGS[bug]
    away, rng = measure(smears, plant), np.random.default_rng(1)
    assert all(reported(judge(scanned["home"], away, rng)) == {expected} for _ in range(10))


@pytest.mark.parametrize("orientation", list(ORIENTATIONS)[1:])
def test_images_in_another_orientation_are_reported(orientation, chests):
    def change(image, mask):
        return reorient(image[..., 0], orientation)[..., None], reorient(mask, orientation)

    away = measure(chests, change)
    findings = judge(measure(chests), away, np.random.default_rng(2))
    assert reported(findings) == {"orientation of"}
    back = {"turned by 90 degrees": "by 270 degrees", "turned by 270 degrees": "by 90 degrees"}
    assert findings[0].what.endswith(back.get(orientation, orientation))


def test_another_bit_depth_and_another_spacing_are_reported(scanned):
    home, rng = scanned["home"], np.random.default_rng(3)
    levels = home["levels"] * [1, 1, 2, 1]
    assert reported(judge(home, home | {"levels": levels}, rng)) == {"bit depth of"}
    near, far = home | {"spacing": np.full(POOL, 1.2)}, home | {"spacing": np.full(POOL, 1.6)}
    assert reported(judge(near, far, rng)) == {"spacing of"}
    assert not judge(near, home, rng)


def test_real_scanners_are_not_swapped_channels_and_a_swap_is(shared):
    folder = shared / "data/histology/ami_br_patches"
    scanners = ("AperioCS2", "HamamatsuS360", "HamamatsuXR")
    colours = [
        np.stack(
            [measure_red_blue(read_image(file)) for file in sorted((folder / name).glob("*.png"))]
        )
        for name in scanners
    ]
    assert not any(judge_channel_order(one, other) for one in colours for other in colours)
    assert all(judge_channel_order(one, -one) for one in colours)
    assert judge_channel_order(colours[0], -colours[1])


def test_a_swap_of_channels_negates_the_properties(smears):
    image = smears[0][0]
    swapped = np.ascontiguousarray(image[..., ::-1])
    np.testing.assert_allclose(measure_red_blue(swapped), -measure_red_blue(image), atol=1e-6)
    assert not measure_red_blue(image[..., :1]).any()
    assert not measure_red_blue(np.repeat(image[..., :1], 3, 2)).any()


def test_levels_are_the_same_in_8_and_16_bits(rng):
    image = rng.integers(30, 220, (64, 64, 1)).astype(np.uint8)
    low, high, bits, step = measure_levels(image)
    assert (bits, step) == (8, 1)
    assert (low, high) == pytest.approx(np.percentile(image, [1, 99]) / 255, abs=1 / 255)
    wide = measure_levels(image.astype(np.uint16) * 257)
    np.testing.assert_allclose(wide, [low, high, 16, step], atol=1e-9)


def test_padding_is_the_fraction_in_constant_borders(rng):
    image = rng.integers(40, 250, (100, 80, 3)).astype(np.uint8)
    image[:10], image[:, :8] = 0, 0
    assert measure_padding(image) == pytest.approx(1 - 0.9 * 0.9)
    assert measure_padding(np.full((64, 64, 1), 9, np.uint8)) == 0


def test_a_dark_background_around_an_object_is_not_padding():
    y, x = np.mgrid[:128, :128]
    disc = np.where((y - 64) ** 2 + (x - 64) ** 2 < 50**2, 200, 0).astype(np.uint8)
    assert measure_padding(disc[..., None]) == 0


def test_group_means_ignore_nan():
    values = np.array([[1.0, np.nan], [3, 5], [7, np.nan]])
    means = group_means(values, pd.Series(["a", "a", "b"]))
    np.testing.assert_array_equal(means, [[2, 5], [7, np.nan]])


def test_groups_differ_in_the_median_and_significantly():
    ten = np.arange(10.0)
    assert groups_differ((ten, ten + 8), 5)
    assert not groups_differ((ten, ten + 8), 9)
    assert groups_differ((ten[:8], np.array([20.0, 21, np.nan])), 5)
    assert not groups_differ((ten[:8], np.array([20.0])), 5)


def test_masks_of_fewer_than_five_groups_are_not_judged(scanned):
    assert judge_alignment(scanned["home"]["alignment"][:4, ::-1]) is None
