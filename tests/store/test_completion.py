import asyncio

import pytest

from hansa.store.completion import completed


async def work(gate: asyncio.Event, done: list[str], error: Exception | None = None) -> str:
    await gate.wait()
    if error is not None:
        raise error
    done.append("done")
    return "result"


async def test_it_gives_what_the_work_gives() -> None:
    gate, done = asyncio.Event(), list[str]()
    gate.set()
    assert await completed(work(gate, done)) == "result"
    with pytest.raises(ValueError, match="broken"):
        await completed(work(gate, done, ValueError("broken")))


@pytest.mark.parametrize("error", [None, ValueError("broken")])
async def test_who_is_cancelled_twice_hears_of_it_when_the_work_is_over(error: Exception | None) -> None:
    gate, done = asyncio.Event(), list[str]()
    waiting = asyncio.create_task(completed(work(gate, done, error)))
    for _ in range(2):
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
    assert not waiting.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert done == ([] if error else ["done"])
