"""Training and folding, one client after another: what every process of a simulation does."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Partial, Plan, Trainer
from hansa.algorithms import fedavg
from hansa.app import App, users_traceback
from hansa.arrays import Arrays
from hansa.errors import HansaError, Reason, UpdateRejectedError
from hansa.messages import Contribution, Kind, Log, Metrics, Sample, Task, Update, Updates, Value, stacked_updates
from hansa.run import Run
from hansa.simulation.attacks import Attackers, Collusion, moments
from hansa.simulation.clients import VirtualClients
from hansa.simulation.profile import Profile
from hansa.store.spool import empty_partial
from hansa.wire import packing

__all__ = [
    "Assignment",
    "Engine",
    "Failed",
    "Folded",
    "Folding",
    "Inline",
    "Outcome",
    "Raised",
    "Refused",
    "attempt",
    "failure",
]

T = TypeVar("T")


class Assignment(NamedTuple):
    """One training task."""

    client: str
    work: float = 1.0
    """As `Task.work`."""
    round: int = 0
    """Whose model it is trained on, of an asynchronous run; 0: of the round that was begun."""


@dataclass(frozen=True, slots=True)
class Folded:
    """The update is in the sum."""

    num_examples: int
    weight: int
    """What it added to the denominator."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    memory: Arrays | None = None
    """What the client keeps should the update be committed."""
    upload_bytes: int = 0
    """Of the update as it would travel."""
    samples: tuple[Sample, ...] = ()
    """What the client has logged on its way."""
    norm: float | None = field(default=None, compare=False)
    """As `Contribution.norm`, to six digits, the last of which is the machine's."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The update may not be counted."""

    reason: Reason
    detail: str
    full: bool = False
    """Whether the update is sound, and only the sum has no room for its weight."""


@dataclass(frozen=True, slots=True)
class Failed:
    """User code raised, or its process ended."""

    message: str
    traceback: str = ""


Outcome: TypeAlias = Folded | Refused | Failed


class Engine(Protocol):
    """Where the clients of a round train and their updates are summed."""

    def begin(
        self, number: int, broadcast: Arrays, config: Mapping[str, Value], keep: frozenset[int] = frozenset()
    ) -> None:
        """Forget every sum; tasks are of this round, this model and these settings from now on.

        keep: earlier rounds whose models are still trained on, of an asynchronous run.
        """

    def train(self, assignments: Sequence[Assignment]) -> Mapping[str, Outcome]:
        """Train and fold each; the sum is as if they had come in this order.

        Returns the outcomes by client; an earlier outcome of this round is in there again when it has changed.
        """

    def collect(self) -> Partial:
        """The sum of all that was folded since `begin`."""

    def remember(self, memories: Mapping[str, Arrays]) -> None:
        """The round is committed: these clients find this as `task.memory` from now on."""

    def evaluate(self, number: int, model: Arrays, clients: Sequence[str]) -> Mapping[str, Metrics | Failed]:
        """Evaluate a model on each client's own data."""

    def close(self) -> None:
        """End what was started; may be called twice."""


