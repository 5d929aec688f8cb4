"""A simulation over MPI: `mpirun -n 4 hansa simulate app.py --engine mpi`, or a script in which each rank calls it.

Rank 0 plays the rounds and hands out tasks; every rank trains, rank 0 in a thread of its own, so that nobody waits for
an answer while it does. All begin together, and end together: with one result, or with one error. MPI does not survive
the loss of a rank: it ends the others, and rank 0 says whom it misses.
"""

import hashlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from types import FrameType, TracebackType
from typing import Any, Self, cast

from hansa.algorithm import State
from hansa.app import App
from hansa.arrays import Arrays
from hansa.errors import ConfigError, RunFailedError
from hansa.messages import RunSpec
from hansa.ranks import Pause, Ranks, here, is_there, rank
from hansa.run import slots_from_arrays, slots_to_arrays
from hansa.simulation.pipes import Body, Message, packed, spec_from, spec_to, unpacked
from hansa.simulation.places import Link
from hansa.simulation.result import RoundRecord, SimulationResult
from hansa.simulation.worker import Answer, Serving
from hansa.wire import codec

__all__ = ["OverRanks", "Together", "rank"]

_GRACE = 1.0
"""Seconds that a rank stays when all are ended, so that rank 0 can see who was lost before that."""

_FAIL = b'{"do": "fail"'
"""How the last message of a simulation that failed begins; no arrays do."""


