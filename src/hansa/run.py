"""What to run: a `RunSpec` becomes objects here, and nowhere else; every runtime drives the same `Run`."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

import numpy as np
from blake3 import blake3

from hansa.aggregators import handed_over
from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import (
    Aggregate,
    Aggregator,
    Algorithm,
    Bound,
    Buffering,
    Cohort,
    Keeping,
    Partial,
    Plan,
    Policy,
    State,
    Trainer,
    Transform,
)
from hansa.app import App, remembered
from hansa.arrays import Arrays, length, lengths
from hansa.errors import ConfigError
from hansa.messages import Candidate, ClientInfo, Kind, Metrics, RunSpec, ServerTask, Task, Update, Updates, Value
from hansa.pipeline import (
    Pipeline,
    check_algorithm,
    check_step,
    quanta_of,
    slots_from_arrays,
    slots_to_arrays,
)
from hansa.rounds import policies
from hansa.rounds.rules import validate

__all__ = [
    "FUNCTIONS",
    "MAX_ROUNDS",
    "Run",
    "check_networked",
    "check_program",
    "check_settings",
    "check_synchronous",
    "counted",
    "derive_rng",
    "entry_point",
    "names",
    "options_of",
    "plugin",
    "resolve",
    "resolve_transforms",
    "seeded",
    "slots_from_arrays",
    "slots_to_arrays",
    "suit",
]

FUNCTIONS = ("aggregate", "configure", "select")
"""What an app may have beside the server."""

MAX_ROUNDS = 10**6
"""Of one run."""


@dataclass(frozen=True, slots=True)
class Run:
    """An algorithm and its policies, for T rounds, with a seed, in a project. A *session* on the network."""

    spec: RunSpec
    algorithm: Algorithm
    policy: Policy
    pipeline: Pipeline = field(default_factory=Pipeline)

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

    def queue(self, available: Sequence[str], number: int) -> Cohort:
        """Of an asynchronous run: as many as are to work at once, and who follows, in the order of free places.

        The cohort of the round, in random order: who is at work still is passed over, whatever its name.
        """
        cohort = self.cohort(available, number)
        order = derive_rng(self.spec.seed, "queue", number).permutation(len(cohort.invited)).tolist()
        return replace(cohort, invited=tuple(cohort.invited[k] for k in order))

    def task(
        self,
        app: App,
        client: ClientInfo,
        number: int,
        kind: Kind,
        *,
        work: float = 1.0,
        memory: Arrays | None = None,
        config: Mapping[str, Value] | None = None,
    ) -> Task:
        """The task of a client in a round, with the client's data, its memory and its own random numbers.

        config: what `settings` gave for the round; None: the run's own.
        """
        config = self.spec.config if config is None else config
        return Task(
            client=client,
            round=number,
            rng=derive_rng(self.spec.seed, kind.value, number, client.name),
            data=app.load_data(client, config),
            config=config,
            work=work,
            memory=memory,
        )

    def train(self, app: App, broadcast: Arrays, task: Task, *, private: bool = False) -> Update:
        """The client's half of a round: the change of the model, as it leaves the client.

        private: whether noise comes from this machine's own randomness, in place of the run's seed.
        """
        return self.client_half(app.trainer, broadcast, task, private=private)

    def client_half(self, trainer: Trainer, broadcast: Arrays, task: Task, *, private: bool = False) -> Update:
        """The same with another trainer than the app's. An update that servers keep travels as it is, not packed."""
        before = task.memory
        if not self.pipeline.transforms:
            return self.algorithm.client_update(trainer, broadcast, task)
        own = replace(task, memory=self.pipeline.of_the_algorithm(before))
        update = self.algorithm.client_update(trainer, broadcast, own)
        update = self.pipeline.apply(update, before, self._random(private, task.round, task.client.name))
        return update if self.algorithm.aggregator.shape == "sum" else replace(update, packing={})

    def template(self, broadcast: Arrays) -> Arrays:
        """What updates look like of clients that were given this: of it the sum of a round is planned."""
        return self.pipeline.structure(broadcast)

    def check(self, update: Update) -> None:
        """At a server: raise `UpdateRejectedError` for an update that no client of this run sends."""
        self.pipeline.check(update.arrays)

    def measured(self, update: Update) -> float | None:
        """At a server: the L2 norm of an update as it came, to six digits, to be recorded beside it.

        None where the sum is published with noise: that would not cover a number of one client.
        """
        return None if self.pipeline.releases else length(update.arrays)

    def measured_each(self, updates: Updates) -> Sequence[float | None]:
        """`measured` of many at once."""
        return [None] * len(updates) if self.pipeline.releases else lengths(updates.arrays)

    def counted(self, plan: Plan, update: Update, staleness: int, base: Arrays, current: Arrays) -> Update:
        """At a server of an asynchronous run: what is summed of an update. base: what its client was given.

        staleness: rounds between that and `current`, what is broadcast now. Raises `UpdateRejectedError` for an update
        that may not be counted, or has not the model's structure. Of another run an update is summed as it is.
        """
        if self.algorithm.buffering is None:
            return update
        self.algorithm.aggregator.check(plan, update)
        return replace(update, arrays=self.algorithm.buffering.counted(update.arrays, staleness, base, current))

    def report(self, plan: Plan, partial: Partial, number: int, *, private: bool = False) -> Aggregate:
        """What all that was summed in a round comes to, with the noise that it is published with. Uses `partial` up."""
        released = self.pipeline.release(
            partial, lambda: quanta_of(self.algorithm, plan), self._random(private, number)
        )
        return self.algorithm.aggregator.report(plan, released)

    # ── functions of the app, beside the server ──────────────────────────────────────────────────────────────────

    def selected(
        self, app: App, clients: Sequence[Candidate], number: int, memory: dict[str, Value]
    ) -> tuple[str, ...]:
        """Whom the app invites to a round, by name. memory: of the app's functions, changed in place."""
        with self._server_task("select", number, memory) as task:
            return app.selected(clients, task)

    def configured(self, app: App, model: Arrays, number: int, memory: dict[str, Value]) -> Mapping[str, Value]:
        """The settings of clients in a round. model: what is broadcast; memory: changed in place."""
        if "configure" not in self.spec.functions:
            return self.spec.config
        with self._server_task("configure", number, memory) as task:
            return {**self.spec.config, **app.configured(model, task)}

    def aggregated(
        self, app: App, model: Arrays, updates: Iterable[tuple[str, Update]], number: int, memory: dict[str, Value]
    ) -> Arrays:
        """The change that the app makes of its clients' changes. memory: changed in place."""
        with self._server_task("aggregate", number, memory) as task:
            return app.aggregated(model, updates, task)

    @contextmanager
    def _server_task(self, function: str, number: int, memory: dict[str, Value]) -> Iterator[ServerTask]:
        """What a function is told of a round; what it leaves in the task's memory is in `memory` afterwards."""
        rng = derive_rng(self.spec.seed, "server", function, number)
        task = ServerTask(number, rng, self.spec.config, deepcopy(memory))
        yield task
        kept = remembered(task.memory, function)
        memory.clear()
        memory.update(kept)

    def kept(self, plan: Plan, partial: Partial) -> Iterator[tuple[str, Update]]:
        """The changes that the app's aggregate is given, by name, one at a time."""
        return handed_over.updates(cast("Keeping", self.algorithm.aggregator), plan, partial)

    def aggregate_of(self, plan: Plan, partial: Partial, made: Arrays) -> Aggregate:
        """The round's aggregate where the app's aggregate has made this change; raises `AppError` for none."""
        return handed_over.aggregate_of(cast("Keeping", self.algorithm.aggregator), plan, partial, made)

    def _random(self, private: bool, *keys: str | int) -> Callable[[Transform], np.random.Generator]:  # noqa: FBT001 - passed on
        """The random numbers of each transform, for one client of a round or for the round's sum."""

        def random(transform: Transform) -> np.random.Generator:
            if transform.secret and private:
                return np.random.default_rng()
            return derive_rng(self.spec.seed, "transform", transform.name, *keys)

        return random

    def evaluate(self, app: App, model: Arrays, task: Task) -> Metrics:
        """Metrics on a client's data: of the global model, or of the client's own where the algorithm keeps one."""
        if self.pipeline.transforms:
            task = replace(task, memory=self.pipeline.of_the_algorithm(task.memory))
        return app.trainer.evaluate(self.algorithm.personal(model, task.memory), task)

    def finish(self, state: State, aggregate: Aggregate) -> State:
        """The server's half of a round."""
        return self.algorithm.server_update(state, aggregate)

    def evaluates(self, number: int, last: int | None = None) -> bool:
        """Whether the model of this round is evaluated. last: the last round; None: that of the specification."""
        every = self.spec.evaluation.every
        return every > 0 and (number % every == 0 or number == (self.spec.rounds if last is None else last))

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
    if "aggregate" in spec.functions:
        aggregator = handed_over.handed_over(max_weight=spec.max_weight, range_bits=spec.range_bits)
    policy = plugin("hansa.policies", spec.rules.selection)(spec.rules)
    pipeline = resolve_transforms(spec)
    algorithm = make_algorithm(aggregator, **spec.algorithm_options)
    if algorithm.sends and not isinstance(algorithm.aggregator, WeightedMean):
        raise ConfigError(
            f"{spec.algorithm} sends {algorithm.sends} beside a change of the model, which makes sense only in a "
            f"weighted mean, and {spec.aggregator} is none: use the aggregator mean, or another algorithm"
        )
    _check_least(spec, algorithm.aggregator)
    check_algorithm(pipeline.transforms, algorithm)
    _check_functions(spec, algorithm, pipeline)
    if algorithm.buffering is not None:
        _check_buffering(spec, algorithm.buffering, algorithm.aggregator, pipeline)
    for each in pipeline.transforms:
        algorithm = each.wrap(algorithm) if each.wrap is not None else algorithm
    return Run(spec, algorithm, policy, pipeline)


