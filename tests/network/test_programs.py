"""Programs of parties over a real network: the bits of one process, whoever dies, and nobody else's letters."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from federation import PROJECT, Federation, federation

from hansa.app import load_app
from hansa.arrays import Arrays
from hansa.distributed import Model, run, secure_fedavg, star
from hansa.errors import ConfigError, InputError, NotFoundError, PermissionDeniedError, WireError
from hansa.messages import Kind, RoundRules, RunSpec
from hansa.network.client.diary import DIARY
from hansa.network.client.ledger import LEDGER, departures
from hansa.network.client.policy import Outbound, Privacy, SitePolicy
from hansa.network.controller.conversation import Conversation
from hansa.network.controller.program import ProgramRunner
from hansa.network.entrance import Entrance
from hansa.programs.encoding import encode
from hansa.programs.ending import load, numbers
from hansa.run import check_program
from hansa.simulation import simulate
from hansa.store.ports import Query
from hansa.store.records import EventRecord, ModelRecord, SessionRecord, SessionState
from hansa.wire import channel, chunks
from hansa.wire.frames import Awaited, Blob, Letter, Role, RoundKey, TaskFailed
from hansa.wire.limits import MAX_LETTER
from hansa.wire.transport import GRPC

RULES = RoundRules(deadline=600)
BANKS = ("bank", "insurer", "clinic")

VERTICAL = """
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
    return vertical(parts, records, salt=b"agreed among the parties", epochs=epochs, batch_size=20), star(parties)
"""

SPLIT = """
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
    data = lambda client: (X[client.index], Y[client.index])
    return split_learning(parts, data, rounds=2, batch_size=12), wheel(parties)
"""

LEARNING = """
import numpy as np
import hansa
from hansa.distributed import dsgd, hierarchical, hierarchy, one_peer_exponential, pushsum, ring, uniform
from hansa.training.numpy import NumpyTrainer, mlp

app = hansa.App(NumpyTrainer(mlp((6, 8, 3)), 0.1, batch_size=8))
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(4, 30, 6)).astype(np.float32), RNG.integers(0, 3, (4, 30))


@app.data
def share(client):
    return X[client.index], Y[client.index]


@app.program
def program(parties, *, protocol="dsgd"):
    match protocol:
        case "dsgd":
            return dsgd(app, rounds=3), ring(parties)
        case "pushsum":
            return pushsum(app, rounds=3), one_peer_exponential(parties)
        case "hierarchical":
            return hierarchical(app, rounds=2, inner_rounds=2), hierarchy([2])
"""

KNOWLEDGE = """
import numpy as np
import torch
import hansa
from hansa.distributed import fedgkt, star
from hansa.training.torch_distillation import torch_teams

app = hansa.App()
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2, 24, 6)).astype(np.float32), RNG.integers(0, 3, (2, 24))


@app.program
def program(parties):
    torch.set_num_threads(1)
    teams = torch_teams(
        extractor=lambda: torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU()),
        classifier=lambda: torch.nn.Linear(4, 3),
        server=lambda: torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        temperature=3.0,
    )
    return fedgkt(teams, lambda client: (X[client.index], Y[client.index]), rounds=2, batch_size=8), star(parties)
"""

GROWING = """
import numpy as np
import hansa
from hansa.distributed import bagging, star
from hansa.training.xgboost_trees import XGBoostTrees

app = hansa.App()
X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.float32)


@app.program
def program(parties):
    trees = XGBoostTrees({"objective": "binary:logistic", "max_depth": 2})
    return bagging(trees, lambda client: (X[client.index :: 2], Y[client.index :: 2]), rounds=3), star(parties)
"""

SECURE = """
import os
import pathlib
import time

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
import hansa
from hansa.distributed import secure_fedavg, star

app = hansa.App()
GATE = pathlib.Path("GATE")
NOISE = False
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([client]) * 32) for client in range(3)]
SIGNERS = [f"ed25519:{key.public_key().public_bytes_raw().hex()}" for key in KEYS]


