"""Connections that hold a place and do nothing with it, over real TCP; beside them somebody else is served."""

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from served import Served

from hansa.api.connections import MAX_HEADERS, Doors
from hansa.api.encryption import client_context
from hansa.api.server import ApiServer
from hansa.settings import Settings

PATIENCE = 0.3
"""Seconds; what is slower than this is ended within twice as long."""
MOST = 8
"""Connections of one address."""


class Impatient(Served):
    """A server that waits for nobody."""

    async def opened(self, port: int = 0) -> ApiServer:
        settings = Settings(
            data=self.folder / "controller", port=port, grpc_port=0, patience=PATIENCE, max_connections=4 * MOST
        )
        return await ApiServer.open(settings)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Impatient(tmp_path_factory.mktemp("served"))
    yield made
    made.close()


@contextmanager
def connected(served: Served) -> Iterator[ssl.SSLSocket]:
    host, _, port = served.url.removeprefix("https://").rpartition(":")
    context = client_context(served.server.trust)
    with (
        socket.create_connection((host, int(port)), 20) as plain,
        context.wrap_socket(plain, server_hostname=served.server.trust.name or host) as encrypted,
    ):
        yield encrypted


def ended(connection: ssl.SSLSocket) -> bool:
    """Wait for the server's end of a connection; what it said before is passed over."""
    connection.settimeout(20)
    try:
        while connection.recv(4096):
            pass
    except (ConnectionError, ssl.SSLError):
        pass
    return True


def is_served(served: Served) -> bool:
    with connected(served) as other:
        other.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b" 200 " in other.recv(4096)


def is_let_in(served: Served) -> bool:
    try:
        return is_served(served)
    except (ConnectionError, ssl.SSLError):
        return False


def until_nobody_is_connected(served: Served) -> None:
    while served.server.doors.open:
        time.sleep(0.01)


def sent_for(connection: ssl.SSLSocket, seconds: float) -> None:
    """A byte now and then."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        connection.sendall(b"x")
        time.sleep(PATIENCE / 20)


def read(connection: ssl.SSLSocket) -> bytes:
    """To the end, which an error is too."""
    said = b""
    try:
        while piece := connection.recv(4096):
            said += piece
    except (ConnectionError, ssl.SSLError):
        pass
    return said


HEAD = b"POST /api/v1/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "begun",
    [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", HEAD + b"Content-Length: 1000\r\n\r\n{"],
    ids=["nothing", "a byte", "headers without an end", "a body without an end"],
)
def test_a_request_that_stands_still_is_ended_and_others_are_served(served: Served, begun: bytes) -> None:
    with connected(served) as slow:
        slow.sendall(begun)
        assert is_served(served)
        assert ended(slow)
    until_nobody_is_connected(served)


def test_headers_that_come_a_byte_at_a_time_are_ended_however_long_they_move(served: Served) -> None:
    with connected(served) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        with pytest.raises((ConnectionError, ssl.SSLError)):
            sent_for(slow, 60.0)
    assert is_served(served)


def test_a_body_that_moves_is_never_ended(served: Served) -> None:
    """A small step in each patience is enough: five times its length is waited for."""
    steps, size = 25, 16_000
    token = served.token()
    with connected(served) as slow:
        slow.sendall(
            f"POST /api/v1/projects/default/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Length: {steps * size}\r\nConnection: close\r\n\r\n".encode()
        )
        for _ in range(steps):
            time.sleep(PATIENCE / 5)
            slow.sendall(bytes(size))
        assert b" 422 " in slow.recv(4096)  # it is no model, and was read to its end


def test_an_answer_that_nobody_reads_is_ended(served: Served) -> None:
    token = served.token()
    with connected(served) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = f"GET /api/v1/openapi.json HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        for _ in range(100):  # of 200 kB each: more than the kernel keeps for somebody
            deaf.sendall(request)
        assert is_served(served)
        until_nobody_is_connected(served)


def test_an_event_stream_that_has_nothing_to_say_goes_on(served: Served) -> None:
    token = served.token()
    with connected(served) as quiet:
        quiet.sendall(
            "GET /api/v1/projects/default/events/stream HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        assert b" 200 " in quiet.recv(4096)
        quiet.settimeout(5 * PATIENCE)
        with pytest.raises(TimeoutError):
            read(quiet)
        assert served.server.doors.open == 1


def test_one_address_cannot_take_every_connection(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.server._server.config.http_protocol_class, "patience", 60.0)  # nobody goes meanwhile
    with ExitStack() as held:
        for _ in range(MOST):
            held.enter_context(connected(served))
        assert not is_let_in(served)
    until_nobody_is_connected(served)
    assert is_served(served)


def test_doors_count_by_address_and_in_all() -> None:
    doors = Doors(3, 2)
    assert [doors.enter(address) for address in ("a", "a", "a", "b", "b")] == [True, True, False, True, False]
    doors.leave("a")
    assert (doors.open, doors.enter("b")) == (2, True)
    for address in ("a", "b", "b"):
        doors.leave(address)
    assert doors.open == 0


@pytest.mark.parametrize(
    "bomb",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Bomb: " + b"x" * 2 * MAX_HEADERS,
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * MAX_HEADERS,
        b"GET /" + b"x" * 2 * MAX_HEADERS,
    ],
    ids=["a long header", "many headers", "a long path"],
)
def test_headers_beyond_the_limit_are_refused(served: Served, bomb: bytes) -> None:
    with connected(served) as connection:
        with suppress(ConnectionError, ssl.SSLError):  # it need not read what it refuses
            connection.sendall(bomb)
        said = read(connection)
        assert not said or b" 400 " in said
    assert is_served(served)


async def test_a_crowd_that_says_nothing_leaves_room_for_somebody(tmp_path: Path) -> None:
    """Three hundred idle connections of one address, of the 256 that it may have: 44 find no room at once."""
    server = await ApiServer.open(Settings(data=tmp_path, port=0, grpc_port=0, max_connections=1024, patience=60.0))
    host, _, port = server.url.removeprefix("https://").rpartition(":")
    context = client_context(server.trust)
    try:
        crowd = [
            asyncio.open_connection(host, int(port), ssl=context, server_hostname=server.trust.name) for _ in range(300)
        ]
        made = await asyncio.gather(*crowd)
        while server.doors.open != 256:  # noqa: ASYNC110 - whoever was let in and put out tells nobody
            await asyncio.sleep(0.01)
        for _, writer in made[:44]:
            writer.close()
        await asyncio.gather(*(reader.read() for reader, _ in made[:44]))
    finally:
        await server.aclose()
    assert server.doors.open == 0


async def test_a_stopping_server_waits_for_no_farewell_of_a_connection_that_has_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client keeps its connection after its answer and never reads again; answers under way have hours."""
    monkeypatch.setattr("hansa.api.serving._GRACE", 3600)
    monkeypatch.setattr("asyncio.constants.SSL_SHUTDOWN_TIMEOUT", 3600)
    server = await ApiServer.open(Settings(data=tmp_path, port=0, grpc_port=0))
    server._server.config.timeout_keep_alive = 3600  # seconds, like those above: none of them may end the wait
    host, _, port = server.url.removeprefix("https://").rpartition(":")
    with (
        socket.create_connection((host, int(port)), 20) as plain,
        client_context(server.trust).wrap_socket(
            plain, server_hostname=server.trust.name or host, do_handshake_on_connect=False
        ) as silent,
    ):
        await asyncio.to_thread(silent.do_handshake)
        silent.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in await asyncio.to_thread(silent.recv, 4096)
        await server.aclose()
    assert server.doors.open == 0