def _check_functions(spec: RunSpec, algorithm: Algorithm, pipeline: Pipeline) -> None:
    """Refuse functions of the app that there cannot be, or that do not go with the rest."""
    unknown = sorted(set(spec.functions) - set(FUNCTIONS))
    if unknown or len(set(spec.functions)) < len(spec.functions):
        raise ConfigError(f"functions is {list(spec.functions)}; there are {', '.join(FUNCTIONS)}, each once")
    if algorithm.buffering is not None and spec.functions:
        raise ConfigError(f"{spec.algorithm} has no rounds that the app's {spec.functions[0]} could be called for")
    if "select" in spec.functions and spec.rules.selection != "all":
        raise ConfigError(f"the app selects clients, and selection is {spec.rules.selection!r}: drop one of them")
    if "aggregate" in spec.functions:
        if spec.aggregator != "mean" or spec.aggregator_options:
            raise ConfigError(f"the app aggregates, and aggregator is {spec.aggregator!r}, or has options: drop one")
        if any(not noise.local for noise in pipeline.noises):
            raise ConfigError("noise on the sum needs a sum, and the app's own aggregate makes none: drop one of them")


def resolve_transforms(spec: RunSpec) -> Pipeline:
    """The transforms of a spec alone; raises `ConfigError` as `resolve` does."""
    made: tuple[Transform, ...] = ()
    for given in spec.transforms:
        make = plugin("hansa.transforms", given.name)
        _check_options("transforms", given.name, _parameters(make)[1:], given.options)
        transform: Transform = make(made[-1].bound if made else Bound(), **given.options)
        check_step(made, transform)
        made += (transform,)
    return Pipeline(made)


