"""`hansa verify`: is the record of a session what it was when it was written?"""

from typing import Annotated

import typer

from hansa.cli.options import ConnectionOptions, Json, expand
from hansa.cli.output import print_json, say
from hansa.cli.session import SessionName

__all__ = ["verify"]


@expand
def verify(
    session: SessionName,
    server: ConnectionOptions,
    *,
    head: Annotated[
        str | None,
        typer.Option("--head", help="A link that the chain must contain: it shows whether later rounds were lost."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a session's whole record: the chain of its rounds, who was counted, and every byte of every model.

    What is lost or changed is named, and the exit code is 1. Keep the link that is printed: with --head it tells later,
    for example after a backup was restored, whether rounds are missing at the end.
    """
    with server.connect() as api:
        found = api.sessions.verify(session, head)
    if as_json:
        print_json(found)
        return
    say(f"{found.rounds} rounds with {found.contributions} contributions form one chain;")
    say(f"{found.objects} models and states, {found.bytes:,} bytes, are what was recorded.")
    if found.pruned:
        say(f"{found.pruned} were pruned by policy, and could not be read.")
    if found.head:
        say(f"link of the last round: {found.head}")
