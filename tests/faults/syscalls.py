"""Faults below Python: strace ends a running process at a system call, or lets its disk refuse, also within SQLite.

strace counts the calls of each thread by itself, so the N-th is that of the thread that comes to N first. Where all
calls of one kind are made by one thread, that is every N: SQLite's `fdatasync` and `pwrite64` are the controller's one
writer's. What was hit is read from the trace. Processes that the node starts from now on are held too.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from faults.lab import Lab, StuckError
from faults.points import CLIENT, COMBINER, CONTROLLER

__all__ = ["CALLS", "Injection", "Tracer", "traced", "untraceable"]

_PAUSE = 0.01
_PATIENCE = 30.0
"""Seconds for strace to take hold of every thread."""
_CALL = re.compile(r"^(?:\d+\s+)?(?P<call>\w+)\(\d+<(?P<path>[^>]*)>")
_KILLED = re.compile(r"^(?:\d+\s+)?\+\+\+ killed by SIGKILL", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Injection:
    """What strace does to a process of a kind, from its `first` such call on, or at that one only."""

    kind: str
    calls: str
    """System calls, with commas between."""
    effect: str = "signal=SIGKILL"
    """As strace writes it: signal=…, which strikes before the call is made, or error=…, in its place."""
    first: int = 1
    onwards: bool = False
    stride: int = 1
    """Of a sweep: every so many calls."""

    @property
    def words(self) -> str:
        """strace's option."""
        return f"inject={self.calls}:{self.effect}:when={self.first}{'+' * self.onwards}"

    def __str__(self) -> str:
        return f"{self.kind} at {self.calls}"


CALLS = (
    Injection(CONTROLLER, "fdatasync"),
    Injection(CONTROLLER, "fsync"),
    Injection(CONTROLLER, "pwrite64", stride=16),
    Injection(COMBINER, "fsync,fdatasync"),
    Injection(CLIENT, "fsync,fdatasync"),
)
"""What the sweep goes through; of the pages that SQLite writes, some four hundred a session, every sixteenth."""


@dataclass(frozen=True, slots=True)
class Tracer:
    """What a strace has seen so far; all of it once it has let go."""

    trace: Path

    def killed(self) -> bool:
        """Whether it has ended a process; known once it has let go."""
        return bool(_KILLED.search(self.trace.read_text()))

    def calls(self) -> list[tuple[str, str]]:
        """(call, path) in the order in which they began."""
        found = (_CALL.match(line) for line in self.trace.read_text().splitlines())
        return [(each["call"], each["path"]) for each in found if each is not None]

    def refused(self) -> int:
        """Calls that it has let fail."""
        return self.trace.read_text().count("(INJECTED)")


def untraceable() -> str:
    """Why strace can do nothing here, or an empty text: it is not installed, or may not trace."""
    program = shutil.which("strace")
    if program is None:
        return "strace is not installed (apt-get install strace)"
    tried = subprocess.run(
        [program, "-qq", "-o", os.devnull, sys.executable, "-c", ""], capture_output=True, text=True, check=False
    )
    return f"strace may not trace here: {tried.stderr.strip()}" if tried.returncode else ""


@contextmanager
def traced(lab: Lab, name: str, injection: Injection) -> Iterator[Tracer]:
    """Inject into a node's process as it is now, not into those that follow it after its death."""
    process = lab.nodes[name].process
    assert process is not None
    trace = lab.folder / "logs" / f"{name}-{time.monotonic_ns()}.trace"
    options = ["-y", "-qq", "-e", f"trace={injection.calls}", "-e", injection.words, "-o", str(trace)]
    program = shutil.which("strace") or "strace"
    strace = subprocess.Popen([program, "-f", *options, "-p", str(process.pid)], stderr=subprocess.PIPE)
    try:
        _await_hold(strace, process.pid)
        yield Tracer(trace)
    finally:
        if process.poll() is None:
            # The kernel lets go of all threads at once. Asked to do that by itself, strace 6.1 waits for the first
            # thread of a process that is being killed, which waits for the others, which wait for strace.
            strace.kill()
        strace.communicate(timeout=_PATIENCE)


def _await_hold(strace: "subprocess.Popen[bytes]", pid: int) -> None:
    until = time.monotonic() + _PATIENCE
    while not all(_is_held(pid, thread) for thread in _threads(pid)):
        if strace.poll() is not None or time.monotonic() > until:
            said = strace.stderr.read().decode() if strace.poll() is not None and strace.stderr else ""
            raise StuckError(f"strace takes no hold of process {pid}: {said}")
        time.sleep(_PAUSE)


def _threads(pid: int) -> Sequence[int]:
    return [int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir()]


def _is_held(pid: int, thread: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/task/{thread}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True  # it is over
    return "TracerPid:\t0\n" not in status
