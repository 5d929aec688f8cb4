"""`hansa simulate`: a run in this process, or on all cores of this machine."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hansa.cli.board import Row, open_board
from hansa.cli.options import AppPath, Json, SpecOptions, app_name, expand, names_of
from hansa.cli.output import print_json, say, span

if TYPE_CHECKING:
    from hansa.simulation import RoundRecord, SimulationResult

__all__ = ["Engine", "simulate"]

_CLIENTS = 10

Engine = Annotated[
    Literal["inline", "processes", "vectorized", "auto"],
    typer.Option(
        "--engine",
        help="inline: one client after another, breakpoints work; processes: on all cores; "
        "vectorized: many clients in one computation; auto: the fastest in a trial.",
    ),
]


def _complete_devices(incomplete: str) -> list[str]:
    return [kind for kind in ("dropouts:", "stragglers:", "lognormal:") if kind.startswith(incomplete)]


@expand
def simulate(
    app: AppPath,
    spec: SpecOptions,
    *,
    clients: Annotated[
        int | None,
        typer.Option(
            "--clients", "-n", min=1, show_default=False,
            help="Virtual clients, from client-0; by default as many as the app's data say, else 10.",
        ),
    ] = None,
    engine: Engine = "inline",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, show_default=False,
            help="Worker processes; else one per core, and none for vectorized.",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices", autocompletion=_complete_devices,
            help="How devices behave: dropouts:RATE, stragglers:SHARE, lognormal:SIGMA; else they answer at once.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run; by default the app's.")] = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="File for the last model, in the safetensors format.", dir_okay=False)
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", help="New folder for what repeats this run, for `hansa replay`.", file_okay=False),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            "--track", metavar="NAME:TARGET", autocompletion=names_of("hansa.trackers"), show_default=False,
            help="Who is told of each round: csv:FILE, jsonl:FILE, tensorboard:FOLDER, mlflow:URI, wandb:PROJECT; "
            "may be repeated.",
        ),
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Run an app on virtual clients: the same rounds, and the same bits, as on a network.

    Many clients in one computation are the same but for rounding.
    With --json every round is one JSON object on a line, and the last line sums up.
    """
    from hansa.simulation import simulate as run
    from hansa.simulation.devices import devices_of
    from hansa.simulation.load import load

    given, loaded = spec.spec(name or app_name(app)), load(app)
    clients = clients or loaded.clients or _CLIENTS
    began = time.perf_counter()
    title = f"{given.name}: {given.algorithm} on {clients:,} virtual clients, {given.rounds} rounds"
    with open_board(title, given.rounds, as_json=as_json) as board:

        def shown(done: "RoundRecord") -> None:
            board.row(row_of(done))
            if as_json:
                print_json(done)

        result = run(
            loaded,
            given,
            clients=clients,
            engine=engine,
            workers=workers,
            devices=devices_of(devices),
            on_round=shown,
            progress=False,
            tracker=track or (),
        )
    seconds = time.perf_counter() - began
    if save is not None:
        result.save(save)
    if record is not None:
        result.save_record(record)
    last = row_of(result.rounds[-1])
    if as_json:
        print_json(
            {
                "rounds": len(result.rounds),
                "clients": clients,
                "algorithm": given.algorithm,
                "metrics": last.metrics,
                "model_hash": result.model_hash,
                "saved": save,
                "record": record,
                "seconds": seconds,
                "engine": result.engine,
                "because": result.because,
            }
            | ({"profile": result.profile} if profile else {})
        )
        return
    say("")
    say(f"model {result.model_hash}")
    say(f"{len(result.rounds)} rounds in {span(seconds)}" + (f"; the model is in {save}" if save else ""))
    if record is not None:
        say(f"hansa replay {record}   repeats it, and compares")
    if result.because:
        say(f"engine {result.engine}: {result.because}")
    if profile:
        for line in _profile(result):
            say(line)
    say("")
    same = "the same but for rounding" if result.engine == "vectorized" else "to the same bits"
    say(f"Next: the same file on a network, {same}:")
    say(f"  hansa parity {app} --clients {min(clients, 10)} --rounds 3")
    say(f"  hansa up            and then   hansa session start {app}")


def _profile(result: "SimulationResult") -> list[str]:
    """The parts that took time, the longest first."""
    from hansa.simulation.profile import PARTS

    total = sum(result.profile.values()) or 1.0
    parts = sorted(result.profile.items(), key=lambda part: -part[1])
    return [f"{span(s):>8}  {s / total:4.0%}  {name}: {PARTS[name]}" for name, s in parts if s]


def row_of(record: "RoundRecord") -> Row:
    """A simulated round, as it is shown: of a metric's values the central one, else the clients', else training's."""
    lost = {**record.rejected, **record.failed, **record.failed_evaluations}
    return Row(
        round=record.round,
        metrics={**record.metrics, **record.evaluation, **record.central},
        accepted=len(record.accepted),
        rejected=len(record.rejected),
        failed=len(record.failed),
        missing=len(record.missing),
        seconds=record.seconds,
        names=tuple(f"{client}: {why}" for client, why in sorted(lost.items())),
    )
