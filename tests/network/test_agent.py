"""What an agent says and does while its worker is busy, with a worker that does as the test says."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rig import MODEL, blob_of

from hansa.errors import ConnectionFailedError, HansaError, NotFoundError, Reason, UserCodeError
from hansa.messages import ClientInfo, Contribution, Kind, RoundRules, RunSpec, Sample
from hansa.network import patience
from hansa.network.client.agent import Agent
from hansa.network.client.code import Code
from hansa.network.client.outbox import update_file
from hansa.statements import Part, update_statement
from hansa.wire import tokens
from hansa.wire.frames import (
    Admission,
    Blob,
    Closed,
    FromNode,
    LogLine,
    Offer,
    OpenRound,
    Progress,
    Role,
    RoundKey,
    Samples,
    TaskFailed,
    Verdict,
    Welcome,
    Withdraw,
)
from hansa.wire.node_key import NodeKey, holds


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
        join="tcp://127.0.0.1:1",
        token=token,
        work=tmp_path,
        app=tmp_path / "app.py",
        workshop=lambda *_: workshop,  # type: ignore[arg-type, return-value]
    )
    made._outbox.open()
    made._identity._key = NodeKey.new()
    monkeypatch.setattr(made._link, "send", lambda frame: sent.put_nowait(without_signature(frame)))
    return made, workshop, sent


def without_signature(frame: FromNode) -> FromNode:
    """An offer as it was kept, once its signature was looked at: it is another one with each key."""
    if not isinstance(frame, Offer):
        return frame
    (part,) = frame.contributions
    assert part.signature is not None
    where = Part("default", frame.key.run, frame.key.round, "ann", frame.base)
    assert holds(part.signature, update_statement(where, frame.blob.digest, part.num_examples, part.metrics))
    return replace(frame, contributions=(replace(part, signature=None),))


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


async def test_who_is_told_that_its_lease_has_ended_says_that_it_lives_and_can_have_its_place_again(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"],
) -> None:
    made, workshop, sent = agent
    task = opened("run", 60.0)
    made.receive(task)
    async with asyncio.timeout(20):
        await workshop.tasks.get()

    made.receive(Withdraw(task.key, "ann", "no progress for 60 s"))
    made.receive(Withdraw(task.key, "ann", "and once more: it has no task any more"))
    made.receive(task)

    async with asyncio.timeout(20):
        assert await workshop.tasks.get() == task.key
    assert [sent.get_nowait(), sent.get_nowait()] == 2 * [Progress(task.key, "ann", "idle", 0, 0)]
    assert sent.empty()
    await made.aclose()


async def test_a_task_that_is_given_again_just_before_it_is_dropped_begins_anew(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is back refuses what it has not opened again yet; its invitation is on the way by then."""
    made, workshop, _ = agent
    task = replace(opened("run", 60.0), model=Blob("0" * 64, 8))
    asked, answered = asyncio.Queue[None](), asyncio.Queue[HansaError | None]()

    async def download(*_: object, **_more: object) -> None:
        asked.put_nowait(None)
        if (error := await answered.get()) is not None:
            raise error

    monkeypatch.setattr(made._link, "download", download)
    refusal = NotFoundError("the object is not needed by any round that is open here")
    async with asyncio.timeout(20):
        made.receive(task)
        await asked.get()
        made.receive(task)
        answered.put_nowait(refusal)
        await asked.get()
        answered.put_nowait(refusal)  # nobody has given it again meanwhile: it is dropped
        while made._tasks:  # noqa: ASYNC110 - a task that is dropped tells nobody
            await asyncio.sleep(0)
        made.receive(task)
        await asked.get()
        answered.put_nowait(None)
        assert await workshop.tasks.get() == task.key
    await made.aclose()


