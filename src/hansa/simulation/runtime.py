"""A `Run` in this process or on its cores: rounds on a virtual clock, clients that exist only while they train."""

import gc
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np
import numpy.typing as npt

from hansa.algorithm import Aggregate, Buffering, Cohort, Partial, Plan, State
from hansa.app import App
from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ConfigError, QuorumNotMetError, RunFailedError
from hansa.messages import Candidate, EvaluationRules, Kind, RunSpec, Value, merge_metrics
from hansa.rounds import Round
from hansa.rounds.buffered import Buffered
from hansa.rounds.events import Completed, NotMet
from hansa.rounds.events import Outcome as Ended
from hansa.run import Run, check_settings, counted, derive_rng, names, resolve, suit
from hansa.simulation.arguments import check_arguments, whole
from hansa.simulation.asynchronous import Flow, Played, check_asynchronous
from hansa.simulation.attacks import Attack, attackers_of
from hansa.simulation.attendance import attendance
from hansa.simulation.checkpoint import Checkpoint, Place
from hansa.simulation.chosen import Labels, chosen_clients, labels_of
from hansa.simulation.clients import SomeClients, VirtualClients
from hansa.simulation.clock import Rehearsal, rehearse
from hansa.simulation.devices import Behaviour, Devices, Invitation
from hansa.simulation.engines import SPREAD, EngineName, Workload, early, made, picked
from hansa.simulation.examples import count_examples
from hansa.simulation.fold import Assignment, Engine, Failed, Folded, Outcome
from hansa.simulation.given import Given
from hansa.simulation.keywords import Keywords, parted
from hansa.simulation.load import check_not_loading, load
from hansa.simulation.named_devices import devices_of
from hansa.simulation.profile import Profile
from hansa.simulation.progress import progress_bar
from hansa.simulation.result import RoundRecord, SimulationResult
from hansa.simulation.tracked import tracked
from hansa.simulation.worker import Serving
from hansa.tracking import Tracker
from hansa.training import as_arrays
from hansa.wire import codec

if TYPE_CHECKING:
    from hansa.simulation.mpi import Together

__all__ = ["EngineName", "Simulation", "simulate"]

_ALL_CONNECTED = 4096
"""Up to so many clients a round knows all of them, as on a network; of more, the cohort, its reserve and …"""
_SOME_CONNECTED = 256
"""… so many of the first by name, which is the order in which a round falls back on whoever is connected."""