class Together:
    """All ranks in one simulation: a `with` block that they enter together, and leave together."""

    def __init__(self) -> None:
        self.ranks = Ranks()
        self._mail: dict[int, deque[bytes]] = {other: deque() for other in range(self.ranks.size)}
        self._places: list[tuple[str, int]] = []
        """Host and process of each rank; known to rank 0."""
        self._agreed = False
        self._told = False
        self._handler: Any = None

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.ranks.rank == 0

    def __enter__(self) -> Self:
        if self.ranks.size > 1 and threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, self._terminated)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is not None:
                self._fail(error)
            self.ranks.close()
        finally:
            if self._handler is not None:
                signal.signal(signal.SIGTERM, self._handler)

    def agree(self, app: App, spec: RunSpec, clients: int, attack: str) -> None:
        """Wait for all ranks; raises `RunFailedError` where one cannot take part, or was given another run."""
        source = app.path.read_bytes() if app.path is not None and app.path.is_file() else b""
        given = json.dumps([spec_to(spec), clients, attack, hashlib.sha256(source).hexdigest()], sort_keys=True)
        self._exchange("", hashlib.sha256(given.encode()).hexdigest())

    def serve(self, serving: Serving) -> SimulationResult:
        """Train what rank 0 hands out, until it has the result; raises `RunFailedError` where there is none."""
        while True:
            job, body = self._job()
            match job["do"]:
                case "end":
                    return _result_from(job, body, self.ranks.rank)
                case "fail":
                    self._told = True
                    self.send(0, {"do": "bye"})
                    raise RunFailedError(job["error"])
                case _:
                    self._do(serving, job, body)

    def place(self, serving: Serving, workers: int | None) -> "OverRanks":
        """The ranks, with what works in this one."""
        return OverRanks(self, serving, workers)

    def end(self, result: SimulationResult) -> None:
        """All ranks return this; rank 0 says it."""
        for other in self.ranks.others:
            self.send(other, *_result_to(result))

    def _do(self, serving: Serving, job: Message, body: Arrays) -> None:
        for answer in serving.answers(job, body):
            self.send(0, *answer)
            self.ranks.flush()  # what is on its way moves only while this rank looks after it
            if self._is_over():
                break

    def _job(self) -> tuple[Message, Arrays]:
        """The next thing to do; the last one, where rank 0 has given up."""
        if self._is_over():
            while len(self._mail[0]) > 1:
                self._mail[0].popleft()
        return self.receive(0)

    def _is_over(self) -> bool:
        """Whether rank 0 has given up, so that what it has asked for is not needed."""
        while self.look():
            pass
        return bool(self._mail[0]) and self._mail[0][-1].startswith(_FAIL)

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, to: int, message: Mapping[str, Any], body: Body | None = None) -> None:
        """As `pipes.send`."""
        message, body = packed(message, body)
        self.ranks.send(to, json.dumps({**message, "body": body is not None}, default=_plain).encode())
        if body is not None:
            self.ranks.send(to, body.encoded)

    def receive(self, sender: int) -> tuple[Message, Arrays]:
        """As `pipes.receive`; what others send meanwhile is kept."""
        message: Message = json.loads(self._frame(sender))
        return unpacked(message, codec.decode(self._frame(sender)) if message["body"] else Arrays())

    def has_mail(self, sender: int) -> bool:
        """Whether something of this rank was taken off the network and not received."""
        return bool(self._mail[sender])

    def look(self) -> bool:
        """Take a frame off the network, if there is one."""
        found = self.ranks.poll()
        if found is not None:
            self._mail[found[0]].append(found[1])
        return found is not None

    def _frame(self, sender: int) -> bytes:
        pause = Pause()
        while not self._mail[sender]:
            if not self.look():
                pause.take()
        return self._mail[sender].popleft()

    # ── beginning and ending together ────────────────────────────────────────────────────────────────────────────────

    def _exchange(self, obstacle: str, given: str) -> None:
        """Every rank tells rank 0 how it begins, and is told whether all do."""
        self._agreed = True
        mine = {"obstacle": obstacle, "given": given, "place": here()}
        if self.leads:
            told = [mine, *(self.receive(other)[0] for other in self.ranks.others)]
            self._places = [(host, process) for host, process in (each["place"] for each in told)]
            verdict = _verdict(told)
            for other in self.ranks.others:
                self.send(other, {"verdict": verdict})
        else:
            self.send(0, mine)
            verdict = self.receive(0)[0]["verdict"]
        if verdict and not obstacle:
            self._told = True
            raise RunFailedError(verdict)

    def _fail(self, error: BaseException) -> None:
        said = f"{type(error).__name__}: {error}"
        if not self._agreed:
            self._exchange(said, "")
        elif self.leads and not self._told:
            for other in self.ranks.others:
                self.send(other, {"do": "fail", "error": f"rank 0 has ended the simulation: {said}"})
            for other in self.ranks.others:
                while self.receive(other)[0].get("do") != "bye":  # it may be sending what nobody needs any more
                    pass
        elif not self._told:  # something in this rank that is not user code: nobody waits for its answers in vain
            self.ranks.abort(error)

    def _terminated(self, number: int, _frame: FrameType | None) -> None:
        """The launcher ends all ranks, as it does where one is lost: rank 0 says which, if it can tell."""
        if self.leads:
            gone = [k for k, place in enumerate(self._places) if is_there(*place) is False]
            named = f"rank {', '.join(map(str, gone))} was lost" if gone else "its launcher has ended it"
            sys.stderr.write(
                f"error: the simulation over MPI has ended: {named}; what the launcher says of it is above or below. "
                "MPI cannot go on without a rank. Was it killed for its memory? Then start fewer ranks on each host; "
                "--engine ray goes on where workers are lost, and --engine processes on one host.\n"
            )
            sys.stderr.flush()
        else:
            time.sleep(_GRACE)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _verdict(told: Sequence[Message]) -> str:
    """What is in the way, the first of all ranks; empty: nothing."""
    for number, each in enumerate(told):
        if each["obstacle"]:
            return f"rank {number} cannot take part: {each['obstacle']}"
    for number, each in enumerate(told):
        if each["given"] != told[0]["given"]:
            return (
                f"rank {number} was given another simulation than rank 0: every rank must call `simulate` with the "
                "same app, settings, number of clients and attack"
            )
    return ""


