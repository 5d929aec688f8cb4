"""Uploads in progress: a bounded number is held in memory; one that is interrupted resumes where it stopped.

One that is slow keeps nobody waiting: it goes on on the disk.
"""

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import structlog

from hansa.errors import Reason, UpdateRejectedError, WireError
from hansa.store.spool import scratch
from hansa.wire.chunks import Assembly
from hansa.wire.frames import Offer, RoundKey

__all__ = ["Slots", "Turn", "Upload", "Uploads"]

_log = structlog.get_logger(__name__)

_LEAST = 1 << 16
"""Bytes that must come in every period of silence: a sender that trickles holds no slot."""

_MOST_ASIDE = 64
"""Slow uploads that are on the disk at once."""


class Slots(asyncio.Semaphore):
    """For each update that is in memory."""

    waiting = 0
    """How many want one now."""

    async def acquire(self) -> Literal[True]:
        """Wait for one."""
        self.waiting += 1
        try:
            return await super().acquire()
        finally:
            self.waiting -= 1


class Turn:
    """`async with`: a slot, until the block ends or it is passed on."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._held = False

    async def __aenter__(self) -> Self:
        await self._slots.acquire()
        self._held = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pass_on()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for it."""
        return self._held and self._slots.waiting > 0

    def pass_on(self) -> None:
        """Give the slot back; it may be called twice."""
        if self._held:
            self._held = False
            self._slots.release()


@dataclass(slots=True, eq=False)
class Upload:
    """The bytes of one offer, as far as they have come."""

    key: RoundKey
    sender: str
    assembly: Assembly
    aside: bool = False
    """Whether they are on the disk."""
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: str = ""
    _suspended: bool = False

    @property
    def received(self) -> int:
        """Bytes held."""
        return self.assembly.received

    def write(self, offset: int, data: memoryview) -> None:
        """Add a chunk; raises `WireError` for a gap or an overflow."""
        self.assembly.write(offset, data)
        self._moved.set()

    def take(self) -> memoryview:
        """The verified bytes; raises `UpdateRejectedError` when they are not those that were offered."""
        try:
            return self.assembly.take()
        except WireError as error:
            raise UpdateRejectedError(Reason.DIGEST, str(error)) from error

    def suspend(self) -> None:
        """The sender is gone, or offers something else: keep what has come, and wait no longer."""
        self._suspended = True
        self._moved.set()

    def cancel(self, why: str) -> None:
        """Nobody waits for the rest."""
        self._closed = why
        self._moved.set()

    async def more(self, silence: float) -> bool:
        """Wait for more; False when the sender is gone, or brings next to nothing for `silence` seconds.

        Raises `UpdateRejectedError` (late) when it is cancelled meanwhile.
        """
        wanted = min(self.received + _LEAST, self.assembly.size)
        with suppress(TimeoutError):
            async with asyncio.timeout(silence):
                await self._until(wanted)
        if self._closed:
            raise UpdateRejectedError(Reason.LATE, self._closed)
        return self.received >= wanted

    async def _until(self, wanted: int) -> None:
        """Wait until so many bytes are here, or it is over."""
        while self.received < wanted and not (self._suspended or self._closed):
            self._moved.clear()
            await self._moved.wait()


