"""Where a fault may strike: durable steps and turning points of the real code, by name, per kind of process.

`instrument` wraps them in a node's own process. A point is passed twice, before and after what it stands for; a fault
that is armed for its n-th passage strikes there. What happened is written, a line at a time, into the history of the
process, which outlives it.
"""

import asyncio
import errno
import functools
import importlib
import inspect
import json
import os
import signal
import sqlite3
import sys
import time
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

CONTROLLER, COMBINER, CLIENT = "controller", "combiner", "client"

STORE = "hansa.store.sql:SqlStore"
OBJECTS = "hansa.store.files:DirectoryObjects"
SESSION = "hansa.network.controller.session:SessionRunner"
EVALUATION = "hansa.network.controller.evaluation:Evaluation"
HUB = "hansa.network.combiner.hub:Hub"
OFFERS = "hansa.network.combiner.offers:Offers"
PHASE = "hansa.network.combiner.phase:Phase"
NODE = "hansa.network.combiner.node:CombinerNode"
UPLOAD = "hansa.network.combiner.uploads:Upload"
AGENT = "hansa.network.client.agent:Agent"
OUTBOX = "hansa.network.client.outbox:Outbox"
LINK = "hansa.network.link:Link"

DURABLE = {
    "store.put": f"{STORE}.put",
    "store.create": f"{STORE}.create",
    "store.commit": f"{STORE}.commit_round",
    "store.prune": f"{STORE}.prune",
    "store.removed": f"{STORE}.removed",
    "fsync": "os:fsync",
}
"""Steps after which something is on the disk: the sweep kills before and after each of them."""

TURNS = {
    CONTROLLER: {
        "session.advance": f"{SESSION}._total",
        "session.evaluate": f"{EVALUATION}.run",
        "session.end": f"{SESSION}._end",
        "objects.put": f"{OBJECTS}.put",
        "objects.delete": f"{OBJECTS}.delete",
        "hub.open": f"{HUB}._open",
        "hub.close": f"{HUB}._close",
        "phase.merge": f"{PHASE}.merge",
        "sqlite.commit": "sqlalchemy.engine.default:DefaultDialect.do_commit",
    },
    COMBINER: {
        "hub.open": f"{HUB}._open",
        "hub.offered": f"{OFFERS}.take",
        "upload.write": f"{UPLOAD}.write",
        "upload.take": f"{UPLOAD}.take",
        "phase.accumulate": f"{PHASE}.accumulate",
        "hub.answer": f"{HUB}._answer",
        "hub.seal": f"{HUB}._seal",
        "node.deliver": f"{NODE}.deliver",
        "node.fetch": f"{NODE}.fetch",
        "link.write": f"{LINK}._download_some",
        "hub.close": f"{HUB}._close",
    },
    CLIENT: {
        "agent.open": f"{AGENT}._open",
        "agent.perform": f"{AGENT}._perform",
        "outbox.keep": f"{OUTBOX}.keep",
        "outbox.forget": f"{OUTBOX}.forget",
        "link.upload": f"{LINK}.upload",
        "link.download": f"{LINK}.download",
        "link.write": f"{LINK}._download_some",
        "agent.judged": f"{AGENT}._judged",
        "agent.close": f"{AGENT}._close",
    },
}
"""Turning points of each kind of process."""

WRITES = {
    CONTROLLER: ("fsync", "sqlite.commit"),
    COMBINER: ("link.write",),
    CLIENT: ("fsync", "link.write", "worker.fsync"),
}
"""Where a disk may refuse a write, in each kind of process; `worker.fsync` is in the process that runs user code."""

MOMENTS = ("before", "after")


@dataclass(frozen=True, slots=True)
class Fault:
    """What strikes, and where: at the n-th passage from now of a point, before or after it."""

    point: str
    moment: str = "before"
    passage: int = 1
    do: str = "kill"
    """kill, stop (until the laboratory lets it go on, some seconds later), again (it happens twice), late (and once
    more, a second later), clock (an hour forward) or kcolc (back), or the name of an errno, which the point raises."""
    times: int = 1
    """Passages in a row that raise the errno: a disk is full for a while."""


