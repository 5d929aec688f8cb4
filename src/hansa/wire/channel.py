"""gRPC, the client's side: connections to servers, the calls of hansa.v1, and failures as hansa's own errors.

Messages are bytes to gRPC (no serializers), so that chunks move at raw speed; this module turns them into values. Every
call takes the `Channel` and the token first. The errors of `hansa.errors` that a server raised arrive as the same
class; a server that cannot be reached, or is lost, is a `ConnectionFailedError`.
"""

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Generic, TypeVar, cast
from weakref import WeakSet

import grpc  # type: ignore[import-untyped]  # grpcio ships no types
import grpc.aio  # type: ignore[import-untyped]  # the same

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
from hansa.wire.calls import (
    AccessRequest,
    AccessToken,
    Assignment,
    AssignRequest,
    CertificateRequest,
    DownloadRequest,
    Enrolled,
    EnrollRequest,
    Kept,
    RotateRequest,
    SignedCertificate,
    UploadReply,
)
from hansa.wire.chunks import MAX_CHUNK, unframe
from hansa.wire.frames import Awaited, FromNode, Letter, ToNode
from hansa.wire.framing import (
    decode_call,
    decode_to_node,
    encode_call,
    encode_from_node,
)
from hansa.wire.limits import MAX_FRAME
from hansa.wire.tls import Trust

__all__ = [
    "AUTHORIZATION",
    "BEARER",
    "KEEPALIVE",
    "LETTER",
    "MAX_DETAIL",
    "OPTIONS",
    "UPLOAD",
    "Channel",
    "Stream",
    "access",
    "address_at",
    "assign",
    "attach",
    "certify",
    "chunks_of",
    "download",
    "enroll",
    "open_channel",
    "receive_letter",
    "rotate",
    "send_letter",
    "split_address",
    "upload",
]

S = TypeVar("S")
R = TypeVar("R")

AUTHORIZATION: Final = "authorization"
"""The metadata that carries the token, after `BEARER`."""
UPLOAD: Final = "hansa-upload"
"""The metadata that names an upload."""
LETTER: Final = "hansa-letter-bin"
"""The metadata that says which letter is sent: the bytes of a `Letter` without those of its message."""
BEARER: Final = "Bearer "
MAX_DETAIL: Final = 1000
"""Characters of an error message that travel in a status."""
KEEPALIVE: Final = 30_000
"""Milliseconds between pings on a silent connection: routers forget connections that say nothing."""

OPTIONS: Final = (
    ("grpc.max_receive_message_length", max(MAX_FRAME, MAX_CHUNK) + 1024),
    ("grpc.max_send_message_length", max(MAX_FRAME, MAX_CHUNK) + 1024),
    ("grpc.keepalive_time_ms", KEEPALIVE),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),  # else a server that thinks for long is pinged twice and then not at all
)
_CLIENT: Final = (
    *OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),  # a connection, and its backoff, belong to one node
    ("grpc.initial_reconnect_backoff_ms", 100),  # the node itself waits, with jitter, before it tries again
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),  # a node resumes; it does not send a stream twice
)

_ERRORS: Final[dict[Any, type[HansaError]]] = {
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.FAILED_PRECONDITION: ConflictError,
    grpc.StatusCode.INVALID_ARGUMENT: WireError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: WireError,
}
_LOST: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
_RESET: Final = ("Stream removed", "RST_STREAM", "Socket closed", "Connection reset")
"""How gRPC words a connection that ended in the middle of a call, under INTERNAL or UNKNOWN."""

_LAST_MESSAGE: Final = 1.0
"""Seconds that a message which has begun may take when its sender is cancelled."""

_UNREACHED: Final = ("failed to connect", "errors resolving", "DNS resolution")
"""How it words a connection that was never made."""


# ── a control stream, seen from either side ──────────────────────────────────────────────────────────────────────────


