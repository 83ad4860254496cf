import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Arc

import planted
from planted import Plan
from skipshift.names import VARIANTS, paper_shifts, skips_of
from skipshift.page.carry_chart import carry_figure
from skipshift.page.carry_sentences import carry_sentence
from skipshift.page.charts import curves, excess_map, heatmap, profile_figure, readable_on, violins
from skipshift.page.pictures import (
    FALSE_NEGATIVES,
    FALSE_POSITIVES,
    examples_figure,
    samples_figure,
    variants_figure,
)
from skipshift.page.style import FAINT, colour_of, to_png, to_svg
from skipshift.statistics.counts import count

ALL = Plan(encoders=("resnet18", "resnet34"), variants=tuple(VARIANTS), cases=4)

# one worker, so that the planted study is made once
pytestmark = pytest.mark.xdist_group("figures")

FACTORS = {f"{float(shift.split(':')[1]):g}" for shift in paper_shifts()}


@pytest.fixture(scope="module")
def iou():
    return planted.iou_of(planted.plant_cases(ALL))


@pytest.fixture(scope="module")
def shift():
    return planted.plant_shift(Plan(channels=(6,) * 10, folds=2))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_a_heatmap_writes_each_value_of_the_table_with_two_decimals(iou):
    rows = iou[iou["class"] == "cell"]
    home = rows["domain"] == "original"
    expected = [f"{value:.2f}" for value in [*rows["iou"], *rows["iou"][home], *rows["iou"][home]]]
    shown = texts(heatmap(iou, "cell"))
    values = [text for text in shown if text not in FACTORS and text != "original"]
    expected = [text for text in expected if text not in FACTORS]
    assert sorted(values) == sorted(expected)


def test_a_heatmap_orders_columns_by_factor_with_original_at_one(iou):
    brightness = heatmap(iou, "cell").axes[0]
    labels = [text for text in brightness.texts if text.get_position()[1] > 0]
    labels.sort(key=lambda text: text.get_position()[0])
    order = [text.get_text() for text in labels]
    assert order == ["0.5", "0.75", "original", "1.25", "1.5", "1.75"]


def test_a_heatmap_sets_in_bold_what_it_is_told_to_and_nothing_else(iou):
    home, away = ("resnet18", "L1-pruned", "original"), ("resnet34", "L2-pruned", "contrast:0.5")
    bold = frozenset({home, away})
    columns = {"original": 3, "contrast:0.5": 1}
    for marked in (bold, frozenset()):
        axes = heatmap(iou, "cell", marked).axes
        shown = [t for each in axes for t in each.texts if t.get_weight() == "bold"]
        assert len(shown) == sum(columns[domain] for *_, domain in marked)


def test_domains_that_are_no_shifts_have_a_panel_of_their_own():
    plan = Plan(domains=("A", "B", "brightness:0.5"), cases=3)
    labels = texts(heatmap(planted.iou_of(planted.plant_cases(plan)), "cell"))
    assert [t for t in labels if t in {"A", "B", "0.5"}] == ["0.5", "A", "A", "B"]


def test_text_on_every_colour_of_the_heatmap_can_be_read():
    for value in np.linspace(0, 1, 50):
        colour = mpl.colormaps["viridis"](value)
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        text = 1.0 if readable_on(colour) == "#ffffff" else 0.0
        assert (max(light, text) + 0.05) / (min(light, text) + 0.05) >= 4.5


def test_violins_mark_the_mean_over_the_channels_of_all_runs(shift):
    figure = violins(shift, planted.layers_of(shift))
    (axes,) = figure.axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    for variant, line in zip(("baseline", "L1-pruned", "L4-pruned"), dots, strict=True):
        rows = shift[shift["variant"] == variant]
        mean = rows.groupby("depth")["value"].mean()
        assert np.allclose(line.get_ydata(), mean)
    assert sum(isinstance(c, PolyCollection) for c in axes.collections) == 3 * len(planted.LAYERS)


def test_violins_draw_the_null_of_each_layer_and_variant(shift):
    (axes,) = violins(shift, planted.layers_of(shift)).axes
    flat = [x for x in axes.lines if len(x.get_xdata()) == 2 and x.get_linestyle() == "-"]
    drawn = [x.get_ydata()[0] for x in flat if x.get_ydata()[0] == x.get_ydata()[1]]
    expected = shift.groupby(["variant", "depth"])["null"].mean()
    assert np.allclose(sorted(drawn), sorted(expected))


