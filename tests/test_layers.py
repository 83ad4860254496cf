import re
import pytest
import torch
import architectures
from skipshift.features import tapped
from skipshift.layers import known_taps, taps_of


@pytest.fixture(scope="module", params=architectures.CASES)
def case(request):
    return *architectures.build(request.param), architectures.CASES[request.param][1].split()


def test_it(case):
    net, example, expected = case
    taps = known_taps(net)
    assert [t.name for t in taps] == expected
    with (
        tapped(net, {t.name: t.address for t in taps}, lambda _n, x: x.clone()) as maps,
        torch.no_grad(),
    ):
        net(example)
    for t in taps:
        m = maps[t.name]
        stride = max(round(a / b) for a, b in zip(example.shape[2:], m.shape[2:]))
        assert t.name.startswith(f"{t.kind[0]}{stride}") or t.kind == "bottleneck", (t, m.shape)
        if t.same_as:
            assert torch.equal(m, maps[t.same_as])
        elif t.kind == "skip":
            assert not any(
                torch.equal(m, maps[u.name])
                for u in taps
                if u is not t and maps[u.name].shape == m.shape
            )
