"""How many bytes a server has sent to its nodes and received from them, lately and since it started."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["WINDOW", "Traffic"]

WINDOW: Final = 600.0
"""Seconds that are remembered."""
_PARTS: Final = 60
"""In which what is older is forgotten."""


class Traffic:
    """Bytes of models, updates and frames to and from the nodes right below a server, without what gRPC and TLS add."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds that only grow."""
        self._clock = clock
        self._parts: deque[list[int]] = deque()
        """[part of time, sent, received], the oldest first."""
        self._total = [0, 0]
        """[sent, received] since the start."""

    def sent(self, nbytes: int) -> None:
        """Count bytes to a node."""
        self._newest()[1] += nbytes
        self._total[0] += nbytes

    def received(self, nbytes: int) -> None:
        """Count bytes from a node."""
        self._newest()[2] += nbytes
        self._total[1] += nbytes

    def lately(self) -> tuple[int, int]:
        """Bytes sent and received within the window."""
        self._newest()
        return sum(sent for _, sent, _ in self._parts), sum(received for _, _, received in self._parts)

    def total(self) -> tuple[int, int]:
        """Bytes sent and received since the server started."""
        return self._total[0], self._total[1]

    def _newest(self) -> list[int]:
        now = int(self._clock() * _PARTS / WINDOW)
        if not self._parts or self._parts[-1][0] != now:
            self._parts.append([now, 0, 0])
        while self._parts[0][0] <= now - _PARTS:
            self._parts.popleft()
        return self._parts[-1]
