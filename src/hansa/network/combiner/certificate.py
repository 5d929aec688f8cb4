"""A combiner's certificate, which the network's authority signs: asked for at the start, and again in good time."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from hansa.errors import AuthenticationError, HansaError, InputError, PermissionDeniedError, UntrustedServerError
from hansa.network.entrance import Entrance
from hansa.network.link import Backoff
from hansa.wire.authority import expires_at, new_request
from hansa.wire.tls import Certificate

__all__ = ["SignedByNetwork"]

_log = structlog.get_logger(__name__)

_SHARE: Final = 2 / 3
"""Of the time that is left when a certificate comes, after which the next is asked for."""


class SignedByNetwork:
    """What a combiner shows its children now. Its key is in memory alone."""

    def __init__(self, entrance: Entrance, certificate: Certificate, clock: Callable[[], float]) -> None:
        """certificate: the first; clock: POSIX seconds."""
        self.certificate = certificate
        self._entrance = entrance
        self._clock = clock

    @classmethod
    async def first(cls, entrance: Entrance, *, who: str, clock: Callable[[], float] = time.time) -> "SignedByNetwork":
        """As soon as the controller can be reached; raises what trying again cannot mend."""
        backoff = Backoff()
        while True:
            try:
                return cls(entrance, await _signed(entrance), clock)
            except (AuthenticationError, PermissionDeniedError, InputError, UntrustedServerError):
                raise
            except HansaError as error:
                wait = backoff.next()
                _log.info("not certified yet", node=who, why=str(error), again_in=round(wait, 2))
                await asyncio.sleep(wait)

    async def stay(self) -> None:
        """For as long as it runs there is a certificate that holds; each handshake sees the newest."""
        while True:
            left = expires_at(self.certificate.chain) - self._clock()
            await asyncio.sleep(max(left * _SHARE, 1.0))
            try:
                self.certificate = await _signed(self._entrance)
            except HansaError as error:
                _log.warning("the certificate could not be renewed; it is tried again", why=str(error))
            else:
                _log.info("the certificate was renewed")


async def _signed(entrance: Entrance) -> Certificate:
    key, request = new_request()
    return Certificate(await entrance.certified(request), key)
