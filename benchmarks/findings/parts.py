"""A table made in parts by several processes, each part kept as soon as it is done."""

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from skipshift.records import atomic

Call = tuple[Any, ...]
"""A function that makes a part, and its arguments."""


def in_parts(folder: Path, calls: Mapping[str, Call], jobs: int = 2) -> pd.DataFrame:
    """Join the parts of a table, ``jobs`` made at a time; those that are there stay.

    A part's name begins with that of its study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / f"{name}.parquet": call for name, call in calls.items()}
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        waiting = [pool.submit(_make, *own) for own in files.items() if not own[0].exists()]
        for done in as_completed(waiting):
            print(done.result(), flush=True)
    parts = (pd.read_parquet(file).assign(study=file.name.split(".")[0]) for file in files)
    return pd.concat(parts, ignore_index=True)


def _make(file: Path, call: Call) -> Path:
    torch.set_num_threads(1)
    made, *words = call
    with atomic(file) as unfinished:
        made(*words).to_parquet(unfinished, index=False)
    return file