class Stream(Generic[S, R]):
    """Sends frames of one kind and yields those of the other, until the other side ends it.

    Several tasks may `send`, one may `receive`. A node leaves by `close`, or when its `receive` is cancelled; a server
    leaves by returning from its function.
    """

    def __init__(
        self, call: Any, encode: Callable[[S], bytes], decode: Callable[[bytes], R], address: str | None
    ) -> None:
        """call: what can read and write bytes; address: of the server on a node's side, None on the server's."""
        self._call = call
        self._encode = encode
        self._decode = decode
        self._address = address
        self._sending = asyncio.Lock()
        self._connecting = address is not None
        self._unread = False
        self._closed = False
        self.sent = 0
        """Bytes of frames, so far."""
        self.received = 0

    async def send(self, frame: S) -> None:
        """Send one frame; waits while the other side does not read. Raises what ended the stream, once it has ended."""
        data = self._encode(frame)
        async with self._sending, _Translated(self._call, self._address):
            if self._connecting:
                await _connected(self._call)
                self._connecting = False
            await (_write(self._call, data) if self._address is not None else self._write_whole(data))
        self.sent += len(data)

    async def _write_whole(self, data: bytes) -> None:
        """On the server's side: a message that has begun is sent to its end, also when this is cancelled.

        A call with a message under way takes neither another one nor, if it is the first, its end: a node would wait.
        """
        if self._unread:
            raise ConnectionFailedError("the other side does not read what it is sent")
        writing = asyncio.ensure_future(_write(self._call, data))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            writing.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else asks for it
            try:
                await asyncio.wait([writing], timeout=_LAST_MESSAGE)
            finally:  # it may be cancelled once more
                self._unread = not writing.done()
                writing.cancel()
            raise

    async def receive(self) -> R | None:
        """The next frame; None once either side has ended the stream in good order."""
        try:
            async with _Translated(self._call, self._address):
                data = await self._call.read()
        except ConnectionFailedError:
            if self._closed:
                return None
            raise
        if data is grpc.aio.EOF:
            return None
        self.received += len(data)
        return self._decode(data)

    async def __aiter__(self) -> AsyncIterator[R]:
        """Frames, to the end."""
        while (frame := await self.receive()) is not None:
            yield frame

    def close(self) -> None:
        """On a node's side: end the call now; it may be called twice."""
        self._closed = True
        self._call.cancel()


class _Translated:
    """`async with`: what gRPC raises inside leaves as an error of hansa."""

    def __init__(self, call: Any, address: str | None) -> None:
        """address: of the server on a client's side, None on the server's."""
        self._call = call
        self._address = address

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        match error:
            case None | HansaError():
                return
            case grpc.aio.AioRpcError():
                raise _failure(error.code(), error.details() or "", self._address) from error
            case asyncio.CancelledError() if not _current_task().cancelling():
                raise ConnectionFailedError(f"the connection to {self._address or 'the node'} was closed") from error
            case asyncio.InvalidStateError() | grpc.aio.UsageError() | grpc.aio.InternalError():
                if self._address is None:
                    raise ConnectionFailedError("the node has gone: its stream has ended") from error
                raise _failure(await self._call.code(), await self._call.details(), self._address) from error
            case _:
                return


def _current_task() -> "asyncio.Task[Any]":
    """The task that runs this; gRPC cancels the waiter of a call that was ended locally, and not its task."""
    return cast("asyncio.Task[Any]", asyncio.current_task())


def _unreached(code: Any, detail: str, address: str | None) -> ConnectionFailedError:
    if "http1.x server" in detail or "ALPN" in detail:
        return ConnectionFailedError(
            f"{address} answers as a web server, the REST API perhaps: give the address at which nodes join, "
            "which `hansa up` prints"
        )
    if "WRONG_VERSION_NUMBER" in detail:
        return ConnectionFailedError(
            f"{address} does not speak TLS: check the address; a network without TLS is joined with tcp:// before it"
        )
    if "CERTIFICATE_VERIFY_FAILED" in detail or "Hostname Verification" in detail:
        flaw = _flaw_of(detail)
        remedy = (
            "check the clocks of both machines; if they are right, let its operator renew it"
            if flaw in _OF_TIME
            else "give its authority's fingerprint, as `hansa up` prints it there, with --ca or HANSA_CA"
        )
        return UntrustedServerError(f"{address} shows a certificate that is not believed here ({flaw}): {remedy}")
    if "Socket closed" in detail:
        return ConnectionFailedError(
            f"{address} closes the connection at once: it speaks TLS perhaps, and then is joined without tcp://, or "
            "wants to see a certificate (HANSA_TLS_CERT)"
        )
    why = detail.rpartition(": ")[2].strip("[]{}") or code.name
    return ConnectionFailedError(
        f"cannot reach {address} ({why}): check the address, that the server runs, and the network between"
    )


_OF_TIME: Final = frozenset({"certificate has expired", "certificate is not yet valid"})
"""Flaws of a certificate that another fingerprint does not mend."""


def _flaw_of(detail: str) -> str:
    """What BoringSSL does not like about a certificate."""
    flaw = detail.rpartition("CERTIFICATE_VERIFY_FAILED: ")[2] if "CERTIFICATE_VERIFY_FAILED" in detail else ""
    return flaw.partition(":")[0] or "it is for another name"


