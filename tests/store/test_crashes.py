"""Processes that are killed while they write, and processes that write the same file."""

import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from committer import model_bytes
from store_examples import PROJECT, every

from hansa.errors import NotFoundError
from hansa.store.files import DirectoryObjects
from hansa.store.link import verify_chain
from hansa.store.opening import open_objects, open_store
from hansa.store.records import (
    ContributionRecord,
    EventRecord,
    MetricRecord,
    ModelRecord,
    RoundRecord,
    SessionRecord,
)

COMMITTER = str(Path(__file__).with_name("committer.py"))


@dataclass(frozen=True)
class Place:
    """Where the processes of a test keep their rows and their models."""

    store: str
    objects: str


@pytest.fixture(params=["embedded", "servers"])
def place(request: pytest.FixtureRequest) -> Place:
    """SQLite and a directory, PostgreSQL and S3."""
    if request.param == "embedded":
        found: Place = request.getfixturevalue("embedded")
        return found
    return Place(request.getfixturevalue("postgres_url"), request.getfixturevalue("s3_url"))


@pytest.fixture
def embedded(tmp_path: Path) -> Place:
    """The pair whose every step is a system call of the process itself."""
    return Place(f"sqlite:///{tmp_path}/hansa.db", str(tmp_path / "objects"))


def start(place: Place, session: str = "s1", limit: int = 10**9, under: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*under, sys.executable, COMMITTER, place.store, place.objects, session, str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_after(process: subprocess.Popen[str], acknowledgements: int) -> list[int]:
    """Kill the process as soon as it has said so many numbers; all that it has said."""
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(acknowledgements)]
    process.send_signal(signal.SIGKILL)
    return said + [int(line) for line in process.stdout if line.endswith("\n")]


async def check_history(place: Place, session: str, acknowledged: int) -> int:
    """Every acknowledged round is there, each round is whole, and at most one was not acknowledged; their number."""
    store, objects = open_store(place.store), open_objects(place.objects)
    await store.open()
    try:
        rounds, contributions, models, metrics, events = [
            [row for row in await every(store, kind) if row.session == session]
            for kind in (RoundRecord, ContributionRecord, ModelRecord, MetricRecord, EventRecord)
        ]
        count = len(rounds)
        assert count in (acknowledged, acknowledged + 1)
        assert [len(rows) for rows in (contributions, models, metrics, events)] == [
            9 * count,
            count,
            2 * count,
            2 * count,
        ]
        verify_chain(rounds, contributions)
        assert [int(event.message.split()[1]) for event in events] == [n for n in range(1, count + 1) for _ in "12"]
        for model in models:
            assert (await objects.fetch(model.id)).read_bytes() == b"".join(model_bytes(session, model.round))
        try:
            kept = await store.get(SessionRecord, PROJECT, session)
        except NotFoundError:
            assert count == 0
        else:
            assert (kept.round, kept.cause) == (count, f"round {count}" if count else "")
    finally:
        await store.close()
    return count


async def test_a_process_killed_at_any_moment_loses_no_acknowledged_round_and_leaves_none_half(
    place: Place, tmp_path: Path
):
    rng = np.random.default_rng(7)
    committed = 0
    for acknowledgements in rng.integers(1, 40, size=4):
        with start(place) as process:
            said = kill_after(process, int(acknowledgements))
        assert said == list(range(committed + 1, committed + 1 + len(said)))
        committed = await check_history(place, "s1", said[-1])

    files = DirectoryObjects(tmp_path / ("cache" if place.objects.startswith("s3") else "objects"))
    files.prepare()
    assert list((files.root / "incoming").iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace kills at the call")
@pytest.mark.parametrize("call", ["fsync,fdatasync", "pwrite64,write", "rename,renameat,renameat2", "mkdir,mkdirat"])
@pytest.mark.parametrize("after", [1, 2, 3, 4, 5, 6, 7, 8, 13, 21])
async def test_a_process_killed_at_a_durable_step_leaves_every_acknowledged_round_whole(
    embedded: Place, call: str, after: int
):
    inject = ("strace", "-f", "-qq", "-e", "signal=none", "-e", f"inject={call}:signal=KILL:when={after}")
    with start(embedded, limit=40, under=inject) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL

    await check_history(embedded, "s1", len([line for line in said.splitlines(keepends=True) if line.endswith("\n")]))

    with start(embedded, limit=40) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert await check_history(embedded, "s1", 40) == 40


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace shows the order of the calls")
def test_every_step_of_a_round_is_on_the_disk_before_the_next_is_taken(embedded: Place, tmp_path: Path):
    log = tmp_path / "calls"
    trace = ("strace", "-f", "-qq", "-y", "-o", str(log), "-e", "trace=fsync,fdatasync,rename,write")
    with start(embedded, limit=5, under=trace) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    steps = {
        "object written": r"fsync\(\d+<.*/objects/incoming/",
        "object named": r"rename\(",
        "name kept": r"fsync\(\d+<.*/objects/../..>",
        "round committed": r"fdatasync\(\d+<.*hansa\.db-wal",
        "acknowledged": r'write\(1<.*, "\d+',
    }

    calls = [name for line in log.read_text().splitlines() for name, call in steps.items() if re.search(call, line)]

    rounds = "|".join(calls).split("acknowledged")[:-1]
    order = ".*".join(list(steps)[:-1])
    assert len(rounds) == 5
    assert all(re.search(order, calls_of_a_round) for calls_of_a_round in rounds), rounds


async def test_processes_that_open_the_same_new_file_at_once_each_write_their_rounds(place: Place):
    processes = [start(place, session, limit=25) for session in ("s1", "s2", "s3")]
    for process in processes:
        with process:
            said, errors = process.communicate(timeout=100)
        assert (process.returncode, len(said.split())) == (0, 25), errors

    for session in ("s1", "s2", "s3"):
        assert await check_history(place, session, 25) == 25


async def test_a_killed_writer_does_not_keep_another_process_from_writing(place: Place):
    with start(place, "s1") as doomed:
        with start(place, "s2", limit=10) as other:
            said = kill_after(doomed, 5)
            _, errors = other.communicate(timeout=100)
        assert other.returncode == 0, errors

    await check_history(place, "s1", said[-1])
    assert await check_history(place, "s2", 10) == 10
