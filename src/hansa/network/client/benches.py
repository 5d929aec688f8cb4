"""Where user code is at work: a worker process for each app, which does a task at a time."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Generic, Protocol, TypeVar

from hansa.network.client.code import Code
from hansa.network.client.correspondence import Correspondence
from hansa.wire.frames import Answer, FromNode, OpenRound

__all__ = ["Benches", "Workplace"]

_KEPT = 8
"""Codes whose processes stay: of more, those that were idle for longest end, and start anew when they are needed."""


class Workplace(Protocol):
    """Where tasks are done: by a worker process, unless whoever makes an agent says otherwise."""

    async def start(self) -> None:
        """Be ready for a task."""

    async def work(
        self,
        opened: OpenRound,
        on_frame: Callable[[FromNode], None],
        correspondence: Correspondence | None = None,
    ) -> Answer:
        """Do one task; see `Workshop.work`."""

    async def aclose(self) -> None:
        """No task comes any more."""


W = TypeVar("W", bound=Workplace)


class Benches(Generic[W]):
    """A workplace for each code."""

    def __init__(self, open_workplace: Callable[[Code, Callable[[str], None]], W]) -> None:
        """open_workplace: of a code, which is given what is told each line that the code prints."""
        self._open = open_workplace
        self._benches: OrderedDict[Code, _Bench[W]] = OrderedDict()
        """Those that were asked for last are last."""

    async def start(self, code: Code) -> None:
        """Be ready for a task of this code."""
        await self._of(code).workplace.start()

    @asynccontextmanager
    async def at(
        self, code: Code, on_line: Callable[[str], None], meanwhile: AbstractAsyncContextManager[None] | None = None
    ) -> AsyncIterator[W]:
        """A code's workplace, once it is this task's turn. on_line: told what is printed until the next task begins.

        meanwhile: entered until then.
        """
        bench = self._of(code)
        bench.wanted += 1
        try:
            async with meanwhile or nullcontext():
                await bench.turn.acquire()
            try:
                bench.on_line = on_line
                yield bench.workplace
            finally:
                bench.turn.release()
        finally:
            bench.wanted -= 1
            await self._end_idle()

    async def aclose(self) -> None:
        """No task comes any more."""
        for bench in tuple(self._benches.values()):
            await bench.workplace.aclose()

    def _of(self, code: Code) -> "_Bench[W]":
        if code not in self._benches:
            self._benches[code] = _Bench(code, self._open)
        self._benches.move_to_end(code)
        return self._benches[code]

    async def _end_idle(self) -> None:
        while len(self._benches) > _KEPT:
            found = next(((code, bench) for code, bench in self._benches.items() if not bench.wanted), None)
            if found is None:
                return
            code, bench = found
            bench.wanted += 1  # whoever comes meanwhile waits for its turn
            try:
                async with bench.turn:
                    await bench.workplace.aclose()
            finally:
                bench.wanted -= 1
            if not bench.wanted:
                del self._benches[code]


class _Bench(Generic[W]):
    """The workplace of one code, and whose turn it is there."""

    def __init__(self, code: Code, open_workplace: Callable[[Code, Callable[[str], None]], W]) -> None:
        self.workplace = open_workplace(code, self._print)
        self.on_line: Callable[[str], None] | None = None
        """Told what is printed; None: no task has begun here."""
        self.turn = asyncio.Lock()
        self.wanted = 0
        """Tasks that are at work here, or wait for their turn."""

    def _print(self, line: str) -> None:
        if self.on_line is not None:
            self.on_line(line)
