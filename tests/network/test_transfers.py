"""Models and updates over connections that break, and uploads that wait for each other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import PROJECT, federation
from rig import LARGE, Node, Rig, blob_of, filled, parts_of, proxy, rig, stopped

from hansa.arrays import Arrays
from hansa.errors import ConnectionFailedError, NotFoundError, Reason, WireError
from hansa.messages import ClientInfo, RoundRules, RunSpec
from hansa.network.client.agent import Agent
from hansa.network.client.models import Models
from hansa.wire import channel, chunks, codec
from hansa.wire.frames import Admission, Hello, OpenRound, Presence, Role, Settled, Verdict

CHUNK = chunks.CHUNK
SPEC = RunSpec(name="run", rules=RoundRules(lease=30, deadline=60))

APP = """
import pathlib
import numpy as np
import hansa

app = hansa.App()

@app.train
def train(model, task):
    with pathlib.Path(__file__).with_name("trainings").open("a") as file:
        file.write(f"{task.round}\\n")
    noise = np.random.default_rng(7).normal(size=model["w"].shape).astype(np.float32)
    return hansa.Update({"w": model["w"] + noise}, num_examples=3)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


def trainings(app: Path) -> int:
    return len(app.with_name("trainings").read_text().splitlines())


@asynccontextmanager
async def agent(made: Rig, app: Path, work: Path) -> AsyncIterator[None]:
    """A real client; it is attached."""
    ward = Agent(ClientInfo("ward"), join=made.join, token=made.join_token("ward"), work=work, app=app)
    task = asyncio.create_task(ward.run())
    try:
        while not any(present.client == "ward" for present in (await made.told(Presence)).joined):
            pass
        yield
    finally:
        await stopped(task)


async def accepted(made: Rig) -> None:
    """The hub has the update; a client that was cut off is invited again, as a round does."""
    async with asyncio.timeout(60):
        while True:
            frame = await made.frames.get()
            if isinstance(frame, Settled) and frame.accepted:
                return
            if isinstance(frame, Presence) and frame.joined:
                made.open("ward", model=LARGE, spec=SPEC)


def expected() -> np.ndarray:
    return np.random.default_rng(7).normal(size=LARGE["w"].shape).astype(np.float32)


# ── broken connections ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of all chunks that a receiver takes, of uploads and downloads."""
    lengths: list[int] = []
    write, download = chunks.Assembly.write, channel.download

    def counted_write(self: chunks.Assembly, offset: int, data: memoryview) -> None:
        lengths.append(len(data))
        write(self, offset, data)

    async def counted_download(*given: Any) -> AsyncIterator[tuple[int, memoryview]]:
        async for offset, data in download(*given):
            lengths.append(len(data))
            yield offset, data

    monkeypatch.setattr(chunks.Assembly, "write", counted_write)
    monkeypatch.setattr(channel, "download", counted_download)
    return lengths