def simulate(
    app: App | str | Path,
    spec: RunSpec | None = None,
    *,
    model: Any = None,
    data: Any = None,
    clients: int | None = None,
    engine: EngineName = "inline",
    workers: int | None = None,
    devices: Devices | str | None = None,
    tolerate_failures: bool | None = None,
    attack: Attack | str | None = None,
    initial_model: Any = None,
    on_round: Callable[[RoundRecord], None] | None = None,
    stop: Callable[[RoundRecord], bool] | None = None,
    progress: bool | None = None,
    tracker: Tracker | str | Sequence[Tracker | str] = (),
    labels: Labels | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1,
    **settings: Unpack[Keywords],
) -> SimulationResult:
    """Run an app on virtual clients, `client-0` … `client-{n−1}`: the same rounds, and the same bits, as on a network.

    ```python
    result = hansa.simulate("app.py", clients=100, rounds=20, seed=1)
    print(result.rounds[-1].evaluation, result.model_hash)

    from hansa.data import digits
    from hansa.training.numpy import softmax_regression

    model, data = softmax_regression(64, 10), digits.read()
    result = hansa.simulate("scaffold", model=model, data=data, partition="dirichlet:0.5", clients=10, rounds=5)
    print(result.curves["central.accuracy"])
    ```

    Args:
        app: an `App`, or the path of one; with engine="processes" it must come from a file. Where `model` and `data`
            are given, the name of an algorithm; the app is then `hansa.App.of(model, data)`.
        spec: the run; or give its fields as keywords (`rounds=20, algorithm="fedprox"`), which replace those of `spec`.
        model: as in `hansa.App.of`.
        data: the same. Where it is one `Split`, its test part is evaluated on after each round, and clients do not
            evaluate unless `evaluation` says so.
        clients: registered clients; they cost nothing until they are selected. By default as many as `data` has.
        engine: "inline" trains one client after another in this process, so that `print` and `breakpoint` work;
            "processes" trains on all cores; the result is the same, to the bit. "vectorized" trains many clients in one
            computation, where the app has a trainer that can: it is the same but for rounding, and depends neither on
            who is trained with whom nor on `workers`. "auto" tries some clients, and takes what was the fastest.
            "mpi" trains in all processes that `mpirun` started, to the bits of "inline": each of them calls `simulate`,
            alike, and gets the result; callbacks, trackers and files are those of rank 0. "ray" trains in a Ray
            cluster, else in one on this machine, to the same bits, and goes on where workers are lost.
        workers: worker processes; by default as many as there are cores, for "ray" in its cluster. "vectorized" trains
            in this process, which is one of them; an app that is given by its file is by default joined by others when
            it has trained for some seconds. For "mpi", `mpirun` says it.
        devices: how devices behave on the virtual clock (`hansa.simulation.devices`), also by name, for example
            "trace:phones.csv"; by default they answer at once.
        tolerate_failures: whether an exception in a client's code makes that client fail and be replaced, as on a
            network. By default it does with engine="processes", "mpi" and "ray", and ends the simulation with its own
            traceback with "inline" and "vectorized". A worker process that dies only ever fails its client.
        attack: what malicious clients do, for example "sign-flip:0.2" (`hansa.simulation.attacks`); who they are is
            drawn by the seed, and told by the result.
        initial_model: the model of round 0, in place of the app's: a mapping of arrays or tensors, a torch module, a
            fitted estimator, or another result's model.
        on_round: called after each round.
        stop: called after each round; True ends the run.
        progress: whether a bar shows how far it is; by default where standard error is a terminal, and in notebooks.
        tracker: who is told of each round (`hansa.tracking`): for example "csv:out.csv", or several.
        labels: of the clients, by which `rules` may choose them: name → labels, or a function of a `ClientInfo`.
        checkpoint: a folder in which the place of the simulation is kept between rounds, by rank 0 of "mpi". The same
            call goes on from there, to the same bits, whatever ended it; also with more rounds.
        checkpoint_every: in rounds; the last is kept, too.
        **settings: fields of `RunSpec`, and with `model` those of `hansa.App.of`. An algorithm that asks for
            `num_clients` gets `clients`, where its options do not say it.

    Raises:
        QuorumNotMetError: too few updates counted in a round; it names who was missing.
        UserCodeError: user code raised in a worker process, or its file cannot be loaded there.
        RunFailedError: with engine="mpi", another rank cannot go on, it says which; with "ray", no cluster starts.
        ConfigError: a setting cannot be used.
        ConflictError: the folder of the checkpoint holds another run, or another process is at it.
        MissingExtraError: `hansa[mpi]` or `hansa[ray]` is not installed, and was asked for.

    """
    check_not_loading()
    check_arguments(spec=spec, on_round=on_round, stop=stop, labels=labels)
    workers, behaving = whole("workers", workers), devices_of(devices)
    began = time.time()
    with _together(engine) as together, _old_objects_at_rest(), early(engine, app, workers) as started:
        loaded, given_spec = _app_and_spec(app, spec or RunSpec(), model, data, settings)
        registered = _registered(clients, loaded)
        run = resolve(suit(counted(given_spec, registered), loaded))
        check_settings(loaded, run.spec)
        clients_named = VirtualClients(registered)
        chosen, labelled = chosen_clients(run.spec.rules, clients_named, labels)
        attackers = attackers_of(attack, run, clients_named)
        check_asynchronous(run, registered, attackers)
        tolerate = engine in SPREAD if tolerate_failures is None else tolerate_failures
        start = None if initial_model is None else _start_of(initial_model, run, loaded)
        workload = Workload(loaded, run, clients_named, attackers, from_file=not isinstance(app, App))
        invited = partial(run.cohort, clients_named if chosen is None else SomeClients(chosen), 1)
        choice = picked(engine, workers, workload, start, lambda: invited().invited)
        given = Given(
            loaded, registered, engine, workers, behaving, workload.attack, tolerate_failures, start, began, labelled
        )
        if together is not None:
            together.agree(loaded, run.spec, registered, workload.attack)
            if not together.leads:
                return replace(together.serve(Serving(workload.folding(tolerate=True))), given=given)
        ranks = None if together is None else partial(together.place, workers=workers)
        kept = None
        if checkpoint is not None:
            kept = Checkpoint(checkpoint, given, run.spec, whole("checkpoint_every", checkpoint_every) or 1)
        making = made(choice, workload, started, ranks, tolerate=tolerate)
        simulation = Simulation(
            run,
            loaded,
            clients_named,
            making.engine,
            behaving,
            making.profile,
            chosen=chosen,
            labels=labels_of(clients_named, labels),
        )
        try:
            with (
                progress_bar(progress, f"{run.spec.name}: {run.spec.algorithm}", run.spec.rounds) as shown,
                tracked(tracker, run.spec, registered) as told,
                kept or nullcontext(),
            ):
                listeners = [listener for listener in (shown, told) if listener is not None]
                before = None if kept is None else kept.load()
                for record in before.records if before is not None else ():
                    for listener in listeners:
                        listener(asdict(record))
                result = simulation.run(start, _telling(listeners, on_round), stop, kept, before)
        finally:
            making.engine.close()
        choice = making.in_fact(choice)
        result = replace(
            result,
            engine=choice.engine,
            because=choice.because,
            malicious=() if attackers is None else tuple(sorted(attackers.names)),
            given=given,
        )
        if together is not None:
            together.end(result)
        return result


