"""Takes the pictures of the documentation: `python -m tests.screenshots`, into docs/."""

import tempfile
from pathlib import Path

from tests.browser import chromium
from tests.launching import three_services
from tests.servers import ROOT


def main() -> None:
    """Start a shop, open each page, and write what it looks like into docs/."""
    folder = Path(tempfile.mkdtemp())
    with chromium(folder) as browser, three_services(folder, USE_REDIS="false") as shop:
        for service in shop.services:
            page = browser.open(service).chrome
            height = page.execute_script("return document.body.scrollHeight")
            page.set_window_size(1200, int(height) + 160)
            page.save_screenshot(str(ROOT / "docs" / f"swagger-{service.name}.png"))


if __name__ == "__main__":
    main()
