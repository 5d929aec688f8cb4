"""`hansa up`: one process that is the controller, the root of the aggregation tree and the REST API."""

import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hansa.cli.options import Json
from hansa.cli.output import in_terminal, print_json, say
from hansa.cli.running import WhileStdin, log_to, log_traces, run_until_stopped

if TYPE_CHECKING:
    from hansa.api.server import ApiServer
    from hansa.settings import Settings

__all__ = ["up"]

_OPERATOR = "operator"
_FIRST_CLIENT = "client-0"


def up(
    *,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; by default HANSA_HOST, else 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535,
                     help="Port of the REST API, 0: any free one; by default HANSA_PORT, else 8470."),
    ] = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            "--grpc-port", min=0, max=65535,
            help="Port for clients and combiners, 0: any free one; by default HANSA_GRPC_PORT, else 8471.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder for database, models and keys; by default HANSA_DATA, else hansa-data."),
    ] = None,
    tls: Annotated[
        Literal["on", "proxy", "off"] | None,
        typer.Option(
            "--tls",
            help="on: both ports speak TLS; proxy: something in front of them does; off: nothing does, and tokens can "
            "be read on the way. By default HANSA_TLS, else on.",
        ),
    ] = None,
    fedn: Annotated[
        bool | None,
        typer.Option(
            "--fedn/--no-fedn",
            help="Serve FEDn's clients and scripts too; by default HANSA_FEDN, else not. HANSA_FEDN_… say how.",
        ),
    ] = None,
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt",
            help="This once: take database, keys and objects as one network's though they were not, which is refused.",
        ),
    ] = False,
    while_stdin: WhileStdin = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Serve: a controller with its REST API and the port that clients join. Sessions that were running go on.

    The first start makes a token for you, saves it for the other commands of this user, and prints once how a client
    joins. With --json one object is printed when it is ready. Ctrl-C and SIGTERM end it in order, with exit code 130.
    Tokens and codes are printed to a terminal or with --json, and to no file or journal.
    """
    from hansa.network.heap import share_heap
    from hansa.settings import Settings

    share_heap()
    given = {"host": host, "port": port, "grpc_port": grpc_port, "data": data, "tls": tls, "fedn": fedn}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    settings = Settings(**chosen)
    log_to(sys.stderr, level=settings.log_level)

    first = not (settings.data / "keys").exists()
    run_until_stopped(_serve(settings, first=first, as_json=as_json, adopt=adopt), while_stdin=while_stdin)


async def _serve(settings: "Settings", *, first: bool, as_json: bool, adopt: bool = False) -> None:
    """Until it is cancelled. first: whether the data folder is new, so that nobody has a token yet."""
    import structlog

    from hansa.api.server import ApiServer
    from hansa.errors import StorageUnavailableError
    from hansa.network.patience import patiently
    from hansa.ui import Studio

    async def opened() -> ApiServer:
        return await ApiServer.open(settings, Studio, adopt=adopt)

    log = structlog.get_logger(__name__)
    while True:
        try:  # a first start has never worked: a store that is away is more likely a wrong setting
            server = await (opened() if first else patiently(opened, who="the controller"))
            why = await _lead(server, settings, first=first, as_json=as_json)
        except StorageUnavailableError as error:
            if first:
                raise
            why = str(error)
        first = adopt = False
        log.warning("this controller does not lead any more; it waits until it may again", why=why)


async def _lead(server: "ApiServer", settings: "Settings", *, first: bool, as_json: bool) -> str:
    """Serve until this controller leads no more: why. The server is closed then."""
    async with AsyncExitStack() as beside:
        beside.push_async_callback(server.aclose)
        log_traces(server.controller.place_of)
        seen = as_json or sys.stdout.isatty()
        facts = await _facts(server, settings, first=first, secrets=seen)
        if settings.fedn:
            facts |= await _open_fedn(server, settings, beside)
        if as_json:
            print_json(facts)
        else:
            _welcome(facts)
        sys.stdout.flush()
        return await server.wait()


async def _open_fedn(server: "ApiServer", settings: "Settings", beside: AsyncExitStack) -> dict[str, Any]:
    """Serve FEDn's clients until `beside` ends; returns what is told of it."""
    from hansa.compat.fedn.server import FednServer

    fedn = await FednServer.open(server.control, settings)
    beside.push_async_callback(fedn.aclose)
    return {"fedn_url": fedn.url, "fedn_grpc_address": fedn.grpc_address}