def _registered(clients: int | None, app: App) -> int:
    """How many clients there are."""
    registered = app.clients if clients is None else whole("clients", clients)
    if registered is None:
        raise ConfigError("clients is not given: say how many there are")
    return registered


def _together(engine: str) -> "AbstractContextManager[Together | None]":
    """The ranks, where they train."""
    if engine != "mpi":
        return nullcontext()
    from hansa.simulation.mpi import Together  # noqa: PLC0415 - loading it starts MPI

    return Together()


_at_rest_already = threading.Event()
"""Set once somebody else was found to have thought of old objects: these are counted one by one, each time."""

_resting = threading.Lock()
"""Held by the simulation that has them at rest; one beside it, or within it, leaves that to it."""


@contextmanager
def _old_objects_at_rest() -> Iterator[None]:
    """Whoever looks for garbage leaves alone what is there already: of a library, that is half a million objects."""
    if not _resting.acquire(blocking=False):
        yield
        return
    try:
        if _at_rest_already.is_set() or gc.get_freeze_count():
            _at_rest_already.set()
            yield
            return
        gc.freeze()
        try:
            yield
        finally:
            gc.unfreeze()
    finally:
        _resting.release()


def _app_and_spec(
    app: App | str | Path, spec: RunSpec, model: Any, data: Any, keywords: Keywords
) -> tuple[App, RunSpec]:
    """The app that is named, or the one of a model and data, where the name is an algorithm's."""
    settings, learning = parted(keywords)
    if model is None and data is None:
        if learning:
            raise ConfigError(
                f"{next(iter(learning))} belongs to `model` and `data`; an app has its own trainer and data"
            )
        if isinstance(app, str) and app in names("hansa.algorithms") and not Path(app).exists():
            raise ConfigError(f"{app} is an algorithm: give `model` and `data` too, or an app and algorithm={app!r}")
        if not isinstance(app, App | str | Path):
            raise ConfigError(
                f"the first argument is {app!r}; it must be an App, the path of one, or with `model` a name"
            )
        return (app if isinstance(app, App) else load(app)), replace(spec, **settings)
    if model is None or data is None:
        raise ConfigError(f"{'data' if model is None else 'model'} is given alone: give both `model` and `data`")
    if not isinstance(app, str) or "algorithm" in settings:
        raise ConfigError("with `model` and `data` the first argument names the algorithm: hansa.simulate('fedavg', …)")
    made = App.of(model, data, **cast("Any", learning))
    if made.can_evaluate_centrally and "evaluation" not in settings and spec.evaluation == EvaluationRules():
        settings["evaluation"] = EvaluationRules(clients=False)
    return made, replace(spec, algorithm=app, **settings)


