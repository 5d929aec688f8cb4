"""What to run: a `RunSpec` becomes objects here, and nowhere else; every runtime drives the same `Run`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np
from blake3 import blake3

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Aggregate, Algorithm, Cohort, Policy, State
from hansa.app import App
from hansa.arrays import Arrays
from hansa.errors import ConfigError
from hansa.messages import ClientInfo, Kind, Metrics, RunSpec, Task, Update
from hansa.rounds import policies
from hansa.rounds.rules import validate

__all__ = ["Run", "derive_rng", "names", "plugin", "resolve", "slots_from_arrays", "slots_to_arrays", "suit"]

MAX_ROUNDS = 10**6


@dataclass(frozen=True, slots=True)
class Run:
    """An algorithm and its policies, for T rounds, with a seed, in a project. A *session* on the network."""

    spec: RunSpec
    algorithm: Algorithm
    policy: Policy

    def initial_model(self, app: App) -> Arrays:
        """The model of round 0, drawn with the run's seed."""
        return app.trainer.initial_model(derive_rng(self.spec.seed, "init"))

    def start(self, model: Arrays) -> State:
        """The server's state before round 1."""
        return self.algorithm.init(model)

    def cohort(self, available: Sequence[str], number: int) -> Cohort:
        """Who is invited to a round; available: the connected clients, sorted by name."""
        return self.policy(available, number, derive_rng(self.spec.seed, "selection", number))

    def task(self, app: App, client: ClientInfo, number: int, kind: Kind, work: float = 1.0) -> Task:
        """The task of a client in a round, with the client's data and its own random numbers."""
        return Task(
            client=client,
            round=number,
            rng=derive_rng(self.spec.seed, kind.value, number, client.name),
            data=app.load_data(client),
            config=self.spec.config,
            work=work,
        )

    def train(self, app: App, broadcast: Arrays, task: Task) -> Update:
        """The client's half of a round: the change of the model."""
        return self.algorithm.client_update(app.trainer, broadcast, task)

    def finish(self, state: State, aggregate: Aggregate) -> State:
        """The server's half of a round."""
        return self.algorithm.server_update(state, aggregate)

    def evaluates(self, number: int) -> bool:
        """Whether the model of this round is evaluated."""
        every = self.spec.evaluation.every
        return every > 0 and (number % every == 0 or number == self.spec.rounds)

    def evaluation_cohort(self, available: Sequence[str], number: int) -> Cohort:
        """Who evaluates the model of a round."""
        rng = derive_rng(self.spec.seed, "evaluation", number)
        fraction = self.spec.evaluation.fraction
        rules = replace(self.spec.rules, selection="fraction", fraction=fraction, count=None)
        return policies.fraction(rules)(available, number, rng)

    def central_metrics(self, app: App, model: Arrays, number: int) -> Metrics:
        """Evaluation beside the server, on the app's own data."""
        return app.evaluate_centrally(model, derive_rng(self.spec.seed, "central", number))


def resolve(spec: RunSpec) -> Run:
    """Objects for a spec; raises `ConfigError` that names the setting, its value and what it may be."""
    if not 1 <= spec.rounds <= MAX_ROUNDS:
        raise ConfigError(f"rounds is {spec.rounds}; it must be between 1 and {MAX_ROUNDS}")
    if not 0 <= spec.seed < 2**63:
        raise ConfigError(f"seed is {spec.seed}; it must be between 0 and 2^63 - 1")
    if spec.evaluation.every < 0 or not 0 < spec.evaluation.fraction <= 1:
        raise ConfigError("evaluation.every must be at least 0, and evaluation.fraction above 0 and at most 1")
    validate(spec.rules)
    aggregator = WeightedMean(max_weight=spec.max_weight, range_bits=spec.range_bits)
    make = plugin("hansa.algorithms", spec.algorithm)
    try:
        algorithm = make(aggregator, **spec.algorithm_options)
    except TypeError as error:
        given = ", ".join(spec.algorithm_options) or "none"
        raise ConfigError(f"the options of {spec.algorithm} ({given}) do not fit: {error}") from error
    policy = plugin("hansa.policies", spec.rules.selection)(spec.rules)
    return Run(spec, algorithm, policy)


def suit(spec: RunSpec, app: App) -> RunSpec:
    """The spec without the evaluations that the app has no functions for."""
    evaluation = replace(
        spec.evaluation,
        clients=spec.evaluation.clients and app.can_evaluate,
        central=spec.evaluation.central and app.can_evaluate_centrally,
    )
    return replace(spec, evaluation=evaluation)


def derive_rng(seed: int, purpose: str, *keys: str | int) -> np.random.Generator:
    """Independent random numbers for each purpose (init, selection, train …) and its keys, from one seed."""
    text = "\x1f".join((str(seed), purpose, *(f"{type(key).__name__}:{key}" for key in keys)))
    return np.random.Generator(np.random.PCG64(int.from_bytes(blake3(text.encode()).digest(16), "little")))


def names(group: str) -> list[str]:
    """What is registered in an entry-point group, sorted."""
    return sorted({point.name for point in _points(group)})


def plugin(group: str, name: str) -> Callable[..., Any]:
    """The object registered under a name; raises `ConfigError` that lists the names there are."""
    found = [point for point in _points(group) if point.name == name]
    if not found:
        raise ConfigError(f"there is no {name!r} in {group}; there is: {', '.join(names(group)) or 'nothing'}")
    loaded: Callable[..., Any] = found[0].load()
    return loaded


@cache
def _points(group: str) -> tuple[EntryPoint, ...]:
    """What is installed, read once: it takes milliseconds, and a run is resolved for every task."""
    return tuple(entry_points(group=group))


def slots_to_arrays(slots: Mapping[str, Arrays]) -> Arrays:
    """An algorithm's slots as one `Arrays`, tensor `t` of slot `s` under the name `s/t`."""
    return Arrays({f"{slot}/{name}": array for slot, arrays in slots.items() for name, array in arrays.items()})


def slots_from_arrays(arrays: Arrays) -> dict[str, Arrays]:
    """The inverse of `slots_to_arrays`."""
    slots: dict[str, dict[str, Any]] = {}
    for key, array in arrays.items():
        slot, _, name = key.partition("/")
        slots.setdefault(slot, {})[name] = array
    return {slot: Arrays(items) for slot, items in slots.items()}
