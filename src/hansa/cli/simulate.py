"""`hansa simulate`: a run in this process, on all cores of this machine, or on many machines."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hansa.cli.board import Row, open_board
from hansa.cli.browsing import open_link
from hansa.cli.options import AppPath, Json, SpecOptions, app_name, expand, names_of
from hansa.cli.output import counted, print_json, say, size, span
from hansa.cli.privacy import sentence
from hansa.cli.studio import local_studio, until_interrupted

if TYPE_CHECKING:
    from hansa.messages import RunSpec
    from hansa.privacy.accounting import Spent
    from hansa.simulation import RoundRecord, SimulationResult
    from hansa.ui.local import Followed

__all__ = ["Engine", "simulate"]

_CLIENTS = 10

_ENGINES = (
    "inline: one client after another, breakpoints work; processes: on all cores; "
    "vectorized: many clients in one computation; auto: the fastest in a trial"
)
_ELSEWHERE = "mpi: in all ranks of mpirun; ray: in a Ray cluster, or one here"

Engine = Annotated[Literal["inline", "processes", "vectorized", "auto"], typer.Option("--engine", help=f"{_ENGINES}.")]
"""Of a command that simulates on this machine."""


def _complete_devices(incomplete: str) -> list[str]:
    return [kind for kind in ("dropouts:", "stragglers:", "lognormal:", "trace:") if kind.startswith(incomplete)]


def _complete_attack(incomplete: str) -> list[str]:
    from hansa.simulation.attacks import ATTACKS

    return [f"{kind}:" for kind in ATTACKS if kind.startswith(incomplete)]


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
    engine: Annotated[
        Literal["inline", "processes", "vectorized", "auto", "mpi", "ray"],
        typer.Option("--engine", help=f"{_ENGINES}; {_ELSEWHERE}."),
    ] = "inline",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, show_default=False,
            help="Worker processes; else one per core, of the cluster for ray, and for vectorized once they pay; "
            "for mpi, mpirun says it.",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices", autocompletion=_complete_devices,
            help="How devices behave: dropouts:RATE, stragglers:SHARE, lognormal:SIGMA, or trace:FILE, when they are "
            "there and how fast; else they answer at once.",
        ),
    ] = None,
    attack: Annotated[
        str | None,
        typer.Option(
            "--attack", autocompletion=_complete_attack, metavar="NAME:SHARE", show_default=False,
            help="What a share of the clients does to the model, for example sign-flip:0.2, scaling:0.1,factor=10 or "
            "backdoor+scaling:0.1.",
        ),
    ] = None,
    client_labels: Annotated[
        Path | None,
        typer.Option(
            "--client-labels", exists=True, dir_okay=False,
            help='TOML file with the labels of clients, by which --label chooses: [client-0], then region = "eu".',
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run; by default the app's.")] = None,
    save: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File for the last model, in the safetensors format.", dir_okay=False),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", help="New folder for what repeats this run, for `hansa replay`.", file_okay=False),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", file_okay=False,
            help="Folder for where the run is after each round: the same command goes on from there.",
        ),
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option("--checkpoint-every", min=1, help="Of so many rounds one is kept; the last is, too.")
    ] = 1,
    track: Annotated[
        list[str] | None,
        typer.Option(
            "--track", metavar="NAME:TARGET", autocompletion=names_of("hansa.trackers"), show_default=False,
            help="Who is told of each round: csv:FILE, jsonl:FILE, tensorboard:FOLDER, mlflow:URI, wandb:PROJECT; "
            "may be repeated.",
        ),
    ] = None,
    studio: Annotated[
        bool, typer.Option("--studio", help="Show it in a browser of this machine while it goes on, until Ctrl-C.")
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Run an app on virtual clients: the same rounds, and the same bits, as on a network.

    Many clients in one computation are the same but for rounding.
    With --json every round is one JSON object on a line, and the last line sums up.
    """
    from hansa.simulation import simulate as run
    from hansa.simulation.chosen import read_labels
    from hansa.simulation.load import load
    from hansa.simulation.named_devices import devices_of

    given, loaded = spec.spec(name or app_name(app)), load(app)
    _check_places(save, record)
    clients = clients or loaded.clients or _CLIENTS
    began = time.perf_counter()
    title = f"{given.name}: {given.algorithm} on {counted(clients, 'virtual client')}, {counted(given.rounds, 'round')}"
    simulated = partial(
        run,
        loaded,
        given,
        clients=clients,
        engine=engine,
        workers=workers,
        devices=devices_of(devices),
        attack=attack,
        progress=False,
        tracker=track or (),
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        labels=None if client_labels is None else read_labels(client_labels),
    )
    if engine == "mpi" and _serves(simulated):
        return
    with ExitStack() as open_still:
        followed = _followed(open_still, given, clients, engine, as_json=as_json) if studio else None
        with open_board(title, given.rounds, as_json=as_json) as board:

            def shown(done: "RoundRecord") -> None:
                board.row(row_of(done))
                if as_json:
                    print_json(done)
                if followed is not None:
                    followed.round(done)

            result = simulated(on_round=shown)
        seconds = time.perf_counter() - began
        if followed is not None:
            followed.finished(result.model)
        if save is not None:
            result.save(save)
        if record is not None:
            result.save_record(record)
        spent = _spent(result)
        if as_json:
            ended = {"saved": save, "record": record, "seconds": seconds}
            print_json({"clients": clients} | _summary(result) | ended | _asked_for(result, spent, profile=profile))
        else:
            _tell(app, result, clients, spent, seconds, save=save, record=record, profile=profile)
        if followed is not None:
            sys.stdout.flush()
            until_interrupted()


