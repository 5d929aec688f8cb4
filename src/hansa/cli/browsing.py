"""A link that signs somebody in, opened in a browser: others on this machine read what a browser is started with."""

import html
import webbrowser
from contextlib import suppress

__all__ = ["open_link"]

_PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0;url={link}">
<title>hansa</title>
<a href="{link}">The Studio</a>
"""


def open_link(link: str) -> None:
    """Start a browser with a page that leads there, beside the saved credentials and readable by this user alone.

    Where it cannot be written none is started: whoever calls has printed the link.
    """
    from hansa.settings import Settings
    from hansa.store.disk import write_whole

    place = Settings().credentials.expanduser().with_name("browser.html")
    with suppress(OSError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(place, _PAGE.format(link=html.escape(link)).encode())
        webbrowser.open(place.as_uri())