def test_the_map_of_the_excess_has_each_layer_and_shift_and_bold_where_clear():
    pairs = tuple(("original", name) for name in ("brightness:0.5", "brightness:1.5", "B"))
    plan = planted.Plan(variants=("baseline",), pairs=pairs, channels=(8,) * 10)
    layers = planted.networks_of(planted.plant_shift(plan))
    layers.loc[layers["layer"] == "e4", "p_adjusted"] = 0.3
    figure = excess_map(layers, "a network")
    texts = [text for axes in figure.axes for text in axes.texts]
    # the reference is no cell of a number, and B is no factor of the brightness
    heads = [
        text.get_text() for text in texts if text.get_text() in (*"B", "0.5", "1.5", "original")
    ]
    assert heads == ["0.5", "original", "1.5", "original", "B"]
    cells = [text for text in texts if text.get_va() == "center_baseline"]
    shown = [text for text in cells if text.get_text() != "-"]
    assert len(shown) == 3 * 10
    assert len(cells) - len(shown) == 2 * 10
    assert sorted(text.get_text() for text in shown) == sorted(
        f"{value:.2f}" for value in layers["excess"]
    )
    assert sum(text.get_weight() == "normal" for text in shown) == 3


def test_violins_of_two_pairs_are_refused(shift):
    both = shift.assign(shifted=np.where(shift["fold"] == 0, "a", "b"))
    with pytest.raises(ValueError, match="violins need one shifted"):
        violins(both, planted.layers_of(both))


def test_violins_of_all_channels_of_five_variants_stay_a_small_file():
    plan = Plan(variants=tuple(VARIANTS))
    whole = planted.plant_shift(plan)
    assert len(to_svg(violins(whole, planted.layers_of(whole)))) < 400_000


def test_a_profile_follows_depth_and_joins_the_layers_of_kept_skips(shift):
    rows = planted.layers_of(shift)
    rows = rows[(rows["variant"] == "L1-pruned") & (rows["fold"] == 0)]
    figure = profile_figure(rows.sample(frac=1, random_state=0), "a label")
    excess = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    assert np.allclose(excess.get_ydata(), rows.sort_values("depth")["excess"])
    arcs = [patch for patch in figure.axes[1].patches if isinstance(patch, Arc)]
    assert len(arcs) == len(skips_of("L1-pruned"))


def test_a_profile_without_null_or_variant_is_drawn_all_the_same(shift):
    rows = planted.layers_of(shift).query("variant == 'baseline' and fold == 0")
    bare = rows.drop(columns="variant")
    bare[["null", "excess", "low", "high", "p_adjusted"]] = np.nan
    assert to_svg(profile_figure(bare, "one group")).startswith(b"<?xml")


def test_skips_stand_off_the_line_of_a_profile():
    names = ["e2", "e4", "s2", "d2"]
    rows = pd.DataFrame({"layer": names, "depth": range(4), "excess": [0.4, 0.3, 0.6, 0.5]})
    rows = rows.assign(distance=0.7, null=0.1, low=0.2, high=0.7, p_adjusted=0.01)
    axes = profile_figure(rows, "net").axes[0]
    line, skips = (next(x for x in axes.lines if x.get_marker() == mark) for mark in "oD")
    assert line.get_ydata().tolist() == [0.4, 0.3, 0.5]
    assert (skips.get_xdata().tolist(), skips.get_ydata().tolist()) == ([2], [0.6])


def test_modules_of_any_name_are_on_the_line_of_a_profile():
    rows = pd.DataFrame({"layer": ["stem", "s2"], "depth": range(2), "excess": [0.4, 0.3]})
    rows = rows.assign(distance=0.7, null=0.1, low=0.2, high=0.7, p_adjusted=[0.01, 0.3])
    axes = profile_figure(rows, "net").axes[0]
    hollow = next(line for line in axes.lines if line.get_marker() == ".")
    assert hollow.get_xdata().tolist() == [1]  # not significantly above its null
    assert not [line for line in axes.lines if line.get_marker() == "D"]


def test_a_profile_of_two_runs_is_refused(shift):
    with pytest.raises(ValueError, match="must have one row per layer"):
        profile_figure(planted.layers_of(shift), "two runs")


def test_error_colours_cover_just_the_pixels_that_are_wrong():
    arrays = planted.plant_samples(Plan(), "baseline")
    guess = arrays["predictions"]
    figure = samples_figure({**arrays, "predictions": {"baseline": guess}, "titles": list("abcd")})
    shown = [axes.images[0].get_array() for axes in figure.axes][2::3]
    for mask, labels, pixels in zip(arrays["masks"], guess, shown, strict=True):
        _, excess, missed = count(mask[None], labels[None], 2)[0, 1]
        colours = [to_hex(pixel / 255) for pixel in np.asarray(pixels).reshape(-1, 3)]
        assert colours.count(FALSE_POSITIVES) == excess
        assert colours.count(FALSE_NEGATIVES) == missed


def test_no_error_is_shown_where_pixels_are_ignored():
    arrays = planted.plant_samples(Plan(), "baseline")
    arrays["masks"] = np.full_like(arrays["masks"], 255)
    guess = arrays["predictions"]
    figure = samples_figure({**arrays, "predictions": {"baseline": guess}, "titles": list("abcd")})
    shown = {to_hex(p / 255) for p in figure.axes[2].images[0].get_array().reshape(-1, 3)}
    assert shown == {"#ffffff", FAINT}
    assert "no foreground" in {text.get_text() for text in figure.texts}


