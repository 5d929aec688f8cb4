"""A controller and a combiner as processes, and what strangers and hostile members send to their gRPC ports.

Who is attacked lives, its memory is bounded, what the network keeps is as it was, nobody logs a failure of their own or
a secret; and a client that means well has its session finished afterwards.
"""

import asyncio
import json
import random
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Coroutine, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
import psutil
import pytest
from commandline import TINY, written
from hostile import LETTER, RPCS, messages
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import Hansa, Server
from untouched import TOLD, rows, tables

from hansa.wire import channel
from hansa.wire._generated import control_pb2
from hansa.wire.calls import EnrollRequest
from hansa.wire.node_key import NodeKey
from hansa.wire.tls import CONTROLLER, Scheme, Trust, address_of, roots_of

T = TypeVar("T")
Code = grpc.StatusCode

bounded = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck), report_multiple_bugs=False
)
MEGABYTES = 300
"""By which the server may have grown at the end."""
PATIENCE = 20.0
"""Seconds for any one answer."""
UNHEARD = 3.0
"""Seconds after which a villain hangs up whose stream has not been ended. gRPC's core (1.85) sometimes keeps from a
caller that the server has ended the call, more often after a large message: no handler is running then, and the core
waits for the caller. Nodes notice by themselves that nobody speaks to them (`hansa.network.link`)."""
SELDOM = 0.05
"""The share of all calls of which that may be so."""
REFUSALS = {
    Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.NOT_FOUND, Code.ABORTED, Code.FAILED_PRECONDITION,
    Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED, Code.CANCELLED,
}  # fmt: skip
"""How hansa says no; CANCELLED: see UNHEARD.

UNKNOWN is an error that nobody expected; INTERNAL is one of hansa's own."""
ENDED = (grpc.aio.AioRpcError, grpc.aio.InternalError, grpc.aio.UsageError, asyncio.InvalidStateError)
"""What gRPC raises where a call that is still being sent to has been answered."""
BEFORE = {"Directory/Enroll", "Directory/Access", "Directory/Rotate"}
"""Calls whose tokens are checked together with what they are sent."""
TELLS = TOLD | {"clients", "combiners", "nodes", "samples"}
"""Who has come and gone is told as well; and what nodes say of themselves, in its bounds."""


@dataclass(repr=False)
class Said:
    """Messages of a call, which can be large to look at."""

    frames: list[dict[str, Any]]

    def __repr__(self) -> str:
        return f"{self.frames!r:.2000}"


@dataclass
class Attacked:
    """The server that is attacked, the one that it belongs to, and who attacks it."""

    hansa: Hansa
    server: Server
    """The controller."""
    process: "subprocess.Popen[str]"
    """Of the one that is attacked: the controller, or a combiner below it."""
    relay: str = ""
    """The combiner's name."""
    place: tuple[str, Trust | None] = ("", None)
    """Its address, and how it is known; None: plain TCP."""
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)
    tokens: dict[str, str] = field(default_factory=dict)
    """Role of a villain → its access token."""
    secrets: list[str] = field(default_factory=list)
    runs: tuple[str, ...] = ()
    """Sessions that wait for more clients than there are."""
    calls: int = 0
    unheard: int = 0
    """Calls whose end was not heard, of all."""

    @property
    def folder(self) -> Path:
        return self.hansa.folder / "hansa-data"

    def serves(self, method: str) -> bool:
        """A combiner has no directory and no relay: nodes ask the controller."""
        return not self.relay or not method.startswith(("Directory/", "Relay/"))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def controller(self) -> tuple[str, Trust | None]:
        scheme, address = address_of(self.server.join)
        if scheme is Scheme.PLAIN:
            return address, None
        return address, Trust(roots=roots_of(address, self.server.facts["ca"]), name=CONTROLLER)

    def dial(self) -> channel.Channel:
        return channel.open_channel(*self.place)

    def socket(self) -> socket.socket:
        host, port = channel.split_address(self.place[0])
        return socket.create_connection((host, port), timeout=PATIENCE)

    def join(self, name: str, role: str) -> None:
        """A villain joins as any node does."""
        join = self.hansa.json("token", "create", name, "--role", role)["token"]
        key = NodeKey.new()

        async def access() -> str:
            opened = channel.open_channel(*self.controller())
            try:
                await channel.enroll(opened, join, EnrollRequest(key.public, key.prove(join)))
                return (await channel.access(opened, key.assertion(name, "default", secrets.token_hex(8)))).token
            finally:
                await opened.close()

        self.tokens[role] = self.run(access())
        self.secrets += [join, self.tokens[role]]

    @property
    def log(self) -> str:
        """Of everybody but clients."""
        files = [self.hansa.folder / f"{number}.err" for number in range(2 if self.relay else 1)]
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)

    def state(self) -> dict[str, str]:
        return tables(self.folder, but=TELLS)


