"""`hansa project`: workspaces that know nothing of each other, and who is what in them."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hansa.cli.options import ConnectionOptions, Json, Limit, expand
from hansa.cli.output import print_json, print_record, print_table, say, size, when

if TYPE_CHECKING:
    from hansa.api.results import ProjectQuota
    from hansa.network.controller.quotas import Use

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="Projects: workspaces that know nothing of each other.")

ProjectName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the project.")]


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


@commands.command()
@expand
def show(name: ProjectName, server: ConnectionOptions, *, as_json: Json = False) -> None:
    """Show a project: since when it is, and what it uses of its quotas."""
    with server.connect() as api:
        project, quota = api.projects.get(name), api.projects.quota(name)
    lines = {"project": project.name, "created": when(project.created_at), **_quotas(quota)}
    print_record({"project": project, "quota": quota}, lines, as_json=as_json)


@commands.command("quota")
@expand
def set_quota(
    name: ProjectName,
    server: ConnectionOptions,
    *,
    sessions: Annotated[
        str | None, typer.Option("--sessions", metavar="N", help="Sessions at once, or `default`.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="BYTES", help="Bytes, for example 10GB or 512MiB, or `default`."),
    ] = None,
    clients: Annotated[
        str | None, typer.Option("--clients", metavar="N", help="Clients that may join, or `default`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set how much a project may use; what is left out stays as it is. Site administrators may."""
    given = {"sessions": sessions, "storage": storage, "clients": clients}
    wanted = {kind: _amount(text, kind) for kind, text in given.items() if text is not None}
    with server.connect() as api:
        quota = api.projects.set_quota(name, **wanted) if wanted else api.projects.quota(name)
    print_record(quota, _quotas(quota), as_json=as_json)


def _quotas(quota: "ProjectQuota") -> dict[str, str]:
    def line(use: "Use", shown: Callable[[float], str]) -> str:
        most = "any" if use.most is None else shown(use.most)
        return f"{shown(use.used)} of {most}" + ("" if use.own else " (the server's default)")

    return {
        "sessions": line(quota.sessions, lambda count: f"{count:.0f}"),
        "storage": line(quota.storage, size),
        "clients": line(quota.clients, lambda count: f"{count:.0f}"),
    }


def _amount(text: str, kind: str) -> int | None:
    """A number, in bytes where units are given; None: the default. Raises `typer.BadParameter`."""
    if text == "default":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMGT]i?B|B)?", text)
    if found is None or (kind != "storage" and (found[2] or "." in found[1])):
        example = "10GB" if kind == "storage" else "2"
        raise typer.BadParameter(f"{text!r} is no number of {kind}: write for example {example}, or default")
    unit = (found[2] or "B").removesuffix("B")
    power = " KMGT".index(unit[:1].upper() or " ")
    scale: int = (1024 if unit.endswith("i") else 1000) ** power
    return round(float(found[1]) * scale)


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