class Uploads:
    """Admission: `slots` uploads at once are received or folded, the rest wait in the order of their offers.

    Of uploads that were interrupted as many again are kept, so that memory holds at most twice `slots` updates. One
    that takes long while others wait goes on on the disk, and its slot to the next.
    """

    def __init__(
        self,
        slots: int,
        silence: float,
        spool: Path | None = None,
        uploaded: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """silence: seconds without a byte after which a slot is given to another; spool, uploaded: as of `Hub`."""
        self.slots = Slots(slots)
        self._silence = silence
        self._spool = spool
        self._uploaded = uploaded
        self._stashed_limit = slots
        self._active: dict[str, Upload] = {}
        self._stashed: OrderedDict[tuple[RoundKey, str, str], Upload] = OrderedDict()

    def get(self, name: str) -> Upload | None:
        """The upload of this name, while it is admitted."""
        return self._active.get(name)

    def of(self, offer: Offer) -> Upload | None:
        """The admitted upload of an offer that is made again."""
        for upload in self._active.values():
            if (upload.key, upload.sender) == (offer.key, offer.sender) and upload.assembly.digest == offer.blob.digest:
                return upload
        return None

    def cancel(self, key: RoundKey, why: str) -> None:
        """A phase takes no more: its unfinished uploads are late, and its stashed bytes go."""
        for upload in self._active.values():
            if upload.key == key:
                upload.cancel(why)
        for stash in [stash for stash in self._stashed if stash[0] == key]:
            del self._stashed[stash]

    def suspend(self, sender: str, key: RoundKey | None = None) -> None:
        """The sender's stream is gone, or it offers something else: keep what has come, give the slot to another."""
        for upload in self._active.values():
            if upload.sender == sender and key in (None, upload.key):
                upload.suspend()

    def turn(self) -> Turn:
        """Hold this (`async with`) from the admission of an upload until its memory is free again."""
        return Turn(self.slots)

    async def receive(
        self, offer: Offer, announce: Callable[[Upload], None], turn: Turn, room: Callable[[], memoryview] | None = None
    ) -> memoryview | None:
        """Announce an upload and wait for its verified bytes; None when its sender is silent or gone.

        turn: its own, which is passed on when the bytes are on the disk and somebody waits for it.
        room: makes the bytes to take, which may wait for a disk; None: they are of memory.
        Raises `UpdateRejectedError` for other bytes than the offer's digest, or when the phase is sealed meanwhile.
        """
        stash = (offer.key, offer.sender, offer.blob.digest)
        upload = self._stashed.pop(stash, None)
        if upload is None:
            place = None if room is None else await asyncio.to_thread(room)
            assembly = Assembly(offer.blob.size, offer.blob.digest, place)
            upload = Upload(offer.key, offer.sender, assembly, aside=place is not None)
        self._active[upload.name] = upload
        began = asyncio.get_running_loop().time()
        announce(upload)
        try:
            if await self._complete(upload, turn):
                self._uploaded(asyncio.get_running_loop().time() - began)
                return await asyncio.to_thread(upload.take)
        finally:
            del self._active[upload.name]
        self._stash(stash, Upload(upload.key, upload.sender, upload.assembly, upload.aside))
        return None

    async def _complete(self, upload: Upload, turn: Turn) -> bool:
        """Wait for the last byte; False when its sender is silent or gone."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._silence
        while not upload.assembly.complete:
            if turn.is_wanted and (upload.aside or (loop.time() >= due and await self._put_aside(upload))):
                turn.pass_on()
            if not await upload.more(self._silence):
                return False
        return True

    async def _put_aside(self, upload: Upload) -> bool:
        """Have an upload go on on the disk; False where that has no room."""
        if sum(each.aside for each in (*self._active.values(), *self._stashed.values())) >= _MOST_ASIDE:
            return False
        assembly = upload.assembly
        try:
            place = await asyncio.to_thread(scratch, assembly.size, self._spool)
        except OSError as error:
            _log.warning("a slow upload keeps its slot: the disk has no room for it", of=upload.sender, why=str(error))
            return False
        copied = await asyncio.to_thread(assembly.copy, place, 0)
        assembly.copy(place, copied)  # what has come meanwhile
        assembly.move(place)
        upload.aside = True
        return True

    def _stash(self, stash: tuple[RoundKey, str, str], upload: Upload) -> None:
        """Keep what has come for a resume, in bounded memory and on a bounded part of the disk."""
        if upload.received:
            self._stashed[stash] = upload
        for aside, most in ((False, self._stashed_limit), (True, _MOST_ASIDE)):
            kept = [key for key, each in self._stashed.items() if each.aside is aside]
            for oldest in kept[: max(0, len(kept) - most)]:
                del self._stashed[oldest]
