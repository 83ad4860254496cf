import numpy as np
import pytest

from skipshift.statistics.resampling import (
    FEWEST,
    Groups,
    comparisons,
    holm,
    left_out,
    mixed,
    mixed_halves,
    p_value,
    permutations,
    rest_of,
    sample,
    smallest_permutation_p,
)

DESIGNS = {
    "unpaired": Groups(np.arange(10), np.arange(10, 20)),
    "pairs": Groups(np.arange(10), np.arange(10)),
    "few shifted": Groups(np.arange(10), np.arange(10, 13)),
    "few reference": Groups(np.arange(5), np.arange(5, 20)),
    "some pairs": Groups(np.arange(10), np.arange(6, 14)),
    "shifted inside": Groups(np.arange(9), np.arange(4)),
}


@pytest.fixture(params=DESIGNS)
def groups(request):
    return DESIGNS[request.param]


@pytest.mark.parametrize("draw", [mixed, mixed_halves])
def test_sides_without_a_shift_hold_either_domain_alike_and_every_group_once(draw, groups, rng):
    sides = draw(groups, 400, rng)
    first, second = sides
    assert np.allclose([first.sum(1), second.sum(1)], 1)
    assert ((first > 0) ^ (second > 0)).all()
    for a, b in groups.pairs:
        assert ((first[:, a] > 0) ^ (first[:, b] > 0)).all()
    # numbers that do not divide leave a rest, to neither side
    alone, others = groups.singles
    if draw is mixed_halves or bool(len(alone)) == bool(len(others)):
        assert rest_of(sides, groups).mean() == pytest.approx(0, abs=0.04)
    assert (np.abs(rest_of(sides, groups)) < 0.4).all()


def test_a_mixed_draw_has_as_many_groups_as_the_sets(groups, rng):
    first, second = mixed(groups, 50, rng)
    own, others = groups.sizes
    assert ((first > 0).sum(1) == own).all()
    assert ((second > 0).sum(1) == others).all()


def test_mixed_halves_have_the_noise_of_the_sets(rng):
    groups, spread = Groups(np.arange(8), np.arange(8, 38)), np.repeat([5.0, 1.0], [8, 30])
    expected = 25 / 8 + 1 / 30
    first, second = mixed_halves(groups, 4000, rng)
    values = ((first - second) * rng.normal(size=first.shape) * spread).sum(1)
    assert values.var() == pytest.approx(expected, rel=0.1)


def test_thinned_comparisons_have_the_sizes_asked_for_on_both_twin_and_null(groups, rng):
    found = comparisons(groups, (2, 3), 20, rng)
    assert [(side > 0).sum(1).tolist() for side in found.matched] == [[2] * 20, [3] * 20]
    assert ((found.null[0] + found.null[1] > 0).sum(1) == 5).all()
    parts = found.split(np.arange(len(found.sides[0])))
    assert [len(part) for part in parts] == [
        len(s[0]) for s in (found.whole, found.matched, found.null)
    ]


def test_a_single_shifted_group_meets_the_reference_as_each_of_its_groups_does(rng):
    found = comparisons(Groups(np.arange(4), np.array([3])), None, 50, rng)
    assert found.matched[0].tolist() == found.null[0].tolist()  # the rest of the reference
    assert (found.matched[1] == [0, 0, 0, 0, 1]).all()
    assert np.argmax(found.null[1], 1).tolist() == [0, 1, 2]
    assert not found.null[0][:, 3].any()  # the pair of the shifted group never stands beside it


def test_leaving_out_takes_pairs_and_single_groups_in_turn(groups):
    (first, second), kinds = left_out(groups)
    if min(map(len, groups.units)) < FEWEST:
        assert not len(kinds)
        return
    own = groups.sizes[0]
    assert len(kinds) == sum(groups.sizes) - len(groups.pairs)
    assert np.allclose([first.sum(1), second.sum(1)], 1)
    whole = (sample(groups)[0] + sample(groups)[1] > 0)[0]
    missing = whole & ~((first + second) > 0)
    assert np.array_equal(
        np.sort(missing.sum(1)), np.sort([u.shape[1] for k in groups.units for u in [k] for _ in k])
    )
    assert (missing[:, :own].sum() + missing[:, own:].sum()) == sum(groups.sizes)


def test_a_permutation_keeps_sizes_and_swaps_pairs_as_pairs(groups, rng):
    first, second = permutations(groups, 50, rng)
    own, others = groups.sizes
    assert ((first > 0) ^ (second > 0)).all()
    assert np.allclose([first * own + second * others], 1)
    assert ((second[0] > 0) == np.repeat([0, 1], [own, others])).all()
    assert ((second > 0).sum(1) == others).all()
    for a, b in groups.pairs:
        assert ((second[:, a] > 0) ^ (second[:, b] > 0)).all()


def test_the_smallest_p_is_the_share_of_permutations_that_change_nothing(groups, rng):
    own, others = groups.sizes
    second = permutations(groups, 20_000, rng)[1] > 0
    mirrored = (second == ~second[0]).all(1) if own == others else False
    share = ((second == second[0]).all(1) | mirrored).mean()
    assert smallest_permutation_p(groups, 20_000) == pytest.approx(share, abs=3e-3)
    assert smallest_permutation_p(groups, 9) >= 0.1
    assert np.isnan(smallest_permutation_p(groups, 0))
    assert smallest_permutation_p(Groups(np.arange(2), np.arange(2, 4)), 1000) == pytest.approx(
        1 / 3
    )


def test_p_is_the_share_of_permutations_as_large_as_the_sample():
    assert p_value(np.array([3.0, 1, 3, 4, 2])) == 3 / 5
    assert p_value(np.zeros(4)) == 1
    assert np.isnan(p_value(np.array([0.1, np.nan])))


def test_holm_gives_the_adjusted_p_of_the_textbook_and_leaves_nan_out():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    expected = [0.03, 0.06, np.nan, 0.06, 0.02]
    assert holm(p) == pytest.approx(expected, nan_ok=True)
    assert holm(np.array([0.6, 0.9])).tolist() == [1, 1]


def test_a_single_group_cannot_be_split(rng):
    with pytest.raises(ValueError, match="at least 2 groups"):
        comparisons(Groups(np.arange(1), np.arange(1, 5)), None, 5, rng)
