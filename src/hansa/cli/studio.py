"""`hansa studio`: the web pages, signed in; of a server, or of simulations on this machine without one."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hansa.cli.browsing import open_link
from hansa.cli.options import ConnectionOptions, Json, expand
from hansa.cli.output import counted, print_json, say

if TYPE_CHECKING:
    from hansa.ui.local import LocalStudio

__all__ = ["local_studio", "studio", "until_interrupted"]


@expand
def studio(
    server: ConnectionOptions,
    *,
    records: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER]…", exists=True, file_okay=False, show_default=False,
            help="Records of simulations, or folders with some in them, at any depth, such as those of `hansa sweep`.",
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            "--port", min=0, max=65535, help="With folders: port on this machine that shows them; 0: any free one."
        ),
    ] = 0,
    browser: Annotated[
        bool, typer.Option(help="Open the link in this machine's browser; it is printed either way.")
    ] = True,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Open the Studio of the server: a link that signs you in, once and within ten minutes.

    With FOLDER, no server is needed: recorded simulations are shown by this process, to nobody but this machine, until
    Ctrl-C. The folders are only read.
    """
    if not records:
        with server.connect() as api:
            link = f"{api.url}/ui/#code={api.login_code().code}"
        if as_json:
            print_json({"url": link})
        else:
            say(link)
        if browser:
            open_link(link)
        return
    from hansa.experiments.sessions import find_records

    found = find_records(records)
    with local_studio(port) as opened:
        shown, link = opened.show(found), opened.link()
        if as_json:
            print_json({"url": link, "simulations": shown})
        else:
            say(f"{counted(shown, 'simulation')} in the Studio, until Ctrl-C:")
            say(f"  {link}")
        sys.stdout.flush()
        if browser:
            open_link(link)
        until_interrupted()


@contextmanager
def local_studio(port: int) -> "Iterator[LocalStudio]":
    """The Studio of this process; errors of its server go to standard error."""
    from hansa.cli.running import log_to
    from hansa.ui.local import LocalStudio

    log_to(sys.stderr, level="error")
    with LocalStudio(port) as opened:
        yield opened


def until_interrupted() -> None:
    """Wait for Ctrl-C or SIGTERM, which raise `KeyboardInterrupt` here."""
    while True:
        signal.pause()
