"""What to run: a `RunSpec` becomes objects here, and nowhere else; every runtime drives the same `Run`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np
from blake3 import blake3

from hansa.algorithm import Aggregate, Algorithm, Cohort, Policy, State
from hansa.app import App
from hansa.arrays import Array, Arrays
from hansa.errors import ConfigError
from hansa.messages import ClientInfo, Kind, Metrics, RunSpec, Task, Update, Value
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
        return app.initial_model(derive_rng(self.spec.seed, "init"), self.spec.config)

    def start(self, model: Arrays) -> State:
        """The server's state before round 1."""
        return self.algorithm.init(model)

    def restored(self, model: Arrays, number: int, slots: Arrays | None) -> State:
        """The server's state after a committed round, from 0, as stored; slots: None where the algorithm has none."""
        if number and slots is not None:
            return State(model, number, slots_from_arrays(slots))
        return replace(self.start(model), round=number)

    def cohort(self, available: Sequence[str], number: int) -> Cohort:
        """Who is invited to a round; available: the connected clients, sorted by name."""
        return self.policy(available, number, derive_rng(self.spec.seed, "selection", number))

    def task(
        self,
        app: App,
        client: ClientInfo,
        number: int,
        kind: Kind,
        *,
        work: float = 1.0,
        memory: Arrays | None = None,
    ) -> Task:
        """The task of a client in a round, with the client's data, its memory and its own random numbers."""
        return Task(
            client=client,
            round=number,
            rng=derive_rng(self.spec.seed, kind.value, number, client.name),
            data=app.load_data(client, self.spec.config),
            config=self.spec.config,
            work=work,
            memory=memory,
        )

    def train(self, app: App, broadcast: Arrays, task: Task) -> Update:
        """The client's half of a round: the change of the model."""
        return self.algorithm.client_update(app.trainer, broadcast, task)

    def evaluate(self, app: App, model: Arrays, task: Task) -> Metrics:
        """Metrics on a client's data: of the global model, or of the client's own where the algorithm keeps one."""
        return app.trainer.evaluate(self.algorithm.personal(model, task.memory), task)

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
        return app.evaluate_centrally(model, derive_rng(self.spec.seed, "central", number), self.spec.config)


def resolve(spec: RunSpec) -> Run:
    """Objects for a spec; raises `ConfigError` that names the setting, its value and what it may be."""
    _check_whole("rounds", spec.rounds, 1, MAX_ROUNDS)
    _check_whole("seed", spec.seed, 0, 2**63 - 1)
    _check_whole("evaluation.every", spec.evaluation.every, 0, MAX_ROUNDS)
    _check_whole("max_weight", spec.max_weight, 1, 2**40)
    _check_whole("range_bits", spec.range_bits, 0, 20)
    _check_share("evaluation.fraction", spec.evaluation.fraction)
    validate(spec.rules)
    limits = {"max_weight": spec.max_weight, "range_bits": spec.range_bits}
    make_aggregator = plugin("hansa.aggregators", spec.aggregator)
    _check_options("aggregator", spec.aggregator, _parameters(make_aggregator, *limits), spec.aggregator_options)
    make_algorithm = plugin("hansa.algorithms", spec.algorithm)
    _check_options("algorithm", spec.algorithm, _parameters(make_algorithm)[1:], spec.algorithm_options)
    aggregator = make_aggregator(**limits, **spec.aggregator_options)
    policy = plugin("hansa.policies", spec.rules.selection)(spec.rules)
    return Run(spec, make_algorithm(aggregator, **spec.algorithm_options), policy)


