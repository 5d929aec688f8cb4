"""How much a project may use: sessions at once, bytes, clients. The one place that decides whether there is room.

One controller leads over a store and everything that counts passes through it, so a place that is given here, and not
stored yet, is remembered here: of two who ask at once for the last one, one gets it, whatever the database is.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Final, TypeVar

from hansa.errors import NotFoundError, QuotaExceededError, StorageUnavailableError
from hansa.network.controller.audit import audit_line
from hansa.network.controller.throttle import Throttle
from hansa.store.paging import PAGE, every
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import ModelRecord, NodeRecord, PackageRecord, ProjectRecord, Record, TokenRecord
from hansa.wire.frames import Role

__all__ = ["UNBOUNDED", "Quota", "QuotaKind", "Quotas", "Use"]

R = TypeVar("R", bound=Record)

_REFUSALS: Final = 60
"""Refusals of a project in a minute that are noted in the audit record."""


class QuotaKind(StrEnum):
    """What is bounded."""

    SESSIONS = "sessions"
    STORAGE = "storage"
    CLIENTS = "clients"


@dataclass(frozen=True, slots=True)
class Quota:
    """The most of each; None: any."""

    sessions: int | None = None
    """At once."""
    storage: int | None = None
    """Bytes of the objects that a project's rows hold on to, each counted once."""
    clients: int | None = None
    """That have joined, or hold a join token."""


UNBOUNDED: Final = Quota()


@dataclass(frozen=True, slots=True)
class Use:
    """What a project uses of one quota."""

    used: int
    most: int | None
    """None: any."""
    own: bool
    """Whether the project has a quota of its own, or the server's default."""


