"""Disks that are full in the middle of a session, and have room again. The controller's is real, and small."""

import asyncio
import errno
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from federation import Federation, federation

from hansa.errors import StorageUnavailableError
from hansa.evidence.stored import verify_session
from hansa.messages import EvaluationRules, RoundRules, RunSpec
from hansa.network.client.outbox import Outbox
from hansa.network.link import Link
from hansa.simulation import simulate
from hansa.store.records import SessionState

MEGABYTES = 24


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """The controller's data folder, on a file system of its own."""
    folder = tmp_path / "controller"
    folder.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["/bin/umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take every byte that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        block = bytes(1 << 16)
        while block:
            try:
                file.write(block)
            except OSError:
                block = block[: len(block) // 2]
    return filler


async def test_a_session_waits_for_room_says_so_and_goes_on(disk: Path, app: Path, tmp_path: Path) -> None:
    rules = RoundRules(min_clients=2, quorum=2, deadline=100, lease=60)
    go_on = tmp_path / "go-on"
    spec = RunSpec(rounds=5, rules=rules, evaluation=EvaluationRules(every=2), config={"gate": str(go_on)})
    async with Federation.open(tmp_path) as made:
        await made.clients(2)
        started = await made.start(app, spec)
        await made.until_round(started, 2)
        filler = await asyncio.to_thread(fill, disk)  # while both clients train for round 3
        go_on.touch()
        while not (away := made.tree.away(started.id)):  # noqa: ASYNC110  # a session that waits tells nobody
            await asyncio.sleep(0.01)
        filler.unlink()
        session = await made.end(started)
        whole = await verify_session(made.controller.store, made.controller.objects, session.project, session.id)
    assert "the disk is full: free some space" in away
    assert session.state is SessionState.FINISHED, session.cause
    assert whole.rounds == 5
    assert session.model == (await asyncio.to_thread(simulate, app, clients=2, spec=spec)).model_hash


async def test_no_client_is_lost_to_a_disk_that_refuses_a_model_or_an_update(
    large_app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below a combiner, whose own disk refuses the model as those of its clients do."""
    refused: Counter[str] = Counter()
    download, keep = Link._download_some, Outbox.keep

    async def download_some(self: Link, *given: Any) -> None:
        refused[f"model {id(self)}"] += 1
        if refused[f"model {id(self)}"] == 1:
            raise OSError(errno.ENOSPC, "for a test")
        await download(self, *given)

    async def keep_some(self: Outbox, offer: Any) -> None:
        refused[f"update {offer.sender}"] += 1
        if refused[f"update {offer.sender}"] == 1:
            raise StorageUnavailableError("for a test")
        await keep(self, offer)

    monkeypatch.setattr(Link, "_download_some", download_some)
    monkeypatch.setattr(Outbox, "keep", keep_some)
    spec = RunSpec(rounds=2, rules=RoundRules(min_clients=2, quorum=2, deadline=100, lease=60))
    async with federation(tmp_path, ["only"]) as made:
        await made.clients(2)
        session = await made.run(large_app, spec)
    assert session.state is SessionState.FINISHED, session.cause
    assert session.model == (await asyncio.to_thread(simulate, large_app, clients=2, spec=spec)).model_hash
    assert len(refused) == 5
