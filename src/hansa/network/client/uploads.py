"""Updates on their way to a server that has admitted them."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog

from hansa.errors import ConnectionFailedError, NotFoundError, WireError
from hansa.network.client.outbox import Outbox, update_file
from hansa.network.files import pieces
from hansa.network.link import Link
from hansa.wire.frames import Admission, Offer, RoundKey

__all__ = ["Uploads"]

_log = structlog.get_logger(__name__)


class Uploads:
    """Those of one client: one for each phase, and the newest admission says where it goes on."""

    def __init__(
        self,
        client: str,
        link: Link,
        outbox: Outbox,
        objects: Path,
        *,
        start: Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"],
        offer: Callable[[Offer], None],
    ) -> None:
        """client: its name; objects: where updates lie.

        start: runs an upload beside all else; offer: offers an update once more.
        """
        self._client = client
        self._link = link
        self._outbox = outbox
        self._objects = objects
        self._start = start
        self._offer = offer
        self._under_way: dict[RoundKey, asyncio.Task[None]] = {}

    def admitted(self, admission: Admission) -> None:
        """The server has room, and says from which byte; an upload that is under way would send the same twice."""
        key = admission.key
        if key in self._under_way:
            self._under_way[key].cancel()
        upload = self._under_way[key] = self._start(self.send(admission))

        def forget(_: object) -> None:
            if self._under_way.get(key) is upload:
                del self._under_way[key]

        upload.add_done_callback(forget)

    def interrupt(self) -> None:
        """The connection is lost: whoever invites again is offered them again."""
        for upload in self._under_way.values():
            upload.cancel()

    async def send(self, admission: Admission) -> None:
        """Send an update that the server has room for now."""
        offer = self._outbox.get(admission.key)
        if offer is None:
            return
        try:
            data = await asyncio.to_thread(pieces, update_file(self._objects, offer.key), offer.blob.size)
        except FileNotFoundError:
            if self._outbox.get(admission.key) is offer:
                raise
            return  # the round closed meanwhile
        try:
            await self._link.upload(admission.upload, data, admission.offset)
        except (ConnectionFailedError, NotFoundError, WireError) as error:
            _log.info(
                "upload interrupted",
                client=self._client,
                session=admission.key.run,
                round=admission.key.round,
                why=str(error),
            )
            if self._link.connected and self._outbox.get(admission.key) is offer:
                self._offer(offer)
