"""What an agent says and does while its worker is busy, with a worker that does as the test says."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rig import MODEL, blob_of

from hansa.messages import ClientInfo, Contribution, Kind, RoundRules, RunSpec
from hansa.network.client.agent import Agent
from hansa.wire import tokens
from hansa.wire.frames import Admission, Blob, Closed, FromNode, Offer, OpenRound, Progress, Role, RoundKey


class Workshop:
    """Does one task at a time, for ever."""

    def __init__(self) -> None:
        self.tasks: asyncio.Queue[RoundKey] = asyncio.Queue()

    async def work(self, opened: OpenRound, _on_frame: Callable[[FromNode], None]) -> Offer:
        self.tasks.put_nowait(opened.key)
        await asyncio.Event().wait()
        raise AssertionError

    async def aclose(self) -> None:
        pass


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Agent, Workshop, "asyncio.Queue[FromNode]"]:
    workshop, sent = Workshop(), asyncio.Queue[FromNode]()
    token, _ = tokens.issue(tokens.new_key(), "ann", Role.CLIENT, "default")
    made = Agent(
        ClientInfo("ann"),
        join="127.0.0.1:1",
        token=token,
        work=tmp_path,
        app=tmp_path / "app.py",
        workshop=lambda *_: workshop,  # type: ignore[arg-type, return-value]
    )
    made._outbox.open()
    monkeypatch.setattr(made._link, "send", sent.put_nowait)
    return made, workshop, sent


def opened(run: str, lease: float) -> OpenRound:
    spec = RunSpec(name=run, rules=RoundRules(lease=lease))
    return OpenRound(RoundKey(run, 1, Kind.TRAIN), spec, blob_of(MODEL), ("ann",))


async def test_a_task_that_waits_behind_another_sessions_keeps_its_lease(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"],
) -> None:
    made, workshop, sent = agent
    made.receive(opened("first", 60.0))
    made.receive(opened("second", 0.3))

    async with asyncio.timeout(20):
        while not isinstance(frame := await sent.get(), Progress):
            pass

    assert (frame.key.run, frame.activity) == ("second", "queue")
    assert [workshop.tasks.get_nowait().run, workshop.tasks.empty()] == ["first", True]
    made.receive(Closed(RoundKey("first", 1, Kind.TRAIN)))
    async with asyncio.timeout(20):
        assert (await workshop.tasks.get()).run == "second"
    await made.aclose()


async def test_an_update_that_is_forgotten_while_it_was_to_be_sent_is_no_error(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"],
) -> None:
    made, _, _ = agent
    key = RoundKey("run", 1, Kind.TRAIN)
    (made._objects / ("a" * 64)).write_bytes(b"update")
    made._outbox.keep(Offer(key, "ann", Blob("a" * 64, 6), (Contribution("ann", 1),)))

    sending = asyncio.create_task(made._upload(Admission(key, "ann", "upload", 0)))
    made.receive(Closed(key, ("ann",)))

    await sending


async def test_the_model_of_a_task_that_waits_for_its_turn_stays(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _, _ = agent
    there: asyncio.Queue[str] = asyncio.Queue()

    async def download(blob: Blob, target: Path, _on_progress: object) -> Path:
        target.write_bytes(b"model")  # noqa: ASYNC240 - five bytes
        there.put_nowait(blob.digest)
        return target

    monkeypatch.setattr(made._link, "download", download)
    digests = [letter * 64 for letter in "abcdef"]
    for digest in digests:
        made.receive(replace(opened(digest[0], 60.0), model=Blob(digest, 5)))
    async with asyncio.timeout(20):
        assert [await there.get() for _ in digests] == digests

    assert all((made._objects / digest).exists() for digest in digests)
    await made.aclose()
