"""`hansa project`: workspaces that know nothing of each other, and who is what in them."""

from typing import Annotated, Literal

import typer

from hansa.cli.options import ConnectionOptions, Json, Limit, expand
from hansa.cli.output import print_json, print_table, say, when

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="Projects: workspaces that know nothing of each other.")


@commands.command("list")
@expand
def list_projects(server: ConnectionOptions, *, as_json: Json = False) -> None:
    """List the projects that you know."""
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
    """Make a project, without members. Site administrators may."""
    with server.connect() as api:
        made = api.projects.create(name)
    if as_json:
        print_json(made)
        return
    say(f"There is a project {made.name} now. Its first owner:\n  hansa project member add NAME -p {made.name} "
        "--role owner")  # fmt: skip


members = typer.Typer(no_args_is_help=True, help="Members: who is what in the project.")
commands.add_typer(members, name="member")

User = Annotated[str, typer.Argument(metavar="USER", help="Name of the user.")]


@members.command("list")
@expand
def list_members(server: ConnectionOptions, *, limit: Limit = 100, as_json: Json = False) -> None:
    """List the project's members."""
    with server.connect() as api:
        page = api.members.list(limit=limit)
    columns = {"user": lambda m: m.id, "role": lambda m: m.role.value, "since": lambda m: when(m.created_at)}
    print_table(page.items, columns, as_json=as_json, nothing="Nobody is a member; site administrators may work here.")


@members.command("add")
@expand
def add_member(
    user: User,
    server: ConnectionOptions,
    *,
    role: Annotated[
        Literal["owner", "maintainer", "data-scientist", "viewer", "auditor"],
        typer.Option("--role", help="What they shall be."),
    ],
    as_json: Json = False,
) -> None:
    """Make a user a member of the project, or give a member another role. Owners may."""
    with server.connect() as api:
        member = api.members.add(user, role)
    if as_json:
        print_json(member)
    else:
        say(f"{member.id} is {member.role.value} of project {member.project} from now on.")


@members.command("remove")
@expand
def remove_member(user: User, server: ConnectionOptions, *, as_json: Json = False) -> None:
    """Remove a member: from now on neither they nor their tokens know the project. Owners may."""
    with server.connect() as api:
        member = api.members.remove(user)
    if as_json:
        print_json(member)
    else:
        say(f"{member.id} is no member of project {member.project} any more.")
