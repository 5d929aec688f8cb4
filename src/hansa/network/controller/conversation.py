"""Who has said what to whom in a program that is under way, who waits, who has ended, and whether anybody can go on.

A letter is named by its sender, its receiver and its number among theirs, so that sending and asking can be repeated.
Nobody's queue is bounded but by the disk: with a bound, a program that ends in one process could stand still here.
"""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final, cast

import numpy as np
from blake3 import blake3

from hansa.errors import (
    ConflictError,
    ConnectionFailedError,
    CorruptionError,
    DeadlockError,
    HansaError,
    InputError,
    NotFoundError,
    PermissionDeniedError,
    RunFailedError,
    StorageUnavailableError,
    WireError,
)
from hansa.network.combiner.phase import LONGEST_METRIC
from hansa.network.controller.letters import GONE_DIGEST, Letters, Pair
from hansa.network.controller.quotas import Quotas
from hansa.programs.encoding import decode, named
from hansa.programs.ending import End
from hansa.rounds.why import listed
from hansa.store.completion import completed
from hansa.wire.frames import Awaited, Letter, RoundKey
from hansa.wire.limits import MAX_LETTER

__all__ = ["Conversation", "Room"]

_PATIENCE: Final = 20.0
"""Seconds after which who waits for a letter is to ask again; a proxy on the way would end a call that is silent."""
_IN_MEMORY: Final = 1 << 18
"""Bytes of a letter under way; of a larger one, the rest is in a file."""
_MOST_METRICS: Final = 1000
_LONGEST_END: Final = 1 << 20
_STEP: Final = 16 << 20
"""Bytes that are asked of the project's quota at a time."""


@dataclass(slots=True)
class Room:
    """What letters take of their project's quota of storage, while their program is under way."""

    quotas: Quotas
    project: str
    _reserved: int = 0
    _over: bool = False

    async def need(self, size: int) -> None:
        """Have room for so many bytes in all; raises `StorageUnavailableError`."""
        if size > self._reserved:
            more = max(size - self._reserved, _STEP)
            await self.quotas.reserve(self.project, more)
            self._reserved += more
            if self._over:  # meanwhile
                self.release()

    def release(self) -> None:
        """The program is over."""
        self._over = True
        self.quotas.release(self.project, self._reserved)
        self._reserved = 0