def _check_places(save: Path | None, record: Path | None) -> None:
    """Raise what would be raised when all is done, and lost."""
    from hansa.simulation.record import check_place
    from hansa.store.disk import explained, make_directory

    if record is not None:
        check_place(record)
    for what, place in (("the model", save), ("the record", record)):
        if place is not None:
            with explained(f"write {what}", place):
                make_directory(place.absolute().parent)
                tempfile.TemporaryFile(dir=place.absolute().parent).close()


def _followed(until_closed: ExitStack, spec: "RunSpec", clients: int, engine: str, *, as_json: bool) -> "Followed":
    """The run as the Studio of this process shows it, which is open until the stack is closed."""
    opened = until_closed.enter_context(local_studio(0))
    link = opened.link()
    if as_json:
        print_json({"studio": link})
    else:
        say(f"the Studio shows it, until Ctrl-C: {link}")
    open_link(link)
    return until_closed.enter_context(opened.follow(spec, clients, engine))


def _tell(
    app: Path,
    result: "SimulationResult",
    clients: int,
    spent: "Spent | str | None",
    seconds: float,
    *,
    save: Path | None,
    record: Path | None,
    profile: bool,
) -> None:
    """What a person is told at the end."""
    say("")
    say(f"model {result.model_hash}")
    say(f"{counted(len(result.rounds), 'round')} in {span(seconds)}" + (f"; the model is in {save}" if save else ""))
    for line in _remarks(result, clients, spent, record):
        say(line)
    for line in _profile(result) if profile else ():
        say(line)
    for line in _next(app, result, clients, spent):
        say(line)


def _serves(simulated: "Callable[[], SimulationResult]") -> bool:
    """In another rank than 0: train for that one, which alone prints, writes files and tells what goes wrong."""
    from hansa.errors import HansaError
    from hansa.simulation.mpi import rank

    if rank() == 0:
        return False
    try:
        simulated()
    except HansaError as error:
        raise typer.Exit(1) from error
    return True


def _summary(result: "SimulationResult") -> dict[str, Any]:
    return {
        "rounds": len(result.rounds),
        "algorithm": result.spec.algorithm,
        "metrics": row_of(result.rounds[-1]).metrics,
        "model_hash": result.model_hash,
        "upload_bytes": _sent(result),
        "engine": result.engine,
        "because": result.because,
        "malicious": result.malicious,
    }


def _asked_for(result: "SimulationResult", spent: "Spent | str | None", *, profile: bool) -> dict[str, Any]:
    return ({} if spent is None else {"privacy": spent}) | ({"profile": result.profile} if profile else {})


def _remarks(
    result: "SimulationResult", clients: int, spent: "Spent | str | None", record: Path | None
) -> Iterator[str]:
    """What is worth a line where it is so."""
    if any(each.staleness for each in result.rounds):
        stale = [each for record in result.rounds for each in record.staleness.values()]
        virtual = span(sum(each.virtual_seconds for each in result.rounds))
        mean = sum(stale) / len(stale)
        yield f"{virtual} on the virtual clock; staleness {mean:.3g} on average, at most {max(stale)}"
    if result.spec.transforms:
        yield f"updates of {size(_sent(result))}, through {', '.join(map(str, result.spec.transforms))}"
    if spent is not None:
        yield spent if isinstance(spent, str) else sentence(spent)
    if result.malicious:
        attack = "" if result.given is None else f": {result.given.attack}"
        yield f"{len(result.malicious)} of {clients:,} clients attacked{attack}"
    if result.because:
        yield f"engine {result.engine}: {result.because}"
    if record is not None:
        yield f"hansa replay {record}   repeats it, and compares"


def _next(app: Path, result: "SimulationResult", clients: int, spent: "Spent | str | None") -> Iterator[str]:
    """How to go on on a network, where that takes such a run."""
    if any(each.staleness for each in result.rounds):
        return
    same = "the same but for rounding" if result.engine == "vectorized" else "to the same bits"
    same = "with noise of its own" if spent is not None else same
    yield ""
    yield f"Next: the same file on a network, {same}:"
    yield f"  hansa parity {app} --clients {min(clients, 10)} --rounds 3"
    yield f"  hansa up            and then   hansa session start {app}"


def _sent(result: "SimulationResult") -> int:
    return sum(each.upload_bytes for each in result.rounds)


def _spent(result: "SimulationResult") -> "Spent | str | None":
    """Of the privacy budget, where there is noise; or why that is not known here."""
    from hansa.errors import MissingExtraError
    from hansa.privacy.accounting import spent
    from hansa.run import resolve_transforms

    noises = resolve_transforms(result.spec).noises
    try:
        return spent(noises, len(result.rounds)) if noises else None
    except MissingExtraError as error:
        return f"privacy: {error}"


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
