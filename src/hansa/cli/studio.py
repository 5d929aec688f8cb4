"""`hansa studio`: the web pages, signed in."""

import webbrowser
from typing import Annotated

import typer

from hansa.cli.options import ConnectionOptions, Json, expand
from hansa.cli.output import print_json, say

__all__ = ["studio"]


@expand
def studio(
    server: ConnectionOptions,
    *,
    browser: Annotated[
        bool, typer.Option(help="Open the link in this machine's browser; it is printed either way.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Open the Studio of the server: a link that signs you in, once and within ten minutes."""
    with server.connect() as api:
        link = f"{api.url}/ui/#code={api.login_code().code}"
    if as_json:
        print_json({"url": link})
    else:
        say(link)
    if browser:
        webbrowser.open(link)
