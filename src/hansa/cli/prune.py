"""`hansa prune`: remove what policies do not keep, and what nothing needs."""

from typing import Annotated

import typer

from hansa.cli.options import ConnectionOptions, Json, expand
from hansa.cli.output import print_json, print_table, say, size

__all__ = ["prune"]


@expand
def prune(
    server: ConnectionOptions,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    grace: Annotated[
        float,
        typer.Option("--grace", min=0, help="Seconds for which an object that no record names is left alone."),
    ] = 86_400.0,
    as_json: Json = False,
) -> None:
    """Remove the models that the policies of sessions do not keep, and every object that no record names any more.

    A session that runs prunes by itself after each round. Records stay: rounds, lineage and `hansa verify` know what
    was pruned.
    """
    with server.connect() as api:
        report = api.prune(dry_run=dry_run, grace=grace)
    if as_json:
        print_json(report)
        return
    columns = {
        "session": lambda s: s.session,
        "name": lambda s: s.name,
        "keep": lambda s: s.keep,
        "models": lambda s: str(len(s.models)),
        "states": lambda s: str(len(s.states)),
        "aggregates": lambda s: str(len(s.aggregates)),
    }
    if report.sessions:
        print_table(report.sessions, columns, as_json=False, nothing="")
    what = f"{report.objects} objects, {size(report.bytes)}; {report.unreferenced} of them were named by no record"
    say(f"Would remove {what}." if dry_run else f"Removed {what}.")
    if report.waiting:
        say(f"{report.waiting} are in use, and are removed later.")
