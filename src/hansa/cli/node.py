"""`hansa node`: who has joined a project, by which key; and how one is sent away."""

from typing import Annotated

import typer

from hansa.cli.options import ConnectionOptions, Json, Limit, expand
from hansa.cli.output import print_json, print_table, say, when

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="Clients and combiners that have joined, and the keys they have.")


@commands.command("list")
@expand
def list_nodes(server: ConnectionOptions, *, limit: Limit = 100, as_json: Json = False) -> None:
    """List who has joined, by name."""
    with server.connect() as api:
        page = api.nodes.list(limit=limit, sort="name")
    columns = {
        "name": lambda n: n.name,
        "role": lambda n: n.role,
        "key": lambda n: f"{n.key[:24]}…",
        "joined": lambda n: when(n.joined_at),
        "changed": lambda n: when(n.rotated_at) if n.rotated_at is not None else "",
        "revoked": lambda n: "yes" if n.revoked else "",
    }
    print_table(page.items, columns, as_json=as_json, nothing="No node has joined yet: `hansa token create --help`.")


@commands.command()
@expand
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client or combiner.")],
    server: ConnectionOptions,
    *,
    as_json: Json = False,
) -> None:
    """Refuse a node from now on; what it is sending is not taken. It may join again with a new token."""
    with server.connect() as api:
        node = api.nodes.revoke(name)
    if as_json:
        print_json(node)
    else:
        again = f"hansa token create {node.name} --role {node.role}"
        say(f"{node.name} is refused from now on. To let it join again: {again}")
