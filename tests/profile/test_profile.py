from dataclasses import replace
from html import escape

import numpy as np
import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

import skipshift as ss
from skipshift.errors import SkipshiftError
from skipshift.networks.features import collect
from skipshift.profile.profile import Profile
from skipshift.profile.profiling import profile_features
from skipshift.records import PROFILE_LAYERS, TABLE_COLUMNS
from skipshift.specs import ProfileSpec
from skipshift.statistics.distances import hellinger


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ss.Unet("resnet18").eval()


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (10, 3, 64, 64), dtype=np.uint8)


def features(rng, images=30, shift=0.0):
    return {"average": {"a": [rng.normal(shift, 1, (images, 4, 8)).astype(np.float32)]}}


def names(images, prefix=""):
    return np.array([f"{prefix}{i}" for i in range(images)])


UNPAIRED = (names(30), names(30, "s"))


def test_each_channel_is_the_hellinger_distance_of_its_pooled_features(net, images):
    darker = images // 2
    profile = ss.profile_shift(net, images, darker)
    a, b = (collect(net, [torch.from_numpy(i)])["average"] for i in (images, darker))
    for layer, rows in profile.channels.groupby("layer"):
        expected = hellinger(
            *(np.concatenate(side[layer]).reshape(-1, len(rows)) for side in (a, b))
        )
        assert rows["value"].to_numpy() == pytest.approx(expected, abs=0.02)
    assert list(profile.layers["layer"]) == list(net.layers())


