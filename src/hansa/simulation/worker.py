"""What runs in each worker of a simulation: take jobs, train, fold, answer. `main` does it between two pipes.

A process of `main` lives as long as its pipe of jobs: when the simulation closes it, or is killed, the worker and
whatever user code started in it end at once.
"""

import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeAlias, TypeVar

from hansa.algorithm import Partial
from hansa.app import App
from hansa.arrays import Arrays
from hansa.messages import Metrics
from hansa.run import resolve, slots_from_arrays
from hansa.simulation.attacks import attackers_of
from hansa.simulation.clients import VirtualClients
from hansa.simulation.fold import Assignment, Folding, Outcome, Raised, attempt, failure
from hansa.simulation.load import load
from hansa.simulation.pipes import Body, Channel, Message, receive, send, spec_from
from hansa.simulation.vectorized import Vectorization
from hansa.store.spool import Spool

__all__ = ["Answer", "Serving", "main"]

R = TypeVar("R", bound=Outcome | Metrics)

Jobs: TypeAlias = "queue.SimpleQueue[tuple[Message, Arrays]]"

Answer: TypeAlias = tuple[Message, Body | None]
"""A message, and its body."""


def main(jobs_fd: int, answers_fd: int) -> None:
    """Serve until the pipe of jobs is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the simulation hears Ctrl-C, and closes the pipe
    for stream in (sys.stdout, sys.stderr):  # whole lines, also with PYTHONUNBUFFERED: workers write side by side
        stream.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]  # they are text files
    jobs: Jobs = queue.SimpleQueue()
    threading.Thread(target=_take, args=(Connection(jobs_fd, writable=False), jobs), daemon=True).start()
    answers: Channel = Connection(answers_fd, readable=False)
    serving = Serving()
    while True:
        for answer in serving.answers(*jobs.get()):
            send(answers, *answer)


def _take(pipe: Channel, jobs: Jobs) -> None:
    """Take jobs off the pipe as they come, so that the simulation never waits to send one."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            jobs.put(receive(pipe))
    os.killpg(0, signal.SIGKILL)  # this process leads a group of its own: what user code started ends with it


class Serving:
    """One worker: it trains and folds what it is told to."""

    def __init__(self, folding: Folding | None = None, vectorization: Vectorization | None = None) -> None:
        """folding: with what it works, where it is in the process that was given the app; else it loads that itself."""
        self._folding = folding
        self._vectorization = vectorization
        self._app: App | Raised | None = None

    def answers(self, job: Message, body: Arrays) -> Iterator[Answer]:
        """Do a job; it is done when the last answer was taken.

        Of clients that train one after another each has one when it begins and one at the end, of others all have one.
        """
        if job["do"] == "load":
            self._app = attempt(lambda: load(job["app"]))
            return
        if job["do"] == "start":
            yield self._started(job)
            return
        folding, vectorization = self._folding, self._vectorization
        assert folding is not None  # noqa: S101 - it was started
        match job["do"]:
            case "begin":
                folding.begin(job["round"], body, job["config"], frozenset(job["keep"]))
            case "show":
                folding.show(job["round"], body)
            case "train":
                folding.memories = slots_from_arrays(body)
                tasks = [Assignment(*task) for task in job["tasks"]]
                training = None if vectorization is None else partial(vectorization.train, tasks)
                yield from _results({each.client: partial(folding.train, each) for each in tasks}, training)
            case "evaluate":
                folding.memories = slots_from_arrays(body)
                clients = [client for client, *_ in job["tasks"]]
                together = None if vectorization is None else partial(vectorization.evaluate, clients)
                yield from _results({client: partial(folding.evaluate, client) for client in clients}, together)
            case "collect":
                yield from _handed_over(self.taken())
            case unknown:
                raise AssertionError(unknown)

    def taken(self) -> Partial:
        """The sum, which is of nothing again."""
        assert self._folding is not None  # noqa: S101 - it was started
        summed, self._folding.partial = self._folding.partial, self._folding.zero()
        return summed

    def _started(self, start: Message) -> Answer:
        if self._folding is None:
            app = attempt(lambda: load(start["app"])) if self._app is None else self._app
            trainees = app if isinstance(app, Raised) else attempt(lambda: _trainees(app, start))
            if isinstance(trainees, Raised):
                told = failure(trainees.error)
                return {"broken": told.message, "traceback": told.traceback}, None
            self._folding, self._vectorization = trainees
        return {"broken": None}, None


def _trainees(app: App, start: Message) -> tuple[Folding, Vectorization | None]:
    run, clients = resolve(spec_from(start["spec"])), VirtualClients(start["clients"])
    attackers = attackers_of(start["attack"], run, clients)
    folding = Folding(app, run, clients, tolerate_failures=True, attackers=attackers)
    return folding, Vectorization(app, folding) if start["vectorized"] else None


def _handed_over(summed: Partial) -> Iterator[Answer]:
    """A sum in one message; of rows, which together may be more than memory holds, each in one of its own."""
    if isinstance(summed.sums, Spool):
        yield {"weight": summed.weight, "rows": len(summed.sums)}, None
        for client in summed.sums:
            yield {}, Body(Arrays({client: summed.sums[client]}))
    else:
        yield {"weight": summed.weight, "rows": None}, Body(Arrays(summed.sums))


def _results(alone: Mapping[str, Callable[[], R]], together: Callable[[], Mapping[str, R]] | None) -> Iterator[Answer]:
    """Do the work of each client and tell what came of it; together: of all of them at once."""
    if together is not None:
        yield {"results": together()}, None
        return
    for client, work in alone.items():
        yield {"began": client}, None
        yield {"results": {client: work()}}, None
