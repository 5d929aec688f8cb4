"""`hansa user`: who may log in."""

from typing import Annotated

import typer

from hansa.cli.options import ConnectionOptions, Json, Limit, expand
from hansa.cli.output import print_json, print_table, say, when
from hansa.cli.passwords import PasswordStdin, asked_password

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
    subject: Annotated[
        str | None,
        typer.Option(
            "--subject", help="Without a password: they log in by the OpenID provider, as whom it means by this."
        ),
    ] = None,
    password_stdin: PasswordStdin = False,
    as_json: Json = False,
) -> None:
    """Let a person in, with a first password or by OpenID. What they may do is for each project's owners to say."""
    password = None if subject is not None else asked_password(f"Password for {name}", stdin=password_stdin, new=True)
    with server.connect() as api:
        user = api.users.create(name, password, admin=admin, subject=subject)
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
        "OpenID": lambda u: u.subject or "",
        "disabled": lambda u: "yes" if u.disabled else "",
    }
    print_table(page.items, columns, as_json=as_json, nothing="There is no user.")


@commands.command()
@expand
def passwd(
    server: ConnectionOptions,
    *,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="By default you; another, for site administrators.", show_default=False),
    ] = None,
    password_stdin: PasswordStdin = False,
    as_json: Json = False,
) -> None:
    """Change your password, or give a user another one; logins of before hold no more.

    With --password-stdin your current password is on the first line, and the new one on the next.
    """
    current = asked_password("Current password", stdin=password_stdin) if name is None else ""
    password = asked_password("New password", stdin=password_stdin, new=True)
    with server.connect() as api:
        whose = name or api.me().name
        if name is None:
            api.change_password(current, password)
        else:
            api.users.set_password(name, password)
    if as_json:
        print_json({"name": whose})
    else:
        say(f"The password of {whose} is changed.")


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


@commands.command()
@expand
def link(
    name: Name,
    server: ConnectionOptions,
    *,
    subject: Annotated[
        str, typer.Option("--subject", help="Whom the provider means: the `sub` that a refused login names.")
    ],
    as_json: Json = False,
) -> None:
    """Let a user log in by the OpenID provider of the server, as the one whom it means by the subject."""
    with server.connect() as api:
        user = api.users.link(name, subject)
    if as_json:
        print_json(user)
    else:
        say(f"{user.name} logs in as {user.subject} from now on.")


@commands.command()
@expand
def unlink(name: Name, server: ConnectionOptions, *, as_json: Json = False) -> None:
    """Let nobody log in as a user by OpenID any more, and refuse what is logged in as them."""
    with server.connect() as api:
        user = api.users.unlink(name)
    if as_json:
        print_json(user)
    else:
        say(f"{user.name} does not log in by OpenID any more.")
