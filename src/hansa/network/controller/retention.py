"""What policies give up is removed: rows are marked first, in a transaction that lists the objects; then the bytes go.

A crash between the two leaves the list, and whoever leads next goes on with it. An object goes only when no row of any
project needs it and nobody in this process holds it; a leader that leads no more removes nothing.
"""

import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import structlog

from hansa.errors import ConflictError, NotFoundError, StorageUnavailableError
from hansa.network.controller.holds import Holds
from hansa.store.completion import completed
from hansa.store.ports import MetadataStore, ObjectStore, Pruned, Query, Release
from hansa.store.records import MetricRecord, SessionRecord
from hansa.store.retention import Best, Direction, Policy

__all__ = ["PruneReport", "PrunedSession", "Removed", "Retention"]

_log = structlog.get_logger(__name__)

_MOST = 1_000_000
"""Rounds that a session may have."""
_AT_ONCE = 500
"""Objects that are looked at together."""


@dataclass(frozen=True, slots=True)
class PrunedSession:
    """What one session's policy gave up."""

    session: str
    name: str
    keep: str
    """The policy."""
    models: tuple[int, ...]
    """The rounds whose models it was."""
    states: tuple[int, ...]
    """The rounds whose states of the algorithm it was."""
    aggregates: tuple[int, ...]
    """The rounds of which it was what they had added to the model."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Objects that are gone, or would be."""

    objects: int = 0
    bytes: int = 0

    def __add__(self, other: "Removed") -> "Removed":
        return Removed(self.objects + other.objects, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was pruned; in a dry run what would be."""

    dry_run: bool
    sessions: tuple[PrunedSession, ...]
    """Those whose policies gave something up; one that runs does so itself, after each round."""
    objects: int
    """Objects that were removed."""
    bytes: int
    """Bytes of these objects."""
    unreferenced: int
    """How many of them were named by no row: of rounds that were never committed, or of deleted sessions."""
    waiting: int
    """Objects that are still to be removed, because they are in use."""


class Retention:
    """Removes what is not needed, beside everything that stores or reads."""

    def __init__(self, store: MetadataStore, objects: ObjectStore, default: Policy, leads: Callable[[], bool]) -> None:
        """default: for sessions without a policy of their own; leads: whether this process may remove anything now."""
        self.holds = Holds()
        self._store = store
        self._objects = objects
        self._default = default
        self._leads = leads
        self._removals = 0
        """Objects that were removed since this process began."""

    async def put(self, parts: Sequence[bytes | memoryview]) -> str:
        """Store an object, and hold it: `holds.release` it once the row that names it is written."""
        before = self._removals
        digest = await self._objects.put(parts)
        await self.holds.hold(digest)
        with ExitStack() as undo:
            undo.callback(self.holds.release, digest)
            if self._removals != before:  # perhaps of this object, after it was found to be there
                await self._objects.put(parts)
            undo.pop_all()
        return digest

    def policy(self, session: SessionRecord) -> Policy:
        """By which a session's models are kept."""
        return self._default if session.keep is None else Policy.parse(session.keep)

    async def prune(self, session: SessionRecord) -> None:
        """Give up what a session's policy does not keep, and remove what nobody needs then.

        One that keeps all rounds is not looked at after each of them: what it kept by another policy is for `sweep`.
        """
        if not self.policy(session).keeps_all:
            await self._give_up(session)
            await self.finish()

    async def sweep(self, sessions: Sequence[SessionRecord], grace: float, *, dry_run: bool) -> PruneReport:
        """Prune these sessions, and remove what no row needs and what has been there for `grace` seconds."""
        return await (self._foresee if dry_run else self._sweep)(sessions, grace)

    async def finish_deletion(self, deleted: str) -> None:
        """Remove the bytes that a deletion has freed, now or when the store is back."""
        try:
            await self.finish()
        except StorageUnavailableError as error:
            _log.warning("the objects of what was deleted are removed later", deleted=deleted, why=str(error))

    async def finish(self) -> Removed:
        """Remove what is listed to be removed and not in use."""
        removed = Removed()
        while True:
            with self.holds.claim(await self._store.removals(_AT_ONCE)) as claimed:
                if not claimed:
                    return removed
                removed += await self._remove(claimed)
                await self._store.removed(claimed)

    async def discard(self, digests: frozenset[str]) -> frozenset[str]:
        """Remove those that no row needs; returns those that are in use."""
        with self.holds.claim(digests) as claimed:
            await self._remove(claimed)
        return digests - claimed

    async def _sweep(self, sessions: Sequence[SessionRecord], grace: float) -> PruneReport:
        told = [(await self._give_up(session))[0] for session in sessions]
        removed, unreferenced = await self.finish(), Removed()
        async for batch in self._stored_for(grace):
            with self.holds.claim(batch) as claimed:
                unreferenced += await self._remove(claimed)
        both = removed + unreferenced
        return PruneReport(
            dry_run=False,
            sessions=tuple(filter(None, told)),
            objects=both.objects,
            bytes=both.bytes,
            unreferenced=unreferenced.objects,
            waiting=len(await self._store.removals(_MOST)),
        )

    async def _foresee(self, sessions: Sequence[SessionRecord], grace: float) -> PruneReport:
        """What `_sweep` would do, but for objects that another project needs too."""
        given_up = [await self._give_up(session, dry_run=True) for session in sessions]
        listed = frozenset(await self._store.removals(_MOST)).union(*(digests for _, digests in given_up))
        removed, unreferenced = Removed(), Removed()
        async for batch in self._stored_for(0.0):
            removed += Removed(len(listed & batch.keys()), sum(batch[digest] for digest in listed & batch.keys()))
        async for batch in self._stored_for(grace):
            with self.holds.claim(batch.keys() - listed) as claimed:
                free = claimed - await self._store.needed(claimed)
            unreferenced += Removed(len(free), sum(batch[digest] for digest in free))
        both = removed + unreferenced
        return PruneReport(
            dry_run=True,
            sessions=tuple(filter(None, (told for told, _ in given_up))),
            objects=both.objects,
            bytes=both.bytes,
            unreferenced=unreferenced.objects,
            waiting=0,
        )

    async def _stored_for(self, grace: float) -> AsyncIterator[dict[str, int]]:
        """Digest → bytes of every object that has been there for longer, some at a time."""
        until = time.time() - grace
        batch: dict[str, int] = {}
        async for stored in self._objects.list():
            if stored.stored_at <= until:
                batch[stored.digest] = stored.size
            if len(batch) == _AT_ONCE:
                yield batch
                batch = {}
        yield batch

    async def _give_up(
        self, session: SessionRecord, *, dry_run: bool = False
    ) -> tuple[PrunedSession | None, frozenset[str]]:
        """Mark what the policy does not keep: (what it was, its objects)."""
        policy = self.policy(session)
        release = await self._release(session, policy)
        if release is None:
            return None, frozenset()
        parts = [await self._store.prunable(release, _MOST)] if dry_run else await self._mark(release, str(policy))
        models = tuple(number for part in parts for number, _ in part.models)
        states = tuple(number for part in parts for number, _ in part.states)
        aggregates = tuple(number for part in parts for number, _ in part.aggregates)
        digests = frozenset[str]().union(*(part.digests for part in parts))
        told = PrunedSession(session.id, session.name, str(policy), models, states, aggregates)
        return told if digests else None, digests

    async def _mark(self, release: Release, by: str) -> Sequence[Pruned]:
        """What is marked now; what is in use is left."""
        parts: list[Pruned] = []
        while True:
            found = await self._store.prunable(release)
            with self.holds.claim(found.digests) as claimed:
                if not claimed:
                    return parts
                parts.append(await self._store.prune(release, claimed, at=time.time(), by=by))

    async def _release(self, session: SessionRecord, policy: Policy) -> Release | None:
        """What the policy gives up; nothing as long as no round has a value by which it could be the best."""
        if policy.keeps_all and policy.aggregates:
            return None
        kept = [await self._best(session, best) for best in policy.best]
        numbers = frozenset(number for number in kept if number is not None)
        if None in kept:
            return None
        before = policy.first_of_last(session.round)
        return Release(session.project, session.id, before, numbers, all_aggregates=not policy.aggregates)

    async def _best(self, session: SessionRecord, best: Best) -> int | None:
        """The round with the best value, the earliest of equal ones."""
        where: dict[str, str | float] = {
            "session": session.id,
            "kind": best.source.kind.value,
            "name": best.metric,
            "client": best.source.client,
        }
        order = "-value" if best.direction is Direction.MAX else "value"
        page = await self._store.list(MetricRecord, Query(session.project, where, sort=order, limit=1))
        if not page.items or math.isnan(page.items[0].value):
            return None
        equal = Query(session.project, where | {"value": page.items[0].value}, sort="round", limit=1)
        return (await self._store.list(MetricRecord, equal)).items[0].round

    async def _remove(self, claimed: frozenset[str]) -> Removed:
        """The bytes of those that no row needs; who is cancelled hears of it when the one under way is gone."""
        removed = Removed()
        free = claimed - await self._store.needed(claimed) if claimed else claimed
        for digest in sorted(free):
            removed += await completed(self._remove_one(digest))
        return removed

    async def _remove_one(self, digest: str) -> Removed:
        try:
            size = await self._objects.size(digest)
        except NotFoundError:
            return Removed()
        if not self._leads():
            raise ConflictError("nothing is removed: this controller does not lead any more")
        await self._objects.delete(digest)
        self._removals += 1
        _log.info("an object was removed", digest=digest, bytes=size)
        return Removed(1, size)
