"""Who of the virtual clients is there while a round goes on, where devices come and go."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from hansa.simulation.clients import SomeClients, VirtualClients
from hansa.simulation.devices import ComingAndGoing, Devices

__all__ = ["RoundAttendance", "WatchedClients", "attendance"]


def attendance(
    devices: Devices, clients: VirtualClients, since: float, chosen: npt.NDArray[np.int64] | None = None
) -> "RoundAttendance | None":
    """For a round that is due at this virtual time; None where the devices are always there.

    chosen: the numbers of the clients that it may invite, in the order of their names; None: all.
    """
    return RoundAttendance(devices, clients, since, chosen) if isinstance(devices, ComingAndGoing) else None


class RoundAttendance:
    """Times are seconds since the round was due."""

    def __init__(
        self,
        devices: ComingAndGoing,
        clients: VirtualClients,
        since: float,
        chosen: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """since: virtual seconds from the beginning of the run; chosen: as of `attendance`."""
        self._devices = devices
        self._clients = clients
        self._since = since
        self._chosen = chosen

    def present(self, at: float) -> Sequence[str]:
        """The names of those who are there, sorted."""
        numbers = self._clients.numbers() if self._chosen is None else self._chosen
        return SomeClients(numbers[self._there(numbers, at)])

    def wait(self, needed: int, most: float) -> float:
        """When so many are there for the first time; 0 where that is not in less than `most` seconds."""
        numbers = np.arange(len(self._clients)) if self._chosen is None else np.sort(self._chosen)
        there = self._there(numbers, 0.0)
        if there.sum() >= needed:
            return 0.0
        ahead = np.array([self._next(int(number), 0.0) for number in numbers[~there]])
        at = 0.0
        while ahead.size and (at := float(ahead.min())) < most:
            if self._there(numbers, at).sum() >= needed:
                return at
            due = np.flatnonzero(ahead <= at)
            waiting = numbers[~there]
            ahead[due] = [self._next(int(waiting[k]), at) for k in due]
        return 0.0

    def watch(self, names: Iterable[str]) -> "WatchedClients":
        """What a round is told of these clients."""
        return WatchedClients(self, frozenset(names))

    def next_change(self, client: str, at: float) -> float:
        """When a client comes or goes for the first time after `at`."""
        return self._next(self._clients.number(client), at)

    def _there(self, numbers: npt.NDArray[np.int64], at: float) -> npt.NDArray[np.bool_]:
        return self._devices.present(numbers, self._since + at)

    def _next(self, number: int, at: float) -> float:
        """The first time at which the change has been, also where sums are rounded; so it is later than `at`."""
        change = self._devices.next_change(number, self._since + at)
        relative = change - self._since
        while self._since + relative < change:
            relative += math.ulp(change)
        return relative


class WatchedClients:
    """An `Attendance` of a round."""

    def __init__(self, here: RoundAttendance, watched: frozenset[str]) -> None:
        self._here = here
        self.watched = watched

    def next_change(self, client: str, at: float) -> float:
        """See `Attendance`."""
        return self._here.next_change(client, at)