def seeded(spec: RunSpec) -> RunSpec:
    """The same run with noise that follows from its seed wherever it runs, so that two runs can be compared."""
    secret = [each.secret for each in resolve_transforms(spec).transforms]
    return replace(
        spec,
        transforms=tuple(
            replace(given, options={**given.options, "seeded": True}) if hidden else given
            for given, hidden in zip(spec.transforms, secret, strict=True)
        ),
    )


def _check_least(spec: RunSpec, aggregator: Aggregator) -> None:
    """Refuse rules by which every round has fewer updates than the aggregator can report of."""
    for name, value in (("count", spec.rules.count), ("enough", spec.rules.enough)):
        if value is not None and value < aggregator.least:
            raise ConfigError(
                f"{spec.aggregator} with {dict(spec.aggregator_options)} needs at least {aggregator.least} updates in "
                f"a round, and {name} is {value}: raise it"
            )


def _check_buffering(spec: RunSpec, buffering: Buffering, aggregator: Aggregator, pipeline: Pipeline) -> None:
    """Refuse what has no meaning where clients do not wait for each other."""
    named = f"{spec.algorithm} is asynchronous: a round is over with {buffering.size} updates"
    if spec.rules.enough is not None:
        raise ConfigError(f"{named}; leave `enough` out")
    if not spec.rules.replace_failed:
        raise ConfigError(f"{named}, and each free place is filled; leave `replace_failed` on")
    if spec.rules.quorum > buffering.size:
        raise ConfigError(f"{named}, fewer than the quorum of {spec.rules.quorum}; lower `quorum`")
    if buffering.size < aggregator.least:
        raise ConfigError(f"{named}, and {spec.aggregator} needs at least {aggregator.least}")
    if pipeline.noises:
        raise ConfigError(
            f"{named}, of whoever is first, and privacy is accounted for clients that are drawn; choose another "
            "algorithm, or no noise"
        )


