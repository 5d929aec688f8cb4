"""A node's connection to its parent: it asks where to go, dials out, says hello, keeps the stream, and dials again.

Clients and combiners both hang on a `Link`; neither opens a port for its parent.
"""

import asyncio
import os
import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog
from blake3 import blake3

from hansa.errors import (
    AuthenticationError,
    ConnectionFailedError,
    HansaError,
    InputError,
    PermissionDeniedError,
    UntrustedServerError,
    WireError,
)
from hansa.network.entrance import Entrance, Place
from hansa.network.files import pieces
from hansa.store.disk import explained
from hansa.wire import channel, chunks
from hansa.wire.calls import DownloadRequest
from hansa.wire.frames import (
    Blob,
    FromNode,
    Heartbeat,
    Hello,
    LogLine,
    Progress,
    Redirect,
    Samples,
    ToNode,
    Welcome,
)

__all__ = ["Backoff", "Link", "Node"]

_log = structlog.get_logger(__name__)

_FIRST_WAIT = 0.1
_LONGEST_WAIT = 5.0

_BACKLOG = 1000
"""Frames that wait to be sent; beyond, what only tells how things go (progress, printed lines) is left out."""


class Node(Protocol):
    """What hangs on a link."""

    def attached(self, welcome: Welcome) -> None:
        """The stream is open; called again after every reconnect."""

    def receive(self, frame: ToNode) -> None:
        """A frame from the parent; must not block."""

    def detached(self, why: str) -> None:
        """The stream is gone; the link dials again."""


