"""An ASGI application on a port, within this process's own event loop."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn

from hansa.api.connections import MAX_HEADERS, Doors, patient
from hansa.api.encryption import server_context
from hansa.errors import InputError
from hansa.settings import Settings
from hansa.wire.channel import address_at, is_everywhere
from hansa.wire.service import Shown

__all__ = ["Uvicorn", "listen", "serve_app"]

_GRACE: Final = 5
"""Seconds that requests under way have when the server ends."""
_UNHEARD: Final = 60_000
"""Milliseconds for which a caller's machine may not confirm what it was sent: it, or the way to it, is gone then."""


class Uvicorn(uvicorn.Server):
    """uvicorn within our event loop: it says when it listens, and leaves the signals to us."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: they are the whole process's."""
        yield


async def serve_app(
    app: Any, listener: socket.socket, settings: Settings, doors: Doors, *, shown: Shown | None, proxied: bool
) -> tuple[Uvicorn, "asyncio.Task[None]", str]:
    """(the server, its task, its URL), once it answers. `should_exit` ends it.

    doors: who is connected; shown: None: no TLS; proxied: whether something in front says where requests come from.
    """
    server = Uvicorn(
        uvicorn.Config(
            app,
            lifespan="off",
            http=patient(doors, settings.patience),
            h11_max_incomplete_event_size=MAX_HEADERS,
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=proxied,
            forwarded_allow_ips=settings.proxies,
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
        )
    )
    if shown is not None:
        server.config.load()
        server.config.ssl = server_context(shown)
    serving = asyncio.create_task(server.serve([listener]), name="REST API")
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    host, port = listener.getsockname()[:2]
    if is_everywhere(host):  # the URL is for this machine's own commands and browser
        host = "::1" if ":" in host else "127.0.0.1"
    return server, serving, f"{'http' if shown is None else 'https'}://{address_at(host, port)}"


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A socket that is bound, and listens when it is served; raises `InputError` that names host and port.

    setting: where the port is chosen.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"the REST API cannot listen on {host!r} ({error.strerror}): set HANSA_HOST") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # each connection has it from here
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNHEARD)
        listener.bind(address)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise InputError(
            f"the REST API cannot listen on {host}:{port} ({error.strerror}): stop the program that uses the port, or "
            f"choose another with {setting} (0 takes a free one)"
        ) from error
    return listener
