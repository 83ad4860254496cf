"""Pages in headless Chromium, without a network: selectors, hover, focus, slider, print, axe."""

import shutil

import pytest

import planted
from page_findings import PAGES, findings
from planted import Plan
from skipshift import records
from skipshift.page.findings import write_findings
from skipshift.page.report import write_report

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
WIDTHS = (390, 800, 1280)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with api.sync_playwright() as play:
        yield play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One page of each kind; the profile has two distances, the study two pairs of domains."""
    out = tmp_path_factory.mktemp("pages")
    found, about = findings(("e2", "d2", "L1", "d1", "e4", "d4", "x" * 10_000))
    for command, one in found.items():
        write_findings(out / command, one, about)
    plan = Plan(domains=("A", "B", "C"), homes=("A",), pairs=(("A", "B"), ("A", "C")), cases=6,
                channels=(4,) * 10)  # fmt: skip
    folder = planted.plant(out / "study", plan)
    write_report(folder)
    return out


@pytest.fixture
def opened(browser, pages):
    """Open a page offline; in the end there must be no request and no message on the console."""
    faults, contexts = [], []

    def open_page(name, width=1280, scheme="light"):
        view = {"width": width, "height": 900}
        context = browser.new_context(viewport=view, color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        local = ("data:", "file:")
        page.on("request", lambda r: None if r.url.startswith(local) else faults.append(r.url))
        page.goto((pages / name / records.REPORT).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_window_and_has_no_serious_fault(opened, name, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")
    for width in WIDTHS:
        page = opened(name, width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    # axe comes over the debugger, past the page's own policy
    found = axe.Axe().run(page).response["violations"]
    assert [f["id"] for f in found if f["impact"] in ("serious", "critical")] == []


def test_the_dark_page_is_dark_and_prints_light(opened):
    page = opened("diagnose", scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(colour) == "rgb(22, 24, 27)"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(colour) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_prints(opened, name, tmp_path):
    page = opened(name)
    page.pdf(path=str(tmp_path / "page.pdf"))
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_a_selector_changes_the_picture(opened):
    page = opened("study")
    choice = page.get_by_label("variant")
    shown = page.locator("#u figure:visible")
    assert shown.count() == 1
    before = shown.inner_html()
    choice.select_option("L1-pruned")
    assert shown.count() == 1
    assert shown.inner_html() != before
    assert "L1: pruned" in shown.inner_html()
    page.get_by_label("domains").select_option("A against C")
    assert "A against C" in shown.locator("svg").get_attribute("aria-label")


def test_hover_and_focus_tell_the_numbers(opened):
    page = opened("study")
    figure = page.locator("#u figure:visible")
    line, blocks = figure.locator(".readout"), figure.locator("g[data-told]")
    blocks.nth(6).hover()
    assert line.inner_text() == blocks.nth(6).get_attribute("aria-label")
    assert "95 % interval" in line.inner_text()
    blocks.nth(6).focus()
    page.keyboard.press("Tab")
    assert line.inner_text() == blocks.nth(7).get_attribute("aria-label")


def test_the_slider_moves_the_edge_by_the_keyboard(opened):
    page = opened("diagnose")
    slider = page.locator("input.edge").first
    edge = "e => getComputedStyle(e.parentElement).getPropertyValue('--edge')"
    slider.focus()
    assert slider.evaluate(edge) == "50%"
    page.keyboard.press("ArrowRight")
    assert slider.evaluate(edge) == "51%"
    page.keyboard.press("Home")
    assert slider.evaluate(edge) == "0%"