class Backoff:
    """Seconds to wait before the next attempt: doubling, jittered so that a crowd does not come back at once."""

    def __init__(self, rng: random.Random | None = None) -> None:
        """rng: for the jitter; nothing that is computed depends on it."""
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._wait = _FIRST_WAIT

    def next(self) -> float:
        """Between half and all of the current wait, which then doubles up to 5 seconds."""
        wait, self._wait = self._wait, min(self._wait * 2, _LONGEST_WAIT)
        return wait * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It worked: begin anew."""
        self._wait = _FIRST_WAIT


class Link:
    """Keeps a node attached until it is closed; raises only what trying again cannot mend."""

    def __init__(
        self,
        node: Node,
        *,
        entrance: Entrance,
        hello: Hello,
        preferred: str = "",
    ) -> None:
        """preferred: the combiner that the node would like; hello: who it is."""
        self._node = node
        self._entrance = entrance
        self._hello = hello
        self._preferred = preferred
        self._outbox: asyncio.Queue[FromNode] | None = None
        self._stream: channel.Stream[FromNode, ToNode] | None = None
        """The one that is attached, or about to be."""
        self._parent: Place | None = None
        """The parent while it is dialled or attached."""
        self._transfers: set[channel.Channel] = set()
        self._welcomed = False
        """Whether it was ever attached."""
        self._backoff = Backoff()
        self._pause = Backoff()
        """Between uploads that fail."""

    @property
    def connected(self) -> bool:
        """Whether frames can be sent now."""
        return self._outbox is not None

    def send(self, frame: FromNode) -> None:
        """Queue a frame; while there is no stream it is dropped: the parent asks again after a reconnect."""
        may_be_lost = isinstance(frame, Progress | LogLine | Samples)
        if self._outbox is None or (self._outbox.qsize() >= _BACKLOG and may_be_lost):
            return
        self._outbox.put_nowait(frame)

    def relabel(self, labels: Mapping[str, str]) -> None:
        """Say hello anew, with these labels: what is under way goes on, as after any reconnect."""
        self._hello = replace(self._hello, labels=dict(labels))
        if self._stream is not None:
            self._stream.close()

    async def run(self) -> None:
        """Stay attached. Returns when the parent dismisses the node for good.

        Raises `AuthenticationError`, `PermissionDeniedError` and `InputError`, which waiting does not mend; and
        `UntrustedServerError`, unless it was attached before: then somebody will renew a certificate.
        """
        doubted = False
        """Whether the access token is a new one because the last was refused."""
        while True:
            try:
                dismissed = await self._attach_once()
            except AuthenticationError:
                if doubted:
                    raise
                doubted = self._entrance.identity.doubt()
                if not doubted:
                    raise
                continue
            except (PermissionDeniedError, InputError):
                raise
            except HansaError as error:
                doubted = False
                if isinstance(error, UntrustedServerError) and not self._welcomed:
                    raise
                why = str(error)
            else:
                doubted = False
                if dismissed.final:
                    return
                why = dismissed.why
            wait = self._backoff.next()
            _log.info("not connected", why=why, again_in=round(wait, 2))
            await asyncio.sleep(wait)

    async def download(
        self,
        blob: Blob,
        target: Path,
        on_progress: Callable[[int], None] | None = None,
        *,
        aside: Path | None = None,
    ) -> Path:
        """An object as a file, whole and verified; resumes where a broken stream stopped.

        One that lies there already is verified too: a disk may have changed it, or user code that can write there.

        aside: the folder in which it comes together, where user code may write to the target's; None: the target's.

        Raises `NotFoundError` when the parent has no use for it any more, `WireError` when its bytes are not its own,
        and `StorageError` when the disk does not take it: nothing of it stays there then.
        """
        if await asyncio.to_thread(_lies_at, target, blob):
            return target
        part = (aside or target.parent) / f"{target.name}.{uuid.uuid4().hex[:8]}.part"
        backoff = Backoff()
        try:
            with explained("keep a download in", target.parent):
                while True:
                    try:
                        await self._download_some(blob, part, on_progress)
                        break
                    except ConnectionFailedError as error:
                        _log.info("download interrupted", object=blob.digest[:12], why=str(error))
                        await asyncio.sleep(backoff.next())
                await asyncio.to_thread(_check_file, part, blob)
                part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target

    async def upload(self, name: str, parts: Iterable[bytes | memoryview], offset: int) -> int:
        """Send the bytes from an offset; returns how many the parent has.

        Raises `ConnectionFailedError`, after a wait: whoever offers again at once does not spin.
        """
        try:
            async with self._transfer("upload") as parent:
                token = await self._entrance.access()
                pace = chunks.Pace(asyncio.get_running_loop().time)
                reply = await channel.upload(parent, token, name, chunks.split(parts, offset, pace))
        except ConnectionFailedError:
            await asyncio.sleep(self._pause.next())
            raise
        self._pause.reset()
        return reply.received

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _transfer(self, what: str) -> AsyncIterator[channel.Channel]:
        """A connection of its own, as long as the stream is attached: bulk delays no frame.

        And the megabytes that gRPC keeps for a connection on which much has moved are given back with it.
        """
        if self._parent is None:
            raise ConnectionFailedError(f"the connection to the parent is lost; the {what} goes on after a reconnect")
        own = self._entrance.dial(self._parent)
        self._transfers.add(own)
        try:
            yield own
        finally:
            self._transfers.discard(own)
            await own.close()

    async def _attach_once(self) -> Redirect:
        """One stream, from its assignment to its end."""
        await self._entrance.change_key()
        place = await self._entrance.assigned(self._preferred, self._hello.labels)
        try:
            parent = self._entrance.dial(place)
        except InputError as error:
            raise ConnectionFailedError(f"the controller sends this node to no address: {error}") from error
        self._parent = place
        try:
            return await self._converse(parent, await self._entrance.access())
        finally:
            self._parent = None
            for each in (parent, *self._transfers):
                await each.close()

    async def _converse(self, parent: channel.Channel, token: str) -> Redirect:
        outbox: asyncio.Queue[FromNode] = asyncio.Queue()
        stream = self._stream = channel.attach(parent, token)
        why = "the server ended the stream"
        jobs: list[asyncio.Task[None]] = []
        try:
            await stream.send(self._hello)
            async for frame in stream:
                match frame:
                    case Welcome():
                        self._welcomed = True
                        self._outbox = outbox
                        self._backoff.reset()
                        jobs = [
                            asyncio.create_task(self._beat(stream, outbox, frame.heartbeat)),
                            asyncio.create_task(_write(stream, outbox)),
                        ]
                        self._node.attached(frame)
                    case Redirect():
                        why = frame.why
                        return frame
                    case _:
                        self._node.receive(frame)
            if self._entrance.identity.key_is_due():
                why = "this node changes its key"
        except ConnectionFailedError as error:
            why = str(error)
            raise
        except asyncio.CancelledError:
            why = "this node was stopped"
            raise
        finally:
            for job in jobs:
                job.cancel()
            stream.close()
            self._stream = None
            if self._outbox is not None:
                self._outbox = None
                self._node.detached(why)
        return Redirect(why)

    async def _beat(
        self, stream: channel.Stream[FromNode, ToNode], outbox: "asyncio.Queue[FromNode]", every: float
    ) -> None:
        """Until the key is to be changed: that is done between two streams."""
        while not self._entrance.identity.key_is_due():
            await asyncio.sleep(every)
            outbox.put_nowait(Heartbeat())
        stream.close()

    async def _download_some(self, blob: Blob, part: Path, on_progress: Callable[[int], None] | None) -> None:
        with part.open("ab") as file:  # not in a thread: a cancelled wait would leave it open
            have = file.tell()
            request = DownloadRequest(blob.digest, have)
            async with self._transfer("download") as parent:
                token = await self._entrance.access()
                async for offset, data in channel.download(parent, token, request):
                    if offset != have or have + len(data) > blob.size:
                        raise WireError(f"a chunk of {blob.digest[:12]} begins at {offset}, expected {have}")
                    file.write(data)
                    have += len(data)
                    if on_progress is not None:
                        on_progress(have)
        if have < blob.size:
            raise ConnectionFailedError(f"the download of {blob.digest[:12]} ended at {have} of {blob.size} bytes")


async def _write(stream: channel.Stream[FromNode, ToNode], outbox: "asyncio.Queue[FromNode]") -> None:
    with suppress(HansaError):  # whoever reads the stream is told
        while True:
            frame = await outbox.get()
            try:
                await stream.send(frame)
            except WireError as error:  # this frame cannot be sent; those after it can
                _log.error("a frame was left out", frame=type(frame).__name__, why=str(error))


def _lies_at(target: Path, blob: Blob) -> bool:
    """Whether the object is there; what is there in its place gives way."""
    if not os.path.lexists(target):
        return False
    hashed = blake3(max_threads=blake3.AUTO)
    try:
        for piece in pieces(target, blob.size + 1):
            hashed.update(piece)
    except OSError as error:
        _log.warning("what lies in the place of an object is not it", object=blob.digest, why=str(error))
    else:
        if hashed.hexdigest() == blob.digest:
            return True
        _log.warning("an object has been changed where it lies, and is fetched again", object=blob.digest)
    with explained("remove a changed object from", target.parent):
        target.unlink(missing_ok=True)
    return False


def _check_file(part: Path, blob: Blob) -> None:
    digest = blake3(max_threads=blake3.AUTO).update_mmap(part).hexdigest() if blob.size else blake3(b"").hexdigest()
    if digest != blob.digest:
        raise WireError(f"the bytes received for {blob.digest[:12]} have the digest {digest[:12]}; they are not used")
