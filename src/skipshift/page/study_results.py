"""Read a study folder: its spec, tables, runs, training histories and samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from skipshift import records
from skipshift.checksums import check_sums, read_sealed
from skipshift.errors import SkipshiftError
from skipshift.names import parse_shift, seen_domain
from skipshift.page.ordering import in_domain, of_classes, ordered_variants
from skipshift.page.outside import MOST, Names
from skipshift.spec_files import read_spec
from skipshift.statistics.comparisons import AWAY, BOTH_FAIL, compare
from skipshift.statistics.layer_tests import over_runs
from skipshift.statistics.multiplicity import ALPHA
from skipshift.statistics.scores import estimates, headline_class
from skipshift.study_specs import StudySpec

RUN_KEYS = (
    "encoder",
    "variant",
    "fold",
    "seed",
    "parameters",
    "epochs",
    "best_epoch",
    "validation_iou",
    "seconds",
)
HISTORY_COLUMNS = ("epoch", "train_loss", "validation_iou")


@dataclass(frozen=True)
class StudyResults:
    """The tables and runs of one study."""

    iou: pd.DataFrame
    """Columns of iou.csv: the foreground classes, and the mean of several."""

    foreground: tuple[str, ...]
    """All classes but the background."""

    cases: pd.DataFrame
    """Columns of cases.parquet."""

    runs: pd.DataFrame
    """A row for each run: `RUN_KEYS`, and `path`, its folder."""

    homes: tuple[str, ...]
    """Source domains: those that the networks were trained on."""

    scores: pd.DataFrame
    """Columns of scores.csv."""

    tests: pd.DataFrame
    """Columns of tests.csv."""

    margin: float
    """Equivalence margin: the largest negligible difference of a score."""

    metrics: pd.DataFrame | None = None
    """Columns of metrics.csv, or None if no metrics beside IoU were measured."""

    layers: pd.DataFrame | None = None
    """Columns of profile.csv, all runs of a network joined, or None without a profile."""

    shift: pd.DataFrame | None = None
    """Columns of shift.parquet, or None without a profile."""

    domains: pd.DataFrame | None = None
    """Columns of domains.csv, or None in a study of an older version."""

    warnings: tuple[str, ...] = ()
    """Warnings of the data check before the training."""

    profiles: pd.DataFrame | None = None
    """Columns of profile.csv with all distances and poolings, or None without a profile."""

    carried: pd.DataFrame | None = None
    """Activation patching of each baseline run, or None if the study asked for none."""

    remedies: pd.DataFrame | None = None
    """Remedies of each baseline run, likewise."""

    estimates: pd.DataFrame | None = None
    """Estimates without masks of each baseline run, likewise."""

    failures: tuple[tuple[str, str], ...] = ()
    """Name and reason of each run that failed."""

    names: Names = field(default_factory=Names)
    """Names of domains and classes that were cut in all of these tables."""

    @property
    def away(self) -> tuple[str, ...]:
        """Target domains: all others, with the synthetic shifts."""
        return tuple(d for d in self.iou["domain"].unique() if d not in self.homes)

    @property
    def headline(self) -> str:
        """Class of ``iou`` that headlines report."""
        return headline_class(self.foreground)


def read_results(folder: Path, spec: StudySpec) -> StudyResults:
    """Read the tables of a study folder; those of the profile may be absent.

    scores.csv and tests.csv are computed from the cases if they are absent, or of an older version
    with fewer columns. `SkipshiftError` names a file that
    is absent, broken, not as its checksum says or without the classes of the spec.
    """
    tables = folder / records.TABLES
    check_sums(tables)
    names, foreground = Names(), spec.classes[1:]
    iou = of_classes(records.read_table(tables / "iou.csv"), foreground)
    if iou.empty:
        raise SkipshiftError(
            f"{tables / 'iou.csv'}: holds none of the classes {', '.join(foreground)}"
        )
    homes = _homes(folder, spec, list(iou["domain"].unique()))
    cases = records.read_table(tables / "cases.parquet")
    scores, tests = (_current(tables / name) for name in ("scores.csv", "tests.csv"))
    if tests is None:
        measured = _optional(tables / "metrics.parquet")
        tests = compare(cases, spec.margin, homes, measured=measured)
    # source domains come first, as `in_domain` expects
    iou = iou.sort_values("domain", key=lambda d: ~d.isin(homes), kind="stable")
    scores = estimates(cases) if scores is None else scores
    profiles, shift = _profiles(tables), _optional(tables / "shift.parquet")

    def cut(table: pd.DataFrame) -> pd.DataFrame:
        # a constant prediction is a variant that is named by its class
        named = ("domain", "class", "variant", "reference", "shifted", "about", "spacing")
        return names.table(table, *named)

    def cut_if(table: pd.DataFrame | None) -> pd.DataFrame | None:
        return None if table is None else cut(table)

    return StudyResults(
        iou=cut(iou),
        homes=names.every(homes),
        foreground=names.every(foreground),
        cases=cut(cases),
        scores=cut(scores),
        tests=cut(tests),
        metrics=cut_if(_optional(tables / "metrics.csv")),
        margin=spec.margin,
        runs=read_runs(folder, spec),
        layers=cut_if(_first(profiles, ["measure", "pooling"])),
        shift=cut_if(_first(shift, ["distance", "pooling"])),
        domains=cut_if(_optional(tables / "domains.csv")),
        warnings=_warnings(folder / records.CHECK),
        profiles=cut_if(profiles),
        carried=cut_if(_optional(tables / "carry.csv", records.CARRIED)),
        remedies=cut_if(_optional(tables / "remedies.csv", records.REMEDIED)),
        estimates=cut_if(_optional(tables / records.ESTIMATES)),
        failures=tuple(
            (path.parent.name, names(read_failure(path), 5 * MOST))
            for path in sorted((folder / records.RUNS).glob(f"*/{records.FAILURE}"))
        ),
        names=names,
    )


def read_failure(path: Path) -> str:
    """Read why a run failed; that its record is broken is a reason, too."""
    try:
        return str(records.read_json(path)["reason"])
    except (SkipshiftError, KeyError, TypeError):
        return f"a reason that is lost, for {records.FAILURE} is broken"


def _profiles(tables: Path) -> pd.DataFrame | None:
    """Read the profile of each network; join layers.csv if it was not joined yet."""
    if (tables / "profile.csv").exists():
        return _optional(tables / "profile.csv")
    layers = _optional(tables / "layers.csv")
    return None if layers is None else over_runs(layers, None)


def _first(table: pd.DataFrame | None, kinds: Sequence[str]) -> pd.DataFrame | None:
    """Rows of the first of several ``kinds``, distance and pooling."""
    if table is None:
        return None
    return table[(table[list(kinds)] == table[list(kinds)].iloc[0]).all(axis=1)]


def _warnings(path: Path) -> tuple[str, ...]:
    if not path.exists():
        return ()
    kept = read_sealed(path)
    if kept is None:
        return (f"nothing that is known: {path.name} is broken; run the study again",)
    findings = kept["findings"]
    return tuple(f"{finding['what']} ({finding['where'][0]})" for finding in findings)


def read_study_spec(folder: Path) -> StudySpec:
    """Read the spec of a study; `SkipshiftError` if it is absent or broken."""
    return read_spec(StudySpec, folder / records.STUDY)


def _homes(folder: Path, spec: StudySpec, domains: list[str]) -> tuple[str, ...]:
    """Domains of the training cases that were tested."""
    path = folder / records.SPLITS
    if not path.exists():
        return (in_domain(domains),)
    try:
        trained = set(pd.read_csv(path, dtype=str, keep_default_na=False)["domain"])
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise SkipshiftError(f"{path}: cannot be read as a table: {reason}") from None
    if spec.leave_one_domain_out:
        trained = {seen_domain(domain) for domain in trained}
    return tuple(d for d in domains if d in trained) or (in_domain(domains),)


def _current(path: Path) -> pd.DataFrame | None:
    """Read a table that can be computed again, if it is there and has all of today's columns."""
    if path.exists():
        header = path.read_text(encoding="utf-8").partition("\n")[0].split(",")
        if set(records.TABLE_COLUMNS[path.name]) - set(header):
            return None
    return _optional(path)


