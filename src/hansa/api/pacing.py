"""How many requests one caller may make: so many at once, and then so many in every second."""

from collections import OrderedDict
from typing import Final

__all__ = ["Pace"]

_CALLERS: Final = 10_000
"""Callers that are remembered; those who called longest ago are forgotten first, and begin anew."""


class Pace:
    """A token bucket for each caller. It looks at no clock: `now` is seconds of one that never goes back."""

    def __init__(self, per_second: float, burst: float) -> None:
        """per_second: requests that one caller may make for ever; burst: at once, after a pause."""
        self._per_second = per_second
        self._burst = burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Caller → (requests that it has left, as of when)."""

    def wait(self, caller: str, now: float) -> float:
        """Seconds until this caller may make another request; 0: it may, and has made it."""
        left, since = self._left.get(caller, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        allowed = left >= 1
        self._left[caller] = (left - 1 if allowed else left, now)
        self._left.move_to_end(caller)
        if len(self._left) > _CALLERS:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._per_second
