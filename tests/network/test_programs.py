"""Programs of parties over a real network: the bits of one process, whoever dies, and nobody else's letters."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]  # psutil ships no types
import pytest
from blake3 import blake3
from federation import PROJECT, Federation, federation

from hansa.app import load_app
from hansa.distributed import run
from hansa.errors import ConfigError, ConnectionFailedError, NotFoundError, PermissionDeniedError, WireError
from hansa.messages import Kind, RoundRules, RunSpec
from hansa.network.client.ledger import LEDGER, departures
from hansa.network.client.policy import Outbound, Privacy, SitePolicy
from hansa.network.entrance import Entrance
from hansa.programs.encoding import encode
from hansa.programs.ending import load, numbers
from hansa.store.ports import Query
from hansa.store.records import ModelRecord, SessionRecord, SessionState
from hansa.wire import channel, chunks, codec
from hansa.wire.frames import Awaited, Blob, Letter, Role, RoundKey
from hansa.wire.limits import MAX_LETTER
from hansa.wire.transport import GRPC

RULES = RoundRules(deadline=600)
BANKS = ("bank", "insurer", "clinic")

VERTICAL = '''
import numpy as np
import hansa
from hansa.distributed import Records, star, vertical
from hansa.training.numpy_parts import logistic_parts

app = hansa.App()
X = np.random.default_rng(5).normal(size=(60, 6))
Y = (X.sum(axis=1) > 0).astype(np.int64)


def records(party):
    known = np.random.default_rng(party.index).permutation(60)[:50]
    x = X[known][:, 2 * party.index : 2 * party.index + 2]
    return Records(ids=known, x=x, y=Y[known] if party.index == 0 else None)


@app.program
def program(parties, *, epochs=2):
    parts = logistic_parts([2] * parties, learning_rate=0.3)
    return vertical(parts, records, salt=b"agreed", epochs=epochs, batch_size=20), star(parties)
'''

SPLIT = '''
import numpy as np
import hansa
from hansa.distributed import split_learning, wheel
from hansa.training.numpy_parts import mlp_parts

app = hansa.App()
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3, 24, 6)).astype(np.float32), RNG.integers(0, 3, (3, 24))


@app.program
def program(parties):
    parts = mlp_parts((6, 8, 3), 1, learning_rate=0.1)
    return split_learning(parts, lambda client: (X[client.index], Y[client.index]), rounds=2, batch_size=12), wheel(parties)
'''

TALK = '''
import hashlib
import os
import pathlib
import time
from dataclasses import dataclass

import numpy as np
import hansa
from hansa.distributed import complete, message

app = hansa.App()


@message("talk.word")
@dataclass(frozen=True)
class Word:
    text: str
    values: np.ndarray


@message("talk.sum")
@dataclass(frozen=True)
class Sum:
    total: float


def word(number, size):
    return Word(f"from {number}", np.full(size, number, np.float64))


@app.program
def program(parties, *, mode="large", gate="", rounds=6):
    async def large(worker):
        worker.broadcast(word(worker.number, 300_000))
        return Sum(float(sum(said.values.sum() for said in (await worker.gather(Word)).values())))

    async def slow(worker):
        total = 0.0
        for number in range(rounds):
            worker.broadcast(word(worker.number + number, 3))
            total += sum(said.values[0] for said in (await worker.gather(Word)).values())
            if number == rounds // 2 and worker.number == 1:
                pathlib.Path(gate + ".reached").touch()
                while not pathlib.Path(gate).exists():
                    time.sleep(0.01)
        return Sum(total)

    async def deadlock(worker):
        await worker.gather(Word)

    async def unread(worker):
        if worker.number == 0:
            worker.send(1, word(0, 1))

    async def fails(worker):
        if worker.number == 1:
            raise ValueError("no data here")
        await worker.receive(1, Word)

    async def random(worker):
        worker.send((worker.number + 1) % parties, Word(os.urandom(8).hex(), np.zeros(1)))
        if worker.number == 1:
            pathlib.Path(gate + ".reached").touch()
            while not pathlib.Path(gate).exists():
                time.sleep(0.01)
        await worker.receive((worker.number - 1) % parties, Word)

    return locals()[mode], complete(parties)
'''


def written(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "app.py").write_text(text)
    return folder / "app.py"


def in_process(app: Path, spec: RunSpec) -> tuple[Any, ...]:
    program, topology = load_app(app).program_of(len(spec.parties), spec.config)
    return run(program, topology, seed=spec.seed, over="process").results


def left(network: Federation, session: SessionRecord, party: str) -> Any:
    (file,) = (network.folder / party / "results" / session.id).iterdir()
    return load(file)


async def joined(network: Federation, names: tuple[str, ...], below: str = "") -> None:
    await asyncio.gather(*(network.client(name, preferred=below) for name in names))


async def test_vertical_learning_has_the_bits_of_one_process_and_each_party_keeps_its_own_part(tmp_path: Path) -> None:
    app = written(tmp_path / "app", VERTICAL)
    spec = RunSpec(seed=3, parties=BANKS, rules=RULES, config={"epochs": 3})
    async with federation(tmp_path, ["north"]) as made:
        await joined(made, BANKS[:2], "north")
        await joined(made, BANKS[2:])
        session = await made.run(app, spec)
        metrics = await made.metrics(session, kind="program")
        assert session.state is SessionState.FINISHED, session.cause
        expected = in_process(app, spec)
        assert [encode(left(made, session, name)) for name in BANKS] == list(map(encode, expected))
        told = {(row.client, row.name): row.value for row in metrics}
        assert told == {("bank", name): value for name, value in numbers(expected[0]).items()}
        assert [line.kind for line in departures(made.folder / "clinic" / LEDGER)][0] == "letters"
        assert not (tmp_path / "controller" / "letters" / session.id).exists()


async def test_split_learning_with_its_server_beside_the_controller_leaves_the_top_as_a_model(tmp_path: Path) -> None:
    app = written(tmp_path / "app", SPLIT)
    spec = RunSpec(name="split", seed=1, parties=("central", "a", "b", "c"), rules=RULES)
    async with federation(tmp_path) as made:
        await joined(made, ("a", "b", "c"))
        session = await made.run(app, spec)
        assert session.state is SessionState.FINISHED, session.cause
        top, *bottoms = in_process(app, spec)
        assert [encode(left(made, session, name)) for name in "abc"] == list(map(encode, bottoms))
        query = Query(PROJECT, where={"name": f"split-{session.id}"})
        (model,) = (await made.controller.store.list(ModelRecord, query)).items
        file = b"".join([piece async for piece in made.controller.objects.read(model.id)])
        assert file == encode(top)[-len(file) :]


async def test_large_letters_arrive_whole(tmp_path: Path) -> None:
    app = written(tmp_path / "app", TALK)
    spec = RunSpec(parties=("a", "b", "c"), rules=RULES)
    async with federation(tmp_path) as made:
        await joined(made, spec.parties)
        session = await made.run(app, spec)
        assert session.state is SessionState.FINISHED, session.cause
        assert [left(made, session, name).total for name in "abc"] == [r.total for r in in_process(app, spec)]
        leftover = [file for name in "abc" for file in (made.folder / name / "objects").iterdir()]
        assert leftover == []
