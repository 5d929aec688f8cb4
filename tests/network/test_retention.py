"""What a real controller prunes while sessions run, and what is there when it died in the middle of it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from federation import PROJECT, Federation, federation
from memory_apps import DRIFTING, written
from servers import PostgresServer, S3Server

from hansa.errors import ConfigError, ConflictError, PrunedError, StorageUnavailableError
from hansa.evidence.stored import verify_session
from hansa.messages import EvaluationRules, Kind, RoundRules, RunSpec
from hansa.network.controller.artifacts import Artifacts
from hansa.network.controller.quotas import Quotas
from hansa.network.controller.retention import Retention
from hansa.store.opening import open_objects, open_store
from hansa.store.ports import Query
from hansa.store.records import InstallationRecord, ModelRecord, SessionRecord, SessionState
from hansa.store.retention import KEEP_ALL

RULES = RoundRules(min_clients=2, quorum=2, deadline=60)
ADAM = RunSpec(
    rounds=6,
    algorithm="fedadam",
    algorithm_options={"learning_rate": 0.1},
    rules=RULES,
    evaluation=EvaluationRules(every=1),
)


@pytest.mark.parametrize("kept", [0, 1000])
async def test_a_model_is_found_that_more_rounds_have_reached_and_given_up_than_a_page_has(
    kept: int, tmp_path: Path
) -> None:
    """A model that no longer changes is one object; the bytes are there as long as one row holds on to them."""
    store = open_store(f"sqlite:///{tmp_path / 'hansa.db'}")
    await store.open()
    rows = [
        ModelRecord(
            "a" * 64, PROJECT, "s", n, None, 9, float(n), pruned_at=None if n == kept else 1.0, pruned_by="best 1"
        )
        for n in range(1001)
    ]
    await store.put(*rows, ModelRecord("b" * 64, PROJECT, "s", 1001, None, 9, 1.0, pruned_at=2.0, pruned_by="best 1"))
    objects = open_objects(str(tmp_path / "objects"))
    artifacts = Artifacts(store, Retention(store, objects, KEEP_ALL, lambda: True), Quotas(store))
    assert await artifacts.model_with_bytes(PROJECT, "a" * 64) == rows[kept]
    with pytest.raises(PrunedError, match=rf"kept are the models of rounds {kept} "):
        await artifacts.model_with_bytes(PROJECT, "b" * 64)
    await store.close()


async def started(made: Federation, app: Path, spec: RunSpec, keep: str | None) -> SessionRecord:
    created = await made.create(app, spec)
    await made.controller.sessions.keep(PROJECT, created.id, keep)
    return await made.controller.sessions.start(PROJECT, created.id)


async def away(_digest: str) -> None:
    raise StorageUnavailableError("the bucket is away")


async def stored(made: Federation) -> set[str]:
    """But for the object that says whose they are."""
    (ours,) = (await made.controller.store.list(InstallationRecord, Query(""))).items
    return {found.digest async for found in made.controller.objects.list()} - {ours.objects or ""}


async def models(made: Federation, session: SessionRecord) -> list[ModelRecord]:
    query = Query(PROJECT, {"session": session.id}, sort="round", limit=1000)
    return list((await made.controller.store.list(ModelRecord, query)).items)


async def expected(made: Federation, session: SessionRecord, kept: set[int]) -> set[str]:
    """The objects that a session with these rounds kept has left: seed, package, models, states and aggregates."""
    rounds = [row for row in await made.rounds(session) if row.number in kept]
    named = {session.seed_model, session.package, *(row.model for row in rounds), *(row.state for row in rounds)}
    named |= {row.aggregate for row in rounds if row.aggregate_pruned_at is None}
    return {digest for digest in named if digest}


@pytest.fixture(params=["sqlite and a directory", "PostgreSQL and S3"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Where the rows are, and the bytes; what each store does by itself is told in tests of stores."""
    if request.param == "sqlite and a directory":
        return {}
    server: PostgresServer = request.getfixturevalue("postgres")
    service: S3Server = request.getfixturevalue("s3")
    bucket = service.create_bucket()
    return {"store": server.url(server.create_database()), "objects": service.url(bucket, tmp_path / "cache")}


