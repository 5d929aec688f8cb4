"""`hansa package`: user code that sessions ship to clients."""

from typing import Annotated

import typer

from hansa.cli.options import AppPath, ConnectionOptions, Json, Limit, app_name, expand
from hansa.cli.output import print_json, print_table, say, size, when

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="Packages: user code that sessions ship to clients.")


@commands.command("list")
@expand
def list_packages(server: ConnectionOptions, *, limit: Limit = 20, as_json: Json = False) -> None:
    """List packages, the newest first."""
    with server.connect() as api:
        page = api.packages.list(limit=limit, sort="-created_at")
    columns = {
        "package": lambda p: p.id[:12],
        "name": lambda p: p.name,
        "size": lambda p: size(p.size),
        "created": lambda p: when(p.created_at),
    }
    print_table(page.items, columns, as_json=as_json, nothing="No package yet: `hansa package push APP`.")


@commands.command()
@expand
def push(
    app: AppPath,
    server: ConnectionOptions,
    *,
    name: Annotated[str | None, typer.Option("--name", help="Name of the package; by default the app's.")] = None,
    as_json: Json = False,
) -> None:
    """Pack an app and upload it; the same files give the same package."""
    with server.connect() as api:
        record = api.packages.upload(app, name or app_name(app))
    if as_json:
        print_json(record)
    else:
        say(f"package {record.id} ({record.name}, {size(record.size)})")
