"""The page of a study (HTML) and its main table (text), from the study folder alone."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from skipshift import records
from skipshift.checksums import read_sealed
from skipshift.names import listed
from skipshift.page import tables
from skipshift.page.beside_iou import beside_iou
from skipshift.page.charts import curves, excess_map, heatmap, profile_figure, violins
from skipshift.page.comparison_sentences import verdict_sentences
from skipshift.page.group_chart import groups_figure
from skipshift.page.ordering import (
    Marks,
    Panel,
    grid,
    layer_order,
    marks,
    of_classes,
    of_pair,
    pairs_of,
    panels,
)
from skipshift.page.outside import Names
from skipshift.page.paper_numbers import beside_paper, table_one
from skipshift.page.pictures import (
    examples_figure,
    samples_figure,
    variants_figure,
    views_figure,
)
from skipshift.page.shell import data_uri, write_page
from skipshift.page.study_network import baseline_tables, study_network
from skipshift.page.study_results import (
    StudyResults,
    few_groups,
    read_histories,
    read_results,
    read_samples,
    read_study_spec,
    read_views,
)
from skipshift.page.study_sentences import answer, headline
from skipshift.page.style import to_jpeg, to_png, to_svg
from skipshift.page.wording import many
from skipshift.spec_files import to_plain
from skipshift.statistics.comparisons import group_effects, places_of
from skipshift.statistics.scores import MEAN, foreground_of
from skipshift.study_specs import StudySpec

TEMPLATES = "synthetic/templates.png"
METRIC_NAMES = {
    "iou": "IoU of all cases together",
    "case_iou": "mean IoU of single cases",
    "case_dice": "mean Dice of single cases",
}
"""Names of `SCORES` on the page."""

EMPTY_NAMES = {
    "empty_alarm": "share of empty cases with a false positive",
    "empty_pixels": "false-positive pixels in an empty case",
}
"""Names of `EMPTY` on the page."""

MOST_PROFILES = 3
"""Pairs of domains that have violins and a profile each; of more one heatmap is shown."""

LARGEST_SVG = 300_000
"""Size in bytes above which a chart is embedded as PNG."""


@dataclass(frozen=True)
class PageFigure:
    """A figure of the page."""

    source: str
    """Data URI."""

    alt: str
    """Alternative text."""

    width: int
    """CSS pixels."""

    encoder: str = ""
    """Encoder that the caption names."""


def write_report(folder: Path) -> Path:
    """Write report.html and figures/*.svg and *.png of a study, and return the page's path.

    `SkipshiftError` names a file that is absent or broken.
    """
    spec = read_study_spec(folder)
    results = read_results(folder, spec)
    shown = _charts(folder, results)
    shown |= _pictures(folder, results, spec)
    template = folder / TEMPLATES
    if template.exists():
        shown["templates"] = _templates(template)
    page = folder / records.REPORT
    context = _context(folder, results, spec, shown)
    write_page(page, "report.html.j2", results.names, **context)
    return page


def main_table(iou: pd.DataFrame, tests: pd.DataFrame | None = None) -> str:
    """IoU of every network on every domain, as plain text of at most 100 columns.

    Classes, kinds of shift and long rows are stacked; a star marks a variant that is higher than
    the baseline of its encoder by the tests.

    Parameters
    ----------
    iou
        Columns of iou.csv; the first class is background and left out.
    tests
        Columns of tests.csv, if there are tests.
    """
    shown = of_classes(iou, foreground_of(iou))
    blocks, marked = [], False
    for name in shown["class"].unique():
        values = grid(shown, str(name))
        bold = frozenset() if tests is None else marks(tests, str(name))
        marked = marked or bool(bold)
        title = _metric(str(name))
        blocks += [
            _text_block(f"{title}, {panel.title}", panel, values, bold)
            for panel in panels(values.columns)
        ]
    star = "\n\n* higher than the baseline of its encoder" if marked else ""
    return "\n\n".join(blocks) + star + "\n"


def _text_block(title: str, panel: Panel, values: pd.DataFrame, bold: Marks) -> str:
    names = [f"{encoder} {variant}" for encoder, variant in values.index]
    label = min(max(map(len, names)), 40)
    width = max(8, 1 + max(map(len, panel.labels)))
    each = max(1, (100 - label) // (width + 1))
    lines = [title]
    for i in range(0, len(panel.domains), each):
        heads = "".join(f" {text[:58]:>{width - 1}} " for text in panel.labels[i : i + each])
        lines.append(" " * label + heads.rstrip())
        for name, (key, row) in zip(names, values.iterrows(), strict=True):
            network = cast(tuple[str, str], key)
            cells = "".join(
                f" {_three(row[d]):>{width - 1}}{'*' if (*network, d) in bold else ' '}"
                for d in panel.domains[i : i + each]
            )
            lines.append(f"{name[:label]:<{label}}{cells}".rstrip())
    return "\n".join(lines)


def _three(value: float) -> str:
    return f"{value:.3f}" if value == value else "-"


def _metric(class_name: str) -> str:
    return "mean IoU of the classes" if class_name == MEAN else f"{class_name} IoU"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _domains(number: int) -> str:
    return "one domain" if number == 1 else f"{number} domains"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def _pair_slug(pair: tuple[str, str]) -> str:
    return _slug(f"{pair[0]}-{pair[1]}")


# -- figures ---------------------------------------------------------------------------------------


def _keep(folder: Path, name: str, figure: Figure, alt: str, photo: bool = False) -> PageFigure:
    """Write a figure's files and return it for embedding."""
    svg, png = to_svg(figure), to_png(figure)
    records.write_bytes(folder / records.FIGURES / f"{name}.svg", svg)
    records.write_bytes(folder / records.FIGURES / f"{name}.png", png)
    width = round(figure.get_size_inches()[0] * 96)
    if photo:
        return PageFigure(data_uri("image/jpeg", to_jpeg(figure)), alt, width)
    if len(svg) > LARGEST_SVG:
        return PageFigure(data_uri("image/png", png), alt, width)
    return PageFigure(data_uri("image/svg+xml", svg), alt, width)


def _charts(folder: Path, results: StudyResults) -> dict[str, PageFigure]:
    variants = list(results.iou["variant"].unique())
    networks = f"{len(variants)} variants" if len(variants) > 1 else variants[0]
    shown = {
        "variants": _keep(
            folder,
            "variants",
            variants_figure(variants),
            "Drawing of a U-net with encoder layers e2 to e32, decoder layers d16 to d1 and skips "
            f"L1 to L4 between them; dots show which skips are kept by {listed(variants)}.",
        )
    }
    domains = results.iou["domain"].nunique()
    for name, class_name in _heatmaps(results):
        alt = (
            f"Heatmap of {_metric(class_name)}: {networks} on {_domains(domains)}; the table below"
        )
        figure = heatmap(results.iou, class_name, marks(results.tests, class_name))
        shown[name] = _keep(folder, name, figure, f"{alt} gives the same numbers.")
    if not (few := few_groups(results)).empty:
        places = places_of(list(results.iou["domain"].unique()), results.homes)
        dots = group_effects(results.cases, [p for p in places if p.name in set(few["domain"])])
        dots = dots[dots["class"] == results.headline]
        alt = "Differences from the baseline: a dot for each group, and that of all cases together."
        shown["groups"] = _keep(folder, "groups", groups_figure(few, dots, results.margin), alt)
    pairs = [] if results.layers is None else pairs_of(results.layers)
    for pair in pairs if len(pairs) <= MOST_PROFILES else []:
        shown |= _profile(folder, results, pair)
    if results.layers is not None and len(pairs) > MOST_PROFILES:
        label, one = _first_network(results, results.layers)
        alt = f"Heatmap of the excess of {label}: layers by {len(pairs)} shifts and domains."
        shown["excess"] = _keep(folder, "excess", excess_map(one, label), alt)
    history = read_histories(results.runs)
    if history is not None:
        alt = f"Training loss and validation IoU by epoch for {networks}."
        shown["training"] = _keep(folder, "training", curves(history), alt)
    return shown


def _heatmaps(results: StudyResults) -> list[tuple[str, str]]:
    """Name and class of each heatmap, the headline class first."""
    others = [name for name in results.iou["class"].unique() if name != results.headline]
    return [("heatmap", results.headline), *((f"heatmap-{_slug(name)}", name) for name in others)]


def _profile(folder: Path, results: StudyResults, pair: tuple[str, str]) -> dict[str, PageFigure]:
    """Violins of all networks and the profile of the first, for one pair of domains."""
    assert results.layers is not None
    layers = of_pair(results.layers, pair)
    words = f"{pair[0]} and {pair[1]}"
    names = (f"violins-{_pair_slug(pair)}", f"profile-{_pair_slug(pair)}")
    shown = {}
    shift = None if results.shift is None else of_pair(results.shift, pair)
    if shift is not None and not shift.empty:
        alt = f"Violins of the distance between {words} in every layer, one for each variant."
        shown[names[0]] = _keep(folder, names[0], violins(shift, layers), alt)
    label, one = _first_network(results, layers)
    figure = profile_figure(one, f"{label}: {pair[0]} against {pair[1]}")
    alt = f"Excess, distance and null (noise floor) between {words} in each layer of {label}."
    shown[names[1]] = _keep(folder, names[1], figure, alt)
    return shown


def _first_network(results: StudyResults, layers: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Label and rows of the first profiled network, in the order of the runs."""
    keys = ["encoder", "variant"]
    profiled = set(layers[keys].itertuples(index=False, name=None))
    ordered = results.runs[keys].itertuples(index=False, name=None)
    network = next((network for network in ordered if network in profiled), min(profiled))
    one = layers[(layers[keys] == list(network)).all(axis=1)]
    runs = int(one["runs"].iloc[0])
    return f"{' '.join(network)}" + (f", {runs} runs" if runs > 1 else ""), one


def _pictures(folder: Path, results: StudyResults, spec: StudySpec) -> dict[str, PageFigure]:
    shown: dict[str, PageFigure] = {}
    names = results.names
    if views := read_views(folder, names):
        alt = f"Images of {listed(view['domain'] for view in views[0])} above their masks."
        figure = views_figure(views, len(spec.classes))
        shown["views"] = _keep(folder, "views", figure, alt, photo=True)
    for encoder, runs in results.runs.groupby("encoder", sort=False):
        samples = read_samples(runs, names.every(spec.classes), names)
        if not samples:
            continue
        name = f"samples-{_slug(str(encoder))}"
        alt = (
            f"Test images, their masks and the predictions of {listed(samples['predictions'])} "
            f"with {encoder}; false positives are orange, false negatives blue."
        )
        kept = _keep(folder, name, samples_figure(samples), alt, photo=True)
        shown[name] = PageFigure(kept.source, alt, kept.width, str(encoder))
        at_home = [i for i, domain in enumerate(samples["domains"]) if domain in results.homes][:4]
        if at_home and "examples" not in shown:
            titles = [samples["titles"][i].split("\n")[0] for i in at_home]
            figure = examples_figure(samples["images"][at_home], samples["masks"][at_home], titles)
            alt = f"{len(at_home)} images of {listed(results.homes)} above their masks."
            shown["examples"] = _keep(folder, "examples", figure, alt, photo=True)
    return shown


def _templates(path: Path) -> PageFigure:
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((1512, 1512))
    buffer = io.BytesIO()
    picture.save(buffer, format="jpeg", quality=90, subsampling=0)
    alt = "Templates of background, cells and artifacts that the images are made from."
    return PageFigure(data_uri("image/jpeg", buffer.getvalue()), alt, min(picture.width, 1008))


# -- page ------------------------------------------------------------------------------------------


def _context(
    folder: Path, results: StudyResults, spec: StudySpec, shown: dict[str, PageFigure]
) -> dict[str, Any]:
    domains = list(results.iou["domain"].unique())
    metric = _metric(results.headline)
    variants, encoders = (listed(results.runs[name].unique()) for name in ("variant", "encoder"))
    networks = f"{variants} with {encoders}"
    return {
        "title": f"skipshift: {metric}, {networks}",
        "heading": "Where the domain shift enters, and which skips to keep",
        "subheading": f"{_sentence(metric)} of {networks}, on {_domains(len(domains))}",
        "headline": headline(results),
        "answer": answer(results),
        "contents": _contents(shown),
        "network": study_network(results),
        "baseline_tables": baseline_tables(results),
        "failures": results.failures,
        "figures": shown,
        "metric": "mean IoU" if results.headline == MEAN else f"{results.headline} IoU",
        "away": many(results.away) if results.away else "",
        "home": listed(results.homes),
        "groups": results.cases["group"].nunique(),
        "cases": results.cases["case"].nunique(),
        "summary": tables.summary(results),
        "beside": beside_iou(results),
        "paper": beside_paper(results, spec),
        "parameters": tables.parameters(results.runs),
        "classes": len(spec.classes),
        "domains": tables.domain_rows(results, table_one(results, spec)),
        "same_places": _same_places(folder),
        "heatmaps": [(name, _sentence(_metric(c))) for name, c in _heatmaps(results)],
        "variants": results.runs["variant"].nunique(),
        "tables": _score_tables(results),
        "standings": tables.standings(results),
        "several_runs": bool((results.tests["runs"] > 1).any()),
        "foreground": len(results.foreground),
        "empty": tables.empty_cases(results),
        "effects": [
            {"name": name, "panels": tables.effect_panels(results, metric)}
            for metric, name in METRIC_NAMES.items()
        ],
        "verdicts": verdict_sentences(results.tests, results.margin),
        "margin": f"{results.margin:g}",
        "profiles": _profiles(results),
        "samples": [name for name in shown if name.startswith("samples-")],
        "training": tables.training(results.runs),
        "settings": results.names.settings(dict(tables.flat(to_plain(spec)))).items(),
        "environment": _environment(folder),
    }


def _score_tables(results: StudyResults) -> list[dict[str, Any]]:
    """IoU of the headline class and the others, then other metrics of the headline class."""
    classes = [
        {"name": _metric(str(name)), "panels": tables.metric_panels(results, "iou", str(name))}
        for _, name in _heatmaps(results)
    ]
    names = {name: words for name, words in METRIC_NAMES.items() if name != "iou"}
    if tables.empty_cases(results):
        names |= EMPTY_NAMES
    return classes + [
        {"name": words, "panels": tables.metric_panels(results, metric)}
        for metric, words in names.items()
    ]


def _contents(shown: dict[str, PageFigure]) -> list[tuple[str, str]]:
    links = [
        ("summary", "Summary"),
        ("networks", "Networks"),
        ("images", "Images"),
        ("domains", "Accuracy by domain"),
        ("profile", "Where the shift enters"),
        ("samples", "Predictions"),
        ("training", "Training"),
        ("made", "Methods and settings"),
    ]
    empty = set()
    if not {"templates", "examples", "views"} & set(shown):
        empty.add("images")
    if not any(name.startswith("samples-") for name in shown):
        empty.add("samples")
    return [link for link in links if link[0] not in empty]


def _profiles(results: StudyResults) -> list[dict[str, Any]]:
    if results.layers is None:
        return []
    shown = []
    for pair in pairs_of(results.layers):
        layers = of_pair(results.layers, pair)
        shown.append(
            {
                "reference": pair[0],
                "shifted": pair[1],
                "violins": f"violins-{_pair_slug(pair)}",
                "figure": f"profile-{_pair_slug(pair)}",
                "network": _first_network(results, layers)[0],
                "layers": layer_order(layers),
                "rows": tables.excess_rows(layers),
            }
        )
    return shown


def _same_places(folder: Path) -> bool:
    """Whether the views are of the same places in all domains."""
    return all(len({view["case"] for view in row}) == 1 for row in read_views(folder, Names()))


def _environment(folder: Path) -> list[tuple[str, str]]:
    path = folder / records.ENVIRONMENT
    if not path.exists():
        return []
    kept = read_sealed(path)
    return [(path.name, "broken; run the study again")] if kept is None else tables.flat(kept)
