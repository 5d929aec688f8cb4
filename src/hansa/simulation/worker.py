"""What runs in each process of a simulation: take jobs from a pipe, train, fold, answer on another pipe.

The process lives as long as its pipe of jobs: when the simulation closes it, or is killed, the worker and whatever
user code started in it end at once.
"""

import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeAlias, TypeVar

from hansa.algorithm import Partial
from hansa.arrays import Arrays
from hansa.messages import Metrics
from hansa.run import resolve, slots_from_arrays
from hansa.simulation.attacks import Attack, Attackers
from hansa.simulation.clients import VirtualClients
from hansa.simulation.fold import Assignment, Folded, Folding, Outcome, Raised, attempt, failure
from hansa.simulation.load import load
from hansa.simulation.pipes import Channel, Message, receive, result_to, send, spec_from, to_bytes
from hansa.simulation.vectorized import Vectorization
from hansa.store.spool import Spool

__all__ = ["main"]

R = TypeVar("R", bound=Outcome | Metrics)

Jobs: TypeAlias = "queue.SimpleQueue[tuple[Message, Arrays]]"


def main(jobs_fd: int, answers_fd: int) -> None:
    """Serve until the pipe of jobs is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the simulation hears Ctrl-C, and closes the pipe
    for stream in (sys.stdout, sys.stderr):  # whole lines, also with PYTHONUNBUFFERED: workers write side by side
        stream.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]  # they are text files
    jobs: Jobs = queue.SimpleQueue()
    threading.Thread(target=_take, args=(Connection(jobs_fd, writable=False), jobs), daemon=True).start()
    answers: Channel = Connection(answers_fd, readable=False)
    start, _ = jobs.get()
    trainees = attempt(lambda: _trainees(start))
    if isinstance(trainees, Raised):
        told = failure(trainees.error)
        send(answers, {"broken": told.message, "traceback": told.traceback})
        return
    send(answers, {"broken": None})
    while True:
        job, body = jobs.get()
        _do(job, body, *trainees, answers)


def _take(pipe: Channel, jobs: Jobs) -> None:
    """Take jobs off the pipe as they come, so that the simulation never waits to send one."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            jobs.put(receive(pipe))
    os.killpg(0, signal.SIGKILL)  # this process leads a group of its own: what user code started ends with it


def _trainees(start: Message) -> tuple[Folding, Vectorization | None]:
    app, run, clients = load(start["app"]), resolve(spec_from(start["spec"])), VirtualClients(start["clients"])
    attackers = Attackers(Attack.parse(start["attack"]), run, clients) if start["attack"] else None
    folding = Folding(app, run, clients, tolerate_failures=True, attackers=attackers)
    return folding, Vectorization(app, folding) if start["vectorized"] else None


def _do(job: Message, body: Arrays, folding: Folding, vectorization: Vectorization | None, answers: Channel) -> None:
    match job["do"]:
        case "begin":
            folding.begin(job["round"], body, frozenset(job["keep"]))
        case "show":
            folding.show(job["round"], body)
        case "train":
            folding.memories = slots_from_arrays(body)
            assignments = [Assignment(*task) for task in job["tasks"]]
            training = None if vectorization is None else partial(vectorization.train, assignments)
            _answer(answers, {each.client: partial(folding.train, each) for each in assignments}, training)
        case "evaluate":
            folding.memories = slots_from_arrays(body)
            clients = [client for client, *_ in job["tasks"]]
            together = None if vectorization is None else partial(vectorization.evaluate, clients)
            _answer(answers, {client: partial(folding.evaluate, client) for client in clients}, together)
        case "collect":
            summed, folding.partial = folding.partial, folding.zero()
            _hand_over(answers, summed)
        case unknown:
            raise AssertionError(unknown)


def _hand_over(answers: Channel, summed: Partial) -> None:
    """A sum in one message; of rows, which together may be more than memory holds, each in one of its own."""
    if isinstance(summed.sums, Spool):
        send(answers, {"weight": summed.weight, "rows": len(summed.sums)})
        for client in summed.sums:
            send(answers, {}, to_bytes(Arrays({client: summed.sums[client]})))
    else:
        send(answers, {"weight": summed.weight, "rows": None}, to_bytes(Arrays(summed.sums)))


def _answer(
    answers: Channel, alone: Mapping[str, Callable[[], R]], together: Callable[[], Mapping[str, R]] | None
) -> None:
    """Do the work of each client and tell what came of it; together: of all of them at once."""
    if together is not None:
        for client, result in together().items():
            _tell(answers, client, result)
        return
    for client, work in alone.items():
        send(answers, {"began": client})
        _tell(answers, client, work())


def _tell(answers: Channel, client: str, result: Outcome | Metrics) -> None:
    kept = result.memory if isinstance(result, Folded) else None
    send(answers, {"client": client, **result_to(result)}, None if kept is None else to_bytes(kept))
