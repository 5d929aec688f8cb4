"""What a session asks of the stores it asks again while they are away: it waits for them, and does not fail."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

import structlog

from hansa.errors import StorageUnavailableError

__all__ = ["patiently"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_PAUSE: Final = 0.5
"""Seconds between two tries; a store takes its own time to find that it cannot reach its server."""


async def patiently(
    ask: Callable[[], Awaitable[T]], *, session: str, leaving: asyncio.Event, tell: Callable[[str], None]
) -> T:
    """What `ask` gives, called until it raises no `StorageUnavailableError`, or once more when `leaving` is set.

    The call may have been done each time: only what may be repeated can be asked. tell: called with what is away and
    what to do, and with an empty string once it is back.
    """
    while True:
        try:
            answer = await ask()
        except StorageUnavailableError as error:
            if leaving.is_set():
                raise
            tell(str(error))
            _log.warning("a store is away; the session waits for it", session=session, why=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(leaving.wait(), _PAUSE)
        else:
            tell("")
            return answer
