"""Each detector against clean draws and against its bug; a draw is a small manifest in memory."""

import cv2
import numpy as np
import pandas as pd
import pytest

from skipshift import shifts
from skipshift.data.checks.alignment import judge_fit
from skipshift.data.checks.channel_order import judge_tint, measure_tint
from skipshift.data.checks.domains import by_group, judge_domains, measure_case
from skipshift.data.checks.orientation import TURNS, turn
from skipshift.data.checks.value_range import differs, measure_levels, measure_padding
from skipshift.data.images import read_image
from skipshift.data.prepare.options import SynthSpec
from skipshift.data.prepare.synthetic import compose, draw_layout, new_canvas, prepare_kit
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
"""What a scanner may do and is no bug."""


def draw_smear(kit, spec, templates, canvas, index):
    return compose(draw_layout(spec, templates, index), kit, spec.size, canvas)


def draw_chest(index):
    """A grey slice with a way up: a body, a bright heart left of the middle, a spine below."""
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
    kit, canvas = prepare_kit(spec, templates), new_canvas(spec.canvas)
    return [draw_smear(kit, spec, templates, canvas, index) for index in range(POOL)]


@pytest.fixture(scope="module")
def chests():
    return [draw_chest(index) for index in range(POOL)]


def measure(cases, change=lambda image, mask: (image, mask)):
    """Traits of cases, stacked, after a change of image and mask."""
    changed = [change(image, mask) for image, mask in cases]
    every = [measure_case(*map(np.ascontiguousarray, pair)) for pair in changed]
    traits = {name: np.stack([one[name] for one in every]) for name in every[0]}
    return traits | {"spacing": np.full(len(cases), np.nan)}


@pytest.fixture(scope="module")
def scanned(smears):
    """Traits of the pool on each scanner."""

    def on(scan):
        return measure(smears, lambda image, mask: (scan(image), mask))

    return {name: on(scan) for name, scan in SCANNERS.items()}


def judge(home, away, rng):
    """Warnings of a manifest of 12 training cases and 8 of another domain, without repeats."""
    order = rng.permutation(POOL)
    train, test = order[:12], order[12:20]
    traits = {name: np.concatenate([home[name][train], away[name][test]]) for name in home}
    cases = pd.DataFrame({"case": [f"c{i}" for i in order[:20]]})
    cases["group"] = cases["case"]
    cases["domain"], cases["split"] = ["A"] * 12 + ["B"] * 8, ["train"] * 12 + ["test"] * 8
    return judge_domains(cases, traits)


def told(findings):
    return {finding.what.split(" domain ")[0] for finding in findings}


@pytest.mark.parametrize("scanner", SCANNERS)
def test_no_alarm_in_100_draws_of_another_scanner(scanner, scanned):
    rng = np.random.default_rng(0)
    assert not [f for _ in range(100) for f in judge(scanned["home"], scanned[scanner], rng)]


def test_no_alarm_in_100_draws_of_images_with_a_way_up(chests):
    traits, rng = measure(chests), np.random.default_rng(0)
    assert not [finding for _ in range(100) for finding in judge(traits, traits, rng)]


def moved(mask, right, down, scale=1.0):
    height, width = mask.shape
    matrix = np.float32([[scale, 0, right + (1 - scale) * width / 2], [0, scale, down]])
    matrix[1, 2] += (1 - scale) * height / 2
    return cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST)


def shrunk(pixels, method):
    """Half the magnification: four mirror images beside each other."""
    half = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=method)
    return cv2.copyMakeBorder(half, 0, len(half), 0, len(half), cv2.BORDER_REFLECT)


