"""Pictures of the playground for docs/figures. Needs Chromium and `pip install playwright`.

    spire serve --port 7956
    python scripts/screenshots.py 7956 docs/figures --chromium /usr/bin/chromium
"""

import argparse
import pathlib

from playwright.sync_api import sync_playwright

MINUTES = 60_000


def restored(page):
    """Starts a restoration and waits until the page shows it."""
    page.click("#go")
    page.wait_for_selector("#cancel:not([hidden])")
    page.wait_for_selector("#cancel", state="hidden", timeout=10 * MINUTES)
    page.wait_for_timeout(500)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--chromium", help="the browser's program; default: playwright's own")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 1200}, color_scheme="light")
        page.goto(f"http://127.0.0.1:{options.port}/")
        page.click("#samples button:nth-child(1)")
        restored(page)
        page.screenshot(path=options.out / "playground.png", full_page=True)

        page = browser.new_page(viewport={"width": 860, "height": 1800}, color_scheme="dark")
        page.goto(f"http://127.0.0.1:{options.port}/")
        page.click("#samples button:nth-child(5)")
        page.check("input[value=strengths]")
        restored(page)
        page.locator("#result").screenshot(path=options.out / "playground-walk.png")
        browser.close()


if __name__ == "__main__":
    main()
