"""What is asked of the stores is asked again while they are away: whoever asks waits for them, and does not fail."""

import asyncio
import re
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

_NUMBER: Final = re.compile(r"\d+(\.\d+)?\w*")
"""What differs between two tries that failed alike, such as how long each took."""

_REMINDER: Final = 30.0
"""Seconds after which the log repeats what it has said of a store that is still away."""


async def patiently(
    ask: Callable[[], Awaitable[T]],
    *,
    who: str,
    leaving: asyncio.Event | None = None,
    tell: Callable[[str], None] | None = None,
) -> T:
    """What `ask` gives, called until it raises no `StorageUnavailableError`, or once more when `leaving` is set.

    The call may have been done each time: only what may be repeated can be asked. who: waits, for the log; tell:
    called with what is away and what to do, and with an empty string once it is back.
    """
    leaving = leaving if leaving is not None else asyncio.Event()
    clock = asyncio.get_running_loop().time
    said, said_at, since = "", 0.0, 0.0
    while True:
        try:
            answer = await ask()
        except StorageUnavailableError as error:
            if leaving.is_set():
                raise
            if tell is not None:
                tell(str(error))
            since = since or clock()
            words = _NUMBER.sub("", str(error))
            if words != said or clock() - said_at >= _REMINDER:
                said, said_at = words, clock()
                _log.warning("a store is away, and waited for", by=who, why=str(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(leaving.wait(), _PAUSE)
        else:
            if tell is not None:
                tell("")
            if said:
                _log.info("the store is back", by=who, after=f"{clock() - since:.1f} s")
            return answer
