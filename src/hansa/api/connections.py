"""Connections to the REST port: how many there may be, and how long one may be slow.

Who sends its request a byte at a time, never ends its headers, or does not read its answer holds a place that others
need. Work that goes on is never cut off: an upload that moves, and an event stream that has nothing to say, may take as
long as they like.
"""

import asyncio
from collections import Counter
from typing import Any, ClassVar, Final

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

__all__ = ["MAX_HEADERS", "Doors", "patient"]

MAX_HEADERS: Final = 32 << 10
"""Bytes of a request's first line and headers."""
_STEP: Final = 16 << 10
"""Bytes of a body that must come, while it is waited for, in each patience."""
_FAREWELL: Final = 1.0
"""Seconds for the end of a connection that is closed for good."""


class Doors:
    """Counts who is connected."""

    def __init__(self, most: int, most_of_one: int) -> None:
        """most: connections at once; most_of_one: from one address."""
        self._most = most
        self._most_of_one = most_of_one
        self._of: Counter[str] = Counter()
        self.open = 0
        """Connections that are open now."""

    def enter(self, address: str) -> bool:
        """Whether there is room for one more, which is counted then."""
        if self.open >= self._most or self._of[address] >= self._most_of_one:
            return False
        self.open += 1
        self._of[address] += 1
        return True

    def leave(self, address: str) -> None:
        """The other half of an `enter` that found room."""
        self.open -= 1
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]


class _Patient(H11Protocol):
    """One connection."""

    doors: ClassVar[Doors]
    patience: ClassVar[float]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._address: str | None = None
        self._look: asyncio.TimerHandle | None = None
        self._received = 0
        self._answered = 0
        self._before: tuple[object, ...] = ()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client is not None else ""
        if self.doors.enter(address):
            self._address = address
            self._look = self.loop.call_later(self.patience, self._looked)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._look is not None:
            self._look.cancel()
        if self._address is not None:
            self.doors.leave(self._address)
            self._address = None

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._answered += 1
        super().on_response_complete()
        self._bid_farewell()

    def timeout_keep_alive_handler(self) -> None:
        """Nobody has asked for more."""
        super().timeout_keep_alive_handler()
        self._bid_farewell()

    def shutdown(self) -> None:
        """The server ends: now, where no answer is under way."""
        super().shutdown()
        self._bid_farewell()

    def _bid_farewell(self) -> None:
        """Of a connection that is being closed: TLS waits for the other side's farewell, which may never come."""
        if self._address is None or not self.transport.is_closing():
            return
        if self._look is not None:
            self._look.cancel()
        self._look = self.loop.call_later(_FAREWELL, self.transport.abort)

    def _looked(self) -> None:
        """Once in each patience: end it when nothing of what is waited for has moved since the last look."""
        stands = self._stands()
        if stands and stands == self._before:
            self.transport.abort()
            return
        self._before = stands
        self._look = self.loop.call_later(self.patience, self._looked)

    def _stands(self) -> tuple[object, ...]:
        """How far what is waited for has come; empty: nobody waits for the peer."""
        unread = self.transport.get_write_buffer_size()
        if unread:
            return "answer", unread
        if self.conn.their_state is h11.IDLE:  # a request's headers, however many bytes of them have come
            return "headers", self._answered
        if self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused:
            return "body", self._received // _STEP
        return ()


def patient(doors: Doors, patience: float) -> type[H11Protocol]:
    """uvicorn's protocol, which keeps to these bounds. patience: seconds for which nothing may move."""
    return type("Patient", (_Patient,), {"doors": doors, "patience": patience})