def signing_key(client):
    return KEYS[client.index].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@app.model
def model(rng):
    return {"w": rng.normal(size=3)}


@app.data
def data(client):
    return np.random.default_rng(client.index).normal(size=3)


@app.train
def train(model, task):
    if task.client.index == 1 and task.round == 2 and GATE.exists():
        GATE.with_suffix(".pid").write_text(str(os.getpid()))
        GATE.with_suffix(".reached").touch()
        while GATE.exists():
            time.sleep(0.01)
    noise = 0.5 if NOISE and GATE.exists() else 0.0
    return hansa.Update({"w": model["w"] + 0.5 * (task.data - model["w"]) + noise}, 1 + task.client.index)


@app.program
def program(parties, *, scheme="secagg"):
    leaves = lambda client, number: "recovery" if (client, number) == (2, 3) else None
    signs = {"signers": SIGNERS, "signing_key": signing_key} if scheme == "lightsecagg" else {}
    return secure_fedavg(app, rounds=3, scheme=scheme, absent=leaves, **signs), star(parties)
"""

TALK = """
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
                pathlib.Path(gate + ".pid").write_text(str(os.getpid()))
                pathlib.Path(gate + ".reached").touch()
                while not pathlib.Path(gate).exists():
                    time.sleep(0.01)
        return Sum(total)

    async def fails(worker):
        if worker.number == 1:
            raise ValueError("no data here")
        await worker.receive(1, Word)

    return locals()[mode], complete(parties)
"""


def written(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "app.py").write_text(text)
    return folder / "app.py"


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all tests of this process: a message's name is of one class."""
    return written(tmp_path_factory.mktemp("talk"), TALK)


def in_process(app: Path, spec: RunSpec) -> tuple[Any, ...]:
    program, topology = load_app(app).program_of(len(spec.parties), spec.config)
    return run(program, topology, seed=spec.seed, over="process").results


def left(network: Federation, session: SessionRecord, party: str) -> Any:
    (file,) = (network.folder / party / "results" / session.id).iterdir()
    return load(file)


async def beside_the_server(network: Federation, name: str) -> bytes:
    (model,) = (await network.controller.store.list(ModelRecord, Query(PROJECT, where={"name": name}))).items
    return b"".join([piece async for piece in network.controller.objects.read(model.id)])


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
        assert next(line.kind for line in departures(made.folder / "clinic" / LEDGER)) == "letters"
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
        file = await beside_the_server(made, f"split-{session.id}")
        assert file == encode(top)[-len(file) :]


async def test_protocols_without_a_server_have_the_bits_of_one_process(tmp_path: Path) -> None:
    app = written(tmp_path / "app", LEARNING)
    parties = ("a", "b", "c", "d")
    async with federation(tmp_path) as made:
        await joined(made, parties)
        for protocol in ("dsgd", "pushsum", "hierarchical"):
            spec = RunSpec(seed=2, parties=parties, rules=RULES, config={"protocol": protocol})
            session = await made.run(app, spec)
            assert session.state is SessionState.FINISHED, session.cause
            assert [encode(left(made, session, name)) for name in parties] == list(map(encode, in_process(app, spec)))


async def test_knowledge_is_transferred_to_the_bits_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    app = written(tmp_path / "app", KNOWLEDGE)
    spec = RunSpec(name="gkt", seed=1, parties=("central", "a", "b"), rules=RULES)
    async with federation(tmp_path) as made:
        await joined(made, spec.parties[1:])
        session = await made.run(app, spec)
        assert session.state is SessionState.FINISHED, session.cause
        server, *edges = in_process(app, spec)
        assert [encode(left(made, session, name)) for name in "ab"] == list(map(encode, edges))
        file = await beside_the_server(made, f"gkt-{session.id}")
        assert file == encode(server)[-len(file) :]


