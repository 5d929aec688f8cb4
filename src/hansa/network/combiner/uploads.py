"""Uploads in progress: a bounded number is held in memory; one that is interrupted resumes where it stopped."""

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from hansa.errors import Reason, UpdateRejectedError, WireError
from hansa.wire.chunks import Assembly
from hansa.wire.frames import Offer, RoundKey

__all__ = ["Upload", "Uploads"]

_LEAST = 1 << 16
"""Bytes that must come in every period of silence: a sender that trickles holds no slot."""


@dataclass(slots=True, eq=False)
class Upload:
    """The bytes of one offer, as far as they have come."""

    key: RoundKey
    sender: str
    assembly: Assembly
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

    async def complete(self, silence: float) -> bool:
        """Wait for the last byte; False when the sender is gone, or brings next to nothing for `silence` seconds.

        Raises `UpdateRejectedError` (late) when it is cancelled meanwhile.
        """
        while (before := self.received) < self.assembly.size:
            wanted = min(before + _LEAST, self.assembly.size)
            with suppress(TimeoutError):
                async with asyncio.timeout(silence):
                    await self._until(wanted)
            if self._closed:
                raise UpdateRejectedError(Reason.LATE, self._closed)
            if self.received < wanted:
                return False
        return True

    async def _until(self, wanted: int) -> None:
        """Wait until so many bytes are here, or it is over."""
        while self.received < wanted and not (self._suspended or self._closed):
            self._moved.clear()
            await self._moved.wait()


class Uploads:
    """Admission: `slots` uploads at once are received or folded, the rest wait in the order of their offers.

    Of uploads that were interrupted as many again are kept, so that memory holds at most twice `slots` updates.
    """

    def __init__(self, slots: int, silence: float) -> None:
        """silence: seconds without a byte after which a slot is given to another."""
        self._slots = asyncio.Semaphore(slots)
        self._silence = silence
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

    def slot(self) -> asyncio.Semaphore:
        """Hold this (`async with`) from the admission of an upload until its memory is free again."""
        return self._slots

    async def receive(
        self, offer: Offer, announce: Callable[[Upload], None], room: Callable[[], memoryview] | None = None
    ) -> memoryview | None:
        """Announce an upload and wait for its verified bytes; None when its sender is silent or gone.

        room: makes the bytes to take, which may wait for a disk; None: they are of memory.
        Raises `UpdateRejectedError` for other bytes than the offer's digest, or when the phase is sealed meanwhile.
        """
        stash = (offer.key, offer.sender, offer.blob.digest)
        upload = self._stashed.pop(stash, None)
        if upload is None:
            place = None if room is None else await asyncio.to_thread(room)
            upload = Upload(offer.key, offer.sender, Assembly(offer.blob.size, offer.blob.digest, place))
        self._active[upload.name] = upload
        announce(upload)
        try:
            if await upload.complete(self._silence):
                return await asyncio.to_thread(upload.take)
        finally:
            del self._active[upload.name]
        self._stash(stash, Upload(upload.key, upload.sender, upload.assembly))
        return None

    def _stash(self, stash: tuple[RoundKey, str, str], upload: Upload) -> None:
        """Keep what has come for a resume, in bounded memory."""
        if upload.received:
            self._stashed[stash] = upload
        while len(self._stashed) > self._stashed_limit:
            self._stashed.popitem(last=False)
