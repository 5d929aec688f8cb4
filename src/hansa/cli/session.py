"""`hansa session`: runs on the network."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hansa.cli.options import AppPath, ConnectionOptions, Json, Limit, SpecOptions, app_name, expand
from hansa.cli.output import print_json, print_record, print_table, say, size, span, when
from hansa.cli.root import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hansa.api.client import Client
    from hansa.messages import RunSpec, Value
    from hansa.store.records import EventRecord, SessionRecord

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="Sessions: runs on the network. Start, watch, ask why, stop, resume.")

SessionName = Annotated[
    str, typer.Argument(metavar="SESSION", help="Id of a session, the beginning of one, or a name.", show_default=False)
]


@commands.command()
@expand
def start(
    app: AppPath,
    spec: SpecOptions,
    server: ConnectionOptions,
    *,
    name: Annotated[str | None, typer.Option("--name", help="Name of the session; by default the app's.")] = None,
    package: Annotated[
        bool, typer.Option("--package/--no-package", help="Send the app to clients that bring none of their own.")
    ] = True,
    seed_model: Annotated[
        str | None,
        typer.Option(
            "--seed-model",
            help="Model to start from: its digest, or a safetensors file; by default the app's initial one.",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            metavar="POLICY",
            help="Rounds that keep their models, for example 'last 5, best loss min', or 'all, aggregates' with what "
            "it takes to compute each anew; by default the server's policy.",
        ),
    ] = None,
    model_prefix: Annotated[
        str | None,
        typer.Option("--model-prefix", help="What its models are called, before their round's number: PREFIX-1, …"),
    ] = None,
    parties: Annotated[
        str | None,
        typer.Option(
            "--parties",
            metavar="CLIENT,…",
            show_default=False,
            help="Run the app's program in place of rounds, with these clients as its workers 0, 1, …; `central` runs "
            "beside the server.",
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it and return at once.")] = False,
    as_json: Json = False,
) -> None:
    """Start a session of an app and watch it. Ctrl-C detaches: the session goes on.

    With --json every round is one JSON object on a line, and the last line is the session.
    """
    with server.connect() as api:
        wanted = replace(spec.spec(name or app_name(app)), parties=tuple(parties.split(",")) if parties else ())
        session = api.sessions.start(
            app, wanted, package=package, seed_model=seed_model, keep=keep, model_prefix=model_prefix
        )
        if detach:
            _detached(session, as_json=as_json)
            return
        if not api.server().clients:
            say("No client is connected yet: the session waits for them. `hansa client start --help`", as_json=as_json)
        _watch(api, session, as_json=as_json)


@commands.command()
@expand
def watch(session: SessionName, server: ConnectionOptions, *, as_json: Json = False) -> None:
    """Show a session's rounds, those committed and those to come, until it ends. Ctrl-C leaves it running."""
    with server.connect() as api:
        _watch(api, api.sessions.get(session), as_json=as_json)


@commands.command()
@expand
def why(session: SessionName, server: ConnectionOptions, *, as_json: Json = False) -> None:
    """Say what a session waits for: who is late, how far each client is, when leases and the deadline end."""
    from hansa.rounds.why import far

    with server.connect() as api:
        waiting = api.sessions.why(session)
    if as_json:
        print_json(waiting)
        return
    say(waiting.sentence)
    phase = waiting.phase
    if phase is None or not phase.outstanding:
        return
    columns = {
        "client": lambda c: c.name,
        "doing": lambda c: c.activity,
        "done": lambda c: far(c.activity, c.done, c.total) if c.total else "",
        "silent for": lambda c: span(c.silent),
        "lease ends in": lambda c: span(max(c.lease_ends - phase.now, 0)),
        "connected": lambda c: "yes" if c.connected else "no",
    }
    if phase.staleness is not None:
        columns["model"] = lambda c: f"{c.staleness} rounds old" if c.staleness else "newest"
    print_table(phase.outstanding, columns, as_json=False, nothing="")


@commands.command("list")
@expand
def list_sessions(server: ConnectionOptions, *, limit: Limit = 20, as_json: Json = False) -> None:
    """List sessions, the newest first."""
    with server.connect() as api:
        page = api.sessions.list(limit=limit, sort="-created_at")
    columns = {
        "id": lambda s: s.id,
        "name": lambda s: s.name,
        "state": lambda s: s.state.value,
        "round": lambda s: "" if s.spec.parties else f"{s.round}/{s.rounds}",
        "algorithm": lambda s: "program" if s.spec.parties else s.spec.algorithm,
        "created": lambda s: when(s.created_at),
        "model": lambda s: (s.model or "")[:12],
    }
    print_table(page.items, columns, as_json=as_json, nothing="No session yet: `hansa session start APP`.")


