"""A session whose parties run the app's program: it invites them, relays what they say, and sees that it ends.

Nothing of it is committed on the way. A party that comes back, and a controller that does, begin the program anew: what
was said is kept, so that whoever runs again goes through it without waiting, to where it was.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
from blake3 import blake3

from hansa.algorithm import Partial
from hansa.errors import HansaError, RunFailedError, UserCodeError
from hansa.messages import Kind
from hansa.network.combiner.hub import Hub
from hansa.network.controller.commit import Sign
from hansa.network.controller.conversation import Conversation, Room
from hansa.network.controller.journal import Journal
from hansa.network.controller.letters import Letters
from hansa.network.controller.quotas import Quotas
from hansa.network.controller.row import SessionRow, failure
from hansa.network.controller.telling import Telling
from hansa.network.jobs import Jobs
from hansa.programs.ending import End
from hansa.rounds.why import Outstanding, RoundState, Why, listed
from hansa.run import check_program
from hansa.store.ports import MetadataStore, ObjectStore
from hansa.store.records import EventRecord, MetricRecord, SessionRecord, SessionState
from hansa.wire.frames import (
    CENTRAL,
    Blob,
    Closed,
    FromNode,
    OpenRound,
    Presence,
    Progress,
    RoundKey,
    TaskFailed,
    TaskStarted,
)

__all__ = ["Beside", "ProgramRunner", "ProgramSurroundings"]

_log = structlog.get_logger(__name__)

_STOOD_STILL: Final = 1.0
"""Seconds that a timer may be late, on a machine that has much to do."""
_MOST_FAILURES: Final = 100
"""Of one party, that are kept as events: one that goes on may say as many as it likes."""
_NOTHING: Final = Blob(blake3(b"").hexdigest(), 0)
"""The model of a task that has none."""


class Beside(Protocol):
    """How a party runs beside the server."""

    def __call__(
        self, session: SessionRecord, opened: OpenRound, conversation: Conversation
    ) -> Coroutine[Any, Any, None]:
        """Run it to its end, and keep what it leaves. Raises `HansaError`."""


@dataclass(frozen=True, slots=True)
class ProgramSurroundings:
    """What a program works with."""

    store: MetadataStore
    objects: ObjectStore
    journal: Journal
    hub: Hub
    connected: Callable[[], frozenset[str]]
    """Every client that is connected now."""
    quotas: Quotas
    sign: Sign
    beside: Beside
    letters: Path
    """A folder, in which every session has one of its own."""


class ProgramRunner:
    """Drives one session of parties to a terminal state, which always has a cause."""

    def __init__(self, session: SessionRecord, around: ProgramSurroundings) -> None:
        """session: as stored. Raises `ConfigError`."""
        check_program(session.spec)
        self.row = SessionRow(session, around.store, around.journal, around.sign)
        self._around = around
        self._parties = session.spec.parties
        self._key = RoundKey(session.id, 1, Kind.PROGRAM)
        self._package: Blob | None = None
        self._letters = Letters(around.letters / session.id)
        self.conversation = Conversation(
            self._key, self._parties, self._letters, Room(around.quotas, session.project), self._ended, self._fail
        )
        self._telling = Telling(session.project, session.id, around.journal)
        self._outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why it is over, once it is; or what has failed."""
        self._activities: dict[str, Progress] = {}
        self._stopped = ""
        self._noting: list[asyncio.Task[None]] = []
        self._jobs = Jobs()
        self._is_open = False
        self._missed: frozenset[int] = frozenset()
        """Parties without whom the others go on for now."""
        self._failures: Counter[str] = Counter()
        """Party → how often it has failed."""
        self._said_first = ""
        """What the first party said of whose failure people were told."""

    @property
    def session(self) -> SessionRecord:
        """As it is stored now."""
        return self.row.session

    # ── as of every session ──────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> SessionRecord:
        """Run to the end; returns the session as it is then."""
        try:
            await self._begin()
            cause = await self._over()
        except asyncio.CancelledError:  # the controller leaves: the program goes on when it is back
            self.row.leaving.set()
            await self.conversation.aclose()
            await self._jobs.aclose()
            await asyncio.gather(*self._noting, return_exceptions=True)
            raise
        except Exception as error:  # noqa: BLE001 - an error of hansa itself is a cause as well
            return await self._end(SessionState.FAILED, failure(error, self.session.id))
        return await self._end(SessionState.STOPPED if self._stopped else SessionState.FINISHED, cause)

    def receive(self, frame: FromNode) -> None:
        """A report of a party."""
        if getattr(frame, "key", None) != self._key:
            return
        match frame:
            case TaskStarted(client=client) | Progress(client=client) if client in self._parties:
                number = self._parties.index(client)
                self.conversation.heard[number] = asyncio.get_running_loop().time()
                if isinstance(frame, Progress):
                    self._activities[client] = frame
            case TaskFailed(client=client) if client in self._parties:
                self._party_failed(client, frame.message, frame.traceback, goes_on=frame.goes_on)
            case _:
                pass

    def takes_part(self, client: str) -> bool:
        """Whether this client is one of the parties."""
        return client in self._parties

    def engages(self, client: str) -> bool:
        """Whether a client has something to do in it."""
        return client in self._parties

    def presence(self, presence: Presence) -> None:
        """Clients came or went: a party that is back is invited again."""
        self._invite(tuple(present.client for present in presence.joined))

    def dismissed(self, client: str, why: str) -> None:
        """A client is a member of the network no more."""
        if client in self._parties and self._parties.index(client) not in self.conversation.ended:
            self._party_failed(client, why)

    def delivered(self, key: RoundKey, partial: Partial | None) -> None:
        """A sum: a program has none."""

    def stop(self, cause: str) -> None:
        """End it; what was said is kept, so that it can be resumed."""
        self._stopped = cause
        if not self._outcome.done():
            self._outcome.set_result(cause)

    def why(self) -> Why | None:
        """What it waits for; None before it has begun."""
        if not self._is_open:
            return None
        now, said, rules = asyncio.get_running_loop().time(), self.conversation, self.session.spec.rules
        connected = self._around.connected()
        outstanding = []
        for number, name in enumerate(self._parties):
            if number in said.ended or number in said.failed:
                continue
            here, silent = name == CENTRAL or name in connected, said.silence(number, now)
            shown = self._activities.get(name, Progress(self._key, name, "work", 0, 0))
            doing = said.said(number)
            activity = "away" if not here else doing if doing != "work" else shown.activity
            outstanding.append(
                Outstanding(name, activity, shown.done, shown.total, None, silent, now - silent + rules.deadline, here)
            )
        size, done = len(self._parties), len(said.ended)
        last = min((each.lease_ends for each in outstanding), default=None)
        return Why(
            now=now, round=1, kind=Kind.PROGRAM, state=RoundState.OPEN, connected=len(connected), needed=size,
            invited=size, accepted=done, examples=0, quorum=size, enough=None, deadline=last,
            outstanding=tuple(outstanding), withdrawn=(), rejected=0, failed=len(said.failed),
        )  # fmt: skip

    # ── its life ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _begin(self) -> None:
        session = self.session
        await self.row.begin(f"{session.name} begins with {len(self._parties)} parties")
        if session.package is not None:
            package = session.package
            self._package = Blob(package, await self.row.patiently(lambda: self._around.objects.size(package)))
        await self.row.patiently(self.conversation.open)
        self._is_open = True
        self._telling.opened(self._key)
        self._invite(self._parties)
        if CENTRAL in self._parties and self._parties.index(CENTRAL) not in self.conversation.ended:
            beside = self._around.beside(session, self._opened(CENTRAL), self.conversation)
            self._jobs.start(beside, self._fail)

    async def _over(self) -> str:
        """Wait until it is over, or a party was silent for too long."""
        loop, deadline = asyncio.get_running_loop(), self.session.spec.rules.deadline
        while not self._outcome.done():
            now, said = loop.time(), self.conversation
            silent = {
                number: said.silence(number, now)
                for number, name in enumerate(self._parties)
                if number not in said.ended and number not in said.failed and name != CENTRAL
            }
            late = {number: seconds for number, seconds in silent.items() if seconds >= deadline}
            self._check_late(late)
            said.changed.clear()
            await self.row.patiently(lambda: said.go_without(late))  # noqa: B023 - done before the next look
            left = set(range(len(self._parties))) - said.ended.keys()
            if left and left <= {*late, *said.failed}:
                return self._without(left)
            due = now + deadline - max((each for each in silent.values() if each < deadline), default=0.0)
            await self._news(due - now)
            stood = loop.time() - due
            if stood > _STOOD_STILL:  # this process itself: what the parties have said is not read yet
                self.conversation.heard = {each: at + stood for each, at in said.heard.items()}
        return await self._outcome

    def _check_late(self, late: Mapping[int, float]) -> None:
        """Raise where others need one that is silent, or has failed; else tell of who is missed now.

        late: party → its silence, s.
        """
        said = {
            number: f"nothing was heard of party {number} ({self._parties[number]}) for {seconds:.0f} seconds"
            for number, seconds in late.items()
        }
        failed = self.conversation.failed
        needed = self.conversation.needed(late)
        for number in needed:
            if number in failed:
                raise self._fatal(number, failed[number])
        if needed:
            longest = max(needed, key=late.__getitem__)
            remedy = "see that its client runs, and resume the session: what was said is kept"
            raise RunFailedError(f"{said[longest]}: {remedy}")
        said |= {
            number: f"party {number} ({self._parties[number]}) has failed"
            for number in failed.keys() & self.conversation.dispensable
        }
        for number in sorted(said.keys() - self._missed):
            told = f"{said[number]}: the others go on without it until it is back"
            self._around.journal.later(self._telling.event("party.missed", told, client=self._parties[number]))
        self._missed = frozenset(said)

    async def _news(self, seconds: float) -> None:
        """Wait for the outcome, or until something has changed in who waits for whom; at most so long."""
        changed = asyncio.create_task(self.conversation.changed.wait())
        try:
            both: set[asyncio.Future[Any]] = {self._outcome, changed}
            await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()

    def _without(self, left: Iterable[int]) -> str:
        """How it has ended without some parties."""
        failed = sorted(self.conversation.failed.keys() & left)
        away = sorted(set(left) - self.conversation.failed.keys())
        words = [
            f"{listed(self._parties[number] for number in numbers)} {what}"
            for numbers, what in ((failed, "failed"), (away, "stayed away"))
            if numbers
        ]
        ended, size = len(self.conversation.ended), len(self._parties)
        return f"{ended} of {size} parties have ended; {', '.join(words)}"

    def _invite(self, names: tuple[str, ...]) -> None:
        """Those parties among them that are connected, and have not ended, are to run the program."""
        connected, ended = self._around.connected(), self.conversation.ended
        due = {name for number, name in enumerate(self._parties) if number not in ended} & connected & set(names)
        if self._is_open and not self._outcome.done() and due:
            now = asyncio.get_running_loop().time()
            invited = {self._parties.index(name): now for name in due}
            self.conversation.heard |= invited
            for number in invited:
                self.conversation.failed.pop(number, None)
            self._around.hub.receive_from_parent(self._opened(*sorted(due)))

    def _opened(self, *names: str) -> OpenRound:
        return OpenRound(self._key, self.session.spec, _NOTHING, names, self._package)

    def _ended(self, number: int, end: End, new: bool) -> None:  # noqa: FBT001 - as `Conversation` says it
        """A party has ended: its numbers are kept, and with the last one all is over."""
        name, metrics = self._parties[number], {key: value.item() for key, value in end.metrics.items()}
        self._noting.append(asyncio.create_task(self._keep_end(name, metrics, new=new)))
        if len(self.conversation.ended) == len(self._parties) and not self._outcome.done():
            asyncio.get_running_loop().call_soon(self._finish)  # after it was seen whether all was read

    def _finish(self) -> None:
        if not self._outcome.done():
            self._outcome.set_result(f"all {len(self._parties)} parties have ended")

    async def _keep_end(self, name: str, metrics: Mapping[str, float], *, new: bool) -> None:
        session, now = self.session, time.time()
        kind, key = Kind.PROGRAM, f"{session.id}/1/{Kind.PROGRAM}/{name}"
        rows: list[MetricRecord | EventRecord] = [
            MetricRecord(f"{key}/{each}", session.project, session.id, 1, kind, each, value, 1, name, now)
            for each, value in metrics.items()
        ]
        shown = ", ".join(f"{each} {value:.4g}" for each, value in metrics.items())
        if new:
            message = f"{name} has ended" + f": {shown}" * bool(shown)
            rows.append(self._telling.event("party.ended", message, client=name, metrics=dict(metrics)))
        await self.row.patiently(lambda: self._around.store.put(*rows))
        self._around.journal.notify()

    def _party_failed(self, client: str, message: str, said: str = "", *, goes_on: bool = False) -> None:
        """Told at once; whether the others go on without it is found when they need it, or say that they do not."""
        number, whole = self._parties.index(client), message + f"\n{said}" * bool(said)
        self._failures[client] += 1
        if self._failures[client] <= _MOST_FAILURES:
            told = self._telling.event("task.failed", f"{client} failed: {message}", client=client, traceback=said)
            self._around.journal.later(told)
        self._said_first = self._said_first or f"{client} said: {whole}"
        if not goes_on:
            self.conversation.failed[number] = whole
            self.conversation.changed.set()

    def _fatal(self, number: int, said: str) -> RunFailedError:
        """A party has failed that the others need; who failed before it may be why."""
        before = self._said_first.partition(" said: ")[2] != said
        told = f"party {number} ({self._parties[number]}) failed: {said}"
        return RunFailedError(told + f"\n{self._said_first}" * bool(self._said_first and before))

    def _fail(self, error: BaseException) -> None:
        """It cannot go on; the first reason stands."""
        if self._outcome.done():
            return
        if isinstance(error, UserCodeError):
            error = self._fatal(self._parties.index(CENTRAL), f"{error}\n{error.traceback}".rstrip())
        self._outcome.set_exception(error)

    async def _wait_again(self) -> None:
        """For who stayed away at the last: with it, the session may come to another end when it is resumed."""
        try:
            await asyncio.to_thread(self._letters.wait_again)
        except HansaError as error:
            _log.warning("who stays away stays noted", session=self.session.id, why=str(error))

    async def _end(self, state: SessionState, cause: str) -> SessionRecord:
        await self.conversation.aclose()
        await self._jobs.aclose()
        for flaw in await asyncio.gather(*self._noting, return_exceptions=True):
            if flaw is not None:
                _log.error("what a party came to could not be stored", session=self.session.id, exc_info=flaw)
        if state is SessionState.FINISHED:
            await asyncio.to_thread(self._letters.remove)
        else:
            await self._wait_again()
        await self.row.end(state, cause)
        self._around.hub.receive_from_parent(Closed(self._key, (), cause.partition("\n")[0]))
        return self.session
