import numpy as np
import pytest

from skipshift.names import DISTANCE_NAMES
from skipshift.profile.layerwise import compare, draw
from skipshift.specs import ProfileSpec
from skipshift.statistics.distances import hellinger
from skipshift.statistics.resampling import p_value

SPEC = ProfileSpec(bins=30, null_draws=30, permutation_draws=99)


def noise(rng, *levels):
    """Features (images, 4, 6) whose spread comes in equal parts from each (groups, each) level."""
    images = levels[0]
    parts = [rng.normal(size=(n, 1, 6)).repeat(images // n, 0) for n in levels]
    return sum(parts, rng.normal(size=(images, 4, 6)))


def unpaired(rng):
    return noise(rng, 24), noise(rng, 24), np.arange(24), np.arange(24, 48)


def uneven(rng):
    return noise(rng, 30), noise(rng, 9), np.arange(30), np.arange(30, 39)


def clusters(rng):
    return noise(rng, 40, 8), noise(rng, 40, 8), np.arange(40) // 5, 8 + np.arange(40) // 5


def pairs(rng):
    base = rng.normal(size=(24, 1, 6))
    return base + noise(rng, 24), base + noise(rng, 24), np.arange(24), np.arange(24)


def some_pairs(rng):
    base = rng.normal(size=(36, 1, 6))
    return base[:24] + noise(rng, 24), base[12:] + noise(rng, 24), np.arange(24), np.arange(12, 36)


@pytest.mark.parametrize("design", [unpaired, uneven, clusters, pairs, some_pairs])
def test_with_nothing_shifted_the_excess_is_zero_and_p_is_uniform(design):
    found = []
    for seed in range(500):
        a, b, *labels = design(np.random.default_rng((seed, 5)))
        draws = draw((labels[0], labels[1]), SPEC)
        found.append(compare([a], [b], draws, SPEC)["hellinger"])
    squares = np.array([one.excess.squares[0] for one in found])
    p = np.array([p_value(one.permuted) for one in found])
    assert abs(squares.mean()) < 3 * squares.std() / np.sqrt(500)
    # three standard errors of a share of 500
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.03)
    assert (p <= 0.5).mean() == pytest.approx(0.5, abs=0.068)


@pytest.mark.parametrize("design", [unpaired, uneven, clusters, pairs, some_pairs])
def test_a_shift_has_an_excess_and_the_least_p_there_is(design, rng):
    a, b, *labels = design(rng)
    found = compare([a], [b + 4], draw((labels[0], labels[1]), SPEC), SPEC)["hellinger"]
    assert found.excess.value > 0.3
    assert p_value(found.permuted) == pytest.approx(0.01)


@pytest.mark.parametrize("name", DISTANCE_NAMES)
def test_every_distance_of_one_set_from_itself_has_no_excess_and_no_p(name, rng):
    spec = ProfileSpec(distances=(name,), permutation_draws=20, null_draws=5)
    a = noise(rng, 12)
    found = compare([a], [a], draw((np.arange(12),) * 2, spec), spec)[name]
    nothing = {"auc": 0.5, "gdv": found.value[0]}.get(name, 0)
    assert found.value == pytest.approx(nothing, abs=1e-6)
    if name == "cka":
        assert np.isnan(found.null[0])
        assert found.excess is None
    else:
        assert found.null == pytest.approx(found.value, abs=1e-6)
        assert found.excess.value == pytest.approx(0, abs=1e-6)
        assert p_value(found.permuted) == 1


def hellinger_of_normals(shift):
    return np.sqrt(1 - np.exp(-(shift**2) / 8))


def of_groups(rng, sizes, images, positions, shift):
    """Two sets with 0.4 of the variance by group, 0.2 by image and 0.4 by position."""
    sides = []
    for n, m, k, moved in zip(sizes, images, positions, (0, shift), strict=True):
        group, image = rng.normal(size=(n, 1, 1, 16)), rng.normal(size=(n, m, 1, 16))
        whole = np.sqrt(0.4) * (group + rng.normal(size=(n, m, k, 16))) + np.sqrt(0.2) * image
        sides.append(whole.reshape(n * m, k, 16) + moved)
    labels = [np.arange(n).repeat(m) for n, m in zip(sizes, images, strict=True)]
    return sides, (labels[0], labels[1] + 1000)


def repeated(seed, design, shift, repeats):
    spec = ProfileSpec(null_draws=30, permutation_draws=99)
    found = []
    for repeat in range(repeats):
        (a, b), labels = of_groups(np.random.default_rng((seed, repeat)), *design, shift)
        found.append(compare([a], [b], draw(labels, spec), spec)["hellinger"])
    truth = hellinger_of_normals(shift)
    ends = np.array([one.excess.interval() for one in found])
    return {
        "square": np.array([one.excess.squares[0] for one in found]),
        "excess": np.mean([one.excess.value for one in found]),
        "p": np.array([p_value(one.permuted) for one in found]),
        "covered": ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean(),
        "gap": np.mean([one.value.mean() - one.null.mean() for one in found]),
    }


UNEQUAL = {
    "images": ((12, 12), (10, 2), (16, 16)),
    "images the other way": ((12, 12), (2, 10), (16, 16)),
    "positions": ((12, 12), (1, 1), (36, 169)),
    "numbers": ((30, 8), (1, 1), (16, 16)),
}


@pytest.mark.slow  # 60 profiles of a layer each
@pytest.mark.parametrize("design", UNEQUAL)
def test_images_and_positions_per_group_do_not_matter_without_a_shift(design):
    found = repeated(21, UNEQUAL[design], 0, 60)
    # a Hellinger distance of 0.05; means of squares, because roots of them are never 0
    assert abs(found["square"].mean()) < 0.05**2
    assert abs(found["gap"]) < 0.012
    assert (found["p"] <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    assert found["covered"] >= 0.9


@pytest.mark.slow  # 40 profiles of a layer each
@pytest.mark.parametrize("groups", [20, 60])
@pytest.mark.parametrize("shift", [0.5, 1])
def test_the_excess_is_that_of_the_populations_whatever_the_number_of_images(groups, shift):
    found = repeated(22, ((groups, groups), (1, 1), (16, 16)), shift, 40)
    assert found["excess"] == pytest.approx(hellinger_of_normals(shift), abs=0.015)
    assert found["covered"] >= 0.85
    assert (found["p"] <= 0.05).mean() >= 0.95


def test_the_excess_is_that_of_the_populations(rng):
    (a, b), labels = of_groups(rng, (30, 30), (1, 1), (16, 16), 1)
    found = compare([a], [b], draw(labels, SPEC), SPEC)["hellinger"]
    low, high = found.excess.interval()
    assert low < hellinger_of_normals(1) < high
    assert high - low < 0.15
    assert found.excess.value == pytest.approx(hellinger_of_normals(1), abs=0.06)


def test_where_few_channels_shift_the_excess_is_nearer_to_their_mean_than_to_their_quadratic_mean():
    found = []
    for repeat in range(10):
        (a, b), labels = of_groups(
            np.random.default_rng((23, repeat)), (60, 60), (1, 1), (16, 16), 1
        )
        b[:, :, 8:] -= 1
        found.append(compare([a], [b], draw(labels, SPEC), SPEC)["hellinger"].excess.value)
    mean, quadratic = (hellinger_of_normals(1) * share for share in (0.5, np.sqrt(0.5)))
    assert np.mean(found) == pytest.approx(mean, abs=0.02)
    assert np.mean(found) < quadratic - 0.04


@pytest.mark.parametrize("groups", [2, 3])
def test_fewer_than_three_groups_have_no_interval(groups, rng):
    (a, b), labels = of_groups(rng, (groups, groups), (8, 8), (16, 16), 1)
    found = compare([a], [b], draw(labels, SPEC), SPEC)["hellinger"]
    assert np.isnan(found.excess.interval()).all() == (groups < 3)
    assert found.excess.value > 0.1


def test_one_shifted_group_has_an_excess_from_the_reference_without_each_group():
    moved = []
    for repeat in range(60):
        rng = np.random.default_rng((24, repeat))
        (a, b), labels = of_groups(rng, (12, 1), (4, 4), (16, 16), 0)
        found = [compare([a], [side], draw(labels, SPEC), SPEC)["hellinger"] for side in (b, b + 2)]
        moved.append([one.excess.squares[0] for one in found])
    none, some = np.array(moved).T
    assert abs(none.mean()) < 3 * none.std() / np.sqrt(60)
    assert some.mean() > 0.2


def test_nothing_is_drawn_without_draws_or_with_a_single_group(rng):
    a, b = noise(rng, 12), noise(rng, 12)
    spec = ProfileSpec(null_draws=0, permutation_draws=0)
    for labels, chosen in (((np.arange(12),) * 2, spec), ((np.zeros(12), np.arange(12)), SPEC)):
        found = compare([a], [b], draw(labels, chosen), chosen)["hellinger"]
        assert (found.value > 0).all()
        assert np.isnan(found.null).all()
        assert found.excess is None
        assert not len(found.permuted)


def test_the_smallest_attainable_p_of_few_groups_is_known():
    spec = ProfileSpec(permutation_draws=4000)
    assert draw((np.arange(4),) * 2, spec).smallest_p == pytest.approx(2 / 16, abs=0.02)
    assert draw((np.arange(3), np.arange(3, 6)), spec).smallest_p == pytest.approx(2 / 20, abs=0.02)
    assert draw((np.arange(3), np.arange(3, 4)), spec).smallest_p == pytest.approx(1 / 4, abs=0.02)


def test_distances_side_by_side_are_those_measured_alone(rng):
    a, b = noise(rng, 12), noise(rng, 12) + 1
    labels = (np.arange(12), np.arange(12))
    together = ProfileSpec(distances=DISTANCE_NAMES, permutation_draws=9)
    found = compare([a], [b], draw(labels, together), together)
    for name in ("wasserstein", "mmd"):
        alone = ProfileSpec(distances=(name,), permutation_draws=9)
        only = compare([a], [b], draw(labels, alone), alone)[name]
        assert np.array_equal(found[name].value, only.value)
        assert np.array_equal(found[name].permuted, only.permuted)
        assert found[name].excess.interval() == only.excess.interval()


def test_bins_by_freedman_and_diaconis_grow_with_the_sets(rng):
    spec = ProfileSpec(bins="fd", null_draws=0, permutation_draws=0)
    for images in (20, 2000):
        a, b = noise(rng, images), noise(rng, images) + 3
        found = compare([a], [b], draw((np.arange(images),) * 2, spec), spec)["hellinger"]
        flat = np.concatenate([a, b]).reshape(-1, 6)
        bins = np.median([len(np.histogram_bin_edges(f, "fd")) - 1 for f in flat.T])
        expected = hellinger(a.reshape(-1, 6), b.reshape(-1, 6), int(np.ceil(bins)))
        assert found.value == pytest.approx(expected, abs=0.01)


def test_blocks_of_a_set_are_the_set(rng):
    a, b, spec = noise(rng, 12), noise(rng, 12), ProfileSpec(distances=("energy", "mmd"))
    draws = draw((rng.integers(0, 5, 12), rng.integers(0, 5, 12)), spec)
    whole, parts = (
        compare(*s, draws, spec) for s in (([a], [b]), (np.split(a, [5]), [*b[:, None]]))
    )
    for name in spec.distances:
        assert np.array_equal(whole[name].null, parts[name].null)
        assert np.array_equal(whole[name].permuted, parts[name].permuted)
