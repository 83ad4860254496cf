"""Folds of the training cases: stratified, and a group never in two of them."""

import warnings

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from skipshift.specs import SkipshiftError


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
