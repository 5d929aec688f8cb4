"""Chunks: pieces of a model or update on a stream, framed by hand so that gRPC moves raw bytes at raw speed.

A frame is a valid protobuf `hansa.v1.Chunk`, so that a stub in any language reads and writes it; here it is two short
fields before the data, built with one copy and read with none. The generated parser takes over whenever a peer encoded
the message in another legal way.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np
from blake3 import blake3
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

from hansa.errors import WireError
from hansa.wire._generated import calls_pb2

__all__ = ["CHUNK", "INLINE_LIMIT", "MAX_CHUNK", "Assembly", "Pace", "frame", "split", "unframe"]

CHUNK: Final = 1 << 20
"""Bytes of data in a chunk; measured best between 256 KiB and 4 MiB, where copying outweighs the cost of a message."""
INLINE_LIMIT: Final = 64 * 1024
"""The most bytes that travel inside a `Blob`, on the control stream."""
MAX_CHUNK: Final = 4 << 20
"""The most bytes of data that a peer may put into one chunk."""

_SMALL: Final = 1 << 14
"""Bytes of a chunk on the slowest of networks."""
_FIRST: Final = 1 << 16
"""Bytes of the first chunk, before anything is known of the way."""
_SECONDS: Final = 0.5
"""That a chunk takes where the network is slow: what came is told, and what breaks off is sent again, in chunks."""

_CHUNK: Final = calls_pb2.Chunk  # type: ignore[attr-defined]  # generated: mypy does not see its names
_OFFSET: Final = 0x08
_DATA: Final = 0x12
_FAST_VARINT: Final = 9
"""Bytes of the longest varint that is read here: 63 bits."""


def frame(offset: int, data: bytes | memoryview) -> bytes:
    """The bytes of a `Chunk`, as protobuf writes them.

    offset: of the first byte of `data` in the whole, 0 ≤ offset < 2^64; data: contiguous bytes.
    """
    return _join(offset, (data,), memoryview(data).nbytes)


def unframe(message: bytes) -> tuple[int, memoryview]:
    """(offset, data) of a `Chunk`; data is a view of the message. Raises `WireError`."""
    view = memoryview(message)
    fast = _read(view)
    offset, data = fast if fast is not None else _parse(message)
    if data.nbytes > MAX_CHUNK:
        raise WireError(f"a chunk has {data.nbytes} bytes, more than the {MAX_CHUNK} that one may have")
    return offset, data


class Pace:
    """How long the chunks of one transfer are, by how long those before took: `CHUNK` on all but slow networks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: seconds."""
        self._clock = clock
        self._size = min(_FIRST, CHUNK)
        self._since: float | None = None

    def __call__(self) -> int:
        """Bytes of the next chunk; asked when the one before is on its way."""
        now = self._clock()
        if self._since is not None:
            wanted = self._size * _SECONDS / max(now - self._since, 1e-9)
            self._size = min(max(int(min(wanted, 2 * self._size)), _SMALL), CHUNK)
        self._since = now
        return self._size


def split(
    parts: Iterable[bytes | memoryview], offset: int = 0, length: Callable[[], int] = lambda: CHUNK
) -> Iterator[bytes]:
    """Frames of the parts in a row, from an offset to the end; each byte is copied once.

    length: bytes of the next frame, at least 1.
    """
    skip, position = offset, offset
    pending: list[memoryview] = []
    filled, whole = 0, 0
    for part in parts:
        view = memoryview(part).cast("B")
        skipped = min(skip, len(view))
        skip -= skipped
        while skipped < len(view):
            whole = whole or length()
            piece = view[skipped : skipped + whole - filled]
            pending.append(piece)
            skipped += len(piece)
            filled += len(piece)
            if filled == whole:
                yield _join(position, pending, filled)
                position += filled
                pending, filled, whole = [], 0, 0
    if skip:
        raise WireError(f"the bytes end before the offset {offset}")
    if filled:
        yield _join(position, pending, filled)


class Assembly:
    """A whole that grows from chunks in order, is checked against its digest, and survives a broken stream.

    Bytes are hashed as they arrive, so that the check at the end costs nothing.
    """

    def __init__(self, size: int, digest: str, room: memoryview | None = None) -> None:
        """size: bytes of the whole, which are set aside now; digest: its blake3, 64 hexadecimal digits.

        room: as many writable bytes to take, for example on disk; None: of memory.
        """
        if size < 0:
            raise WireError(f"an object cannot have {size} bytes")
        self.size = size
        self.digest = digest
        self.received = 0
        """Bytes that are here: where a broken stream resumes."""
        empty = np.empty(size, np.uint8).data if size and room is None else memoryview(bytearray())
        self._buffer: memoryview | None = empty if room is None else room
        self._hash = blake3()

    @property
    def complete(self) -> bool:
        """Whether all bytes are here; whether they are the right ones, `take` says."""
        return self.received == self.size

    @property
    def intact(self) -> bool:
        """Whether all bytes are here and are those that were announced."""
        return self.complete and self._hash.hexdigest() == self.digest

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Add the bytes at `offset`, which must be `received`; a chunk that is here already may come again.

        Raises `WireError`, with nothing changed, for a gap, other bytes than those that are here, or too many.
        """
        buffer = self._open()
        view = memoryview(data).cast("B")
        end = offset + len(view)
        if end > self.size:
            raise WireError(f"a chunk ends at byte {end}, but the whole was announced with {self.size}")
        if offset > self.received:
            raise WireError(f"a chunk begins at byte {offset}, but those from {self.received} are missing")
        if offset < self.received:
            if end > self.received or buffer[offset:end] != view:
                raise WireError(f"a chunk differs from the {self.received} bytes that are here; go on from there")
            return
        buffer[offset:end] = view
        self._hash.update(view)
        self.received = end

    def move(self, room: memoryview) -> None:
        """Go on in other writable bytes, as many, that hold what has come already."""
        self._buffer = room

    def copy(self, room: memoryview, start: int) -> int:
        """Copy what has come from a byte on; returns how much is there. Chunks may be written meanwhile."""
        have, buffer = self.received, self._open()
        room[start:have] = buffer[start:have]
        return have

    def take(self) -> memoryview:
        """The whole, writable; this assembly is empty afterwards. Raises `WireError` unless it is `intact`."""
        buffer = self._open()
        if not self.complete:
            raise WireError(f"{self.received} of {self.size} bytes are here")
        if not self.intact:
            raise WireError(
                f"the bytes received have the digest {self._hash.hexdigest()}, "
                f"but {self.digest} was announced; send them again"
            )
        self._buffer = None
        return buffer

    def _open(self) -> memoryview:
        if self._buffer is None:
            raise WireError("the bytes were taken already")
        return self._buffer


