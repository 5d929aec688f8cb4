"""A worker of a simulation in the simulation's own process, beside those that are processes of their own."""

import time
from collections import deque

from hansa.algorithm import Partial
from hansa.arrays import Arrays
from hansa.simulation.pipes import Body, Message
from hansa.simulation.worker import Answer, Serving

__all__ = ["Here"]


class Here:
    """A `Link` to it: its jobs are done when an answer is waited for, and none of another worker is there."""

    def __init__(self, serving: Serving) -> None:
        """serving: what works; what user code raises in it is an answer, and all else is raised here."""
        self._serving = serving
        self._jobs: deque[tuple[Message, Body | None]] = deque()
        self._answers: deque[Answer] = deque()
        self.seconds = 0.0
        """That it has worked for."""

    def send(self, message: Message, body: Body | None = None) -> None:
        """See `Link`."""
        self._jobs.append((message, body))

    def receive(self) -> tuple[Message, Arrays]:
        """See `Link`."""
        began = time.perf_counter()
        while not self._answers:
            message, body = self._jobs.popleft()
            self._answers.extend(self._serving.answers(message, Arrays() if body is None else body.arrays))
        self.seconds += time.perf_counter() - began
        message, body = self._answers.popleft()
        return message, Arrays() if body is None else body.arrays

    def collected(self) -> Partial:
        """Its sum, as it is."""
        return self._serving.taken()

    def dismiss(self) -> None:
        """See `Link`."""

    def end(self) -> str:
        """See `Link`."""
        return "the simulation"
