"""What an operator is told of the installation."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from served import Served

from hansa.api.state import system_state
from hansa.messages import RoundRules, RunSpec
from hansa.network.combiner.traffic import Traffic
from hansa.network.controller.journal import Journal, event
from hansa.store.records import EventRecord

APP = """
import numpy as np

import hansa

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": np.zeros(4, np.float32)}


@app.data
def load(client):
    return client.index


@app.train
def train(model, task):
    if task.round == 2 and task.client.index:
        raise RuntimeError("the scanner is switched off")
    return hansa.Update({"w": model["w"] + np.float32(1)}, num_examples=5)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two clients, of which one fails in the second of three rounds, and goes away when they are over."""
    folder = tmp_path_factory.mktemp("system")
    made = Served(folder)
    (folder / "app.py").write_text(APP)
    rules = RoundRules(min_clients=2, quorum=1, deadline=60, replace_failed=False)
    made.run(made.nodes.combiner("north"))
    made.run(made.nodes.clients(2, below=("north",)))
    made.run(made.nodes.run(folder / "app.py", RunSpec(rounds=3, rules=rules)))
    made.run(made.nodes.leave("client-0"))
    made.run(made.nodes.gone("client-0"))
    yield made
    made.close()


def test_replicas_throughput_storage_and_failing_nodes_are_told_with_their_causes(trained: Served) -> None:
    told = trained.http(trained.admin()).get("/api/v1/system").json()
    (replica,) = told["replicas"]
    assert replica["leads"]
    assert (told["window"], told["rounds"], told["updates"]) == (600.0, 3, 5)
    controller = trained.server.controller
    assert told["stored"] == trained.run(controller.store.stored_bytes("default")) > 0
    assert 0 < told["disk_free"] < told["disk_size"]
    failing = {one["node"]: one for one in told["failing"]}
    assert failing.keys() == {"client-0", "client-1"}
    assert (failing["client-1"]["failures"], failing["client-1"]["connected"]) == (1, True)
    assert "the scanner is switched off" in failing["client-1"]["cause"]
    assert (failing["client-0"]["failures"], failing["client-0"]["connected"]) == (0, False)
    assert {one["role"] for one in told["failing"]} == {"client"}


def test_traffic_is_what_passes_the_controller_in_both_directions(tmp_path: Path) -> None:
    elements, nbytes = 300_000, 1_200_000
    app = tmp_path / "app.py"
    app.write_text(APP.replace("np.zeros(4,", f"np.zeros({elements},"))
    made = Served(tmp_path)
    try:
        made.run(made.nodes.client("client-0"))
        before = made.http(made.admin()).get("/api/v1/system").json()
        made.run(made.nodes.run(app, RunSpec(rounds=1, rules=RoundRules(min_clients=1, quorum=1, deadline=60))))
        told = made.http(made.admin()).get("/api/v1/system").json()
    finally:
        made.close()
    for way in ("sent", "received"):
        assert before[way] < 10_000
        assert nbytes < told[way] < 1.1 * nbytes


def test_traffic_is_forgotten_after_its_window() -> None:
    now = [5.0]
    traffic = Traffic(lambda: now[0])
    traffic.sent(7)
    now[0] = 300.0
    traffic.received(3)
    assert traffic.lately() == (7, 3)
    now[0] = 611.0
    assert traffic.lately() == (0, 3)
    now[0] = 5000.0
    assert traffic.lately() == (0, 0)


def test_what_is_long_ago_is_not_told(trained: Served) -> None:
    def at(seconds: float) -> tuple[int, list[tuple[str, int]]]:
        found = trained.run(
            system_state(trained.server.controller, trained.folder, clock=lambda: time.time() + seconds)
        )
        return found.rounds, sorted((one.node, one.failures) for one in found.failing)

    assert at(601) == (0, [("client-0", 0), ("client-1", 1)])
    assert at(3601) == (0, [("client-0", 0)])
    assert at(86_401) == (0, [])


def test_the_lag_of_events_is_that_of_new_ones_and_not_of_what_is_caught_up_on(trained: Served) -> None:
    journal = Journal(trained.server.controller.store)

    def late() -> EventRecord:
        return replace(event("default", "", "note", "late"), at=time.time() - 5)

    async def follow() -> tuple[float | None, float | None]:
        await journal.record(late())
        seen = journal.follow("default", 0)
        async with asyncio.timeout(20):
            async for told in seen:
                if isinstance(told, EventRecord) and told.message == "late":
                    break
            caught_up, following = journal.lag, asyncio.ensure_future(anext(seen))
            await asyncio.sleep(0)  # it waits for what is new from here
            await journal.record(late())
            await following
        assert journal.following == 1
        await seen.aclose()  # type: ignore[attr-defined]
        return caught_up, journal.lag

    caught_up, lag = trained.run(follow())
    assert caught_up is None
    assert lag is not None
    assert 5 <= lag < 25