@pytest.fixture(scope="module", params=["controller", "combiner without TLS"])
def attacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    hansa = Hansa(tmp_path_factory.mktemp("attacked"))
    below = request.param == "combiner without TLS"
    hansa.environment["HANSA_TLS"] = "off" if below else "on"
    try:
        server = hansa.up()
        made = Attacked(hansa, server, server.process)
        made.place = made.controller()
        if below:
            _below(made, "relay")
        made.join("villain", "client")
        made.join("fort", "combiner")
        app = written(hansa.folder, TINY)
        waiting = hansa.json("session", "start", app, "--rounds", 1, "--min-clients", 3, "--name", "theirs", "--detach")
        made.runs = (waiting["id"],)
        with made.runner:
            process = psutil.Process(made.process.pid)
            before, memory = made.state(), process.memory_info().rss
            yield made
            _still_whole(made, before, memory)
    finally:
        hansa.end()


def _below(made: Attacked, name: str) -> None:
    """Attack a combiner of this name, once it is connected."""
    token = made.hansa.json("token", "create", name, "--role", "combiner")["token"]
    made.process = made.hansa.start("combiner", "start", *made.server.join_options, HANSA_TOKEN=token)
    made.relay = name
    made.secrets.append(token)
    until = time.monotonic() + PATIENCE
    while not (there := made.hansa.call("combiner", "list", "--json").stdout) or not json.loads(there)["connected"]:
        assert time.monotonic() < until
        time.sleep(0.1)
    made.place = address_of(json.loads(there)["address"])[1], None


def _still_whole(made: Attacked, before: dict[str, str], memory: int) -> None:
    """After all that a module of tests has sent."""
    assert made.process.poll() is None
    assert made.server.process.poll() is None
    assert made.state() == before
    assert {row[3] for row in rows(made.folder, "nodes")} == {"villain", "fort", *([made.relay] if made.relay else [])}
    assert psutil.Process(made.process.pid).memory_info().rss - memory < MEGABYTES << 20
    assert made.unheard <= max(3, SELDOM * made.calls)
    log = made.log
    assert "Traceback" not in log, log[log.index("Traceback") - 2000 :][:6000]
    assert [secret for secret in made.secrets if secret in log or secret.split(".")[1] in log] == []
    made.hansa.client(made.server, "ward", 0, 1, *(("--combiner", made.relay) if made.relay else ()))
    app = written(made.hansa.folder, TINY)
    assert made.hansa.json("session", "start", app, "--rounds", 2)["state"] == "finished"


# ── bytes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes(3) + b"\x04\x00" + bytes(4)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def garbage() -> Iterator[bytes]:
    rng = random.Random(7)  # noqa: S311 - the same in every run
    yield b""
    yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield PREFACE
    yield b"\x16\x03\x01\xff\xff" + rng.randbytes(2000)
    for _ in range(20):
        yield rng.randbytes(rng.choice([1, 10, 1000, 100_000]))
    for kind in range(11):
        for stream in (0, 1, 2**31 - 1):
            yield PREFACE + SETTINGS + frame(kind, rng.randrange(256), stream, rng.randbytes(rng.choice([0, 8, 2000])))


