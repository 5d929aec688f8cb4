"""How the installation is: its replicas, what passes through it, what it stores, and which nodes fail."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

from hansa.api.results import Failing, Replica, SystemState
from hansa.network.combiner.traffic import WINDOW
from hansa.network.controller.controller import Controller
from hansa.network.controller.server import LEADERSHIP
from hansa.store.paging import every
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import ClientRecord, CombinerRecord, EventRecord, ProjectRecord
from hansa.wire.frames import Role

__all__ = ["system_state"]

_HOUR: Final = 3600.0
_DAY: Final = 86_400.0
_SHOWN: Final = 100
"""Nodes that fail and are listed."""
_LONGEST: Final = 500
"""Characters of a cause."""


async def system_state(controller: Controller, data: Path, clock: Callable[[], float] = time.time) -> SystemState:
    """What an operator looks at. data: the server's data folder; clock: POSIX seconds."""
    store, now = controller.store, clock()
    leader, waiting = await store.replicas(LEADERSHIP)
    projects = [each async for each in every(store, ProjectRecord, Query(""))]
    rounds = updates = stored = 0
    failing: list[Failing] = []
    for project in projects:
        stored += await store.stored_bytes(project.id)
        async for event in _since(store, project.id, "round.committed", now - WINDOW):
            rounds, updates = rounds + 1, updates + int(str(event.data.get("accepted", 0)))
        failing += await _failing(store, project.id, now)
    sent, received = controller.traffic.lately()
    disk = await asyncio.to_thread(shutil.disk_usage, data)
    return SystemState(
        replicas=(Replica(leader, leads=True), *(Replica(name, leads=False) for name in waiting)),
        window=WINDOW,
        rounds=rounds,
        updates=updates,
        sent=sent,
        received=received,
        stored=stored,
        disk_free=disk.free,
        disk_size=disk.total,
        streams=controller.journal.following,
        lag=controller.journal.lag,
        certificate_ends=await controller.certificate_ends(),
        failing=tuple(sorted(failing, key=lambda one: -one.last_at)[:_SHOWN]),
    )


async def _failing(store: MetadataStore, project: str, now: float) -> list[Failing]:
    """Nodes of a project: those whose tasks have failed, and those that have gone."""
    newest: dict[str, EventRecord] = {}
    times: dict[str, int] = {}
    async for event in _since(store, project, "task.failed", now - _HOUR):
        name = str(event.data.get("client", ""))
        newest.setdefault(name, event)
        times[name] = times.get(name, 0) + 1
    away: dict[str, float] = {}
    combiners: set[str] = set()
    for kind in (ClientRecord, CombinerRecord):
        gone = {one.name: one.last_seen for one in await _away(store, kind, project) if one.last_seen > now - _DAY}
        combiners |= gone.keys() if kind is CombinerRecord else set()
        away |= gone
    return [
        Failing(
            project,
            name,
            Role.COMBINER if name in combiners else Role.CLIENT,
            name not in away,
            times.get(name, 0),
            newest[name].at if name in newest else away[name],
            newest[name].message[:_LONGEST] if name in newest else "its connection ended",
        )
        for name in newest.keys() | away.keys()
    ]


async def _away(store: MetadataStore, kind: type[Any], project: str) -> tuple[Any, ...]:
    """Nodes that are away, those that were seen last first."""
    query = Query(project, {"connected": False}, sort="-last_seen", limit=_SHOWN)
    return (await store.list(kind, query)).items


async def _since(store: MetadataStore, project: str, kind: str, since: float) -> AsyncIterator[EventRecord]:
    """Events of a kind, the newest first, back to a time."""
    async for event in every(store, EventRecord, Query(project, {"kind": kind}, sort="-id")):
        if event.at < since:
            return
        yield event
