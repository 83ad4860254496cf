"""Stratified hold-out and cross-validation folds that never divide a group."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from skipshift.errors import SkipshiftError

CASE_COLUMNS = ["case", "domain", "group", "stratum"]
"""Columns that identify a case in a table of folds."""


def draw_holdout(strata: Sequence[str], holdout: float, seed: int) -> list[bool]:
    """Draw a stratified hold-out: the fraction of each stratum is equal to within one case.

    >>> sum(draw_holdout(["low", "high"] * 50, 0.2, seed=0))
    20
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    groups = [np.flatnonzero(np.array(strata) == name) for name in sorted(set(strata))]
    quotas = np.array([holdout * len(group) for group in groups])
    wanted = min(max(round(holdout * len(strata)), 1), len(strata) - 1) if holdout else 0
    takes = np.floor(quotas).astype(int)
    for group in np.argsort(takes - quotas, kind="stable")[: max(0, wanted - takes.sum())]:
        takes[group] += 1
    held_out = np.zeros(len(strata), dtype=bool)
    for group, take in zip(groups, takes, strict=True):
        held_out[rng.permutation(group)[:take]] = True
    return [bool(flag) for flag in held_out]


def draw_folds(cases: pd.DataFrame, folds: int, seed: int = 0) -> pd.DataFrame:
    """Divide the training cases of a manifest into folds.

    Parameters
    ----------
    cases
        Rows with ``case, domain, group, split, stratum``.
    folds
        Number of folds, balanced by domain and stratum.

    Returns
    -------
    ``case, domain, group, stratum, fold`` of each training case, in the order of the manifest.
    `SkipshiftError` if there are fewer groups than folds.
    """
    # slow to import, and preparing a set needs only the hold-out
    from sklearn.model_selection import StratifiedGroupKFold

    train = cases[cases["split"] == "train"].reset_index(drop=True)
    groups = train["group"].nunique()
    if groups < folds:
        raise SkipshiftError(
            f"{groups} groups in the training split cannot fill {folds} folds; "
            f"ask for at most {groups} folds or add cases"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    table = train[CASE_COLUMNS].assign(fold=0)
    with warnings.catch_warnings():
        # a stratum with fewer cases than folds need not be in every fold
        warnings.filterwarnings("ignore", message="The least populated class")
        strata = train["domain"] + "/" + train["stratum"]
        for fold, (_, held_out) in enumerate(splitter.split(train, strata, train["group"])):
            table.loc[held_out, "fold"] = fold
    return table


def leave_out_domains(cases: pd.DataFrame, folds: int, seed: int = 0) -> pd.DataFrame:
    """Leave one domain out per fold, with one in ``folds`` of the groups for model selection.

    A group that occurs in several domains is used for model selection in all of them or in none.

    Returns
    -------
    ``case, domain, group, stratum, fold, validation``: ``fold`` numbers the domains in order of
    appearance, ``validation`` is 1 for the cases used for model selection in the other folds.
    `SkipshiftError` unless two domains have training cases and all of these have test cases.
    """
    trained = list(cases.loc[cases["split"] == "train", "domain"].unique())
    if len(trained) < 2:
        raise SkipshiftError(
            f"leave_one_domain_out needs training cases in at least two domains, "
            f"got {', '.join(trained) or 'none'}"
        )
    if untested := set(trained) - set(cases.loc[cases["split"] == "test", "domain"]):
        raise SkipshiftError(
            f"leave_one_domain_out needs test cases in every domain it leaves out, "
            f"but {min(untested)} has none; give some of its groups the split test"
        )
    table = draw_folds(cases, folds, seed)
    table["validation"] = (table["fold"] == 0).astype(int)
    table["fold"] = pd.Categorical(table["domain"], trained).codes.astype(int)
    return table


def read_folds(path: Path) -> pd.DataFrame:
    """Read a table of folds; `SkipshiftError` if it is broken or divides a group."""
    text = dict.fromkeys(CASE_COLUMNS, str)
    try:
        table = pd.read_csv(path, dtype=text, keep_default_na=False)
        table = table[[*CASE_COLUMNS, "fold", *({"validation"} & set(table))]]
        table = table.astype({"fold": int})
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise SkipshiftError(f"{path}: cannot be read as folds: {reason}") from None
    part = "validation" if "validation" in table else "fold"
    parts = table.groupby("group")[part].nunique()
    if (parts > 1).any():
        raise SkipshiftError(
            f"{path}: group {parts.index[parts > 1][0]!r} is divided; "
            f"put all its cases into one {part}"
        )
    return table


def split_fold(folds: pd.DataFrame, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Select the training rows and the validation rows of a fold from a table of folds."""
    inside = folds["fold"] == fold
    if "validation" not in folds:
        return folds[~inside], folds[inside]
    validation = folds["validation"] == 1
    return folds[~inside & ~validation], folds[~inside & validation]


def training_domains(folds: pd.DataFrame, fold: int) -> list[str]:
    """List the domains that the networks of a fold are trained on, in order of appearance."""
    return [str(name) for name in np.asarray(split_fold(folds, fold)[0]["domain"].unique())]