def _start_of(initial_model: Any, run: Run, app: App) -> Arrays:
    """The model that was given; raises `ConfigError` for what is none, and where an app makes another kind."""
    try:
        start = as_arrays(initial_model)
    except AppError as error:
        raise ConfigError(f"initial_model: {error}") from error
    if app.makes_model:
        made = run.initial_model(app)
        for name in (*made, *start):
            here, there = (tuple(each[name].shape) if name in each else None for each in (start, made))
            if here != there:
                has = "no tensor" if here is None else f"a tensor of shape {here}"
                needs = "none" if there is None else f"one of {there}"
                raise ConfigError(f"initial_model has {has} {name!r}, and the app's model has {needs}")
    return start


def _telling(
    listeners: Sequence[Callable[[dict[str, Any]], None]], on_round: Callable[[RoundRecord], None] | None
) -> Callable[[RoundRecord], None] | None:
    """What is called after each round: with it as a dictionary, and with the record."""
    if not listeners:
        return on_round

    def tell(record: RoundRecord) -> None:
        for listener in listeners:
            listener(asdict(record))
        if on_round is not None:
            on_round(record)

    return tell


@dataclass(slots=True)
class Simulation:
    """The rounds of one run, whichever engine trains."""

    setup: Run
    app: App
    clients: VirtualClients
    engine: Engine
    devices: Devices
    profile: Profile = field(default_factory=Profile)
    """Of this process."""
    now: float = 0.0
    """Virtual seconds since the run began, when the round that is played was due."""
    chosen: npt.NDArray[np.int64] | None = None
    """Numbers of the clients that the run may invite, in the order of their names; None: all."""
    labels: Callable[[str], Mapping[str, str]] = lambda _name: {}
    """Of a client."""
    memory: dict[str, Value] = field(default_factory=dict)
    """What the app's functions have left for later calls."""
    kept: dict[str, Arrays] = field(default_factory=dict)
    """What each client remembers: the engine's, once more by reference."""

    def run(
        self,
        initial_model: Mapping[str, Array] | None,
        on_round: Callable[[RoundRecord], None] | None,
        stop: Callable[[RoundRecord], bool] | None,
        checkpoint: Checkpoint | None = None,
        before: Place | None = None,
    ) -> SimulationResult:
        """All rounds, from the initial model, or from where it was before."""
        if before is None:
            model = self.setup.initial_model(self.app) if initial_model is None else Arrays(initial_model)
            before = Place(self.setup.start(model))
        state, records = before.state, list(before.records)
        self.now, self.memory, self.kept = before.now, dict(before.memory), dict(before.kept)
        if self.kept:
            self.engine.remember(self.kept)
        buffering = self.setup.algorithm.buffering
        flow = None if buffering is None else self._flow(buffering)
        if flow is not None and before.between is not None:
            flow.go_on(len(records), before.between)
        play = self._play if flow is None else flow.play
        self.profile.restart()
        for number in range(len(records) + 1, self.setup.spec.rounds + 1):
            began = time.perf_counter()
            state, record = self._round(state, number, play)
            self.now += record.virtual_seconds
            with self.profile.measure("evaluation"):
                record = self._evaluated(state, record)
            record = replace(record, seconds=time.perf_counter() - began)
            records.append(record)
            if checkpoint is not None:
                between = None if flow is None else flow.between()
                place = Place(state, records, self.now, self.memory, self.kept, between)
                checkpoint.keep(place, last=number == self.setup.spec.rounds)
            if on_round is not None:
                on_round(record)
            if stop is not None and stop(record):
                break
        with self.profile.measure("overhead"):
            return SimulationResult(self.setup.spec, tuple(records), state, profile=dict(self.profile.seconds))

    # ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _round(self, state: State, number: int, play: Callable[[int, Arrays], Played]) -> tuple[State, RoundRecord]:
        algorithm = self.setup.algorithm
        broadcast = algorithm.broadcast(state)
        played = play(number, broadcast)
        completed = _completed(played.ended, played.outcomes)
        outcomes = {task: played.outcomes[task] for task in played.accepted}
        with self.profile.measure("folding"):
            plan = algorithm.aggregator.plan(self.setup.template(broadcast))
            aggregate = self._reported(plan, self.engine.collect(), broadcast, number)
            after = self.setup.finish(state, aggregate)
        kept = {client: memory for client, memory in _kept(outcomes) if client in aggregate.contributions}
        self.engine.remember(kept)
        self.kept |= kept
        counted = [outcome for outcome in outcomes.values() if isinstance(outcome, Folded)]
        parts = dict(sorted(aggregate.contributions.items()))
        return after, RoundRecord(
            round=number,
            model_hash=codec.digest(after.params),
            metrics=_means((each.metrics, each.num_examples) for each in aggregate.contributions.values()),
            num_examples=sum(each.num_examples for each in aggregate.contributions.values()),
            accepted=completed.contributors,
            examples={name: each.num_examples for name, each in parts.items()},
            reports=_columns([each.metrics for each in parts.values()]),
            norms=tuple(each.norm for each in parts.values() if each.norm is not None),
            rejected={name: f"{reason}: {detail}" for name, (reason, detail) in completed.rejected.items()},
            failed=dict(completed.failed),
            missing=completed.missing,
            staleness=played.staleness,
            bases={task.client: task.base for task in completed.unused},
            virtual_seconds=played.seconds,
            upload_bytes=sum(outcome.upload_bytes for outcome in counted),
            samples={
                task.client: outcome.samples
                for task, outcome in sorted(outcomes.items(), key=lambda each: each[0].client)
                if isinstance(outcome, Folded) and outcome.samples
            },
        )

    def _reported(self, plan: Plan, partial: Partial, broadcast: Arrays, number: int) -> Aggregate:
        """What the round's updates come to, by the app's own function where it has one."""
        run = self.setup
        if "aggregate" not in run.spec.functions:
            return run.report(plan, partial, number)
        kept = run.kept(plan, partial)
        return run.aggregate_of(plan, partial, run.aggregated(self.app, broadcast, kept, number, self.memory))

    def _cohort(self, there: Sequence[str], number: int) -> Cohort:
        """Who is invited, by the app's own function where it has one."""
        if "select" not in self.setup.spec.functions:
            return self.setup.cohort(there, number)
        clients = [Candidate(name, self.labels(name)) for name in there]
        return Cohort(self.setup.selected(self.app, clients, number, self.memory))

    def _flow(self, buffering: Buffering) -> Flow:
        """Of an asynchronous run, in which rounds are not played one by one."""

        def connected(number: int) -> frozenset[str]:
            return self._connected(self.setup.cohort(self._may, number), self._may)

        def choose(there: Sequence[str], number: int) -> Cohort:
            return self.setup.queue(there if self._knows_all or here is not None else self._may, number)

        def behave(number: int, size: int, clients: Sequence[str], at: float) -> Sequence[Behaviour]:
            return self.devices.behave(clients, Invitation(number, at, size, size, self._examples), self._random_for)

        here = attendance(self.devices, self.clients, 0.0, self.chosen)
        keeps = self.setup.algorithm.keeps_partial_work
        machine = Buffered(
            self.setup.spec.rules, buffering.size, buffering.max_staleness, choose, silence_is_final=True
        )
        config = self.setup.spec.config
        return Flow(machine, self.engine, behave, connected, (self._may, here), config=config, keeps_partial_work=keeps)

    def _play(self, number: int, broadcast: Arrays) -> Played:
        """Rehearse, train whom that needs, rehearse with what came of it: until nothing is unknown.

        Afterwards the engine's sum is exactly of those who are accepted.
        """
        here = attendance(self.devices, self.clients, self.now, self.chosen)
        rules = self.setup.spec.rules
        needed = max(rules.min_clients, rules.quorum)
        begins = 0.0 if here is None else here.wait(needed, rules.deadline)
        there: Sequence[str] = self._may if here is None else here.present(begins)
        will_open = here is None or len(there) >= needed
        config = self.setup.configured(self.app, broadcast, number, self.memory)
        cohort = self._cohort(there, number) if will_open else Cohort(())
        connected = self._connected(cohort, there)
        watched = None if here is None else here.watch(self._may if self._knows_all else connected)
        behave = _remembered(partial(self._behave, number, broadcast.nbytes), comes_and_goes=here is not None)
        rules = replace(rules, deadline=rules.deadline - begins)
        keeps = self.setup.algorithm.keeps_partial_work
        outcomes: dict[Assignment, Outcome] = {}
        trained: dict[str, Assignment] = {}
        self.engine.begin(number, broadcast, config)
        while True:
            machine = Round(number, Kind.TRAIN, rules, lambda _connected: cohort)
            played = rehearse(
                machine, connected, behave, outcomes, keeps_partial_work=keeps, attendance=watched, begins=begins
            )
            if not played.unknown:
                break
            if any(assignment.client in trained for assignment in played.unknown):
                # A failure has moved the moment at which a substitute began, and with it how much it can do.
                self.engine.begin(number, broadcast, config)
                trained.clear()
            trained |= {assignment.client: assignment for assignment in played.unknown}
            results = self.engine.train(played.unknown)
            outcomes |= {trained[client]: outcome for client, outcome in results.items()}
            if all(isinstance(outcome, Folded) for outcome in outcomes.values()):
                break  # as the rehearsal has taken for granted
        _completed(played.ended, outcomes)
        if {task for task in trained.values() if isinstance(outcomes[task], Folded)} != set(played.accepted):
            self._fold_again(number, broadcast, config, played, outcomes)
        return Played(played.ended, outcomes, played.accepted, {}, played.seconds)

    def _fold_again(
        self,
        number: int,
        broadcast: Arrays,
        config: Mapping[str, Value],
        played: Rehearsal,
        outcomes: Mapping[Assignment, Outcome],
    ) -> None:
        """Sum the accepted anew: a failure has moved the end of the round, or who began when, so others were folded."""
        self.engine.begin(number, broadcast, config)
        results = self.engine.train(played.accepted)
        for assignment in played.accepted:
            before, after = outcomes[assignment], results[assignment.client]
            if after != before:
                raise RunFailedError(
                    f"{assignment.client} was trained twice in round {number}, with two results: {before} and {after}; "
                    "draw from task.rng alone, and change nothing outside the function"
                )

    @property
    def _may(self) -> Sequence[str]:
        """The names of the clients that the run may invite."""
        return self.clients if self.chosen is None else SomeClients(self.chosen)

    @property
    def _knows_all(self) -> bool:
        return len(self._may) <= _ALL_CONNECTED

    def _connected(self, cohort: Cohort, there: Sequence[str]) -> frozenset[str]:
        """Whom the round may invite: all who are there, of very many the cohort, its reserve and the first by name."""
        if self._knows_all:
            return frozenset(there)
        rules = self.setup.spec.rules
        first = islice(there, max(_SOME_CONNECTED, rules.min_clients, rules.quorum))
        return frozenset(cohort.invited).union(cohort.substitutes, first)

    def _behave(self, number: int, size: int, clients: Sequence[str], at: float) -> Sequence[Behaviour]:
        """size: bytes of the model; at: seconds since the round was due."""
        invitation = Invitation(number, self.now + at, size, size, self._examples)
        return self.devices.behave(clients, invitation, self._random_for)

    def _examples(self, client: str) -> int:
        with self.profile.measure("data"):
            return count_examples(self.app.load_data(self.clients.share(client)), client)

    def _random_for(self, purpose: str, *keys: str | int) -> np.random.Generator:
        return derive_rng(self.setup.spec.seed, "device", purpose, *keys)

    # ── evaluation ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _evaluated(self, state: State, record: RoundRecord) -> RoundRecord:
        """The record with what is measured of the new model; that takes no virtual time."""
        if not self.setup.evaluates(record.round):
            return record
        rules = self.setup.spec.evaluation
        here = attendance(self.devices, self.clients, self.now, self.chosen)
        there = self._may if here is None else here.present(0.0)
        if rules.clients and len(there):
            cohort = self.setup.evaluation_cohort(there, record.round).invited
            results = self.engine.evaluate(record.round, state.params, cohort)
            told = {client: r for client, r in sorted(results.items()) if not isinstance(r, Failed)}
            broken = {client: r.message for client, r in sorted(results.items()) if isinstance(r, Failed)}
            record = replace(
                record,
                evaluation=_means((r.values, r.num_examples) for r in results.values() if not isinstance(r, Failed)),
                evaluated=tuple(told),
                verdicts=_columns([each.values for each in told.values()]),
                failed_evaluations=broken,
            )
        if rules.central:
            central = self.setup.central_metrics(self.app, state.params, record.round)
            record = replace(record, central=dict(central.values))
        return record