@pytest.mark.parametrize("cut", [1, CHUNK // 2, CHUNK + 1, 2 * CHUNK + 77, 3 * CHUNK + CHUNK // 3, 4 * CHUNK - 1])
async def test_an_upload_that_breaks_at_any_byte_goes_on_where_it_broke(
    cut: int, app: Path, tmp_path: Path, received: list[int]
) -> None:
    """What was taken is never sent again; what was under way in gRPC's own buffers is."""
    async with rig(lease=20) as made, proxy(made) as between, agent(made, app, tmp_path / "work"):
        made.open("ward", model=LARGE, spec=SPEC)
        await taken(made, 1)
        downloaded = sum(received)
        between.cut_after(up=cut)
        await accepted(made)
        partial = await made.sealed()
        assert between.cuts == 1
    assert sum(received) - downloaded == codec.size(LARGE)
    assert partial is not None
    assert partial.weight == 3
    assert trainings(app) == 1


@pytest.mark.parametrize("cut", [CHUNK // 2, 2 * CHUNK + 77, 4 * CHUNK - 1])
async def test_an_upload_whose_connection_alone_breaks_sends_at_most_a_chunk_twice(
    cut: int, app: Path, tmp_path: Path, received: list[int]
) -> None:
    """The offer may be repeated while the last chunk of the broken connection is being taken."""
    async with rig(lease=20) as made, proxy(made) as between, agent(made, app, tmp_path / "work"):
        made.open("ward", model=LARGE, spec=SPEC)
        await taken(made, 1)
        downloaded = sum(received)
        between.cut_after(up=cut, alone=True)
        await accepted(made)
        assert between.cuts == 1
        assert (await made.sealed()) is not None
    again = sum(received) - downloaded - codec.size(LARGE)
    assert 0 <= again <= CHUNK
    assert trainings(app) == 1


async def taken(made: Rig, offers: int) -> None:
    """So many offers have reached the hub; it reports nothing of them yet."""
    while len(made.hub._offers) < offers:  # noqa: ASYNC110 - the hub has no event for a test
        await asyncio.sleep(0)


@pytest.mark.parametrize("cut", [1, CHUNK // 2, CHUNK + 1, 2 * CHUNK + 77, 4 * CHUNK - 1])
async def test_a_download_that_breaks_at_any_byte_goes_on_where_it_broke(
    cut: int, app: Path, tmp_path: Path, received: list[int]
) -> None:
    async with rig(lease=20) as made, proxy(made) as between, agent(made, app, tmp_path / "work"):
        between.cut_after(down=cut)
        made.open("ward", model=LARGE, spec=SPEC)
        await accepted(made)
        assert between.cuts == 1
        assert await made.sealed() is not None
    assert sum(received) == 2 * codec.size(LARGE)  # down and up
    assert trainings(app) == 1


@pytest.mark.parametrize("instead", ["a bit flipped", "cut off", "longer", "a link"])
async def test_a_model_that_was_changed_where_it_lies_is_fetched_again(instead: str, tmp_path: Path) -> None:
    content = b"".join(codec.encode(LARGE))
    async with rig() as made, made.node("ward") as ward, made.node("other") as other:
        made.open("ward", "other", model=LARGE)
        opened = await ward.told(OpenRound)
        await other.told(OpenRound)
        target = tmp_path / opened.model.digest
        await ward.link.download(opened.model, target)
        before = target.stat()
        assert await ward.link.download(opened.model, target) == target
        untouched = target.stat()  # but for when it was read
        assert (untouched.st_ino, untouched.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        changed = {
            "a bit flipped": content[:-1] + bytes([content[-1] ^ 1]),
            "cut off": content[:-1],
            "longer": content + b"x",
            "a link": content,
        }[instead]
        elsewhere = tmp_path / "elsewhere" if instead == "a link" else target
        target.unlink()
        elsewhere.write_bytes(changed)
        if elsewhere != target:
            target.symlink_to(elsewhere)
        await ward.link.download(opened.model, target)
        assert not target.is_symlink()
        assert target.read_bytes() == content
        assert elsewhere.read_bytes() == content


async def test_bulk_has_a_connection_of_its_own_which_ends_with_it(app: Path, tmp_path: Path) -> None:
    """What gRPC keeps for a connection goes with it, and a server's memory is flat in the number of its clients."""
    async with rig(lease=20) as made, proxy(made) as between, agent(made, app, tmp_path / "work"):
        await between.connections(1)
        made.open("ward", model=LARGE, spec=SPEC)
        await accepted(made)
        await made.sealed()
        await between.connections(1)  # the control stream's
        assert between.most == 2


async def test_an_upload_ends_with_the_control_stream() -> None:
    """Else it would go on towards a server that has given the client up, or stands still."""
    async with rig(lease=20) as made, proxy(made) as between, made.node("ward") as ward:
        made.open("ward", model=LARGE)
        ward.offer(filled(0.5, LARGE), inline=False)
        admission = await ward.told(Admission)
        between.hold()
        uploading = asyncio.create_task(ward.link.upload(admission.upload, parts_of(filled(0.5, LARGE)), 0))
        await between.connections(2)
        between.cut()
        with pytest.raises(ConnectionFailedError):
            await uploading


async def test_a_client_that_is_killed_after_training_offers_what_it_learned_when_it_is_back(
    app: Path, tmp_path: Path
) -> None:
    async with rig(slots=1, lease=20) as made, made.node("first") as first:
        made.open("first", model=LARGE, spec=SPEC)
        first.offer(LARGE, inline=False)
        admission = await first.told(Admission)
        async with agent(made, app, tmp_path / "work"):
            made.open("ward", model=LARGE, spec=SPEC)
            await taken(made, 2)
        await first.link.upload(admission.upload, parts_of(LARGE), 0)
        async with agent(made, app, tmp_path / "work"):
            made.open("ward", model=LARGE, spec=SPEC)
            while (await made.told(Settled)).client != "ward":
                pass
        assert trainings(app) == 1
        partial = await made.sealed()
    assert partial is not None
    assert partial.weight == 4
    assert not [path for path in (tmp_path / "work" / "objects").iterdir() if path.name.endswith(".part")]


async def test_the_sum_of_a_resumed_upload_has_the_bits_of_one_in_one_piece(app: Path, tmp_path: Path) -> None:
    whole = Arrays({"w": expected()})
    async with rig() as made, made.node("ward") as ward:
        made.open("ward", model=LARGE)
        ward.offer(whole, inline=False, num_examples=3)
        admission = await ward.told(Admission)
        await ward.link.upload(admission.upload, parts_of(whole), 0)
        await ward.told(Verdict)
        straight = await made.sealed()
    async with rig(lease=20) as made, proxy(made) as between, agent(made, app, tmp_path / "work"):
        made.open("ward", model=LARGE, spec=SPEC)
        await taken(made, 1)
        between.cut_after(up=2 * CHUNK)
        await accepted(made)
        resumed = await made.sealed()
    assert straight is not None
    assert resumed is not None
    assert straight.sums["w"].tobytes() == resumed.sums["w"].tobytes()


async def test_a_controller_counts_uploads_and_their_seconds(large_app: Path, tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        await made.clients(2)
        session = await made.run(large_app, RunSpec(rounds=2, rules=RoundRules(min_clients=2, quorum=2)))
        value = made.controller.counts.registry.get_sample_value
        rounds = sum(each.closed_at - each.opened_at for each in await made.rounds(session))
    told = {"project": PROJECT}
    assert value("hansa_upload_duration_seconds_count", told) == 4
    assert 0 < (value("hansa_upload_duration_seconds_sum", told) or 0) < 2 * rounds


# ── what is checked ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_bytes_of_another_digest_are_rejected_and_the_client_may_offer_again() -> None:
    async with rig() as made, made.node("ward") as ward:
        made.open("ward", model=LARGE)
        ward.offer(filled(0.5, LARGE), inline=False)
        admission = await ward.told(Admission)
        await ward.link.upload(admission.upload, parts_of(filled(0.25, LARGE)), 0)
        assert (await ward.told(Verdict)).reason is Reason.DIGEST
        await send_whole(ward, filled(0.5, LARGE))
        assert (await ward.told(Verdict)).accepted


async def send_whole(ward: Node, arrays: Arrays) -> None:
    ward.offer(arrays, inline=False)
    admission = await ward.told(Admission)
    await ward.link.upload(admission.upload, parts_of(arrays), admission.offset)


@pytest.mark.parametrize(
    "frames",
    [
        [chunks.frame(CHUNK, b"x")],
        [chunks.frame(0, b"a" * 10), chunks.frame(0, b"b" * 10)],
        [chunks.frame(0, b"x" * chunks.MAX_CHUNK), chunks.frame(chunks.MAX_CHUNK, b"x" * chunks.MAX_CHUNK)],
        [b"\xff\xff"],
    ],
    ids=["a gap", "other bytes at a place", "more than announced", "no chunk"],
)
async def test_chunks_that_do_not_fit_are_refused_and_the_client_can_begin_anew(frames: list[bytes]) -> None:
    async with rig() as made, made.node("ward") as ward:
        made.open("ward", model=LARGE)
        arrays = filled(0.5, LARGE)
        ward.offer(arrays, inline=False)
        admission = await ward.told(Admission)
        async with made.dialled() as parent:
            with pytest.raises(WireError):
                await channel.upload(parent, made.token("ward"), admission.upload, frames)
        verdict: Verdict | None = None
        while verdict is None or not verdict.accepted:  # once rejected, where wrong bytes had been taken
            assert verdict is None or verdict.reason is Reason.DIGEST
            await send_whole(ward, arrays)
            verdict = await ward.told(Verdict)


async def test_the_upload_of_another_client_cannot_be_written_to() -> None:
    async with rig() as made, made.node("ward") as ward, made.node("villain") as villain:
        made.open("ward", model=LARGE)
        ward.offer(filled(0.5, LARGE), inline=False)
        admission = await ward.told(Admission)
        with pytest.raises(NotFoundError, match="villain has no upload"):
            await villain.link.upload(admission.upload, parts_of(LARGE), 0)


async def test_an_object_of_no_open_round_is_not_given_out(tmp_path: Path) -> None:
    async with rig() as made, made.node("ward") as ward:
        blob = blob_of(LARGE, inline=False)
        with pytest.raises(NotFoundError, match="not needed by any round"):
            await ward.link.download(blob, tmp_path / "model")
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240 - an empty folder


# ── admission ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("slots", [1, 2, 3])
async def test_no_more_uploads_than_slots_are_admitted_at_once_and_all_come_to_their_turn(slots: int) -> None:
    names = [f"client-{number}" for number in range(6)]
    most = admitted = 0
    all_taken = asyncio.Event()
    async with rig(slots=slots, lease=20) as made:

        async def take_part(name: str) -> None:
            nonlocal most, admitted
            arrays = filled(0.5, LARGE)
            async with made.node(name) as node:
                made.open(name, model=LARGE)
                node.offer(arrays, inline=False)
                admission = await node.told(Admission)
                admitted += 1
                if admitted == slots:
                    all_taken.set()
                await all_taken.wait()
                most = max(most, len(made.hub._uploads._active))
                await node.link.upload(admission.upload, parts_of(arrays), 0)
                assert (await node.told(Verdict)).accepted

        await asyncio.gather(*map(take_part, names))
        partial = await made.sealed()
    assert most == slots
    assert partial is not None
    assert partial.weight == 6


async def test_an_uploader_that_stalls_loses_its_slot_and_is_told_when_it_goes_on() -> None:
    async with rig(slots=1, lease=0.5) as made:
        hello = Hello(Role.CLIENT, "1", "0")
        async with made.node("slow", hello) as slow, made.node("quick", hello) as quick:
            made.open("slow", "quick", model=LARGE)
            arrays = filled(0.5, LARGE)
            slow.offer(arrays, inline=False)
            admission = await slow.told(Admission)
            assert await slow.link.upload(admission.upload, [parts_of(arrays)[0]], 0) < CHUNK
            await send_whole(quick, arrays)
            assert (await quick.told(Verdict)).accepted
            with pytest.raises(NotFoundError, match="offer the update again"):
                await slow.link.upload(admission.upload, parts_of(arrays), 0)
            slow.offer(arrays, inline=False)
            again = await slow.told(Admission)
            assert again.offset == len(parts_of(arrays)[0])
            await slow.link.upload(again.upload, parts_of(arrays), again.offset)
            assert (await slow.told(Verdict)).accepted


async def test_an_uploader_that_trickles_loses_its_slot() -> None:
    async with rig(slots=1, lease=0.5) as made, made.node("slow") as slow, made.node("quick") as quick:
        made.open("slow", "quick", model=LARGE)
        arrays = filled(0.5, LARGE)
        slow.offer(arrays, inline=False)
        admission = await slow.told(Admission)
        upload = made.hub._uploads.get(admission.upload)
        assert upload is not None
        data = b"".join(parts_of(arrays))

        async def trickle() -> None:
            for position in range(len(data)):
                await slow.link.upload(admission.upload, [data[: position + 1]], position)
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        await send_whole(quick, arrays)
        assert (await quick.told(Verdict)).accepted
        with pytest.raises(NotFoundError):
            await trickling


async def test_an_upload_that_takes_long_goes_on_on_the_disk_and_its_slot_to_the_next() -> None:
    async with rig(slots=1, lease=0.5) as made, made.node("slow") as slow, made.node("quick") as quick:
        made.open("slow", "quick", model=LARGE)
        data, step = b"".join(parts_of(filled(0.25, LARGE))), 1 << 16
        slow.offer(filled(0.25, LARGE), inline=False)
        admission = await slow.told(Admission)
        sending = asyncio.create_task(send_whole(quick, filled(0.5, LARGE)))
        sent = 0
        while not sending.done():
            await slow.link.upload(admission.upload, [data[: sent + step]], sent)
            sent += step
            await asyncio.sleep(0.02)  # far quicker than one that stalls
        await slow.link.upload(admission.upload, [data], sent)
        assert (await quick.told(Verdict)).accepted
        assert (await slow.told(Verdict)).accepted
        assert 0 < sent < len(data)
        partial = await made.sealed()
    assert partial is not None
    assert sorted(partial.contributions) == ["quick", "slow"]


async def test_a_download_tells_how_far_it_is_as_long_as_bytes_come(tmp_path: Path) -> None:
    """However slowly: sixteen megabytes took longer than a lease where the way has two megabits."""
    told: list[tuple[str, float, float]] = []
    async with rig() as made, made.node("ward") as ward:
        made.open("ward", model=LARGE)
        opened = await ward.told(OpenRound)
        models = Models(tmp_path, tmp_path, ward.link)
        await models.find(opened.model, lambda *said: told.append(said), lease=0.0)
    size = codec.size(LARGE)
    assert told[-1] == ("download", size, size)
    assert len(told) >= 4
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


async def test_a_seal_does_not_wait_for_an_upload_under_way_nor_for_those_in_the_queue() -> None:
    async with rig(slots=1, lease=60) as made, made.node("first") as first, made.node("second") as second:
        made.open("first", "second", model=LARGE)
        first.offer(filled(0.5, LARGE), inline=False)
        await first.told(Admission)
        second.offer(filled(0.5, LARGE), inline=False)
        await taken(made, 2)
        assert await made.sealed() is None
        assert (await first.told(Verdict)).reason is Reason.LATE
        assert (await second.told(Verdict)).reason is Reason.LATE
        made.open("first", "second", model=LARGE)  # the round opens again: they offer what they have
        await send_whole(first, filled(0.5, LARGE))
        await send_whole(second, filled(0.5, LARGE))
        assert (await first.told(Verdict)).accepted
        assert (await second.told(Verdict)).accepted
        partial = await made.sealed()
    assert partial is not None
    assert sorted(partial.contributions) == ["first", "second"]
