"""The workers that one process runs: their coroutines, what has arrived for them, and in which order they go on.

Each goes on until it waits for what has not arrived; then the next one does, by number. There is no clock in it.
"""

import inspect
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from secrets import token_bytes
from typing import Any

import structlog

from hansa.app import users_traceback
from hansa.errors import DeadlockError, HansaError, InputError, RunFailedError, UserCodeError
from hansa.programs.encoding import decode, encode
from hansa.protocols.message import name_of, schema_of
from hansa.protocols.topology import AnyTopology
from hansa.protocols.worker import Program, Receive, Worker
from hansa.run import derive_rng

__all__ = ["Crew", "Ended", "Post", "Tell"]

_log = structlog.get_logger(__name__)

Post = Callable[[int, int, bytes], None]
"""(sender, receiver, frame): carries a message to another process."""
Tell = Callable[[UserCodeError], None]
"""Tells people of what a program goes on without, with its traceback."""

_SHOWN = 8
"""Workers that a message of an error names."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What is left of a worker that has ended."""

    result: bytes
    """Its encoded result; empty where it returned None."""
    messages: int
    """Messages that it sent."""
    sent: int
    """Bytes of them."""


@dataclass(slots=True)
class _Member:
    coroutine: Coroutine[Any, Any, Any]
    waits: Receive | None = None
    mail: dict[int, deque[bytes]] = field(default_factory=dict)
    """Sender → frames that were not read yet."""
    messages: int = 0
    sent: int = 0


