import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from skipshift.page.u_picture import u_picture

LAYERS = ("e2", "e4", "e8", "e16", "e32", "d16", "d8", "d4", "d2", "d1")


def profile(names=LAYERS, excess=0.3, p=0.01):
    values = {"excess": excess, "low": 0.2, "high": 0.4, "p_adjusted": p}
    return pd.DataFrame(
        {"layer": names, **{k: np.resize(v, len(names)) for k, v in values.items()}}
    )


def carried(**shares):
    rows = [("none", 0.0), *shares.items(), ("all", 1.0)]
    return pd.DataFrame(
        [(n, s, s - 0.1, s + 0.1) for n, s in rows], columns=["path", "share", "low", "high"]
    )


def titles(svg):
    return [e.text for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("title")]


def width_of(svg, skip):
    group = next(g for g in re.findall(r"<g>.*?</g>", svg) if f"<title>{skip}:" in g)
    return float(re.search(r'stroke-width="([\d.]+)"', group)[1])


def test_every_layer_has_a_title_with_its_numbers():
    found = titles(u_picture(profile()))
    for layer in LAYERS:
        assert f"{layer}: excess 0.300 [0.200, 0.400], clear of its noise floor" in found


def test_a_layer_that_is_not_clear_is_dashed_and_said_so():
    svg = u_picture(profile(("e2", "d1"), p=[0.01, 0.2]))
    assert svg.count("stroke-dasharray") == 1
    assert "d1: excess 0.300 [0.200, 0.400], not clear of its noise floor" in titles(svg)


def test_a_skip_is_as_wide_as_its_share():
    svg = u_picture(profile(), (), carried(L1=0.9, L2=0.45, L3=0.0))
    assert width_of(svg, "L1") == pytest.approx(2 * width_of(svg, "L2"), abs=0.1)
    assert width_of(svg, "L3") < 2
    assert "L1: 90% [0.80, 1.00] of the lost IoU comes back with this path alone" in titles(svg)


def test_a_pruned_skip_is_dashed():
    svg = u_picture(profile(), ("L2", "L3", "L4"))
    assert "L1: pruned" in titles(svg)
    assert "L2: the loss that it carries was not measured" in titles(svg)


@pytest.mark.parametrize("place", ["e4", "L1", "input", "encoder.conv1"])
def test_the_remedy_is_marked(place):
    assert f"remedy: adabn at {place}" in titles(u_picture(profile(), (), None, ("adabn", place)))


def test_any_names_stand_in_a_row_and_change_nothing():
    odd = "<script>alert(1)</script>"
    svg = u_picture(profile((odd, "b" * 300)))
    assert "<script" not in svg
    assert len(re.findall(r"<rect x=", svg)) == 2 + 5
    assert any(text.startswith(odd) for text in titles(svg))


def test_an_excess_below_zero_or_unknown_is_drawn():
    svg = u_picture(profile(("e2", "e4"), excess=[-0.1, np.nan]))
    assert "e2: excess -0.100 [0.200, 0.400], clear of its noise floor" in titles(svg)
    ElementTree.fromstring(svg)
