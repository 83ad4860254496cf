"""The study's page and its main table, made from the study folder alone, without torch."""

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from skipshift import records
from skipshift.names import listed
from skipshift.page import tables as rows
from skipshift.page.charts import curves, heatmap, profile_figure, violins
from skipshift.page.comparison_sentences import verdict_sentences
from skipshift.page.ordering import (
    Panel,
    best,
    grid,
    layer_order,
    of_classes,
    of_pair,
    pairs_of,
    panels,
)
from skipshift.page.pictures import examples_figure, samples_figure, variants_figure
from skipshift.page.study_results import (
    StudyResults,
    read_histories,
    read_results,
    read_samples,
    read_study_spec,
)
from skipshift.page.study_sentences import answer, headline
from skipshift.page.style import to_jpeg, to_png, to_svg
from skipshift.page.wording import chance, many, signed
from skipshift.specs import StudySpec, to_plain
from skipshift.statistics.scores import MEAN, foreground_of

TEMPLATES = "synthetic/templates.png"
METRIC_NAMES = {
    "iou": "IoU of all cases together",
    "case_iou": "mean IoU of single cases",
    "case_dice": "mean Dice of single cases",
}
"""What `METRICS` are called on the page."""

LARGEST_SVG = 300_000
"""Bytes beyond which a chart goes into the page as PNG."""


@dataclass(frozen=True)
class Shown:
    """A figure of the page."""

    source: str
    """Data URI."""

    alt: str
    """What the picture shows, for who cannot see it."""

    width: int
    """CSS pixels."""

    about: str = ""
    """What the caption needs to say besides."""


def write_report(folder: Path) -> Path:
    """Write figures/*.svg and *.png and report.html of a study, and return the page's path."""
    spec = read_study_spec(folder)
    found = read_results(folder, spec)
    shown = _charts(folder, found)
    shown |= _pictures(folder, found, spec)
    template = folder / TEMPLATES
    if template.exists():
        shown["templates"] = _templates(template)
    page = folder / records.REPORT
    records.write_bytes(page, _render(_context(folder, found, spec, shown)).encode())
    return page


def main_table(iou: pd.DataFrame) -> str:
    """IoU of every network on every domain as plain text of at most 100 columns.

    Classes, kinds of shift and long rows of domains are stacked; a star marks the highest of its
    encoder in a column.

    Parameters
    ----------
    iou
        Columns of iou.csv; the first class is background and left out.
    """
    shown = of_classes(iou, foreground_of(iou))
    blocks, marked = [], False
    for name in shown["class"].unique():
        values = grid(shown, str(name))
        marks = best(values, 3)
        marked = marked or bool(marks.to_numpy().any())
        title = _metric(str(name))
        blocks += [
            _text_block(f"{title}, {panel.title}", panel, values, marks)
            for panel in panels(values.columns)
        ]
    star = "\n\n* highest of its encoder in the column" if marked else ""
    return "\n\n".join(blocks) + star + "\n"


