import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import skipshift as ss
from skipshift.networks.weights import weights_hash
from skipshift.profile.fingerprints import read_fingerprint

SPEC = ss.FingerprintSpec(pooling="none", bins=30, part=3)
PROFILE = ss.ProfileSpec(pooling=("none",), bins=30, null_draws=30, permutation_draws=99)
NET = nn.Sequential(nn.Identity(), nn.ReLU())


def images(rng, number=24, shift=0.0):
    """Images (N, 6, 2, 2), in layer 0 their own features; half of the spread is the image's."""
    shared = rng.normal(shift, 1, (number, 1, 1, 1))
    return (shared + rng.normal(size=(number, 6, 2, 2))).astype(np.float32)


def printed(array, edges=None, spec=SPEC, **options):
    return ss.fingerprint(
        NET, array, edges, options.pop("layers", ["0", "1"]), spec=spec, **options
    )


def compared(reference, shifted, spec=PROFILE):
    return ss.profile_shift(NET, reference, shifted, spec=spec)


def test_merged_parts_are_exactly_the_pooled_features_over_the_same_edges(rng):
    a, b = images(rng, 30), images(rng, 42, 1.5)
    first = printed(a[:12])
    merged = first.merge(printed(a[12:], first))
    shifted = printed(b[:21], first).merge(printed(b[21:], first))
    counts = []
    for array, sums in ((a, merged), (b, shifted)):
        values = np.moveaxis(array, 1, -1).reshape(-1, 6)
        inner = np.linspace(first.low, first.high, 33)[1:-1]
        index = [
            np.searchsorted(edges, x, "right")
            for edges, x in zip(inner.T[:6], values.T, strict=True)
        ]
        counts.append(np.stack([np.bincount(one, minlength=32) for one in index]))
        assert np.array_equal(sums.counts.sum(0)[:6], counts[-1])
    p, q = (side / side.sum(1, keepdims=True) for side in counts)
    expected = np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum(1) / 2)
    found = compared(merged, shifted).channels
    assert found["value"][found["layer"] == "0"].to_numpy() == pytest.approx(expected, abs=1e-12)
    whole = compared(printed(a, first), printed(b, first)).channels
    assert np.array_equal(found["value"], whole["value"])


def test_the_order_of_merging_does_not_matter(rng):
    a = printed(images(rng))
    b, c = (printed(images(rng, 12, shift), a) for shift in (0.5, 1))
    ways = [a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a, b), b.merge(a).merge(c)]
    shifted = images(rng)
    profiles = [compared(way, shifted).layers for way in ways]
    for way, profile in zip(ways, profiles, strict=True):
        assert np.array_equal(way.counts, ways[0].counts)
        assert np.array_equal(way.images, ways[0].images)
        pd.testing.assert_frame_equal(profile, profiles[0])


