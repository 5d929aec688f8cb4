"""Numbers on the way: what user code logs, and what clients' machines tell of themselves."""

import asyncio
from pathlib import Path

import pytest
from federation import Federation, federation

import hansa
from hansa.errors import InputError
from hansa.messages import Log, RoundRules, RunSpec, Sample
from hansa.network.client.ledger import LEDGER, departures
from hansa.network.client.policy import Outbound, SitePolicy
from hansa.network.client.telemetry import MEASURED
from hansa.network.controller.samples import SampleKeeper
from hansa.store.ports import Query
from hansa.store.records import SampleRecord, SessionRecord, SessionState
from hansa.wire.frames import RoundKey, Samples

APP = """
import numpy as np
import hansa

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": np.zeros(3, np.float32)}


@app.train
def train(model, task):
    for step in range(3):
        task.log({"loss": 1.0 / (step + 1), "secret": 7.0})
    task.log({"lr": 0.5}, step=40)
    return hansa.Update({"w": model["w"] + 1}, num_examples=1)
"""


@pytest.fixture
def logging(tmp_path: Path) -> Path:
    folder = tmp_path / "logging"
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    return folder / "app.py"


async def samples(made: Federation, count: int, **where: str | int) -> list[SampleRecord]:
    """So many samples, once they are stored."""
    while True:
        page = await made.controller.store.list(SampleRecord, Query("default", where, sort="name", limit=1000))
        if page.total >= count:
            return list(page.items)
        await asyncio.sleep(0.01)


async def logged(made: Federation, session: SessionRecord, count: int, **where: str | int) -> set[tuple[object, ...]]:
    found = await samples(made, count, session=session.id, **where)
    return {(each.round, each.task, each.client, each.name, each.step, each.value) for each in found}


async def test_what_code_logs_is_kept_with_its_steps_and_is_what_a_simulation_keeps(
    logging: Path, tmp_path: Path
) -> None:
    spec = RunSpec(rounds=2, rules=RoundRules(min_clients=2, quorum=2, deadline=60))
    async with federation(tmp_path, ["north"]) as made:
        await made.client("client-0", 0, 2, policy=SitePolicy(outbound=Outbound(metrics=("loss", "lr"))))
        await made.client("client-1", 1, 2)
        session = await made.run(logging, spec)
        assert session.state is SessionState.FINISHED, session.cause
        first = await logged(made, session, 8, client="client-0")
        second = await logged(made, session, 14, client="client-1")
        left = departures(made.folder / "client-0" / LEDGER)
        await made.controller.sessions.delete("default", session.id)
        assert await samples(made, 0, session=session.id) == []
    allowed = {("loss", 1, 1.0), ("loss", 2, 0.5), ("loss", 3, 1 / 3), ("lr", 40, 0.5)}
    assert first == {(number, "train", "client-0", *each) for number in (1, 2) for each in allowed}
    assert len(second) == 2 * (len(allowed) + 3)
    assert [(line.kind, list(line.metrics)) for line in left if line.kind == "log"] == [("log", ["loss", "lr"])] * 2

    for engine in ("inline", "processes"):
        result = hansa.simulate(logging, spec, clients=2, engine=engine)  # type: ignore[arg-type]
        kept = {
            (record.round, "train", client, each.name, each.step, each.value)
            for record in result.rounds
            for client, told in record.samples.items()
            for each in told
        }
        assert {each for each in kept if each[2] == "client-1"} == second


async def test_a_machine_tells_of_itself_only_where_its_owner_lets_it(tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        await made.client("quiet")
        await made.client("open", policy=SitePolicy(outbound=Outbound(telemetry=1.0)))
        found = await samples(made, len(MEASURED), session="")
        left = departures(made.folder / "open" / LEDGER)
    assert {each.client for each in found} == {"open"}
    assert {each.name for each in found} == set(MEASURED)
    assert all(0 <= each.value <= 1 for each in found if each.name in {"cpu", "memory", "disk"})
    assert [(line.kind, line.session) for line in left] == [("telemetry", "")]


async def test_what_machines_told_is_forgotten_in_time_and_what_is_too_much_is_dropped(tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        store, journal = made.controller.store, made.controller.journal
        old = SampleRecord("a/cpu/1.0", "default", "", 0, "", "a", "cpu", 0, 0.5, 1.0)
        await store.put(old)
        keeper = SampleKeeper("default", store, journal, kept_for=60.0)
        task = asyncio.create_task(keeper.run())
        for number in range(700):
            keeper.take(Samples("a", (Sample("cpu", 0.1, 0, 1e9 + number), Sample("", 1.0))))
        found = await samples(made, 1, session="")
        while old in found or len(found) > 600:
            found = await samples(made, 0, session="")
        task.cancel()
    assert len(found) <= 600


async def test_a_task_keeps_a_bounded_number_of_samples(tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        keeper = SampleKeeper("default", made.controller.store, made.controller.journal)
        key = RoundKey("s1", 1, hansa.messages.Kind.TRAIN)
        for start in range(0, Log.MOST + 3000, 1000):
            keeper.take(Samples("a", tuple(Sample("loss", 1.0, start + step) for step in range(1000)), key))
        assert keeper._waiting.qsize() == Log.MOST


def test_a_log_counts_steps_by_name_and_drops_what_is_too_much() -> None:
    taken: list[Sample] = []
    log = Log(taken.append, now=lambda: 5.0)
    log({"loss": 2})
    log({"loss": 1, "acc": 0.5})
    log({"acc": 0.7}, step=9)
    log({"acc": 0.8})
    assert [(each.name, each.value, each.step, each.at) for each in taken] == [
        ("loss", 2.0, 1, 5.0),
        ("loss", 1.0, 2, 5.0),
        ("acc", 0.5, 1, 5.0),
        ("acc", 0.7, 9, 5.0),
        ("acc", 0.8, 10, 5.0),
    ]
    for _ in range(Log.MOST):
        log({"loss": 0.0})
    assert (len(taken), log.dropped) == (Log.MOST, 5)
    for metrics, step in (({"": 1.0}, None), ({"x" * 201: 1.0}, None), ({"a": 1.0}, -1), ({"a": "high"}, 1)):
        with pytest.raises(InputError):
            Log()(metrics, step)  # type: ignore[arg-type]
