"""What a client finds again in its outbox after its process has died."""

import asyncio
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rig import KEY, MODEL, blob_of

from hansa.messages import Contribution
from hansa.network.client.outbox import Outbox, update_file
from hansa.wire.frames import Blob, Offer

OFFER = Offer(KEY, "ann", blob_of(MODEL), (Contribution("ann", 1),))


class KilledError(Exception):
    """The process ends here."""


def opened(folder: Path) -> Outbox:
    made = Outbox(folder / "outbox", folder / "objects")
    made.open()
    return made


async def test_what_was_kept_is_there_again_until_it_is_forgotten(tmp_path: Path) -> None:
    await opened(tmp_path).keep(OFFER)
    again = opened(tmp_path)
    assert again.get(KEY) == OFFER
    again.forget(KEY)
    assert opened(tmp_path).get(KEY) is None
    assert list((tmp_path / "outbox").iterdir()) == []


async def test_an_offer_whose_keeping_a_kill_has_cut_off_is_gone_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken for an offer, it would be there again after every start: nothing forgets it under its provisional name."""
    made = opened(tmp_path)

    def killed(_: int) -> None:
        raise KilledError

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KilledError):
        await made.keep(OFFER)
    assert [file.name for file in (tmp_path / "outbox").iterdir()] == [".unfinished"]
    assert opened(tmp_path).get(KEY) is None
    assert list((tmp_path / "outbox").iterdir()) == []


async def test_forgetting_an_update_leaves_the_same_bytes_that_another_session_has_learned(tmp_path: Path) -> None:
    """Left by the worker, and not kept yet."""
    made = opened(tmp_path)
    keys = KEY, replace(KEY, run="another")
    for key in keys:
        update_file(tmp_path / "objects", key).write_bytes(b"update")
    first, second = (replace(OFFER, key=key, blob=Blob("a" * 64, 6)) for key in keys)

    await made.keep(first)
    made.forget(first.key)
    await made.keep(second)

    assert opened(tmp_path).get(second.key) == second
    assert [file.read_bytes() for file in (tmp_path / "objects").iterdir()] == [b"update"]


class SlowDisk:
    """In place of `os.fsync`: it takes its time, until the test lets it go on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()
        patch.setattr(os, "fsync", self)

    def __call__(self, _: int) -> None:
        self.begun.set()
        self.gate.wait()


async def test_an_update_that_is_forgotten_as_soon_as_it_is_to_be_kept_is_not_there(tmp_path: Path) -> None:
    made = opened(tmp_path)
    keeping = asyncio.create_task(made.keep(OFFER))
    await asyncio.sleep(0)  # it has begun, and the task that it makes has not
    made.forget(KEY)
    await keeping
    assert made.get(KEY) is opened(tmp_path).get(KEY) is None


@pytest.mark.parametrize("meanwhile", ["nothing", "cancelled", "forgotten", "older"])
async def test_nobody_waits_for_a_disk_but_who_keeps_an_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """The loop goes on, the offer is there only once it is on the disk, and what happens meanwhile holds."""
    made, disk = opened(tmp_path), SlowDisk(monkeypatch)
    keeping = asyncio.create_task(made.keep(OFFER))
    await asyncio.to_thread(disk.begun.wait)
    assert made.get(KEY) is None
    asked = asyncio.create_task(made.settled(KEY))
    if "cancelled" in meanwhile:
        keeping.cancel()
    match meanwhile:
        case "forgotten":
            made.forget(KEY)
        case "older":
            made.forget_before(replace(KEY, round=KEY.round + 1))
        case _:
            pass
    await asyncio.sleep(0)
    assert not keeping.done()
    disk.gate.set()
    await asyncio.wait([keeping])
    expected = None if meanwhile in {"forgotten", "older"} else OFFER
    assert await asked == made.get(KEY) == opened(tmp_path).get(KEY) == expected
    assert keeping.cancelled() == ("cancelled" in meanwhile)


async def test_nothing_is_left_of_an_update_that_is_forgotten_before_its_turn_at_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, disk = opened(tmp_path), SlowDisk(monkeypatch)
    offers = [replace(OFFER, key=replace(KEY, run=run), blob=Blob("a" * 64, 6)) for run in ("first", "second")]
    for offer in offers:
        update_file(tmp_path / "objects", offer.key).write_bytes(b"update")
    keeping = [asyncio.create_task(made.keep(offer)) for offer in offers]
    await asyncio.to_thread(disk.begun.wait)
    made.forget(offers[1].key)
    disk.gate.set()
    await asyncio.gather(*keeping)
    assert [made.get(offer.key) for offer in offers] == [offers[0], None]
    assert list((tmp_path / "objects").iterdir()) == [update_file(tmp_path / "objects", offers[0].key)]