def _kept(outcomes: Mapping[Assignment, Outcome]) -> Iterable[tuple[str, Arrays]]:
    for assignment, outcome in outcomes.items():
        if isinstance(outcome, Folded) and outcome.memory is not None:
            yield assignment.client, outcome.memory


def _means(reports: Iterable[tuple[Mapping[str, float], int]]) -> dict[str, float]:
    return {name: merged.values[name] for name, merged in merge_metrics(reports).items()}


def _columns(reports: Sequence[Mapping[str, float]]) -> dict[str, tuple[float | None, ...]]:
    """Metric → its value in each report, None where there is none."""
    names = sorted({name for report in reports for name in report})
    return {name: tuple(report.get(name) for report in reports) for name in names}


def _completed(ended: Ended, outcomes: Mapping[Assignment, Outcome]) -> Completed:
    """How the round ended; raises where it failed, with the first traceback of user code as a note."""
    match ended:
        case Completed():
            return ended
        case NotMet(cause):
            error = QuorumNotMetError(cause)
            tracebacks = [o.traceback for o in outcomes.values() if isinstance(o, Failed) and o.traceback]
            if tracebacks:
                error.add_note(f"the first failure:\n{tracebacks[0]}")
            raise error
        case _:
            raise RunFailedError(ended.cause)


def _remembered(
    behave: Callable[[Sequence[str], float], Sequence[Behaviour]], *, comes_and_goes: bool
) -> Callable[[Sequence[str], float], dict[str, Behaviour]]:
    """Each client behaves as it did before, however often its round is rehearsed; one that came back, as at that time.

    comes_and_goes: whether clients do.
    """
    known: dict[tuple[str, float], Behaviour] = {}

    def again(clients: Sequence[str], at: float) -> dict[str, Behaviour]:
        when = at if comes_and_goes else 0.0
        new = tuple(client for client in clients if (client, when) not in known)
        if new:
            known.update(zip(((client, when) for client in new), behave(new, at), strict=True))
        return {client: known[client, when] for client in clients}

    return again
