"""Lists of slides as data sets publish them, and slides that two of them tell unlike things of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from skipshift.data.prepare.specimens import DATASETS
from skipshift.data.prepare.writing import read_csv
from skipshift.data.slides.annotations import AnnotatedSlide, read_annotations
from skipshift.data.slides.reader import ENDINGS
from skipshift.errors import SkipshiftError

_TOLD = ("Dataset", "Scanner", "Specimen")
"""Columns of a list, in the order of `Row`."""

_FEWEST = 3
"""Points that two slides must share before they are taken for one."""


@dataclass(frozen=True)
class Row:
    """What lists tell of a slide; empty where they do not."""

    split: str = ""
    scanner: str = ""
    specimen: str = ""


def name_of(text: str) -> str:
    """Name of a slide whatever wrote it: without ending, and without leading zeros of a number.

    >>> name_of("001.tiff"), name_of("1"), name_of("a.b.svs")
    ('1', '1', 'a.b')
    """
    stem = Path(text).stem if Path(text).suffix.lower() in ENDINGS else text
    return stem.lstrip("0") if stem.isdecimal() else stem


def read_lists(paths: Sequence[Path], leave_out: Iterable[str]) -> dict[str, Row]:
    """Join tables of Slide and any of Dataset, Scanner and Specimen, by `name_of` the slide.

    `SkipshiftError` if two rows, of one table or of two, tell unlike things of a slide.
    """
    skipped = {name_of(text) for text in leave_out}
    found: dict[str, dict[str, tuple[str, Path]]] = {}
    for path in paths:
        table = read_csv(path, _separator(path))
        if "Slide" not in table:
            raise SkipshiftError(f"{path}: has no column 'Slide', only {list(table.columns)}")
        for row in table.to_dict("records"):
            told = {kind: row.get(kind, "") for kind in _TOLD}
            if told["Dataset"] not in ("", *DATASETS):
                raise SkipshiftError(
                    f"{path}: {row['Slide']} has Dataset {told['Dataset']!r}; it must be one of "
                    f"{', '.join(DATASETS)}"
                )
            told["Dataset"] = DATASETS.get(told["Dataset"], "")
            name = name_of(row["Slide"])
            known = found.setdefault(name, {})
            for kind, value in ((kind, value) for kind, value in told.items() if value):
                before, first = known.setdefault(kind, (value, path))
                if before != value and name not in skipped:
                    raise SkipshiftError(
                        f"{path}: {row['Slide']} has {kind} {value}, but {before} in {first.name}; "
                        f"correct one of them or add --leave-out {row['Slide']}"
                    )
    return {
        name: Row(*(known.get(kind, ("",))[0] for kind in _TOLD)) for name, known in found.items()
    }


def read_points(paths: Sequence[Path]) -> tuple[dict[str, AnnotatedSlide], list[str]]:
    """Join files of annotations.

    Returns
    -------
    Slides by the names of their files, and those left out because their points are those of a
    slide of another name, "COPY (ORIGINAL)". `SkipshiftError` if two files annotate one slide.
    """
    slides: dict[str, AnnotatedSlide] = {}
    origin: dict[str, Path] = {}
    seen: dict[frozenset[tuple[float, ...]], str] = {}
    copies = []
    for path in paths:
        for name, annotated in read_annotations(path).items():
            if name in origin:
                raise SkipshiftError(
                    f"{path}: annotates {name}, and so does {origin[name].name}; name one of them "
                    f"with --annotations"
                )
            origin[name] = path
            places = frozenset(
                tuple(shape.points.ravel().tolist())
                for shape in annotated.shapes
                if shape.kind == "point"
            )
            first = seen.setdefault(places, name) if len(places) >= _FEWEST else name
            if first == name:
                slides[name] = annotated
            else:
                copies.append(f"{name} ({first})")
    return slides, copies


def _separator(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return ";" if ";" in file.readline() else ","
    except (OSError, UnicodeDecodeError) as error:
        raise SkipshiftError(f"{path}: cannot be read as a CSV: {error}") from None
