"""Takes the pictures of the documentation anew: `python -m tests.screenshots`, into docs/."""

import sys
import tempfile
from pathlib import Path

from tests.browser import chromium
from tests.servers import ROOT, Trio


def main(folder: Path) -> None:
    """Start a shop, open each page, and write what it looks like into the folder."""
    with tempfile.TemporaryDirectory() as temporary:
        shop = Trio(Path(temporary), USE_REDIS="false")
        try:
            shop.start()
            with chromium(Path(temporary) / "profile") as browser:
                for service in shop.services:
                    browser.open(service)
                    page = browser.chrome
                    height = page.execute_script("return document.body.scrollHeight")
                    page.set_window_size(1200, int(height) + 160)
                    page.save_screenshot(str(folder / f"swagger-{service.name}.png"))
        finally:
            shop.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs")
