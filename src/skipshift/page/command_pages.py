"""The pages of a profile, of activation patching and of an evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from skipshift.names import shown
from skipshift.page.carry_chart import carry_figure
from skipshift.page.carry_sentences import carry_sentence, sure_loss
from skipshift.page.charts import profile_figure
from skipshift.page.diagnosis_page import layers_table, skips_table
from skipshift.page.findings import BLOCKS, CARRIED, Drawings, Findings, chart, subject, table
from skipshift.page.ordering import panels
from skipshift.page.outside import Names
from skipshift.page.profile_sentences import profile_verdict
from skipshift.page.u_drawing import Link, draw_u, unmeasured
from skipshift.page.wording import UNITS

_KINDS = ["measure", "pooling"]

_SCORES = 50
"""Images on the page of scores."""


def profile_findings(
    layers: pd.DataFrame, links: Sequence[Link], about: Mapping[str, Any], note: str = ""
) -> Findings:
    """Lay the page of a profile out, the network once for each distance and pooling.

    Parameters
    ----------
    layers
        Rows of a profile; the verdict is of the first distance and pooling.
    links
        Skips of the network, if they are known.
    about
        Settings, of which the page names ``net``, ``reference`` and ``shifted``.
    note
        What else limits the findings.
    """
    names = Names()
    layers = names.table(layers, "layer")
    links = [Link(*names.every(link)) for link in links]
    parts = {(str(m), str(p)): rows for (m, p), rows in layers.groupby(_KINDS, sort=False)}
    first = next(iter(parts.values()))
    sets = " against ".join(names(str(about[key])) for key in ("reference", "shifted"))
    figure = profile_figure(first, sets)
    return Findings(
        "Profile",
        subject(names, about),
        [("Where does the shift show?", profile_verdict(first))],
        names,
        {key: draw_u(rows, links) for key, rows in parts.items()},
        ("distance", "pooling"),
        BLOCKS,
        [
            chart(
                "Layer by layer",
                figure,
                f"Excess, distance and null (noise floor) between {sets} in each layer.",
                "The line is the excess with 95 % intervals over groups; hollow points are not "
                "significantly above the null (noise floor).",
            )
        ],
        tables=[
            layers_table(rows)._replace(
                title=f"Layers: {shown(key)}" if len(parts) > 1 else "Layers",
                id=f"profile-{number}",
            )
            for number, (key, rows) in enumerate(parts.items())
        ],
        sure=" ".join(filter(None, [_units(first), note])),
    )


def _units(layers: pd.DataFrame) -> str:
    return (
        f"The profile compares {layers['groups'].iloc[0]} groups. {UNITS} A large excess shows "
        f"that the features differ there, not that the loss of accuracy originates there."
    )


def carry_findings(
    carried: pd.DataFrame,
    known: tuple[Sequence[str], Sequence[Link]],
    about: Mapping[str, Any],
) -> Findings:
    """Lay the page of activation patching out.

    Parameters
    ----------
    known
        Layers and skips of the network; it is not drawn without any.
    about
        As in `profile_findings`.
    """
    names = Names()
    carried = names.table(carried, "path")
    layers, links = names.every(known[0]), [Link(*names.every(link)) for link in known[1]]
    drawn: Drawings = {(): draw_u(unmeasured(layers), links, carried)} if layers else {}
    sets = " against ".join(names(str(about[key])) for key in ("reference", "shifted"))
    return Findings(
        "Activation patching",
        subject(names, about),
        [("Which path carries the loss?", carry_sentence(carried))],
        names,
        drawn,
        caption=CARRIED if sure_loss(carried) else "The loss may be chance: no share is shown.",
        charts=[
            chart(
                "Path by path",
                carry_figure(carried, sets),
                "Share of the lost IoU that each path brings back; the table gives the numbers.",
                "Pale bars are no finding: of a loss that may be chance, or of a patch that leads "
                "the block behind it farther from the reference.",
            )
        ],
        tables=[skips_table(carried)],
        sure="Each interval is of its row alone, over groups of the images that were patched.",
    )


def evaluation_findings(iou: pd.DataFrame, about: Mapping[str, Any]) -> Findings:
    """Lay the page of an evaluation out: the IoU of each class on each domain.

    Parameters
    ----------
    iou
        Columns of iou.csv, of one network.
    about
        Settings, of which the page names ``net`` and ``manifest``.
    """
    names = Names()
    iou = names.table(iou, "domain", "class")
    order = dict.fromkeys(d for panel in panels(iou["domain"]) for d in panel.domains)
    ranked = iou.sort_values("domain", key=lambda d: d.map(list(order).index), kind="stable")
    worst = ranked.dropna(subset=["iou"]).groupby("class", sort=False)["iou"].idxmin()
    rows = [ranked.loc[i] for i in worst]
    said = [
        f"{row['class']}: {row['iou']:.3f} on {row['domain']}" for row in rows
    ]  # fmt: skip
    return Findings(
        "Evaluation",
        subject(names, about),
        [("Where is the IoU lowest?", f"{'; '.join(said)}. Whether that is more than chance is "
          "not tested here.")]
        if iou["domain"].nunique() > 1
        else [("What is the IoU?", f"{'; '.join(said)}.")],
        names,
        tables=[
            table(
                "iou",
                "IoU",
                ranked,
                ["domain", "class", "iou", "low", "high", "cases"],
                "IoU of all images of a domain together, with its 95 % interval over groups.",
            )
        ],
    )  # fmt: skip


def estimate_findings(estimated: pd.DataFrame, verdict: str, about: Mapping[str, Any]) -> Findings:
    """Lay the page of an estimate out.

    Parameters
    ----------
    estimated
        Columns of estimate.csv.
    about
        As in `profile_findings`.
    """
    names = Names()
    estimated = names.table(estimated, "class")
    return Findings(
        "Estimate",
        subject(names, about),
        [("What is the IoU without masks?", verdict)],
        names,
        tables=[
            table(
                "estimate",
                "IoU",
                estimated,
                ["class", "iou", "low", "high", "method", "answered"],
                "IoU of all pixels of the set together, with its 95 % interval; empty where it "
                "cannot be said.",
            )
        ],
        sure="The interval covers domains that differ from known shifts of the reference as those "
        "differ from each other. No interval can promise more without masks.",
    )


def scores_findings(scores: pd.DataFrame, said: str, about: Mapping[str, Any]) -> Findings:
    """Lay the page of scores of single images out, the least like the reference first.

    Parameters
    ----------
    scores
        Columns of scores.csv.
    about
        Settings, of which the page names ``net``.
    """
    names = Names()
    scores = names.table(scores, "case", "layer").sort_values("p", kind="stable")
    return Findings(
        "Scores",
        subject(names, about),
        [("Which images are unlike the reference?", said)],
        names,
        tables=[
            table(
                "scores",
                "Images",
                scores.head(_SCORES),
                ["case", "p", "layer", "iou"],
                f"The {min(_SCORES, len(scores))} least like the reference, of {len(scores)}; all "
                f"are in scores.csv. p is the share of images as odd as this one, in the layer "
                f"where they are the oddest; iou is the network's own confidence, not corrected.",
            )
        ],
    )