def check_program(spec: RunSpec) -> None:
    """Raise `ConfigError` for a run of parties that cannot be."""
    if len(set(spec.parties)) < len(spec.parties) or not all(spec.parties):
        raise ConfigError(f"parties are {', '.join(spec.parties)}: each must have a name, and be there once")
    if spec.transforms:
        raise ConfigError(
            f"parties send each other messages, and no updates that {spec.transforms[0]} could change: leave it out"
        )
    if spec.rules.only or spec.rules.labels:
        raise ConfigError("parties are named one by one, and nobody is chosen: leave `only` and `labels` out")
    _check_whole("seed", spec.seed, 0, 2**63 - 1)
    validate(spec.rules)


def check_synchronous(run: Run) -> None:
    """Raise `ConfigError` for an asynchronous algorithm, where two runs are to come to the same."""
    if run.algorithm.buffering is not None:
        raise ConfigError(
            f"{run.algorithm.name} is asynchronous: who is counted when depends on the order of arrival, so that there "
            "is nothing to compare; choose another algorithm"
        )


def check_networked(run: Run) -> None:
    """Raise `ConfigError` for what only simulations can do."""
    aggregator = run.algorithm.aggregator
    if run.algorithm.buffering is not None and aggregator.shape != "sum":
        raise ConfigError(
            f"{run.algorithm.name} scales updates by their staleness, and on a network servers hold each update that "
            f"{run.spec.aggregator} keeps against what its client has signed: use the aggregator mean"
        )


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
        option = missing[0]
        where = f"{setting}_options={{{option!r}: …}}, or --set-{setting} {option}=…"
        where = f"write {name}:{option}=…" if setting == "transforms" else f"give it with {where}"
        raise ConfigError(f"{name} needs the option {option!r}; {where}")


def suit(spec: RunSpec, app: App) -> RunSpec:
    """The spec without the evaluations that the app has no functions for; `AppError` where it cannot train at all.

    Raises `ConfigError` where the run has parties, and no rounds.
    """
    if spec.parties:
        raise ConfigError(
            f"parties are {', '.join(spec.parties)}: they run a program on a network; in one process it is run by "
            f"hansa.distributed.run(*app.program_of({len(spec.parties)}))"
        )
    app.check()
    evaluation = replace(
        spec.evaluation,
        clients=spec.evaluation.clients and app.can_evaluate,
        central=spec.evaluation.central and app.can_evaluate_centrally,
    )
    has = tuple(name for name in FUNCTIONS if app.has(name))
    return replace(spec, evaluation=evaluation, functions=spec.functions or has)


