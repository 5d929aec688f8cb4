"""`hansa combiner`: start an aggregation server; list those of the project."""

import sys
from typing import Annotated

import typer

from hansa.cli.joining import JoinOptions, rotate_key
from hansa.cli.options import ConnectionOptions, Json, Limit, expand
from hansa.cli.output import labels_of, print_table, when
from hansa.cli.running import WhileStdin, log_to, run_until_stopped

__all__ = ["commands"]

commands = typer.Typer(
    no_args_is_help=True,
    help="Combiners sum updates on their way to the controller: start one, list those of a project.",
)


@commands.command()
@expand
def start(
    node: JoinOptions,
    *,
    parent: Annotated[
        str, typer.Option("--parent", help="Combiner to attach to; by default the controller itself.")
    ] = "",
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Address for clients below; port 0: any free one.")
    ] = "127.0.0.1:0",
    advertise: Annotated[
        str,
        typer.Option("--advertise", metavar="HOST:PORT", help="How clients reach it; by default as it listens."),
    ] = "",
    while_stdin: WhileStdin = False,
    as_json: Json = False,
) -> None:
    """Serve clients, and send one sum of their updates to the controller or to another combiner.

    With --json, log lines are JSON objects. Ctrl-C and SIGTERM end it in order, with exit code 130.
    """
    from hansa.settings import Settings

    settings = Settings()
    log_to(sys.stdout if as_json else sys.stderr, level=settings.log_level, as_json=as_json)
    identity = node.identity("combiner")
    join, trust = node.address(), node.trust()

    from hansa.network.certificates import shown_from_files
    from hansa.network.combiner.node import CombinerNode
    from hansa.network.heap import share_heap

    share_heap()
    with node.folder() as work:
        combiner = CombinerNode(
            identity.name,
            join=join,
            token=node.secret(),
            work=work,
            listen=listen,
            advertise=advertise,
            parent=parent,
            labels=node.labels,
            slots=settings.slots,
            silence=settings.silence,
            trust=trust,
            shown=shown_from_files(settings),
            key_age=node.key_age,
        )
        run_until_stopped(combiner.run(), while_stdin=while_stdin)


commands.command("rotate-key")(rotate_key)


@commands.command("list")
@expand
def list_combiners(server: ConnectionOptions, *, limit: Limit = 100, as_json: Json = False) -> None:
    """List the combiners that have ever connected, by name."""
    with server.connect() as api:
        page = api.combiners.list(limit=limit, sort="name")
    columns = {
        "name": lambda c: c.name,
        "connected": lambda c: "yes" if c.connected else "no",
        "parent": lambda c: c.parent,
        "address": lambda c: c.address,
        "since": lambda c: when(c.last_seen),
        "labels": lambda c: labels_of(c.labels),
    }
    nothing = "No combiner has connected: the controller itself sums. `hansa combiner start --help`."
    print_table(page.items, columns, as_json=as_json, nothing=nothing)