def _join(offset: int, pieces: Iterable[bytes | memoryview], length: int) -> bytes:
    """One message; protobuf leaves out a field that is zero, and so do we."""
    head = bytes([_OFFSET]) + _varint(offset) if offset else b""
    if length:
        head += bytes([_DATA]) + _varint(length)
    return b"".join((head, *pieces))


def _varint(value: int) -> bytes:
    if value < 0 or value >= 2**64:
        raise WireError(f"{value} is not an offset")
    digits = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte, the eighth says that more follow
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _read(view: memoryview) -> tuple[int, memoryview] | None:
    """The usual form: offset, then data to the end, either left out when zero; None for any other."""
    offset, position = 0, 0
    if view and view[0] == _OFFSET:
        number = _read_varint(view, 1)
        if number is None:
            return None
        offset, position = number
    if position == len(view):
        return offset, view[:0]
    if view[position] != _DATA:
        return None
    number = _read_varint(view, position + 1)
    if number is None or number[1] + number[0] != len(view):
        return None
    return offset, view[number[1] :]


def _read_varint(view: memoryview, start: int) -> tuple[int, int] | None:
    """(value, where it ends), or None when it is cut or longer than is read here."""
    value = 0
    for index, byte in enumerate(view[start : start + _FAST_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # noqa: PLR2004 - the last byte
            return value, start + index + 1
    return None


def _parse(message: bytes) -> tuple[int, memoryview]:
    try:
        chunk = _CHUNK.FromString(message)
    except DecodeError as error:
        raise WireError(f"{len(message)} bytes that should be a chunk cannot be read: {error}") from error
    return chunk.offset, memoryview(chunk.data)
