"""`hansa client`: start one, on the data owner's machine; list and show those of the project."""

import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hansa.cli.joining import JoinOptions, rotate_key
from hansa.cli.options import ConnectionOptions, Json, Limit, expand, pairs
from hansa.cli.output import labels_of, print_record, print_table, when
from hansa.cli.running import WhileStdin, log_to, run_until_stopped
from hansa.cli.site import SiteFile, approve, confinement, inspect, policy_of, tell

if TYPE_CHECKING:
    from hansa.network.client.policy import SitePolicy
    from hansa.store.records import ClientRecord

__all__ = ["commands"]

commands = typer.Typer(
    no_args_is_help=True, help="Clients hold data and train: start one here, list those of a project."
)


@commands.command()
@expand
def start(
    node: JoinOptions,
    *,
    app: Annotated[
        Path | None,
        typer.Argument(metavar="[APP]", show_default=False, help="This owner's own app; else what sessions bring."),
    ] = None,
    index: Annotated[int, typer.Option("--index", min=0, help="This client's share of a split data set, from 0.")] = 0,
    total: Annotated[int, typer.Option("--total", min=1, help="Shares of that data set.")] = 1,
    partition: Annotated[
        str | None,
        typer.Option("--partition", metavar="I/N", help="--index and --total as one: 0/10 is the first of ten shares."),
    ] = None,
    combiner: Annotated[
        str, typer.Option("--combiner", help="Combiner that this client prefers; by default a balancer chooses.")
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE",
                     help="A setting for `@app.data`, in `client.settings`; may be repeated."),
    ] = None,
    site: SiteFile = None,
    telemetry: Annotated[
        float | None,
        typer.Option(
            "--telemetry", metavar="SECONDS", min=1, show_default=False,
            help="Tell how busy this machine is, this often; by default as the site's file says, else never.",
        ),
    ] = None,
    while_stdin: WhileStdin = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Join a network as a data owner: dial out, train when asked, keep the data here. It opens no port.

    With --json, log lines are JSON objects. Ctrl-C and SIGTERM end it in order, with exit code 130.
    """
    from hansa.settings import Settings

    out = sys.stdout if as_json else sys.stderr
    log_to(out, level=Settings().log_level, as_json=as_json)
    identity = node.identity("client")
    join, trust = node.address(), node.trust()
    policy = _policy(site, node, identity.project)
    if telemetry is not None:
        policy = policy.model_copy(update={"outbound": policy.outbound.model_copy(update={"telemetry": telemetry})})

    from hansa.app import find_app
    from hansa.messages import ClientInfo
    from hansa.network.client.agent import Agent
    from hansa.network.client.confinement import NO_CONFINEMENT, hide_this_process
    from hansa.network.client.site import Site
    from hansa.network.client.workshop import Workshop

    share, shares = _share(partition, index, total)
    info = ClientInfo(identity.name, share, shares, pairs(settings or (), "--set"))
    found = find_app(app) if app is not None else None
    with node.folder() as work, redirect_stdout(sys.stderr if as_json else sys.stdout):
        walls = NO_CONFINEMENT
        if found is None:
            walls = confinement(work, info, policy, (node.token_file, site))
            tell(walls)
        hide_this_process()
        agent = Agent(
            info,
            join=join,
            token=node.secret(),
            work=work,
            app=found,
            preferred=combiner,
            labels={**policy.labels, **node.labels},
            trust=trust,
            workshop=partial(Workshop, confinement=walls),
            site=Site(work, policy),
            key_age=node.key_age,
        )
        run_until_stopped(agent.run(), while_stdin=while_stdin)


commands.command()(approve)
commands.command()(inspect)
commands.command("rotate-key")(rotate_key)


@commands.command("list")
@expand
def list_clients(
    server: ConnectionOptions,
    *,
    connected: Annotated[bool, typer.Option("--connected", help="Only those that are connected now.")] = False,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            "-l",
            metavar="KEY=VALUE",
            help="Only those with this label; may be repeated: of one key any of its values, of several keys all.",
        ),
    ] = None,
    search: Annotated[
        str | None, typer.Option("--search", metavar="TEXT", help="Only those whose name holds this, in any case.")
    ] = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List the clients that have ever connected, by name."""
    with server.connect() as api:
        page = api.clients.list(
            limit=limit, sort="name", connected=True if connected else None, label=label, search=search
        )
    columns = {
        "name": lambda c: c.name,
        "connected": lambda c: "yes" if c.connected else "no",
        "combiner": lambda c: c.combiner,
        "since": lambda c: when(c.last_seen),
        "labels": lambda c: labels_of(c.all_labels),
        "version": lambda c: c.version,
    }
    print_table(
        page.items, columns, as_json=as_json, nothing="No client has connected yet: `hansa client start --help`."
    )


