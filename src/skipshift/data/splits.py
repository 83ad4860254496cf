"""Hold-out and folds: stratified, and a group never on two sides."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from skipshift.specs import SkipshiftError


def draw_holdout(strata: Sequence[str], holdout: float, seed: int) -> list[bool]:
    """Draw which cases are held out; each stratum's share is equal to within one case.

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
    """Split the training cases of a manifest into folds.

    Parameters
    ----------
    cases
        Rows with ``case, domain, group, split, stratum``.
    folds
        How many; each holds close to the same number of cases of each stratum.

    Returns
    -------
    ``case, domain, group, stratum, fold`` of each training case, in the manifest's order.
    `SkipshiftError` if there are fewer groups than folds.
    """
    # takes longer to import than a small set to prepare, which needs the hold-out alone
    from sklearn.model_selection import StratifiedGroupKFold

    train = cases[cases["split"] == "train"].reset_index(drop=True)
    groups = train["group"].nunique()
    if groups < folds:
        raise SkipshiftError(
            f"{groups} groups in the training split cannot fill {folds} folds; "
            f"ask for at most {groups} folds or add cases"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    table = train[["case", "domain", "group", "stratum"]].copy()
    table["fold"] = 0
    with warnings.catch_warnings():
        # a stratum with fewer cases than folds cannot be in every fold, and need not be
        warnings.filterwarnings("ignore", message="The least populated class")
        parts = splitter.split(train, train["stratum"], train["group"])
        for fold, (_, held_out) in enumerate(parts):
            table.loc[held_out, "fold"] = fold
    return table
