"""Take the pictures of a report that the documentation shows, in a headless Chromium.

    python benchmarks/report_pictures.py demo/report.html docs/pictures report-digits

Writes ``NAME-1400.webp`` and ``NAME-400.webp``: the whole page in a wide window and in
a phone's. Fails if the page logs a problem.
"""

import base64
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

# The browser of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import Page

WIDTHS = (1400, 400)


def picture(page: Path, width: int) -> Image.Image:
    """Return the whole page as it looks in a window of this width."""
    with tempfile.TemporaryDirectory() as folder:
        browser = Page(Path(folder), width)
        try:
            browser.open(page)
            height = int(browser.run("document.documentElement.scrollHeight"))
            browser.size(width, height)
            shot = browser.send("Page.captureScreenshot", format="png")
            if browser.problems:
                sys.exit(f"{page} at {width} px: {browser.problems}")
        finally:
            browser.close()
    return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")


def main() -> None:
    """Write both pictures."""
    page, folder, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    for width in WIDTHS:
        image = picture(page.resolve(), width)
        image.save(folder / f"{name}-{width}.webp", quality=85, method=6)
        print(f"{name}-{width}.webp", image.size)


if __name__ == "__main__":
    main()
