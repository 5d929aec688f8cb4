"""Folders that user code may write to: what it puts there leads nowhere, and changes nothing under others' hands."""

import os
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

import pytest
from federation import federation

from hansa.messages import Kind, RoundRules, RunSpec
from hansa.network.client.correspondence import Correspondence
from hansa.network.client.outbox import letter_file
from hansa.network.client.policy import Privacy, SitePolicy
from hansa.network.files import created, left_size, opened, pieces
from hansa.store.records import SessionState
from hansa.wire.frames import Awaited, Blob, Letter, OpenRound, RoundKey

HELD = b"what the owner has written"


@pytest.mark.parametrize("kind", ["link", "endless", "pipe", "folder", "nothing"])
def test_what_user_code_leaves_is_an_ordinary_file_or_nothing(tmp_path: Path, kind: str) -> None:
    held, left = tmp_path / "held", tmp_path / "left"
    held.write_bytes(HELD)
    match kind:
        case "link":
            left.symlink_to(held)
        case "endless":
            left.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(left)
        case "folder":
            left.mkdir()
    for read in (opened, left_size, lambda path: pieces(path, 1)):
        with pytest.raises(OSError, match="left"):
            read(left)


def test_what_lies_where_a_file_is_to_be_made_is_not_written_through(tmp_path: Path) -> None:
    held, place = tmp_path / "held", tmp_path / "place"
    held.write_bytes(HELD)
    place.symlink_to(held)
    with created(place) as file:
        file.write(b"new")
    assert (held.read_bytes(), place.read_bytes(), place.is_symlink()) == (HELD, b"new", False)


def test_a_file_that_is_cut_off_while_it_is_read_fells_nothing(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.write_bytes(bytes(5 << 20))
    reading = pieces(left, 5 << 20)
    first = len(next(reading))
    os.truncate(left, 2 << 20)  # what is mapped would end this process here
    assert first + sum(map(len, reading)) == 2 << 20
    os.truncate(left, 9 << 20)
    assert sum(map(len, pieces(left, 5 << 20))) == 5 << 20


class _Post:
    """Brings one large letter."""

    async def send(self, letter: Letter, parts: Iterable[memoryview]) -> None:
        raise AssertionError(letter, parts)

    async def receive(self, awaited: Awaited) -> AsyncGenerator[memoryview, None]:
        del awaited
        for _ in range(4):
            yield memoryview(bytes(1 << 16))


async def test_a_link_where_a_letter_is_to_come_is_not_written_through(tmp_path: Path) -> None:
    key, held, objects = RoundKey("session", 1, Kind.PROGRAM), tmp_path / "authorized_keys", tmp_path / "objects"
    held.write_bytes(HELD)
    objects.mkdir()
    task = OpenRound(key, RunSpec(parties=("p0", "p1")), Blob("0" * 64, 0), ("p1",))
    correspondence, awaited = Correspondence(_Post(), task, objects), Awaited(key, 0, 1, 0)
    letter_file(objects, awaited).symlink_to(held)
    come = await correspondence.bring(awaited)
    assert letter_file(objects, come).read_bytes() == bytes(4 << 16)
    assert held.read_bytes() == HELD
    await correspondence.aclose()


APP = """
import pathlib
import sys

import numpy as np

import hansa
from hansa.arrays import Arrays
from hansa.network.client import outbox
from hansa.wire import codec, packing

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": np.zeros(50_000, np.float32)}


@app.train
def train(model, task):
    if task.config.get("swaps"):
        outbox.packing = Announced()
    return hansa.Update({"w": model["w"] + np.float32(2**-10)}, num_examples=1)


@app.central_evaluate
def central_evaluate(model, rng):
    nearby = pathlib.Path(sys.argv[sys.argv.index("--objects") + 1])
    following = Arrays({"w": model["w"] + np.float32(2**-10)})
    (nearby / codec.digest(following)).symlink_to(HELD)
    return hansa.Metrics({"at": float(model["w"][0])}, 1)


class Announced:
    def digest(self, parts):
        return "f" * 64

    def __getattr__(self, name):
        return getattr(packing, name)
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    (tmp_path / "hostile").mkdir()
    (tmp_path / "hostile" / "app.py").write_text(APP.replace("HELD", repr(str(tmp_path / "held"))))
    return tmp_path / "hostile" / "app.py"


async def test_a_link_where_the_next_model_is_to_lie_is_not_written_through(hostile: Path, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.write_bytes(HELD)
    async with federation(tmp_path) as made:
        await made.client("ward")
        session = await made.run(hostile, RunSpec(rounds=3))
        seen = await made.metrics(session, client="central")
    assert session.state is SessionState.FINISHED, session.cause
    assert [row.value for row in sorted(seen, key=lambda row: row.round)] == [number * 2**-10 for number in (1, 2, 3)]
    assert held.read_bytes() == HELD


async def test_an_update_that_is_not_the_one_that_was_measured_stays_where_it_is(hostile: Path, tmp_path: Path) -> None:
    rules = RoundRules(deadline=60, replace_failed=False)
    spec = RunSpec(rounds=1, rules=rules, transforms=("clip:norm=2",), config={"swaps": True})  # type: ignore[arg-type]
    async with federation(tmp_path) as made:
        await made.client("ward", policy=SitePolicy(privacy=Privacy(max_norm=2)))
        session = await made.run(hostile, spec)
    assert session.state is SessionState.FAILED
    assert "the app's process has changed its update after it was written" in session.cause


SHADY = """
import os

import numpy as np

import hansa
from hansa.network.client import outbox
from hansa.wire import codec

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": np.zeros(50_000, np.float32)}


@app.train
def train(model, task):
    outbox.codec = Shady()
    return hansa.Update({"w": model["w"] + np.float32(1)}, num_examples=1)


class Shady:
    def write(self, parts, place):
        HOW

    def __getattr__(self, name):
        return getattr(codec, name)
"""


@pytest.mark.parametrize(
    "how",
    ["pass", "place.symlink_to(HELD)", "place.mkdir(); (place / 'file').write_text('x')", "os.mkfifo(place)"],
    ids=["nothing", "a link", "a folder", "a pipe"],
)
async def test_an_update_that_is_no_ordinary_file_fails_its_task_alone(how: str, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.write_bytes(HELD)
    (tmp_path / "shady").mkdir()
    app = tmp_path / "shady" / "app.py"
    app.write_text(SHADY.replace("HOW", how).replace("HELD", repr(str(held))))
    rules = RoundRules(deadline=60, replace_failed=False)
    async with federation(tmp_path) as made:
        await made.client("ward")
        session = await made.run(app, RunSpec(rounds=1, rules=rules))
        assert made.nodes["ward"].done() is False
        left = [path.name for path in (tmp_path / "ward" / "objects").iterdir() if path.name.startswith("update-")]
    assert session.state is SessionState.FAILED
    assert "has not left the file that it speaks of" in session.cause
    assert left == []
    assert held.read_bytes() == HELD