@commands.command()
@expand
def show(session: SessionName, server: ConnectionOptions, *, as_json: Json = False) -> None:
    """Show one session: its state and cause, its models, and the settings that decide its result."""
    with server.connect() as api:
        found = api.sessions.get(session)
        last = api.events.list(session=found.id, kind="round.committed", sort="-id", limit=1).items
    spec = found.spec
    lines = {
        "session": f"{found.name} ({found.id})",
        "state": f"{found.state.value}  {found.cause}",
        **(_of_program(spec) if spec.parties else _of_rounds(found, last)),
        "seed": str(spec.seed),
        "seed model": found.seed_model or "",
        "model": found.model or "",
        "package": found.package or "none: clients bring their own code",
        "keep": found.keep or "the server's default",
        "created": when(found.created_at),
        "started": when(found.started_at),
        "ended": when(found.ended_at),
    }
    print_record(found, lines, as_json=as_json)


@commands.command()
@expand
def rounds(session: SessionName, server: ConnectionOptions, *, limit: Limit = 1000, as_json: Json = False) -> None:
    """List the committed rounds of a session, with who counted and the model of each."""
    with server.connect() as api:
        page = api.rounds.list(session=api.sessions.get(session).id, sort="number", limit=limit)
    columns = {
        "round": lambda r: str(r.number),
        "accepted": lambda r: str(r.accepted),
        "rejected": lambda r: str(r.rejected),
        "failed": lambda r: str(r.failed),
        "missing": lambda r: str(r.missing),
        "examples": lambda r: f"{r.weight:,}",
        "time": lambda r: span(r.closed_at - r.opened_at),
        "model": lambda r: r.model[:12],
        "metrics": lambda r: " ".join(f"{name}={value:.4g}" for name, value in r.metrics.items()),
    }
    print_table(page.items, columns, as_json=as_json, nothing="No round is committed yet.")


@commands.command()
@expand
def stop(session: SessionName, server: ConnectionOptions, *, as_json: Json = False) -> None:
    """Stop a running session; what is committed stays, and it can be resumed."""
    with server.connect() as api:
        stopped = api.sessions.stop(session)
    where = "" if stopped.spec.parties else f" after round {stopped.round}"
    _said(stopped, f"Session {stopped.name} stopped{where}; `hansa session resume {stopped.id}` goes on from there.",
          as_json=as_json)  # fmt: skip


@commands.command()
@expand
def resume(
    session: SessionName,
    server: ConnectionOptions,
    *,
    rounds: Annotated[
        int, typer.Option("--rounds", "-r", min=0, help="Rounds beyond those that it was to commit.")
    ] = 0,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return at once.")] = False,
    as_json: Json = False,
) -> None:
    """Go on with a session after its last committed round, and watch it: one that was stopped, or has failed.

    With --rounds it commits that many more than it was to, also where it has finished; the algorithm goes on with the
    state that it had.
    """
    with server.connect() as api:
        before = api.events.list(limit=1).cursor
        resumed = api.sessions.resume(session, rounds)
        if detach:
            _detached(resumed, as_json=as_json)
            return
        _watch(api, resumed, as_json=as_json, after=before)


@commands.command()
@expand
def delete(session: SessionName, server: ConnectionOptions, *, as_json: Json = False) -> None:
    """Delete a session that does not run, with its rounds, metrics, events, and the models that nothing else needs."""
    with server.connect() as api:
        gone = api.sessions.delete(session)
    _said(gone, f"Session {gone.name} ({gone.id}) is deleted.", as_json=as_json)


class ExportedModels(StrEnum):
    """Of which rounds a bundle has the bytes."""

    ALL = "all"
    NEWEST = "newest"
    NONE = "none"


