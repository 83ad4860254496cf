"""Published slide tables and annotation files: merged, and checked for contradictions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from skipshift.data.prepare.specimens import DATASETS
from skipshift.data.prepare.writing import read_csv
from skipshift.data.slides.annotations import AnnotatedSlide, read_annotations
from skipshift.data.slides.reader import ENDINGS
from skipshift.errors import SkipshiftError

_COLUMNS = ("Dataset", "Scanner", "Specimen")
"""Columns of a slide table, in the order of `SlideInfo`."""

_MIN_SHARED = 3
"""Minimum number of points of two slides that are treated as copies of each other."""


@dataclass(frozen=True)
class SlideInfo:
    """Split, scanner and specimen of a slide; empty if no table states it."""

    split: str = ""
    scanner: str = ""
    specimen: str = ""


def slide_name(text: str) -> str:
    """Normalise a slide's name: no file extension, and no leading zeros if it is a number.

    >>> slide_name("001.tiff"), slide_name("1"), slide_name("a.b.svs")
    ('1', '1', 'a.b')
    """
    stem = Path(text).stem if Path(text).suffix.lower() in ENDINGS else text
    return stem.lstrip("0") if stem.isdecimal() else stem


def read_slide_tables(paths: Sequence[Path], leave_out: Iterable[str]) -> dict[str, SlideInfo]:
    """Merge tables of Slide and any of Dataset, Scanner and Specimen, by `slide_name`.

    `SkipshiftError` if a table is invalid, or if two rows contradict each other and the slide is
    not in ``leave_out``.
    """
    skipped = {slide_name(text) for text in leave_out}
    slides: dict[str, dict[str, tuple[str, Path]]] = {}
    for path in paths:
        table = read_csv(path, _separator(path))
        if "Slide" not in table:
            raise SkipshiftError(f"{path}: has no column 'Slide', only {list(table.columns)}")
        for row in table.to_dict("records"):
            values = {column: row.get(column, "") for column in _COLUMNS}
            if values["Dataset"] not in ("", *DATASETS):
                raise SkipshiftError(
                    f"{path}: {row['Slide']} has Dataset {values['Dataset']!r}; it must be one of "
                    f"{', '.join(DATASETS)}"
                )
            values["Dataset"] = DATASETS.get(values["Dataset"], "")
            name = slide_name(row["Slide"])
            known = slides.setdefault(name, {})
            for column, value in ((c, v) for c, v in values.items() if v):
                before, first = known.setdefault(column, (value, path))
                if before != value and name not in skipped:
                    raise SkipshiftError(
                        f"{path}: {row['Slide']} has {column} {value}, but {before} in {first.name}"
                        f"; correct one of them or add --leave-out {row['Slide']}"
                    )
    return {
        name: SlideInfo(*(known.get(column, ("",))[0] for column in _COLUMNS))
        for name, known in slides.items()
    }


def read_points(paths: Sequence[Path]) -> tuple[dict[str, AnnotatedSlide], list[str]]:
    """Merge annotation files and drop copies of slides.

    Returns
    -------
    Annotations by file name, and the slides left out because they have the same points as a slide
    of another name, as "COPY (ORIGINAL)".

    `SkipshiftError` if two files annotate the same slide.
    """
    slides: dict[str, AnnotatedSlide] = {}
    origin: dict[str, Path] = {}
    seen: dict[frozenset[tuple[float, ...]], str] = {}
    copies = []
    for path in paths:
        for name, annotated in read_annotations(path).items():
            if name in origin:
                raise SkipshiftError(
                    f"{path}: annotates {name}, and so does {origin[name].name}; choose one "
                    f"with --annotations"
                )
            origin[name] = path
            points = frozenset(
                tuple(shape.points.ravel().tolist())
                for shape in annotated.shapes
                if shape.kind == "point"
            )
            first = seen.setdefault(points, name) if len(points) >= _MIN_SHARED else name
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
