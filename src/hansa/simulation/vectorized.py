"""Training and evaluating many clients in one computation, where the app has a trainer that can.

The client half of an algorithm is a pure function around one call of the trainer. So each client's half is begun with
a trainer that only notes what it is asked for; all of that is done in one computation; then each half is begun anew,
with a trainer that has the answer. An algorithm needs to know nothing of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from typing import Any, TypeAlias, TypeVar

import numpy as np

from hansa.algorithm import Trainer, Vectorized
from hansa.app import App
from hansa.arrays import Arrays, subtract_from_each
from hansa.messages import Metrics, Task, Update, Updates
from hansa.simulation.fold import Assignment, Failed, Folding, Inline, Outcome, Raised, attempt, failure

__all__ = ["Stacked", "Vectorization"]

T = TypeVar("T")


class Vectorization:
    """Trains and folds the clients of a round, as many at once as memory allows."""

    def __init__(self, app: App, folding: Folding, threads: int = 1) -> None:
        """folding: trains one client at a time, where many cannot be trained at once.

        threads: how many may train, where the trainer can do that; it may be changed.
        """
        self._app = app
        self.threads = threads
        self._others = ThreadPoolExecutor(max(1, threads - 1), "hansa-train")
        self._folding = folding
        self._together: Vectorized | None = None
        self._tried: Trainer | None = None
        """Of which that is known: an app may configure another for each round."""
        self._evaluating: tuple[Trainer | None, Vectorized | None] = (None, None)
        """The trainer that the run's own settings make, and what evaluates with it, where that is not the one tried."""
        self.obstacle: str | None = None
        """Why clients train one after another, as the end of a sentence; None where they do not, or nobody has yet."""

    @property
    def gains_by_cores(self) -> bool:
        """Whether clients are known to train together, and on the CPU, so that more processes have more done."""
        return self._together is not None and self._together.on_cpu

    def train(self, assignments: Sequence[Assignment]) -> dict[str, Outcome]:
        """As `Folding.train` for each, in this order."""
        self.prepare(assignments)
        outcomes: dict[str, Outcome] = {}
        for window in _windows(assignments, self._together):
            done: Mapping[str, Outcome] = {}
            halves: Mapping[str, Callable[[], Update]] = {}
            if self._together is not None:
                done = self._at_once(window, self._together)
                halves = self._halves([each for each in window if each.client not in done], self._together)
                done = {**done, **self._folded(window, halves)}
            for each in window:
                client = each.client
                outcomes[client] = done.get(client) or self._folding.train(each, half=halves.get(client))
        return outcomes

    def evaluate(self, clients: Sequence[str]) -> dict[str, Metrics | Failed]:
        """As `Folding.evaluate` for each."""
        results: dict[str, Metrics | Failed] = {}
        evaluating = self._evaluator(clients)
        if evaluating is not None:
            for window in _windows(clients, evaluating):
                measured = attempt(partial(self._measured, window, evaluating))
                results |= {} if isinstance(measured, Raised) else measured
        return {client: results[client] if client in results else self._folding.evaluate(client) for client in clients}

    def prepare(self, assignments: Sequence[Assignment]) -> None:
        """Try the trainer, once each, with the first client that has something to train on."""
        trainer = attempt(partial(self._app.given_trainer, self._folding.told))
        if isinstance(trainer, Raised):  # each client says so for itself
            self._together = None
            return
        if trainer is self._tried and (self._together is not None or self.obstacle is not None):
            return
        self._together, self.obstacle, self._tried = None, None, trainer
        for assignment in assignments:
            asked = attempt(partial(self._asked, assignment))
            if isinstance(asked, _Request):
                with self._folding.profile.measure("training"):
                    found = attempt(partial(self._app.vectorized, asked.model, asked.task))
                found = f"it cannot be tried: {failure(found.error).message}" if isinstance(found, Raised) else found
                self._together, self.obstacle = (None, found) if isinstance(found, str) else (found, None)
                return

    def _evaluator(self, clients: Sequence[str]) -> Vectorized | None:
        """What evaluates many at once; None where they do it one by one."""
        if self._together is None or not self._app.evaluates_as_trained or self._folding.is_personal:
            return None
        trainer = self._app.given_trainer(self._folding.config)
        if trainer is self._tried:
            return self._together
        if trainer is not self._evaluating[0]:
            tries = (attempt(partial(self._tried_on, client)) for client in clients)
            found = next((each for each in tries if not isinstance(each, Raised)), None)
            self._evaluating = trainer, None if isinstance(found, str) else found
        return self._evaluating[1]

    def _tried_on(self, client: str) -> Vectorized | str:
        return self._app.vectorized(self._folding.shown, self._folding.evaluation_task(client))

    def rehearse(self, assignments: Sequence[Assignment]) -> None:
        """Do the clients' halves where they can be done at once, and keep nothing of it."""
        self.prepare(assignments)
        if self._together is not None:
            for window in _windows(assignments, self._together):
                for half in self._halves(window, self._together).values():
                    attempt(half)

    def _at_once(self, window: Sequence[Assignment], together: Vectorized) -> Mapping[str, Outcome]:
        """Train all for whom a task can be made, subtract and fold them at once, where the algorithm is that plain."""
        folding = self._folding
        if not folding.sends_plain_changes:
            return {}
        tried = [(each.client, attempt(partial(folding.task, each))) for each in window]
        tasks = {client: task for client, task in tried if not isinstance(task, Raised)}
        with folding.profile.measure("training"):
            model = folding.broadcast
            trained = (
                attempt(partial(self._fit, together, [model] * len(tasks), list(tasks.values()))) if tasks else None
            )
            if not isinstance(trained, list):
                return {}
            changes = [
                each.changed(subtract_from_each(each.arrays, model)) for each in trained if isinstance(each, Updates)
            ]
        if len(changes) < len(trained):
            return {}
        clients, outcomes = iter(tasks), dict[str, Outcome]()
        for change in changes:
            outcomes |= folding.offer_all(list(islice(clients, len(change))), change)
        return outcomes

    def _folded(
        self, window: Sequence[Assignment], halves: Mapping[str, Callable[[], Update]]
    ) -> Mapping[str, Outcome]:
        """Finish the halves and fold all that come to an update; the others are for whoever finds out why."""
        if not self._folding.takes_updates_as_they_are or any(each.round for each in window):
            return {}
        tried = ((client, attempt(half)) for client, half in halves.items())
        updates = {client: update for client, update in tried if isinstance(update, Update)}
        return self._folding.offer_each(updates) if updates else {}

    def _fit(self, together: Vectorized, models: Sequence[Arrays], tasks: Sequence[Task]) -> list[Sequence[Update]]:
        """`Vectorized.fit`: the updates in order, from each thread that pays."""
        count = max(1, min(self.threads, len(tasks) // together.share)) if together.share else 1
        ends = [len(tasks) * number // count for number in range(count + 1)]
        *others, mine = (partial(together.fit, models[begin:end], tasks[begin:end]) for begin, end in pairwise(ends))
        begun = [self._others.submit(each) for each in others]
        try:
            last = mine()
        finally:
            wait(begun)  # whatever happened here, they draw from their tasks' random numbers
        return [*(each.result() for each in begun), last]

    def _halves(self, window: Sequence[Assignment], together: Vectorized) -> dict[str, Callable[[], Update]]:
        """What does each client's half; whose training fails is not in there, so that it fails alone."""
        attempts = {each.client: attempt(partial(self._asked, each)) for each in window}
        asked = {client: each for client, each in attempts.items() if isinstance(each, _Request)}
        halves: dict[str, Callable[[], Update]] = {}
        works: dict[str, _Work] = {
            "fit": partial(self._fit, together),
            "gradient": lambda models, tasks: [together.gradient(models, tasks)],
        }
        for name, work in works.items():
            with self._folding.profile.measure("training"):
                answers = _answers(work, {client: each for client, each in asked.items() if each.work == name})
            halves |= {client: partial(self._half, asked[client], answer) for client, answer in answers.items()}
        return halves

    def _asked(self, assignment: Assignment) -> "_Request | None":
        """What the client's half asks its trainer for; None when it asks for nothing."""
        task = self._folding.task(assignment)
        fresh = task.rng.bit_generator.state
        try:
            self._folding.client_half(_Asking(), task)
        except _Asked as asked:
            return _Request(asked.work, asked.model, asked.task, task.rng.bit_generator.state, task, fresh)
        return None

    def _half(self, request: "_Request", answer: Callable[[], Update]) -> Update:
        """The client's half, from its beginning, with the answer; where it failed, as of a client alone."""
        generator = request.begun.rng.bit_generator
        with self._folding.profile.measure("training"):
            update = attempt(answer)
        trainer = self._app.trainer
        if not isinstance(update, Raised):
            trainer = _Answering(trainer, request.work, update, generator.state)
        generator.state = request.fresh
        return self._folding.client_half(trainer, request.begun)

    def _measured(self, clients: Sequence[str], together: Vectorized) -> dict[str, Metrics]:
        tasks = [self._folding.evaluation_task(client) for client in clients]
        return dict(zip(clients, together.evaluate(self._folding.shown, tasks), strict=True))


def _windows(items: Sequence[T], together: Vectorized | None) -> Iterator[Sequence[T]]:
    """As many at a time as can be trained at once."""
    most = len(items) if together is None else together.most
    for start in range(0, len(items), most):
        yield items[start : start + most]


_Work: TypeAlias = Callable[[Sequence[Arrays], Sequence[Task]], list[Sequence[Update]]]
"""(models, tasks) → the updates in order, in parts."""


def _answers(work: _Work, asked: "Mapping[str, _Request]") -> dict[str, Callable[[], Update]]:
    """The updates of all whose training does not fail: where it does, each half of them is tried, and so on.

    They need not be there yet: who asks for one waits for it.
    """
    if not asked:
        return {}
    for each in asked.values():
        each.task.rng.bit_generator.state = each.state
    done = attempt(partial(work, [each.model for each in asked.values()], [each.task for each in asked.values()]))
    if not isinstance(done, Raised):
        answers = (partial(part.__getitem__, number) for part in done for number in range(len(part)))
        return dict(zip(asked, answers, strict=True))
    clients = list(asked)
    parts = (clients[: len(clients) // 2], clients[len(clients) // 2 :]) if len(clients) > 1 else ()
    return {client: answer for part in parts for client, answer in _answers(work, {c: asked[c] for c in part}).items()}


class Stacked(Inline):
    """An `Engine` in this process, with many clients in one computation."""

    def __init__(self, folding: Folding, vectorization: Vectorization) -> None:
        """folding: of the run; vectorization: of the same."""
        super().__init__(folding)
        self._shown = folding
        self._vectorization = vectorization

    def train(self, assignments: Sequence[Assignment]) -> Mapping[str, Outcome]:
        """See `Engine`."""
        return self._vectorization.train(assignments)

    def evaluate(self, number: int, model: Arrays, clients: Sequence[str]) -> Mapping[str, Metrics | Failed]:
        """See `Engine`."""
        self._shown.show(number, model)
        return self._vectorization.evaluate(clients)


# ── two trainers that stand in for the app's ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Request:
    """What a client's half asks its trainer for."""

    work: str
    """A method of `Trainer`, fit or gradient."""
    model: Arrays
    task: Task
    state: Mapping[str, Any]
    """Of its random numbers."""
    begun: Task
    """What the half was begun with."""
    fresh: Mapping[str, Any]
    """The state of its random numbers then."""


class _Asked(BaseException):
    """No error: it leaves a client's half where the trainer's answer is needed."""

    def __init__(self, work: str, model: Arrays, task: Task) -> None:
        super().__init__()
        self.work = work
        self.model = model
        self.task = task


class _Asking:
    """A `Trainer` that is only asked."""

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        raise NotImplementedError(rng)

    def fit(self, model: Arrays, task: Task) -> Update:
        raise _Asked("fit", model, task)

    def gradient(self, model: Arrays, task: Task) -> Update:
        raise _Asked("gradient", model, task)

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        raise NotImplementedError(model, task)


@dataclass(slots=True)
class _Answering:
    """A `Trainer` whose first answer is there already."""

    trainer: Trainer
    work: str
    update: Update | None
    drawn: Mapping[str, Any]
    """The state of the task's random numbers after it."""

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        return self.trainer.initial_model(rng)

    def fit(self, model: Arrays, task: Task) -> Update:
        return self._answer("fit", task) or self.trainer.fit(model, task)

    def gradient(self, model: Arrays, task: Task) -> Update:
        return self._answer("gradient", task) or self.trainer.gradient(model, task)

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        return self.trainer.evaluate(model, task)

    def _answer(self, work: str, task: Task) -> Update | None:
        update, self.update = self.update, None
        if update is None or work != self.work:
            return None
        task.rng.bit_generator.state = self.drawn
        _ = task.correction  # training has read it
        return update
