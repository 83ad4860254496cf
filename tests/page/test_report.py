import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import planted
from planted import Plan
from skipshift import records
from skipshift.errors import SkipshiftError
from skipshift.names import ORIGINAL
from skipshift.page.beside_iou import beside_iou
from skipshift.page.comparison_sentences import verdict_sentences
from skipshift.page.ordering import grid, marks, of_classes
from skipshift.page.report import main_table, write_report
from skipshift.page.study_results import (
    StudyResults,
    few_groups,
    read_results,
    read_study_spec,
)
from skipshift.page.study_sentences import answer, entry, headline, uncertainty
from skipshift.page.tables import empty_cases, excess_rows, iou_panels
from skipshift.page.wording import signed
from skipshift.statistics.comparisons import AWAY, compare
from skipshift.statistics.scores import estimates

SMALL = Plan(cases=25, channels=(4,) * 10)
HEART = Plan(
    encoders=("resnet18", "resnet34"),
    classes=("background", "LV", "RV", "MYO"),
    domains=("B", "A", "$C<b>"),
    pairs=(),
    cases=6,
    homes=("A",),
)


# one worker, so that the planted study is written once
pytestmark = pytest.mark.xdist_group("report")


class Page(HTMLParser):
    """Parse a page: its links, pictures, ids, words and the numbers of its tables."""

    def __init__(self, text: str):
        super().__init__()
        self.pictures: list[dict[str, str]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.numbers: list[tuple[str, str, str]] = []
        self._where: list[tuple[str, dict[str, str]]] = []
        self._row = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self.links += [values[name] for name in ("src", "href") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        self.pictures += [values] if tag == "img" else []
        if tag not in {"img", "meta", "br"}:
            self._where.append((tag, values))

    def handle_endtag(self, tag):
        assert self._where.pop()[0] == tag

    def handle_data(self, data):
        tags = [tag for tag, _ in self._where]
        self.words += data if not {"style", "script"} & set(tags) else ""
        if tags[-1:] == ["th"] and self._where[-1][1].get("scope") == "row":
            self._row = data
        if tags[-2:] == ["td", "span"] and "data-domain" in self._where[-2][1]:
            self.numbers.append((self._row, self._where[-2][1]["data-domain"], data))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = planted.plant(tmp_path_factory.mktemp("study"), SMALL)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(study):
    return Page((study / records.REPORT).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def heart(tmp_path_factory):
    folder = planted.plant(tmp_path_factory.mktemp("heart"), HEART)
    splits = "case,domain,group,stratum,fold\nimage-0000,A,g0,,0\n"
    (folder / records.SPLITS).write_text(splits)
    write_report(folder)
    return folder


def results_of(plan: Plan, cases: pd.DataFrame | None = None) -> StudyResults:
    cases = planted.plant_cases(plan) if cases is None else cases
    foreground = plan.classes[1:]
    runs = (
        cases["run"]
        .drop_duplicates()
        .str.extract(r"(?P<encoder>.+?)\.(?P<variant>.+)\.fold(?P<fold>\d+)\.seed(?P<seed>\d+)")
    )
    iou = of_classes(planted.iou_of(cases), foreground)
    homes = plan.domains[:1]
    scores, tests = estimates(cases), compare(cases, 0.01, homes)
    return StudyResults(iou, foreground, cases, runs, homes, scores, tests, 0.01)


def renamed(cases: pd.DataFrame, **names: str) -> pd.DataFrame:
    """Give the counts of one variant to another."""
    parts = cases["run"].str.split(".", expand=True)
    parts[1] = parts[1].map(lambda name: names.get(name.replace("-", "_"), name))
    return cases.assign(run=parts.agg(".".join, axis=1))


def test_the_page_is_self_contained(page):
    assert page.links
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_each_figure_has_an_alternative_text_and_ids_are_unique(page):
    assert len(page.pictures) == 7
    assert all(len(picture["alt"]) > 20 for picture in page.pictures)
    assert len(set(page.ids)) == len(page.ids)


def test_the_page_is_below_three_megabytes_and_the_same_each_time(study):
    first = (study / records.REPORT).read_bytes()
    assert len(first) < 3e6
    assert write_report(study).read_bytes() == first


def test_the_numbers_of_the_page_are_those_of_the_table(study, page):
    table = records.read_table(study / "tables" / "iou.csv")
    table = table[table["class"] == "cell"]
    names = table["encoder"] + " " + table["variant"]
    expected = {
        (n, d): f"{v:.3f}" for n, d, v in zip(names, table["domain"], table["iou"], strict=True)
    }
    shown = {(*key, value) for *key, value in page.numbers}
    assert {(*key, value) for key, value in expected.items()} <= shown


def test_figures_are_written_as_svg_and_png(study):
    names = {path.name for path in (study / records.FIGURES).iterdir()}
    stems = ("heatmap", "training", "variants", "samples-resnet18", "examples")
    assert {f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")} <= names
    assert not [name for name in names if name.endswith(".part")]


def test_parameters_are_shown_with_those_of_the_paper(page):
    assert page.words.count("14,328,354") == 2
    assert page.words.count("14,309,922") == 2


def won_by(winner: str, folds: int) -> StudyResults:
    plan = replace(SMALL, folds=folds, domains=(ORIGINAL, "contrast:0.5", "contrast:1.5"))
    swap = {"L1_pruned": winner, winner.replace("-", "_"): "L1-pruned"}
    return results_of(plan, renamed(planted.plant_cases(plan), **swap))


@pytest.mark.parametrize("winner", ["L1-pruned", "L4-pruned", "baseline"])
def test_one_training_each_gives_sentences_about_checkpoints(winner):
    found = won_by(winner, folds=1)
    loser = "L4-pruned" if winner == "L1-pruned" else "L1-pruned"
    said, under_shift = headline(found), dict(answer(found))["Under shift"]
    words = "the checkpoints of" if winner == "baseline" else f"the checkpoint of {loser} ("
    assert words in said
    assert "nothing is said of variants" in said
    if winner == "baseline":
        assert "No score is above the baseline's: this checkpoint of" in under_shift
    else:
        assert f"the checkpoint of {winner} (" in said
        assert f"This checkpoint of {winner} is higher than that of the baseline by" in under_shift
    assert not marks(found.tests, "cell")


@pytest.mark.parametrize("winner", ["L1-pruned", "baseline"])
def test_several_trainings_give_sentences_about_variants(winner):
    found = won_by(winner, folds=6)
    said, under_shift = headline(found), dict(answer(found))["Under shift"]
    assert "checkpoint" not in said + under_shift
    assert "deviation between trainings of one network is up to 0.0" in str(answer(found))
    if winner == "L1-pruned":
        assert "in-domain L1-pruned (" in said
        assert ") is higher than the baseline (" in said
        assert "L1-pruned is higher than the baseline by" in under_shift
        assert ("resnet18", "L1-pruned", "original") in marks(found.tests, "cell")
    else:
        assert "No score is above the baseline's" in under_shift
        assert not marks(found.tests, "cell")


def test_bold_cells_and_higher_in_words_are_the_same_verdicts():
    plan = replace(SMALL, folds=6, domains=(ORIGINAL, *(f"contrast:{f}" for f in (0.5, 1.25, 1.5))))
    found = results_of(plan)
    bold = [domain for _, name, domain in marks(found.tests, "cell") if name == "L1-pruned"]
    said = next(text for text in verdict_sentences(found.tests, 0.01) if "L1-pruned" in text)
    shown = len([domain for domain in bold if domain != AWAY])
    assert shown == 4
    assert "L1-pruned is higher on all 4 domains" in said
    panels = iou_panels(found.iou, "cell", marks(found.tests, "cell"))
    cells = {c["domain"] for p in panels for row in p["rows"] for c in row["cells"] if c["best"]}
    assert cells == set(bold) - {AWAY}


def test_domains_where_both_networks_fail_have_no_verdict_and_are_named_in_the_mean():
    plan = replace(SMALL, domains=(ORIGINAL, "brightness:0.5", "contrast:0.5"))
    cases = planted.plant_cases(plan)
    lost = cases["domain"] == "brightness:0.5"
    cell = lost & (cases["class"] == "cell")
    pixels = cases["tp"] + cases["fn"]
    ground = pixels[lost & (cases["class"] == "background")].to_numpy()
    found, missed = pixels[cell].to_numpy(), pixels[lost & (cases["class"] == "background")].index
    cases.loc[cell, ["tp", "fp", "fn"]] = np.stack([found, ground, 0 * found], 1)
    cases.loc[missed, ["tp", "fp", "fn"]] = np.stack([0 * ground, 0 * ground, ground], 1)
    found = results_of(plan, cases)
    row = found.tests.query("domain == 'brightness:0.5' and metric == 'iou'").iloc[0]
    assert row["verdict"] == "both fail"
    assert row["baseline"] == pytest.approx(row["floor"])
    assert "The mean includes brightness:0.5, where both fail" in dict(answer(found))["Under shift"]


def test_two_variants_with_the_same_skill_do_not_differ_significantly():
    cases = planted.plant_cases(replace(SMALL, variants=("baseline",)))
    cases = cases[cases["domain"] == "original"]
    rng = np.random.default_rng(0)
    cases, other = (cases.assign(fp=rng.integers(0, 3000, len(cases))) for _ in range(2))
    other = other.assign(run="resnet18.L1-pruned.fold0.seed0")
    plan = replace(SMALL, domains=("original",))
    found = results_of(plan, pd.concat([cases, other], ignore_index=True))
    assert "is not told apart from that of the baseline" in headline(found)
    assert (
        "this checkpoint of L1-pruned with that of the baseline is inconcl" in answer(found)[0][1]
    )


def test_one_group_gives_no_interval():
    cases = planted.plant_cases(SMALL).assign(group="one patient")
    found = results_of(SMALL, cases)
    assert "a single group gives no interval" in answer(found)[0][1]
    assert "are not told apart from that of the baseline" in headline(found)


def test_the_headline_agrees_with_the_table_of_tests(study):
    found = read_results(study, read_study_spec(study))
    tests = records.read_table(study / "tables" / "tests.csv").query("metric == 'iou'")
    for domain in ("original", AWAY):
        top = tests[tests["domain"] == domain].sort_values("effect").iloc[-1]
        assert top["verdict"] == "higher"
        assert f"the checkpoint of {top['variant']} (" in headline(found)
        assert f"higher than that of the baseline by {top['effect']:.3f}" in str(answer(found))


def test_absent_scores_and_tests_are_computed_from_the_cases(study, tmp_path):
    spec = read_study_spec(study)
    folder = shutil.copytree(study, tmp_path / "older")
    for name in ("tests.csv", "scores.csv"):
        (folder / "tables" / name).unlink()
    older, found = read_results(folder, spec), read_results(study, spec)
    pd.testing.assert_frame_equal(older.tests, found.tests)
    pd.testing.assert_frame_equal(older.scores, found.scores)


def test_every_test_of_the_table_is_on_the_page(study, page):
    tests = records.read_table(study / "tables" / "tests.csv")
    assert all(signed(effect) in page.words for effect in tests["effect"])
    assert page.words.count("cannot tell") >= (tests["verdict"] == "cannot tell").sum()


def test_several_source_domains_are_reported_one_by_one():
    plan = replace(SMALL, domains=("A", "B"), variants=("baseline", "L1-pruned"))
    found = replace(results_of(plan), homes=("A", "B"))
    assert [text[:5] for label, text in answer(found) if label == "In-domain"] == ["On A,", "On B,"]
    assert "on A the checkpoint of L1-pruned (" in headline(found)


def test_variants_without_a_baseline_are_not_compared():
    found = results_of(replace(SMALL, variants=("L1-pruned", "L4-pruned")))
    assert found.tests.empty
    assert "No baseline was trained to compare with" in answer(found)[0][1]


def test_the_uncertainty_names_what_the_runs_leave_open():
    assert "about these checkpoints and not about variants" in uncertainty(results_of(SMALL))
    folds = uncertainty(results_of(replace(SMALL, folds=3)))
    assert "trained once" not in folds
    assert "mean over 3 runs (3 folds, one seed)" in folds
    assert "With one seed, the variance between seeds cannot be separated" in folds


def layers(excess: dict[str, float], **columns: object) -> pd.DataFrame:
    rows = planted.networks_of(planted.plant_shift(replace(SMALL, variants=("baseline",))))
    rows["excess"] = rows["layer"].map(excess).fillna(0.1)
    rows["distance"] = rows["null"] + rows["excess"]
    return rows.assign(low=rows["excess"] - 0.02, high=rows["excess"] + 0.02, **columns)


@pytest.mark.parametrize("layer", planted.LAYERS)
def test_the_layer_with_the_planted_excess_is_named(layer):
    text = entry(layers({layer: 0.5}, behind_low=0.2))
    assert f"is largest at {layer} (" in text
    assert "(95 % interval 0.48 to 0.52, adjusted p 0.02)" in text
    assert "uncertain" not in text


def test_layers_whose_difference_may_be_0_have_no_order():
    table = layers({"e2": 0.5, "d1": 0.49}, behind_low=0.2)
    table.loc[table["layer"] == "d1", "behind_low"] = -0.01
    assert "The order of the largest layers is uncertain in baseline: in baseline the " in entry(
        table
    )
    assert "not significantly larger than d1." in entry(table)
    assert "which layer shifts most is uncertain" in headline(
        replace(results_of(SMALL), layers=table)
    )


def test_a_layer_is_clear_where_its_p_is_small_and_not_where_its_interval_says_so():
    table = layers({"e2": 0.5}, p_adjusted=0.051)
    assert "no layer is significantly above its null in baseline" in entry(table)
    said = headline(replace(results_of(SMALL), layers=table))
    assert "No layer shows a significant shift from" in said


def test_groups_too_few_for_any_p_are_given_as_the_reason():
    table = layers({"e2": 0.5}, p_adjusted=0.34, least_p=1 / 3, groups="2 + 2")
    assert "in baseline: with 2 + 2 groups no p can fall below 0.33." in entry(table)


def test_a_profile_without_null_names_no_layer():
    assert "no layer can be named" in entry(layers({}).assign(excess=np.nan, null=np.nan))


def test_the_plain_table_holds_the_numbers_within_a_hundred_columns(study):
    table = records.read_table(study / "tables" / "iou.csv")
    text = main_table(table)
    assert max(map(len, text.splitlines())) <= 100
    numbers = [word.rstrip("*") for word in text.split() if word.startswith("0.")]
    shown = {number for number in numbers if len(number) == 5}
    assert shown == {f"{v:.3f}" for v in table.query("`class` == 'cell'")["iou"]}


def test_long_names_of_domains_wrap():
    names = tuple(f"a scanner with a long name {i}" for i in range(8))
    table = planted.iou_of(planted.plant_cases(replace(SMALL, domains=names)))
    text = main_table(table)
    assert max(map(len, text.splitlines())) <= 100
    assert all(name in text for name in names)


def test_several_classes_have_their_mean_as_headline_and_each_its_table(heart):
    table = records.read_table(heart / "tables" / "iou.csv")
    keys = ["encoder", "variant", "domain"]
    mean = table[table["class"] != "background"].groupby(keys)["iou"].mean()
    text = (heart / records.REPORT).read_text(encoding="utf-8")
    shown = Page(text).numbers
    assert ("resnet34 L1-pruned", "A", f"{mean['resnet34', 'L1-pruned', 'A']:.3f}") in shown
    assert all(f"{name} IoU" in text for name in ("LV", "RV", "MYO"))
    assert "background IoU" not in text


def test_the_domain_of_the_training_cases_is_the_source_domain(heart):
    found = read_results(heart, read_study_spec(heart))
    assert found.homes == ("A",)
    assert set(found.away) == {"B", "$C<b>"}
    assert answer(found)[0][1].startswith("On A, ")


def test_names_are_escaped(heart):
    text = (heart / records.REPORT).read_text(encoding="utf-8")
    assert "$C&lt;b&gt;" in text
    assert "<b>" not in text


def test_a_study_without_profiles_says_so(heart):
    text = Page((heart / records.REPORT).read_text(encoding="utf-8")).words
    assert "No profile was measured" in text


def test_many_profiles_are_one_heatmap_and_counted_sentences(tmp_path):
    shifts = ("brightness:0.5", "brightness:0.75", "contrast:0.5", "saturation:0")
    plan = replace(SMALL, domains=(ORIGINAL, *shifts), pairs=tuple((ORIGINAL, s) for s in shifts))
    text = write_report(planted.plant(tmp_path, plan)).read_text(encoding="utf-8")
    assert 'id="figure-excess"' in text
    assert not list((tmp_path / "figures").glob("violins*"))
    for shift in shifts:
        assert f"<summary>{ORIGINAL} against {shift}</summary>" in text
    assert text.count("above the noise floor in baseline, each tested by itself") == 1


def test_files_that_are_wrong_are_named(tmp_path):
    folder = planted.plant(tmp_path, replace(SMALL, variants=("baseline",), pairs=()))
    run = folder / records.RUNS / "resnet18.baseline.fold0.seed0"
    (run / records.SAMPLES).write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(SkipshiftError, match=r"samples.npz: cannot be read as samples"):
        write_report(folder)
    (run / records.SAMPLES).unlink()
    (run / records.HISTORY).write_text("epoch\n1\n")
    with pytest.raises(SkipshiftError, match=r"history.csv: cannot be read as a history"):
        write_report(folder)
    records.write_json(run / records.RUN_RECORD, {"encoder": "resnet18"})
    with pytest.raises(SkipshiftError, match=r"run.json: lacks variant, fold"):
        write_report(folder)
    (run / records.RUN_RECORD).unlink()
    with pytest.raises(SkipshiftError, match=r"runs: holds no finished run"):
        write_report(folder)


def test_the_output_side_never_loads_torch(study):
    code = (
        "import sys; from pathlib import Path; from skipshift.page import report;"
        f"report.write_report(Path({str(study)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_few_groups_are_shown_one_by_one_and_many_are_not(study, tmp_path):
    few = planted.plant(tmp_path / "few", replace(SMALL, cases=4))
    write_report(few)
    page = Page((few / "report.html").read_text())
    assert "figure-groups" in page.ids
    assert "no difference can be significant, whatever the data" in page.words
    assert "figure-groups" not in Page((study / "report.html").read_text()).ids


def test_metrics_beside_iou_are_shown_with_their_verdicts(tmp_path):
    plan = replace(SMALL, cases=12, folds=3, metrics=("boundary_iou", "brier", "ece"))
    folder = planted.plant(tmp_path / "study", plan)
    write_report(folder)
    results = read_results(folder, read_study_spec(folder))
    shown = beside_iou(results)
    assert (shown["lower"], shown["compared"]) == (
        "Brier score and calibration error",
        "boundary IoU and Brier score",
    )
    value = shown["homes"][0]["rows"][1]["cells"][0]
    assert value["value"] == grid(results.iou, "cell")[ORIGINAL]["resnet18", "L1-pruned"]
    assert [bool(block["effects"]) for block in shown["metrics"]] == [True, True, False]
    words = Page((folder / "report.html").read_text()).words
    assert "Boundary IoU on every domain" in words
    assert "Lower is better for Brier score and calibration error." in words


def test_a_study_without_other_metrics_does_not_speak_of_them(study):
    assert "Metrics beside IoU" not in Page((study / "report.html").read_text()).words


def test_of_an_error_the_lower_variant_is_set_in_bold(tmp_path):
    plan = replace(SMALL, cases=12, folds=5, metrics=("boundary_iou", "brier"))
    folder = planted.plant(tmp_path / "study", plan)
    tests = records.read_table(folder / "tables" / "tests.csv")
    assert marks(tests, "cell", "brier") == marks(tests, "cell", "boundary_iou") != frozenset()


def test_a_layer_is_bold_only_where_it_is_significantly_above_all_others():
    table = layers({"e2": 0.5}, behind_low=0.2)
    (row,) = excess_rows(table)
    assert [cell["top"] for cell in row["cells"]] == [True, *[False] * 9]
    table.loc[table["layer"] == "d1", "behind_low"] = -0.01
    (row,) = excess_rows(table)
    assert not any(cell["top"] for cell in row["cells"])


def test_the_cases_without_the_class_are_counted():
    results = results_of(SMALL)
    cases = results.cases.copy()
    assert empty_cases(results) == 0
    cases.loc[cases["case"].isin(["image-0000", "image-0003"]), ["tp", "fn"]] = 0
    assert empty_cases(replace(results, cases=cases)) == 2


def test_no_sentence_of_the_page_says_more_than_the_tests(study):
    words = Page((study / "report.html").read_text()).words
    for claim in ("capacity hardly explains", "loses least", "surely", "Where it enters"):
        assert claim not in words
    assert "by more than the margin of 0.01 has failed" in words


@pytest.mark.parametrize("of", ["checkpoint", "variant"])
def test_networks_that_fail_are_said_to_fail_and_shown_no_dots(of):
    results = results_of(SMALL)
    tests = results.tests.assign(verdict="both fail", of=of, least_p=0.4)
    failing = replace(results, tests=tests)
    theirs = "that of the baseline" if of == "checkpoint" else "the baseline"
    assert f") fail and so does {theirs} (0." in headline(failing)
    assert few_groups(failing).empty
    assert set(
        few_groups(replace(results, tests=tests.assign(verdict="cannot tell")))["domain"]
    ) == {
        ORIGINAL,
        AWAY,
    }
