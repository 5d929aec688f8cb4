"""What must not be left half-way: its caller may be cancelled, and it comes to its end all the same."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["completed"]

T = TypeVar("T")


async def completed(work: Coroutine[Any, Any, T]) -> T:
    """Await it; whoever is cancelled meanwhile, and however often, hears of it when it is over."""
    task, cancelled = asyncio.create_task(work), False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not task.cancelled():
            task.exception()  # seen: nobody is told of it any more
        raise asyncio.CancelledError
    return task.result()