def test_parts_hold_whole_groups_and_are_of_one_size(rng):
    array = images(rng, 28)
    found = printed(array, groups=np.arange(28) // 2, spec=replace(SPEC, part=4))
    assert found.groups.tolist() == [4, 4, 4]
    assert found.images.tolist() == [8, 8, 8]
    assert (found.counts.sum(2) == 4 * 8).all()
    assert str(found) == "24 images of 12 groups in 3 parts"


@pytest.mark.parametrize(("number", "part"), [(20, 5), (60, 5), (61, 6), (390, 33)])
def test_parts_grow_so_that_there_are_at_most_twelve(rng, number, part):
    assert printed(images(rng, number), spec=replace(SPEC, part=None)).making.part == part


def test_the_order_of_images_does_not_matter(rng):
    array, labels, order = images(rng), np.arange(24) // 2, rng.permutation(24)
    a, b = printed(array, groups=labels), printed(array[order], groups=labels[order])
    assert np.array_equal(a.counts, b.counts)


def test_what_lies_beyond_the_edges_is_counted_and_told(rng):
    a, b = images(rng), images(rng, shift=3)
    reference = printed(a)
    beyond = [(b > a.max((0, 2, 3))[:, None, None] + 0.1 * np.ptp(a, (0, 2, 3))[:, None, None])]
    profile = compared(reference, b)
    assert profile.outside["0"] == pytest.approx(np.mean(beyond))
    assert set(reference.outside().values()) == {0.0}


def test_a_constant_channel_is_told_from_another_value_only(rng):
    array = images(rng)
    array[:, :3] = 0.7
    reference = printed(array)
    assert (compared(reference, array).layers["distance"] == 0).all()
    array[:, :3] = 0.8
    values = compared(reference, array).channels["value"].to_numpy()
    assert values[:6].tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.slow  # hundreds of draws
def test_with_nothing_shifted_the_excess_is_zero_and_p_is_uniform():
    found = []
    for seed in range(300):
        rng = np.random.default_rng((seed, 7))
        reference = printed(images(rng, 60), layers=["0"], spec=replace(SPEC, part=5))
        found.append(compared(reference, images(rng, (60, 23)[seed % 2])).layers.iloc[0])
    rows = pd.DataFrame(found)
    # edges of the reference alone: a few thousandths
    squares = np.sign(rows["excess"]) * rows["excess"] ** 2
    assert abs(squares.mean()) < 0.005
    # three standard errors of a share of 300
    assert (rows["p"] <= 0.05).mean() == pytest.approx(0.05, abs=0.04)
    assert (rows["p"] <= 0.5).mean() == pytest.approx(0.5, abs=0.09)


def test_a_shift_is_found_from_either_side(rng):
    a, b = images(rng, 36), images(rng, 36, 3)
    for sets in ((printed(a), b), (a, printed(b)), (printed(a), printed(b, printed(a)))):
        row = compared(*sets).layers.iloc[0]
        assert row["excess"] > 0.3
        assert row["p"] == pytest.approx(0.01)
        assert row["low"] < row["excess"] < row["high"]


def test_a_set_smaller_than_a_part_has_a_distance_and_nothing_else(rng):
    profile = compared(printed(images(rng)), images(rng, 2))
    assert profile.layers[["null", "excess", "low", "high", "p"]].isna().to_numpy().all()
    assert (profile.layers["distance"] > 0).all()
    quick = replace(PROFILE, null_draws=0, permutation_draws=0)
    undrawn = compared(printed(images(rng)), images(rng), quick).layers
    assert undrawn["null"].isna().all()
    assert (undrawn["distance"] > 0).all()
    assert "in the other set at least as many groups as in a part" in profile.verdict()


@pytest.mark.parametrize("ending", ["npz", "json"])
def test_a_saved_fingerprint_loads_as_it_was_and_holds_no_label(rng, tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    made = printed(images(rng), groups=[f"patient-{i}" for i in range(24)])
    made.save(path)
    back = ss.Fingerprint.load(path)
    assert (back.making, back.channels) == (made.making, made.channels)
    for name in ("low", "high", "counts", "groups", "images"):
        assert np.array_equal(getattr(back, name), getattr(made, name))
    assert b"patient" not in path.read_bytes()
    first = path.read_bytes()
    back.save(path)
    assert path.read_bytes() == first


def test_a_broken_file_is_named(rng, tmp_path):
    printed(images(rng)).save(tmp_path / "a.npz")
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-900])
    (tmp_path / "text.npz").write_text("text")
    (tmp_path / "other.json").write_text('{"making": {}}')
    np.savez(tmp_path / "else.npz", x=1)
    printed(images(rng)).save(tmp_path / "a.json")
    held = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "wide.json").write_text(json.dumps({**held, "channels": [6, 7]}))
    for name in ("none.npz", "cut.npz", "text.npz", "other.json", "else.npz", "wide.json"):
        with pytest.raises(ss.SkipshiftError, match=rf"{name}: (cannot be read as a fing|\w+: )"):
            ss.Fingerprint.load(tmp_path / name)


def test_a_file_holds_no_part_smaller_than_it_says(rng, tmp_path):
    with pytest.raises(ValueError, match="2 groups cannot fill a part of 3; add images"):
        printed(images(rng, 2)).save(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"must end in \.npz or \.json, got a\.csv"):
        printed(images(rng)).save("a.csv")


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"preprocess": "zscore"}, "preprocess must be that of the fingerprint, unit, got zscore"),
        ({"pooling": "average"}, "pooling must be that of the fingerprint, none, got average"),
        ({"bins": 31}, "bins must be that of the fingerprint, 30, got 31"),
        ({"part": 4}, "part must be that of the fingerprint, 3, got 4"),
    ],
)
def test_a_fingerprint_made_otherwise_is_one_line(rng, spec, fault):
    a, array = printed(images(rng)), images(rng)
    with pytest.raises(ValueError, match=fault):
        printed(array, a, replace(SPEC, **spec))
    with pytest.raises(ValueError, match=fault):
        a.merge(printed(array, None, replace(SPEC, **spec)))


