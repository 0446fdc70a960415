"""Take docs/page-light.png and docs/page-dark.png, the pictures of the page, from a service that is running.

Chromium is the one that tests/images/setup-browser installs.

    python -m scripts.screenshot http://localhost:8080
"""

import argparse
import base64
import tempfile
from pathlib import Path

from tests.images.browser import Browser, start_chromium

DOCS = Path(__file__).parent.parent / "docs"
SIZE = (1200, 750)


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the pictures of the page in docs/.")
    parser.add_argument("url", help="address of a running service, such as http://localhost:8080")
    url = parser.parse_args().url
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, start_chromium(Path(profile)) as driver:
        browser = Browser(driver)
        browser.resize(SIZE)
        for scheme in ("light", "dark"):
            browser.prefer(scheme)
            browser.open(f"{url}/?ip=8.8.8.8")
            screenshot = driver.execute_cdp_cmd("Page.captureScreenshot", {})["data"]
            (DOCS / f"page-{scheme}.png").write_bytes(base64.b64decode(screenshot))


if __name__ == "__main__":
    main()
