"""`hansa decentralize`: an app's clients train together without a server, each with neighbours of its own."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hansa.cli.options import AppPath, Json, app_name, values
from hansa.cli.output import counted, print_json, say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from hansa.app import App
    from hansa.arrays import Arrays
    from hansa.messages import Value
    from hansa.protocols.topology import AnyTopology

__all__ = ["decentralize", "parse_topology"]

_TOPOLOGIES = (
    "ring", "torus:ROWS:COLUMNS", "complete", "star", "random-regular:DEGREE", "erdos-renyi:PROBABILITY",
    "watts-strogatz:NEIGHBOURS:PROBABILITY", "directed-ring", "exponential", "one-peer-exponential",
)  # fmt: skip


_CLIENTS = 8


def _complete_topology(incomplete: str) -> list[str]:
    return [name for name in (each.partition(":")[0] for each in _TOPOLOGIES) if name.startswith(incomplete)]


def decentralize(
    app: AppPath,
    *,
    topology: Annotated[
        str,
        typer.Option(
            "--topology", autocompletion=_complete_topology, help="Who talks to whom: " + ", ".join(_TOPOLOGIES) + "."
        ),
    ] = "ring",
    clients: Annotated[
        int | None,
        typer.Option(
            "--clients", "-n", min=1, show_default=False,
            help="Clients of the app, each a worker; by default as many as its data say, else 8.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of local training and mixing.")] = 10,
    algorithm: Annotated[
        Literal["dsgd", "pushsum"],
        typer.Option("--algorithm", help="dsgd: doubly stochastic weights; pushsum: for directed topologies."),
    ] = "dsgd",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of every random number of the run.")] = 0,
    set_config: Annotated[
        list[str] | None,
        typer.Option(
            "--set", "-s", metavar="KEY=VALUE", show_default=False,
            help="A setting of the app, in `task.config`; may be repeated.",
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File for the mean model, in the safetensors format.", dir_okay=False),
    ] = None,
    workers: Annotated[str | None, typer.Option("--workers", hidden=True, help="What --clients was called.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Train an app without a server: every client has a model, and mixes it with its neighbours'.

    Under mpirun the clients are shared out among its processes, and the result is the same, to the bit.
    """
    from hansa.app import load_app
    from hansa.errors import ConfigError
    from hansa.messages import RunSpec
    from hansa.run import check_settings, derive_rng

    if workers is not None:
        raise ConfigError(f"--workers is called --clients here, as in `hansa simulate`: write --clients {workers}")
    loaded, config = load_app(app), values(set_config or (), "--set")
    loaded.check()
    check_settings(loaded, RunSpec(config=config))
    graph = parse_topology(topology, clients or loaded.clients or _CLIENTS, derive_rng(seed, "topology"))
    told, mean = _trained(loaded, config, graph, algorithm, rounds=rounds, seed=seed)
    if told["rank"]:
        return
    told = {"app": app_name(app), **told, "saved": save}
    if save is not None:
        from hansa.wire import codec

        codec.save(mean, save)
    if as_json:
        print_json(told)
    else:
        _show(told)


def _trained(
    app: "App", config: "Mapping[str, Value]", graph: "AnyTopology", algorithm: str, *, rounds: int, seed: int
) -> "tuple[dict[str, Any], Arrays]":
    """What is told of a run, and the mean model."""
    from hansa import distributed as d
    from hansa.app.configured import Configured
    from hansa.run import derive_rng
    from hansa.wire import codec

    learner = Configured(app, config)
    if algorithm == "pushsum":
        mixing, program = d.column_stochastic, d.pushsum(learner, rounds=rounds)
    else:
        mixing = d.metropolis if graph.is_symmetric else d.uniform
        program = d.dsgd(learner, rounds=rounds, mixing=mixing)
    rate = d.second_eigenvalue(graph, mixing)
    outcome = d.run(program, graph, seed=seed)
    models = [result.model for result in outcome.results]
    mean = d.mean_model(models)
    measured = [
        dict(app.evaluate_centrally(model, derive_rng(seed, "central", rounds), config).values)
        for model in [mean, *models]
        if app.can_evaluate_centrally
    ]
    told = {
        "algorithm": algorithm,
        "topology": graph.name,
        "workers": graph.size,
        "rounds": rounds,
        "second_eigenvalue": rate,
        "losses": [float(sum(step) / graph.size) for step in zip(*(r.losses for r in outcome.results), strict=True)],
        "distance": d.mean_distance(models),
        "messages": sum(outcome.messages),
        "bytes": sum(outcome.sent),
        "metrics": measured[0] if measured else {},
        "worker_metrics": measured[1:],
        "model_hash": codec.digest(mean),
        "rank": outcome.rank,
    }
    return told, mean


def _show(told: "Mapping[str, Any]") -> None:
    workers, losses = told["workers"], told["losses"]
    size = f"{counted(workers, 'worker')}, {counted(told['rounds'], 'round')}"
    say(f"{told['app']}: {told['algorithm']} on {told['topology']}, {size}")
    rate = told["second_eigenvalue"]
    say(f"|λ₂| = {rate:.4f}: what a step of mixing leaves of the distance to the mean, in the long run")
    if not math.isnan(losses[0]):
        say(f"training loss {losses[0]:.4f} in the first round, {losses[-1]:.4f} in the last")
    say(f"the workers' models are {told['distance']:.3g} from their mean")
    for name, value in told["metrics"].items():
        values = [each[name] for each in told["worker_metrics"]]
        say(f"{name} {value:.4f} of the mean model, {min(values):.4f} to {max(values):.4f} of the workers' own")
    say(f"{told['messages']:,} messages, {told['bytes']:,} bytes")
    say(f"mean model {told['model_hash']}" + (f"; it is in {told['saved']}" if told["saved"] else ""))


def parse_topology(text: str, clients: int, rng: "np.random.Generator") -> "AnyTopology":
    """`name` or `name:number:number` as a topology; raises `ConfigError` that lists those there are."""
    from hansa import distributed as d
    from hansa.errors import ConfigError

    makers: dict[str, Callable[..., AnyTopology]] = {
        "ring": lambda: d.ring(clients),
        "torus": lambda rows, columns: d.torus(int(rows), int(columns)),
        "complete": lambda: d.complete(clients),
        "star": lambda: d.star(clients),
        "random-regular": lambda degree: d.random_regular(clients, int(degree), rng),
        "erdos-renyi": lambda probability: d.erdos_renyi(clients, float(probability), rng),
        "watts-strogatz": lambda near, probability: d.watts_strogatz(clients, int(near), float(probability), rng),
        "directed-ring": lambda: d.directed_ring(clients),
        "exponential": lambda: d.exponential(clients),
        "one-peer-exponential": lambda: d.one_peer_exponential(clients),
    }
    name, *numbers = text.split(":")
    try:
        made = makers[name](*numbers)
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"there is no topology {text}; there is: {', '.join(_TOPOLOGIES)}") from None
    if made.size != clients:
        raise ConfigError(f"{text} is of {made.size} clients, and there are {clients}: write --clients {made.size}")
    return made