def _text_block(title: str, panel: Panel, values: pd.DataFrame, marks: pd.DataFrame) -> str:
    names = [f"{encoder} {variant}" for encoder, variant in values.index]
    label = min(max(map(len, names)), 40)
    width = max(8, 1 + max(map(len, panel.labels)))
    each = max(1, (100 - label) // (width + 1))
    lines = [title]
    for i in range(0, len(panel.domains), each):
        heads = "".join(f" {text[:58]:>{width - 1}} " for text in panel.labels[i : i + each])
        lines.append(" " * label + heads.rstrip())
        for name, (_, row), (_, mark) in zip(
            names, values.iterrows(), marks.iterrows(), strict=True
        ):
            cells = "".join(
                f" {_three(row[d]):>{width - 1}}{'*' if mark[d] else ' '}"
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


def _keep(folder: Path, name: str, figure: Figure, alt: str, photo: bool = False) -> Shown:
    """Write a figure's files and return it as the page embeds it."""
    svg, png = to_svg(figure), to_png(figure)
    records.write_bytes(folder / records.FIGURES / f"{name}.svg", svg)
    records.write_bytes(folder / records.FIGURES / f"{name}.png", png)
    width = round(figure.get_size_inches()[0] * 96)
    if photo:
        return Shown(_uri("image/jpeg", to_jpeg(figure)), alt, width)
    if len(svg) > LARGEST_SVG:
        return Shown(_uri("image/png", png), alt, width)
    return Shown(_uri("image/svg+xml", svg), alt, width)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _charts(folder: Path, found: StudyResults) -> dict[str, Shown]:
    variants = list(found.iou["variant"].unique())
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
    domains = found.iou["domain"].nunique()
    for name, class_name in _heatmaps(found):
        alt = (
            f"Heatmap of {_metric(class_name)}: {networks} on {_domains(domains)}; the table below"
        )
        figure = heatmap(found.iou, class_name)
        shown[name] = _keep(folder, name, figure, f"{alt} gives the same numbers.")
    for pair in pairs_of(found.layers) if found.layers is not None else []:
        shown |= _profile(folder, found, pair)
    history = read_histories(found.runs)
    if history is not None:
        alt = f"Training loss and validation IoU by epoch for {networks}."
        shown["training"] = _keep(folder, "training", curves(history), alt)
    return shown


def _heatmaps(found: StudyResults) -> list[tuple[str, str]]:
    """Name of each heatmap and its class, the headline first."""
    others = [name for name in found.iou["class"].unique() if name != found.headline]
    return [("heatmap", found.headline), *((f"heatmap-{_slug(name)}", name) for name in others)]


def _profile(folder: Path, found: StudyResults, pair: tuple[str, str]) -> dict[str, Shown]:
    """Violins of all networks and the profile of the first, for one pair of domains."""
    assert found.layers is not None
    layers = of_pair(found.layers, pair)
    words = f"{pair[0]} and {pair[1]}"
    names = (f"violins-{_pair_slug(pair)}", f"profile-{_pair_slug(pair)}")
    shown = {}
    shift = None if found.shift is None else of_pair(found.shift, pair)
    if shift is not None and not shift.empty:
        alt = f"Violins of the distance between {words} in every layer, one for each variant."
        shown[names[0]] = _keep(folder, names[0], violins(shift, layers), alt)
    label, one = _first_network(found, layers)
    figure = profile_figure(one, f"{label}: {pair[0]} against {pair[1]}")
    alt = f"Distance between {words} in each layer of {label}, beside its null."
    shown[names[1]] = _keep(folder, names[1], figure, alt)
    return shown


def _first_network(found: StudyResults, layers: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Label and rows of the first profiled run, in the order of the runs."""
    keys = ["encoder", "variant", "fold", "seed"]
    profiled = set(layers[keys].itertuples(index=False, name=None))
    ordered = found.runs[keys].itertuples(index=False, name=None)
    run = next((run for run in ordered if run in profiled), min(profiled))
    encoder, variant, fold, seed = run
    one = layers[(layers[keys] == list(run)).all(axis=1)]
    return f"{encoder} {variant}, fold {fold}, seed {seed}", one


def _pictures(folder: Path, found: StudyResults, spec: StudySpec) -> dict[str, Shown]:
    shown: dict[str, Shown] = {}
    for encoder, runs in found.runs.groupby("encoder", sort=False):
        samples = read_samples(runs, spec.classes)
        if not samples:
            continue
        name = f"samples-{_slug(str(encoder))}"
        alt = (
            f"Test images, their masks and the predictions of {listed(samples['predictions'])} "
            f"with {encoder}; false positives are orange, missed pixels blue."
        )
        kept = _keep(folder, name, samples_figure(samples), alt, photo=True)
        shown[name] = Shown(kept.source, alt, kept.width, str(encoder))
        at_home = [i for i, domain in enumerate(samples["domains"]) if domain in found.homes][:4]
        if at_home and "examples" not in shown:
            titles = [samples["titles"][i].split("\n")[0] for i in at_home]
            figure = examples_figure(samples["images"][at_home], samples["masks"][at_home], titles)
            alt = f"{len(at_home)} images of {listed(found.homes)} above their masks."
            shown["examples"] = _keep(folder, "examples", figure, alt, photo=True)
    return shown


def _templates(path: Path) -> Shown:
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((1512, 1512))
    buffer = io.BytesIO()
    picture.save(buffer, format="jpeg", quality=90, subsampling=0)
    alt = "Templates of background, cells and artifacts that the images are made from."
    return Shown(_uri("image/jpeg", buffer.getvalue()), alt, min(picture.width, 1008))


# -- page ------------------------------------------------------------------------------------------


def _render(context: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("skipshift.page", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"signed": signed, "chance": chance}
    return environment.get_template("report.html.j2").render(context)


def _context(
    folder: Path, found: StudyResults, spec: StudySpec, shown: dict[str, Shown]
) -> dict[str, Any]:
    domains = list(found.iou["domain"].unique())
    metric = _metric(found.headline)
    networks = (
        f"{listed(found.runs['variant'].unique())} with {listed(found.runs['encoder'].unique())}"
    )
    return {
        "title": f"skipshift: {metric}, {networks}",
        "heading": "Where the shift enters, and which skips to keep",
        "subheading": f"{_sentence(metric)} of {networks}, on {_domains(len(domains))}",
        "headline": headline(found),
        "answer": answer(found),
        "contents": _contents(shown),
        "figures": shown,
        "metric": "mean IoU" if found.headline == MEAN else f"{found.headline} IoU",
        "away": many(found.away) if found.away else "",
        "home": listed(found.homes),
        "groups": found.cases["group"].nunique(),
        "cases": found.cases["case"].nunique(),
        "summary": rows.summary(found),
        "parameters": rows.parameters(found.runs),
        "classes": len(spec.classes),
        "heatmaps": [(name, _sentence(_metric(c))) for name, c in _heatmaps(found)],
        "variants": found.runs["variant"].nunique(),
        "tables": _score_tables(found),
        "standings": rows.standings(found),
        "effects": [
            {"name": name, "panels": rows.effect_panels(found, metric)}
            for metric, name in METRIC_NAMES.items()
        ],
        "verdicts": verdict_sentences(found.tests, found.margin),
        "margin": f"{found.margin:g}",
        "profiles": _profiles(found),
        "samples": [name for name in shown if name.startswith("samples-")],
        "training": rows.training(found.runs),
        "settings": rows.flat(to_plain(spec)),
        "environment": _environment(folder),
    }


def _score_tables(found: StudyResults) -> list[dict[str, Any]]:
    """Scores of the headline, of the single classes, then of the headline by the other metrics."""
    classes = [
        {"name": _metric(str(name)), "panels": rows.iou_panels(found.iou, str(name))}
        for _, name in _heatmaps(found)
    ]
    return classes + [
        {"name": name, "panels": rows.metric_panels(found, metric)}
        for metric, name in METRIC_NAMES.items()
        if metric != "iou"
    ]


def _contents(shown: dict[str, Shown]) -> list[tuple[str, str]]:
    links = [
        ("summary", "In one table"),
        ("networks", "The networks"),
        ("images", "The images"),
        ("domains", "How well on which domain"),
        ("profile", "Where the shift enters"),
        ("samples", "What they predict"),
        ("training", "How they were trained"),
        ("made", "How this was made"),
    ]
    empty = set()
    if not {"templates", "examples"} & set(shown):
        empty.add("images")
    if not any(name.startswith("samples-") for name in shown):
        empty.add("samples")
    return [link for link in links if link[0] not in empty]


def _profiles(found: StudyResults) -> list[dict[str, Any]]:
    if found.layers is None:
        return []
    shown = []
    for pair in pairs_of(found.layers):
        layers = of_pair(found.layers, pair)
        shown.append(
            {
                "reference": pair[0],
                "shifted": pair[1],
                "violins": f"violins-{_pair_slug(pair)}",
                "figure": f"profile-{_pair_slug(pair)}",
                "network": _first_network(found, layers)[0],
                "layers": layer_order(layers),
                "rows": rows.excess_rows(layers),
            }
        )
    return shown


def _environment(folder: Path) -> list[tuple[str, str]]:
    path = folder / records.ENVIRONMENT
    values = records.read_json(path) if path.exists() else {}
    return rows.flat(values) if isinstance(values, dict) else []