class Folding:
    """One sum, and the round that it belongs to."""

    def __init__(
        self,
        app: App,
        run: Run,
        clients: VirtualClients,
        *,
        tolerate_failures: bool,
        attackers: Attackers | None = None,
    ) -> None:
        """tolerate_failures: an exception of user code becomes `Failed`; otherwise it passes through.

        attackers: the malicious among the clients.
        """
        self._app = app
        self._run = run
        self._clients = clients
        self._tolerate = tolerate_failures
        self._attackers = attackers
        self._collusion: Collusion | None = None
        self._number = 0
        self._broadcasts: dict[int, Arrays] = {}
        """Of the round that was begun, and of earlier ones that are kept."""
        self._configs: dict[int, Mapping[str, Value]] = {}
        """Of the same rounds, what clients are told."""
        self.shown = Arrays()
        """What is evaluated."""
        self._plan: Plan = None
        self._plain_bytes = 0
        self.partial = Partial({})
        self.profile = Profile()
        """Of the process."""
        self._logged: dict[str, list[Sample]] = {}
        """By client: what it logs in the task in hand."""
        self.memories: dict[str, Arrays] = {}
        """What each client kept with its last committed update; without an entry, nothing."""

    def begin(
        self, number: int, broadcast: Arrays, config: Mapping[str, Value], keep: frozenset[int] = frozenset()
    ) -> None:
        """Start a sum of zero. keep: as of `Engine.begin`."""
        self._number = number
        self._broadcasts = {base: model for base, model in self._broadcasts.items() if base in keep}
        self._broadcasts[number] = broadcast
        self._configs = {base: told for base, told in self._configs.items() if base in keep}
        self._configs[number] = config
        self._collusion = None
        self._plan = self._run.algorithm.aggregator.plan(self._run.template(broadcast))
        self._plain_bytes = 0
        self.partial = self.zero()

    def zero(self) -> Partial:
        """An empty sum of this round; where updates are kept, on disk."""
        return empty_partial(self._run.algorithm.aggregator, self._plan)

    def train(
        self, assignment: Assignment, into: Partial | None = None, *, half: Callable[[], Update] | None = None
    ) -> Outcome:
        """Train one client and fold its update into the sum, or into another one of this round.

        half: does the client's half of the algorithm, in place of the app's trainer.
        """
        client, base = assignment.client, assignment.round or self._number
        partial = self.partial if into is None else into

        def local_work() -> Outcome:
            update = self.client_half(self._app.trainer, self.task(assignment)) if half is None else half()
            if self._attackers is not None:
                update = self._attackers.sent(client, base, update, self._colluded)
            return self.offer(client, update, partial, base)

        return self._guarded(local_work, client, "trained")

    def task(self, assignment: Assignment) -> Task:
        """A new task of this round, or of the earlier one whose model it is trained on."""
        with self.profile.measure("data"):
            share, memory = self._clients.share(assignment.client), self.memories.get(assignment.client)
            base = assignment.round or self._number
            told = self._configs[base]
            task = self._run.task(self._app, share, base, Kind.TRAIN, work=assignment.work, memory=memory, config=told)
            logged = self._logged[assignment.client] = []
            task.log = Log(logged.append)
            return task if self._attackers is None else self._attackers.poisoned(task)

    def client_half(self, trainer: Trainer, task: Task) -> Update:
        """The client's half of the algorithm."""
        with self.profile.measure("training"):
            return self._run.client_half(trainer, self._broadcasts[task.round], task)

    @property
    def sends_plain_changes(self) -> bool:
        """Whether each client's half is FedAvg's, w − w₀, and the sum takes it as it is."""
        return self._run.algorithm.client_update is fedavg.client_update and self.takes_updates_as_they_are

    @property
    def takes_updates_as_they_are(self) -> bool:
        """Whether nothing happens to an update between the client's half and the sum."""
        alone = self._run.pipeline.transforms or self._attackers is not None
        return not alone and self._run.algorithm.buffering is None

    @property
    def broadcast(self) -> Arrays:
        """What the clients of this round are given."""
        return self._broadcasts[self._number]

    @property
    def told(self) -> Mapping[str, Value]:
        """The settings of this round's clients."""
        return self._configs[self._number]

    @property
    def config(self) -> Mapping[str, Value]:
        """The run's own, with which clients evaluate."""
        return self._run.spec.config

    @property
    def colluders(self) -> tuple[str, ...]:
        """Clients whose honest updates others of this round need to know."""
        collude = self._attackers is not None and self._attackers.collude
        return self._attackers.invited(self._number)[1] if self._attackers is not None and collude else ()

    def _colluded(self) -> Collusion:
        """What the malicious clients know of each other: each process that needs it trains them all, once a round."""
        if self._collusion is None:
            assert self._attackers is not None  # noqa: S101 - an attacker asks
            invited, names = self._attackers.invited(self._number)
            tasks = (self.task(Assignment(name)) for name in names)
            self._collusion = moments((self.client_half(self._app.trainer, task) for task in tasks), invited)
        return self._collusion

    def rehearse(self, assignments: Sequence[Assignment]) -> None:
        """Do the clients' halves, and keep nothing of it."""
        for assignment in assignments:
            self.client_half(self._app.trainer, self.task(assignment))

    def offer(self, client: str, update: Update, partial: Partial, base: int) -> Folded | Refused:
        """Fold one update into a sum of this round, unless it may not be counted. base: the round of its model."""
        aggregator = self._run.algorithm.aggregator
        before = partial.weight
        try:
            with self.profile.measure("folding"):
                self._run.check(update)
                norm = self._run.measured(update)
                contribution = Contribution(client, update.num_examples, update.metrics, norm=norm)
                stale, theirs, ours = self._number - base, self._broadcasts[base], self._broadcasts[self._number]
                counted = self._run.counted(self._plan, update, stale, theirs, ours)
                size = self._upload_bytes(update)  # what cannot travel is not counted
                aggregator.accumulate(self._plan, partial, counted, contribution)
        except UpdateRejectedError as error:
            return Refused(error.reason, error.detail, full=error.reason is Reason.WEIGHT and self._is_sound(update))
        weight = partial.weight - before
        logged = tuple(self._logged.pop(client, ()))
        return Folded(update.num_examples, weight, update.metrics, update.memory, size, logged, norm)

    def offer_all(self, clients: Sequence[str], updates: Updates) -> dict[str, Outcome]:
        """`offer` of updates of this round's model, into its sum: at once where all may be counted, by a mean."""
        memories: Sequence[Arrays | None] = [None] * len(clients)
        return self._at_once(clients, updates, memories) or {
            client: self.offer(client, updates[row], self.partial, self._number) for row, client in enumerate(clients)
        }

    def offer_each(self, updates: Mapping[str, Update]) -> dict[str, Outcome]:
        """The same of updates that each have memory of their own, by client."""
        together, memories = stacked_updates(list(updates.values())), [update.memory for update in updates.values()]
        at_once = {} if together is None else self._at_once(list(updates), together, memories)
        return at_once or {
            client: self.offer(client, update, self.partial, self._number) for client, update in updates.items()
        }

    def _at_once(
        self, clients: Sequence[str], updates: Updates, memories: Sequence[Arrays | None]
    ) -> dict[str, Outcome]:
        """Nothing where one of them may not be counted, or something else than a mean is taken."""
        aggregator = self._run.algorithm.aggregator
        if type(aggregator) is not WeightedMean:  # a subclass may check each update in its own way
            return {}
        with self.profile.measure("folding"), suppress(UpdateRejectedError):
            norms = self._run.measured_each(updates)
            parts = zip(clients, updates.num_examples, updates.metrics, norms, strict=True)
            contributions = [Contribution(name, n, told, norm=norm) for name, n, told, norm in parts]
            aggregator.accumulate_all(self._plan, self.partial, updates, contributions)
            nbytes = self._upload_bytes(updates[0])
            weights = [1] * len(clients) if aggregator.uniform else updates.num_examples
            return {
                each.client: Folded(each.num_examples, weight, each.metrics, memory, nbytes,
                                    tuple(self._logged.pop(each.client, ())), each.norm)
                for each, weight, memory in zip(contributions, weights, memories, strict=True)
            }  # fmt: skip
        return {}

    def _upload_bytes(self, update: Update) -> int:
        if update.packing:
            return packing.packed_size(update)
        if not self._plain_bytes:  # all plain updates of a round are as large
            self._plain_bytes = packing.packed_size(update)
        return self._plain_bytes

    def _is_sound(self, update: Update) -> bool:
        try:
            self._run.algorithm.aggregator.check(self._plan, update)
        except UpdateRejectedError:
            return False
        return True

    def merge(self, left: Partial, right: Partial) -> Partial:
        """Both sums, in `left`."""
        return self._run.algorithm.aggregator.merge(self._plan, left, right)

    def show(self, number: int, model: Arrays) -> None:
        """Evaluations are of this model from now on."""
        self._number = number
        self.shown = model

    @property
    def is_personal(self) -> bool:
        """Whether each client evaluates a model of its own."""
        return self._run.algorithm.is_personal

    def evaluation_task(self, client: str) -> Task:
        """A new task to evaluate the model that was shown."""
        with self.profile.measure("data"):
            share, memory = self._clients.share(client), self.memories.get(client)
            return self._run.task(self._app, share, self._number, Kind.EVALUATE, memory=memory)

    def evaluate(self, client: str) -> Metrics | Failed:
        """Evaluate the model that was shown on one client's data."""
        return self._guarded(
            lambda: self._run.evaluate(self._app, self.shown, self.evaluation_task(client)), client, "evaluated"
        )

    def _guarded(self, work: Callable[[], T], client: str, what: str) -> T | Failed:
        result = attempt(work)
        if not isinstance(result, Raised):
            return result
        if not self._tolerate:
            result.error.add_note(f"hansa: raised while {client} {what} in round {self._number}")
            raise result.error
        return failure(result.error)


