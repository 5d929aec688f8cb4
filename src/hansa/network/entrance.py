"""Where a node joins its network: it asks the controller there for a server, and a combiner for its certificate."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hansa.errors import ConnectionFailedError
from hansa.network.identity import NodeIdentity
from hansa.wire import channel
from hansa.wire.calls import Assignment, AssignRequest
from hansa.wire.tls import CONTROLLER, Scheme, Trust, address_of, roots_of, server_name
from hansa.wire.transport import Transport

__all__ = ["Entrance", "Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """A server to dial."""

    address: str
    """host:port."""
    trust: Trust | None
    """How it is known; None: without TLS."""


class Entrance:
    """The controller's address, how it is known, and who asks."""

    def __init__(
        self, join: str, token: str, keys: Path, trust: Trust, transport: Transport, *, key_age: float = math.inf
    ) -> None:
        """join: host:port, or tcp://host:port without TLS; trust: how the controller is known.

        token: with which the node joins; keys: the folder in which its key lies; key_age: seconds after which it is
        changed.

        By a fingerprint, and where nothing is said of a certificate for the host (tls://), it is known by its name in
        the network: then its address does not matter.
        """
        self.scheme, self._address = address_of(join)
        channel.split_address(self._address)
        self.identity = NodeIdentity(token, keys, key_age)
        self._trust = trust
        self._own: Trust | None = None if self.scheme is Scheme.PLAIN or trust.fingerprint else trust
        """How the controller is known, once its authority is."""
        self._transport = transport

    def dial(self, place: Place) -> channel.Channel:
        """A connection, made when it is first used."""
        return self._transport.dial(place.address, place.trust)

    async def dial_controller(self) -> channel.Channel:
        """A connection to the controller."""
        return self.dial(await self._controller())

    async def access(self) -> str:
        """The token that every call carries."""
        return await self.identity.access(self.dial_controller)

    async def change_key(self) -> None:
        """Before a stream is opened, hand over to another key where that is due."""
        await self.identity.change_key(self.dial_controller)

    async def assigned(self, preferred: str, labels: Mapping[str, str]) -> Place:
        """Where the controller sends this node."""
        token, here = await self.access(), await self._controller()
        controller = self.dial(here)
        try:
            answer = await channel.assign(controller, token, AssignRequest(preferred, labels))
        finally:
            await controller.close()
        return self._place(answer) if answer.address else here

    async def certified(self, request: str) -> str:
        """The chain that the network's authority signs for a combiner. request: PKCS #10, PEM."""
        token, controller = await self.access(), await self.dial_controller()
        try:
            return await channel.certify(controller, token, request)
        finally:
            await controller.close()

    async def _controller(self) -> Place:
        if self._own is None and self.scheme is not Scheme.PLAIN:
            roots = await asyncio.to_thread(roots_of, self._address, self._trust.fingerprint)
            name = CONTROLLER if self.scheme is Scheme.NETWORK else ""
            self._own = replace(self._trust, fingerprint="", roots=roots, name=name)
        return Place(self._address, self._own)

    def _place(self, answer: Assignment) -> Place:
        """Raises `ConnectionFailedError` for a server that this node does not want to talk to."""
        scheme, address = address_of(answer.address)
        match scheme:
            case Scheme.PLAIN if self.scheme is Scheme.PLAIN:
                return Place(address, None)
            case Scheme.PLAIN:
                raise ConnectionFailedError(
                    f"{answer.node} at {address} serves without TLS, where everybody on the way could read this node's "
                    "token: start it without tcp://, or join with tcp:// if that is meant"
                )
            case Scheme.TLS:
                known = Trust(own=self._trust.own) if self._trust.fingerprint else self._trust
                return Place(address, known)
            case Scheme.NETWORK:
                name = server_name(self.identity.holder.project, answer.node)
                return Place(address, Trust(roots=answer.roots, name=name, own=self._trust.own))
