"""Bundles of sessions that are not over, were stopped, or have failed; and what an export leaves behind."""

from pathlib import Path

import pytest
from federation import PROJECT, Federation, federation

from hansa.api.routes.sessions import UNFINISHED
from hansa.api.server import ApiServer
from hansa.errors import NotFoundError
from hansa.evidence.bundle import open_bundle, verify_bundle
from hansa.evidence.findings import Verification
from hansa.evidence.record import gather
from hansa.messages import Kind, RoundRules, RunSpec
from hansa.network.controller.export import Models
from hansa.settings import Settings
from hansa.store.ports import Page, Query
from hansa.store.records import (
    EvaluationRecord,
    EventRecord,
    MetricRecord,
    ModelRecord,
    Record,
    RoundRecord,
    SessionRecord,
    SessionState,
)
from hansa.store.sqlite import SqliteStore

TWO = RoundRules(min_clients=2, quorum=2, deadline=120)


async def exported(made: Federation, session: SessionRecord, models: Models = Models.ALL) -> Verification:
    file = made.folder / "bundle.zip"
    await made.controller.sessions.export(PROJECT, session.id, models, file)
    with file.open("rb") as opened:
        return verify_bundle(open_bundle(opened))


async def test_a_session_under_way_is_whole_up_to_where_it_is_and_its_end_is_not_signed(
    app: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with federation(tmp_path, ["only"]) as made:
        await made.clients(2)
        session = await made.start(app, RunSpec(rounds=4, rules=TWO, config={"gate": str(gate)}))
        await made.until_round(session, 2)
        under_way = await exported(made, session)
        gate.touch()
        ended = await made.end(session)
        over = await exported(made, session)
    assert ended.state is SessionState.FINISHED, ended.cause
    assert (under_way.rounds, under_way.updates, under_way.unsigned, under_way.sealed) == (2, 4, 0, False)
    assert (over.rounds, over.updates, over.sealed) == (4, 8, True)


@pytest.mark.parametrize("kind", [EventRecord, RoundRecord, EvaluationRecord, MetricRecord, ModelRecord])
async def test_what_is_evaluated_while_a_session_is_read_is_there_whole_or_not_at_all(
    kind: type[Record], tmp_path: Path
) -> None:
    store = SqliteStore(tmp_path / "hansa.db")
    await store.open()
    row = SessionRecord("s1", PROJECT, "night", RunSpec(), SessionState.RUNNING, 1.0, round=1)
    report = EvaluationRecord("s1/1/a", PROJECT, "s1", 1, "a", 6, "0" * 64, 2.0, {"loss": 0.5})
    number = MetricRecord("s1/1/loss", PROJECT, "s1", 1, Kind.EVALUATE, "loss", 0.5, 6)
    told = EventRecord(0, PROJECT, "s1", "round.evaluated", "", 2.0, {"round": 1, "metrics": {"loss": 0.5}})

    class Meanwhile:
        """The store, to which an evaluation is written just before rows of one kind are read."""

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        async def list(self, asked: type[Record], query: Query) -> Page[Record]:
            if asked is kind:
                await store.put(report, number, told)
            return await store.list(asked, query)

    await store.put(row)
    found = await gather(Meanwhile(), PROJECT, "s1")  # type: ignore[arg-type]
    seen = {len(found.evaluations), len(found.metrics), len(found.events)}
    assert seen == ({1} if kind is EventRecord else {0})
    again = await gather(store, PROJECT, "s1")
    assert (len(again.evaluations), len(again.metrics), len(again.events)) == (1, 1, 1)
    await store.close()


async def test_a_session_that_was_stopped_and_resumed_has_two_ends_and_the_last_one_counts(
    app: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with federation(tmp_path) as made:
        await made.clients(2)
        session = await made.start(app, RunSpec(rounds=3, rules=TWO, config={"gate": str(gate)}))
        await made.until_round(session, 2)
        await made.controller.sessions.stop(PROJECT, session.id, "ada")
        stopped = await exported(made, session)
        gate.touch()
        await made.controller.sessions.start(PROJECT, session.id)
        await made.until_event(session, "session.finished")
        over = await exported(made, session)
    assert (stopped.rounds, stopped.sealed) == (2, True)
    assert (over.rounds, over.updates, over.sealed) == (3, 6, True)


async def test_a_session_that_failed_before_its_first_round_has_an_end_that_is_signed(
    app: Path, tmp_path: Path
) -> None:
    async with federation(tmp_path) as made:
        rules = RoundRules(min_clients=1, quorum=1, deadline=0.2)
        ended = await made.run(app, RunSpec(rounds=1, rules=rules))
        found = await exported(made, ended)
    assert ended.state is SessionState.FAILED
    assert (found.rounds, found.updates, found.sealed) == (0, 0, True)


@pytest.mark.parametrize(("models", "objects"), [(Models.ALL, 3), (Models.NEWEST, 1), (Models.NONE, 0)])
async def test_the_bytes_that_were_asked_for_are_in_the_bundle(
    app: Path, tmp_path: Path, models: Models, objects: int
) -> None:
    async with federation(tmp_path) as made:
        await made.clients(2)
        session = await made.run(app, RunSpec(rounds=2, rules=TWO))
        found = await exported(made, session, models)
        with pytest.raises(NotFoundError):
            await made.controller.sessions.export(PROJECT, "nowhere", models, tmp_path / "none.zip")
    assert (found.objects, found.pruned) == (objects, 3 - objects)
    assert not (tmp_path / "none.zip").exists()


async def test_what_a_killed_server_had_half_exported_is_removed_at_the_next_start(tmp_path: Path) -> None:
    left, other = tmp_path / f"{UNFINISHED}abc", tmp_path / "mine"
    for folder in (left, other):
        folder.mkdir()
        (folder / "bundle.zip").write_bytes(bytes(100))
    server = await ApiServer.open(Settings(data=tmp_path, port=0, grpc_port=0))
    await server.aclose()
    assert (left.exists(), other.exists()) == (False, True)