async def _facts(server: "ApiServer", settings: "Settings", *, first: bool, secrets: bool) -> dict[str, Any]:
    """What is told when the server is ready.

    secrets: whether tokens and codes may be in it, which do not belong in a file or a journal that others read.
    """
    from hansa.wire.frames import Role

    who, made, replaced = await _operator(server, settings)
    client = None
    if first and secrets:
        client, _ = await server.controller.issue_token(settings.project, _FIRST_CLIENT, Role.CLIENT)
    code = f"#code={(await server.controller.logins.make_code(who))[0]}" if secrets else ""
    return {
        "url": server.url,
        "studio": f"{server.url}/ui/{code}",
        "grpc_address": server.grpc_address,
        "ca": server.fingerprint,
        "project": settings.project,
        "data": settings.data.resolve(),
        "credentials": settings.credentials.expanduser(),
        "new_credentials": made,
        "replaced_credentials": replaced,
        "first_start": first,
        "client_token": client,
    }


async def _operator(server: "ApiServer", settings: "Settings") -> tuple[str, bool, str | None]:
    """Make sure that this user holds a site administrator's token of this server.

    Returns whose it is, whether it was made for it, and the address of another server whose token it took the place of.
    """
    from hansa.api.credentials import Credentials, load_credentials, save_credentials
    from hansa.errors import AuthenticationError

    saved, people = load_credentials(settings.credentials), server.controller.people
    token, project = ("", settings.project) if saved is None else (saved.token, saved.project)
    who, known = _OPERATOR, False
    with suppress(AuthenticationError):
        holder = server.controller.verify(token)
        known = (await people.bounds(holder)).admin
        who = holder.name if known else _OPERATOR
    if not known:
        project = settings.project
        operator = await people.operator(_OPERATOR)
        token, _ = await people.issue(operator.id, called="up")
    now = Credentials(server.url, token, project, server.trust.roots, server.trust.name)
    if saved != now:
        save_credentials(settings.credentials, now)
    return who, not known, saved.url if saved is not None and not known else None


def _welcome(facts: dict[str, Any]) -> None:
    bold = (lambda text: typer.style(text, bold=True)) if in_terminal() else str
    say("")
    say(bold("hansa is up") + f"    data in {facts['data']}")
    say("")
    say(f"  Studio         {facts['studio']}")
    say(f"  REST API       {facts['url']}")
    say(f"  nodes join at  {facts['grpc_address']}")
    if "fedn_grpc_address" in facts:
        say(f"  FEDn clients   {facts['fedn_url']}, and gRPC at {facts['fedn_grpc_address']}")
    if facts["ca"]:
        say(f"  authority      {facts['ca']}")
    made = "your admin token is saved in" if facts["new_credentials"] else "your admin token is, as before, in"
    say(f"  {made} {facts['credentials']}")
    if facts["replaced_credentials"] is not None:
        say(f"  (in place of the one for {facts['replaced_credentials']}; `hansa login` goes back to it)")
    say("")
    joining = f"--join {facts['grpc_address']}" + (f" \\\n    --ca {facts['ca']}" if facts["ca"] else "")
    if facts["client_token"] is not None:
        here = facts["grpc_address"].rpartition("//")[2].startswith("127.")
        where = "on this machine (--host opens the server to others)" if here else "from any machine that reaches it"
        say(f"A first client joins, {where}, with the token that is shown this once:")
        say(f"  HANSA_TOKEN={facts['client_token']} \\\n    hansa client start {joining}")
    else:
        say(
            "A client joins with a token of its own, of `hansa token create NAME` (those of earlier starts still hold):"
        )
        say(f"  HANSA_TOKEN=… hansa client start {joining}")
    say("")
    say("Next, in another terminal:")
    say("  hansa token create NAME            a token for another client")
    if "#" not in facts["studio"]:  # nobody is before a terminal: the code would be in a file
        say("  hansa studio                       a link that signs you in to the Studio")
    say("  hansa session start app.py         a session; clients run the app that it brings")
    say("Ctrl-C stops the server; started again, it goes on where it was.")
    say("")
