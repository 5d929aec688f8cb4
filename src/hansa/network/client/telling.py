"""What is told of a task on its way: to its session, as far as the site lets it leave, and to the site's ledger."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import structlog

from hansa.errors import StorageError, UserCodeError
from hansa.network.client.site import Site
from hansa.network.link import Link
from hansa.network.patience import patiently
from hansa.network.terminal import in_a_line
from hansa.wire.frames import FromNode, LogLine, OpenRound, Progress, Samples, TaskFailed, TaskStarted

__all__ = ["BYTES_OF_A_NUMBER", "Telling"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)

BYTES_OF_A_NUMBER = 8


class Telling:
    """The voice of one task."""

    def __init__(self, opened: OpenRound, client: str, site: Site, link: Link) -> None:
        """client: its name; site: what may leave, and where that is written down."""
        self._opened = opened
        self._key = opened.key
        self._client = client
        self._site = site
        self._link = link
        self._printed = 0
        """Bytes that were told since it was written down."""
        self._failed = 0
        """The same of failures that a party goes on without."""
        self._logged: Counter[str] = Counter()
        """The same of numbers, by their names."""
        self._has_logged = False
        self.code_has_ended = False
        """Whether all that is left to do is to write down what became of it, and to say so."""

    # ── of hansa's own ───────────────────────────────────────────────────────────────────────────────────────────

    def started(self) -> None:
        """Its code is at work."""
        self._link.send(TaskStarted(self._key, self._client))

    def progress(self, activity: str, done: float = 0, total: float = 0) -> None:
        """How far it is; keeps the lease. total: 0 where it is unknown."""
        self._link.send(Progress(self._key, self._client, activity, done, total))

    def warn(self, line: str) -> None:
        """A line in the session's log."""
        self._link.send(LogLine(self._key, self._client, line, "warning"))

    def kept_back(self, metrics: Collection[str]) -> None:
        """The site lets these not leave."""
        if metrics:
            self.warn(f"this site keeps back the metrics {', '.join(sorted(metrics))}")

    def approval(self) -> None:
        """A person must approve the session first: said here, and to the session."""
        session = self._key.run
        _log.warning("a session waits for approval", client=self._client, approve=f"hansa client approve {session}")
        self.warn("a person at this site must approve this session first; it waits")
        self.progress("approval")

    @asynccontextmanager
    async def meanwhile(self, activity: str) -> AsyncIterator[None]:
        """Whatever takes its time here is said, and keeps the lease."""
        saying = asyncio.create_task(self._say(activity))
        try:
            yield
        finally:
            saying.cancel()

    async def _say(self, activity: str) -> None:
        while True:
            await asyncio.sleep(self._opened.spec.rules.lease / 3)
            self.progress(activity)

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """As soon as this client's disk does its part: a task is not failed by one that is full for a while."""
        said = ""

        def tell(away: str) -> None:
            nonlocal said
            if away and away != said:
                self.warn(away)
            if away:
                self.progress("disk")
            said = away

        return await patiently(ask, who=f"client {self._client}", tell=tell)

    # ── of its code ──────────────────────────────────────────────────────────────────────────────────────────────

    def printed(self, line: str) -> None:
        """A line that user code printed: shown here, and told to the session."""
        print(f"[{self._client}] {in_a_line(line)}", flush=True)  # noqa: T201 - the owner's terminal shows the owner's code
        if self._site.policy.outbound.prints:
            self._printed += len(line)
            self._link.send(LogLine(self._key, self._client, line))

    def pass_on(self, frame: FromNode) -> None:
        """What a worker says on the way: no words of its code where the site keeps them."""
        if isinstance(frame, Samples):
            self._log_numbers(frame)
        elif isinstance(frame, TaskFailed):  # of a party that goes on
            said = self._site.words(UserCodeError(frame.message, frame.traceback))
            self._failed += len(str(said)) + len(said.traceback)
            self._link.send(replace(frame, message=str(said), traceback=said.traceback))
        elif self._site.policy.outbound.prints:
            self._link.send(frame)
        elif isinstance(frame, Progress):
            self._link.send(replace(frame, activity=frame.key.kind.value))

    def _log_numbers(self, frame: Samples) -> None:
        """Those that the site lets leave."""
        allowed, kept_back = self._site.logged(frame)
        if not self._has_logged:
            self._has_logged = True
            self.kept_back(kept_back)
        self._logged.update(sample.name for sample in allowed.values)
        if allowed.values:
            self._link.send(allowed)

    async def failed(self, error: UserCodeError) -> TaskFailed:
        """What the session is told of a failure of its code, which is written down."""
        said = self._site.words(error)
        await self._note("failure", len(str(said)) + len(said.traceback))
        return TaskFailed(self._key, self._client, str(said), said.traceback)

    async def settle(self) -> None:
        """Write down what was told of prints, failures and numbers."""
        printed, failed, logged = self._printed, self._failed, self._logged
        self._printed, self._failed, self._logged = 0, 0, Counter()
        if printed:
            await self._note("prints", printed)
        if failed:
            await self._note("failure", failed)
        if logged:
            await self._note("log", BYTES_OF_A_NUMBER * logged.total(), frozenset(logged))

    async def _note(self, kind: str, size: int, metrics: Collection[str] = ()) -> None:
        """Write down what was told in words; raises nothing that would hide what is told."""
        try:
            await asyncio.to_thread(self._site.says, self._opened, kind, size, metrics)
        except StorageError as error:
            _log.error("what has left cannot be written down", client=self._client, why=str(error))