async def test_trees_are_grown_to_the_bits_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("xgboost")
    app = written(tmp_path / "app", GROWING)
    spec = RunSpec(parties=("server", "a", "b"), rules=RULES)
    async with federation(tmp_path) as made:
        await joined(made, spec.parties)
        session = await made.run(app, spec)
        assert session.state is SessionState.FINISHED, session.cause
        assert [encode(left(made, session, name)) for name in spec.parties] == list(map(encode, in_process(app, spec)))


async def test_a_server_that_averages_securely_ends_with_the_bits_of_fedavg(tmp_path: Path) -> None:
    """By each scheme, and signed by one; a client leaves when it has sent its last change, before masks come off."""
    app = written(tmp_path / "app", SECURE)
    plain = simulate(load_app(app), clients=3, rounds=3, seed=4, progress=False)
    parties = ("central", "a", "b", "c")
    async with federation(tmp_path) as made:
        await joined(made, parties[1:])
        for scheme in ("secagg", "lightsecagg"):
            spec = RunSpec(name=scheme, seed=4, parties=parties, rules=RULES, config={"scheme": scheme})
            session = await made.run(app, spec)
            assert session.state is SessionState.FINISHED, session.cause
            assert [left(made, session, name).model for name in "abc"] == [plain.model] * 3
            file = await beside_the_server(made, f"{scheme}-{session.id}")
            assert file == encode(Model(plain.model))[-len(file) :]


@pytest.mark.parametrize(("scheme", "noise"), [("secagg", False), ("lightsecagg", False), ("secagg", True)])
async def test_a_party_that_is_killed_has_its_secrets_still_and_says_nothing_else_under_them(
    tmp_path: Path, scheme: str, *, noise: bool
) -> None:
    """It comes to the bits of a session without a kill; where it trains otherwise the second time, nothing is sent."""
    gate = tmp_path / "gate"
    gate.touch()
    app = written(tmp_path / "app", SECURE.replace('GATE")', f'{gate}")').replace("NOISE = False", f"NOISE = {noise}"))
    spec = RunSpec(seed=4, parties=("central", "a", "b", "c"), rules=RULES, config={"scheme": scheme})
    async with federation(tmp_path) as made:
        await joined(made, spec.parties[1:])
        session = await made.start(app, spec)
        await appears(gate.with_suffix(".reached"))
        assert len(list(made.folder.glob(f"b/memory/*/*/{DIARY}"))) == 1
        await made.leave("b")  # its worker process is killed with it
        await made.gone("b")
        gate.unlink()
        await made.client("b")
        ended = await made.end(session)
        if noise:
            assert ended.state is SessionState.FAILED
            assert "1 clients are left of the 2 that secure aggregation needs" in ended.cause
            assert (
                "b said: it was run again and says something else to party 0 than before, under the same secret"
                in ended.cause
            )
            return
        assert ended.state is SessionState.FINISHED, ended.cause
        plain = simulate(load_app(app), clients=3, rounds=3, seed=4, progress=False)
        assert [left(made, session, name).model for name in "abc"] == [plain.model] * 3
        assert list(made.folder.glob(f"*/memory/*/*/{DIARY}")) == []