async def test_an_update_waits_for_a_disk_that_is_full_and_keeps_its_lease(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that is reported as failed is out of its round for good."""
    made, workshop, sent = agent
    task = opened("run", 60.0)
    offer = Offer(task.key, "ann", blob_of(MODEL), (Contribution("ann", 1),))
    refusals, sync = [errno.ENOSPC, errno.EIO, errno.EIO], os.fsync

    async def work(_opened: OpenRound, _on_frame: object) -> Offer:
        return offer

    def full(descriptor: int) -> None:
        if refusals:
            raise OSError(refusals.pop(0), "for a test")
        sync(descriptor)

    monkeypatch.setattr(workshop, "work", work)
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(patience, "_PAUSE", 0.01)
    made.receive(task)
    async with asyncio.timeout(20):
        told = [await sent.get() for _ in range(6)]
    await made.aclose()

    assert told == [
        LogLine(task.key, "ann", told[0].line, "warning"),
        Progress(task.key, "ann", "disk", 0, 0),
        LogLine(task.key, "ann", told[2].line, "warning"),
        Progress(task.key, "ann", "disk", 0, 0),
        Progress(task.key, "ann", "disk", 0, 0),
        replace(offer, base=task.model.digest),
    ]
    assert "the disk is full: free some space" in told[0].line
    assert "the disk reports an input/output error" in told[2].line


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("disk", ["_outbox._write", "_site.leaves", "_site.says"])
async def test_a_task_that_is_withdrawn_while_its_update_goes_to_the_disk_is_not_done_again(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"],
    monkeypatch: pytest.MonkeyPatch,
    disk: str,
    again: bool,  # noqa: FBT001 - a case
) -> None:
    """The ledger and the outbox are each written by a thread. It delivers, and counts while nobody has its place."""
    made, workshop, sent = agent
    task, done = opened("run", 60.0), []
    offer = Offer(task.key, "ann", blob_of(MODEL), (Contribution("ann", 1),))
    begun, gate = threading.Event(), threading.Event()

    async def work(opened: OpenRound, on_frame: Callable[[FromNode], None]) -> Offer:
        done.append(opened.key)
        on_frame(Samples("ann", (Sample("loss", 1.0),), opened.key))  # what `says` writes down
        return offer

    def slow(*_: object) -> None:
        begun.set()
        gate.wait()

    monkeypatch.setattr(workshop, "work", work)
    owner, name = disk.split(".")
    monkeypatch.setattr(getattr(made, owner), name, slow)
    made.receive(task)
    await asyncio.to_thread(begun.wait)
    made.receive(Withdraw(task.key, "ann", "it was silent"))
    if again:
        made.receive(task)
    gate.set()
    async with asyncio.timeout(20):
        told = [await sent.get() for _ in range(3)]
    await made.aclose()
    assert told[1:] == [Progress(task.key, "ann", "idle", 0, 0), replace(offer, base=task.model.digest)]
    assert (done, sent.empty()) == ([task.key], True)


async def test_a_failure_is_told_also_where_its_task_is_withdrawn_while_it_is_written_down(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, workshop, sent = agent
    task, (begun, gate) = opened("run", 60.0), (threading.Event(), threading.Event())

    async def work(*_: object) -> Offer:
        raise UserCodeError("no data")

    def slow(*_: object) -> None:
        begun.set()
        gate.wait()

    monkeypatch.setattr(workshop, "work", work)
    monkeypatch.setattr(made._site, "says", slow)
    made.receive(task)
    await asyncio.to_thread(begun.wait)
    made.receive(Withdraw(task.key, "ann", "it was silent"))
    gate.set()
    async with asyncio.timeout(20):
        told = [await sent.get() for _ in range(2)]
    await made.aclose()
    assert told == [Progress(task.key, "ann", "idle", 0, 0), TaskFailed(task.key, "ann", "no data")]


async def test_an_update_that_is_forgotten_while_it_was_to_be_sent_is_no_error(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"],
) -> None:
    made, _, _ = agent
    key = RoundKey("run", 1, Kind.TRAIN)
    update_file(made._objects, key).write_bytes(b"update")
    await made._outbox.keep(Offer(key, "ann", Blob("a" * 64, 6), (Contribution("ann", 1),)))

    sending = asyncio.create_task(made._uploads.send(Admission(key, "ann", "upload", 0)))
    made.receive(Closed(key, ("ann",)))

    await sending


class Uploads:
    """In place of `Link.upload`: each goes on until the test lets it fail."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[int] = asyncio.Queue()
        self.ended: list[int] = []
        self.broken = asyncio.Event()

    async def __call__(self, _name: str, _parts: object, offset: int) -> int:
        self.begun.put_nowait(offset)
        try:
            await self.broken.wait()
        finally:
            self.ended.append(offset)
        raise ConnectionFailedError("for a test")


@pytest.fixture
async def uploads(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"], monkeypatch: pytest.MonkeyPatch
) -> tuple[Uploads, Offer]:
    """Of an agent that is connected, and has learned something."""
    made, _, _ = agent
    found = Uploads()
    offer = Offer(RoundKey("run", 1, Kind.TRAIN), "ann", Blob("a" * 64, 6), (Contribution("ann", 1),))
    update_file(made._objects, offer.key).write_bytes(b"update")
    await made._outbox.keep(offer)
    monkeypatch.setattr(made._link, "upload", found)
    monkeypatch.setattr(made._link, "_outbox", asyncio.Queue())
    return found, offer


async def test_an_upload_that_breaks_is_offered_again(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"], uploads: tuple[Uploads, Offer]
) -> None:
    (made, _, sent), (under_way, offer) = agent, uploads
    made.receive(Admission(offer.key, "ann", "upload", 0))
    assert await under_way.begun.get() == 0
    under_way.broken.set()
    async with asyncio.timeout(20):
        assert await sent.get() == offer
    await made.aclose()


async def test_the_newest_admission_says_where_an_upload_goes_on(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"], uploads: tuple[Uploads, Offer]
) -> None:
    """Else the same bytes travel twice, at the same time."""
    (made, _, sent), (under_way, offer) = agent, uploads
    made.receive(Admission(offer.key, "ann", "upload", 0))
    assert await under_way.begun.get() == 0
    made.receive(Admission(offer.key, "ann", "upload", 4))
    assert await under_way.begun.get() == 4
    assert under_way.ended == [0]
    assert sent.empty()
    await made.aclose()
    assert under_way.ended == [0, 4]


async def test_an_upload_ends_with_its_stream_and_leaves_the_next_offer_to_the_next_invitation(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"], uploads: tuple[Uploads, Offer]
) -> None:
    """Were it offered by both, it would be admitted twice."""
    (made, _, sent), (under_way, offer) = agent, uploads
    made.receive(Admission(offer.key, "ann", "upload", 0))
    assert await under_way.begun.get() == 0
    made.detached("for a test")
    made.attached(Welcome("hub", 5.0, ""))
    under_way.broken.set()
    made.receive(OpenRound(offer.key, RunSpec(name="run"), blob_of(MODEL), ("ann",)))
    while made._jobs:  # noqa: ASYNC110 - an upload that has ended tells nobody
        await asyncio.sleep(0)
    await made.aclose()
    assert [sent.get_nowait(), sent.empty()] == [offer, True]


async def test_the_model_of_a_task_that_waits_for_its_turn_stays(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _, _ = agent
    there: asyncio.Queue[str] = asyncio.Queue()

    async def download(blob: Blob, target: Path, _on_progress: object, **_more: object) -> Path:
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


async def test_half_a_package_that_a_killed_process_left_is_cleared_away(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, workshop, _ = agent

    async def nothing() -> None:
        pass

    monkeypatch.setattr(workshop, "start", nothing, raising=False)
    monkeypatch.setattr(made._link, "run", nothing)
    (tmp_path / "package.zip.71c79eee.part").touch()
    await made.run()
    assert not (tmp_path / "package.zip.71c79eee.part").exists()


@pytest.mark.parametrize("reason", [Reason.NOT_INVITED, Reason.LATE, Reason.UNKNOWN_ROUND])
async def test_a_server_that_does_not_expect_an_update_yet_gets_it_with_the_task_and_nothing_is_learned_again(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"], reason: Reason
) -> None:
    """Who moves to another server with an update in hand may be there before its invitation is."""
    made, workshop, sent = agent
    task = opened("run", 60.0)
    offer = Offer(task.key, "ann", blob_of(MODEL), (Contribution("ann", 1),))
    await made._outbox.keep(offer)

    made.receive(Verdict(task.key, "ann", accepted=False, reason=reason, detail="not here"))
    made.receive(task)

    assert sent.get_nowait() == offer
    assert sent.empty()
    assert workshop.tasks.empty()
    made.receive(Verdict(task.key, "ann", accepted=False, reason=Reason.STRUCTURE, detail="another model"))
    assert made._outbox.get(task.key) is None
    await made.aclose()


async def test_what_two_sessions_codes_print_at_once_is_told_to_their_own_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one data scientist reads what another's code says of the data."""
    printing: dict[str, Callable[[str], None]] = {}
    at_work, sent = Workshop(), asyncio.Queue[FromNode]()

    def workshop(code: Code, _client: ClientInfo, _objects: Path, on_line: Callable[[str], None]) -> Workshop:
        printing[code.path.name] = on_line
        return at_work

    async def find(package: Blob) -> Code:
        return Code(tmp_path / package.digest)

    token, _ = tokens.issue(tokens.new_key(), "ann", Role.CLIENT, "default")
    made = Agent(ClientInfo("ann"), join="tcp://127.0.0.1:1", token=token, work=tmp_path, workshop=workshop)
    monkeypatch.setattr(made._library, "find", find)
    monkeypatch.setattr(made._link, "send", sent.put_nowait)
    async with asyncio.timeout(20):
        for run in ("first", "second"):
            made.receive(replace(opened(run, 60.0), package=Blob(run, 1)))
            assert (await at_work.tasks.get()).run == run
    printing["first"]("of the first")
    printing["second"]("of the second")
    await made.aclose()

    told = [sent.get_nowait() for _ in range(sent.qsize())]
    assert {(frame.key.run, frame.line) for frame in told if isinstance(frame, LogLine)} == {
        ("first", "of the first"),
        ("second", "of the second"),
    }


@pytest.mark.parametrize("session", ["../../victim", "/etc", "..", "", "a/b", "a\\b", "nul\0", "x" * 65])
async def test_a_session_that_is_called_like_a_path_writes_no_result_anywhere(
    agent: tuple[Agent, Workshop, "asyncio.Queue[FromNode]"], session: str
) -> None:
    made, workshop, sent = agent
    made.receive(replace(opened("run", 60.0), key=RoundKey(session, 1, Kind.PROGRAM)))
    async with asyncio.timeout(20):
        told = await sent.get()
    assert isinstance(told, TaskFailed)
    assert "which names no folder: no result of it could be kept" in told.message
    assert workshop.tasks.empty()
    await made.aclose()
