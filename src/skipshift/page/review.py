"""Pages (HTML) for reviewing and correcting the proposed masks of a prepared set."""

import base64
import io
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from skipshift.data.images import Pixels, read_image, read_mask
from skipshift.data.manifest import read_manifest
from skipshift.data.prepare.corrections import MARKS, digest
from skipshift.data.prepare.point_patches import FIGURE
from skipshift.data.prepare.writing import MANIFEST
from skipshift.records import write_bytes

FOLDER = "review"
BATCH = 100
"""Cases per page: about a quarter of an hour of review, and 3 MB."""


def write_review(out: Path) -> str:
    """Write pages of all mitotic figures of a prepared set whose masks are not reviewed yet.

    A figure is shown once, on the scan that was annotated. Each page is self-contained.

    Returns
    -------
    A line with the folder and the numbers of masks and pages.
    """
    rows = read_manifest(out / MANIFEST)
    rows = rows[(rows["stratum"] == FIGURE) & (rows["reviewed"] == "no")]
    # the annotated scan comes first; the others share its mask
    rows = rows.drop_duplicates("case")
    starts = range(0, len(rows), BATCH)
    for number, start in enumerate(starts, 1):
        name = f"batch-{number:03d}"
        page = _render(name, len(starts), rows.iloc[start : start + BATCH])
        write_bytes(out / FOLDER / f"{name}.html", page.encode())
    return f"review: {out / FOLDER}, {len(rows)} masks on {len(starts)} pages"


def _render(name: str, pages: int, rows: pd.DataFrame) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("skipshift.page", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    cases = [_case(row) for row in rows.to_dict("records")]
    template = environment.get_template("review.html.j2")
    return template.render(name=name, pages=pages, cases=cases, marks=MARKS)


def _case(row: dict[Any, Any]) -> dict[str, Any]:
    image, mask = read_image(Path(row["image"])), read_mask(Path(row["mask"]), 2)
    return {
        "case": row["case"],
        "domain": row["domain"],
        "size": len(mask),
        "image": _uri(image, "JPEG"),
        "mask": _uri(mask * np.uint8(255), "PNG"),
        "outline": _outline(mask),
        "digest": digest(mask),
    }


def _outline(mask: Pixels) -> str:
    """Outlines of a mask (H, W), holes included, as an SVG path along the pixel edges."""
    double = np.kron(mask, np.ones((2, 2), np.uint8))
    found, _ = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    lines = [
        " ".join(f"{x / 2 + 0.25:g},{y / 2 + 0.25:g}" for x, y in line[:, 0]) for line in found
    ]
    return "".join(f"M{line}Z" for line in lines)


def _uri(pixels: Pixels, kind: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=92)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
