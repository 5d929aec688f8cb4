"""gRPC, the server's side: the three services of hansa.v1 as handlers, and where they listen.

Every call carries a token, and a handler cannot be made without a function that verifies it: nothing is answered
before the identity is known. What a handler raises of `hansa.errors` travels as a gRPC status with its message, and the
caller gets the same class back (see `channel`).
"""

import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, NoReturn, TypeAlias, TypeVar

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
    UpdateRejectedError,
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
from hansa.wire.channel import (
    AUTHORIZATION,
    BEARER,
    KEEPALIVE,
    LETTER,
    MAX_DETAIL,
    OPTIONS,
    UPLOAD,
    Stream,
    chunks_of,
    split_address,
)
from hansa.wire.frames import Awaited, FromNode, Letter, ToNode
from hansa.wire.framing import decode_call, decode_from_node, encode_call, encode_to_node
from hansa.wire.tls import Certificate
from hansa.wire.tokens import Identity

if sys.platform != "win32":
    import resource

__all__ = [
    "MAX_METADATA",
    "Access",
    "Assign",
    "Attach",
    "Authenticate",
    "Certify",
    "Download",
    "Enroll",
    "ReceiveLetter",
    "Rotate",
    "SendLetter",
    "Shown",
    "Upload",
    "bind",
    "control_handler",
    "create_server",
    "directory_handler",
    "relay_handler",
    "transfer_handler",
]

C = TypeVar("C")

MAX_METADATA: Final = 16 << 10
"""Bytes of a call's metadata, which hold a token and little else."""
_PATIENCE: Final = 20.0
"""Seconds that a handshake may take; three times as long, a connection may be without a call."""

_SERVER: Final = (
    *OPTIONS,
    ("grpc.so_reuseport", 0),  # else two servers share a port in silence, and each gets half of the clients
    ("grpc.max_concurrent_streams", 100),  # of one connection; a node has one or two
    ("grpc.max_metadata_size", MAX_METADATA),
    ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA),
)

_CONNECTIONS: Final = 65_536
"""Open files that a server may have, where the system lets it; each node is one, and takes some 75 kB besides."""

