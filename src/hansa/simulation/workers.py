"""A simulation on many workers: each trains chunks of the cohort and folds into its own sum, sums merge.

The sums are exact, so which worker trained whom cannot change a bit, and whoever is free takes the next. A worker that
is lost takes its sum with it: those whom it had folded are trained again elsewhere; the client that it was training
too, where workers are lost for other reasons than user code (`Place.second_chances`), and else it has failed.
"""

import contextlib
import math
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from hansa.algorithm import Partial
from hansa.arrays import Arrays
from hansa.errors import RunFailedError, UserCodeError
from hansa.messages import Contribution, Metrics, RunSpec, Value
from hansa.run import slots_to_arrays
from hansa.simulation.fold import Assignment, Failed, Folded, Folding, Outcome, Refused
from hansa.simulation.here import Here
from hansa.simulation.pipes import Body, Message, spec_to
from hansa.simulation.places import Link, Place
from hansa.simulation.vectorized import Vectorization

__all__ = ["Workers"]

_CHUNKS = 4
"""Chunks of a cohort per worker: fewer waste time at the end of a round, more cost messages."""

_LARGEST_CHUNK = 64
"""Clients in one message."""

_MOST_VAIN_LOSSES = 5
"""Workers that may be lost in a row without having begun a task, before the simulation gives up."""

Results: TypeAlias = dict[str, Outcome | Metrics]


@dataclass(slots=True, eq=False)
class _Worker:
    """One worker, with what it was given."""

    link: Link
    loading: bool = True
    """Whether it has not said yet that it has loaded the app."""
    outstanding: deque[Assignment] = field(default_factory=deque)
    """Given and not answered, in order."""
    busy: bool = False
    """Whether the first of them has begun."""
    folded: dict[str, Assignment] = field(default_factory=dict)
    """Clients in its sum."""


