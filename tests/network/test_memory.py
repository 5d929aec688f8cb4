"""What a client keeps between rounds, on its own disk: through restarts, and only of rounds that counted it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federation import Federation, federation
from memory_apps import COUNTING, DRIFTING, written

import hansa
from hansa.arrays import Arrays
from hansa.messages import EvaluationRules, Kind, RoundRules, RunSpec, Value
from hansa.network.client.memory import Memory
from hansa.store.records import SessionRecord, SessionState
from hansa.wire import codec
from hansa.wire.frames import Counted, RoundKey

TWO_OF_FOUR = RoundRules(selection="count", count=2, min_clients=4, quorum=2, deadline=60)
SCAFFOLD = RunSpec(
    algorithm="scaffold",
    algorithm_options={"num_clients": 4},
    rounds=6,
    seed=3,
    rules=TWO_OF_FOUR,
    evaluation=EvaluationRules(every=3),
)


async def restarted(made: Federation, session: SessionRecord) -> SessionRecord:
    """The session's end, when every client leaves after the first commits and comes back from its own disk."""
    for _ in range(2):
        await made.until_event(session, "round.committed")
        for index in range(4):
            await made.leave(f"client-{index}")
            await made.gone(f"client-{index}")
        await made.clients(4)
    return await made.end(session)


@pytest.mark.parametrize("combiners", [[], ["north", "south"]], ids=["one server", "two combiners"])
async def test_scaffold_has_the_bits_of_the_simulation(tmp_path: Path, combiners: list[str]) -> None:
    app = written(tmp_path, DRIFTING)
    async with federation(tmp_path, combiners) as made:
        await made.clients(4)
        session = await made.run(app, SCAFFOLD)
    assert session.state is SessionState.FINISHED, session.cause
    assert session.model == hansa.simulate(app, SCAFFOLD, clients=4).model_hash


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("feddyn", {"num_clients": 4, "alpha": 0.1}),
        ("mime", {}),
        *(
            pytest.param(name, options, marks=pytest.mark.slow)
            for name, options in {
                "fednova": {"mu": 0.1, "momentum": 0.5},
                "mimelite": {},
                "qfedavg": {"learning_rate": 0.2, "q": 2.0},
                "afl": {"num_clients": 4},
                "pfedme": {"penalty": 1.0, "local_rounds": 3},
                "fedper": {"personal": "bias"},
                "fedrep": {"personal": "bias"},
            }.items()
        ),
    ],
)
async def test_an_algorithm_has_the_bits_of_the_simulation(
    tmp_path: Path, algorithm: str, options: dict[str, Value]
) -> None:
    app, spec = written(tmp_path, DRIFTING), replace(SCAFFOLD, algorithm=algorithm, algorithm_options=options)
    async with federation(tmp_path, ["north", "south"]) as made:
        await made.clients(4)
        session = await made.run(app, spec)
    assert session.state is SessionState.FINISHED, session.cause
    assert session.model == hansa.simulate(app, spec, clients=4).model_hash


async def test_clients_evaluate_models_of_their_own_as_in_the_simulation(tmp_path: Path) -> None:
    app, rules = written(tmp_path, DRIFTING), RoundRules(min_clients=4, deadline=60)
    spec = RunSpec(algorithm="ditto", algorithm_options={"pull": 0.1}, rounds=3, rules=rules)
    async with federation(tmp_path, ["north", "south"]) as made:
        await made.clients(4)
        session = await made.run(app, spec)
        found = {m.round: m.value for m in await made.metrics(session, name="accuracy", kind="evaluate", client="")}
    assert session.state is SessionState.FINISHED, session.cause
    simulated = hansa.simulate(app, spec, clients=4)
    assert session.model == simulated.model_hash
    assert found == {record.round: pytest.approx(record.evaluation["accuracy"]) for record in simulated.rounds}


async def test_clients_that_restart_go_on_with_their_memory(tmp_path: Path) -> None:
    app = written(tmp_path, DRIFTING)
    async with federation(tmp_path) as made:
        await made.clients(4)
        session = await restarted(made, await made.start(app, SCAFFOLD))
    assert session.state is SessionState.FINISHED, session.cause
    assert session.model == hansa.simulate(app, SCAFFOLD, clients=4).model_hash


async def test_a_client_whose_disk_is_lost_starts_from_none(tmp_path: Path) -> None:
    app, rules = written(tmp_path, COUNTING), RoundRules(min_clients=1, deadline=60)
    async with federation(tmp_path) as made:
        await made.client("client-0")
        session = await made.create(app, RunSpec(rounds=40, rules=rules))
        await made.controller.sessions.start("default", session.id)
        await made.until_event(session, "round.committed")
        await made.controller.sessions.stop("default", session.id, "a test")
        await made.leave("client-0")
        lost = (await made.session(session)).round
        work = tmp_path / "client-0"  # with the update of a round that was under way, of which it is not told again
        for file in (*(work / "memory").glob("*/*/*"), *(work / "outbox").iterdir()):
            file.unlink()
        await made.client("client-0")
        await made.controller.sessions.start("default", session.id)
        await made.until_event(session, "session.finished")
        times = {m.round: m.value for m in await made.metrics(session, name="times", kind="train")}
    assert [times[number] for number in (lost, lost + 1, lost + 2)] == [lost - 1, 0, 1]


async def test_a_rejected_update_leaves_what_was_kept_before(tmp_path: Path) -> None:
    rules = RoundRules(min_clients=3, quorum=2, replace_failed=False, deadline=60)
    spec = RunSpec(rounds=4, rules=rules, config={"client-1/2": "nan"})
    app = written(tmp_path, COUNTING)
    async with federation(tmp_path) as made:
        await made.clients(3)
        session = await made.run(app, spec)
        merged = {m.round: m.value for m in await made.metrics(session, name="times", kind="train")}
        judged = {m.round: m.value for m in await made.metrics(session, name="times", kind="evaluate", client="")}
    simulated = hansa.simulate(app, spec, clients=3)
    assert session.model == simulated.model_hash
    assert [merged[record.round] for record in simulated.rounds] == [r.metrics["times"] for r in simulated.rounds]
    assert [judged[record.round] for record in simulated.rounds] == [r.evaluation["times"] for r in simulated.rounds]


def key(number: int, run: str = "r") -> RoundKey:
    return RoundKey(run, number, Kind.TRAIN)


def kept(value: int) -> Arrays:
    return Arrays({"c": np.array([value])})


def test_what_counts_is_current_and_what_never_did_goes(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory")
    digests = [codec.digest(kept(value)) for value in range(4)]
    assert memory.recall(key(1), None) is None
    memory.keep(key(1), digests[1], kept(1))
    memory.keep(key(2), digests[2], kept(2))
    memory.keep(key(2), digests[3], kept(3))  # trained again, with another result
    assert memory.recall(key(2), Counted("ada", 1, digests[1])) == kept(1)
    assert memory.recall(key(3), Counted("ada", 2, digests[2])) == kept(2)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    assert memory.recall(key(3), Counted("ada", 1, digests[1])) is None  # gone for good


def test_a_run_cannot_name_a_path_and_idle_runs_are_forgotten(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory")
    digest = codec.digest(kept(1))
    for number in range(40):
        memory.keep(key(1, f"../../run {number}"), digest, kept(number))
    assert {path.name for path in tmp_path.iterdir()} == {"memory"}
    assert len(list((tmp_path / "memory").iterdir())) == 32
    assert memory.recall(key(2, "../../run 39"), Counted("ada", 1, digest)) == kept(39)
