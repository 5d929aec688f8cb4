"""How often something may be tried: so many attempts with one key in a window of time."""

from collections import OrderedDict, deque
from typing import Final

__all__ = ["Throttle"]

_KEYS: Final = 10_000
"""Keys that are remembered; the ones that tried longest ago are forgotten first."""


class Throttle:
    """Counts attempts by key. It looks at no clock: `now` is seconds of one that never goes back."""

    def __init__(self, most: int, window: float) -> None:
        """most: attempts with one key within `window` seconds."""
        self._most = most
        self._window = window
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, key: str, now: float) -> float:
        """Seconds until another attempt may be made; 0: it may be made now."""
        attempts = self._attempts.get(key)
        if attempts is None:
            return 0.0
        while attempts and now - attempts[0] >= self._window:
            attempts.popleft()
        if not attempts:
            del self._attempts[key]
        return attempts[0] + self._window - now if len(attempts) >= self._most else 0.0

    def count(self, key: str, now: float) -> None:
        """An attempt is made: count it before it is known how it ends, so that many at once gain nothing."""
        self._attempts.setdefault(key, deque()).append(now)
        self._attempts.move_to_end(key)
        if len(self._attempts) > _KEYS:
            self._attempts.popitem(last=False)

    def forgive(self, key: str) -> None:
        """The newest attempt was a good one, and does not count."""
        if (attempts := self._attempts.get(key)) is not None:
            attempts.pop()
            if not attempts:
                del self._attempts[key]

    def clear(self, key: str) -> None:
        """None of the attempts count any more."""
        self._attempts.pop(key, None)