async def test_a_session_keeps_the_last_two_models_and_states_and_its_record_stays_whole(
    stores: dict[str, str], app: Path, tmp_path: Path
) -> None:
    async with Federation.open(tmp_path, **stores) as made:
        await made.clients(2)
        session = await made.end(await started(made, app, ADAM, "last 2"))

        assert session.state is SessionState.FINISHED, session.cause
        assert await stored(made) == await expected(made, session, {5, 6})
        assert [row.pruned_by for row in await models(made, session)] == ["last 2"] * 4 + [None] * 2
        found = await verify_session(made.controller.store, made.controller.objects, PROJECT, session.id)
        assert (found.rounds, found.objects, found.pruned) == (6, 5, 8)
        trail = await made.controller.store.ancestors(PROJECT, session.model or "")
        assert [row.round for row in trail] == [5, 4, 3, 2, 1, 0]
        with pytest.raises(PrunedError, match=r"of round 3 .* by the policy `keep last 2`.* models of rounds 6, 5 "):
            await made.controller.artifacts.model_with_bytes(PROJECT, trail[2].id)


async def test_what_rounds_have_added_is_kept_with_them_and_given_up_with_them(
    stores: dict[str, str], app: Path, tmp_path: Path
) -> None:
    async with Federation.open(tmp_path, **stores) as made:
        await made.clients(2)
        session = await made.end(await started(made, app, ADAM, "last 3, aggregates"))
        assert session.state is SessionState.FINISHED, session.cause
        rounds = await made.rounds(session)
        sizes = {row.aggregate: row.aggregate_size for row in rounds}
        assert [row.aggregate_pruned_at is None for row in rounds] == [False] * 3 + [True] * 3
        assert await stored(made) == await expected(made, session, {4, 5, 6})
        assert {digest: await made.controller.objects.size(digest) for digest in list(sizes)[3:]} == {
            row.aggregate: row.aggregate_size for row in rounds[3:]
        }
        found = await verify_session(made.controller.store, made.controller.objects, PROJECT, session.id)
        assert (found.objects, found.pruned, found.recomputed, found.not_recomputed) == (10, 9, 2, 4)
        used = await made.controller.store.stored_bytes(PROJECT)

        await made.controller.sessions.keep(PROJECT, session.id, "all")
        foreseen = await made.controller.sessions.prune(PROJECT, dry_run=True, grace=1000)
        report = await made.controller.sessions.prune(PROJECT, dry_run=False, grace=1000)

        assert [(told.models, told.states, told.aggregates) for told in report.sessions] == [((), (), (4, 5))]
        assert (foreseen.sessions, foreseen.objects, foreseen.bytes) == (report.sessions, report.objects, report.bytes)
        assert report.bytes == sum(row.aggregate_size or 0 for row in rounds[3:5])
        assert await made.controller.store.stored_bytes(PROJECT) == used - report.bytes
        assert await stored(made) == await expected(made, session, {4, 5, 6})
        found = await verify_session(made.controller.store, made.controller.objects, PROJECT, session.id)
        assert (found.objects, found.pruned, found.recomputed) == (8, 11, 1)

        await made.controller.sessions.delete(PROJECT, session.id)
        assert await stored(made) == {session.seed_model, session.package}


