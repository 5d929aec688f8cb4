"""Where connections come from: gRPC over TCP, unless whoever makes a node says otherwise."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from hansa.wire.channel import Channel, open_channel
from hansa.wire.service import Shown, bind, create_server
from hansa.wire.tls import Trust

__all__ = ["GRPC", "Transport"]


@dataclass(frozen=True, slots=True)
class Transport:
    """How a node dials and listens. Tokens, framing and limits are above it: no transport is a way around them."""

    dial: Callable[[str, Trust | None], Channel]
    """(host:port, how the server is known) → a connection, made when it is first used; see `channel.open_channel`."""
    create_server: Callable[..., Any]
    """Handlers → a server with `start` and `stop`; see `service.create_server`."""
    bind: Callable[[Any, str, Shown | None], int]
    """(server, host:port, what it shows) → the port; see `service.bind`."""


GRPC: Final = Transport(open_channel, create_server, bind)
