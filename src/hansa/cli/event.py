"""`hansa event`: what happened, and what happens."""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hansa.cli.options import ConnectionOptions, Json, Limit, expand
from hansa.cli.output import print_json, print_table, say, when
from hansa.cli.watching import broken

if TYPE_CHECKING:
    from hansa.store.records import EventRecord

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="Events: what happened, in order, and what happens now.")

OfSession = Annotated[str | None, typer.Option("--session", help="Only those of this session (id or name).")]


@commands.command("list")
@expand
def list_events(
    server: ConnectionOptions,
    *,
    session: OfSession = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Only this kind, for example round.committed.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List the newest events, in the order in which they happened."""
    with server.connect() as api:
        found = api.sessions.get(session).id if session is not None else None
        page = api.events.list(limit=limit, sort="-id", session=found, kind=kind)
    columns = {
        "when": lambda e: when(e.at),
        "kind": lambda e: e.kind,
        "session": lambda e: e.session,
        "message": lambda e: e.message.splitlines()[0] if e.message else "",
    }
    nothing = "Nothing has happened yet." if kind is None else f"Nothing of the kind {kind} has happened."
    print_table(tuple(reversed(page.items)), columns, as_json=as_json, nothing=nothing)


@commands.command()
@expand
def follow(
    server: ConnectionOptions,
    *,
    session: OfSession = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Begin with the first event; by default with what is new.")
    ] = False,
    live: Annotated[bool, typer.Option("--live", help="Also what nobody keeps: progress, log lines.")] = False,
    as_json: Json = False,
) -> None:
    """Print events as they happen, until Ctrl-C."""
    from hansa.store.records import EventRecord

    with server.connect() as api:
        found = api.sessions.get(session).id if session is not None else None
        for happened in api.events.stream(0 if everything else None, found, broken(partial(say, as_json=True))):
            if isinstance(happened, EventRecord) or live:
                _print(happened, as_json=as_json)


def _print(happened: "EventRecord | Any", *, as_json: bool) -> None:
    if as_json:
        print_json(happened)
        return
    data = " ".join(f"{key}={value}" for key, value in happened.data.items())
    say(f"{when(happened.at)}  {happened.kind:18}  {getattr(happened, 'message', '') or data}")
