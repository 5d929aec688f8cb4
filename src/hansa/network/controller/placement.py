"""Clients that came to the root while there was no combiner for them: they are sent on when nobody misses them.

After everything was started at once, or the only combiner was away, the root would otherwise have them for ever. They
go when combiners are there and no more have come for a while, each outside of what it takes part in: a session that
runs has them go between two of its rounds, and waits until they are back.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from hansa.network.combiner.hub import Hub
from hansa.network.controller.directory import Directory
from hansa.wire.frames import ROOT, Presence

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
        self._arrived = asyncio.Event()

    def heard(self, presence: Presence) -> None:
        """Who came and went; the directory knows it already."""
        if presence.combiners:
            self._due = _now() + self._quiet
        if presence.combiners or any(present.combiner == ROOT for present in presence.joined):
            self._news.set()
        self._on_their_way.difference_update(present.client for present in presence.joined)
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
            while self._directory.strays(_now()):
                await asyncio.sleep(max(self._due - _now(), _LOOK))
                self._send_on()

    def _send_on(self) -> None:
        if _now() < self._due:
            return
        for name in self._directory.strays(_now()):
            child = self._hub.children.streams.get(name)
            if child is not None and not self._engages(name):
                _log.info("a client is sent on to a combiner", client=name)
                self._on_their_way.add(name)
                child.close("there is a combiner for this client now")


def _now() -> float:
    return asyncio.get_running_loop().time()
