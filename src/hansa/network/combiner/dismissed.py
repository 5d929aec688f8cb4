"""Grants that hold no more, while the access tokens that have them would: whoever shows one is refused."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from hansa.errors import AuthenticationError

__all__ = ["Dismissed"]

_REMEMBERED: Final = 3600.0
"""Seconds: longer than any access token holds."""


class Dismissed:
    """What a server refuses, and the transfers that end when their grant does."""

    def __init__(self) -> None:
        self._why: dict[str, tuple[str, float]] = {}
        """Grant → why it holds no more, and until when (the loop's time) that is remembered; the oldest first."""
        self._transfers: defaultdict[str, set[asyncio.Task[Any]]] = defaultdict(set)

    def add(self, grant: str, why: str) -> None:
        """Refuse a grant from now on, and end its transfers."""
        now = asyncio.get_running_loop().time()
        self._why.pop(grant, None)
        self._why[grant] = why, now + _REMEMBERED
        while self._why[oldest := next(iter(self._why))][1] <= now:
            del self._why[oldest]
        for task in self._transfers.get(grant, ()):
            task.cancel()

    def check(self, grant: str) -> None:
        """Raise `AuthenticationError` for one that holds no more."""
        if grant in self._why:
            raise AuthenticationError(self._why[grant][0])

    @contextmanager
    def ends(self, grant: str) -> Iterator[None]:
        """What the current task does inside ends with the grant."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a transfer runs in a task")
        self._transfers[grant].add(task)
        try:
            yield
        except asyncio.CancelledError:
            self.check(grant)
            raise
        finally:
            self._transfers[grant].discard(task)
            if not self._transfers[grant]:
                del self._transfers[grant]
