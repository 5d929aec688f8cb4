"""`hansa user`: who may log in."""

from typing import Annotated

import typer

from hansa.cli.options import ConnectionOptions, Json, Limit, expand
from hansa.cli.output import print_json, print_table, say, when

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="Users: who may log in. Site administrators make them.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the user.")]


@commands.command()
@expand
def create(
    name: Name,
    server: ConnectionOptions,
    *,
    admin: Annotated[bool, typer.Option("--admin", help="As a site administrator, who may do everything.")] = False,
    as_json: Json = False,
) -> None:
    """Let a person in. What they may do is for the members of each project to say."""
    with server.connect() as api:
        user = api.users.create(name, admin=admin)
    if as_json:
        print_json(user)
    else:
        say(f"{user.name} is a user now. To let them into a project:")
        say(f"  hansa project member add {user.name} --role viewer")


@commands.command("list")
@expand
def list_users(server: ConnectionOptions, *, limit: Limit = 100, as_json: Json = False) -> None:
    """List the users."""
    with server.connect() as api:
        page = api.users.list(limit=limit)
    columns = {
        "user": lambda u: u.name,
        "since": lambda u: when(u.created_at),
        "administrator": lambda u: "yes" if u.admin else "",
        "password": lambda u: "yes" if u.password else "",
        "disabled": lambda u: "yes" if u.disabled else "",
    }
    print_table(page.items, columns, as_json=as_json, nothing="There is no user.")


@commands.command()
@expand
def disable(
    name: Name,
    server: ConnectionOptions,
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Let them in again, with none of their former tokens.")] = False,
    as_json: Json = False,
) -> None:
    """Refuse a user and every token of theirs from now on."""
    with server.connect() as api:
        user = api.users.enable(name) if undo else api.users.disable(name)
    if as_json:
        print_json(user)
    else:
        say(f"{user.name} {'is refused' if user.disabled else 'may log in'} from now on.")
