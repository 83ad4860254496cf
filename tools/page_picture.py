"""The picture of a page of findings for docs/start, made in headless Chromium.

`python -m tools.page_picture OUT/report.html` writes docs/pictures/page.png: the page from its
title to the first image, light and 900 pixels wide.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).parents[1] / "docs/pictures/page.png"
WIDE = 900
COLOURS = 128
"""Of the picture, which keeps it small."""


def page_picture(report: Path) -> Image.Image:
    """Take the picture of a page of `skipshift diagnose`; `SystemExit` without Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        raise SystemExit("needs Chromium: apt-get install chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDE, "height": 1000}, color_scheme="light")
        page.goto(report.absolute().as_uri())
        second = page.locator("#examples h3").nth(1).bounding_box()
        assert second is not None
        taken = page.screenshot(
            full_page=True, clip={"x": 0, "y": 0, "width": WIDE, "height": second["y"] - 8}
        )
        browser.close()
    return Image.open(io.BytesIO(taken)).convert("RGB").quantize(COLOURS)


if __name__ == "__main__":
    page_picture(Path(sys.argv[1])).save(PICTURE, optimize=True)