def _failure(code: Any, detail: str, address: str | None) -> HansaError:
    """The error for a status. address: of the server that sent it or that cannot be reached."""
    detail = detail[:MAX_DETAIL]
    if code in _LOST or any(words in detail for words in _RESET):
        if code is grpc.StatusCode.DEADLINE_EXCEEDED or any(words in detail for words in _UNREACHED):
            return _unreached(code, detail, address)
        return ConnectionFailedError(f"the connection to {address} was lost ({detail or code.name})")
    if code is grpc.StatusCode.OK:
        return ConnectionFailedError(f"{address} has ended the stream")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return WireError(f"{address} does not speak hansa.v1 ({detail}): check the address, and both versions")
    kind = _ERRORS.get(code)
    if kind is None:
        return HansaError(f"{address} failed ({detail or code.name}): its log says more")
    return kind(f"{address} refused: {detail}")


class Channel:
    """A connection to one server, made when it is first used and made anew when it is lost."""

    def __init__(self, address: str, raw: Any) -> None:
        """raw: the `grpc.aio.Channel`."""
        self.address = address
        """host:port, as it was given: errors name it."""
        self._raw = raw
        self._calls: WeakSet[Any] = WeakSet()

    def start(self, method: str, kind: str, *request: bytes, **options: Any) -> Any:
        """Start a call; kind: unary_unary, stream_stream and so on; options: of gRPC, such as metadata."""
        call = getattr(self._raw, kind)(f"/hansa.v1.{method}")(*request, **options)
        self._calls.add(call)
        return call

    async def close(self) -> None:
        """End it and every call on it."""
        for call in list(self._calls):  # older grpcio does not find those that our own coroutines wait for
            call.cancel()
        await self._raw.close()


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of host:port or [host]:port. Raises `InputError`."""
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    known = bool(colon) and port.isascii() and port.isdigit() and int(port) < 2**16
    if not known or "/" in host or (":" in bare and bare == host):
        raise InputError(f"{address!r} is not an address: write host:port, for example controller.example.org:7433")
    return bare, int(port)


def address_at(host: str, port: int) -> str:
    """host:port, or [host]:port where the host is an address of IPv6: what `split_address` takes apart."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_everywhere(host: str) -> bool:
    """Whether who listens at this host does so at every address of the machine: nobody can dial it under that name."""
    try:
        return not host or ipaddress.ip_address(host).is_unspecified
    except ValueError:  # a name
        return False


def open_channel(address: str, trust: Trust | None) -> Channel:
    """A channel to host:port, within a running loop; nothing is sent yet. Raises `InputError` for another address.

    trust: how the server is known, its roots by now; None: no TLS, so that all can be read on the way.
    """
    host, _ = split_address(address)
    options: list[tuple[str, int | str]] = list(_CLIENT)
    if host in ("localhost", "::1") or host.startswith("127."):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy cannot reach this machine's own loopback
    if trust is None:
        return Channel(address, grpc.aio.insecure_channel(address, options=options))
    if trust.name:
        options.append(("grpc.ssl_target_name_override", trust.name))
    own = (trust.own.key.encode(), trust.own.chain.encode()) if trust.own is not None else (None, None)
    credentials = grpc.ssl_channel_credentials(trust.roots.encode() or None, *own)
    return Channel(address, grpc.aio.secure_channel(address, credentials, options=options))


def attach(channel: Channel, token: str) -> Stream[FromNode, ToNode]:
    """Open a control stream; what goes wrong is raised by its first `send` or `receive`."""
    call = channel.start("Control/Attach", "stream_stream", metadata=_metadata(token))
    return Stream(call, encode_from_node, decode_to_node, channel.address)


async def enroll(channel: Channel, join_token: str, request: EnrollRequest, timeout: float = 30.0) -> Enrolled:  # noqa: ASYNC109 - the same
    """Make a node's key known to the controller."""
    data = encode_call(request)
    call = channel.start("Directory/Enroll", "unary_unary", data, metadata=_metadata(join_token), timeout=timeout)
    async with _Translated(call, channel.address):
        return decode_call(Enrolled, await call)


async def access(channel: Channel, assertion: str, timeout: float = 30.0) -> AccessToken:  # noqa: ASYNC109 - the same
    """An access token for who has signed the assertion (`node_key`)."""
    data = encode_call(AccessRequest())
    call = channel.start("Directory/Access", "unary_unary", data, metadata=_metadata(assertion), timeout=timeout)
    async with _Translated(call, channel.address):
        return decode_call(AccessToken, await call)


async def rotate(channel: Channel, assertion: str, request: RotateRequest, timeout: float = 30.0) -> Enrolled:  # noqa: ASYNC109 - the same
    """Put another key in the place of the one that has signed the assertion (`node_key`)."""
    data = encode_call(request)
    call = channel.start("Directory/Rotate", "unary_unary", data, metadata=_metadata(assertion), timeout=timeout)
    async with _Translated(call, channel.address):
        return decode_call(Enrolled, await call)


