"""`hansa audit`: who did what, and whether the record of it is whole."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hansa.cli.options import ConnectionOptions, Json, Limit, expand
from hansa.cli.output import print_json, print_table, say, when

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hansa.store.records import AuditRecord

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="The audit record: who did what, chained so that changes show.")

Installation = Annotated[
    bool,
    typer.Option("--installation", help="What concerns no project: logins, accounts; for site administrators."),
]


@commands.command("list")
@expand
def list_lines(
    server: ConnectionOptions, *, installation: Installation = False, limit: Limit = 100, as_json: Json = False
) -> None:
    """List the newest lines, the oldest of them first."""
    from collections import deque

    with server.connect() as api:
        newest = (
            deque(api.audit.lines(installation=True), limit)
            if installation
            else reversed(api.audit.list(limit=limit, sort="-number").items)
        )
    columns = {
        "": lambda line: line.id,
        "when": lambda line: when(line.at),
        "who": lambda line: line.actor,
        "did": lambda line: line.action,
        "to": lambda line: line.target,
        "outcome": lambda line: line.outcome,
        "detail": lambda line: line.detail,
    }
    print_table(list(newest), columns, as_json=as_json, nothing="Nothing is recorded.")


@commands.command()
@expand
def export(
    server: ConnectionOptions,
    *,
    installation: Installation = False,
    output: Annotated[
        Literal["json", "otlp"],
        typer.Option(
            "--format", help="json: what `hansa audit verify` reads; otlp: OpenTelemetry logs, for a collector."
        ),
    ] = "json",
    as_json: Json = True,
) -> None:
    """Print every line as JSON, the oldest first: keep the file elsewhere, and `hansa audit verify` can check it."""
    from hansa.api.otlp import logs_data

    del as_json  # it is always JSON; scripts that say so everywhere may say it here
    with server.connect() as api:
        for line in api.audit.lines(installation=installation):
            print_json(logs_data(line) if output == "otlp" else line)


@commands.command()
@expand
def verify(
    server: ConnectionOptions,
    *,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="An exported record; by default the server's.", exists=True, dir_okay=False,
                       show_default=False),
    ] = None,
    installation: Installation = False,
    head: Annotated[
        str | None, typer.Option("--head", help="A link that must be in it: of a line that was seen before.")
    ] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Check the chain: a line that was changed, lost or moved is named; with --head lost newest lines show too."""
    from hansa.store.audit import verify_audit

    if file is not None:
        lines, last = verify_audit(_read(file), head)
    else:
        with server.connect() as api:
            lines, last = verify_audit(api.audit.lines(installation=installation), head)
    if as_json:
        print_json({"lines": lines, "head": last})
    else:
        say(f"The audit record is whole: {lines} lines. Keep the link of the last one elsewhere:\n  {last}")


def _read(file: Path) -> "Iterator[AuditRecord]":
    from hansa.api.documents import from_document
    from hansa.errors import InputError
    from hansa.store.records import AuditRecord

    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield from_document(AuditRecord, json.loads(line))
            except ValueError as error:
                raise InputError(f"line {number} of {file} is not JSON: it was changed, or cut off") from error
