"""The agent's side of a program: it carries what a party's worker process sends, and brings what it awaits.

Both can be repeated, and are until they are done: the connection may go, and the controller be restarted.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeVar

import numpy as np
import structlog
from blake3 import blake3

from hansa.arrays import Arrays
from hansa.errors import (
    AuthenticationError,
    ConnectionFailedError,
    HansaError,
    StorageUnavailableError,
    UserCodeError,
)
from hansa.network.client.outbox import letter_file
from hansa.network.entrance import Entrance
from hansa.network.files import created, left_size, pieces
from hansa.network.jobs import Jobs
from hansa.network.link import Backoff
from hansa.programs.encoding import encode
from hansa.programs.ending import End
from hansa.store.disk import explained
from hansa.wire import channel, chunks
from hansa.wire.chunks import INLINE_LIMIT
from hansa.wire.frames import Awaited, Blob, Letter, OpenRound

__all__ = ["Correspondence", "Post", "Relay"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_ON_THE_WAY: Final = 64 << 20
"""Bytes of letters that are not kept yet; while there are more, the party's next one waits."""


class Post(Protocol):
    """The way to the controller."""

    async def send(self, letter: Letter, parts: Iterable[memoryview]) -> None:
        """Have a letter kept. Raises `ConflictError` where earlier ones are missing."""

    def receive(self, awaited: Awaited) -> AsyncGenerator[memoryview, None]:
        """A letter in pieces, none where it has not come after a while. Raises `ConflictError` as `send`."""


class Relay:
    """A client's way: a connection of its own to the controller, whatever combiner it is attached to."""

    def __init__(self, entrance: Entrance) -> None:
        """entrance: where the node has joined."""
        self._entrance = entrance
        self._channel: channel.Channel | None = None

    async def send(self, letter: Letter, parts: Iterable[memoryview]) -> None:
        """See `Post`."""
        there, token = await self._dialled()
        try:
            await channel.send_letter(there, token, letter, chunks.split(parts))
        except AuthenticationError as error:
            raise self._doubted(error) from error

    async def receive(self, awaited: Awaited) -> AsyncGenerator[memoryview, None]:
        """See `Post`."""
        there, token = await self._dialled()
        try:
            async with aclosing(channel.receive_letter(there, token, awaited)) as pieces:
                async for _, data in pieces:
                    yield data
        except AuthenticationError as error:
            raise self._doubted(error) from error

    async def aclose(self) -> None:
        """End the connection."""
        if self._channel is not None:
            await self._channel.close()

    def _doubted(self, error: AuthenticationError) -> HansaError:
        """An access token that holds no more is followed by another one, if the node may still have one."""
        return ConnectionFailedError(str(error)) if self._entrance.identity.doubt() else error

    async def _dialled(self) -> tuple[channel.Channel, str]:
        if self._channel is None:
            self._channel = await self._entrance.dial_controller()
        return self._channel, await self._entrance.access()