def _check_whole(setting: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{setting} is {value!r}; it must be a whole number between {least} and {most}")


def _check_share(setting: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ConfigError(f"{setting} is {value!r}; it must be a number above 0 and at most 1")


def _parameters(make: Callable[..., Any], *given: str) -> list[inspect.Parameter]:
    """What a factory takes, but for what it is given by name."""
    return [parameter for parameter in _signature(make).parameters.values() if parameter.name not in given]


@cache
def _signature(make: Callable[..., Any]) -> inspect.Signature:
    """Looked at once: a run is resolved by every worker, and for every phase on every server."""
    return inspect.signature(make)


def _check_options(
    setting: str, name: str, parameters: Sequence[inspect.Parameter], options: Mapping[str, Value]
) -> None:
    """Refuse an option by its name; whether a value is in its range, the factory knows."""
    known = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    unknown = [option for option in options if option not in known]
    if unknown and len(known) == len(parameters):
        there_is = f"its options are {', '.join(known)}" if known else "it has none"
        raise ConfigError(f"{name} has no option {unknown[0]!r}; {there_is}")
    missing = [p.name for p in parameters if p.default is p.empty and p.name in known and p.name not in options]
    if missing:
        raise ConfigError(f"{name} needs the option {missing[0]!r}; give it in {setting}_options")


def suit(spec: RunSpec, app: App) -> RunSpec:
    """The spec without the evaluations that the app has no functions for; `AppError` where it cannot train at all."""
    app.check()
    evaluation = replace(
        spec.evaluation,
        clients=spec.evaluation.clients and app.can_evaluate,
        central=spec.evaluation.central and app.can_evaluate_centrally,
    )
    return replace(spec, evaluation=evaluation)


def derive_rng(seed: int, purpose: str, *keys: str | int) -> np.random.Generator:
    """Independent random numbers for each purpose (init, selection, train …) and its keys, from one seed."""
    text = "\x1f".join((str(seed), purpose, *(f"str:{k}" if isinstance(k, str) else f"int:{k:d}" for k in keys)))
    return np.random.Generator(np.random.PCG64(int.from_bytes(blake3(text.encode()).digest(16), "little")))


def names(group: str) -> list[str]:
    """What is registered in an entry-point group, sorted."""
    return sorted({point.name for point in _points(group)})


def plugin(group: str, name: str) -> Callable[..., Any]:
    """The object registered under a name; raises `ConfigError` that lists the names there are."""
    found = {point.value: point for point in _points(group) if point.name == name}
    if not found:
        _points.cache_clear()  # it may have been installed since, from a notebook
        found = {point.value: point for point in _points(group) if point.name == name}
    if not found:
        raise ConfigError(f"there is no {name!r} in {group}; there is: {', '.join(names(group)) or 'nothing'}")
    if len(found) > 1:
        raise ConfigError(f"{name!r} in {group} is each of {', '.join(sorted(found))}; uninstall a package, or rename")
    (point,) = found.values()
    try:
        loaded: Callable[..., Any] = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name!r} in {group} is {point.value}, which cannot be loaded: {error}") from error
    return loaded


@cache
def _points(group: str) -> tuple[EntryPoint, ...]:
    """What is installed, read once: it takes milliseconds, and a run is resolved for every task."""
    return tuple(entry_points(group=group))


def slots_to_arrays(slots: Mapping[str, Arrays]) -> Arrays:
    """An algorithm's slots as one `Arrays`: tensor `t` of slot `s` under the name `s/t`, a slot without any as `s/`.

    A `/` in a slot's own name is written `%2F`.
    """
    flat: dict[str, Array] = {}
    for slot, arrays in slots.items():
        prefix = slot.replace("%", "%25").replace("/", "%2F") + "/"
        flat |= {prefix + name: array for name, array in arrays.items()} or {prefix: np.zeros(0, np.bool_)}
    return Arrays(flat)


def slots_from_arrays(arrays: Arrays) -> dict[str, Arrays]:
    """The inverse of `slots_to_arrays`."""
    slots: dict[str, dict[str, Array]] = {}
    for key, array in arrays.items():
        prefix, _, name = key.partition("/")
        slot = slots.setdefault(prefix.replace("%2F", "/").replace("%25", "%"), {})
        if name:
            slot[name] = array
    return {slot: Arrays(items) for slot, items in slots.items()}