@dataclass(slots=True)
class Conversation:
    """The relay of one program, on one event loop. Parties are numbered as workers are."""

    key: RoundKey
    parties: Sequence[str]
    letters: Letters
    room: Room
    on_end: Callable[[int, End, bool], None]
    """(party, its last word, whether it has ended only now): told of all, those too that had before this process."""
    on_failure: Callable[[RunFailedError], None]
    """Told why the program cannot go on."""
    ended: dict[int, End] = field(default_factory=dict)
    heard: dict[int, float] = field(default_factory=dict)
    """Party → the loop's time of its last sign of life."""
    waits: dict[int, Awaited] = field(default_factory=dict)
    """Party → the letter that it asked for last; it may have come since."""
    away: str = ""
    """Why no letter can be kept for now."""
    _news: dict[int, asyncio.Event] = field(default_factory=dict)
    """Party → set when it need not wait any longer."""
    _listening: set[int] = field(default_factory=set)
    """Parties that have a call here which waits."""
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _is_open: bool = False
    _over: bool = False
    _put_off: bool = False
    """Whether somebody is to go on without a letter once all that it has sent is kept."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a party waits for a letter that it can go on without, or has ended."""
    dispensable: set[int] = field(default_factory=set)
    """Parties without whom others have said to be able to go on."""
    failed: dict[int, str] = field(default_factory=dict)
    """Parties whose code has failed, and that have not been invited again → what they said."""

    async def open(self) -> None:
        """Take up what was said before this process."""
        now = asyncio.get_running_loop().time()
        await asyncio.to_thread(self.letters.open)
        await self.room.need(self.letters.size)
        self.dispensable |= self.letters.away()
        for number in range(len(self.parties)):
            self.heard[number] = now
            if self.letters.count((number, number)):
                end = b"".join(await asyncio.to_thread(list, self.letters.read((number, number), 0)))
                self._note_end(number, _end(end, len(self.parties)), new=False)
        self._is_open = True
        self._check_going()

    async def send(self, party: str, letter: Letter, pieces: AsyncIterator[tuple[int, memoryview]]) -> int:
        """Keep a letter; returns how many of this pair are kept, it among them.

        Raises `PermissionDeniedError` for who is not its sender, `WireError` for what is no letter, `ConflictError`
        where earlier ones are missing, `ConnectionFailedError` while there is no room, or before `open` has read what
        is kept.
        """
        pair = self._pair(party, letter, letter.sender)
        have = self.letters.count(pair)
        if letter.number <= have and self.letters.is_gone(pair, letter.number):
            self.letters.said_late(pair, letter.number)
            return max(have, letter.number + 1)
        if letter.number < have:
            self._check_repeated(pair, letter)
            return have
        self._check_new(pair, letter, have)
        with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(self.letters.folder)) as whole:
            try:
                await self.room.need(self.letters.size + letter.blob.size)
                await _received(letter, self._hearing(letter.sender, pieces), cast("BinaryIO", whole))
                await self._keep(pair, letter, cast("BinaryIO", whole))
            except StorageUnavailableError as error:
                self.away = str(error)
                raise ConnectionFailedError(f"the letter cannot be kept for now: {error}") from error
        self.away = ""
        return self.letters.count(pair)

    async def receive(self, party: str, awaited: Awaited) -> AsyncGenerator[bytes, None]:
        """The letter that a party waits for, in pieces; none where it has not come after a while.

        Raises `PermissionDeniedError` for who is not its receiver, `ConflictError` where letters are lost that the
        party has sent, `ConnectionFailedError` where the disk has changed the letter: its sender is told to send it
        again.
        """
        pair = self._pair(party, awaited, awaited.receiver)
        me = awaited.receiver
        if pair[0] == me:
            raise WireError(f"{party} waits for a letter of its own")
        if awaited.kept > self.letters.sent(me):
            raise self._lost(me)
        self.waits[me] = awaited
        if awaited.dispensable:
            self.dispensable.add(awaited.sender)
        if awaited.dispensable or self.failed:
            self.changed.set()
        self._wake(me)
        news = self._news[me] = asyncio.Event()
        if self.letters.count(pair) <= awaited.number:
            self._check_going()
            await self._news_of(me, news)
            self._need_open()
        if self.letters.count(pair) > awaited.number:
            pieces = self.letters.read(pair, awaited.number)
            try:
                while (piece := await asyncio.to_thread(next, pieces, b"")) != b"":
                    yield piece
            except CorruptionError as error:
                await self._forget(pair, awaited.number, error)
                raise ConnectionFailedError(f"{error}: {self._name(pair[0])} is to send it again") from error

    def said(self, number: int) -> str:
        """What a party does, in words."""
        waits = self._open_waits().get(number)
        return "work" if waits is None else f"wait for {self.parties[waits.sender]}"

    async def aclose(self) -> None:
        """The program is over: nothing is said any more, and nothing is being written."""
        self._over = True
        self.room.release()
        for number in self._news:
            self._wake(number)
        async with self._writing:
            pass

    def needed(self, silent: Collection[int]) -> list[int]:
        """Parties among those that are silent, or have failed, without whom it does not go on, or might not.

        One may fail at once: it is not needed before each other one has said what it waits for first.
        """
        gone = {*silent, *self.failed}
        firmly = {each.sender for each in self._open_waits().values() if not each.dispensable}
        left = set(range(len(self.parties))) - self.ended.keys() - gone
        if not left:  # nobody who may say yet whom it goes on without
            firmly |= gone - self.dispensable
        elif not self.dispensable:
            firmly |= gone if left <= self.waits.keys() else set(silent)
        return [number for number in sorted(gone) if number in firmly]

    async def go_without(self, silent: Collection[int]) -> None:
        """Let those go on who wait for parties that are silent, or have failed; may be repeated.

        Raises `StorageUnavailableError`. Who needs a letter whatever happens goes on waiting, and so does, for now,
        who has sent letters that are not kept yet: by their number it is known whether it has said more since.
        """
        self._put_off = False
        for waits in self._open_waits().values():
            if waits.dispensable and (waits.sender in silent or waits.sender in self.failed):
                if waits.sent > self.letters.sent(waits.receiver):
                    self._put_off = True
                else:
                    await completed(self._go_without(waits))

    def silence(self, number: int, now: float) -> float:
        """Seconds since anything was heard of a party; 0 while it listens."""
        return 0.0 if number in self._listening else now - self.heard[number]

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _pair(self, party: str, letter: Letter | Awaited, own: int) -> Pair:
        """Whom a letter is of and for. own: the number that must be the caller's."""
        self._need_open()
        if max(letter.sender, letter.receiver) >= len(self.parties):
            raise WireError(f"this program has {len(self.parties)} parties, from 0: {letter.sender} or "
                            f"{letter.receiver} is none")  # fmt: skip
        if party != self.parties[own]:
            raise PermissionDeniedError(f"{party} is not {self._name(own)} of session {self.key.run}")
        self.heard[own] = asyncio.get_running_loop().time()
        return letter.sender, letter.receiver

    def _need_open(self) -> None:
        if self._over:
            raise NotFoundError(f"the program of session {self.key.run} is over")
        if not self._is_open:
            raise ConnectionFailedError(f"session {self.key.run}: what its parties have said is being read")

    def _check_new(self, pair: Pair, letter: Letter, have: int) -> None:
        sender, size = letter.sender, letter.blob.size
        if sender in self.ended:
            raise WireError(f"{self._name(sender)} has ended, and sends another letter")
        limit = _LONGEST_END if pair[0] == pair[1] else MAX_LETTER
        if not 0 < size <= limit:
            raise WireError(f"{self._name(sender)} sends a letter of {size:,} bytes; it may have 1 to {limit:,}")
        if letter.number > have:
            raise self._lost(sender)
        if letter.blob.digest == GONE_DIGEST:
            raise WireError(f"{self._name(sender)} says that it is gone; that is for the server to say")

    def _check_repeated(self, pair: Pair, letter: Letter) -> None:
        """A party that was run again says what it has said before: its program would have no one result else."""
        if self.letters.digest(pair, letter.number) == letter.blob.digest:
            return
        what = "ended with another result" if pair[0] == pair[1] else f"sent {self._name(pair[1])} another letter"
        flaw = RunFailedError(
            f"{self._name(letter.sender)} was run again and {what} than before (number {letter.number}): a program "
            "must compute the same whenever it is run; draw random numbers from worker.rng, and look at no clock"
        )
        self.on_failure(flaw)
        raise WireError(str(flaw))

    async def _keep(self, pair: Pair, letter: Letter, whole: BinaryIO) -> None:
        end: End | None = None
        if pair[0] == pair[1]:
            whole.seek(0)
            end = _end(whole.read(), len(self.parties))
        async with self._writing:
            self._need_open()
            if self.letters.is_gone(pair, letter.number):  # meanwhile
                self.letters.said_late(pair, letter.number)
            elif self.letters.count(pair) == letter.number:
                await completed(self._kept(pair, letter, whole, end))  # also where its sender is gone meanwhile
            else:  # the same letter has come by two calls
                self._check_repeated(pair, letter)
        self._need_open()

    async def _kept(self, pair: Pair, letter: Letter, whole: BinaryIO, end: End | None) -> None:
        """Write, and tell whom it concerns: who sends the letter again is told only that it is there."""
        await asyncio.to_thread(self.letters.append, pair, letter.blob.size, letter.blob.digest, whole)
        if self._over:
            return
        self._wake(pair[1])
        if self._put_off:
            self.changed.set()
        if end is not None and letter.sender not in self.ended:
            self._note_end(letter.sender, end, new=True)
        self._check_going()

    def _open_waits(self) -> dict[int, Awaited]:
        """Parties that wait for a letter which is not there → which one."""
        return {
            number: waits
            for number, waits in self.waits.items()
            if number not in self.ended
            and number not in self.failed
            and self.letters.count((waits.sender, number)) <= waits.number
        }

    async def _go_without(self, waits: Awaited) -> None:
        pair = waits.sender, waits.receiver
        async with self._writing:
            if not self._over and self.letters.count(pair) == waits.number:  # still
                await asyncio.to_thread(self.letters.go_without, pair, waits.sent)
        self._wake(waits.receiver)

    async def _hearing(
        self, number: int, pieces: AsyncIterator[tuple[int, memoryview]]
    ) -> AsyncIterator[tuple[int, memoryview]]:
        """The same pieces of a letter; who sends one is not silent, however long it takes."""
        async for piece in pieces:
            self.heard[number] = asyncio.get_running_loop().time()
            yield piece

    async def _forget(self, pair: Pair, number: int, why: CorruptionError) -> None:
        """The disk has changed a letter. Its sender finds that letters of its own are missing, and runs again."""
        async with self._writing:
            self._need_open()
            if self.letters.count(pair) > number:
                self.letters.forget(pair, number)
        self._wake(pair[0])
        if pair[0] in self.ended:
            self.on_failure(RunFailedError(f"{why}, and {self._name(pair[0])}, which wrote it, has ended"))

    def _note_end(self, number: int, end: End, *, new: bool) -> None:
        self.ended[number] = end
        self.changed.set()
        self.on_end(number, end, new)

    async def _news_of(self, number: int, news: asyncio.Event) -> None:
        """Wait, not for ever: until a letter comes for a party, or it asks again."""
        self._listening.add(number)
        try:
            async with asyncio.timeout(_PATIENCE):
                await news.wait()
        except TimeoutError:
            return
        finally:
            if self._news.get(number) is news:
                self._listening.discard(number)
            self.heard[number] = asyncio.get_running_loop().time()

    def _wake(self, number: int) -> None:
        news = self._news.get(number)
        if news is not None:
            news.set()

    def _check_going(self) -> None:
        """Whether anybody can go on, or all have ended as they should; else say why not."""
        try:
            self._check_waiting()
            if len(self.ended) == len(self.parties):
                self._check_read()
        except RunFailedError as error:
            self.on_failure(error)
        except HansaError as error:
            self.on_failure(RunFailedError(str(error)))

    def _check_waiting(self) -> None:
        """Raise where a party waits for one that has ended, or all wait and nothing is on its way."""
        stuck = 0
        at_work = [number for number in range(len(self.parties)) if number not in self.ended]
        waiting = self._open_waits()
        for number in at_work:
            waits = waiting.get(number)
            if waits is None:
                continue
            if waits.sender in self.ended:
                raise DeadlockError(f"{self._waiting(number)}, which has ended; send it what it waits for")
            stuck += waits.sent <= self.letters.sent(number)  # else letters of its own may be on their way
        if at_work and stuck == len(at_work):
            told = listed(map(self._waiting, at_work))
            raise DeadlockError(f"a deadlock, in which all parties wait and nothing is on its way: {told}")

    def _check_read(self) -> None:
        for sender, receiver in self.letters.pairs():
            read = int(self.ended[receiver].read[sender])
            if sender in self.letters.away():  # what it says late is not heard
                continue
            if sender != receiver and self.letters.count((sender, receiver)) > read:
                first = next(self.letters.read((sender, receiver), read))
                raise RunFailedError(
                    f"{self._name(receiver)} ended without reading what {self._name(sender)} sent it, "
                    f"{named(first)[0][:80]} first: what one sends, the other must receive"
                )

    def _lost(self, number: int) -> ConflictError:
        return ConflictError(
            f"letters of {self._name(number)} are lost that this server had: run the program from the beginning"
        )

    def _waiting(self, number: int) -> str:
        waits = self.waits[number]
        return f"{self._name(number)} waits for letter {waits.number} of {self._name(waits.sender)}"

    def _name(self, number: int) -> str:
        return f"party {number} ({self.parties[number]})"


