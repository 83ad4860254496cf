"""Several manifests joined into one set."""

from pathlib import Path

import pandas as pd

from skipshift.data.images import read_mask, read_native
from skipshift.data.manifest import COLUMNS, order_columns, read_manifest
from skipshift.data.prepare.options import MergeSpec
from skipshift.data.prepare.writing import (
    RECORD,
    JobOutput,
    Plan,
    Sample,
    source_digest,
    write_set,
)
from skipshift.errors import SkipshiftError
from skipshift.progress import Progress, silent
from skipshift.records import read_json

_RECIPE_VERSION = 1
"""Increase this with every change that alters the output."""

_VALUES = 256


def merge_sets(spec: MergeSpec, progress: Progress = silent) -> Path:
    """Write the set and return the path of its manifest.

    Images, masks and all columns are kept; a column that a manifest lacks is empty in its rows.
    `SkipshiftError` if a manifest is invalid, if the classes of two sets differ, if a case occurs
    twice in a domain, or if a group is on both sides of the split.
    """
    tables = [read_manifest(path) for path in spec.manifests]
    rows = order_columns(pd.concat(tables, ignore_index=True).fillna(""))
    sides = rows.groupby("group", sort=False)["split"].nunique()
    if len(split := sides.index[sides > 1]):
        raise SkipshiftError(
            f"{spec.out}: group {split[0]!r} is in train of one manifest and in test of another; "
            f"put all its cases on one side"
        )
    jobs = [{str(name): str(text) for name, text in row.items()} for row in rows.to_dict("records")]
    plan = Plan(
        recipe={
            "recipe": _RECIPE_VERSION,
            "reader": "merge",
            "classes": _classes(spec.manifests),
            "files": source_digest(map(_describe, jobs)),
        },
        jobs=jobs,
    )
    return write_set(spec.out, plan, _copy, spec.workers, progress)


def _classes(manifests: tuple[Path, ...]) -> list[str]:
    """Classes of all sets whose record states them; empty if none does."""
    stated: dict[Path, list[str]] = {}
    for path in manifests:
        record = path.parent / RECORD
        if record.is_file() and (classes := read_json(record).get("classes")):
            stated[path] = classes
    for path, classes in stated.items():
        first = next(iter(stated))
        if classes != stated[first]:
            raise SkipshiftError(
                f"{path}: has the classes {', '.join(classes)}, but {first} has "
                f"{', '.join(stated[first])}; prepare them with the same --classes"
            )
    return next(iter(stated.values()), [])


def _describe(row: dict[str, str]) -> str:
    sizes = [str(Path(row[name]).stat().st_size) for name in ("image", "mask")]
    return " ".join([*(row[name] for name in COLUMNS), *sizes])


def _copy(row: dict[str, str]) -> JobOutput:
    image, mask = read_native(Path(row["image"])), read_mask(Path(row["mask"]), _VALUES)
    kept = {name: text for name, text in row.items() if name not in ("image", "mask")}
    return JobOutput([Sample(kept, image, mask)], {})
