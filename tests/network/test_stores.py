"""A network whose stores go away in the middle of a session."""

import asyncio
import gc
import sys
import threading
from pathlib import Path

import pytest
import structlog
from federation import Federation
from servers import Gate, PostgresServer, S3Server, free_port

from hansa.errors import ConflictError, StorageError
from hansa.messages import EvaluationRules, RoundRules, RunSpec
from hansa.network.controller import server as module
from hansa.network.controller.server import ControllerServer
from hansa.settings import Settings
from hansa.simulation import simulate
from hansa.store.records import SessionState

RULES = RoundRules(min_clients=2, quorum=2, deadline=100, lease=60)


@pytest.mark.parametrize("away", ["metadata", "objects"])
async def test_a_session_waits_for_a_store_that_is_away_and_goes_on(
    away: str, postgres: PostgresServer, s3: S3Server, app: Path, tmp_path: Path
) -> None:
    gates = {"metadata": Gate(postgres.port), "objects": Gate(s3.port)}
    for gate in gates.values():
        await gate.open()
    store = postgres.url(postgres.create_database()).replace(str(postgres.port), str(gates["metadata"].port))
    objects = s3.url(s3.create_bucket(), tmp_path / "cache", gates["objects"].port)
    go_on = tmp_path / "go-on"
    spec = RunSpec(rounds=4, rules=RULES, evaluation=EvaluationRules(every=2), config={"gate": str(go_on)})
    async with Federation.open(tmp_path, ["relay"], store=store, objects=objects) as made:
        await made.clients(2)
        started = await made.start(app, spec)
        await made.until_round(started, 2)
        await gates[away].close()  # while both clients train for round 3
        with structlog.testing.capture_logs() as lines:
            go_on.touch()
            while not any("a store is away" in line["event"] for line in lines):  # noqa: ASYNC110  # a log tells nobody
                await asyncio.sleep(0.01)
        assert made.tree.away(started.id)
        await gates[away].open()
        session = await made.end(started)
        rounds = await made.rounds(session)

        assert not made.tree.away(started.id)

    assert session.state is SessionState.FINISHED, session.cause
    assert [record.accepted for record in rounds] == [2, 2, 2, 2]
    assert session.model == (await asyncio.to_thread(simulate, app, clients=2, spec=spec)).model_hash
    for gate in gates.values():
        await gate.close()


async def test_a_bucket_that_is_not_there_is_said_at_the_start_and_one_that_is_away_is_not_waited_for(
    s3: S3Server, tmp_path: Path
) -> None:
    def settings(bucket: str, port: int) -> Settings:
        objects = s3.url(bucket, tmp_path / "cache", port)
        return Settings(data=tmp_path, host="127.0.0.1", grpc_port=0, objects=objects)

    with pytest.raises(StorageError, match=r"hansa-elsewhere.*check endpoint, region and bucket"):
        await ControllerServer.open(settings("hansa-elsewhere", s3.port))
    with structlog.testing.capture_logs() as lines:
        await (await ControllerServer.open(settings("hansa-away", free_port()))).aclose()
    assert [line["event"] for line in lines].count("the object store is away; sessions wait for it") == 1
    server = await ControllerServer.open(settings(s3.create_bucket(), s3.port))  # a later start says whose they are
    assert [found async for found in server.controller.objects.list()]
    await server.aclose()


def test_a_start_that_is_broken_off_leaves_no_port_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, unraisable, go_on = threading.Event(), [], threading.Event()
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    def slow(_settings: Settings) -> None:
        inside.set()
        go_on.wait()

    monkeypatch.setattr(module, "_confined", slow)

    async def start() -> None:
        opening = asyncio.create_task(ControllerServer.open(Settings(data=tmp_path, host="127.0.0.1", grpc_port=0)))
        await asyncio.to_thread(inside.wait)
        opening.cancel()
        await asyncio.wait([opening])
        go_on.set()

    asyncio.run(start())
    gc.collect()
    assert unraisable == []


async def test_two_controllers_do_not_lead_over_one_database(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, host="127.0.0.1", grpc_port=0)
    first = await ControllerServer.open(settings)
    waiting = asyncio.create_task(ControllerServer.open(settings))
    with pytest.raises(ConflictError, match="'controller' is led by process"):
        await first._store.leadership("controller").acquire(timeout=0)
    assert not waiting.done()

    await first.aclose()

    second = await waiting
    assert second._leadership.epoch == first._leadership.epoch + 1
    await second.aclose()
