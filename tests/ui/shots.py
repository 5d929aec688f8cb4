"""`make shots`: an image of every page of the Studio, in both themes and three widths, of a network that has trained.

`python -m shots [FOLDER] [PART]` writes to the folder, shots/ by default, the pages whose path contains the part.
"""

import re
import sys
import tempfile
from pathlib import Path

from browser import chromium, visit
from places import PLACES
from studied import Studied

WIDTHS = (1440, 1024, 420)


def main(arguments: list[str]) -> int:
    """The number of pages that are wider than the screen."""
    folder, part = Path(arguments[0] if arguments else "shots"), arguments[1] if len(arguments) > 1 else ""
    folder.mkdir(parents=True, exist_ok=True)
    faults = 0
    with tempfile.TemporaryDirectory() as data, chromium() as browser:
        studied = Studied(Path(data))
        try:
            studied.populate()
            with visit(browser, studied.url, studied.code()) as made:
                for place in (place for place in PLACES if part in place):
                    name = re.sub(r"\W+", "-", place.partition("/default")[2] or place).strip("-") or "overview"
                    for theme in ("light", "dark"):
                        made.open(studied.fill(place), theme=theme)
                        for width in WIDTHS:
                            made.page.set_viewport_size({"width": width, "height": 900})
                            made.page.wait_for_timeout(120)  # charts are drawn anew
                            if made.page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                                faults += 1
                                print(f"{place} is wider than {width} pixels")
                            made.page.screenshot(path=folder / f"{name}-{theme}-{width}.png", full_page=True)
                        made.page.set_viewport_size({"width": WIDTHS[0], "height": 900})
                print(*made.wrong, sep="\n")
        finally:
            studied.close()
    return faults


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
