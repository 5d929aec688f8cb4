"""The row of a session under way. Who runs the session changes it, and a change holds once it is stored."""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from hansa.errors import HansaError, RunFailedError
from hansa.messages import Value
from hansa.network.controller.commit import Sign, sealed
from hansa.network.controller.journal import Journal, event
from hansa.network.patience import patiently
from hansa.store.ports import MetadataStore, RoundCommit
from hansa.store.records import SessionRecord, SessionState

__all__ = ["SessionRow", "failure"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class SessionRow:
    """A session from its start to its end, as it is stored; what is asked of a store that is away waits for it."""

    def __init__(self, session: SessionRecord, store: MetadataStore, journal: Journal, sign: Sign) -> None:
        """session: as stored; sign: with the server's own key."""
        self.session = session
        """As it is stored now."""
        self.under_way = asyncio.Event()
        """Set when the session is stored as running."""
        self.ending = False
        """Whether all that is left to do is to store that it is over, and to tell who took part."""
        self.away = ""
        """Which store it waits for, and what to do about it; empty while there is none."""
        self.leaving = asyncio.Event()
        """Set when the controller leaves: nobody waits for a store any more."""
        self._store = store
        self._journal = journal
        self._sign = sign
        self._changing = asyncio.Lock()
        """Held from reading `session` to storing what follows from it."""

    async def begin(self, message: str) -> None:
        """Store that it runs. message: for people."""
        running = {"state": SessionState.RUNNING, "started_at": time.time(), "cause": "", "ended_at": None}
        await self._note("session.started", message, running)
        self.under_way.set()

    async def commit(self, make: Callable[[SessionRecord], RoundCommit]) -> RoundCommit:
        """Commit the round that `make` makes of the session as it is then."""
        async with self._changing:
            made = make(self.session)
            await self.patiently(lambda: self._store.commit_round(made))
            self.session = made.session
        self._journal.notify(*made.events)
        return made

    async def keep(self, policy: str | None) -> None:
        """Keep models by another policy from now on; raises `StorageUnavailableError`."""
        async with self._changing:
            kept = replace(self.session, keep=policy)
            await self._store.put(kept)
            self.session = kept

    async def end(self, state: SessionState, cause: str) -> None:
        """Store that it is over, and why, which the server signs."""
        self.ending = True
        seal = await self.patiently(lambda: sealed(self.session, state, cause, self._store, self._sign))
        await self._note(f"session.{state}", cause, {"state": state, "cause": cause, "ended_at": time.time()}, **seal)
        _log.info("session ended", session=self.session.id, state=state.value, cause=cause)

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives, once the store that it asks is there; it may be asked more than once."""

        def tell(away: str) -> None:
            self.away = away

        return await patiently(ask, who=f"session {self.session.id}", leaving=self.leaving, tell=tell)

    async def _note(self, kind: str, message: str, changes: Mapping[str, Any], **data: Value) -> None:
        told = event(self.session.project, self.session.id, kind, message, **data)
        async with self._changing:
            session = replace(self.session, **changes)
            await self.patiently(lambda: self._store.put(session, told))  # if done twice, it is told twice
            self.session = session
        self._journal.notify(told)


def failure(error: Exception, session: str) -> str:
    """Why a session has failed, for people; what hansa does not expect has its traceback, there and in the log."""
    match error:
        case RunFailedError():
            return str(error)
        case HansaError():
            return f"{type(error).__name__}: {error}"
        case _:
            _log.error("a session failed in a plug-in, or in hansa itself", session=session, exc_info=error)
            return f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}"
