"""Transactions off the event loop: each runs from its first statement to its commit on a thread of its lane."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

__all__ = ["Lane"]

T = TypeVar("T")


class Lane:
    """An engine, and as many threads as it has connections: so many transactions at once, the others in their order."""

    def __init__(self, engine: Engine, connections: int, *, writes: bool) -> None:
        """connections: of the engine's pool; writes: whether there is something to commit."""
        self._engine = engine
        self._begin = engine.begin if writes else engine.connect
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="writer" if writes else "reader")

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Do this in a transaction; one that writes is committed when it returns, and what it raises undoes all of it.

        Whoever is cancelled meanwhile leaves it running: it is over when it is over.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._transacted, work)

    async def aclose(self) -> None:
        """Wait for the transactions that have begun, then release every connection."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._engine.dispose)

    def _transacted(self, work: Callable[[Connection], Any]) -> Any:
        with self._begin() as connection:
            return work(connection)