class Correspondence:
    """One run of a party's program, from its beginning. A second run is another one."""

    def __init__(
        self,
        post: Post,
        opened: OpenRound,
        objects: Path,
        leaving: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """objects: where large letters lie on their way from and to the worker; leaving: told of their bytes before."""
        self.key = opened.key
        self._post = post
        self._parties = opened.spec.parties
        self._number = self._parties.index(opened.invited[0])
        self._objects = objects
        self._leaving = leaving
        self._sent: defaultdict[int, int] = defaultdict(int)
        self._read = np.zeros(len(self._parties), np.int64)
        self._kept = 0
        self._on_the_way = 0
        self._progress = asyncio.Event()
        """Set when another letter is kept."""
        self._queues: dict[int, asyncio.Queue[Letter]] = {}
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._jobs = Jobs()
        self._files: set[Path] = set()
        self._brought: Path | None = None
        """The large letter that the party was given last."""

    def may(self, frame: Letter | Awaited) -> bool:
        """Whether the party may say this: the code of its worker process can write what it likes."""
        if frame.key != self.key or max(frame.sender, frame.receiver) >= len(self._parties):
            return False
        if isinstance(frame, Awaited):
            return frame.receiver == self._number != frame.sender and frame.number == self._read[frame.sender]
        return frame.sender == self._number != frame.receiver and frame.number == self._sent[frame.receiver]

    def resume(self, other: int, *, read: int, sent: int) -> None:
        """Go on behind so many letters of another party and to it: those that were sent are kept.

        Of a party that does not run from its beginning again; called before anything else.
        """
        self._read[other], self._sent[other] = read, sent
        self._kept += sent

    async def take(self, letter: Letter) -> None:
        """A letter of the party goes on its way, behind those before it; waits while too many are."""
        self._sent[letter.receiver] += 1
        if self._leaving is not None:
            await self._leaving(letter.blob.size)
        while self._on_the_way and self._on_the_way + letter.blob.size > _ON_THE_WAY:
            await self._some_kept()
        self._on_the_way += letter.blob.size
        if letter.receiver not in self._queues:
            self._queues[letter.receiver] = asyncio.Queue()
            self._jobs.start(self._carry(letter.receiver), self._break)
        self._queues[letter.receiver].put_nowait(letter)

    async def bring(self, awaited: Awaited) -> Letter:
        """The letter that the party awaits; a large one as a file in the folder of objects (`letter_file`).

        It has read the one before by then.
        """
        if self._brought is not None:
            self._brought.unlink(missing_ok=True)
        letter = await self._unbroken(self._fetched(awaited))
        self._read[awaited.sender] += 1
        self._brought = None if letter.blob.inline else letter_file(self._objects, letter)
        return letter

    async def end(self, metrics: Mapping[str, float]) -> None:
        """The party's last word, once all that it has sent is kept."""
        while self._on_the_way:
            await self._some_kept()
        word = encode(End(self._read, Arrays({name: np.float64(value) for name, value in metrics.items()})))
        blob = Blob(blake3(word).hexdigest(), len(word))
        last = Letter(self.key, self._number, self._number, 0, blob)
        await self._repeatedly(lambda: self._post.send(last, [memoryview(word)]))

    async def aclose(self) -> None:
        """Nothing is carried any more."""
        await self._jobs.aclose()
        for file in self._files:
            file.unlink(missing_ok=True)
        if self._broken.done():
            self._broken.exception()  # it was told to whoever asked, if anybody did

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _carry(self, receiver: int) -> None:
        while True:
            letter = await self._queues[receiver].get()
            if letter.blob.inline:
                await self._repeatedly(lambda: self._post.send(letter, [memoryview(letter.blob.inline)]))  # noqa: B023 - done before the next
            else:
                file = letter_file(self._objects, letter)
                self._files.add(file)
                if await asyncio.to_thread(left_size, file) != letter.blob.size:
                    raise UserCodeError("the app's process has changed a letter after it was written: it was ended")
                await self._repeatedly(lambda: self._post.send(letter, pieces(file, letter.blob.size)))  # noqa: B023 - done before the next
                self._files.discard(file)
                file.unlink(missing_ok=True)
            self._kept += 1
            self._on_the_way -= letter.blob.size
            self._progress.set()

    async def _some_kept(self) -> None:
        self._progress.clear()
        await self._unbroken(self._progress.wait())

    async def _fetched(self, awaited: Awaited) -> Letter:
        async def ask() -> Blob | None:
            return await self._received(replace(awaited, sent=sum(self._sent.values()), kept=self._kept))

        blob = None
        while blob is None:
            blob = await self._repeatedly(ask)
        return Letter(self.key, awaited.sender, self._number, awaited.number, blob)

    async def _received(self, awaited: Awaited) -> Blob | None:
        """What has come of a letter: inline where it is small, else in its file; None where it has not come yet."""
        seen, size, small = blake3(), 0, bytearray()
        file = letter_file(self._objects, awaited)
        with ExitStack() as closing:
            closing.enter_context(explained("keep a letter in", self._objects))
            large: BinaryIO | None = None
            async with aclosing(self._post.receive(awaited)) as pieces:
                async for data in pieces:
                    seen.update(data)
                    size += len(data)
                    if large is None and size > INLINE_LIMIT:
                        self._files.add(file)
                        large = closing.enter_context(created(file))
                        large.write(small)
                    (small.extend if large is None else large.write)(data)
        if not size:
            return None
        return Blob(seen.hexdigest(), size, b"" if large is not None else bytes(small))

    async def _repeatedly(self, call: Callable[[], Awaitable[T]]) -> T:
        backoff = Backoff()
        said = ""
        while True:
            try:
                return await call()
            except (ConnectionFailedError, StorageUnavailableError) as error:
                if str(error) != said:
                    _log.info("a letter waits", party=self._parties[self._number], why=str(error))
                said = str(error)
                await asyncio.sleep(backoff.next())

    async def _unbroken(self, wanted: Awaitable[T]) -> T:
        """What is awaited, unless a letter could not be carried meanwhile: then its error."""
        task = asyncio.ensure_future(wanted)
        try:
            both: set[asyncio.Future[Any]] = {task, self._broken}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if self._broken.done():
                self._broken.result()
            return task.result()
        finally:
            task.cancel()

    def _break(self, error: BaseException) -> None:
        if not self._broken.done():
            self._broken.set_exception(error)