def check_settings(app: App, spec: RunSpec) -> None:
    """Refuse a setting that nothing of the app reads: a typing error would make no difference, and nobody would know.

    Of parties it is the program's function alone that is given any.

    Raises `ConfigError`, which names the setting that is most like it, or the option that it is of what the run names.
    """
    known = app.settings_for("program") if spec.parties else app.settings
    name = next((name for name in spec.config if name not in known), None)
    if name is None or (app.reads_config and not spec.parties):
        return
    if spec.parties:
        hint = "none (what @app.program has after `*` are its settings)"
    else:
        hint = "none (of a function that makes the trainer, the parameters are settings)"
    told = ", ".join(known) or hint
    alike = get_close_matches(name, known, n=1)
    there = [] if spec.parties else [("algorithm", spec.algorithm), ("aggregator", spec.aggregator)]
    options = [
        f". It is an option of {plug_in}: --set-{kind} {name}={spec.config[name]}, or {kind}_options"
        for kind, plug_in in there
        if name in options_of(f"hansa.{kind}s", plug_in)
    ]
    whose = "the app's program" if spec.parties else "the app"
    raise ConfigError(
        f"{whose} has no setting {name!r}, and nothing else of it reads --set or config; "
        f"its settings: {told}{''.join(options)}" + (f". Did you mean {alike[0]!r}?" if alike and not options else "")
    )


def counted(spec: RunSpec, clients: int) -> RunSpec:
    """The spec with the number of clients as an option of its algorithm, where that needs it and was not told."""
    needed = options_of("hansa.algorithms", spec.algorithm).get("num_clients")
    if needed is None or needed.default is not needed.empty or "num_clients" in spec.algorithm_options:
        return spec
    return replace(spec, algorithm_options={**spec.algorithm_options, "num_clients": clients})


def derive_rng(seed: int, purpose: str, *keys: str | int) -> np.random.Generator:
    """Independent random numbers for each purpose (init, selection, train …) and its keys, from one seed."""
    text = "\x1f".join((str(seed), purpose, *(f"str:{k}" if isinstance(k, str) else f"int:{k:d}" for k in keys)))
    return np.random.Generator(np.random.PCG64(int.from_bytes(blake3(text.encode()).digest(16), "little")))


def names(group: str) -> list[str]:
    """What is registered in an entry-point group, sorted."""
    return sorted({point.name for point in _points(group)})


def entry_point(group: str, name: str) -> EntryPoint:
    """What is registered under a name; raises `ConfigError` that lists the names there are."""
    found = {point.value: point for point in _points(group) if point.name == name}
    if not found:
        _points.cache_clear()  # it may have been installed since, from a notebook
        found = {point.value: point for point in _points(group) if point.name == name}
    if not found:
        there = names(group)
        alike = get_close_matches(name.lower(), there, n=1, cutoff=0.7)
        meant = f"; do you mean {alike[0]}?" if alike else ""
        raise ConfigError(f"there is no {name!r} in {group}; there is: {', '.join(there) or 'nothing'}{meant}")
    if len(found) > 1:
        raise ConfigError(f"{name!r} in {group} is each of {', '.join(sorted(found))}; uninstall a package, or rename")
    (point,) = found.values()
    return point


def plugin(group: str, name: str) -> Callable[..., Any]:
    """The object registered under a name; raises `ConfigError` as `entry_point`."""
    point = entry_point(group, name)
    try:
        loaded: Callable[..., Any] = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name!r} in {group} is {point.value}, which cannot be loaded: {error}") from error
    return loaded


def options_of(group: str, name: str) -> dict[str, inspect.Parameter]:
    """What a registered algorithm or aggregator can be given, by name; raises `ConfigError` as `plugin`."""
    found = _parameters(plugin(group, name), "aggregator", "max_weight", "range_bits")
    return {parameter.name: parameter for parameter in found if parameter.kind is not parameter.VAR_KEYWORD}


@cache
def _points(group: str) -> tuple[EntryPoint, ...]:
    """What is installed, read once: it takes milliseconds, and a run is resolved for every task."""
    return tuple(entry_points(group=group))
