"""`hansa token`: who may join a project, and as what; and tokens for programs that act for you."""

from typing import Annotated, Literal

import typer

from hansa.cli.options import ConnectionOptions, Json, Limit, expand
from hansa.cli.output import print_json, print_table, say, when

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="Tokens: for nodes that join, and for programs that act for you.")

_DAY = 86400.0

Mine = Annotated[bool, typer.Option("--mine", help="Your own API tokens, which every member has a right to.")]


@commands.command()
@expand
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the node, or of what will use your token.")],
    server: ConnectionOptions,
    *,
    role: Annotated[
        Literal["client", "combiner", "owner", "maintainer", "data-scientist", "viewer", "auditor"],
        typer.Option("--role", help="A node's role; or, of a token that acts for you, the most that it may do."),
    ] = "client",
    days: Annotated[
        float | None,
        typer.Option(
            "--days", min=0, help="Days until it expires; by default a node has 7 to join, and yours holds for 30."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a token. It is printed this once, alone on standard output, and not kept."""
    with server.connect() as api:
        issued = api.tokens.create(name, role, None if days is None else days * _DAY)
        at = api.server()
    if as_json:
        print_json(issued)
        return
    say(issued.token)
    if role in {"client", "combiner"}:
        say(
            f"It is shown this once, and lets one node join, once. To join with it:\n"
            f"  HANSA_TOKEN=… hansa {role} start --join {at.grpc_address}" + f" --ca {at.ca}" * bool(at.ca),
            as_json=True,
        )


@commands.command("list")
@expand
def list_tokens(server: ConnectionOptions, *, mine: Mine = False, limit: Limit = 100, as_json: Json = False) -> None:
    """List the project's tokens, the newest first, or your own; never the tokens themselves."""
    with server.connect() as api:
        page = api.tokens.mine(limit=limit) if mine else api.tokens.list(limit=limit, sort="-created_at")
    columns = {
        "id": lambda t: t.id,
        "name": lambda t: t.name,
        "role": lambda t: t.role,
        "acts for": lambda t: t.account or "",
        "created": lambda t: when(t.created_at),
        "expires": lambda t: when(t.expires_at) or "never",
        "used": lambda t: when(t.used_at),
        "revoked": lambda t: "yes" if t.revoked else "",
    }
    print_table(page.items, columns, as_json=as_json, nothing="No token was made yet.")


@commands.command()
@expand
def revoke(
    token: Annotated[
        str, typer.Argument(metavar="ID", help="Id of the token, from `hansa token list`; not the token.")
    ],
    server: ConnectionOptions,
    *,
    mine: Mine = False,
    as_json: Json = False,
) -> None:
    """Refuse a token from now on."""
    with server.connect() as api:
        record = api.tokens.revoke_mine(token) if mine else api.tokens.revoke(token)
    if as_json:
        print_json(record)
    else:
        say(f"The token {record.id} of {record.name} is refused from now on.")