async def test_a_policy_that_begins_to_keep_aggregates_does_so_from_the_next_round_on(
    app: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with federation(tmp_path) as made:
        await made.clients(2)
        session = await started(made, app, replace(ADAM, config={"gate": str(gate)}), None)
        await made.until_round(session, 2)
        await made.controller.sessions.keep(PROJECT, session.id, "aggregates,all")
        gate.touch()
        session = await made.end(session)

        assert session.keep == "all, aggregates"
        assert [row.aggregate is not None for row in await made.rounds(session)] == [False, False, *[True] * 4]
        found = await verify_session(made.controller.store, made.controller.objects, PROJECT, session.id)
        assert (found.recomputed, found.not_recomputed) == (4, 2)


async def test_the_best_model_is_kept_and_the_newest_with_it(app: Path, tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        await made.clients(2)
        session = await made.end(await started(made, app, ADAM, "best mse max"))
        values = {row.round: row.value for row in await made.metrics(session, name="mse", client="")}
        best = max(values, key=lambda number: (values[number], -number))

        assert sorted(values) == [1, 2, 3, 4, 5, 6]
        assert best != 6
        assert await stored(made) == await expected(made, session, {best, 6})


async def test_a_metric_that_nobody_reports_prunes_nothing(app: Path, tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        await made.clients(2)
        session = await made.end(await started(made, app, ADAM, "last 1, best acuracy max"))

        assert await stored(made) == await expected(made, session, set(range(1, 7)))


async def test_what_was_only_broadcast_is_removed_whatever_the_policy(tmp_path: Path) -> None:
    app = written(tmp_path, DRIFTING)
    spec = RunSpec(algorithm="scaffold", algorithm_options={"num_clients": 2}, rounds=3, rules=RULES)
    async with federation(tmp_path) as made:
        await made.clients(2)
        session = await made.end(await started(made, app, spec, None))

        assert session.state is SessionState.FINISHED, session.cause
        assert await stored(made) == await expected(made, session, {1, 2, 3})


async def test_a_controller_that_died_before_the_bytes_were_removed_finishes_and_the_session_goes_on(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    spec = replace(ADAM, config={"gate": str(gate)})
    async with federation(tmp_path) as made:
        await made.clients(2)

        monkeypatch.setattr(made.controller.objects, "delete", away)
        session = await started(made, app, spec, "last 1")
        await made.until_round(session, 2)  # both clients wait for the gate in round 3
        while not await made.controller.store.removals():  # noqa: ASYNC110  # nobody is told
            await asyncio.sleep(0.01)
        assert [row.pruned_at is not None for row in await models(made, session)] == [True, False]
        assert await expected(made, session, {1, 2}) <= await stored(made)
    async with federation(tmp_path) as made:
        assert made.controller._finishing is not None
        await made.controller._finishing
        assert await made.controller.store.removals() == []
        assert (await expected(made, session, {1}) - await expected(made, session, {2})).isdisjoint(await stored(made))
        gate.touch()
        await made.clients(2)
        session = await made.end(session)

        assert session.state is SessionState.FINISHED, session.cause
        assert await stored(made) == await expected(made, session, {6})
        found = await verify_session(made.controller.store, made.controller.objects, PROJECT, session.id)
        assert (found.rounds, found.pruned) == (6, 10)


async def test_a_store_that_is_away_postpones_the_removal_and_fails_nothing(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with federation(tmp_path) as made:
        await made.clients(2)

        with monkeypatch.context() as patched:
            patched.setattr(made.controller.objects, "delete", away)
            session = await made.end(await started(made, app, ADAM, "last 1"))
        assert session.state is SessionState.FINISHED, session.cause
        assert await stored(made) == await expected(made, session, set(range(1, 7)))

        report = await made.controller.sessions.prune(PROJECT, dry_run=False, grace=1000)

        assert (report.objects, report.waiting, report.sessions) == (10, 0, ())
        assert await stored(made) == await expected(made, session, {6})


async def test_a_policy_can_be_changed_while_the_session_runs_and_after_it(app: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    spec = replace(ADAM, config={"gate": str(gate)})
    async with federation(tmp_path) as made:
        await made.clients(2)
        session = await started(made, app, spec, None)
        await made.until_round(session, 2)
        kept = await made.controller.sessions.keep(PROJECT, session.id, "best train loss min,  last 3")
        assert kept.keep == "last 3, best train loss min"
        gate.touch()
        session = await made.end(session)
        assert session.keep == "last 3, best train loss min"
        losses = {row.round: row.value for row in await made.metrics(session, name="loss", kind=Kind.TRAIN.value)}
        best = min(losses, key=lambda number: (losses[number], number))
        assert await stored(made) == await expected(made, session, {best, 4, 5, 6})

        await made.controller.sessions.keep(PROJECT, session.id, "last 1")
        foreseen = await made.controller.sessions.prune(PROJECT, dry_run=True, grace=1000)
        assert len(await stored(made)) > len(await expected(made, session, {6}))
        report = await made.controller.sessions.prune(PROJECT, dry_run=False, grace=1000)

        assert (foreseen.sessions, foreseen.objects, foreseen.bytes) == (report.sessions, report.objects, report.bytes)
        assert await stored(made) == await expected(made, session, {6})
        with pytest.raises(ConfigError, match="`best loss max` or `best loss min`"):
            await made.controller.sessions.keep(PROJECT, session.id, "best loss")


async def test_a_model_that_another_session_starts_from_is_kept_until_that_one_is_deleted(
    app: Path, tmp_path: Path
) -> None:
    async with federation(tmp_path) as made:
        await made.clients(2)
        first = await made.end(await started(made, app, ADAM, None))
        seed = (await models(made, first))[2]
        second = await made.controller.sessions.create(PROJECT, ADAM, seed_model=seed.id)
        await made.controller.sessions.keep(PROJECT, first.id, "last 1")
        await made.controller.sessions.prune(PROJECT, dry_run=False, grace=1000)
        assert await stored(made) == await expected(made, first, {6}) | {seed.id}
        with pytest.raises(PrunedError):
            await made.controller.sessions.create(PROJECT, ADAM, seed_model=(await models(made, first))[1].id)

        await made.controller.sessions.delete(PROJECT, second.id)
        await made.controller.sessions.prune(PROJECT, dry_run=False, grace=1000)

        assert await stored(made) == await expected(made, first, {6})


async def test_a_deleted_session_takes_its_objects_and_leaves_what_another_has_too(app: Path, tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        await made.clients(2)
        first = await made.end(await started(made, app, ADAM, None))
        again = await made.end(await started(made, app, replace(ADAM, rounds=3), None))
        assert again.model == (await models(made, first))[2].id

        await made.controller.sessions.delete(PROJECT, first.id)

        assert await stored(made) == await expected(made, again, {1, 2, 3})
        found = await verify_session(made.controller.store, made.controller.objects, PROJECT, again.id)
        assert (found.rounds, found.pruned) == (3, 0)


async def test_what_no_row_names_is_removed_after_its_grace(tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        model = await made.controller.artifacts.add_model(PROJECT, b"\x02\0\0\0\0\0\0\0{}")
        orphan = await made.controller.objects.put([b"of a round that was never committed"])

        assert (await made.controller.sessions.prune(PROJECT, dry_run=False, grace=1000)).objects == 0
        foreseen = await made.controller.sessions.prune(PROJECT, dry_run=True, grace=0)
        assert await stored(made) == {model.id, orphan}
        report = await made.controller.sessions.prune(PROJECT, dry_run=False, grace=0)

        assert (report.objects, report.unreferenced, report.bytes) == (1, 1, 35)
        assert (foreseen.objects, foreseen.unreferenced, foreseen.bytes) == (1, 1, 35)
        assert await stored(made) == {model.id}


async def test_a_controller_that_leads_no_more_removes_nothing(tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        orphan = await made.controller.objects.put([b"orphan"])
        made.controller.retention._leads = lambda: False

        with pytest.raises(ConflictError, match="does not lead any more"):
            await made.controller.sessions.prune(PROJECT, dry_run=False, grace=0)

        assert await stored(made) == {orphan}
