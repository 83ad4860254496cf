import numpy as np
import pandas as pd
import pytest

from skipshift.data.manifest import read_cases, read_manifest
from skipshift.page.outside import Names
from skipshift.page.pictures import views_figure
from skipshift.page.study_results import read_views
from skipshift.records import VIEWS, read_table
from skipshift.study.study import open_study
from skipshift.study.views import PLACES, chosen_places, domain_facts, write_views
from skipshift.study_specs import StudySpec, TrainingSpec


@pytest.fixture
def scanned(small_set):
    """The test cases as two scanners saw them, with what the manifest says of those."""
    one = read_manifest(small_set).query("split == 'test'")
    facts = {"A": ("Leica", "0.00025"), "B": ("Philips", "0.0005")}
    return pd.concat(
        one.assign(domain=domain, vendor=vendor, spacing=spacing)
        for domain, (vendor, spacing) in facts.items()
    )


def test_places_that_all_scanners_saw_are_shown_in_each_domain_most_foreground_first(scanned):
    rows = chosen_places(scanned, 2, None)
    assert [[case.domain for case in row] for row in rows] == [["A", "B"]] * PLACES
    assert all(row[0].case == row[1].case for row in rows)
    shares = [(case.mask > 0).mean() for case in read_cases(scanned[scanned["domain"] == "A"], 2)]
    assert [(row[0].mask > 0).mean() for row in rows] == sorted(shares, reverse=True)[:PLACES]


def test_cases_of_one_name_and_unlike_groups_are_not_one_place(scanned):
    other = scanned.assign(group=scanned["domain"] + scanned["group"])
    (row,) = chosen_places(other, 2, None)
    assert [case.domain for case in row] == ["A", "B"]
    assert row[1].group == "B" + scanned["group"].iloc[0]


def test_the_facts_of_a_domain_are_what_its_manifest_says_of_all_its_cases(scanned):
    facts = domain_facts(scanned.assign(patient=range(len(scanned)))).set_index("domain")
    assert facts.loc["A"].to_dict() == {
        "about": "vendor Leica", "spacing": "0.25 µm", "groups": 4, "cases": 4
    }  # fmt: skip
    assert facts["spacing"]["B"] == "0.50 µm"


def test_written_views_are_read_as_they_were_and_drawn(small_set, tmp_path):
    kept = pd.read_csv(small_set, dtype=str)
    away = kept[kept["split"] == "test"].assign(domain="B")
    pd.concat([kept, away]).to_csv(small_set, index=False)
    study = open_study(
        StudySpec(manifest=small_set, profile_shifts=(), training=TrainingSpec(crop=32)),
        tmp_path / "study",
    )
    write_views(study)
    first = (study.out / VIEWS).read_bytes()
    write_views(study)
    assert (study.out / VIEWS).read_bytes() == first
    views = read_views(study.out, Names())
    best = chosen_places(study.cases[study.cases["split"] == "test"], 2, None)
    np.testing.assert_array_equal(views[0][1]["image"], best[0][1].image)
    table = read_table(study.out / "tables" / "domains.csv")
    assert table["domain"].tolist() == ["original", "B"]
    assert len(views_figure(views, 2).axes) == 2 * 2 * PLACES


def test_a_study_of_one_domain_has_no_views(small_set, tmp_path):
    study = open_study(
        StudySpec(manifest=small_set, training=TrainingSpec(crop=32)), tmp_path / "study"
    )
    write_views(study)
    assert read_views(study.out, Names()) == []