class OverRanks:
    """A `Place` of ranks. This one is a worker too."""

    second_chances = 0

    def __init__(self, together: Together, serving: Serving, workers: int | None) -> None:
        """serving: what works in this rank; workers: None, as `mpirun` says how many there are."""
        if workers is not None and workers != together.ranks.size:
            raise ConfigError(
                f"workers is {workers}, and there are {together.ranks.size} ranks: leave it out, mpirun -n says it"
            )
        self.count = together.ranks.size
        self._together = together
        self._left: list[Link] = [_Rank(together, other) for other in together.ranks.others]
        self._here = _Here(serving)
        self._left.append(self._here)

    def start(self) -> Link:
        """See `Place`."""
        return self._left.pop(0)

    def wait(self, links: Sequence[Link]) -> Sequence[Link]:
        """See `Place`."""
        pause = Pause()
        while True:
            while self._together.look():
                pass
            ready = [link for link in cast("Sequence[_Rank | _Here]", links) if link.is_ready]
            if ready:
                return ready
            pause.take()

    def gives_up(self) -> bool:
        """See `Place`."""
        return False

    def close(self) -> None:
        """See `Place`."""
        self._here.dismiss()


class _Rank:
    """A rank of another process. It ends when all do."""

    def __init__(self, together: Together, number: int) -> None:
        self._together = together
        self._number = number

    @property
    def is_ready(self) -> bool:
        return self._together.has_mail(self._number)

    def send(self, message: Message, body: Body | None = None) -> None:
        self._together.send(self._number, message, body)

    def receive(self) -> tuple[Message, Arrays]:
        return self._together.receive(self._number)

    def dismiss(self) -> None:
        """It is told by `Together`."""

    def end(self) -> str:
        return "the simulation"


class _Here:
    """A worker in a thread of this process."""

    def __init__(self, serving: Serving) -> None:
        self._jobs: queue.SimpleQueue[tuple[Message, Body | None] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
        self._dismissed = False
        self._thread = threading.Thread(target=self._work, args=(serving,), name="hansa-rank-0", daemon=True)

    @property
    def is_ready(self) -> bool:
        return not self._answers.empty()

    def send(self, message: Message, body: Body | None = None) -> None:
        if not self._thread.is_alive():
            self._thread.start()
        self._jobs.put((message, body))

    def receive(self) -> tuple[Message, Arrays]:
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        message, body = answer
        return message, Arrays() if body is None else body.arrays

    def dismiss(self) -> None:
        self._dismissed = True
        self._jobs.put(None)

    def end(self) -> str:
        if self._thread.is_alive():
            self._thread.join()
        return "the simulation"

    def _work(self, serving: Serving) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                message, body = job
                for answer in serving.answers(message, Arrays() if body is None else body.arrays):
                    self._answers.put(answer)
                    if self._dismissed:
                        return
        except BaseException as error:  # noqa: BLE001 - whatever ends this thread ends the simulation
            self._answers.put(error)


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _result_to(result: SimulationResult) -> Answer:
    state = result.state
    message = {
        "do": "end",
        "rounds": [asdict(record) for record in result.rounds],
        "committed": state.round,
        "spec": asdict(result.spec),
        "engine": result.engine,
        "because": result.because,
        "malicious": result.malicious,
        "profile": dict(result.profile),
    }
    slots = {f"slot {name}": arrays for name, arrays in state.slots.items()}
    return message, Body(slots_to_arrays({"model": state.params, **slots}))


def _result_from(message: Message, body: Arrays, number: int) -> SimulationResult:
    """The result of rank 0, in the rank of this number."""
    parts = slots_from_arrays(body)
    model = parts.pop("model")
    state = State(model, message["committed"], {name.removeprefix("slot "): slot for name, slot in parts.items()})
    records = tuple(
        replace(RoundRecord(**each), accepted=tuple(each["accepted"]), missing=tuple(each["missing"]))
        for each in message["rounds"]
    )
    return SimulationResult(
        spec_from(message["spec"]),
        records,
        state,
        engine=message["engine"],
        because=message["because"],
        malicious=tuple(message["malicious"]),
        profile=message["profile"],
        rank=number,
    )


def _plain(value: Any) -> Any:
    """A number of numpy, as JSON has it."""
    return value.item()