class Workers:
    """An `Engine` of workers, wherever they are. They live until `close`."""

    def __init__(
        self,
        place: Place,
        app: Path | None,
        spec: RunSpec,
        folding: Folding,
        *,
        clients: int,
        tolerate: bool,
        vectorization: Vectorization | None = None,
        attack: str = "",
    ) -> None:
        """place: where the workers are; app: the file or folder that each loads, None where they have it.

        folding: of this process, which merges; clients: registered in all; tolerate: failures of user code;
        vectorization: where each worker is to train many clients at once, of the worker in this process; attack: as
        `Attack.parse` reads it.
        """
        self._place = place
        self._start: Message = {
            "do": "start",
            "app": None if app is None else str(app),
            "spec": spec_to(spec),
            "clients": clients,
            "vectorized": vectorization is not None,
            "attack": attack,
        }
        self._vectorization = vectorization
        self._spec = spec
        self._folding = folding
        self._tolerate = tolerate
        self._workers: list[_Worker] = []
        self._opening: tuple[Message, Body] | None = None
        self._begun: list[tuple[Message, Body]] = []
        """Of the round that was begun, after those of earlier ones whose models are kept."""
        self._assigned: dict[str, Assignment] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._in_order = False
        self._vain_losses = 0
        self._lost_with: Counter[str] = Counter()

    def begin(
        self, number: int, broadcast: Arrays, config: Mapping[str, Value], keep: frozenset[int] = frozenset()
    ) -> None:
        """See `Engine`."""
        self._folding.begin(number, broadcast, config, keep)
        self._begun = [opening for opening in self._begun if opening[0]["round"] in keep]
        self._in_order = False
        self._assigned = {}
        self._outcomes = {}
        self._lost_with.clear()
        message = {"do": "begin", "round": number, "config": dict(config), "keep": sorted(keep)}
        self._begun.append((message, Body(broadcast)))
        self._open(self._begun[-1])

    def train(self, assignments: Sequence[Assignment]) -> Mapping[str, Outcome]:
        """See `Engine`."""
        before = self._outcomes
        self._assigned |= {assignment.client: assignment for assignment in assignments}
        self._outcomes = before | self._outcomes_of(assignments)
        if not self._in_order and self._overflows():
            self._fold_in_order()
        return {client: outcome for client, outcome in self._outcomes.items() if before.get(client) != outcome}

    def collect(self) -> Partial:
        """See `Engine`; the workers hand their sums over, which are added to that of this process."""
        total: Partial | None = None
        while holders := [worker for worker in self._workers if worker.folded]:
            for worker in holders:
                partial = self._sum_of(worker)
                if total is None and isinstance(worker.link, Here):
                    total = partial
                elif partial is not None:
                    total = self._folding.merge(self._folding.zero() if total is None else total, partial)
        return self._folding.zero() if total is None else total

    def remember(self, memories: Mapping[str, Arrays]) -> None:
        """See `Engine`; the memories stay in this process, and travel with the tasks."""
        self._folding.memories.update(memories)

    def evaluate(self, number: int, model: Arrays, clients: Sequence[str]) -> Mapping[str, Metrics | Failed]:
        """See `Engine`."""
        self._in_order = False
        self._folding.show(number, model)
        self._open(({"do": "show", "round": number}, Body(model)))
        results = self._spread("evaluate", [Assignment(client) for client in clients])
        return {client: result for client, result in results.items() if isinstance(result, Metrics | Failed)}

    def close(self) -> None:
        """See `Engine`."""
        for worker in self._workers:
            worker.link.dismiss()
        while self._workers:
            self._workers.pop().link.end()
        self._place.close()

    # ── jobs out, answers in ─────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, opening: tuple[Message, Body]) -> None:
        """Tell every worker of another model, and start those that are missing, with the earlier ones too."""
        self._opening = opening
        for worker in list(self._workers):
            worker.folded.clear()
            try:
                if not worker.loading:
                    worker.link.send(*opening)
            except OSError:  # it died idle; nothing of it is needed
                self._remove(worker)
        self._fill()

    def _fill(self) -> None:
        """Start the missing workers; each is given something to do as soon as it has loaded the app."""
        while len(self._workers) < self._place.count:
            try:
                worker = _Worker(self._place.start())
            except OSError as error:
                self._go_on_alone(f"no process can be started: {error}", error)
                return
            self._workers.append(worker)
            with contextlib.suppress(OSError):  # it died at once: whoever waits for its answer finds out
                worker.link.send(self._start)

    def _go_on_alone(self, why: str, error: Exception) -> None:
        """Do without other processes where nobody has asked for them, and say so; else raise the error."""
        if not self._place.gives_up():
            raise error
        warnings.warn(f"the simulation goes on in one process: {why}", RuntimeWarning, stacklevel=2)
        for worker in self._workers:
            if worker.loading and not isinstance(worker.link, Here):
                worker.link.end()
        self._workers = [each for each in self._workers if not each.loading or isinstance(each.link, Here)]

    def _outcomes_of(self, assignments: Iterable[Assignment]) -> dict[str, Outcome]:
        results = self._spread("train", assignments)
        return {client: result for client, result in results.items() if not isinstance(result, Metrics)}

    def _spread(self, what: str, assignments: Iterable[Assignment]) -> Results:
        """Give the assignments to the workers as they get free, and wait for every answer."""
        away = any(not isinstance(worker.link, Here) for worker in self._workers)
        with self._folding.profile.measure("workers" if away else "overhead"):
            return self._work(what, deque(assignments))

    def _work(self, what: str, left: deque[Assignment]) -> Results:
        results: Results = {}
        ready = sum(not worker.loading for worker in self._workers)
        if self._vectorization is not None and ready > 1:
            self._vectorization.threads = 1  # each worker has a core
        size = self._chunk(len(left), max(1, ready))
        while left or any(worker.outstanding for worker in self._workers):
            for worker in self._workers[: 1 if self._in_order else None]:
                if left and len(worker.outstanding) <= 1 and not worker.loading:
                    self._give(worker, what, [left.popleft() for _ in range(min(size, len(left)))])
            heard = {worker.link: worker for worker in self._workers if worker.outstanding or worker.loading}
            for link in self._place.wait(list(heard)):
                worker = heard[link]
                if worker not in self._workers:  # it was let go with another that has answered just now
                    continue
                try:
                    answer, _ = link.receive()
                except (EOFError, OSError):
                    left.extendleft(reversed(self._bury(worker, results)))
                else:
                    self._take(what, worker, answer, results)
        return results

    def _chunk(self, clients: int, ready: int) -> int:
        """How many clients are in one message, of so many to so many workers."""
        if self._in_order:
            return clients
        if self._vectorization is not None:
            return max(1, math.ceil(clients / ready))
        return max(1, min(_LARGEST_CHUNK, clients // (_CHUNKS * self._place.count)))

    def _give(self, worker: _Worker, what: str, chunk: Sequence[Assignment]) -> None:
        worker.outstanding.extend(chunk)
        tasks = [(assignment.client, assignment.work, assignment.round) for assignment in chunk]
        names = {assignment.client for assignment in chunk}.union(self._folding.colluders if what == "train" else ())
        memories = {name: kept for name in sorted(names) if (kept := self._folding.memories.get(name)) is not None}
        with contextlib.suppress(OSError):  # it has died: the end of its answers tells, and the chunk is given again
            body = Body(slots_to_arrays(memories)) if memories else None
            worker.link.send({"do": what, "tasks": tasks}, body)

    def _take(self, what: str, worker: _Worker, answer: Message, results: Results) -> None:
        """Note an answer; without tolerance, a failure of user code is raised here."""
        if worker.loading:
            self._has_loaded(worker, answer)
            return
        self._vain_losses = 0
        worker.busy = "began" in answer
        if worker.busy:
            return
        for result in answer["results"].values():
            assignment = worker.outstanding.popleft()
            if isinstance(result, Failed) and not self._tolerate:
                self._fail(what, assignment, result)
            if isinstance(result, Folded):
                worker.folded[assignment.client] = assignment
            results[assignment.client] = result

    def _fail(self, what: str, assignment: Assignment, failed: Failed) -> None:
        """End the simulation as user code did: here again, where it fails here too, with its own exception."""
        if self._vectorization is not None and what == "train":
            self._folding.train(assignment)
        elif self._vectorization is not None:
            self._folding.evaluate(assignment.client)
        error = UserCodeError(f"{assignment.client}: {failed.message}", failed.traceback)
        error.add_note(failed.traceback)
        raise error

    def _has_loaded(self, worker: _Worker, answer: Message) -> None:
        """Let it know what the others know, or find out why it cannot work."""
        if answer["broken"] is not None:
            why = f"a worker cannot load the app: {answer['broken']}"
            error = UserCodeError(why, answer["traceback"])
            error.add_note(answer["traceback"])
            self._go_on_alone(why, error)
            return
        worker.loading = False
        with contextlib.suppress(OSError):  # it has died: whoever waits for its answer finds out
            for begun in self._begun:
                worker.link.send(*begun)
            if self._opening is not None and self._opening not in self._begun:
                worker.link.send(*self._opening)

    def _bury(self, worker: _Worker, results: Results) -> list[Assignment]:
        """Replace a lost worker; returns who must be given to others, and notes in results who has failed."""
        lost = list(worker.folded.values())
        status = self._remove(worker)
        unfinished = list(worker.outstanding)
        if worker.busy:
            client = unfinished[0].client
            self._lost_with[client] += 1
            if self._lost_with[client] > self._place.second_chances:
                unfinished.pop(0)
                results[client] = Failed(f"the process that worked for {client} ended, with {status}")
        else:
            self._vain_losses += 1
            if self._vain_losses > _MOST_VAIN_LOSSES:
                why = (
                    f"{self._vain_losses} worker processes ended in a row before they began a task, the last with "
                    f"{status}; does the machine have the memory for {self._place.count} workers?"
                )
                self._go_on_alone(why, RunFailedError(why))
        self._fill()
        return [*lost, *unfinished]

    def _remove(self, worker: _Worker) -> str:
        """End a worker that was lost; returns how, for a sentence."""
        self._workers.remove(worker)
        return worker.link.end()

    # ── sums ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _overflows(self) -> bool:
        """Whether the sums of all workers may be more than one sum can hold."""
        weight = sum(outcome.weight for outcome in self._outcomes.values() if isinstance(outcome, Folded))
        full = any(isinstance(outcome, Refused) and outcome.full for outcome in self._outcomes.values())
        return full or weight > self._spec.max_weight

    def _fold_in_order(self) -> None:
        """Who is refused for the lack of room depends on the order: fold all into the sum of one worker."""
        assert self._opening is not None  # noqa: S101 - `begin` comes before `train`
        self._in_order = True
        for worker in self._workers:
            worker.folded.clear()
            with contextlib.suppress(OSError):
                if not worker.loading:
                    worker.link.send(*self._opening)
        self._outcomes = self._outcomes_of(self._assigned.values())

    def _sum_of(self, worker: _Worker) -> Partial | None:
        """What a worker has summed; None when it died, and its clients were trained again elsewhere."""
        if isinstance(worker.link, Here):
            worker.folded.clear()
            return worker.link.collected()
        try:
            worker.link.send({"do": "collect"})
            summed = self._folding.zero()
            answer, sums = worker.link.receive()
            summed.sums.update(sums)
            for _ in range(answer["rows"] or 0):
                summed.sums.update(worker.link.receive()[1])
        except (EOFError, OSError):
            again = self._spread("train", self._bury(worker, {}))
            for client, result in again.items():
                if result != self._outcomes[client]:
                    raise RunFailedError(
                        f"{client} was trained again, because a worker process had ended, with another result: {result}"
                    ) from None
            return None
        summed.weight = answer["weight"]
        summed.contributions.update({client: self._contribution(client) for client in worker.folded})
        worker.folded.clear()
        return summed

    def _contribution(self, client: str) -> Contribution:
        outcome = self._outcomes[client]
        assert isinstance(outcome, Folded)  # noqa: S101 - it is in a sum
        return Contribution(client, outcome.num_examples, outcome.metrics, norm=outcome.norm)
