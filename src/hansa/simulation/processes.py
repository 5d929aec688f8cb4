"""Workers as processes of this machine, each with one thread for arithmetic, behind a pair of pipes."""

import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import cast

from hansa.arrays import Arrays
from hansa.simulation import child
from hansa.simulation.here import Here
from hansa.simulation.pipes import Body, Channel, Message, receive, send
from hansa.simulation.places import Link

__all__ = ["Processes", "loading"]


class Processes:
    """A `Place` of worker processes, and of this one where it works too."""

    second_chances = 0

    def __init__(
        self,
        count: int,
        early: deque[Link] | None = None,
        here: Here | None = None,
        pays: Callable[[], bool] | None = None,
    ) -> None:
        """Nothing is started yet.

        count: how many, at least 1; early: what `loading` gave; here: one of them, in this process; pays: it is alone
        until this says so, where nobody has asked for the others.
        """
        self._most = count
        self._early: deque[Link] = deque() if early is None else early
        self._here = here
        self._starts_here = here is not None
        self._pays = pays
        self._alone = pays is not None

    @property
    def count(self) -> int:
        """See `Place`."""
        if self._alone and self._pays is not None:
            self._alone = not self._pays()
        return 1 if self._alone else self._most

    def gives_up(self) -> bool:
        """See `Place`."""
        if self._pays is None:
            return False
        self._alone, self._pays = True, lambda: False
        return True

    def start(self) -> Link:
        """See `Place`; the first one is in this process, where one is."""
        if self._here is not None and self._starts_here:
            self._starts_here = False
            return self._here
        return self._early.popleft() if self._early else _Process(*child.start("hansa.simulation.worker"))

    def wait(self, links: Sequence[Link]) -> Sequence[Link]:
        """See `Place`; this process works only while nobody else has an answer."""
        pipes = {link.answers: link for link in links if isinstance(link, _Process)}
        here = [link for link in links if link is self._here]
        ready = wait(list(pipes), 0 if here else None) if pipes else []
        return [pipes[cast("Channel", pipe)] for pipe in ready] or here

    def close(self) -> None:
        """See `Place`."""


@contextmanager
def loading(app: str | Path, count: int) -> Iterator[deque[Link]]:
    """Processes that load an app while this one does; those that nobody takes are ended."""
    waiting: deque[Link] = deque()
    try:
        for _ in range(count):
            waiting.append(_Process(*child.start("hansa.simulation.worker")))
            waiting[-1].send({"do": "load", "app": str(app)})
        yield waiting
    finally:
        for link in waiting:
            link.end()


class _Process:
    """One of them."""

    def __init__(self, process: subprocess.Popen[bytes], jobs: Channel, answers: Channel) -> None:
        self._process = process
        self._jobs = jobs
        self.answers = answers

    def send(self, message: Message, body: Body | None = None) -> None:
        send(self._jobs, message, body)

    def receive(self) -> tuple[Message, Arrays]:
        return receive(self.answers)

    def dismiss(self) -> None:
        self._jobs.close()
        self.answers.close()
        if self._process.returncode is None:  # with what user code started in it; a status that it has stays
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> str:
        self.dismiss()
        code = self._process.wait()
        return f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