@commands.command()
@expand
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client.")],
    server: ConnectionOptions,
    *,
    as_json: Json = False,
) -> None:
    """Show one client."""
    with server.connect() as api:
        client: ClientRecord = api.clients.get(name)
    lines = {
        "name": client.name,
        "connected": "yes" if client.connected else "no",
        "combiner": client.combiner,
        "first seen": when(client.first_seen),
        "since": when(client.last_seen),
        "labels": labels_of(client.labels),
        "given": labels_of(client.assigned or {}),
        "version": client.version,
    }
    print_record(client, lines, as_json=as_json)


@commands.command()
@expand
def telemetry(
    server: ConnectionOptions,
    *,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of one client; by default of all.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Only this number, for example cpu.")] = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """Show what clients' machines have told of themselves, the newest first: only those tell whose owners let them."""
    with server.connect() as api:
        page = api.clients.telemetry(name, metric, limit=limit)
    columns = {
        "at": lambda s: when(s.at),
        "client": lambda s: s.client,
        "what": lambda s: s.name,
        "value": lambda s: f"{s.value:.4g}",
    }
    print_table(
        page.items, columns, as_json=as_json, nothing="No client tells: its owner sets `telemetry` (site.toml)."
    )


@commands.command()
@expand
def label(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client.")],
    server: ConnectionOptions,
    *,
    labels: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", show_default=False, help="Labels to give it.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="KEY", help="Take a given label away; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Give a client labels beside its own, in the place of those of the same key; sessions choose clients by them."""
    from hansa.errors import InputError

    wanted: dict[str, str | None] = {**pairs(labels or (), "label"), **dict.fromkeys(remove or ())}
    if not wanted:
        raise InputError(f"say which labels: hansa client label {name} region=eu, or --remove region")
    with server.connect() as api:
        client = api.clients.label(name, wanted)
    print_record(client, {"name": client.name, "labels": labels_of(client.all_labels)}, as_json=as_json)


def _policy(site: Path | None, node: JoinOptions, project: str) -> "SitePolicy":
    """The owner's rules. Raises `ConfigError` where this client cannot keep them."""
    from hansa.errors import ConfigError
    from hansa.settings import Settings

    policy = policy_of(site)
    if policy.projects is not None and project not in policy.projects:
        allowed = ", ".join(policy.projects) or "no project"
        raise ConfigError(f"the token is for the project {project}, and {site} allows {allowed}: use another token")
    if policy.approval and node.work is None and Settings().work is None:
        raise ConfigError(f"{site} asks for approval of sessions, which is kept in the client's folder: give --work")
    return policy


def _share(partition: str | None, index: int, total: int) -> tuple[int, int]:
    """(index, total), however they were given; raises `InputError` for a share that is none."""
    from hansa.errors import InputError

    if partition is not None:
        first, _, last = partition.partition("/")
        if not (first.isdecimal() and last.isdecimal()):
            raise InputError(
                f"--partition {partition} is no share; write I/N, from 0/N to N-1/N: 0/10 is the first of ten"
            )
        index, total = int(first), int(last)
    if index >= total:
        raise InputError(f"share {index} of {total} does not exist: shares are counted from 0, the last is {total - 1}")
    return index, total
