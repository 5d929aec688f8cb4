"""Two ways to be the only leader: a lease by the database's clock, and a lock on a file of this host.

A lease is renewed every third of its length. A leader that was killed, stopped or cut off does not renew it, so another
takes over when it has run out, whether or not the database has noticed that anything is wrong. The file's lock is let
go by the kernel when the process ends, however it ends; one that is only stopped keeps it.
"""

import asyncio
import fcntl
import math
import os
import re
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TextIO

from hansa.errors import ConflictError, HansaError, InputError
from hansa.store.disk import explained

__all__ = ["LeaseLeadership", "Leases", "LockLeadership", "Queue"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_POLL: Final = 0.25
"""Seconds between two tries of a candidate."""
_TOLD: Final = 3.0
"""Seconds for which a candidate is known to wait that says nothing more; it says so three times in them."""


class Queue(Protocol):
    """Where candidates say that they wait; each call is one transaction."""

    async def await_turn(self, name: str, holder: str, lease: float) -> None:
        """Be known to wait for `lease` seconds from now."""

    async def leave_queue(self, name: str, holder: str) -> None:
        """Wait no more."""


class Leases(Queue, Protocol):
    """What a lease needs of a database; each call is one transaction."""

    async def holder(self, name: str) -> str:
        """Who holds a lease that has not run out; empty: nobody."""

    async def take(self, name: str, holder: str, lease: float) -> int | None:
        """The epoch of the new leader; None when another one's lease runs still."""

    async def renew(self, name: str, epoch: int, lease: float) -> bool:
        """Let the lease run on from now; False when somebody has led since."""

    async def give_up(self, name: str, epoch: int) -> None:
        """End the lease now."""


class _Claim(ABC):
    """What both have in common: a name, an epoch, and waiting."""

    def __init__(self, name: str, queue: Queue) -> None:
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot be the name of a leadership: write up to 64 of a-z, 0-9 and '-'")
        self.name = name
        self.lost = asyncio.Event()
        self._queue: Final = queue
        self._epoch = 0
        self._cause = ""

    @property
    @abstractmethod
    def held(self) -> bool:
        """Whether this process leads now, by its own clock."""

    @abstractmethod
    async def _try(self) -> str:
        """Take it if it is free: empty when it is ours now, else who holds it."""

    @abstractmethod
    async def release(self) -> None:
        """Let the next candidate have it at once; harmless when it is not held."""

    @property
    def epoch(self) -> int:
        """The number of the acquisition; 0 when there was none."""
        return self._epoch

    @property
    def cause(self) -> str:
        """Why it was lost; empty before."""
        return self._cause

    async def acquire(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  # each try is a whole one
        """Wait until it is held; `ConflictError`, naming who holds it, after `timeout` seconds."""
        if self.held:
            raise ConflictError(f"{self.name!r} is led from here already, as epoch {self._epoch}: release it first")
        until = None if timeout is None else time.monotonic() + timeout
        told = -math.inf
        while holder := await self._try():
            left = _POLL if until is None else until - time.monotonic()
            if left <= 0:
                raise ConflictError(f"{self.name!r} is led by {holder}: stop it first, or wait until it ends")
            if time.monotonic() - told >= _TOLD / 3:
                told = time.monotonic()
                with suppress(HansaError):  # people want to know who waits; who cannot say so waits all the same
                    await self._queue.await_turn(self.name, _this_process(), _TOLD)
            await asyncio.sleep(min(_POLL, left))
        if told > -math.inf:
            with suppress(HansaError):
                await self._queue.leave_queue(self.name, _this_process())

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        await self.release()


class LeaseLeadership(_Claim):
    """`Leadership` by a lease of `lease` seconds in a database that counts them."""

    def __init__(self, leases: Leases, name: str, lease: float) -> None:
        super().__init__(name, leases)
        if not lease > 0:
            raise InputError(f"a lease of {lease:g} s cannot be held: give it at least a second or two")
        self._leases: Final = leases
        self._lease: Final = lease
        self._holder: Final = _this_process()
        self._until = 0.0
        self._keeping: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether the lease runs still, by this process's clock, which started it before the database's did."""
        return self._keeping is not None and not self.lost.is_set() and time.monotonic() < self._until

    async def release(self) -> None:
        """End the lease; where the database cannot be told it runs out by itself."""
        keeping, self._keeping = self._keeping, None
        if keeping is None:
            return
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        if not self.lost.is_set():
            with suppress(HansaError, TimeoutError):
                async with asyncio.timeout(self._lease):
                    await self._leases.give_up(self.name, self._epoch)

    async def _try(self) -> str:
        holder = await self._leases.holder(self.name)
        if holder:
            return holder
        asked = time.monotonic()
        epoch = await self._leases.take(self.name, self._holder, self._lease)
        if epoch is None:
            return "another candidate, which was faster"
        if self._keeping is not None:
            self._keeping.cancel()
        self._epoch, self._until, self._cause = epoch, asked + self._lease, ""
        self.lost.clear()
        self._keeping = asyncio.create_task(self._keep(epoch))
        return ""

    async def _keep(self, epoch: int) -> None:
        """Renew until somebody has led since, or the database has not answered for a whole lease."""
        self._cause = "the lease was not renewed in time: this process or the database stood still"
        while True:
            await asyncio.sleep(min(self._lease / 3, max(0.0, self._until - time.monotonic())))
            asked = time.monotonic()
            # Also one that has run out is asked for once more: it is ours until another process has taken it.
            until = max(self._until, asked + self._lease / 3)
            renewed = await self._answer(self._leases.renew(self.name, epoch, self._lease), until)
            if renewed:
                self._until = asked + self._lease
            elif renewed is False:
                self._cause = "another process has led since: this one stood still for longer than its lease"
                break
            elif time.monotonic() >= self._until:
                break
        self.lost.set()

    async def _answer(self, asked: Coroutine[Any, Any, bool], until: float) -> bool | None:
        """The database's answer; None when there is none by `until`, or only an error."""
        task = asyncio.create_task(asked)
        try:
            # A database that answers nothing may not answer a cancellation either, so nobody waits for that.
            await asyncio.wait({task}, timeout=until - time.monotonic())
        finally:
            if not task.done():
                task.add_done_callback(lambda late: late.cancelled() or late.exception())
                task.cancel()
        if not task.done():
            return None
        try:
            return task.result()
        except HansaError as error:
            self._cause = str(error)
            return None


class LockLeadership(_Claim):
    """`Leadership` among the processes of one host, by a lock on the file `path`.

    advance: (name, holder) → the next epoch, stored.
    """

    def __init__(self, path: Path, name: str, advance: Callable[[str, str], Awaitable[int]], queue: Queue) -> None:
        super().__init__(name, queue)
        self.path: Final = path.with_name(f"{path.name}.{name}.lock")
        self._advance: Final = advance
        self._file: TextIO | None = None

    @property
    def held(self) -> bool:
        """Whether this object has the lock."""
        return self._file is not None

    async def release(self) -> None:
        """Let the lock go; the file stays."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    async def _try(self) -> str:
        with ExitStack() as undo, explained("lock", self.path):
            file = undo.enter_context(_lock_file(self.path))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                return file.readline().strip() or "another process"
            file.truncate(0)
            file.write(_this_process() + "\n")
            file.flush()
            self._epoch = await self._advance(self.name, _this_process())
            undo.pop_all()
            self._file = file
        return ""


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _lock_file(path: Path) -> TextIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "a+", encoding="utf-8")