class Process:
    """This process in the laboratory: its history, its counts, and the fault that is armed."""

    def __init__(self, name: str, kind: str, folder: Path) -> None:
        """kind: controller, combiner or client; folder: the laboratory's."""
        self.name = name
        self.kind = kind
        self._armed = folder / "armed" / name
        self._history = os.open(folder / "history" / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._fault: Fault | None = None
        self._due = 0
        signal.signal(signal.SIGUSR1, lambda *_: self._arm())
        signal.signal(signal.SIGUSR2, lambda *_: self.note("census", tasks=len(asyncio.all_tasks())))

    def note(self, what: str, **facts: Any) -> None:
        """A line of history, in one write: it is there whole, whatever comes next."""
        line = {"at": time.time(), "process": self.name, "what": what, **facts}
        os.write(self._history, json.dumps(line).encode() + b"\n")

    def instrument(self) -> None:
        """Wrap every point of this kind of process."""
        for name, place in DURABLE.items():
            self._wrap(name, place, durable=True)
        for name, place in TURNS[self.kind].items():
            self._wrap(name, place)

    def _arm(self) -> None:
        """The laboratory has left a fault for this process; it sends signals until that is taken, also meanwhile."""
        try:
            fault = Fault(**json.loads(self._armed.read_bytes()))
            self._armed.unlink()
        except FileNotFoundError:  # taken, by the handler of another signal
            return
        self._due = self._counts[fault.point, fault.moment] + fault.passage
        self._fault = fault
        self.note("armed", **asdict(fault))

    def _pass(self, point: str, moment: str) -> str:
        """Count a passage; what is left to the point itself, if a fault strikes that the process outlives."""
        self._counts[point, moment] += 1
        fault = self._fault
        if fault is None or (fault.point, fault.moment) != (point, moment) or self._counts[point, moment] < self._due:
            return ""
        self._due = self._counts[point, moment] + 1
        self._fault = replace(fault, times=fault.times - 1) if fault.times > 1 else None
        self.note("struck", **asdict(fault))
        match fault.do:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "clock" | "kcolc":
                _set_the_clock(3600.0 if fault.do == "clock" else -3600.0)
            case "again" | "late":
                return fault.do
            case name if point == "sqlite.commit":
                raise _sqlite_error(name)
            case name:
                number = getattr(errno, name)
                raise OSError(number, os.strerror(number))
        return ""

    @contextmanager
    def _passing(self, point: str, *, durable: bool) -> Iterator[str]:
        yield self._pass(point, "before") or (self._pass("durable", "before") if durable else "")
        if durable:
            self.note("durable", step=point)
            self._pass("durable", "after")
        self._pass(point, "after")

    def _wrap(self, point: str, place: str, *, durable: bool = False) -> None:
        owner, attribute = located(place)
        original = getattr(owner, attribute)

        @functools.wraps(original)
        async def waiting(*arguments: Any, **keywords: Any) -> Any:
            with self._passing(point, durable=durable):
                return await original(*arguments, **keywords)

        @functools.wraps(original)
        def at_once(*arguments: Any, **keywords: Any) -> Any:
            with self._passing(point, durable=durable) as repeated:
                result = original(*arguments, **keywords)
                if repeated == "again":
                    original(*arguments, **keywords)
                elif repeated == "late":
                    asyncio.get_running_loop().call_later(1.0, functools.partial(original, *arguments, **keywords))
                return result

        setattr(owner, attribute, waiting if inspect.iscoroutinefunction(original) else at_once)


def _sqlite_error(name: str) -> sqlite3.OperationalError:
    """What SQLite says of such a disk, in the words of its driver."""
    error = sqlite3.OperationalError("database or disk is full" if name == "ENOSPC" else "disk I/O error")
    error.sqlite_errorname = "SQLITE_FULL" if name == "ENOSPC" else "SQLITE_IOERR_FSYNC"
    return error


def _set_the_clock(jump: float) -> None:
    """The wall clock of hansa's own modules; gRPC converts it to its monotonic one, which a real jump leaves right."""
    jumped = types.SimpleNamespace(**vars(time))
    jumped.time = lambda: time.time() + jump
    for name, module in list(sys.modules.items()):
        if name.startswith("hansa.") and hasattr(module, "time"):
            module.time = jumped  # type: ignore[attr-defined]


def located(place: str) -> tuple[Any, str]:
    """(owner, attribute) of module:Class.attribute or module:attribute."""
    module, _, path = place.partition(":")
    *owners, attribute = path.split(".")
    owner: Any = importlib.import_module(module)
    for name in owners:
        owner = getattr(owner, name)
    return owner, attribute
