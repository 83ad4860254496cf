import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel

from skipshift.statistics.resampling import Groups, mixed, permutations, sample
from skipshift.statistics.two_sample import TWO_SAMPLE_STATISTICS, PooledSample


def pool(a, b, groups=None):
    """Images as vectors, each a group of its own unless the groups of both sets are given."""
    first, second = groups or (np.arange(len(a)), np.arange(len(a), len(a) + len(b)))
    (names_a, index_a), (names_b, index_b) = (
        np.unique(side, return_inverse=True) for side in (first, second)
    )
    group_index = np.concatenate([index_a, index_b + len(names_a)])
    return PooledSample(np.concatenate([a, b]), group_index, Groups(names_a, names_b))


def whole(own):
    return sample(own.groups)


@pytest.fixture
def vectors(rng):
    return rng.normal(size=(20, 6)), rng.normal(0.5, 1, (15, 6))


def test_mmd_is_that_of_an_independent_kernel(vectors):
    a, b = vectors
    both = np.concatenate(vectors)
    squared = ((both[:, None] - both) ** 2).sum(-1)[np.triu_indices(35, 1)]
    aa, bb, ab = (
        rbf_kernel(x, y, gamma=1 / np.median(squared)).mean() for x, y in ((a, a), (b, b), (a, b))
    )
    own = pool(a, b)
    assert TWO_SAMPLE_STATISTICS["mmd"](own)(whole(own)) == pytest.approx(np.sqrt(aa + bb - 2 * ab))


def test_gdv_is_a_naive_reading_of_its_definition(vectors):
    own = pool(*vectors)
    z = (own.vectors - own.vectors.mean(0)) / own.vectors.std(0) / 2
    a, b = z[:20], z[20:]
    inner = [
        np.mean([np.linalg.norm(s[i] - s[j]) for i in range(len(s)) for j in range(i)])
        for s in (a, b)
    ]
    between = np.mean([np.linalg.norm(x - y) for x in a for y in b])
    gdv = (sum(inner) / 2 - between) / np.sqrt(6)
    assert TWO_SAMPLE_STATISTICS["gdv"](own)(whole(own)) == pytest.approx(-gdv)


def test_auc_is_that_of_ridge_regression_in_the_same_folds(vectors):
    own = pool(*vectors)
    z = (own.vectors - own.vectors.mean(0)) / own.vectors.std(0)
    y, scores = np.repeat([-1.0, 1.0], [20, 15]), np.zeros(35)
    for fold in range(5):
        test = own.folds == fold
        mean = y[~test].mean()
        ridge = Ridge(alpha=6, fit_intercept=False).fit(z[~test], y[~test] - mean)
        scores[test] = ridge.predict(z[test])
    assert TWO_SAMPLE_STATISTICS["auc"](own)(whole(own)) == pytest.approx(roc_auc_score(y, scores))


def test_auc_is_half_by_chance_and_one_for_perfect_separation(rng):
    own = pool(*rng.normal(size=(2, 40, 5)))
    shuffled = TWO_SAMPLE_STATISTICS["auc"](own)(permutations(own.groups, 100, rng))
    assert shuffled.mean() == pytest.approx(0.5, abs=0.03)
    apart = pool(*(rng.normal(size=(2, 40, 5)) + np.array([0, 9])[:, None, None]))
    assert TWO_SAMPLE_STATISTICS["auc"](apart)(whole(apart)) == pytest.approx([1])


def test_auc_of_a_single_label_is_chance(rng):
    own = pool(*rng.normal(size=(2, 6, 3)), (np.zeros(6), np.zeros(6)))
    assert TWO_SAMPLE_STATISTICS["auc"](own)(whole(own)) == pytest.approx([0.5])


def test_folds_never_split_a_label(rng):
    labels = rng.integers(0, 9, 30)
    own = pool(*rng.normal(size=(2, 30, 2)), (labels, labels[::-1]))
    names = np.concatenate([labels, labels[::-1]])
    assert all(len(set(own.folds[names == name])) == 1 for name in labels)


def test_cka_is_that_of_centred_features_whatever_the_order_of_pairs(rng):
    x = rng.normal(size=(12, 5))
    y = x @ rng.normal(size=(5, 5)) + rng.normal(size=(12, 5))
    u, v = x - x.mean(0), y - y.mean(0)
    cross, own, other = (np.linalg.norm(s.T @ t) for s, t in ((u, v), (u, u), (v, v)))
    order = rng.permutation(12)
    pairs = pool(x, y[order], (np.arange(12), np.arange(12)[order]))
    assert TWO_SAMPLE_STATISTICS["cka"](pairs)(whole(pairs)) == pytest.approx(
        1 - cross**2 / own / other
    )


def test_cka_needs_pairs(vectors):
    with pytest.raises(ValueError, match="cka needs paired sets: the same groups"):
        TWO_SAMPLE_STATISTICS["cka"](pool(*vectors))


def test_a_draw_of_groups_is_the_draw_of_their_images(rng):
    a, b = rng.normal(size=(12, 4)), rng.normal(1, 1, (12, 4))
    own, single = pool(a, b, (np.arange(12) // 2, np.arange(12) // 2 + 6)), pool(a, b)
    sides = mixed(own.groups, 5, rng)
    images = tuple(side[:, own.group_index] / 2 for side in sides)
    for name in ("mmd", "gdv"):
        of = TWO_SAMPLE_STATISTICS[name]
        assert of(own)(sides) == pytest.approx(of(single)(images))


@pytest.mark.parametrize("name", ["mmd", "gdv", "auc"])
def test_groups_count_alike_whatever_their_images(name, rng):
    a, b = rng.normal(size=(2, 12, 4))
    twice = (np.r_[a, a[:3]], np.r_[np.arange(12), np.arange(3)])
    once, more = pool(a, b), pool(twice[0], b, (twice[1], np.arange(12, 24)))
    of, sides = TWO_SAMPLE_STATISTICS[name], sample(once.groups)
    # the median of MMD's kernel and the scale of the others see all images
    assert of(more)(sides) == pytest.approx(of(once)(sides), abs=0.08)


@pytest.mark.parametrize("name", ["mmd", "gdv", "auc"])
def test_a_shift_moves_the_distance_up(name, rng):
    a, b = rng.normal(size=(2, 30, 4))
    still, moved = pool(a, b), pool(a, b + 2)
    of = TWO_SAMPLE_STATISTICS[name]
    assert of(moved)(whole(moved)) > of(still)(whole(still)) + 0.1
