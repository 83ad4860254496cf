import torch

from skipshift.networks.quantile_map import QuantileMap


def test_a_quantile_map_between_equal_sets_changes_nothing(rng):
    values = torch.from_numpy(rng.normal(size=(3000, 3))).float().relu()
    other = torch.from_numpy(rng.normal(size=(3, 5, 7))).float().relu() * 2
    assert torch.allclose(QuantileMap.between(values, values)(other[None])[0], other, atol=1e-5)


def test_a_quantile_map_gives_the_quantiles_of_the_target(rng):
    source, target = (torch.from_numpy(rng.gamma(a, size=(4000, 2))).float() for a in (2, 9))
    mapped = QuantileMap.between(source, target)(source.T[None])[0].T
    levels = torch.tensor([0.05, 0.3, 0.5, 0.8, 0.95])
    assert torch.allclose(mapped.quantile(levels, 0), target.quantile(levels, 0), rtol=0.02)


def test_a_quantile_map_made_again_from_its_quantiles_is_the_same(rng):
    source, target = (torch.from_numpy(rng.gamma(a, size=(500, 3))).float().relu() for a in (2, 9))
    one = QuantileMap.between(source, target)
    again = QuantileMap(one.observed, one.desired)
    values = source.T[None] * 1.5
    assert torch.equal(one(values), again(values))