def _optional(path: Path, columns: str | None = None) -> pd.DataFrame | None:
    """Read a table that may be absent; None if it is, or empty."""
    table = records.read_table(path, columns) if path.exists() else None
    return None if table is None or table.empty else table


def read_runs(folder: Path, spec: StudySpec) -> pd.DataFrame:
    """Read all finished runs, by encoder in the order of the spec, then variant, fold and seed.

    `SkipshiftError` if there is none, or a record lacks a key.
    """
    rows = []
    for path in sorted((folder / records.RUNS).glob(f"*/{records.RUN_RECORD}")):
        values = records.read_json(path)
        missing = [key for key in RUN_KEYS if key not in values]
        if missing:
            raise SkipshiftError(f"{path}: lacks {', '.join(missing)}; train this run again")
        rows.append({**{key: values[key] for key in RUN_KEYS}, "path": path.parent})
    if not rows:
        raise SkipshiftError(f"{folder / records.RUNS}: holds no finished run; finish the study")
    runs = pd.DataFrame(rows)
    variants = ordered_variants(runs["variant"])
    encoders = list(dict.fromkeys([*spec.encoders, *runs["encoder"]]))
    ranks = [
        (encoders.index(row["encoder"]), variants.index(row["variant"]), row["fold"], row["seed"])
        for row in rows
    ]
    return runs.iloc[sorted(range(len(rows)), key=ranks.__getitem__)].reset_index(drop=True)


