"""`hansa sweep`: a grid of settings, each with several seeds."""

from pathlib import Path
from typing import Annotated

import typer

from hansa.cli.experiment import watched
from hansa.cli.options import AppPath, Json, SpecOptions, app_name, expand
from hansa.cli.output import counted, print_json, print_table, relative, say
from hansa.cli.simulate import Engine

__all__ = ["sweep"]


@expand
def sweep(
    app: AppPath,
    spec: SpecOptions,
    *,
    grid: Annotated[
        list[str],
        typer.Option(
            "--grid", "-g", metavar="NAME=VALUE,VALUE", show_default=False,
            help="A setting and its values; may be repeated, for all combinations. A setting of the app, or algorithm, "
            "rounds, clients, devices, attack, transforms, count, fraction …, algorithm.OPTION, aggregator.OPTION.",
        ),
    ],
    folder: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the records, the tables and the report.", file_okay=False)
    ] = Path("sweep"),
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds of each setting, from --seed on.")] = 3,
    seed_setting: Annotated[
        str | None,
        typer.Option(
            "--seed-setting", show_default=False,
            help="A setting that is each seed's number: with partition_seed each has a partition of its own.",
        ),
    ] = None,
    clients: Annotated[
        int | None,
        typer.Option(
            "--clients", "-n", min=1, show_default=False,
            help="Virtual clients; by default as many as the app's data say, else 10.",
        ),
    ] = None,
    engine: Engine = "inline",
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices", help="How devices behave: dropouts:RATE, stragglers:SHARE, lognormal:SIGMA or trace:FILE."
        ),
    ] = None,
    attack: Annotated[
        str | None,
        typer.Option("--attack", metavar="NAME:SHARE", show_default=False, help="As that of `hansa simulate`."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric", show_default=False,
            help="By which settings are compared, for example central.accuracy; by default accuracy, else loss.",
        ),
    ] = None,
    last: Annotated[
        int, typer.Option("--last", min=1, help="The mean of so many of the last rounds counts.")
    ] = 1,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, show_default=False, help="Processes at once; by default one per core."),
    ] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Simulate an app with every combination of settings and several seeds, and compare them.

    What is finished stays: the same command goes on where it was stopped or killed, and adds what the grid has got
    more. With --json each setting is one JSON object on a line.
    """
    from hansa.experiments.sweep import parse_axis
    from hansa.experiments.sweep import sweep as run
    from hansa.simulation.load import load

    axes = [parse_axis(text) for text in grid]
    given = spec.spec(app_name(app))
    title = f"{given.name}: {' × '.join(axis.name for axis in axes)}, {counted(seeds, 'seed')}"
    with watched(title, as_json=as_json) as told:
        done = run(
            app,
            axes,
            folder=folder,
            spec=given,
            clients=clients or load(app).clients or 10,
            devices=devices,
            engine=engine,
            attack=attack,
            seeds=seeds,
            seed_setting=seed_setting,
            metric=metric,
            last=last,
            jobs=jobs,
            told=told,
        )
    table = done.table()
    if as_json:
        for row in table:
            print_json(row)
        return
    from hansa.experiments.summary import compact
    from hansa.simulation.table import number

    settings = {name for row in done.rows for name in row.settings}

    def column(name: str) -> "tuple[str, object]":
        return name, lambda row: compact(row[name]) if name in settings else number(row[name])

    say("")
    print_table(list(table), dict(map(column, table.columns)), as_json=False, nothing="")  # type: ignore[arg-type]
    say("")
    say(f"report   {relative((folder / 'report.html').resolve())}")
    say(f"tables   {relative((folder / 'table.csv').resolve())}, runs.csv")
