import numpy as np
import pytest
import torch

from skipshift.networks.changes import Affine, Axes, Channels, Resampled
from skipshift.profile.layerwise import draw
from skipshift.remedies.causes import find_cause
from skipshift.remedies.input_remedies import AXES, IMAGENET, MISTAKES, SPACINGS
from skipshift.remedies.likeness import Shown
from skipshift.remedies.mistakes import CAUSES, Respaced, centred, mistakes
from skipshift.remedies.remedy import setting_of
from skipshift.specs import ProfileSpec, RemedySpec
from toy_unet import toy_images, toy_net

TINT = np.array([1.0, 0.7, 0.4])[None, :, None, None]
MEAN, STD = (side.numpy()[None, :, None, None] for side in IMAGENET)


def lit(number=24, seed=0):
    """Colour images that are bright at the top, and brighter still at the top left."""
    rows, columns = np.meshgrid(np.linspace(1, 0.3, 32), np.linspace(1, 0.6, 32), indexing="ij")
    return (toy_images(number, seed=seed) * TINT * rows * columns).astype(np.uint8)


def asked(home, away, groups=None):
    net = toy_net(torch.from_numpy(home).float() / 255)
    own = groups or tuple(
        np.array([f"{name}{i // 2}" for i in range(len(side))])
        for name, side in (("home", home), ("away", away))
    )
    return setting_of(net, (home, away), own, RemedySpec())


def test_making_a_mistake_and_undoing_it_leaves_the_images():
    home = lit(8)
    setting = asked(home, home)
    images = torch.from_numpy(home).float() / 255
    made = dict(mistakes(setting))
    # of factors that give one size a single one is tried
    several = {*AXES, *SPACINGS} - {"spacing-2"}
    assert set(made) == set(CAUSES) - several
    for name, make in MISTAKES.items():
        undo = make(setting)
        if isinstance(undo, Axes | Affine | Channels):
            torch.testing.assert_close(undo(made[name](images)), images, rtol=0, atol=1e-5)
        else:
            assert undo is None or isinstance(undo, Resampled)


def test_pixels_of_another_size_are_made_by_resampling_and_cutting_the_centre():
    images = torch.rand(1, 3, 64, 96)
    assert Respaced(1.5)(images).shape == (1, 3, 96, 128)
    assert Respaced(0.5)(images).shape == (1, 3, 32, 32)
    assert Respaced(0.5)(torch.rand(1, 1, 16, 64, 64)).shape == (1, 1, 16, 32, 32)
    constant = torch.full((1, 3, 64, 64), 0.25)
    torch.testing.assert_close(Respaced(0.67)(constant), torch.full((1, 3, 32, 32), 0.25))


def test_the_centre_is_cut_only_where_a_side_is_longer():
    images = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert torch.equal(centred(images, (2, 8)), images[:, :, 2:4])


def shown(seed, number=20):
    """A set of which each image is a group, and the generator behind it."""
    rng = np.random.default_rng(seed)
    groups = tuple(np.array([f"{side}{i}" for i in range(number)]) for side in "ab")
    draws = draw(groups, ProfileSpec(permutation_draws=199, null_draws=0))
    return Shown(draws, {"layer": rng.normal(size=(number, 9, 4)).astype(np.float32)}), rng


def test_p_of_sets_of_one_distribution_is_uniform():
    least = []
    for seed in range(100):
        set_, rng = shown(seed, 8)
        other = {"layer": rng.normal(size=(8, 9, 4)).astype(np.float32)}
        least.append(set_.compare(other).p.min())
    # 100 draws of 5 %: above 12 in 1 of 500
    assert np.sum(np.array(least) < 0.05) <= 12


def test_what_lies_elsewhere_is_told_though_the_values_are_the_same():
    set_, rng = shown(0)
    set_.features["layer"][:, :3] += 2
    same, moved = ({"layer": rng.normal(size=(20, 9, 4)).astype(np.float32)} for _ in range(2))
    same["layer"][:, :3] += 2
    moved["layer"][:, 6:] += 2
    assert set_.compare(moved).p[0] < 0.05 < set_.compare(same).p[0]
    assert set_.likest([moved, same]) == 1
    assert set_.likest([same, moved]) == 0


@pytest.mark.parametrize(
    ("mistake", "cause"),
    [
        (lambda images: np.rot90(images, 1, (2, 3)), "turn"),
        (lambda images: images[..., ::-1, :], "flip"),
        (lambda images: images.swapaxes(2, 3), "axis order"),
        (lambda images: images[:, ::-1], "channel order"),
        (lambda images: 255 - images, "inversion"),
        (lambda images: images.astype(np.float32), "range"),
        (lambda images: (images / 255 - MEAN) / STD, "normalisation"),
    ],
)
def test_a_mistake_is_named(mistake, cause):
    away = np.ascontiguousarray(mistake(lit(seed=1)))
    away = away if away.dtype == np.uint8 else away.astype(np.float32)
    found = find_cause(asked(lit(), away))
    assert found.clear
    assert found.name == cause
    assert CAUSES[found.undone_by] == cause


def test_darker_images_are_no_mistake():
    found = find_cause(asked(lit(), (lit(seed=1) * 0.6).astype(np.uint8)))
    assert (found.clear, found.name, found.undone_by) == (True, "none", "")
    assert (found.table["clear"] > 0).all()


def test_one_reference_group_has_no_null_to_return_to():
    groups = np.array(["a"] * 24), np.array([f"b{i}" for i in range(24)])
    found = find_cause(asked(lit(), 255 - lit(seed=1), groups))
    assert (found.clear, found.name, len(found.table)) == (False, "none", 0)


def test_mistakes_that_the_images_exclude_cost_no_forward_pass():
    setting = asked(lit(), 255 - lit(seed=1))
    passes = []
    setting.net.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    found = find_cause(setting)
    assert found.name == "inversion"
    # both sets as they are, and the reference inverted; one image more finds the layers
    assert sum(passes) <= 24 * 3 + 3
