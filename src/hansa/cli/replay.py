"""`hansa replay`: a recorded simulation once more, compared bit by bit."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hansa.cli.board import open_board
from hansa.cli.options import Json, values
from hansa.cli.output import counted, print_json, say
from hansa.cli.simulate import row_of

if TYPE_CHECKING:
    from hansa.simulation import Replay

__all__ = ["replay"]

_SHOWN = 10


def replay(
    record: Annotated[
        Path, typer.Argument(metavar="RECORD", help="A folder that `hansa simulate --record` or `save_record` wrote.")
    ],
    *,
    app: Annotated[
        Path | None, typer.Option("--app", help="This app, and not the recorded one; needed where none is recorded.")
    ] = None,
    set_config: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", metavar="KEY=VALUE", show_default=False,
            help="A setting in place of the recorded one, such as where the data are on this machine; may be repeated.",
        ),
    ] = None,
    engine: Annotated[
        Literal["inline", "processes", "vectorized"] | None,
        typer.Option(
            "--engine", show_default=False,
            help="In place of the recorded one, which all but vectorized repeat to the bit; by default processes for "
            "what ran over MPI or Ray.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Repeat a recorded simulation and compare it: every hash and every number, or where they differ first.

    It runs the code in the record. Exit code 1 when something differs. With --json the last line sums up.
    """
    from hansa.simulation import replay as run
    from hansa.simulation.record import open_record

    opened = open_record(record)
    spec, total = opened.spec, len(opened.rounds)
    size = f"{counted(opened.manifest['clients'], 'virtual client')}, {counted(total, 'round')}"
    title = f"{spec.name}: {spec.algorithm} on {size}, again"
    with open_board(title, total, as_json=as_json) as board:
        done = run(
            record,
            app=app,
            config=values(set_config or (), "--set"),
            engine=engine,
            on_round=lambda now: board.row(row_of(now)),
            progress=False,
        )
    if as_json:
        print_json(
            {
                "same": done.same,
                "model_hash": done.result.model_hash,
                "recorded": opened.manifest["model_hash"],
                "differences": done.differences,
                "engine": done.result.engine,
                "recorded_engine": opened.manifest["engine"],
                "surroundings": done.surroundings,
            }
        )
    else:
        _say(done)
    if not done.same:
        raise typer.Exit(1)


def _say(done: "Replay") -> None:
    say("")
    was, now = done.record.manifest["engine"], done.result.engine
    if was != now:
        say(f"It was recorded with the engine {was}, and repeated with {now}")
    if done.same:
        say(f"The same to the last bit: {done.result.model_hash}")
        return
    first = done.differences[0]
    say(f"It differs from round {first.round} on:" if first.round else "It differs:")
    for each in done.differences[:_SHOWN]:
        say(f"  {f'round {each.round}' if each.round else 'at the end'}  {each.what}: {each.recorded} → {each.now}")
    if len(done.differences) > _SHOWN:
        say(f"  … and {len(done.differences) - _SHOWN} more")
    for name, (was, now) in done.surroundings.items():
        say(f"{name} was {was}, and is {now}")
    if not done.surroundings:
        say("Versions and platform are the same: look at the data, the number of threads, and state of the app's own.")