def test_a_layer_is_the_mean_of_its_channels_and_excess_is_above_the_null(net, images):
    profile = ss.profile_shift(net, images, images // 2)
    means = profile.channels.groupby("layer")[["value", "null"]].mean()
    rows = profile.layers.set_index("layer")
    assert rows["distance"].to_numpy() == pytest.approx(means["value"][rows.index])
    assert rows["null"].to_numpy() == pytest.approx(means["null"][rows.index])
    assert ((rows["excess"] > 0) == (rows["distance"] > rows["null"])).all()
    assert (rows["low"] <= rows["excess"]).all()
    assert (rows["excess"] <= rows["high"]).all()


def test_identical_sets_are_exactly_zero_apart(net, images):
    assert (ss.profile_shift(net, images, images).layers["distance"] == 0).all()


def test_loaders_and_arrays_give_the_same(net, images):
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(images))
    loader = torch.utils.data.DataLoader(dataset, batch_size=8)
    a = ss.profile_shift(net, images, images // 2)
    b = ss.profile_shift(net, loader, images // 2)
    pd.testing.assert_frame_equal(a.layers, b.layers)


def test_the_null_is_the_distance_of_fresh_sets_of_the_same_sizes(rng):
    fresh = [hellinger(*rng.normal(size=(2, 120, 8))).mean() for _ in range(20)]
    null = profile_features((features(rng), features(rng)), UNPAIRED, ProfileSpec()).layers["null"]
    assert null[0] == pytest.approx(np.mean(fresh), abs=0.03)


def test_a_split_never_divides_a_group(rng):
    # ten groups of three equal images: halves that split a group would look alike
    sets = [
        {"average": {"a": [rng.normal(size=(10, 4, 8)).astype(np.float32).repeat(3, 0)]}}
        for _ in range(2)
    ]
    apart = profile_features((sets[0], sets[1]), UNPAIRED, ProfileSpec()).layers["null"][0]
    groups = (names(10).repeat(3), names(10, "s").repeat(3))
    whole = profile_features((sets[0], sets[1]), groups, ProfileSpec()).layers["null"][0]
    assert whole > apart + 0.05


def test_the_order_of_images_does_not_matter(rng):
    a, b, spec = features(rng), features(rng, shift=0.5), ProfileSpec()
    groups = (names(30), names(30, "s"))
    order = rng.permutation(30)
    shuffled = tuple({"average": {"a": [x["average"]["a"][0][order]]}} for x in (a, b))
    first = profile_features((a, b), groups, spec)
    second = profile_features(shuffled, (groups[0][order], groups[1][order]), spec)
    pd.testing.assert_frame_equal(first.layers, second.layers)


def test_groups_are_paired_by_name_and_not_by_position(rng):
    a, b = features(rng), features(rng, shift=0.5)
    order = rng.permutation(30)
    moved = {"average": {"a": [b["average"]["a"][0][order]]}}
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
    other = {"average": {"a": [rng.normal(size=(30, 4, 7)).astype(np.float32)]}}
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
    assert (back.spec, back.skips) == (profile.spec, None)
    assert back.verdict() == profile.verdict()


def test_a_folder_without_a_profile_is_an_error(tmp_path):
    with pytest.raises(SkipshiftError, match=r"profile\.json: does not exist"):
        Profile.load(tmp_path)


@pytest.mark.slow  # every pooling and distance
def test_poolings_and_distances_side_by_side_take_one_pass_of_each_set(net, images):
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    spec = ProfileSpec(distances=("hellinger", "mmd"), pooling=("average", "sample", "none"))
    profile = ss.profile_shift(net, images, images // 2, spec=spec)
    assert len(passes) == 4  # two batches of each set
    assert len(profile.layers) == 10 * 2 * 3
    for pooling in spec.pooling:
        alone = ss.profile_shift(net, images, images // 2, spec=ProfileSpec(pooling=(pooling,)))
        pd.testing.assert_frame_equal(profile.of("hellinger", pooling), alone.layers)
    assert set(profile.channels["measure"]) == {"hellinger"}


def test_features_on_disk_give_the_same_profile_to_the_last_bit(net, images):
    spec = ProfileSpec(pooling=("average", "none"), permutation_draws=50)
    inside = ss.profile_shift(net, images, images // 2, spec=spec)
    for memory in (0, 0.002):
        outside = ss.profile_shift(net, images, images // 2, spec=replace(spec, memory=memory))
        pd.testing.assert_frame_equal(inside.layers, outside.layers, check_exact=True)
        pd.testing.assert_frame_equal(inside.channels, outside.channels, check_exact=True)


def test_layers_begin_with_the_columns_of_the_contract(net, images):
    layers = ss.profile_shift(net, images, images // 2).layers
    contract = ["layer", "depth", "distance", "null", "excess", "low", "high"]
    assert list(layers)[:7] == contract
    assert list(layers) == list(TABLE_COLUMNS[PROFILE_LAYERS])


def test_a_distance_that_was_not_measured_names_those_that_were(rng):
    profile = profile_features((features(rng), features(rng)), UNPAIRED, ProfileSpec())
    with pytest.raises(ValueError, match="no mmd of pooling average; it has hellinger of average"):
        profile.of("mmd")


LEVELS = ("e2", "e4", "e8", "e16", "e32", "d16", "d8", "d4", "d2", "d1")
QUICK = ProfileSpec(bins=30, null_draws=10, permutation_draws=500)


def verdict(rng, shifts, images=20, spec=QUICK):
    """Ten layers of one set of images, and of another whose layers are shifted."""
    sides = []
    for moved in (0, 1):
        image = rng.normal(size=(images, 1, 4))  # what layers have in common
        layers = {
            name: [(image + rng.normal(moved * shift, 1, (images, 4, 4))).astype(np.float32)]
            for name, shift in zip(LEVELS, shifts, strict=True)
        }
        sides.append({"average": layers})
    groups = (names(images), names(images, "s"))
    return profile_features((sides[0], sides[1]), groups, spec).verdict()


@pytest.mark.slow  # many profiles
def test_two_halves_of_one_domain_show_no_shift():
    said = [verdict(np.random.default_rng(seed), [0] * 10) for seed in range(100)]
    # 3 standard errors of a share of 0.95
    assert sum(text.startswith("No shift is detected") for text in said) >= 88


def test_the_verdict_names_the_layer_and_how_sure_its_place_is(rng):
    text = verdict(rng, [5, 3, 0, 0, 0, 0, 0, 0, 2, 1])
    assert text.startswith("The excess (bias-corrected distance) is largest at e2: 0.")
    assert text.endswith(
        "That is more than in any other layer: no 95 % interval of a difference holds 0."
    )
    assert text.count(". ") == 1
    assert "pass" not in text


def test_layers_of_one_shift_have_no_order(rng):
    text = verdict(rng, [1.5, 0, 0, 0, 0, 0, 0, 0, 0, 1.5])
    assert "uncertain: the 95 % intervals of the differences hold 0." in text
    order = text.partition("Its order with ")[2]
    assert ("d1" in order) != ("e2" in order)


def test_a_layer_of_one_channel_has_channels_only_for_distances_of_channels(rng):
    one = {"average": {"a": [rng.normal(size=(6, 4, 1))]}}
    spec = replace(QUICK, distances=("mmd", "hellinger"))
    profile = profile_features((one, one), (names(6), names(6)), spec)
    assert profile.channels["measure"].tolist() == ["hellinger"]


def test_a_verdict_on_few_groups_says_that_no_p_could_be_small(rng):
    text = verdict(rng, [9] * 10, images=2)
    assert text.startswith(
        "No verdict is possible: with 2 + 2 groups no p can fall below 0.33. The largest excess is"
    )
    # however many layers: 4 + 4 groups are enough
    assert "10 of 10 layers are significantly" in verdict(rng, [9] * 10, images=4)


def test_without_draws_there_is_no_verdict(rng):
    for missing in ("null_draws", "permutation_draws"):
        text = verdict(rng, [1] * 10, spec=replace(QUICK, **{missing: 0}))
        assert text.startswith("No verdict is possible: it needs the null")


def test_the_skips_of_a_network_are_known(images):
    for net, skips in (
        (ss.Unet(skips=(2, 4)), (2, 4)),
        (smp.Unet("resnet18", encoder_weights=None), (1, 2, 3, 4)),
    ):
        assert ss.profile_shift(net.eval(), images, images).skips == skips


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


def test_a_notebook_shows_the_verdict_and_names_as_text(rng):
    given = [{"average": {"<b>&": features(rng, shift=s)["average"]["a"]}} for s in (0, 3)]
    profile = profile_features((given[0], given[1]), UNPAIRED, QUICK)
    shown = profile._repr_html_()
    assert escape(profile.verdict()) in shown
    assert "&lt;b&gt;&amp;" in shown
    assert "<b>" not in shown