class Inline:
    """Everything in this process, one client at a time: `print` and `breakpoint` of user code work."""

    def __init__(self, folding: Folding) -> None:
        """folding: of the run."""
        self._folding = folding

    def begin(
        self, number: int, broadcast: Arrays, config: Mapping[str, Value], keep: frozenset[int] = frozenset()
    ) -> None:
        """See `Engine`."""
        self._folding.begin(number, broadcast, config, keep)

    def train(self, assignments: Sequence[Assignment]) -> Mapping[str, Outcome]:
        """See `Engine`."""
        return {assignment.client: self._folding.train(assignment) for assignment in assignments}

    def collect(self) -> Partial:
        """See `Engine`."""
        return self._folding.partial

    def remember(self, memories: Mapping[str, Arrays]) -> None:
        """See `Engine`."""
        self._folding.memories.update(memories)

    def evaluate(self, number: int, model: Arrays, clients: Sequence[str]) -> Mapping[str, Metrics | Failed]:
        """See `Engine`."""
        self._folding.show(number, model)
        return {client: self._folding.evaluate(client) for client in clients}

    def close(self) -> None:
        """Nothing was started."""


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception of user code."""

    error: BaseException


def attempt(work: Callable[[], T]) -> T | Raised:
    """Run user code, with whatever it raises as a value; only Ctrl-C passes through."""
    try:
        return work()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything, and call exit()
        return Raised(error)


def failure(error: BaseException) -> Failed:
    """What is told of an exception of user code: its last line, and where."""
    text = users_traceback(error)
    said = str(error) or "no message"
    message = said if isinstance(error, HansaError) else f"{type(error).__name__}: {said}"
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    where = f" ({last.filename}:{last.lineno})" if last else ""
    return Failed(message + where, text)
