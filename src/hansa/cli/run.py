"""`hansa run`: an app's entry points one by one, on this machine, to try what clients and servers will run."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hansa.cli.options import AppPath, Json, expand, pairs, values
from hansa.cli.output import print_json, say

if TYPE_CHECKING:
    from hansa.app import App
    from hansa.arrays import Arrays
    from hansa.messages import Kind, Task

__all__ = ["commands"]

commands = typer.Typer(
    no_args_is_help=True, help="Try an app's entry points one by one, as clients and servers will run them."
)

_ENVIRONMENTS = Path("~/.cache/hansa/environments")

ModelIn = Annotated[
    Path | None,
    typer.Option("--in", "-i", exists=True, dir_okay=False, help="Model to begin with; by default the initial one."),
]
ModelOut = Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="File for the model, in safetensors.")]


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Whose task it is."""

    client: Annotated[str, typer.Option("--client", help="Name of the client.")] = "client-0"
    index: Annotated[int, typer.Option("--index", min=0, help="Its share of a split data set, from 0.")] = 0
    total: Annotated[int, typer.Option("--total", min=1, help="Shares of that data set.")] = 1
    settings: Annotated[
        list[str],
        typer.Option("--client-set", metavar="KEY=VALUE", help="What the data owner sets; may be repeated."),
    ] = field(default_factory=list)
    set_config: Annotated[
        list[str],
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="A setting of the run; may be repeated."),
    ] = field(default_factory=list)
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of every random number.")] = 0

    def task(self, app: "App", kind: "Kind", model_in: Path | None) -> "tuple[Arrays, Task]":
        """The model and the task of round 1."""
        from hansa.messages import ClientInfo, Log, RunSpec
        from hansa.run import resolve
        from hansa.wire import codec

        spec = RunSpec(seed=self.seed, config=values(self.set_config, "--set"))
        info = ClientInfo(self.client, self.index, self.total, pairs(self.settings, "--client-set"))
        run = resolve(spec)
        task = run.task(app, info, 1, kind)
        task.log = Log(lambda sample: say(f"{sample.name} {sample.value:g}  step {sample.step}", as_json=True))
        return codec.load(model_in) if model_in is not None else run.initial_model(app), task


def _in_its_environment(command: Callable[..., None]) -> Callable[..., None]:
    """Run it where the app's `requirements.lock` is installed, as clients do."""

    @wraps(command)
    def called(*, app: Path, **given: Any) -> None:
        from hansa.network.client.environments import environment_with, python_of
        from hansa.packages.manifest import REQUIREMENTS

        lock = (app if app.is_dir() else app.parent) / REQUIREMENTS
        if lock.is_file() and app.is_dir():
            import subprocess

            place = environment_with(lock.read_bytes(), _ENVIRONMENTS.expanduser())
            if Path(sys.prefix).resolve() != place.resolve():
                again = [str(python_of(place)), "-m", "hansa.cli", *sys.argv[1:]]
                raise typer.Exit(subprocess.run(again, check=False).returncode)  # noqa: S603 - this command once more
        command(app=app, **given)

    return called


@commands.command()
@expand
@_in_its_environment
def build(app: AppPath, *, as_json: Json = False) -> None:
    """Run the build command of a `hansa.toml`: what a process does before anything else."""
    _commands_of(app).build()
    _told({"built": app}, as_json=as_json)


@commands.command()
@expand
@_in_its_environment
def init(
    app: AppPath,
    *,
    model_out: ModelOut = Path("model.safetensors"),
    set_config: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="A setting of the run; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of every random number.")] = 0,
    as_json: Json = False,
) -> None:
    """Write the initial model, which sessions start from (`hansa session start --seed-model`)."""
    from hansa.messages import RunSpec
    from hansa.run import resolve
    from hansa.simulation.load import load
    from hansa.wire import codec

    spec = RunSpec(seed=seed, config=values(set_config or (), "--set"))
    model = resolve(spec).initial_model(load(app))
    codec.save(model, model_out)
    _told({"model": model_out, "digest": codec.digest(model), "tensors": len(model)}, as_json=as_json)


@commands.command()
@expand
@_in_its_environment
def startup(app: AppPath, client: TaskOptions, *, as_json: Json = False) -> None:
    """Run the startup command of a `hansa.toml`: what a client does once, before its first task."""
    from hansa.messages import ClientInfo, Task
    from hansa.run import derive_rng

    info = ClientInfo(client.client, client.index, client.total, pairs(client.settings, "--client-set"))
    config = values(client.set_config, "--set")
    _commands_of(app).startup(Task(info, 1, derive_rng(client.seed, "startup"), config=config))
    _told({"started": client.client}, as_json=as_json)


@commands.command()
@expand
@_in_its_environment
def train(
    app: AppPath,
    client: TaskOptions,
    *,
    model_in: ModelIn = None,
    model_out: ModelOut = Path("trained.safetensors"),
    as_json: Json = False,
) -> None:
    """Train as one client does in round 1, without an algorithm's half, and write the trained model."""
    from hansa.messages import Kind
    from hansa.simulation.load import load
    from hansa.wire import codec

    loaded = load(app)
    loaded.check()
    model, task = client.task(loaded, Kind.TRAIN, model_in)
    update = loaded.trainer.fit(model, task)
    codec.save(update.arrays, model_out)
    told = {"model": model_out, "num_examples": update.num_examples, "metrics": dict(update.metrics)}
    _told(told, as_json=as_json)


@commands.command()
@expand
@_in_its_environment
def evaluate(app: AppPath, client: TaskOptions, *, model_in: ModelIn = None, as_json: Json = False) -> None:
    """Evaluate a model as one client does."""
    from hansa.messages import Kind
    from hansa.simulation.load import load

    loaded = load(app)
    model, task = client.task(loaded, Kind.EVALUATE, model_in)
    metrics = loaded.trainer.evaluate(model, task)
    _told({"num_examples": metrics.num_examples, "metrics": dict(metrics.values)}, as_json=as_json)


@commands.command()
@expand
@_in_its_environment
def predict(app: AppPath, client: TaskOptions, *, model_in: ModelIn = None, as_json: Json = False) -> None:
    """Print what a model predicts of one client's data: JSON in any case."""
    from hansa.messages import Kind
    from hansa.simulation.load import load

    del as_json
    loaded = load(app)
    model, task = client.task(loaded, Kind.PREDICT, model_in)
    typer.echo(loaded.predictions(model, task).decode())


def _commands_of(path: Path) -> Any:
    """The trainer of a `hansa.toml`; raises `AppError` for another app."""
    from hansa.errors import AppError
    from hansa.simulation.load import load
    from hansa.training.command import CommandTrainer

    trainer = load(path).given_trainer({})
    if not isinstance(trainer, CommandTrainer):
        raise AppError(f"{path} is Python: importing it is its build, and @app.data its startup; try `hansa run train`")
    return trainer


def _told(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        shown = " ".join(f"{key}={number:.6g}" for key, number in value.items()) if isinstance(value, dict) else value
        say(f"{name:<12}  {shown}")
