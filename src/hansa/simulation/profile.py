"""Where the time of a simulation goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["PARTS", "Profile"]

PARTS = {
    "data": "loading data, and making tasks",
    "training": "local training: forward, backward and optimizer",
    "folding": "checking and summing updates, and the new model",
    "evaluation": "measuring the model",
    "workers": "waiting for worker processes, whatever they do",
    "overhead": "the rest",
}
"""What is told apart; each moment belongs to one of them."""


class Profile:
    """A clock that always runs for one of the parts: for `overhead`, unless something else is being measured."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        """Of each part, up to the last change from one to another."""
        self._part = "overhead"
        self._since = time.perf_counter()

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """The time until the end belongs to this part, but for what is measured inside it."""
        outer = self._switch(part)
        try:
            yield
        finally:
            self._switch(outer)

    def restart(self) -> None:
        """Begin from zero."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._since = time.perf_counter()

    def _switch(self, part: str) -> str:
        now = time.perf_counter()
        self.seconds[self._part] += now - self._since
        before, self._part, self._since = self._part, part, now
        return before