@commands.command()
@expand
def export(
    session: SessionName,
    server: ConnectionOptions,
    *,
    to: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="File to write; by default NAME-ID.hansa.zip here."),
    ] = None,
    models: Annotated[
        ExportedModels, typer.Option("--models", help="Of which rounds the bytes of the models go with it.")
    ] = ExportedModels.ALL,
    as_json: Json = False,
) -> None:
    """Write all that is recorded of a session to a file, signed: whoever gets it can check it without the server.

    `hansa verify --bundle FILE` checks it, on any machine.
    """
    with server.connect() as api:
        path = api.sessions.export(session, to, models.value)
    if as_json:
        print_json({"path": path, "size": path.stat().st_size})
    else:
        say(f"{path} ({size(path.stat().st_size)})")
        say(f"\nNext:\n  hansa verify --bundle {path}")


@commands.command()
@expand
def keep(
    session: SessionName,
    policy: Annotated[
        str, typer.Argument(metavar="POLICY", help="For example 'last 5, best loss min', or all, or default.")
    ],
    server: ConnectionOptions,
    *,
    as_json: Json = False,
) -> None:
    """Say which rounds of a session keep their models. The others are pruned: their records stay, their bytes go.

    The policy is `all`, or `last N`, `best METRIC max`, `best METRIC min`, and a comma between several. A metric is the
    mean over the clients' evaluations; `best central METRIC max` and `best train METRIC min` take the other two kinds.
    With `, aggregates` at the end rounds keep what they have added to the model as well, from the next one on, so that
    `hansa verify` can compute each model anew: as many bytes as the models.

    `default` is the server's own policy (HANSA_KEEP). A session that runs prunes after its next round, any other with
    `hansa prune`.
    """
    with server.connect() as api:
        kept = api.sessions.keep(session, None if policy == "default" else policy)
    _said(kept, f"Session {kept.name} keeps the models of: {kept.keep or 'the default of the server'}.",
          as_json=as_json)  # fmt: skip


def _of_rounds(session: "SessionRecord", last: "Sequence[EventRecord]") -> "dict[str, str]":
    spec = session.spec
    return {
        "round": f"{session.round} of {session.rounds}{_staleness(last)}",
        "algorithm": _with_options(spec.algorithm, spec.algorithm_options),
        "aggregator": _with_options(spec.aggregator, spec.aggregator_options),
        "transforms": ", ".join(map(str, spec.transforms)) or "none",
        "clients": f"{spec.rules.selection}, quorum {spec.rules.quorum}, deadline {spec.rules.deadline:g} s",
    }


def _of_program(spec: "RunSpec") -> "dict[str, str]":
    return {
        "parties": ", ".join(f"{number} {name}" for number, name in enumerate(spec.parties)),
        "patience": f"{spec.rules.deadline:g} s for a party that is silent",
    }


def _staleness(committed: "Sequence[EventRecord]") -> str:
    """Of an asynchronous session, as the event of its last round tells it."""
    _, found, told = committed[0].message.partition("; staleness ") if committed else ("", "", "")
    return f"; staleness {told}" if found else ""


def _with_options(name: str, options: "Mapping[str, Value]") -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def _watch(api: "Client", session: "SessionRecord", *, as_json: bool, after: int = 0) -> None:
    from hansa.cli.watching import ended, watch
    from hansa.errors import ConnectionFailedError, RunFailedError
    from hansa.store.records import SessionState

    try:
        last, _ = watch(api, session, as_json=as_json, after=after)
    except KeyboardInterrupt:
        again = f"hansa session watch {session.id}"
        say(f"\nDetached; the session goes on. `{again}` comes back, `hansa session stop {session.id}` stops it.",
            as_json=as_json)  # fmt: skip
        raise typer.Exit(INTERRUPTED) from None
    except ConnectionFailedError as error:
        raise ConnectionFailedError(
            f"{error}\nThe session needs nobody who watches: `hansa session watch {session.id}` comes back to it."
        ) from error
    if as_json:
        print_json(last)
    if last.state is SessionState.FAILED:
        where = "with what its parties have said" if last.spec.parties else f"after round {last.round}"
        raise RunFailedError(f"{ended(last)}\n`hansa session resume {last.id}` goes on {where}.")
    if not as_json:
        say("")
        say(ended(last))
        if last.model is not None:
            say(f"model {last.model}")
            say(f"\nNext:\n  hansa model download {last.model[:12]}\n  hansa session rounds {last.id}")


def _detached(session: "SessionRecord", *, as_json: bool) -> None:
    _said(session, f"Session {session.name} ({session.id}) is running; `hansa session watch {session.id}` shows it.",
          as_json=as_json)  # fmt: skip


def _said(session: "SessionRecord", sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(session)
    else:
        say(sentence)
