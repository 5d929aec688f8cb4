"""The nodes' port under callers that want more than their share, over real TCP; beside them a node is served."""

import asyncio
import struct
from collections.abc import AsyncIterator

import grpc
import numpy as np
import psutil
import pytest
from rig import Rig, blob_of, rig

from hansa.arrays import Arrays
from hansa.errors import ConnectionFailedError, WireError
from hansa.network.combiner.service import _MOST_TRANSFERS
from hansa.wire import channel, service
from hansa.wire.calls import DownloadRequest
from hansa.wire.chunks import MAX_CHUNK
from hansa.wire.frames import Hello, Role, Welcome
from hansa.wire.limits import MAX_FRAME

HUGE = Arrays({"w": np.zeros(24 << 20, np.float32)})
"""More bytes than gRPC takes for a caller that does not read."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture
async def made() -> AsyncIterator[Rig]:
    async with rig(lease=1.0) as opened:
        yield opened


async def is_served(made: Rig) -> bool:
    async with made.node("somebody") as node:
        return (await node.welcomes.get()).node == "hub" if node.welcomes.qsize() else node.link.connected


def http2(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def headers(*pairs: tuple[bytes, bytes]) -> bytes:
    """Without compression: a literal for each, never indexed."""
    return b"".join(b"\x10" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in pairs)


CALL = headers(
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/hansa.v1.Control/Attach"),
    (b":authority", b"x"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)


async def test_a_message_that_claims_two_gigabytes_takes_no_memory(made: Rig) -> None:
    before = psutil.Process().memory_info().rss
    connections = []
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        claimed = b"\0" + (2**31 - 1).to_bytes(4, "big") + bytes(1000)
        writer.write(PREFACE + http2(4, 0, 0, b"") + http2(1, 4, 1, CALL) + http2(0, 0, 1, claimed))
        connections.append((reader, writer))
    assert await is_served(made)
    for reader, writer in connections:
        assert await reader.read(1000)  # its settings, and what it says to the call
        writer.close()
    assert psutil.Process().memory_info().rss - before < 100 << 20


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(100), bytes(4096), PREFACE + b"\xff" * 4096,
     PREFACE + http2(4, 0, 0, b"") + http2(1, 4, 1, b"\xff" * 64), PREFACE + http2(9, 0, 1, b"x")],
    ids=["http/1", "tls", "zeros", "a preface and noise", "headers of noise", "a continuation of nothing"],
)  # fmt: skip
async def test_what_is_no_call_ends_its_connection_and_nothing_else(made: Rig, garbage: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
    writer.write(garbage)
    async with asyncio.timeout(30):
        while await reader.read(4096):
            pass
    writer.close()
    assert await is_served(made)


async def test_metadata_beyond_the_limit_is_refused(made: Rig) -> None:
    async with made.dialled() as opened:
        call = opened._raw.unary_unary("/hansa.v1.Directory/Assign")
        bomb = [("authorization", "Bearer x"), ("x-bomb", "x" * 3 * service.MAX_METADATA)]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", metadata=bomb)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await is_served(made)


async def test_a_message_beyond_the_limit_is_refused(made: Rig) -> None:
    async with made.dialled() as opened:
        call = opened._raw.unary_unary("/hansa.v1.Directory/Assign")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(bytes(max(MAX_FRAME, MAX_CHUNK) + 2048), metadata=[("authorization", "Bearer x")])
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await is_served(made)


async def test_a_node_that_opens_a_stream_and_says_nothing_loses_it(made: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hansa.network.combiner.service._FIRST_WORD", 0.3)
    async with made.stream("mute") as stream:
        with pytest.raises(WireError, match="said nothing on it"):
            await stream.receive()
    assert not made.hub.children.streams
    assert await is_served(made)


async def test_a_thousand_streams_of_one_connection_are_no_more_than_a_hundred_at_once(made: Rig) -> None:
    """The others wait at the caller's own end."""
    hello = Hello(Role.CLIENT, "a process", "0")
    async with made.dialled() as opened:
        streams = [channel.attach(opened, made.token(f"node-{number}")) for number in range(1000)]

        async def begin(stream: channel.Stream) -> bool:  # type: ignore[type-arg]
            await stream.send(hello)
            return isinstance(await stream.receive(), Welcome)

        begun = [asyncio.create_task(begin(stream)) for stream in streams]
        assert await is_served(made)
        while sum(task.done() for task in begun) < 50:  # noqa: ASYNC110 - of any fifty
            await asyncio.sleep(0.01)
        assert len(made.hub.children.streams) <= 101
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
        for stream in streams:
            stream.close()


async def test_one_node_has_so_many_transfers_under_way_and_no_more(made: Rig) -> None:
    async with made.node("greedy"):
        made.open("greedy", model=HUGE)
        token, digest = made.token("greedy"), blob_of(HUGE).digest
        async with made.dialled() as opened:
            held = []
            for _ in range(_MOST_TRANSFERS):
                frames = channel.download(opened, token, DownloadRequest(digest, 0))
                await anext(frames)  # and reads no further
                held.append(frames)
            with pytest.raises(ConnectionFailedError, match="16 transfers under way"):
                await anext(channel.download(opened, token, DownloadRequest(digest, 0)))
            other = channel.download(opened, made.token("somebody"), DownloadRequest(digest, 0))
            assert await anext(other)
            for frames in held:
                await frames.aclose()
            while True:  # the server hears of it when it writes next
                again = channel.download(opened, token, DownloadRequest(digest, 0))
                try:
                    assert await anext(again)
                except ConnectionFailedError:
                    continue
                break
            await again.aclose()
            await other.aclose()


async def test_a_connection_without_a_call_is_ended() -> None:
    server = service.create_server(patience=0.2)
    port = service.bind(server, "127.0.0.1:0", None)
    await server.start()
    try:
        mute_reader, mute = await asyncio.open_connection("127.0.0.1", port)
        idle_reader, idle = await asyncio.open_connection("127.0.0.1", port)
        idle.write(PREFACE + http2(4, 0, 0, b""))
        async with asyncio.timeout(30):
            for reader in (mute_reader, idle_reader):
                while await reader.read(4096):
                    pass
        mute.close()
        idle.close()
    finally:
        await server.stop(0)