async def assign(channel: Channel, token: str, request: AssignRequest, timeout: float = 30.0) -> Assignment:  # noqa: ASYNC109 - a deadline that travels with the call
    """Ask the controller for a server. timeout: seconds."""
    data = encode_call(request)
    call = channel.start("Directory/Assign", "unary_unary", data, metadata=_metadata(token), timeout=timeout)
    async with _Translated(call, channel.address):
        return decode_call(Assignment, await call)


async def certify(channel: Channel, token: str, request: str, timeout: float = 30.0) -> str:  # noqa: ASYNC109 - the same
    """A combiner's certificate, signed by the network's authority: the chain. request: PKCS #10, PEM."""
    data = encode_call(CertificateRequest(request))
    call = channel.start("Directory/Certify", "unary_unary", data, metadata=_metadata(token), timeout=timeout)
    async with _Translated(call, channel.address):
        return decode_call(SignedCertificate, await call).chain


def download(channel: Channel, token: str, request: DownloadRequest) -> AsyncGenerator[tuple[int, memoryview], None]:
    """Chunks as (offset, data), from the request's offset to the end; resume by a new request."""
    return _taken(channel, "Transfer/Download", token, encode_call(request))


async def upload(
    channel: Channel, token: str, name: str, frames: Iterable[bytes] | AsyncIterable[bytes]
) -> UploadReply:
    """Send chunk frames (`chunks.split`) of an admitted upload; returns how far the server has come."""
    return decode_call(UploadReply, await _given(channel, "Transfer/Upload", token, (UPLOAD, name), frames))


async def send_letter(channel: Channel, token: str, letter: Letter, frames: Iterable[bytes]) -> Kept:
    """Send a letter between two parties as chunk frames (`chunks.split`); returns how many are kept of this pair."""
    named = encode_call(replace(letter, blob=replace(letter.blob, inline=b"")))
    return decode_call(Kept, await _given(channel, "Relay/Send", token, (LETTER, named), frames))


def receive_letter(channel: Channel, token: str, awaited: Awaited) -> AsyncGenerator[tuple[int, memoryview], None]:
    """The bytes of a letter as chunks (offset, data); none where it has not come in the meantime."""
    return _taken(channel, "Relay/Receive", token, encode_call(awaited))


async def _taken(
    channel: Channel, method: str, token: str, request: bytes
) -> AsyncGenerator[tuple[int, memoryview], None]:
    """Chunks that a server sends, as (offset, data)."""
    call = channel.start(method, "unary_stream", request, metadata=_metadata(token))
    try:
        async for chunk in chunks_of(call, channel.address):
            yield chunk
    finally:
        call.cancel()


async def _given(
    channel: Channel,
    method: str,
    token: str,
    named: tuple[str, str | bytes],
    frames: Iterable[bytes] | AsyncIterable[bytes],
) -> bytes:
    """Send chunk frames; returns the server's answer. named: the metadatum that says what they are of."""
    call = channel.start(method, "stream_unary", metadata=(named, *_metadata(token)))
    try:
        async with _Translated(call, channel.address):
            await _connected(call)
            await _send_all(call, frames)
            answer: bytes = await call
            return answer
    finally:
        call.cancel()


async def _write(call: Any, data: bytes) -> None:
    """Write; where the other side has ended the call, raise what it ended it with.

    `call.write` of grpc.aio says "Internal error from Core" when it meets a call that is ending, and then keeps the
    server's own status from everyone; one layer below, the status is still to be had.
    """
    inner = getattr(call, "_cython_call", None)
    if inner is None or not hasattr(inner, "send_serialized_message"):  # the server's side, or another grpcio
        await call.write(data)
        return
    if call.done():
        raise asyncio.InvalidStateError
    await inner.send_serialized_message(data)


async def _connected(call: Any) -> None:
    """Wait for the connection, or for the end of the call: a call that is cancelled before would wait for ever."""
    connecting = asyncio.ensure_future(call.wait_for_connection())
    call.add_done_callback(lambda _: connecting.cancel())
    try:
        await connecting
    except asyncio.CancelledError:
        if call.done() and not _current_task().cancelling():
            raise asyncio.InvalidStateError from None
        raise


async def _send_all(call: Any, frames: Iterable[bytes] | AsyncIterable[bytes]) -> None:
    """Write until the end, or until the server has answered without waiting for it."""
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            if call.done():
                return
            await _write(call, frame)
    else:
        for frame in frames:
            if call.done():
                return
            await _write(call, frame)
    await call.done_writing()


async def chunks_of(call: Any, address: str | None) -> AsyncIterator[tuple[int, memoryview]]:
    """What arrives on a stream of chunks, as (offset, data); address: as of `Stream`."""
    while True:
        async with _Translated(call, address):
            data = await call.read()
        if data is grpc.aio.EOF:
            return
        yield unframe(data)


def _metadata(token: str) -> Sequence[tuple[str, str]]:
    return ((AUTHORIZATION, BEARER + token),)
