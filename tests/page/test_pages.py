"""Every page: a policy that allows nothing else, and names from outside that change nothing."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pandas as pd
import pytest
from matplotlib.figure import Figure

import planted
from page_findings import EVIL, PAGES, case, findings
from planted import Plan
from skipshift import records
from skipshift.page.charts import heatmap
from skipshift.page.example_pictures import examples
from skipshift.page.findings import write_findings
from skipshift.page.outside import MOST, Names, visible
from skipshift.page.report import write_report
from skipshift.page.style import to_svg


class Reader(HTMLParser):
    """Reads tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.titles = [], [], "", []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._in = tag
        self.tags.append(tag)
        self.attributes += [(tag, name) for name, _ in attrs]
        self.titles += [value for name, value in attrs if name == "title"]

    def handle_endtag(self, _tag):
        self._in = ""

    def handle_data(self, data):
        self.text += "" if self._in in ("style", "script") else data


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One page of each kind with odd names, and one with plain ones."""
    out = tmp_path_factory.mktemp("pages")
    for kind, names in (("odd", EVIL), ("plain", tuple("ABCDEFG"))):
        found, about = findings(names)
        for command, one in found.items():
            write_findings(out / kind / command, one, about)
        plan = Plan(domains=names, homes=names[:1], pairs=((names[0], names[5]),), cases=6,
                    classes=("background", names[0], names[5]), channels=(4,) * 10)  # fmt: skip
        folder = planted.plant(out / kind / "study", plan)
        (folder / records.SPLITS).unlink(missing_ok=True)
        write_report(folder)
    return out


@pytest.mark.parametrize("page", PAGES)
def test_names_from_outside_change_nothing(pages, page):
    odd, plain = (
        Reader((pages / kind / page / records.REPORT).read_text(encoding="utf-8"))
        for kind in ("odd", "plain")
    )
    # a cut name adds a hint of its whole, and nothing else
    assert set(odd.tags) - {"bdi"} <= set(plain.tags)
    assert set(odd.attributes) - {("bdi", "title")} <= set(plain.attributes)
    assert odd.tags.count("script") == 1
    for bad in ("\u202e", "\x1b", "\x07"):
        assert bad not in odd.text
    assert max(map(len, odd.text.split())) < 500
    assert "<script>alert(1)</script>" in odd.text
    assert "49" not in odd.text or "49" in plain.text


@pytest.mark.parametrize("page", [p for p in PAGES if p != "remedy"])
def test_a_long_name_is_cut_and_whole_on_hover(pages, page):
    odd = Reader((pages / "odd" / page / records.REPORT).read_text(encoding="utf-8"))
    assert "x" * 10_000 in odd.titles
    assert "x" * (5 * MOST + 1) not in odd.text


@pytest.mark.parametrize("kind", ["odd", "plain"])
@pytest.mark.parametrize("page", PAGES)
def test_the_policy_allows_this_style_and_script_alone(pages, kind, page):
    text = (pages / kind / page / records.REPORT).read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    for tag in ("style", "script"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1].encode()
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        assert f"{tag}-src &#39;sha256-{digest}&#39;" in policy
    assert policy.startswith("default-src &#39;none&#39;; img-src data:;")
    assert not re.search(r'<[^>]* (style|on\w+)="', text)
    assert not re.search(r"https?://", re.sub(r'xmlns="[^"]*"', "", text))
    assert len(text) < 8_000_000


def test_names_that_differ_are_shown_differently():
    names = Names()
    shown = [names(name) for name in (*EVIL, visible(EVIL[3]))]
    assert len(set(shown)) == len(shown)
    assert all(len(text) <= MOST for text in shown)
    assert [names(name) for name in EVIL] == shown[:-1]


def test_figures_write_names_as_they_are():
    names = Names().every(EVIL)
    rows = [("baseline", "resnet18", name, "cell", 0.5, 0.4, 0.6, 9) for name in names]
    columns = ["variant", "encoder", "domain", "class", "iou", "low", "high", "cases"]
    svg = to_svg(heatmap(pd.DataFrame(rows, columns=columns), "cell")).decode()
    assert "\x1b" not in svg
    assert "<script" not in svg
    assert "frac{1}{2}" in svg
    figure = Figure()
    figure.text(0, 0, "\x1b")
    ElementTree.fromstring(to_svg(figure))


def test_examples_show_before_and_after_only_with_a_remedy():
    one = case("g")
    both = examples([one], "").rows[0]
    alone = examples([one._replace(after=None, mask=None)], "").rows[0]
    assert both.after.startswith("data:image/png")
    assert both.share == f"{(one.before != one.after).mean():.1%}"
    assert (alone.after, alone.mask, alone.changed) == ("", "", "")