def test_another_network_size_layer_or_edge_is_one_line(rng):
    a, array = printed(images(rng)), images(rng)
    with pytest.raises(ValueError, match="layers must be that of the fingerprint, 0, 1, got 1, 0"):
        printed(array, a, layers=["1", "0"])
    with pytest.raises(ValueError, match=r"size must be .* \(6, 2, 2\), got \(6, 4, 4\)"):
        printed(np.ones((3, 6, 4, 4), np.float32), a)
    other = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU())
    for side in (a, array):
        with pytest.raises(ValueError, match="network must be that of the fingerprint, e3b0c442"):
            ss.profile_shift(other, a, side, spec=PROFILE)
    with pytest.raises(ValueError, match="edges must be the same; make one fingerprint with"):
        a.merge(printed(array))
    with pytest.raises(ValueError, match="share a part: a set was given twice; leave one out"):
        a.merge(a)


def test_a_profile_must_suit_its_fingerprint(rng):
    a, b = printed(images(rng)), images(rng)
    with pytest.raises(ValueError, match=r"must be those of channels, got mmd; choose from hell"):
        compared(a, b, replace(PROFILE, distances=("mmd",)))
    for odd in ({"bins": "fd"}, {"bins": 100}, {"pooling": ("average", "none")}):
        with pytest.raises(ValueError, match="must be those of the fingerprint, none and 30, got"):
            compared(a, b, replace(PROFILE, **odd))
    with pytest.raises(ValueError, match="images must hold at least one image"):
        printed(iter([]), a)


@pytest.mark.parametrize(
    ("odd", "fault"),
    [
        ({"pooling": "max"}, "pooling must be one of average, sample, none, got 'max'"),
        ({"bins": 1}, "bins must be at least 2, got 1"),
        ({"part": 0}, "part must be at least 1, got 0"),
        ({"memory": -1}, "memory must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_a_spec_that_cannot_be_is_one_line(odd, fault):
    with pytest.raises(ValueError, match=fault):
        ss.FingerprintSpec(**odd)


def test_several_files_are_merged_and_strange_ones_named(rng, tmp_path):
    a = printed(images(rng))
    b, strange = printed(images(rng), a), printed(images(rng))
    names = {name: str(tmp_path / f"{name}.npz") for name in "abs"}
    for name, side in zip("abs", (a, b, strange), strict=True):
        side.save(names[name])
    both = read_fingerprint(f"{names['a']},{names['b']}")
    assert np.array_equal(both.counts, a.merge(b).counts)
    with pytest.raises(ss.SkipshiftError, match=r"a\.npz,.*s\.npz: edges must be the same"):
        read_fingerprint(f"{names['a']},{names['s']}")


def test_images_that_are_all_alike_may_fill_parts_that_are_alike(tmp_path):
    made = printed(np.zeros((6, 6, 2, 2), np.float32))
    made.save(tmp_path / "a.npz")
    assert np.array_equal(read_fingerprint(str(tmp_path / "a.npz")).counts, made.counts)


def test_features_on_disk_give_the_same_fingerprint(rng):
    array = images(rng, 200)
    inside, outside = (printed(array, spec=replace(SPEC, memory=m)) for m in (1, 0))
    assert np.array_equal(inside.counts, outside.counts)


def test_a_network_is_known_by_its_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    own = weights_hash(net)
    assert weights_hash(nn.DataParallel(net)) == own
    assert weights_hash(net.bfloat16()) != own
    net.float()[1].running_mean[2] += 1
    assert weights_hash(net) != own


def test_a_known_network_brings_its_layers(rng):
    torch.manual_seed(0)
    net = ss.Unet("resnet18").eval()
    array = rng.integers(0, 256, (12, 3, 64, 64), dtype=np.uint8)
    made = ss.fingerprint(net, array, spec=ss.FingerprintSpec(part=2))
    profile = ss.profile_shift(net, made, array // 2)
    raw = ss.profile_shift(net, array, array // 2)
    assert profile.layers["layer"].tolist() == list(net.layers())
    assert profile.layers["distance"].to_numpy() == pytest.approx(raw.layers["distance"], abs=0.04)
    assert profile.skips == (1, 2, 3, 4)


def test_a_notebook_shows_what_a_fingerprint_holds_and_names_as_text(rng):
    found = printed(images(rng))
    making = replace(found.making, layers=(("<b>", "0"), ("1", "1")))
    shown = replace(found, making=making)._repr_html_()
    assert f"<p>{found}</p>" in shown
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown
