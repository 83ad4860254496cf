"""The network in a study's page: each pair of domains, encoder, variant, distance and pooling."""

from typing import Any, cast

import numpy as np
import pandas as pd

from skipshift.names import skips_of
from skipshift.page.carry_sentences import single_paths, sure_loss
from skipshift.page.estimate_sentences import ANSWERED, WHY
from skipshift.page.findings import BLOCKS, CARRIED, Network, Table, network, table
from skipshift.page.ordering import ordered_variants
from skipshift.page.study_results import StudyResults
from skipshift.page.u_drawing import Drawing, Link, draw_u
from skipshift.statistics.recovery import NONE

AXES = ("domains", "encoder", "variant", "distance", "pooling")

MOST = 300
"""Pictures on one page; of a larger grid the first distance and pooling alone."""

_NETWORK = ["encoder", "variant", "reference", "shifted"]
_RUN = ["variant", "encoder", "fold", "seed"]


def study_network(results: StudyResults) -> Network | None:
    """Draw each profile of a study; None without a profile."""
    layers = results.layers if _too_many(results.profiles) else results.profiles
    if layers is None:
        return None
    keys = [*_NETWORK, "measure", "pooling"]
    drawings: dict[tuple[str, ...], Drawing] = {}
    groups = {cast("tuple[str, ...]", key): rows for key, rows in layers.groupby(keys, sort=False)}
    order = ordered_variants(layers["variant"])
    for key in sorted(groups, key=lambda key: order.index(key[1])):
        encoder, variant, reference, shifted, measure, pooling = key
        links = [Link(f"L{k}", f"e{2**k}", f"d{2**k}") for k in skips_of(variant)]
        of = (encoder, variant, reference, shifted)
        name = (f"{reference} against {shifted}", encoder, variant, measure, pooling)
        drawn = draw_u(groups[key], links, _carried(results, of), _best(results, of))
        drawings[name] = drawn
    said = f"{BLOCKS} Skips that a variant lacks are dashed."
    if results.carried is not None:
        said += f" {CARRIED} That was measured in the baseline."
    if results.remedies is not None:
        said += " A remedy is marked where all trainings of a baseline have the same one."
    return network(drawings, AXES, said)


def _too_many(layers: pd.DataFrame | None) -> bool:
    return layers is not None and len(layers.groupby([*_NETWORK, "measure", "pooling"])) > MOST


def _of(rows: pd.DataFrame | None, network: tuple[str, ...]) -> pd.DataFrame:
    if rows is None:
        return pd.DataFrame(columns=_NETWORK)
    return rows[(rows[_NETWORK] == list(network)).all(axis=1)]


def _carried(results: StudyResults, of: tuple[str, ...]) -> pd.DataFrame | None:
    rows = _of(results.carried, of)
    return None if rows.empty else over_trainings(rows)


def over_trainings(rows: pd.DataFrame) -> pd.DataFrame:
    """Join the activation patching of several trainings: means, and no interval.

    The interval of a single training is kept. The loss is sure where it is in every training.
    """
    runs = [run for _, run in rows.groupby(["fold", "seed"], sort=False)]
    if len(runs) == 1:
        return runs[0]
    number = ["iou", "share", "missing", "in_domain"]
    joined = rows.groupby("path", sort=False)[number].mean().reset_index()
    spread = rows.groupby("path", sort=False)["share"].std().to_numpy()
    sure = 1.0 if all(map(sure_loss, runs)) else float("nan")
    unknown = dict.fromkeys(("low", "high", "missing_low", "missing_high"), float("nan"))
    return joined.assign(spread_runs=spread, lost_low=sure, **unknown)


def _best(results: StudyResults, of: tuple[str, ...]) -> tuple[str, str] | None:
    rows = _of(results.remedies, of)
    named = rows[rows["recommended"]] if len(rows) else rows
    pairs = set(zip(named["remedy"], named["place"], strict=True)) if len(named) else set()
    runs = len(rows[_RUN].drop_duplicates()) if len(rows) else 0
    return pairs.pop() if len(pairs) == 1 and len(named) == runs else None


