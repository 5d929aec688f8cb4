"""Worker processes by their code: those that were idle for longest end, and none that is at work."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from hansa.network.client.benches import Benches
from hansa.network.client.code import Code
from hansa.network.client.correspondence import Correspondence
from hansa.wire.frames import Answer, FromNode, OpenRound

CODES = [Code(Path(f"{number}.hansa"), str(number)) for number in range(12)]


class Workplace:
    """Of a code; writes down when it is closed."""

    def __init__(self, code: Code, on_line: Callable[[str], None], closed: list[Code]) -> None:
        self.code = code
        self.on_line = on_line
        self.ending: tuple[asyncio.Event, asyncio.Event] | None = None
        """Set when it begins to close, and when it may have."""
        self._closed = closed

    async def start(self) -> None:
        pass

    async def work(
        self, _opened: OpenRound, _on_frame: Callable[[FromNode], None], _post: Correspondence | None = None
    ) -> Answer:
        raise AssertionError

    async def aclose(self) -> None:
        if self.ending is not None:
            begins, may_end = self.ending
            begins.set()
            await may_end.wait()
        self._closed.append(self.code)


def benches() -> tuple[Benches[Workplace], list[Code], list[Code]]:
    """(benches, the codes whose workplaces were opened, and closed)."""
    opened, closed = list[Code](), list[Code]()

    def open_workplace(code: Code, on_line: Callable[[str], None]) -> Workplace:
        opened.append(code)
        return Workplace(code, on_line, closed)

    return Benches(open_workplace), opened, closed


async def test_of_more_codes_than_are_kept_those_that_were_idle_for_longest_end_and_start_anew() -> None:
    made, opened, closed = benches()
    for code in (*CODES[:8], CODES[0], *CODES[8:10]):
        async with made.at(code, print):
            pass
    assert closed == CODES[1:3]
    async with made.at(CODES[1], print) as again:
        assert again.code == CODES[1]
    assert opened == [*CODES[:10], CODES[1]]
    await made.aclose()
    assert closed == [*CODES[1:8], CODES[0], *CODES[8:10], CODES[1]]


async def test_no_code_ends_that_is_at_work_however_many_are() -> None:
    made, _, closed = benches()
    async with AsyncExitStack() as at_work:
        for code in CODES:
            await at_work.enter_async_context(made.at(code, print))
        assert closed == []
    assert closed == list(reversed(CODES))[:4]


async def test_a_code_that_is_asked_for_while_its_process_ends_waits_until_it_has() -> None:
    made, opened, closed = benches()
    ending, ended = asyncio.Event(), asyncio.Event()
    for code in CODES[:8]:
        async with made.at(code, print) as workplace:
            if code == CODES[0]:
                workplace.ending = (ending, ended)

    async def one_more() -> None:
        async with made.at(CODES[8], print):
            pass

    async def again() -> list[Code]:
        async with made.at(CODES[0], print):
            return list(closed)

    begun = asyncio.create_task(one_more())
    await ending.wait()
    asked = asyncio.create_task(again())
    await asyncio.sleep(0)
    ended.set()
    await begun
    assert await asked == [CODES[0], CODES[1]]
    assert opened == CODES[:9]


async def test_tasks_of_one_code_are_done_in_turn_and_each_hears_what_it_prints() -> None:
    made, opened, _ = benches()
    first, second, order = list[str](), list[str](), list[str]()

    async def task(name: str, heard: list[str]) -> None:
        async with made.at(CODES[0], heard.append) as workplace:
            order.append(name)
            workplace.on_line(name)
            await asyncio.sleep(0)
            order.append(name)

    await asyncio.gather(task("a", first), task("b", second))
    assert order == ["a", "a", "b", "b"]
    assert (first, second) == (["a"], ["b"])
    assert opened == CODES[:1]