_STATUS: Final = (
    (AuthenticationError, grpc.StatusCode.UNAUTHENTICATED),
    (PermissionDeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (ConflictError, grpc.StatusCode.ABORTED),
    (UpdateRejectedError, grpc.StatusCode.FAILED_PRECONDITION),
    (ConnectionFailedError, grpc.StatusCode.UNAVAILABLE),
    (WireError, grpc.StatusCode.INVALID_ARGUMENT),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (HansaError, grpc.StatusCode.INTERNAL),
)

Authenticate: TypeAlias = Callable[[str], Awaitable[Identity]]
"""The token of a call → who calls; raises `AuthenticationError`."""
Attach: TypeAlias = Callable[[Identity, Stream[ToNode, FromNode]], Awaitable[None]]
"""Serves one control stream, which ends when it returns; it is cancelled when the node goes."""
Enroll: TypeAlias = Callable[[str, EnrollRequest], Awaitable[Enrolled]]
"""(the join token, what the node shows) → done; raises `AuthenticationError`."""
Access: TypeAlias = Callable[[str], Awaitable[AccessToken]]
"""What a node has signed → its access token; raises `AuthenticationError`."""
Rotate: TypeAlias = Callable[[str, RotateRequest], Awaitable[Enrolled]]
"""(what a node has signed with its key, the handover to another) → done; raises `AuthenticationError`."""
Assign: TypeAlias = Callable[[Identity, AssignRequest], Awaitable[Assignment]]
Certify: TypeAlias = Callable[[Identity, str], Awaitable[str]]
"""(who asks, its request) → the chain."""
Download: TypeAlias = Callable[[Identity, DownloadRequest], AsyncGenerator[bytes, None]]
"""Yields chunk frames (`chunks.split`) from the request's offset to the end."""
Upload: TypeAlias = Callable[[Identity, str, AsyncIterator[tuple[int, memoryview]]], Awaitable[int]]
"""(identity, name of the upload, its chunks as (offset, data)) → bytes of the whole that are here now."""

SendLetter: TypeAlias = Callable[[Identity, Letter, AsyncIterator[tuple[int, memoryview]]], Awaitable[int]]
"""(identity, letter without its bytes, its chunks as (offset, data)) → letters of this pair that are kept."""
ReceiveLetter: TypeAlias = Callable[[Identity, Awaited], AsyncGenerator[bytes, None]]
"""Yields chunk frames of the letter; none where it has not come in the meantime."""


def create_server(*handlers: Any, patience: float = _PATIENCE, pings: int = KEEPALIVE) -> Any:
    """A `grpc.aio.Server` with these handlers, to be bound and started; made within a running loop.

    patience: seconds that a handshake may take; a connection without a call is ended after three times as long. pings:
    milliseconds between the pings of a caller that says nothing; one that sends three times as many is sent away. The
    process may have as many open files from now on as connections need.
    """
    _allow_connections()
    waits = (
        ("grpc.http2.min_ping_interval_without_data_ms", pings // 3),  # a third: pings may bunch up on the way
        ("grpc.server_handshake_timeout_ms", int(1000 * patience)),
        ("grpc.max_connection_idle_ms", int(3000 * patience)),
    )
    server = grpc.aio.server(options=(*_SERVER, *waits))
    server.add_generic_rpc_handlers(handlers)
    return server


def _allow_connections() -> None:
    """Many systems begin with 1,024 open files, and let a process ask for more."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, _CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):  # macOS says that there is no limit, and has one
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@dataclass(frozen=True, slots=True)
class Shown:
    """What a server shows in each handshake, and what it wants to see."""

    certificate: Callable[[], Certificate]
    """Asked in each handshake, in a thread of gRPC's: another one may be shown from then on."""
    client_roots: str = ""
    """Certificates (PEM) of the authorities of which callers must show a certificate; empty: they need none."""


def bind(server: Any, address: str, shown: Shown | None) -> int:
    """Listen at host:port and return the port, which the system chooses for 0. Raises `InputError` that says why not.

    shown: None: no TLS.
    """
    _probe(address)
    try:
        port = (
            server.add_insecure_port(address) if shown is None else server.add_secure_port(address, _credentials(shown))
        )
    except RuntimeError as error:
        raise InputError(f"cannot listen at {address}: {error}; choose another address") from error
    return int(port)


def _credentials(shown: Shown) -> Any:
    last: list[Certificate] = []

    def configured() -> Any:
        last[:] = [shown.certificate()]
        pair = (last[0].key.encode(), last[0].chain.encode())
        return grpc.ssl_server_certificate_configuration([pair], shown.client_roots.encode() or None)

    def renewed() -> Any:
        return configured() if not last or shown.certificate() is not last[0] else None

    return grpc.dynamic_ssl_server_credentials(
        configured(), renewed, require_client_authentication=bool(shown.client_roots)
    )


def control_handler(attach: Attach, authenticate: Authenticate) -> Any:
    """The service `hansa.v1.Control`."""

    async def serve(_requests: Any, context: Any) -> None:
        async with _Answering(context, authenticate) as identity:
            await attach(identity, Stream(context, encode_to_node, decode_from_node, None))

    return _service("Control", {"Attach": grpc.stream_stream_rpc_method_handler(serve)})


def directory_handler(
    enroll: Enroll, access: Access, rotate: Rotate, assign: Assign, certify: Certify, *, authenticate: Authenticate
) -> Any:
    """The service `hansa.v1.Directory`."""

    async def admit(request: bytes, context: Any) -> bytes:
        async with _Answering(context, _as_it_is) as token:
            return encode_call(await enroll(token, decode_call(EnrollRequest, request)))

    async def grant(request: bytes, context: Any) -> bytes:
        async with _Answering(context, _as_it_is) as assertion:
            decode_call(AccessRequest, request)
            return encode_call(await access(assertion))

    async def hand_over(request: bytes, context: Any) -> bytes:
        async with _Answering(context, _as_it_is) as assertion:
            return encode_call(await rotate(assertion, decode_call(RotateRequest, request)))

    async def serve(request: bytes, context: Any) -> bytes:
        async with _Answering(context, authenticate) as identity:
            return encode_call(await assign(identity, decode_call(AssignRequest, request)))

    async def sign(request: bytes, context: Any) -> bytes:
        async with _Answering(context, authenticate) as identity:
            chain = await certify(identity, decode_call(CertificateRequest, request).request)
            return encode_call(SignedCertificate(chain))

    return _service(
        "Directory",
        {
            "Enroll": grpc.unary_unary_rpc_method_handler(admit),
            "Access": grpc.unary_unary_rpc_method_handler(grant),
            "Rotate": grpc.unary_unary_rpc_method_handler(hand_over),
            "Assign": grpc.unary_unary_rpc_method_handler(serve),
            "Certify": grpc.unary_unary_rpc_method_handler(sign),
        },
    )


def transfer_handler(download: Download, upload: Upload, authenticate: Authenticate) -> Any:
    """The service `hansa.v1.Transfer`."""

    async def send(request: bytes, context: Any) -> None:
        async with (
            _Answering(context, authenticate) as identity,
            aclosing(download(identity, decode_call(DownloadRequest, request))) as frames,
        ):
            async for frame in frames:
                await context.write(frame)

    async def receive(_requests: Any, context: Any) -> bytes:
        async with _Answering(context, authenticate) as identity:
            name = _metadatum(context, UPLOAD)
            return encode_call(UploadReply(await upload(identity, name, chunks_of(context, None))))

    return _service(
        "Transfer",
        {
            "Download": grpc.unary_stream_rpc_method_handler(send),
            "Upload": grpc.stream_unary_rpc_method_handler(receive),
        },
    )


def relay_handler(send: SendLetter, receive: ReceiveLetter, authenticate: Authenticate) -> Any:
    """The service `hansa.v1.Relay`."""

    async def take(_requests: Any, context: Any) -> bytes:
        async with _Answering(context, authenticate) as identity:
            letter = decode_call(Letter, _named_letter(context))
            return encode_call(Kept(await send(identity, letter, chunks_of(context, None))))

    async def give(request: bytes, context: Any) -> None:
        async with (
            _Answering(context, authenticate) as identity,
            aclosing(receive(identity, decode_call(Awaited, request))) as frames,
        ):
            async for frame in frames:
                await context.write(frame)

    return _service(
        "Relay",
        {
            "Send": grpc.stream_unary_rpc_method_handler(take),
            "Receive": grpc.unary_stream_rpc_method_handler(give),
        },
    )


def _named_letter(context: Any) -> bytes:
    values = [value for name, value in context.invocation_metadata() or () if name == LETTER]
    if len(values) == 1 and isinstance(values[0], bytes):
        return values[0]
    raise WireError(f"the metadata {LETTER!r} came {'more than once' if values else 'not'} with the call")


async def _as_it_is(token: str) -> str:
    """Of the three calls whose token says more than who calls: what they do begins with checking it."""
    return token


class _Answering(Generic[C]):
    """`async with`: the caller inside; errors of hansa leave as a status."""

    def __init__(self, context: Any, authenticate: Callable[[str], Awaitable[C]]) -> None:
        self._context = context
        self._authenticate = authenticate

    async def __aenter__(self) -> C:
        try:
            header = _metadatum(self._context, AUTHORIZATION)
            if not header.startswith(BEARER):
                raise AuthenticationError("the call has no bearer token: send `authorization: Bearer TOKEN`")
            return await self._authenticate(header.removeprefix(BEARER))
        except HansaError as error:
            await self._abort(error)

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, HansaError):
            await self._abort(error)

    async def _abort(self, error: HansaError) -> NoReturn:
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        await self._context.abort(status, str(error)[:MAX_DETAIL])
        raise AssertionError from error  # abort raises; this tells the type checker


def _metadatum(context: Any, key: str) -> str:
    values = [value for name, value in context.invocation_metadata() or () if name == key]
    if len(values) == 1 and isinstance(values[0], str):
        return values[0]
    flaw = "more than once" if values else "not"
    if key == AUTHORIZATION:
        raise AuthenticationError(f"a token came {flaw} with the call: send `authorization: Bearer TOKEN`, once")
    raise WireError(f"the metadata {key!r} came {flaw} with the call")


def _service(name: str, methods: dict[str, Any]) -> Any:
    return grpc.method_handlers_generic_handler(f"hansa.v1.{name}", methods)


def _probe(address: str) -> None:
    """Raise `InputError` unless every address that the name stands for is free.

    gRPC does not say why it cannot listen, and is content when it can listen at one address of several.
    """
    host, port = split_address(address)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, place in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(place)
    except OSError as error:
        raise InputError(
            f"cannot listen at {address}: {error.strerror}; stop what uses the port, or choose another address"
        ) from error