def baseline_tables(results: StudyResults) -> list[Table]:
    """Show activation patching and remedies of the baselines, if they were measured."""
    found = []
    if results.carried is not None:
        parts = [
            _path_rows(key, rows) for key, rows in results.carried.groupby(_NETWORK, sort=False)
        ]
        note = (
            "Share of the lost IoU that comes back when one path of the baseline alone is fed the "
            "reference's features. With one training its 95 % interval; with several the mean over "
            "them and the spread between them (SD). A loss that is not sure in every training has "
            "no shares."
        )
        columns = ["network", "domains", "path", "iou", "share", "low", "high", "missing",
                   "spread_runs", "runs"]  # fmt: skip
        shown = pd.concat(parts, ignore_index=True)
        found.append(table("carry", "What the skips carry", shown, columns, note))
    if results.remedies is not None:
        found.append(_remedy_table(results.remedies))
    if results.estimates is not None:
        found.append(_estimate_table(results.estimates))
    return found


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(
        network=rows["encoder"] + " " + rows["variant"],
        domains=rows["reference"] + " against " + rows["shifted"],
    )


def _path_rows(key: Any, rows: pd.DataFrame) -> pd.DataFrame:
    joined = over_trainings(rows)
    runs = len(rows[_RUN].drop_duplicates())
    if not sure_loss(joined):
        joined = joined.assign(share=float("nan"), low=float("nan"), high=float("nan"))
        joined = joined.assign(missing=float("nan"), spread_runs=float("nan"))
    plain = joined[joined["path"] == NONE]
    shown = pd.concat([plain.assign(share=float("nan")), single_paths(joined)])
    return _named(shown.assign(**dict(zip(_NETWORK, key, strict=True)), runs=float(runs)))


def _estimate_table(estimates: pd.DataFrame) -> Table:
    answered = estimates["answer"] == ANSWERED
    true, low, high = (estimates[name] for name in ("measured", "low", "high"))
    covered = answered & (low <= true) & (true <= high)
    judged = int((answered & true.notna()).sum())
    shown = _named(estimates).assign(
        estimated=[_estimated(row) for _, row in estimates.iterrows()],
        covered=np.where(covered, "yes", np.where(answered & true.notna(), "no", "-")),
    )
    columns = ["network", "domains", "fold", "seed", "class", "measured", "estimated", "method",
               "covered"]  # fmt: skip
    note = (
        f"{judged} of {len(estimates)} are answered; the 95 % interval covers the IoU measured "
        f"with masks in {int(covered.sum())} of those {judged}. The reference is every second "
        f"group of the source domains' test images; measured and estimated are on images of other "
        f"groups, with the masks and without them. Calibration leaves out the family of a "
        f"synthetic shift. Other trainings of the baseline are the peers of the method agreement."
    )
    return table("estimates", "IoU estimated without masks", shown, columns, note)


def _estimated(row: "pd.Series[Any]") -> str:
    if row["answer"] != ANSWERED:
        return f"cannot be said: {WHY[row['answer']]}"
    return f"{row['iou']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def _remedy_table(remedies: pd.DataFrame) -> Table:
    rows = []
    for _, own in remedies.groupby([*_NETWORK, "fold", "seed"], sort=False):
        named = own[own["recommended"]]
        none = own.head(1).assign(remedy="none", place="-")[[*_NETWORK, "fold", "seed"]]
        rows.append(named if len(named) else none.assign(remedy="none recommended"))
    shown = _named(pd.concat(rows, ignore_index=True)).fillna({"place": "-"})
    columns = ["network", "domains", "fold", "seed", "remedy", "place", "iou", "gain", "low",
               "high", "p_adjusted", "in_domain", "harm"]  # fmt: skip
    note = (
        "The remedy that is recommended for each training of a baseline, judged on groups that it "
        "was not fitted on. All that were tried are in tables/remedies.csv."
    )
    return table("remedies", "Remedies of the baselines", shown, columns, note)
