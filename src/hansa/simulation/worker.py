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
from multiprocessing.connection import Connection
from typing import TypeAlias

from hansa.arrays import Arrays
from hansa.run import resolve, slots_from_arrays
from hansa.simulation.clients import VirtualClients
from hansa.simulation.fold import Assignment, Folded, Folding, Raised, attempt, failure
from hansa.simulation.load import load
from hansa.simulation.pipes import Channel, Message, receive, result_to, send, spec_from, to_bytes

__all__ = ["main"]

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
    folding = attempt(lambda: _folding(start))
    if isinstance(folding, Raised):
        told = failure(folding.error)
        send(answers, {"broken": told.message, "traceback": told.traceback})
        return
    send(answers, {"broken": None})
    while True:
        job, body = jobs.get()
        _do(job, body, folding, answers)


def _take(pipe: Channel, jobs: Jobs) -> None:
    """Take jobs off the pipe as they come, so that the simulation never waits to send one."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            jobs.put(receive(pipe))
    os.killpg(0, signal.SIGKILL)  # this process leads a group of its own: what user code started ends with it


def _folding(start: Message) -> Folding:
    run, clients = resolve(spec_from(start["spec"])), VirtualClients(start["clients"])
    return Folding(load(start["app"]), run, clients, tolerate_failures=True)


def _do(job: Message, body: Arrays, folding: Folding, answers: Channel) -> None:
    match job["do"]:
        case "begin":
            folding.begin(job["round"], body)
        case "show":
            folding.show(job["round"], body)
        case "train":
            folding.memories = slots_from_arrays(body)
            for client, work in job["tasks"]:
                send(answers, {"began": client})
                outcome = folding.train(Assignment(client, work))
                kept = outcome.memory if isinstance(outcome, Folded) else None
                send(answers, {"client": client, **result_to(outcome)}, None if kept is None else to_bytes(kept))
        case "evaluate":
            folding.memories = slots_from_arrays(body)
            for client, _ in job["tasks"]:
                send(answers, {"began": client})
                send(answers, {"client": client, **result_to(folding.evaluate(client))})
        case "collect":
            partial, folding.partial = folding.partial, folding.zero()
            send(answers, {"weight": partial.weight}, to_bytes(Arrays(partial.sums)))
        case unknown:
            raise AssertionError(unknown)