class Crew:
    """Some workers of a run, in one process."""

    def __init__(
        self,
        numbers: Iterable[int],
        program: Program,
        topology: AnyTopology,
        seed: int,
        post: Post,
        *,
        settings: Mapping[str, str] | None = None,
        secret: Callable[[], bytes] | None = None,
        has_sent: Callable[[int, bytes], bool] = lambda _receiver, _frame: False,
        tell: Tell | None = None,
    ) -> None:
        """numbers: the workers that are run here; post: for messages to the others; settings: see `Worker`.

        secret: see `Worker`; None: each draws its own. has_sent: whether an earlier run has sent this frame next;
        tell: None: the log.
        """
        self.ended: dict[int, Ended] = {}
        """By worker, of this process and of others, as these are told by `end`."""
        self._size = topology.size
        self._post = post
        self._tell_people = tell
        self._told_first = ""
        """Of what the program goes on without, the first."""
        self._members: dict[int, _Member] = {}
        for number in numbers:
            draw, own = partial(derive_rng, seed), secret or _drawn()
            worker = Worker(
                number,
                topology,
                self._sends(number),
                draw,
                settings,
                secret=own,
                has_said=lambda receiver, message: has_sent(receiver, encode(message)),
                tell=partial(self._tell, number),
            )
            coroutine = program(worker)
            if not inspect.iscoroutine(coroutine):
                raise InputError(
                    f"a program is an async function of a worker, and {program!r} is none: write async def"
                )
            self._members[number] = _Member(coroutine)
        self._ready = deque(self._members)

    def deliver(self, sender: int, receiver: int, frame: bytes) -> None:
        """A message has arrived for a worker of this process."""
        member = self._members[receiver]
        unread = member.mail.setdefault(sender, deque())
        unread.append(frame)
        if member.waits is not None and member.waits.sender == sender and len(unread) == 1:
            self._ready.append(receiver)

    def advance(self) -> list[int]:
        """Let all go on as far as they can; who has ended meanwhile. Raises `UserCodeError` where one fails."""
        ended: list[int] = []
        while self._ready:
            number = self._ready.popleft()
            with self._told(number):
                self._go_on(number)
            ended += [number] * (number in self.ended)
        return ended

    def waits(self, number: int) -> Receive | None:
        """What a worker of this process waits for; None where it has ended, or has not begun."""
        return self._members[number].waits

    def end(self, number: int, ended: Ended) -> None:
        """A worker of another process has ended."""
        self.ended[number] = ended

    def check_waiting(self) -> None:
        """Raise `DeadlockError` where a worker waits for one that has ended."""
        for number, member in self._members.items():
            if member.waits is not None and member.waits.sender in self.ended:
                raise DeadlockError(self._waiting(number) + "; send it what it waits for")

    def check_deadlock(self) -> None:
        """Raise `DeadlockError` where no worker can go on, of which each one is in this process."""
        waiting = [number for number in self._members if number not in self.ended]
        if not waiting:
            return
        self.check_waiting()
        cycle = self._cycle(waiting[0])
        raise DeadlockError(
            f"a deadlock, in which {len(waiting)} of {self._size} workers wait and nothing is on its way: "
            + "; ".join(map(self._waiting, cycle[:_SHOWN]))
            + "; …" * (len(cycle) > _SHOWN)
        )

    def check_read(self) -> None:
        """Raise `RunFailedError` where a message was sent to a worker of this process that ended without reading it."""
        for number, member in self._members.items():
            for sender, frames in member.mail.items():
                if frames:
                    raise RunFailedError(
                        f"worker {number} ended without reading what worker {sender} sent it, "
                        f"{name_of(type(decode(frames[0])))} first: what one sends, the other must receive"
                    )

    def close(self) -> None:
        """Let go of coroutines that have not ended."""
        for member in self._members.values():
            member.coroutine.close()

    def _sends(self, sender: int) -> Callable[[Sequence[int], Any], None]:
        def post(receivers: Sequence[int], message: Any) -> None:
            frame = encode(message)
            member = self._members[sender]
            member.messages += len(receivers)
            member.sent += len(receivers) * len(frame)
            for receiver in receivers:
                if receiver in self._members:
                    self.deliver(sender, receiver, frame)
                else:
                    self._post(sender, receiver, frame)

        return post

    def _tell(self, number: int, error: BaseException, what: str) -> None:
        """Of what a worker goes on without."""
        said = str(error) if isinstance(error, HansaError) else f"{type(error).__name__}: {error}"
        failed = UserCodeError(f"{said} ({what})", users_traceback(error))
        self._told_first = self._told_first or f"worker {number} said: {failed}\n{failed.traceback}".rstrip()
        if self._tell_people is not None:
            self._tell_people(failed)
        else:
            _log.warning("a worker failed", worker=number, of=self._size, error=str(failed), exception=failed.traceback)

    def _go_on(self, number: int) -> None:
        """Let a worker go on until it waits for what has not arrived, or ends."""
        member = self._members[number]
        while True:
            value = None if member.waits is None else self._received(number, member.waits)
            try:
                member.waits = member.coroutine.send(value)
            except StopIteration as returned:
                member.waits = None
                result = b"" if returned.value is None else _encoded(returned.value)
                self.ended[number] = Ended(result, member.messages, member.sent)
                return
            if not isinstance(member.waits, Receive):
                awaited = type(member.waits).__name__
                raise TypeError(f"it awaits a {awaited}; a worker awaits receive() and gather() alone")
            if not member.mail.get(member.waits.sender):
                return

    @contextmanager
    def _told(self, number: int) -> Iterator[None]:
        """Whatever goes wrong inside is told with the worker's number."""
        try:
            yield
        except HansaError as error:
            error.add_note(f"in worker {number} of {self._size}")
            if self._told_first:
                error.add_note(self._told_first)
            raise
        except Exception as error:  # what a user's program raises, whatever it is, is told with its worker
            raise UserCodeError(
                f"worker {number} of {self._size} failed: {type(error).__name__}: {error}", traceback.format_exc()
            ) from error

    def _received(self, number: int, waits: Receive) -> Any:
        message = decode(self._members[number].mail[waits.sender].popleft())
        if not isinstance(message, waits.kinds):
            raise RunFailedError(
                f"worker {number} waits for {waits}, who has sent it a {name_of(type(message))} first: "
                "messages of one sender are received in the order in which they were sent"
            )
        return message

    def _waiting(self, number: int) -> str:
        member = self._members[number]
        ended = ", which has ended" if member.waits is not None and member.waits.sender in self.ended else ""
        return f"worker {number} waits for {member.waits}{ended}"

    def _cycle(self, start: int) -> list[int]:
        """Who waits for whom in a circle, found by following them from one."""
        path: list[int] = []
        number = start
        while number not in path:
            path.append(number)
            waits = self._members[number].waits
            if waits is None:
                return path
            number = waits.sender
        return path[path.index(number) :]


def _encoded(result: Any) -> bytes:
    try:
        schema_of(type(result))
    except InputError as error:
        raise InputError(
            f"it returns a {type(result).__name__}; a program returns a message or None: {error}"
        ) from error
    return encode(result)


def _drawn() -> Callable[[], bytes]:
    """32 bytes of this machine's own randomness, drawn when they are first asked for."""
    return cache(lambda: token_bytes(32))