def test_grey_images_and_several_classes_can_be_shown():
    arrays = planted.plant_samples(Plan(classes=("background", "a", "b", "c")), "baseline")
    figure = examples_figure(arrays["images"][..., :1], arrays["masks"], ["1", "2", "3", "4"])
    shades = {to_hex(p / 255) for p in np.asarray(figure.axes[1].images[0].get_array())[:, 40]}
    assert len(figure.axes) == 8
    assert "#ffffff" in shades


@pytest.mark.parametrize("variants", [tuple(VARIANTS), ("baseline", "skips-13")])
def test_the_drawing_has_a_dot_for_each_skip_that_is_kept(variants):
    dots = [line for axes in variants_figure(variants).axes for line in axes.lines]
    filled = {
        variant: sum(len(x.get_xdata()) for x in dots if x.get_color() == colour_of(variant))
        for variant in variants
    }
    assert filled == {variant: len(skips_of(variant)) for variant in variants}


def test_the_five_variants_have_five_colours():
    assert len({colour_of(variant) for variant in VARIANTS}) == 5


def test_figures_are_the_same_bytes_each_time_whatever_the_users_settings(iou):
    first = (to_svg(heatmap(iou, "cell")), to_png(heatmap(iou, "cell")))
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "other", "axes.grid": True}):
        before = dict(mpl.rcParams)
        again = (to_svg(heatmap(iou, "cell")), to_png(heatmap(iou, "cell")))
        assert dict(mpl.rcParams) == before
    assert first == again
    assert b"dc:date" not in first[0]


def test_a_dollar_sign_in_a_name_is_no_formula():
    history = {"encoder": "a$b$c", "variant": "baseline", "fold": 0, "seed": 0}
    rows = {"epoch": [1, 2], "train_loss": [1.0, 0.5], "validation_iou": [0.5, 0.6]}
    assert b"a$b$c" in to_svg(curves(pd.DataFrame({**rows, **history})))


def test_a_class_that_is_not_in_the_table_is_named(iou):
    with pytest.raises(ValueError, match="no class 'nucleus'"):
        heatmap(iou, "nucleus")


def carried(shares, **columns):
    """A table of carry with these shares; 0.9 IoU of the reference, 0.5 lost at most."""
    paths = ["none", *(f"L{i}" for i in range(1, len(shares) + 1)), "all"]
    share = np.array([0.0, *shares, 1.0])
    table = {"path": paths, "iou": 0.4 + share / 2, "share": share, "low": share - 0.1}
    table |= {"high": share + 0.1, "in_domain": 0.9, "shapley": np.nan}
    table |= {"lost_low": 0.3, "lost_high": 0.6, "sure": share > 0.1}
    return pd.DataFrame(table | columns)


def test_the_bars_of_carry_have_the_length_of_the_shares():
    axes = carry_figure(carried([0.7, -0.3]), "a against b").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.7, -0.3, 1.0]
    assert "orange" in axes.get_xlabel()


def test_carry_without_a_loss_is_drawn_and_said():
    none = carried([np.nan], share=np.nan, low=np.nan, high=np.nan, iou=0.95)
    said = "The shift costs no IoU, from 0.900 to 0.950: no recovered fraction is defined."
    assert carry_sentence(none).startswith(said)
    assert to_png(carry_figure(none, "a against b")).startswith(b"\x89PNG")


def test_a_share_of_what_may_be_no_loss_is_no_finding():
    said = carry_sentence(carried([1.92], lost_low=-0.1))
    assert said.endswith("of the loss -0.100 to 0.600): shares of it are no finding.")
    assert "cannot tell from chance" in carry_sentence(carried([0.5], lost_low=np.nan))


def test_a_mode_in_which_all_paths_recover_nothing_names_no_path():
    table = carried([0.15, 0.0], missing=0.1, missing_low=0.0, missing_high=0.2, missing_sure=False)
    assert "Patching L1 alone recovers 15 %" in carry_sentence(table)
    table.loc[3, ["share", "low", "high"]] = [-0.4, -0.6, 0.0]
    said = carry_sentence(table)
    assert (
        "This mode does not work here: with all paths patched, -40 % of it comes back (95" in said
    )
    assert "L1" not in said


def test_what_is_missed_what_leads_away_and_what_is_not_read_are_said():
    read, farther = [True, True, True, False, True], [False, False, True, False, False]
    missing = {"missing": [np.nan, 0.6, 0.0, np.nan, np.nan], "missing_high": 0.7}
    table = carried(
        [0.7, 0.1, np.nan],
        **missing,
        missing_low=0.5,
        missing_sure=True,
        read=read,
        farther=farther,
    )
    said = carry_sentence(table)
    assert "With all paths but L1 patched, 60 % of it stays lost (95 % interval 50 to 70)" in said
    assert "Patching L2 alone leads the decoder block behind farther" in said
    assert said.endswith("Nothing reads L3: left out.")
    assert to_png(carry_figure(table, "a against b")).startswith(b"\x89PNG")
