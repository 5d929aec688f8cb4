"""Clients that are sent on to a better server, when nobody misses them.

Those who came to the root while there was no combiner for them: after everything was started at once, or the only
combiner was away, the root would otherwise have them for ever. And those below a combiner, once others have come
(back), as far as the balancer would send them there if they asked: one that was away would otherwise have none.

They go when no more combiners have come for a while, each outside of what it takes part in: a session that runs has
them go between two of its rounds, and waits until they are back. Whoever is below a combiner goes at most once each
time that combiners come, so that nobody goes back and forth, whatever the balancer says.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from hansa.network.combiner.hub import Hub
from hansa.network.controller.directory import Directory
from hansa.wire.frames import ROOT, Presence, SendOn

__all__ = ["Placement"]

_log = structlog.get_logger(__name__)

_BACK: Final = 10.0
"""Seconds for which a round waits at most for clients that are on their way to a combiner."""
_LOOK: Final = 3.0
"""Seconds between two looks at whether somebody is free by now."""


class Placement:
    """Of one project."""

    def __init__(self, directory: Directory, hub: Hub, engages: Callable[[str], bool]) -> None:
        """hub: the root's; engages: whether a client has something to do in anything that is open."""
        self._directory = directory
        self._hub = hub
        self._engages = engages
        self._quiet = hub.children.lease
        """Seconds after a combiner has come in which others may, so that each gets its share."""
        self._due = 0.0
        self._news = asyncio.Event()
        self._on_their_way: set[str] = set()
        self._unlevelled = False
        """Whether combiners have come, and it was not looked yet who should be there."""
        self._misplaced: set[str] = set()
        """Clients below combiners that are to go, once they are free."""
        self._among: frozenset[str] = frozenset()
        """The combiners among which that was found."""
        self._arrived = asyncio.Event()

    def heard(self, presence: Presence) -> None:
        """Who came and went; the directory knows it already."""
        if presence.combiners:
            self._due = _now() + self._quiet
            self._unlevelled = True
        if presence.combiners or any(present.combiner == ROOT for present in presence.joined):
            self._news.set()
        came = {present.client for present in presence.joined}
        self._misplaced -= {*came, *presence.left}
        self._on_their_way -= came
        if not self._on_their_way:
            self._arrived.set()

    async def settled(self) -> None:
        """Nobody's round is open: send on whoever is free now, and wait until they are there, or for long enough."""
        self._send_on()
        if self._on_their_way:
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_BACK):
                    await self._arrived.wait()
            self._on_their_way.clear()  # whoever is not there by now is like any other that has gone

    async def run(self) -> None:
        """Send on those who have nothing to do, whenever combiners have come; runs as long as the controller."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._unlevelled or self._misplaced or self._directory.strays(_now()):
                await asyncio.sleep(max(self._due - _now(), _LOOK))
                self._send_on()

    def _send_on(self) -> None:
        now = _now()
        if now < self._due:
            return
        self._look(now)
        for name in [*self._directory.strays(now), *sorted(self._misplaced)]:
            if not self._engages(name):
                _log.info("a client is sent on to a combiner", client=name, of=self._directory.clients[name].combiner)
                self._misplaced.discard(name)
                self._on_their_way.add(name)
                self._hub.receive_from_parent(SendOn(name, "there is a better server for this client now"))

    def _look(self, now: float) -> None:
        """Who below combiners should go, if some have come; nobody, if some have gone since."""
        there = frozenset(self._directory.combiners)
        if self._unlevelled:
            self._unlevelled, self._among = False, there
            try:
                self._misplaced = set(self._directory.misplaced(now))
            except Exception as error:  # noqa: BLE001 - a balancer is a plug-in and may raise anything: clients stay
                _log.error("the balancer has failed, and clients stay where they are", exc_info=error)
        elif there != self._among:
            self._misplaced.clear()


def _now() -> float:
    return asyncio.get_running_loop().time()
