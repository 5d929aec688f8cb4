"""Tasks that nobody awaits."""

import asyncio

from hansa.network.jobs import Jobs


async def test_whoever_started_a_job_is_told_that_it_failed() -> None:
    jobs, told = Jobs(), asyncio.Queue[BaseException]()

    async def fail() -> None:
        raise OSError("no space left on device")

    jobs.start(fail(), told.put_nowait)
    assert str(await told.get()) == "no space left on device"
    assert len(jobs) == 0


async def test_all_end_with_their_owner_and_those_that_were_adopted_too() -> None:
    jobs, told, ended = Jobs(), list[BaseException](), list[str]()

    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    started = jobs.start(wait("started"), told.append)
    adopted = asyncio.create_task(wait("adopted"))
    jobs.adopt(adopted)
    await asyncio.sleep(0)
    assert set(jobs) == {started, adopted}
    await jobs.aclose()
    assert sorted(ended) == ["adopted", "started"]
    assert len(jobs) == 0
    assert told == []  # to be cancelled is no failure


async def test_one_that_is_ending_already_does_all_that_it_does_to_end() -> None:
    """A client that leaves as a session is stopped: its worker process is waited for, and its folder is removed."""
    jobs, cleaned, let = Jobs(), list[str](), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await let.wait()
            cleaned.append("the folder")

    task = asyncio.create_task(work())
    jobs.adopt(task)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    closing = asyncio.create_task(jobs.aclose())
    await asyncio.sleep(0)
    let.set()
    await closing
    assert cleaned == ["the folder"]