async def test_a_session_goes_on_without_a_party_that_stays_away_and_waits_for_as_many_as_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three clients one never comes; with a second one away the session ends, and goes on once that one is back."""
    silent = {3}

    def silence(said: Conversation, number: int, _now: float) -> float:
        return 601.0 if number in silent and said.dispensable else 0.0

    monkeypatch.setattr(Conversation, "silence", silence)
    gate = tmp_path / "gate"
    gate.touch()
    app = written(tmp_path / "app", SECURE.replace('GATE")', f'{gate}")').replace("(2, 3)", "(9, 9)"))
    spec = RunSpec(seed=4, parties=("central", "a", "b", "c"), rules=RULES)
    async with federation(tmp_path) as made:
        await joined(made, ("a", "b"))
        session = await made.start(app, spec)
        await appears(gate.with_suffix(".reached"))
        await made.leave("b")  # its worker process is killed with it
        silent.add(2)
        made.tree.conversation(session.id).changed.set()
        ended = await made.end(session)
        assert ended.state is SessionState.FAILED
        assert "1 clients are left of the 2 that secure aggregation needs" in ended.cause
        gate.unlink()
        silent.remove(2)
        await made.client("b")
        await made.controller.sessions.start(PROJECT, session.id)
        await made.until_event(session, "session.finished")
        await made.until_event(session, "session.finished")  # of one that had failed before, and is over
        (finished,) = await made.events(session, "session.finished")
        assert finished.message == "3 of 4 parties have ended; c stayed away"
        missed = (await made.events(session, "party.missed"))[0]
        assert missed.message == (
            "nothing was heard of party 3 (c) for 601 seconds: the others go on without it until it is back"
        )
        program = secure_fedavg(load_app(app), rounds=3, absent=lambda client, _: "keys" if client == 2 else None)
        server, *_ = run(program, star(4), seed=4, over="process").results
        assert [left(made, session, name).model for name in "ab"] == [server.arrays] * 2


async def test_a_party_whose_code_fails_is_told_and_done_without_as_is_one_that_refuses(tmp_path: Path) -> None:
    """It is back in the next round; run again, it says once more that it failed, though it would not fail again."""
    gate = tmp_path / "gate"
    gate.touch()
    fails = """    failed = GATE.with_suffix(".failed")
    if task.client.index == 2 and task.round == 2 and not failed.exists():
        failed.touch()
        raise ValueError("no data today")
    noise ="""
    app = written(tmp_path / "app", SECURE.replace('GATE")', f'{gate}")').replace("    noise =", fails))
    spec = RunSpec(seed=4, parties=("central", "a", "b", "c"), rules=RULES)
    async with federation(tmp_path) as made:
        await joined(made, spec.parties[1:])
        session = await made.start(app, spec)
        await made.until_event(session, "task.failed")
        said = made.tree.conversation(session.id).letters
        while said.count((3, 0)) < 7:  # noqa: ASYNC110 - four of round 1, two of round 2, and that it has left
            await asyncio.sleep(0.01)
        await appears(gate.with_suffix(".reached"))
        await made.leave("c")  # its worker process is killed with it
        await made.gone("c")
        await made.client("c")
        gate.unlink()
        ended = await made.end(session)
        assert ended.cause == "all 4 parties have ended"
        (told,) = await made.events(session, "task.failed")
        assert told.message == "c failed: ValueError: no data today (it takes no part in round 2)"
        assert 'raise ValueError("no data today")' in str(told.data["traceback"])
        steps = {(2, 2): "upload", (2, 3): "recovery"}
        program = secure_fedavg(load_app(app), rounds=3, absent=lambda *which: steps.get(which))
        server, *_ = run(program, star(4), seed=4, over="process").results
        assert [left(made, session, name).model for name in "abc"] == [server.arrays] * 3

        await made.client("d", policy=SitePolicy(outbound=Outbound(letters=False)))
        ended = await made.run(app, replace(spec, parties=("central", "a", "b", "d")))
        assert (ended.state, ended.cause) == (SessionState.FINISHED, "3 of 4 parties have ended; d failed")
        (told,) = await made.events(ended, "party.missed")
        assert told.message == "party 3 (d) has failed: the others go on without it until it is back"


async def test_of_a_party_that_fails_without_end_the_first_hundred_failures_are_kept(tmp_path: Path) -> None:
    kept: list[EventRecord] = []
    journal = SimpleNamespace(later=kept.append)
    around: Any = SimpleNamespace(store=None, journal=journal, sign=None, quotas=None, letters=tmp_path)
    spec = RunSpec(parties=("a", "b"), rules=RULES)
    runner = ProgramRunner(SessionRecord("s", PROJECT, "s", spec, SessionState.RUNNING, 0.0), around)
    for number in range(150):
        runner.receive(TaskFailed(RoundKey("s", 1, Kind.PROGRAM), "a", f"failure {number}", goes_on=True))
    runner.receive(TaskFailed(RoundKey("s", 1, Kind.PROGRAM), "b", "of another"))
    assert [each.message for each in kept[99:]] == ["a failed: failure 99", "b failed: of another"]
    assert runner.conversation.failed == {1: "of another"}


async def test_large_letters_arrive_whole(talk: Path, tmp_path: Path) -> None:
    spec = RunSpec(parties=("a", "b", "c"), rules=RULES)
    async with federation(tmp_path) as made:
        await joined(made, spec.parties)
        session = await made.run(talk, spec)
        assert session.state is SessionState.FINISHED, session.cause
        assert [left(made, session, name).total for name in "abc"] == [r.total for r in in_process(talk, spec)]
        leftover = [file for name in "abc" for file in (made.folder / name / "objects").iterdir()]
        assert leftover == []


async def appears(path: Path) -> None:
    while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.01)


async def test_parties_that_are_killed_begin_anew_and_come_to_the_same_bits(talk: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    spec = RunSpec(parties=("a", "b", "c"), rules=RULES, config={"mode": "slow", "gate": str(gate)})
    async with federation(tmp_path) as made:
        await joined(made, spec.parties)
        session = await made.start(talk, spec)
        await appears(gate.with_suffix(".reached"))
        await made.leave("a")  # its worker process is killed with it
        await made.gone("a")
        assert "a (away" in str(made.tree.why(session.id))
        await made.client("a")
        os.kill(int(gate.with_suffix(".pid").read_text()), signal.SIGKILL)
        failed = await made.end(session)
        assert failed.state is SessionState.FAILED
        assert failed.cause == "party 1 (b) failed: the app ended its process (killed by SIGKILL)"
        gate.touch()
        await made.controller.sessions.start(PROJECT, session.id)
        await made.until_event(session, "session.finished")
        assert [left(made, session, name).total for name in "abc"] == [r.total for r in in_process(talk, spec)]


async def test_a_controller_that_comes_back_goes_on_with_what_was_said(talk: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    spec = RunSpec(parties=("a", "b", "central"), rules=RULES, config={"mode": "slow", "gate": str(gate)})
    async with federation(tmp_path) as made:
        await joined(made, spec.parties[:2])
        session = await made.start(talk, spec)
        await appears(gate.with_suffix(".reached"))
    kept = sum(file.stat().st_size for file in (tmp_path / "controller" / "letters" / session.id).iterdir())
    assert kept > 0
    async with federation(tmp_path) as made:
        gate.touch()
        await joined(made, spec.parties[:2])
        session = await made.end(session)
        assert session.state is SessionState.FINISHED, session.cause
        assert [left(made, session, name).total for name in "ab"] == [r.total for r in in_process(talk, spec)[:2]]


async def test_a_party_that_fails_and_a_site_that_refuses_end_the_session_with_a_cause_that_names_them(
    talk: Path, tmp_path: Path
) -> None:
    fails = RunSpec(parties=("a", "b"), rules=RULES, config={"mode": "fails"})
    async with federation(tmp_path) as made:
        await joined(made, ("a", "b"))
        await made.client("careful", policy=SitePolicy(privacy=Privacy(max_norm=1.0)))
        await made.client("silent", policy=SitePolicy(outbound=Outbound(letters=False)))
        failed = await made.run(talk, fails)
        assert failed.cause.startswith("party 1 (b) failed: worker 1 of 2 failed: ValueError: no data here\n")
        assert 'raise ValueError("no data here")' in failed.cause  # with its line
        refused = await made.run(talk, replace(fails, parties=("a", "careful")))
        assert "party 1 (careful) failed: careful refuses this session: this site's policy" in refused.cause
        refused = await made.run(talk, replace(fails, parties=("a", "silent")))
        assert "code sends no letters to other parties here" in refused.cause


async def test_only_a_sessions_own_parties_send_and_hear_its_letters(talk: Path, tmp_path: Path) -> None:
    data = encode(numbers_of(1.0))
    async with federation(tmp_path) as made:
        spec = RunSpec(parties=("mallory", "b"), rules=RULES)
        session = await made.start(talk, spec)
        while made.tree.why(session.id) is None:  # noqa: ASYNC110 - it reads what was said before
            await asyncio.sleep(0.01)
        key = RoundKey(session.id, 1, Kind.PROGRAM)
        await made.controller.create_project("elsewhere")
        callers = {
            name: await caller(made, name, project, role)
            for name, project, role in (
                ("mallory", PROJECT, Role.CLIENT),
                ("eve", PROJECT, Role.CLIENT),
                ("b", "elsewhere", Role.CLIENT),
                ("west", PROJECT, Role.COMBINER),
            )
        }

        async def send(name: str, letter: Letter) -> int:
            there, token = callers[name]
            return (await channel.send_letter(there, token, letter, chunks.split([data]))).letters

        def said(sender: int, receiver: int, size: int = len(data)) -> Letter:
            return Letter(key, sender, receiver, 0, Blob(blake3(data).hexdigest(), size))

        assert await send("mallory", said(0, 1)) == 1
        for name, letter, error in (
            ("mallory", said(1, 0), PermissionDeniedError),
            ("eve", said(0, 1), PermissionDeniedError),
            ("eve", said(1, 0), PermissionDeniedError),
            ("west", said(0, 1), PermissionDeniedError),
            ("b", said(1, 0), NotFoundError),
            ("mallory", replace(said(0, 1, MAX_LETTER + 1), number=1), WireError),
        ):
            with pytest.raises(error):
                await send(name, letter)
        for name, error in (("eve", PermissionDeniedError), ("b", NotFoundError), ("mallory", PermissionDeniedError)):
            there, token = callers[name]
            with pytest.raises(error):
                await anext(channel.receive_letter(there, token, Awaited(key, 0, 1, 0)))
        assert made.tree.conversation(session.id).letters.pairs() == ((0, 1),)
        await made.controller.sessions.stop(PROJECT, session.id, "a test")
        with pytest.raises(NotFoundError):
            await send("mallory", replace(said(0, 1), number=1))
        await made.controller.sessions.delete(PROJECT, session.id)
        assert not (tmp_path / "controller" / "letters" / session.id).exists()
        for there, _ in callers.values():
            await there.close()


def numbers_of(value: float) -> Any:
    return Model(Arrays({"w": np.float64(value)}))


async def caller(network: Federation, name: str, project: str, role: Role) -> tuple[channel.Channel, str]:
    token, _ = await network.controller.issue_token(project, name, role)
    keys = network.folder / f"{project}-{name}"
    keys.mkdir()
    entrance = Entrance(network.server.address, token, keys, network.trust, GRPC)
    return await entrance.dial_controller(), await entrance.access()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"parties": ("a", "a")}, "there once"),
        ({"parties": ("a", "")}, "must have a name"),
        ({"parties": ("a", "b"), "transforms": ("clip:norm=1",)}, "no updates that clip"),
    ],
)
def test_a_run_of_parties_that_cannot_be_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        check_program(RunSpec(**changes))


async def test_what_is_no_folder_of_its_own_is_no_data_for_code_beside_the_server(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which is no folder"):
        async with federation(tmp_path, central_data=tmp_path / "missing"):
            pass
    (tmp_path / "controller" / "labels").mkdir(parents=True)
    with pytest.raises(InputError, match="which is hidden: move it out"):
        async with federation(tmp_path, central_data=tmp_path / "controller" / "labels"):
            pass
