"""The tables that the findings stand on: gathered from the studies, read back by the pages."""

from pathlib import Path

import pandas as pd

from skipshift.names import ORIGINAL
from skipshift.records import read_json, run_parts

TABLES = Path(__file__).parents[2] / "docs/findings/tables"

STUDIES = (
    "none",
    "jitter25",
    "jitter50",
    "jitter75",
    "sets",
    "resnet34",
    "dropout",
    "nuclei",
    "hearts",
)
"""Studies of the findings, `studies/findings-NAME.yaml`."""


class NotMadeError(Exception):
    """What a question asks for has not been run or measured yet."""


def gather(out: Path) -> None:
    """Write the counts and the record of every run, of those studies that are whole."""
    counts, runs = [], []
    for study in STUDIES:
        # a study writes it when all its runs are done
        if not (out / f"study-findings-{study}/tables/cases.parquet").exists():
            continue
        for folder in sorted((out / f"study-findings-{study}/runs").glob("*")):
            counts.append(pd.read_parquet(folder / "cases.parquet").assign(study=study))
            record = read_json(folder / "run.json")
            kept = ("validation_iou", "seconds", "epochs", "precision", "instruction_set")
            runs.append(
                {"study": study, "run": folder.name, **{name: record[name] for name in kept}}
            )
    keep("cases", pd.concat(counts, ignore_index=True))
    keep("runs", pd.DataFrame(runs))


def keep(name: str, table: pd.DataFrame) -> None:
    """Write a table: counts as Parquet, all else as CSV."""
    TABLES.mkdir(parents=True, exist_ok=True)
    if "tp" in table:
        texts = table.select_dtypes(["object", "string"]).columns
        small = table.astype(dict.fromkeys(texts, "category"))
        small.to_parquet(TABLES / f"{name}.parquet", compression="zstd", index=False)
    else:
        table.to_csv(TABLES / f"{name}.csv", index=False, float_format="%.6g")


def read(name: str) -> pd.DataFrame:
    """Read a table back; `NotMadeError` if it is not there."""
    kind = "parquet" if name in ("cases", "mended", "subsets") else "csv"
    file = TABLES / f"{name}.{kind}"
    if not file.exists():
        raise NotMadeError(name)
    if kind == "parquet":
        table = pd.read_parquet(file)
        texts = table.select_dtypes("category").columns
        return table.astype(dict.fromkeys(texts, str))
    return pd.read_csv(file, keep_default_na=False, na_values=[""])


def study_cases(*studies: str) -> pd.DataFrame:
    """Counts of some studies; `NotMadeError` if one of them has no run."""
    cases = read("cases")
    if missing := set(studies) - set(cases["study"]):
        raise NotMadeError(*missing)
    return cases[cases["study"].isin(studies)].drop(columns="study").reset_index(drop=True)


def done(*studies: str) -> list[str]:
    """Those of some studies that have runs."""
    there = set(read("cases")["study"])
    return [study for study in studies if study in there]


def renamed(cases: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Counts of runs of one variant under another name, their folds and seeds as they are."""
    parts = run_parts(cases["run"])
    names = parts["encoder"] + f".{variant}.fold" + parts["fold"].astype(str)
    return cases.assign(run=names + ".seed" + parts["seed"].astype(str))


def of_variant(cases: pd.DataFrame, *variants: str) -> pd.DataFrame:
    """Counts of the runs of some variants."""
    return cases[run_parts(cases["run"])["variant"].isin(variants).to_numpy()]


def scores(cases: pd.DataFrame) -> pd.DataFrame:
    """Pooled foreground IoU, the mean over classes, of every run and domain."""
    first = cases["class"].iloc[0]
    own = cases[cases["class"] != first]
    sums = own.groupby(["run", "domain", "class"], as_index=False)[["tp", "fp", "fn"]].sum()
    iou = sums["tp"] / (sums["tp"] + sums["fp"] + sums["fn"])
    table = sums.assign(iou=iou).groupby(["run", "domain"], as_index=False)["iou"].mean()
    return pd.concat([table, run_parts(table["run"])], axis=1)


def first_folds(cases: pd.DataFrame, number: int) -> pd.DataFrame:
    """Counts of the runs of the first folds."""
    return cases[(run_parts(cases["run"])["fold"] < number).to_numpy()]


def by_fold(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over the shifted domains, a row for each variant and a column for each fold."""
    own = table[table["domain"] != ORIGINAL]
    return own.groupby(["variant", "fold"])["iou"].mean().unstack()


def away(table: pd.DataFrame, home: str = ORIGINAL) -> "pd.Series[float]":
    """Mean over the shifted domains of every run."""
    return table[table["domain"] != home].groupby("run")["iou"].mean()
