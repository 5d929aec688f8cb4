"""`hansa project`: workspaces that know nothing of each other."""

from typing import Annotated

import typer

from hansa.cli.options import ConnectionOptions, Json, expand
from hansa.cli.output import print_json, print_table, say, when

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="Projects: workspaces that know nothing of each other.")


@commands.command("list")
@expand
def list_projects(server: ConnectionOptions, *, as_json: Json = False) -> None:
    """List the projects that your token is for."""
    with server.connect() as api:
        page = api.projects.list()
    columns = {"project": lambda p: p.name, "created": lambda p: when(p.created_at)}
    print_table(page.items, columns, as_json=as_json, nothing="No project.")


@commands.command()
@expand
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new project.")],
    server: ConnectionOptions,
    *,
    as_json: Json = False,
) -> None:
    """Make a project, and a token for its first admin, which is printed this once."""
    with server.connect() as api:
        made = api.projects.create(name)
    if as_json:
        print_json(made)
        return
    say(made.token)
    say(f"That is the admin's token of project {made.project.name}, shown this once. To use it:\n"
        "  hansa login --token -", as_json=True)  # fmt: skip