async def _received(letter: Letter, pieces: AsyncIterator[tuple[int, memoryview]], whole: BinaryIO) -> None:
    """Write what arrives; raises `WireError` unless it is what was announced."""
    seen, size = blake3(), letter.blob.size
    position = 0
    async for offset, data in pieces:
        if offset != position or position + len(data) > size:
            raise WireError(f"a chunk of a letter of {size:,} bytes begins at {offset:,} and has {len(data):,}")
        position += len(data)
        seen.update(data)
        if position <= _IN_MEMORY:
            whole.write(data)
        else:
            await asyncio.to_thread(whole.write, data)
    if position != size or seen.hexdigest() != letter.blob.digest:
        raise WireError(f"a letter of {size:,} bytes was announced; {position:,} have come, or they are others")


def _end(frame: bytes, size: int) -> End:
    """A party's last word; raises `WireError` for another one."""
    try:
        end = decode(frame)
    except InputError as error:
        raise WireError(f"a party's last letter cannot be read: {error}") from error
    if not isinstance(end, End) or end.read.shape != (size,) or end.read.dtype != np.int64:
        raise WireError(f"a party's last letter says something else than what it has read of {size} parties")
    numbers = list(end.metrics.values())
    if any(each.shape != () or each.dtype != np.float64 for each in numbers):
        raise WireError("the metrics in a party's last letter are no numbers")
    odd = [name for name in end.metrics if len(name) > LONGEST_METRIC or not name.isprintable()]
    if odd or len(numbers) > _MOST_METRICS:
        raise WireError(f"a party's last letter has {len(numbers)} metrics, or one called {''.join(odd[:1])[:20]!r}…")
    return end
