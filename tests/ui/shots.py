"""`make shots`: an image of every page of the Studio, in both themes and three widths, of a network that has trained.

`python -m shots [FOLDER] [PART]` writes to the folder, shots/ by default, the pages whose path contains the part.
"""

import re
import sys
import tempfile
from pathlib import Path

from browser import chromium, visit
from places import PLACES
from playwright.sync_api import Page
from studied import Studied

WIDTHS = (1440, 1024, 420)


def photograph(page: Page, folder: Path, name: str) -> int:
    """An image at each width; at how many the page is wider than the screen."""
    faults = 0
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(120)  # charts are drawn anew
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            faults += 1
            print(f"{name} is wider than {width} pixels")
        page.screenshot(path=folder / f"{name}-{width}.png", full_page=True)
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    return faults


def main(arguments: list[str]) -> int:
    """The number of pages that are wider than the screen."""
    folder, part = Path(arguments[0] if arguments else "shots"), arguments[1] if len(arguments) > 1 else ""
    folder.mkdir(parents=True, exist_ok=True)
    faults = 0
    with tempfile.TemporaryDirectory() as data, chromium() as browser:
        studied = Studied(Path(data))
        try:
            studied.populate()
            with visit(browser, studied.url) as stranger:
                if part in "sign-in":
                    for theme in ("light", "dark"):
                        stranger.page.evaluate(f"localStorage.setItem('hansa.theme', '{theme}')")
                        stranger.page.reload()
                        stranger.page.wait_for_selector("h1")
                        faults += photograph(stranger.page, folder, f"sign-in-{theme}")
                print(*stranger.wrong, sep="\n")
            with visit(browser, studied.url, studied.code()) as made:
                made.page.emulate_media(reduced_motion="reduce")  # nothing is halfway
                for place in (place for place in PLACES if part in place):
                    name = re.sub(r"\W+", "-", place.partition("/default")[2] or place).strip("-") or "overview"
                    for theme in ("light", "dark"):
                        made.open(studied.fill(place), theme=theme)
                        faults += photograph(made.page, folder, f"{name}-{theme}")
                print(*made.wrong, sep="\n")
        finally:
            studied.close()
    return faults


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
