"""Tasks that run beside whoever started them: none dies in silence, and all of them end with their owner."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

__all__ = ["Jobs"]


class Jobs:
    """The tasks of one owner that nobody awaits."""

    def __init__(self) -> None:
        """None yet."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """How many run."""
        return len(self._tasks)

    def __iter__(self) -> Iterator["asyncio.Task[Any]"]:
        """Those that run now."""
        return iter(tuple(self._tasks))

    def start(self, job: Coroutine[Any, Any, None], failed: Callable[[BaseException], None]) -> "asyncio.Task[Any]":
        """Run it; failed: told what it raised."""

        def ended(task: "asyncio.Task[Any]") -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                failed(error)

        task = asyncio.create_task(job)
        self.adopt(task)
        task.add_done_callback(ended)
        return task

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        """A task that somebody else has started ends with the others."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Cancel them all, and wait until they have ended."""
        tasks = tuple(self)
        for task in tasks:
            if not task.cancelling():  # one that is ending already is not cut off in what it does to end
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