def answered(connection: socket.socket, data: bytes) -> None:
    """Send all, say that this was all, and read to the end."""
    with closing(connection), suppress(OSError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass


def test_bytes_that_are_no_grpc_end_their_connection_and_nothing_else(attacked: Attacked) -> None:
    for data in garbage():
        answered(attacked.socket(), data)
    assert attacked.process.poll() is None


def test_bytes_that_are_no_grpc_inside_tls_do_so_too(attacked: Attacked) -> None:
    if attacked.place[1] is None:
        context = None
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
    for data in garbage():
        connection = attacked.socket()
        with suppress(ssl.SSLError):
            answered(context.wrap_socket(connection) if context else connection, data)
    assert attacked.process.poll() is None


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def outcome(
    attacked: Attacked, method: str, sent: list[bytes], *metadata: tuple[str, str | bytes]
) -> tuple[Code, str]:
    """(status, what it says) of a call that is sent these messages and then no more; for CANCELLED see UNHEARD."""
    kind = RPCS[method][0]
    is_stream = kind != "unary_unary"
    opened = attacked.dial()
    attacked.calls += 1
    try:
        async with asyncio.timeout(UNHEARD if is_stream else PATIENCE):
            if kind.startswith("unary"):
                call = opened.start(method, kind, sent[0], metadata=metadata)
            else:
                call = opened.start(method, kind, metadata=metadata)
                with suppress(*ENDED):
                    for message in sent:
                        await channel._write(call, message)  # keeps the status that the server ended it with
                    await call.done_writing()
            with suppress(grpc.aio.AioRpcError):
                if kind.endswith("unary"):
                    await call
                else:
                    async for _ in call:
                        pass
            return await call.code(), await call.details() or ""
    except TimeoutError:
        if not is_stream:
            raise
        attacked.unheard += 1
        return Code.CANCELLED, ""
    finally:
        await opened.close()


def bearer(token: str) -> tuple[str, str]:
    return "authorization", f"Bearer {token}"


@pytest.mark.parametrize("method", RPCS)
def test_no_call_without_a_token_is_read(attacked: Attacked, method: str) -> None:
    rng = random.Random(method)  # noqa: S311 - the same in every run
    good, upload = bearer(attacked.tokens["client"]), ("hansa-upload", "x")
    for sent in ([b""], [rng.randbytes(100)], [rng.randbytes(20_000)]):
        for metadata in (
            (), (upload,), (bearer(""),), (bearer("x.y.z"),), (bearer("x" * 4000),), (good, good), (good, bearer("x")),
            (("authorization", attacked.tokens["client"]),), (("authorization-bin", b"x"),),
        ):  # fmt: skip
            code, said = attacked.run(outcome(attacked, method, sent, *metadata))
            allowed = {Code.UNAUTHENTICATED} | ({Code.INVALID_ARGUMENT} if method in BEFORE else set())
            allowed = allowed if attacked.serves(method) else {Code.UNIMPLEMENTED}
            assert code in allowed, (metadata, said)
            assert not any(secret in said for secret in attacked.secrets)


@pytest.mark.parametrize("role", ["client", "combiner"])
@pytest.mark.parametrize("method", RPCS)
def test_random_bytes_of_a_member_are_refused(attacked: Attacked, method: str, role: str) -> None:
    rng = random.Random(method + role)  # noqa: S311 - the same in every run
    metadata = bearer(attacked.tokens[role]), ("hansa-upload", "../../x"), ("hansa-letter-bin", LETTER)
    for size in (0, 1, 3, 10, 100, 5000, 1_000_000):
        code, said = attacked.run(outcome(attacked, method, [rng.randbytes(size)], *metadata))
        allowed = REFUSALS | ({Code.OK} if method in {"Directory/Assign", "Directory/Access"} else set())
        allowed = allowed if attacked.serves(method) else {Code.UNIMPLEMENTED}
        assert code in allowed, said
        assert attacked.tokens[role] not in said


@pytest.mark.parametrize("role", ["client", "combiner"])
@pytest.mark.parametrize("method", [method for method in RPCS if method != "Control/Attach"])
def test_valid_messages_that_mean_harm_are_answered(attacked: Attacked, method: str, role: str) -> None:
    made = RPCS[method][1]
    metadata = bearer(attacked.tokens[role]), ("hansa-upload", "x"), ("hansa-letter-bin", LETTER)

    @settings(bounded, max_examples=25)
    @given(messages(made.DESCRIPTOR).map(lambda fields: Said([fields])))
    def send(sent: Said) -> None:
        (fields,) = sent.frames
        code, said = attacked.run(outcome(attacked, method, [made(**fields).SerializeToString()], *metadata))
        assert code in (REFUSALS | {Code.OK} if attacked.serves(method) else {Code.UNIMPLEMENTED}), said

    send()


@pytest.mark.parametrize("role", ["client", "combiner"])
def test_frames_that_mean_harm_end_their_stream_at_most(attacked: Attacked, role: str) -> None:
    """In any order, for any session, about anybody; most after a hello as it should be."""
    number = {"client": 2, "combiner": 3}[role]
    hello = control_pb2.FromNode(
        hello={"role": number, "instance": "i", "version": "0", "address": "tcp://127.0.0.1:1" if number > 2 else ""}
    )
    frames = st.lists(messages(control_pb2.FromNode.DESCRIPTOR, attacked.runs), min_size=1, max_size=5).map(Said)

    @settings(bounded, max_examples=150)
    @given(frames, st.integers(0, 9))
    def send(said: Said, chance: int) -> None:
        sent = [control_pb2.FromNode(**fields).SerializeToString() for fields in said.frames]
        sent = [each for each in sent if len(each) < 4_000_000]
        greeting = [hello.SerializeToString()] if chance else []
        code, answer = attacked.run(
            outcome(attacked, "Control/Attach", [*greeting, *sent], bearer(attacked.tokens[role]))
        )
        assert code in REFUSALS | {Code.OK}, answer

    send()
    assert attacked.process.poll() is None
