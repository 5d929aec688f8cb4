"""Workers as processes of this machine, each with one thread for arithmetic, behind a pair of pipes."""

import os
import signal
import subprocess
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import cast

from hansa.arrays import Arrays
from hansa.simulation import child
from hansa.simulation.pipes import Channel, Message, receive, send
from hansa.simulation.places import Link

__all__ = ["Processes"]

_PATIENCE = 5.0
"""Seconds that a worker has to end after its pipe was closed, before it is killed."""


class Processes:
    """A `Place` of worker processes."""

    second_chances = 0

    def __init__(self, count: int) -> None:
        """count: how many, at least 1."""
        self.count = count

    def start(self) -> Link:
        """See `Place`."""
        return _Process(*child.start("hansa.simulation.worker"))

    def wait(self, links: Sequence[Link]) -> Sequence[Link]:
        """See `Place`."""
        pipes = {link.answers: link for link in cast("Sequence[_Process]", links)}
        return [pipes[cast("Channel", pipe)] for pipe in wait(list(pipes))]

    def close(self) -> None:
        """See `Place`."""


class _Process:
    """One of them."""

    def __init__(self, process: subprocess.Popen[bytes], jobs: Channel, answers: Channel) -> None:
        self._process = process
        self._jobs = jobs
        self.answers = answers

    def send(self, message: Message, body: bytes | None = None) -> None:
        send(self._jobs, message, body)

    def receive(self) -> tuple[Message, Arrays]:
        return receive(self.answers)

    def dismiss(self) -> None:
        self._jobs.close()
        self.answers.close()

    def end(self) -> str:
        self.dismiss()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        code = self._process.returncode
        return f"exit status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
