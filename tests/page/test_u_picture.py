import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from architectures import build
from skipshift.networks.layers import layers_of
from skipshift.page.u_drawing import Box, Line, Link, Text, draw_u, unmeasured
from skipshift.page.u_picture import u_figure, u_picture, write_u
from skipshift.patching.paths import links_of, paths_of

LAYERS = ("e2", "e4", "e8", "e16", "e32", "d16", "d8", "d4", "d2", "d1")
LINKS = [Link(f"L{k}", f"e{2**k}", f"d{2**k}") for k in range(1, 5)]
CLEAR = "clear of its noise floor"


def profile(names=LAYERS, excess=0.3, p=0.01):
    values = {"excess": excess, "low": 0.2, "high": 0.4, "p_adjusted": p}
    return pd.DataFrame(
        {"layer": names, **{k: np.resize(v, len(names)) for k, v in values.items()}}
    )


def carried(lost_low=0.1, **shares):
    rows = [("none", 0.0), *shares.items(), ("all", 1.0)]
    table = pd.DataFrame(
        [(n, s, s - 0.1, s + 0.1) for n, s in rows], columns=["path", "share", "low", "high"]
    )
    return table.assign(lost_low=lost_low)


def told(drawing):
    return [item.told for item in drawing.items if item.told]


def line_of(drawing, name):
    item = next(item for item in drawing.items if item.told.startswith(f"{name}: "))
    return next(shape for shape in item.shapes if isinstance(shape, Line))


def test_every_layer_tells_its_numbers():
    drawing = draw_u(profile(), LINKS)
    for layer in LAYERS:
        assert f"{layer}: excess 0.300 (95 % interval 0.200 to 0.400), {CLEAR}" in told(drawing)


def test_a_layer_that_is_not_clear_is_dashed_and_said_so():
    drawing = draw_u(profile(("e2", "d1"), p=[0.01, 0.2]))
    boxes = [s for i in drawing.items if i.told for s in i.shapes if isinstance(s, Box)]
    assert [box.dashed for box in boxes] == [False, True]
    assert f"d1: excess 0.300 (95 % interval 0.200 to 0.400), not {CLEAR}" in told(drawing)


def test_a_skip_is_as_wide_as_its_share():
    drawing = draw_u(profile(), LINKS, carried(L1=0.9, L2=0.45, L3=0.0))
    widths = {name: line_of(drawing, name).width for name in ("L1", "L2", "L3")}
    assert widths["L1"] == pytest.approx(2 * widths["L2"], abs=0.1)
    assert widths["L3"] < 2
    said = "L1: 90 % of the lost IoU comes back with this path alone (95 % interval 80 to 100)"
    assert said in told(drawing)


def test_shares_of_a_loss_that_may_be_chance_are_not_drawn():
    drawing = draw_u(profile(), LINKS, carried(lost_low=-0.01, L1=0.9))
    assert "L1: the loss that it carries was not measured" in told(drawing)


def test_a_pruned_skip_is_dashed():
    drawing = draw_u(profile(), LINKS[1:])
    assert line_of(drawing, "L1").dashed
    assert not line_of(drawing, "L2").dashed


@pytest.mark.parametrize("place", ["e4", "L1", "input", "encoder.conv1"])
def test_the_remedy_is_marked(place):
    assert f"remedy: adabn at {place}" in told(draw_u(profile(), LINKS, None, ("adabn", place)))


DRAWN = ["skipshift L1-pruned", "smp Unet", "smp Unet scSE", "smp UnetPlusPlus", "smp MAnet",
         "smp FPN", "smp DeepLabV3Plus", "MONAI UNet", "MONAI AttentionUnet", "MONAI SwinUNETR",
         "nnU-Net PlainConvUNet"]  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_every_layer_and_skip_of_a_known_architecture_has_a_place_of_its_own(name):
    net, *_ = build(name)
    layers = list(layers_of(net))
    links = [Link(*link) for link in links_of(net)]
    drawing = draw_u(unmeasured(layers), links)
    blocks = [item for item in drawing.items if item.told.endswith(": excess unknown")]
    assert len(blocks) == len(layers)
    corners = [(s.x, s.y) for item in blocks for s in item.shapes if isinstance(s, Box)]
    apart = [abs(x - a) >= 40 or abs(y - b) >= 40
             for i, (x, y) in enumerate(corners) for a, b in corners[:i]]  # fmt: skip
    assert all(apart)
    skips = {path for path in paths_of(net) if path != "bottleneck"}
    assert {link.name for link in links} <= skips
    assert all(0 <= x <= drawing.width and 0 <= y <= drawing.height for x, y in corners)


def test_a_picture_can_be_read_by_keyboard_and_is_whole_xml():
    root = ElementTree.fromstring(u_picture(draw_u(profile(), LINKS)))
    spoken = [g for g in root if g.get("tabindex") == "0"]
    assert len(spoken) == len(LAYERS) + len(LINKS)
    for group in spoken:
        assert group.get("aria-label") == next(e.text for e in group if e.tag.endswith("title"))


def test_any_names_stand_in_rows_and_change_nothing():
    odd = "<script>alert(1)</script>\" onload='x'"
    svg = u_picture(draw_u(profile((odd, "b" * 300))))
    assert "<script" not in svg
    assert len(re.findall(r"<rect x=", svg)) == 2 + 5
    assert any(t.startswith(odd) for t in told(draw_u(profile((odd, "b")))))
    ElementTree.fromstring(svg)


def test_an_excess_below_zero_or_unknown_is_drawn():
    drawing = draw_u(profile(("e2", "e4"), excess=[-0.1, np.nan]))
    assert f"e2: excess -0.100 (95 % interval 0.200 to 0.400), {CLEAR}" in told(drawing)
    assert "e4: excess unknown" in told(drawing)


def test_the_files_for_papers_hold_the_texts_of_the_picture(tmp_path):
    drawing = draw_u(profile(), LINKS, carried(L1=0.9), ("adabn", "e4"))
    texts = [s.text for i in drawing.items for s in i.shapes if isinstance(s, Text)]
    assert [t.get_text() for t in u_figure(drawing).findobj(lambda a: hasattr(a, "get_text"))
            if t.get_text()] == texts  # fmt: skip
    write_u(tmp_path, drawing)
    heads = {"u.svg": b"<svg", "u.pdf": b"%PDF", "u.png": b"\x89PNG"}
    assert all((tmp_path / name).read_bytes().startswith(head) for name, head in heads.items())


def test_a_remedy_of_a_skip_is_marked_on_its_line():
    drawing = draw_u(profile(), LINKS, None, ("prune", "L1"))
    line = line_of(drawing, "L1")
    ring = next(s for i in drawing.items if i.told.startswith("remedy") for s in i.shapes)
    assert ring.x < (line.x1 + line.x2) / 2 < ring.x + ring.wide
    assert ring.y < line.y1 < ring.y + ring.high
