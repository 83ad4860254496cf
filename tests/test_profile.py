import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import skipshift as ss
from skipshift.distances import hellinger
from skipshift.features import collect
from skipshift.profile import Profile, profile_features
from skipshift.specs import ProfileSpec, SkipshiftError


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ss.Unet("resnet18").eval()


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (10, 3, 64, 64), dtype=np.uint8)


def features(rng, images=30, shift=0.0):
    return {"a": rng.normal(shift, 1, (images, 4, 8)).astype(np.float32)}


def names(images, prefix=""):
    return np.array([f"{prefix}{i}" for i in range(images)])


def test_each_channel_is_the_hellinger_distance_of_its_pooled_features(net, images):
    darker = images // 2
    profile = ss.profile_shift(net, images, darker)
    a, b = (collect(net, [torch.from_numpy(i)]) for i in (images, darker))
    for layer, rows in profile.channels.groupby("layer"):
        expected = hellinger(*(side[layer].reshape(-1, len(rows)) for side in (a, b)))
        assert rows["value"].to_numpy() == pytest.approx(expected, abs=0.02)
    assert list(profile.layers["layer"]) == list(net.layers())


def test_a_layer_is_the_mean_of_its_channels_and_excess_is_above_the_null(net, images):
    profile = ss.profile_shift(net, images, images // 2)
    means = profile.channels.groupby("layer")[["value", "null"]].mean()
    rows = profile.layers.set_index("layer")
    assert rows["distance"].to_numpy() == pytest.approx(means["value"][rows.index])
    assert rows["excess"].to_numpy() == pytest.approx(rows["distance"] - rows["null"])
    assert (rows["low"] <= rows["distance"]).all()
    assert (rows["distance"] <= rows["high"]).all()


def test_identical_sets_are_exactly_zero_apart(net, images):
    assert (ss.profile_shift(net, images, images).layers["distance"] == 0).all()


def test_loaders_and_arrays_give_the_same(net, images):
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(images))
    loader = torch.utils.data.DataLoader(dataset, batch_size=8)
    a = ss.profile_shift(net, images, images // 2)
    b = ss.profile_shift(net, loader, images // 2)
    pd.testing.assert_frame_equal(a.layers, b.layers)


def test_the_null_is_the_distance_of_random_halves(rng):
    own = features(rng)
    profile = profile_features((own, features(rng)), (names(30), names(30, "s")), ProfileSpec())
    flat = own["a"].reshape(30, -1)
    order = [rng.permutation(30) for _ in range(50)]
    halves = [[flat[o[:15]].reshape(-1, 8), flat[o[15:]].reshape(-1, 8)] for o in order]
    expected = np.mean([hellinger(*h) for h in halves])
    assert profile.layers["null"][0] == pytest.approx(expected, abs=0.03)


def test_images_of_one_group_are_never_halved(rng):
    # ten groups of three equal images: halves that split a group would look alike
    own = {"a": rng.normal(size=(10, 4, 8)).astype(np.float32).repeat(3, 0)}
    apart = profile_features((own, own), (names(30), names(30)), ProfileSpec()).layers["null"][0]
    groups = names(10).repeat(3)
    whole = profile_features((own, own), (groups, groups), ProfileSpec()).layers["null"][0]
    assert whole > apart + 0.05


def test_the_order_of_images_does_not_matter(rng):
    a, b, spec = features(rng), features(rng, shift=0.5), ProfileSpec()
    groups = (names(30), names(30, "s"))
    order = rng.permutation(30)
    shuffled = ({"a": a["a"][order]}, {"a": b["a"][order]})
    first = profile_features((a, b), groups, spec)
    second = profile_features(shuffled, (groups[0][order], groups[1][order]), spec)
    pd.testing.assert_frame_equal(first.layers, second.layers)


def test_groups_are_paired_by_name_and_not_by_position(rng):
    a, b = features(rng), features(rng, shift=0.5)
    order = rng.permutation(30)
    moved = {"a": b["a"][order]}
    first = profile_features((a, b), (names(30), names(30)), ProfileSpec())
    second = profile_features((a, moved), (names(30), names(30)[order]), ProfileSpec())
    pd.testing.assert_frame_equal(first.layers, second.layers)


def test_one_group_has_no_null_and_no_interval(rng):
    row = profile_features(
        (features(rng), features(rng)), (names(1).repeat(30),) * 2, ProfileSpec()
    ).layers.iloc[0]
    assert row[["null", "excess", "low", "high"]].isna().all()
    assert row["distance"] > 0


def test_any_network_with_named_layers_will_do(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 5, 3))
    layers = ss.profile_shift(net, images, images // 2, layers=["0", "2"]).layers
    assert layers["layer"].tolist() == ["0", "2"]
    assert layers["depth"].tolist() == [1, 2]


def test_sets_of_different_channels_are_refused(rng):
    other = {"a": rng.normal(size=(30, 4, 7)).astype(np.float32)}
    with pytest.raises(ValueError, match="layer a: both sets must have the same channels"):
        profile_features((features(rng), other), (names(30), names(30)), ProfileSpec())
    with pytest.raises(ValueError, match=r"images must be \(N, 3, H, W\), got \(8, 1"):
        ss.profile_shift(ss.Unet(), np.zeros((9, 3, 32, 32)), np.zeros((9, 1, 32, 32)))


def test_labels_must_be_one_per_image(net, images):
    with pytest.raises(ValueError, match="groups of the shifted must be one label per image, 10"):
        ss.profile_shift(net, images, images, groups=(names(10), names(9)))


def test_a_saved_profile_loads_as_it_was(rng, tmp_path):
    profile = profile_features(
        (features(rng), features(rng)), (names(30), names(30)), ProfileSpec(bins=20)
    )
    profile.save(tmp_path)
    back = Profile.load(tmp_path)
    pd.testing.assert_frame_equal(back.layers, profile.layers, check_dtype=False)
    pd.testing.assert_frame_equal(back.channels, profile.channels, check_dtype=False)
    assert back.spec == profile.spec


def test_a_folder_without_a_profile_is_an_error(tmp_path):
    with pytest.raises(SkipshiftError, match=r"profile\.json: cannot be read"):
        Profile.load(tmp_path)


def test_a_profile_draws_itself(rng):
    sets = (features(rng), features(rng))
    figure = profile_features(sets, (names(30), names(30)), ProfileSpec()).plot("label")
    assert figure.axes


def test_a_single_image_has_a_distance_and_no_null(net, images):
    row = ss.profile_shift(net, images[:1], images[1:2]).layers.iloc[0]
    assert 0 < row["distance"] <= 1
    assert row[["null", "excess", "low", "high"]].isna().all()


def test_sets_of_different_sizes_can_be_compared(net, images, rng):
    larger = rng.integers(0, 256, (10, 3, 96, 96), dtype=np.uint8)
    layers = ss.profile_shift(net, images, larger).layers
    assert layers["distance"].between(0, 1).all()
