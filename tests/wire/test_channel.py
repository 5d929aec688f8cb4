"""The services over a real socket: values arrive, errors arrive as what they are, and nothing is served unverified."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import blake3
import grpc.aio
import pytest
from servers import free_port

from hansa.errors import (
    AuthenticationError,
    ConflictError,
    ConnectionFailedError,
    HansaError,
    InputError,
    NotFoundError,
    PermissionDeniedError,
    UntrustedServerError,
    WireError,
)
from hansa.messages import Kind
from hansa.wire import channel, chunks, framing, service, tokens
from hansa.wire.calls import (
    AccessToken,
    Assignment,
    AssignRequest,
    DownloadRequest,
    Enrolled,
    EnrollRequest,
    RotateRequest,
)
from hansa.wire.channel import Channel, Stream
from hansa.wire.frames import FromNode, Heartbeat, Hello, LogLine, Redirect, Role, RoundKey, Seal, ToNode, Welcome
from hansa.wire.tokens import Identity

KEY = tokens.new_key()
TOKEN = tokens.issue(KEY, "client-0", Role.CLIENT, "default")[0]

Served = Callable[[Identity, Stream[ToNode, FromNode]], Awaitable[None]]


async def verified(token: str) -> Identity:
    return tokens.verify(tokens.public_key(KEY), token)


@dataclass
class Peer:
    """A server whose behaviour a test sets, and a channel to it."""

    serve: Served | None = None
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, chunks.Assembly] = field(default_factory=dict)
    callers: list[Identity] = field(default_factory=list)
    address: str = ""
    channel: Channel = field(init=False)

    async def attach(self, identity: Identity, stream: Stream[ToNode, FromNode]) -> None:
        self.callers.append(identity)
        assert self.serve is not None
        await self.serve(identity, stream)

    async def enroll(self, token: str, request: EnrollRequest) -> Enrolled:
        if token != TOKEN:
            raise AuthenticationError("this is another token")
        return Enrolled(f"{request.public_key} {request.proof}")

    async def access(self, assertion: str) -> AccessToken:
        return AccessToken(f"access for {assertion}", 60.0)

    async def rotate(self, assertion: str, request: RotateRequest) -> Enrolled:
        return Enrolled(f"{assertion} {request.public_key} {request.by_former} {request.by_key}")

    async def assign(self, identity: Identity, request: AssignRequest) -> Assignment:
        self.callers.append(identity)
        if request.preferred == "gone":
            raise NotFoundError("no combiner is called 'gone'")
        return Assignment(request.preferred or "root", self.address)

    async def certify(self, identity: Identity, request: str) -> str:
        self.callers.append(identity)
        return f"for {identity.name}: {request}"

    async def download(self, identity: Identity, request: DownloadRequest) -> AsyncGenerator[bytes, None]:
        self.callers.append(identity)
        if request.digest not in self.objects:
            raise NotFoundError(f"there is no object {request.digest}")
        for frame in chunks.split([self.objects[request.digest]], request.offset):
            yield frame

    async def upload(self, identity: Identity, name: str, pieces: AsyncIterator[tuple[int, memoryview]]) -> int:
        self.callers.append(identity)
        if name not in self.uploads:
            raise NotFoundError(f"there is no upload {name}")
        async for offset, data in pieces:
            self.uploads[name].write(offset, data)
        return self.uploads[name].received


@pytest.fixture
async def peer() -> AsyncGenerator[Peer, None]:
    peer = Peer()
    server = service.create_server(
        service.control_handler(peer.attach, verified),
        service.directory_handler(
            peer.enroll, peer.access, peer.rotate, peer.assign, peer.certify, authenticate=verified
        ),
        service.transfer_handler(peer.download, peer.upload, verified),
    )
    peer.address = f"127.0.0.1:{service.bind(server, '127.0.0.1:0', None)}"
    await server.start()
    peer.channel = channel.open_channel(peer.address, None)
    yield peer
    await peer.channel.close()
    await server.stop(None)


HELLO = Hello(Role.CLIENT, "instance", "0.1.0")
WELCOME = Welcome("root", 5.0)
ROUND = RoundKey("run", 1, Kind.TRAIN)


async def echo_lines(identity: Identity, stream: Stream[ToNode, FromNode]) -> None:
    assert isinstance(await stream.receive(), Hello)
    await stream.send(Welcome(identity.name, 5.0))
    async for frame in stream:
        if isinstance(frame, LogLine) and frame.line == "bye":
            return
        await stream.send(Seal(ROUND))


async def test_a_control_stream_carries_frames_both_ways_until_the_server_returns(peer: Peer):
    peer.serve = echo_lines
    stream = channel.attach(peer.channel, TOKEN)
    await stream.send(HELLO)
    assert await stream.receive() == Welcome("client-0", 5.0)
    await stream.send(Heartbeat())
    assert await stream.receive() == Seal(ROUND)
    await stream.send(LogLine(ROUND, "client-0", "bye"))
    assert [frame async for frame in stream] == []


async def test_the_server_knows_the_identity_of_the_token(peer: Peer):
    peer.serve = echo_lines
    stream = channel.attach(peer.channel, TOKEN)
    await stream.send(HELLO)
    await stream.receive()
    stream.close()
    assert [(caller.name, caller.role, caller.project) for caller in peer.callers] == [
        ("client-0", Role.CLIENT, "default")
    ]


async def test_many_tasks_may_send_on_one_stream(peer: Peer):
    peer.serve = echo_lines
    stream = channel.attach(peer.channel, TOKEN)
    await stream.send(HELLO)
    await stream.receive()
    await asyncio.gather(*[stream.send(Heartbeat()) for _ in range(200)])
    assert [await stream.receive() for _ in range(200)] == [Seal(ROUND)] * 200
    stream.close()


async def test_close_ends_a_waiting_receive_in_good_order_and_the_server_sees_it(peer: Peer):
    left = asyncio.Event()

    async def wait(_identity: Identity, stream: Stream[ToNode, FromNode]) -> None:
        try:
            await stream.receive()
            await stream.send(WELCOME)
            await stream.receive()
        finally:
            left.set()

    peer.serve = wait
    stream = channel.attach(peer.channel, TOKEN)
    await stream.send(HELLO)
    assert await stream.receive() == WELCOME
    waiting = asyncio.create_task(stream.receive())
    await asyncio.sleep(0)
    stream.close()
    assert await waiting is None
    await left.wait()


async def test_a_cancelled_receiver_is_cancelled_and_not_told_of_a_lost_connection(peer: Peer):
    peer.serve = echo_lines
    stream = channel.attach(peer.channel, TOKEN)
    await stream.send(HELLO)
    await stream.receive()
    waiting = asyncio.create_task(stream.receive())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize(
    ("raised", "arrives"),
    [
        (PermissionDeniedError("a client may not"), PermissionDeniedError),
        (AuthenticationError("revoked"), AuthenticationError),
        (ConflictError("connected already"), ConflictError),
        (NotFoundError("nothing"), NotFoundError),
        (WireError("odd bytes"), WireError),
        (ConnectionFailedError("the controller is away"), ConnectionFailedError),
        (HansaError("something else"), HansaError),
    ],
)
async def test_an_error_of_the_server_arrives_as_the_same_class_with_its_message(
    peer: Peer, raised: HansaError, arrives: type[HansaError]
):
    async def fail(_identity: Identity, stream: Stream[ToNode, FromNode]) -> None:
        await stream.receive()
        raise raised

    peer.serve = fail
    stream = channel.attach(peer.channel, TOKEN)
    await stream.send(HELLO)
    with pytest.raises(arrives, match=str(raised)) as caught:
        await stream.receive()
    assert type(caught.value) is arrives
    assert peer.address in str(caught.value)
    with pytest.raises(arrives, match=str(raised)):
        await stream.send(Heartbeat())


async def test_bytes_that_are_no_frame_end_the_stream_with_the_reason(peer: Peer):
    peer.serve = echo_lines
    call = peer.channel.start("Control/Attach", "stream_stream", metadata=(("authorization", f"Bearer {TOKEN}"),))
    await call.write(b"\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError, match="FromNode"):
        await call.read()


async def test_a_node_joins_and_asks_for_access_before_it_is_known(peer: Peer):
    request = EnrollRequest("ed25519:" + "a1" * 32, "b2" * 64)
    enrolled = await channel.enroll(peer.channel, TOKEN, request)
    assert enrolled == Enrolled(f"{request.public_key} {request.proof}")
    with pytest.raises(AuthenticationError, match="another token"):
        await channel.enroll(peer.channel, FORGED, request)
    assert await channel.access(peer.channel, "said") == AccessToken("access for said", 60.0)
    rotated = await channel.rotate(peer.channel, "said", RotateRequest("new", "by former", "by new"))
    assert rotated == Enrolled("said new by former by new")
    assert peer.callers == []


async def test_assign_asks_for_a_server(peer: Peer):
    assert await channel.assign(peer.channel, TOKEN, AssignRequest("combiner-1")) == Assignment(
        "combiner-1", peer.address
    )
    with pytest.raises(NotFoundError, match="gone"):
        await channel.assign(peer.channel, TOKEN, AssignRequest("gone"))


async def test_a_download_resumes_from_any_byte(peer: Peer):
    whole = os.urandom(2 * chunks.CHUNK + 77)
    digest = blake3.blake3(whole).hexdigest()
    peer.objects[digest] = whole
    assembly = chunks.Assembly(len(whole), digest)
    async for offset, data in channel.download(peer.channel, TOKEN, DownloadRequest(digest)):
        assembly.write(offset, data)
        break
    assert 0 < assembly.received < len(whole)
    async for offset, data in channel.download(peer.channel, TOKEN, DownloadRequest(digest, assembly.received)):
        assembly.write(offset, data)
    assert assembly.take() == whole


async def test_an_upload_resumes_where_the_server_has_it(peer: Peer):
    whole = os.urandom(3 * chunks.CHUNK + 5)
    digest = blake3.blake3(whole).hexdigest()
    peer.uploads["u1"] = chunks.Assembly(len(whole), digest)
    first = list(chunks.split([whole]))[:1]
    reply = await channel.upload(peer.channel, TOKEN, "u1", first)
    assert reply.received == chunks.CHUNK
    reply = await channel.upload(peer.channel, TOKEN, "u1", chunks.split([whole], reply.received))
    assert reply.received == len(whole)
    assert peer.uploads["u1"].take() == whole


async def test_an_upload_that_nobody_admitted_is_refused_while_it_is_being_sent(peer: Peer):
    with pytest.raises(NotFoundError, match="no upload unknown"):
        await channel.upload(peer.channel, TOKEN, "unknown", chunks.split([bytes(64 * chunks.CHUNK)]))


async def test_a_gap_in_an_upload_is_refused_with_where_to_go_on(peer: Peer):
    peer.uploads["u1"] = chunks.Assembly(100, "0" * 64)
    with pytest.raises(WireError, match="those from 0 are missing"):
        await channel.upload(peer.channel, TOKEN, "u1", [chunks.frame(10, b"x")])


async def test_an_unknown_object_is_not_found(peer: Peer):
    with pytest.raises(NotFoundError):
        async for _ in channel.download(peer.channel, TOKEN, DownloadRequest("0" * 64)):
            pass


METHODS = {
    "Control/Attach": "stream_stream",
    "Directory/Assign": "unary_unary",
    "Transfer/Download": "unary_stream",
    "Transfer/Upload": "stream_unary",
}
FORGED = tokens.issue(tokens.new_key(), "client-0", Role.CLIENT, "default")[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer "),),
        (("authorization", TOKEN),),
        (("authorization", f"Basic {TOKEN}"),),
        (("authorization", f"Bearer {FORGED}"),),
        (("authorization", f"Bearer {TOKEN}x"),),
        (("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")),
    ],
    ids=["none", "empty", "empty bearer", "no scheme", "basic", "forged", "changed", "twice"],
)
async def test_no_method_is_served_without_a_token_that_holds(
    peer: Peer, method: str, metadata: tuple[tuple[str, str], ...]
):
    kind = METHODS[method]
    request = () if kind.startswith("stream") else (framing.encode_call(DownloadRequest("0" * 64)),)
    call = peer.channel.start(method, kind, *request, metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if kind.endswith("stream") else call)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert peer.callers == []


async def test_an_unknown_method_is_said_to_be_one(peer: Peer):
    call = peer.channel.start("Control/Detach", "unary_unary", b"", metadata=(("authorization", f"Bearer {TOKEN}"),))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    failure = channel._failure(caught.value.code(), caught.value.details() or "", peer.address)
    assert isinstance(failure, WireError)
    assert "does not speak hansa.v1" in str(failure)


@pytest.mark.parametrize(
    ("flaw", "remedy"),
    [
        ("certificate has expired", "check the clocks of both machines"),
        ("certificate is not yet valid", "check the clocks of both machines"),
        ("self signed certificate in certificate chain", "give its authority's fingerprint"),
    ],
)
def test_a_certificate_of_another_time_is_a_matter_of_clocks(flaw: str, remedy: str):
    detail = (
        f"failed to connect to all addresses; SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: {flaw}: Invalid certificate"
    )
    failure = channel._unreached(grpc.StatusCode.UNAVAILABLE, detail, "10.0.0.1:8471")
    assert isinstance(failure, UntrustedServerError)
    assert f"({flaw}): {remedy}" in str(failure)


async def test_a_server_that_is_not_there_is_named_by_every_call():
    address = f"127.0.0.1:{free_port()}"
    nowhere = channel.open_channel(address, None)
    with pytest.raises(ConnectionFailedError, match=f"cannot reach {address} .*refused"):
        await channel.assign(nowhere, TOKEN, AssignRequest())
    with pytest.raises(ConnectionFailedError, match=address):
        await channel.attach(nowhere, TOKEN).receive()
    with pytest.raises(ConnectionFailedError, match=address):
        await channel.attach(nowhere, TOKEN).send(HELLO)
    with pytest.raises(ConnectionFailedError, match=address):
        await channel.upload(nowhere, TOKEN, "u", chunks.split([b"x"]))
    with pytest.raises(ConnectionFailedError, match=address):
        _ = [chunk async for chunk in channel.download(nowhere, TOKEN, DownloadRequest("0" * 64))]
    await nowhere.close()


async def test_a_web_server_where_nodes_should_join_is_told_apart_from_nothing():
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    there = channel.open_channel(address, None)
    with pytest.raises(ConnectionFailedError, match=f"{address} answers as a web server.*at which nodes join"):
        await channel.assign(there, TOKEN, AssignRequest())
    await there.close()
    server.close()
    await server.wait_closed()


async def test_a_name_that_does_not_resolve_is_a_failed_connection():
    nowhere = channel.open_channel("no.such.host.invalid:7433", None)
    with pytest.raises(ConnectionFailedError, match=r"cannot reach no\.such\.host\.invalid:7433"):
        await channel.assign(nowhere, TOKEN, AssignRequest())
    await nowhere.close()


async def test_a_server_that_stops_ends_streams_as_a_lost_connection():
    async def serve(_identity: Identity, stream: Stream[ToNode, FromNode]) -> None:
        await stream.receive()
        await stream.send(WELCOME)
        await stream.receive()

    server = service.create_server(service.control_handler(serve, verified))
    address = f"127.0.0.1:{service.bind(server, '127.0.0.1:0', None)}"
    await server.start()
    dialled = channel.open_channel(address, None)
    stream = channel.attach(dialled, TOKEN)
    await stream.send(HELLO)
    assert await stream.receive() == WELCOME
    await server.stop(None)
    with pytest.raises(ConnectionFailedError, match=address):
        await stream.receive()
    await dialled.close()


async def test_closing_a_channel_ends_its_streams_as_a_lost_connection(peer: Peer):
    peer.serve = echo_lines
    dialled = channel.open_channel(peer.address, None)
    stream = channel.attach(dialled, TOKEN)
    await stream.send(HELLO)
    await stream.receive()
    waiting = asyncio.create_task(stream.receive())
    await asyncio.sleep(0)
    await dialled.close()
    with pytest.raises(ConnectionFailedError):
        await waiting


async def test_a_taken_port_is_an_error_that_says_so():
    first = service.create_server()
    port = service.bind(first, "127.0.0.1:0", None)
    await first.start()
    second = service.create_server()
    with pytest.raises(InputError, match=f"cannot listen at 127.0.0.1:{port}: Address already in use"):
        service.bind(second, f"127.0.0.1:{port}", None)
    await first.stop(None)
    await second.stop(None)


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no.such.host.invalid:80"])
async def test_an_address_that_is_not_here_is_an_error_that_says_so(address: str):
    server = service.create_server()
    with pytest.raises(InputError, match=f"cannot listen at {address}: "):
        service.bind(server, address, None)
    await server.stop(None)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:99999", "nonsense", "http://localhost:80", "localhost:", "::1:80", "host:-1", "host:８0", ""]
)
async def test_what_is_not_an_address_is_refused_before_it_is_dialled(address: str):
    with pytest.raises(InputError, match="is not an address: write host:port"):
        channel.open_channel(address, None)


def test_addresses_may_be_names_and_numbers():
    assert channel.split_address("localhost:0") == ("localhost", 0)
    assert channel.split_address("[::1]:7433") == ("::1", 7433)
    assert channel.split_address(":7433") == ("", 7433)


@pytest.mark.parametrize(
    ("host", "everywhere"),
    [
        ("", True),
        ("0.0.0.0", True),  # noqa: S104 - compared, not bound
        ("::", True),
        ("::0", True),
        ("0:0:0:0:0:0:0:0", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("ward-0.example.org", False),
    ],
)
def test_who_listens_at_every_address_is_known_however_it_is_written(host: str, *, everywhere: bool) -> None:
    assert channel.is_everywhere(host) is everywhere


def test_the_keys_of_this_test_are_real():
    assert tokens.verify(tokens.public_key(KEY), TOKEN).name == "client-0"


async def talk(stream: Stream[Any, Any], frame: Any) -> None:
    for _ in range(10_000):
        await stream.send(frame)


async def test_sending_to_a_node_that_has_gone_is_a_lost_connection(peer: Peer):
    streams: asyncio.Queue[Stream[ToNode, FromNode]] = asyncio.Queue()
    gone = asyncio.Event()

    async def keep(_identity: Identity, stream: Stream[ToNode, FromNode]) -> None:
        try:
            await stream.receive()
            streams.put_nowait(stream)
            await stream.receive()
        finally:
            gone.set()

    peer.serve = keep
    stream = channel.attach(peer.channel, TOKEN)
    await stream.send(HELLO)
    kept = await streams.get()
    stream.close()
    await gone.wait()
    with pytest.raises(ConnectionFailedError, match="the node has gone"):
        await talk(kept, WELCOME)


async def test_a_refusal_is_not_lost_while_the_node_keeps_talking(peer: Peer):
    async def refuse(_identity: Identity, stream: Stream[ToNode, FromNode]) -> None:
        await stream.receive()
        raise ConflictError("connected already, from another process")

    peer.serve = refuse
    for _ in range(20):
        stream = channel.attach(peer.channel, TOKEN)
        with pytest.raises(ConflictError, match="connected already"):
            await talk(stream, LogLine(ROUND, "client-0", "x" * 1000))


async def test_a_server_may_stop_listening_and_still_say_goodbye(peer: Peer):
    async def leave(_identity: Identity, stream: Stream[ToNode, FromNode]) -> None:
        await stream.receive()
        listening = asyncio.create_task(stream.receive())
        await stream.send(WELCOME)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await stream.send(Redirect("the server is stopping"))

    peer.serve = leave
    stream = channel.attach(peer.channel, TOKEN)
    await stream.send(HELLO)
    assert [frame async for frame in stream] == [WELCOME, Redirect("the server is stopping")]