def read_histories(runs: pd.DataFrame) -> pd.DataFrame | None:
    """Join the training histories of all runs, the run named in each row; None if there are none.

    `SkipshiftError` names a file that cannot be read.
    """
    parts = []
    for _, run in runs.iterrows():
        path = run["path"] / records.HISTORY
        if not path.exists():
            continue
        try:
            part = pd.read_csv(path)[list(HISTORY_COLUMNS)]
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise SkipshiftError(f"{path}: cannot be read as a history: {reason}") from None
        parts.append(part.assign(**{k: run[k] for k in ("encoder", "variant", "fold", "seed")}))
    return pd.concat(parts, ignore_index=True) if parts else None


def read_samples(
    runs: pd.DataFrame, classes: Sequence[str], names: Names, most: int = 6
) -> dict[str, Any]:
    """Read the sample predictions of each variant's first run, for the cases that all share.

    Parameters
    ----------
    runs
        Runs of one encoder, as from `read_runs`.
    classes
        Names of the mask values.
    names
        Cuts the names of cases and domains.
    most
        Number of cases to keep at most.

    Returns
    -------
    Arguments of `samples_figure`, and `domains`; empty if no run kept samples. `SkipshiftError`
    names a file that cannot be read.
    """
    arrays = {}
    for _, run in runs.drop_duplicates("variant").iterrows():
        path = run["path"] / records.SAMPLES
        if path.exists():
            arrays[str(run["variant"])] = _arrays(path)
    if not arrays:
        return {}
    index = {
        variant: {key: i for i, key in enumerate(zip(a["cases"], a["domains"], strict=True))}
        for variant, a in arrays.items()
    }
    first = next(iter(index))
    keys = [key for key in index[first] if all(key in own for own in index.values())][:most]
    rows = {variant: [own[key] for key in keys] for variant, own in index.items()}
    if not keys:
        return {}
    return {
        "images": arrays[first]["images"][rows[first]],
        "masks": arrays[first]["masks"][rows[first]],
        "predictions": {v: a["predictions"][rows[v]] for v, a in arrays.items()},
        "titles": [f"{names(str(case))}\n{names(str(domain))}" for case, domain in keys],
        "domains": [names(str(domain)) for _, domain in keys],
        "classes": tuple(classes),
    }


def read_views(folder: Path, names: Names) -> list[list[dict[str, Any]]]:
    """Read the views of the test domains: rows of ``image, mask, case, domain``; may be empty.

    `SkipshiftError` names a file that cannot be read.
    """
    path = folder / records.VIEWS
    if not path.exists():
        return []
    about = _arrays(path, ("places", "cases", "domains"))
    numbers = range(len(about["cases"]))
    pixels = _arrays(path, [f"{kind}-{i}" for i in numbers for kind in ("image", "mask")])
    rows: dict[int, list[dict[str, Any]]] = {}
    for i in numbers:
        view = {kind[:-1]: names(str(about[kind][i])) for kind in ("cases", "domains")}
        view |= {"image": pixels[f"image-{i}"], "mask": pixels[f"mask-{i}"]}
        rows.setdefault(int(about["places"][i]), []).append(view)
    return list(rows.values())


_SAMPLES = ("images", "masks", "predictions", "cases", "domains")


def _arrays(path: Path, names: Sequence[str] = _SAMPLES) -> dict[str, Any]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise SkipshiftError(f"{path}: cannot be read as {path.stem}: {reason}") from None


def tests_on(results: StudyResults, encoder: str, domains: Sequence[str]) -> pd.DataFrame:
    """Select the headline tests of one encoder on a domain, or on the mean of several."""
    domain = domains[0] if len(domains) == 1 else AWAY
    tests = headline_tests(results)
    return tests[(tests["encoder"] == encoder) & (tests["domain"] == domain)]


def few_groups(results: StudyResults) -> pd.DataFrame:
    """Select the headline tests in which no p could be small, whatever the data.

    Networks that both fail are left out, and single synthetic shifts where their mean is there.
    """
    tests = headline_tests(results)
    tests = tests[tests["effect"].notna() & (tests["verdict"] != BOTH_FAIL)]
    few = tests[tests["least_p"] >= ALPHA]
    shifts = few["domain"].map(lambda domain: parse_shift(domain) is not None)
    return few[~shifts] if AWAY in set(few["domain"]) else few


def headline_tests(results: StudyResults) -> pd.DataFrame:
    """Select the tests of the headline class by the paper's IoU."""
    tests = results.tests
    return tests[(tests["class"] == results.headline) & (tests["metric"] == "iou")]