class Quotas:
    """Who asks for room here gets it or a `QuotaExceededError`; nothing is written by then."""

    def __init__(
        self, store: MetadataStore, defaults: Quota = UNBOUNDED, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """defaults: of projects that have none of their own; clock: seconds; it never goes back."""
        self.simulating: Counter[str] = Counter()
        """Project → simulations that run on the server: they count as sessions."""
        self._store = store
        self._defaults = defaults
        self._clock = clock
        self._known: dict[str, Quota] = {}
        self._changes: Counter[str] = Counter()
        """Project → how often its quotas were changed here: what was read before is not remembered."""
        self._promised: Counter[str] = Counter()
        """Project → bytes that somebody is about to store."""
        self._turn = asyncio.Lock()
        self._refusals = Throttle(_REFUSALS, 60.0)

    async def of(self, project: str) -> Quota:
        """What holds for a project."""
        known = self._known.get(project)
        if known is None:
            before = self._changes[project]
            try:
                own = _own(await self._store.get(ProjectRecord, project, project))
            except NotFoundError:
                return self._defaults
            given = {field.name: getattr(own, field.name) for field in fields(own)}
            chosen = {name: value for name, value in given.items() if value is not None}
            known = replace(self._defaults, **chosen)
            if before == self._changes[project]:
                self._known[project] = known
        return known

    async def use(self, project: str, running: int) -> Mapping[QuotaKind, Use]:
        """What a project uses; running: its sessions now."""
        own, most = _own(await self._store.get(ProjectRecord, project, project)), await self.of(project)
        used = {
            QuotaKind.SESSIONS: running + self.simulating[project],
            QuotaKind.STORAGE: await self._store.stored_bytes(project),
            QuotaKind.CLIENTS: len(await self._clients(project)),
        }
        return {kind: Use(count, getattr(most, kind), getattr(own, kind) is not None) for kind, count in used.items()}

    async def change(self, project: str, changes: Mapping[QuotaKind, int | None], by: str) -> ProjectRecord:
        """Set some of a project's quotas, None: to the server's default. What is used already stays."""
        async with self._turn:
            record = await self._store.get(ProjectRecord, project, project)
            changed = replace(
                record,
                max_sessions=changes.get(QuotaKind.SESSIONS, record.max_sessions),
                max_storage=changes.get(QuotaKind.STORAGE, record.max_storage),
                max_clients=changes.get(QuotaKind.CLIENTS, record.max_clients),
            )
            said = ", ".join(f"{kind} {'default' if most is None else most}" for kind, most in changes.items())
            try:
                await self._store.put(changed, audit_line(project, by, "project.quota", project, detail=said))
            finally:  # whether a write that failed was done is unknown
                self._known.pop(project, None)
                self._changes[project] += 1
        return changed

    # ── asking for room ──────────────────────────────────────────────────────────────────────────────────────────

    async def need_session(self, project: str, running: int, by: str) -> None:
        """Raise unless one more session may run, and store what its rounds make. Ask with sessions held as they are."""
        most = await self.of(project)
        running += self.simulating[project]
        if most.sessions is not None and running >= most.sessions:
            raise await self._refused(project, QuotaKind.SESSIONS, by, f"{running} of {most.sessions} run")
        if most.storage is not None and (used := await self._store.stored_bytes(project)) >= most.storage:
            raise await self._refused(
                project, QuotaKind.STORAGE, by, f"{_bytes(used)} of {_bytes(most.storage)} are used"
            )

    async def need_prediction(self, project: str, by: str) -> None:
        """Raise unless there is room for answers, which count beside the objects that a project holds on to."""
        most = (await self.of(project)).storage
        if most is None:
            return
        used = await self._store.stored_bytes(project) + await self._store.answered_bytes(project)
        if used >= most:
            said = f"{_bytes(used)} of {_bytes(most)} are used, predictions among them"
            raise await self._refused(project, QuotaKind.STORAGE, by, said)

    @asynccontextmanager
    async def storing(self, project: str, digest: str, size: int, by: str) -> AsyncIterator[None]:
        """Room for an object while it is stored and its row is written; one that the project has takes none."""
        needed = 0 if await self._holds(project, digest) else size
        try:
            await self.reserve(project, needed)
        except StorageUnavailableError as error:
            if (cause := error.__cause__) is None or not isinstance(cause, QuotaExceededError):
                raise
            raise await self._refused(project, QuotaKind.STORAGE, by, str(cause)) from None
        try:
            yield
        finally:
            self.release(project, needed)

    async def reserve(self, project: str, size: int) -> None:
        """Promise bytes, until they are `release`d; raises `StorageUnavailableError` when there is no room (yet)."""
        async with self._turn:
            most, promised = (await self.of(project)).storage, self._promised[project]
            if most is not None and size:
                used = promised + await self._store.stored_bytes(project)
                if used + size > most:
                    flaw = QuotaExceededError(
                        f"{_bytes(used)} of {_bytes(most)} are used, and {_bytes(size)} more are needed"
                    )
                    raise StorageUnavailableError(_sentence(project, QuotaKind.STORAGE, str(flaw))) from flaw
            self._promised[project] += size

    def release(self, project: str, size: int) -> None:
        """What was promised is stored, or will not be."""
        self._promised[project] -= size

    @asynccontextmanager
    async def admitting(self, project: str, client: str, by: str) -> AsyncIterator[None]:
        """A place for a client while its join token is made; one that has joined, or may, has a place already."""
        async with self._turn:
            most = (await self.of(project)).clients
            if most is not None:
                known = await self._clients(project)
                if client not in known and len(known) >= most:
                    raise await self._refused(
                        project, QuotaKind.CLIENTS, by, f"{len(known)} of {most} have joined, or hold a join token"
                    )
            yield

    async def refuse_client(self, project: str, client: str, connected: int, most: int) -> QuotaExceededError:
        """The error for a client that asks to join and may not, once it is noted."""
        return await self._refused(project, QuotaKind.CLIENTS, client, f"{connected} of {most} are connected")

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _refused(self, project: str, kind: QuotaKind, by: str, use: str) -> QuotaExceededError:
        """The error to raise. Of one project so many refusals in a minute are noted: nobody can fill the disk."""
        now = self._clock()
        if self._refusals.wait(project, now) <= 0:
            self._refusals.count(project, now)
            await self._store.put(audit_line(project, by, "quota", kind.value, outcome="refused", detail=use))
        return QuotaExceededError(_sentence(project, kind, use))

    async def _holds(self, project: str, digest: str) -> bool:
        for kind in (ModelRecord, PackageRecord):
            rows = (await self._store.list(kind, Query(project, {"id": digest}, limit=PAGE))).items
            if any(getattr(row, "pruned_at", None) is None for row in rows):
                return True
        return False

    async def _clients(self, project: str) -> frozenset[str]:
        """Those that have joined, and those that hold a join token still."""
        now = time.time()
        mine: dict[str, str | bool] = {"role": Role.CLIENT.value, "revoked": False}
        joined = {node.name async for node in every(self._store, NodeRecord, Query(project, mine))}
        may = {
            token.name
            async for token in every(self._store, TokenRecord, Query(project, mine))
            if token.used_at is None and (token.expires_at is None or token.expires_at > now)
        }
        return frozenset(joined | may)


def _own(record: ProjectRecord) -> Quota:
    return Quota(record.max_sessions, record.max_storage, record.max_clients)


def _sentence(project: str, kind: QuotaKind, use: str) -> str:
    remedy = {
        QuotaKind.SESSIONS: "wait for one to end, or stop one",
        QuotaKind.STORAGE: "free some (hansa prune, hansa session delete)",
        QuotaKind.CLIENTS: "revoke a client (hansa node revoke)",
    }[kind]
    return (
        f"project {project} has no room in its quota of {kind}: {use}; {remedy}, or ask a site administrator to raise "
        f"it: hansa project quota {project} --{kind} …"
    )


def _bytes(count: int) -> str:
    """812 bytes, 2.6 kB, 41 MB."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:  # noqa: PLR2004 - SI prefixes
            return f"{value:.4g} {unit}"
        value /= 1000
    return f"{value:.4g} TB"