BUGS = {
    "half of the levels": ("value range of", lambda i, m: (i // 2, m)),
    "levels 0 and 1": ("value range of", lambda i, m: (i // 255, m)),
    "16 levels": ("bit depth of", lambda i, m: (i // 16 * 17, m)),
    "BGR": ("channel order of", lambda i, m: (i[..., ::-1], m)),
    "BGR and dark": ("channel order of", lambda i, m: (shifts.brightness(i, 0.8)[..., ::-1], m)),
    "shrunk": ("object size of", lambda i, m: (shrunk(i, 3), shrunk(m, 0))),
    "masks 2 % right": ("masks of", lambda i, m: (i, moved(m, 4, 0))),
    "masks 4 % up": ("masks of", lambda i, m: (i, moved(m, 0, -8))),
    "masks enlarged": ("masks of", lambda i, m: (i, moved(m, 0, 0, 1.15))),
    "masks shrunk": ("masks of", lambda i, m: (i, moved(m, 0, 0, 0.88))),
    "masks flipped": ("masks of", lambda i, m: (i, m[:, ::-1])),
    "masks transposed": ("masks of", lambda i, m: (i, m.T)),
    "padded": ("padding in", lambda i, m: (np.pad(i[8:-8], ((8, 8), (0, 0), (0, 0))), m)),
}


@pytest.mark.parametrize("bug", BUGS)
def test_each_bug_is_told_as_what_it_is(bug, smears, scanned):
    expected, plant = BUGS[bug]
    away, rng = measure(smears, plant), np.random.default_rng(1)
    assert all(told(judge(scanned["home"], away, rng)) == {expected} for _ in range(10))


@pytest.mark.parametrize("position", list(TURNS)[1:])
def test_images_in_another_position_are_told(position, chests):
    away = measure(chests, lambda i, m: (turn(i[..., 0], position)[..., None], turn(m, position)))
    findings = judge(measure(chests), away, np.random.default_rng(2))
    assert told(findings) == {"orientation of"}
    back = {"turned by 90 degrees": "by 270 degrees", "turned by 270 degrees": "by 90 degrees"}
    assert findings[0].what.endswith(back.get(position, position))


def test_another_depth_and_another_spacing_are_told(scanned):
    home, rng = scanned["home"], np.random.default_rng(3)
    deep = home["levels"] * [1, 1, 2, 1]
    assert told(judge(home, home | {"levels": deep}, rng)) == {"bit depth of"}
    near, far = home | {"spacing": np.full(POOL, 1.2)}, home | {"spacing": np.full(POOL, 1.6)}
    assert told(judge(near, far, rng)) == {"spacing of"}
    assert not judge(near, home, rng)


def test_real_scanners_of_other_colours_are_no_swap_and_a_swap_is(shared):
    folder = shared / "data/histology/ami_br_patches"
    scanners = ("AperioCS2", "HamamatsuS360", "HamamatsuXR")
    tints = [
        np.stack([measure_tint(read_image(file)) for file in sorted((folder / name).glob("*.png"))])
        for name in scanners
    ]
    assert not any(judge_tint(one, other) for one in tints for other in tints)
    assert all(judge_tint(one, -one) for one in tints)
    assert judge_tint(tints[0], -tints[1])


def test_a_swap_of_channels_reverses_the_tint(smears):
    image = smears[0][0]
    swapped = np.ascontiguousarray(image[..., ::-1])
    np.testing.assert_allclose(measure_tint(swapped), -measure_tint(image), atol=1e-6)
    assert not measure_tint(image[..., :1]).any()
    assert not measure_tint(np.repeat(image[..., :1], 3, 2)).any()


def test_levels_are_the_same_in_8_and_16_bits(rng):
    image = rng.integers(30, 220, (64, 64, 1)).astype(np.uint8)
    low, high, bits, step = measure_levels(image)
    assert (bits, step) == (8, 1)
    assert (low, high) == pytest.approx(np.percentile(image, [1, 99]) / 255, abs=1 / 255)
    deep = measure_levels(image.astype(np.uint16) * 257)
    np.testing.assert_allclose(deep, [low, high, 16, step], atol=1e-9)


def test_padding_is_the_share_of_constant_borders(rng):
    image = rng.integers(40, 250, (100, 80, 3)).astype(np.uint8)
    image[:10], image[:, :8] = 0, 0
    assert measure_padding(image) == pytest.approx(1 - 0.9 * 0.9)
    assert measure_padding(np.full((64, 64, 1), 9, np.uint8)) == 0


def test_a_dark_ground_around_an_object_is_no_padding():
    y, x = np.mgrid[:128, :128]
    disc = np.where((y - 64) ** 2 + (x - 64) ** 2 < 50**2, 200, 0).astype(np.uint8)
    assert measure_padding(disc[..., None]) == 0


def test_means_of_groups_leave_out_what_is_not_known():
    values = np.array([[1.0, np.nan], [3, 5], [7, np.nan]])
    means = by_group(values, pd.Series(["a", "a", "b"]))
    np.testing.assert_array_equal(means, [[2, 5], [7, np.nan]])


def test_groups_differ_by_size_and_by_more_than_chance():
    ten = np.arange(10.0)
    assert differs((ten, ten + 8), 5)
    assert not differs((ten, ten + 8), 9)
    assert differs((ten[:8], np.array([20.0, 21, np.nan])), 5)
    assert not differs((ten[:8], np.array([20.0])), 5)


def test_masks_of_few_groups_are_not_judged(scanned):
    assert judge_fit(scanned["home"]["fit"][:4, ::-1]) is None
