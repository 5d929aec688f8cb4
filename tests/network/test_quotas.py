"""Quotas of a project, over every database: what is refused, what is left of it, and who gets the last place."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import federation
from nodes import access_token
from servers import PostgresServer

from hansa.arrays import Arrays
from hansa.errors import ConflictError, QuotaExceededError
from hansa.messages import EvaluationRules, RoundRules, RunSpec
from hansa.network.controller.controller import Controller
from hansa.network.controller.quotas import Quota, QuotaKind
from hansa.network.controller.signing_keys import SigningKeys
from hansa.packages.package import build
from hansa.store.opening import open_objects, open_store
from hansa.store.ports import Query
from hansa.store.records import AuditRecord, ModelRecord, PackageRecord, SessionState, TokenRecord
from hansa.wire import codec, tokens
from hansa.wire.frames import Role
from hansa.wire.tokens import Identity

HEART = "heart"
KEY = tokens.new_key()


def a_model(seed: int) -> bytes:
    """10,000 numbers: 40,072 bytes."""
    return b"".join(codec.encode(Arrays({"w": np.full(10_000, seed, np.float32)})))


SIZE = len(a_model(0))


@pytest.fixture(params=["sqlite", "postgres"])
async def controller(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Controller]:
    """One over an empty database."""
    url = f"sqlite:///{tmp_path}/hansa.db"
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.url(server.create_database())
    store = open_store(url)
    await store.open()
    made = Controller(store, open_objects(str(tmp_path / "objects")), SigningKeys(KEY), address="127.0.0.1:1")
    await made.open()
    await made.create_project(HEART)
    yield made
    await made.aclose()
    await store.close()


async def set_to(controller: Controller, **most: int | None) -> None:
    await controller.quotas.change(HEART, {QuotaKind(kind): value for kind, value in most.items()}, "root")


async def count(controller: Controller, kind: Any) -> int:
    return (await controller.store.list(kind, Query(HEART))).total


async def objects(controller: Controller) -> int:
    return len([found async for found in controller.objects.list()])


async def lines(controller: Controller) -> list[tuple[str, str, str, str]]:
    page = await controller.store.list(AuditRecord, Query(HEART, limit=1000))
    return [(line.actor, line.action, line.target, line.outcome) for line in page.items]


async def test_an_upload_too_many_is_refused_and_leaves_nothing(controller: Controller) -> None:
    await set_to(controller, storage=2 * SIZE)
    await controller.artifacts.add_model(HEART, a_model(1), by="ada")
    await controller.artifacts.add_model(HEART, a_model(2), by="ada")
    with pytest.raises(QuotaExceededError) as refused:
        await controller.artifacts.add_model(HEART, a_model(3), by="ada")
    assert str(refused.value) == (
        "project heart has no room in its quota of storage: 80.14 kB of 80.14 kB are used, and 40.07 kB more are "
        "needed; free some (hansa prune, hansa session delete), or ask a site administrator to raise it: "
        "hansa project quota heart --storage …"
    )
    assert (await count(controller, ModelRecord), await objects(controller)) == (2, 2)
    assert (await lines(controller))[-1] == ("ada", "quota", "storage", "refused")
    await controller.artifacts.add_model(HEART, a_model(2), by="ada")  # it is there: it takes no room
    await set_to(controller, storage=None)
    assert await controller.artifacts.add_model(HEART, a_model(3), by="ada")


async def test_a_package_too_many_is_refused_and_leaves_nothing(controller: Controller, tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text("import hansa\n\napp = hansa.App()\n")
    archive = build(app)
    await set_to(controller, storage=len(archive) - 1)
    with pytest.raises(QuotaExceededError, match="quota of storage: 0 bytes"):
        await controller.artifacts.add_package(HEART, archive)
    assert (await count(controller, PackageRecord), await objects(controller)) == (0, 0)
    await set_to(controller, storage=len(archive))
    await controller.artifacts.add_package(HEART, archive)
    await controller.artifacts.add_package(HEART, archive)
    assert await controller.store.stored_bytes(HEART) == len(archive)


async def test_of_many_uploads_at_once_as_many_get_in_as_there_is_room_for(controller: Controller) -> None:
    await set_to(controller, storage=3 * SIZE)
    uploads = [controller.artifacts.add_model(HEART, a_model(number)) for number in range(8)]
    done = await asyncio.gather(*uploads, return_exceptions=True)
    assert sorted(type(one).__name__ for one in done) == ["ModelRecord"] * 3 + ["QuotaExceededError"] * 5
    assert await controller.store.stored_bytes(HEART) == 3 * SIZE
    assert await objects(controller) == 3


async def test_of_many_tokens_at_once_as_many_are_made_as_there_are_places(controller: Controller) -> None:
    await set_to(controller, clients=2)
    asked = [controller.issue_token(HEART, f"ward-{number}", Role.CLIENT) for number in range(6)]
    done = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(one, QuotaExceededError) for one in done) == 4
    assert await count(controller, TokenRecord) == 2
    with pytest.raises(QuotaExceededError, match="quota of clients: 2 of 2 have joined, or hold a join token; revoke"):
        await controller.issue_token(HEART, "one-more", Role.CLIENT)
    first = next(one for one in done if isinstance(one, tuple))[1]
    assert await controller.issue_token(HEART, first.name, Role.CLIENT)  # another one for the same client
    assert await controller.issue_token(HEART, "between", Role.COMBINER)
    for token in (await controller.store.list(TokenRecord, Query(HEART, {"name": first.name}))).items:
        await controller.revoke_token(HEART, token.id)
    assert await controller.issue_token(HEART, "one-more", Role.CLIENT)


async def test_a_client_that_has_joined_has_its_place_until_it_is_revoked(controller: Controller) -> None:
    await set_to(controller, clients=1)
    await access_token(controller, HEART, "ward")  # its join token is spent, and will expire
    with pytest.raises(QuotaExceededError, match="1 of 1 have joined"):
        await controller.issue_token(HEART, "another", Role.CLIENT)
    assert await controller.issue_token(HEART, "ward", Role.CLIENT)  # for a new machine
    await controller.nodes.revoke(HEART, "ward")
    with pytest.raises(QuotaExceededError):
        await controller.issue_token(HEART, "another", Role.CLIENT)  # the other join token of ward holds still
    for token in (await controller.store.list(TokenRecord, Query(HEART, {"name": "ward"}))).items:
        await controller.revoke_token(HEART, token.id)
    assert await controller.issue_token(HEART, "another", Role.CLIENT)


async def test_of_many_clients_that_join_at_once_as_many_are_given_a_server_as_there_are_places(
    controller: Controller,
) -> None:
    await set_to(controller, clients=2)
    join = lambda name, role=Role.CLIENT: controller.assign(Identity(name, role, HEART, name), "", {})  # noqa: E731
    done = await asyncio.gather(*(join(f"ward-{number}") for number in range(5)), return_exceptions=True)
    assert sum(isinstance(one, QuotaExceededError) for one in done) == 3
    inside = next(number for number, one in enumerate(done) if isinstance(one, tuple))
    assert await join(f"ward-{inside}")  # it asks again
    assert await join("between", Role.COMBINER)
    with pytest.raises(ConflictError, match="2 of 2 are connected"):
        await join("another")


async def test_a_quota_is_the_projects_own_or_the_servers_default(controller: Controller) -> None:
    quotas = controller.quotas
    quotas._defaults = Quota(sessions=2, clients=5)
    assert await quotas.of(HEART) == Quota(2, None, 5)
    await set_to(controller, clients=0, storage=7)
    assert await quotas.of(HEART) == Quota(2, 7, 0)
    found = await quotas.use(HEART, 1)
    assert {kind.value: (use.used, use.most, use.own) for kind, use in found.items()} == {
        "sessions": (1, 2, False),
        "storage": (0, 7, True),
        "clients": (0, 0, True),
    }
    assert ("root", "project.quota", HEART, "done") in await lines(controller)


async def test_of_one_project_so_many_refusals_in_a_minute_are_kept(controller: Controller) -> None:
    await set_to(controller, clients=0)
    for _ in range(70):
        with pytest.raises(QuotaExceededError):
            await controller.issue_token(HEART, "ward", Role.CLIENT)
    assert [line[1] for line in await lines(controller)].count("quota") == 60


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────────

RULES = RoundRules(min_clients=1, quorum=1, deadline=100, lease=60)


async def test_of_two_sessions_started_at_once_one_gets_the_last_place(app: Path, tmp_path: Path) -> None:
    waiting = RunSpec(rounds=1, rules=RoundRules(min_clients=9, deadline=1000))
    async with federation(tmp_path) as made:
        seeds = [await made.create(app, waiting) for _ in range(3)]
        await made.controller.quotas.change("default", {QuotaKind.SESSIONS: 1}, "root")
        starts = [made.controller.sessions.start("default", session.id, "ada") for session in seeds]
        done = await asyncio.gather(*starts, return_exceptions=True)
        refused = [one for one in done if isinstance(one, QuotaExceededError)]
        assert len(refused) == 2
        assert "quota of sessions: 1 of 1 run; wait for one to end, or stop one" in str(refused[0])
        (running,) = [one for one in done if not isinstance(one, BaseException)]
        await made.controller.sessions.stop("default", running.id, "ada")
        other = next(session for session in seeds if session.id != running.id)
        assert (await made.controller.sessions.start("default", other.id)).state is SessionState.RUNNING
        await made.controller.sessions.stop("default", other.id, "ada")


async def test_a_session_waits_for_room_says_so_and_goes_on_or_is_stopped(app: Path, tmp_path: Path) -> None:
    spec = RunSpec(rounds=3, rules=RULES, evaluation=EvaluationRules(every=0))
    async with federation(tmp_path) as made:
        await made.clients(1)
        quotas, created = made.controller.quotas, await made.create(app, spec)
        used = await made.controller.store.stored_bytes("default")
        await quotas.change("default", {QuotaKind.STORAGE: used + 10}, "root")
        await made.controller.sessions.start("default", created.id)
        while not (away := made.tree.away(created.id)):  # noqa: ASYNC110  # a session that waits tells nobody
            await asyncio.sleep(0.01)
        assert "project default has no room in its quota of storage" in away
        assert await made.controller.store.stored_bytes("default") == used
        await quotas.change("default", {QuotaKind.STORAGE: None}, "root")
        session = await made.end(created)
        assert session.state is SessionState.FINISHED, session.cause

        used = await made.controller.store.stored_bytes("default")
        await quotas.change("default", {QuotaKind.STORAGE: used}, "root")
        another = await made.create(app, spec)
        with pytest.raises(QuotaExceededError, match="quota of storage"):
            await made.controller.sessions.start("default", another.id)
        await quotas.change("default", {QuotaKind.STORAGE: used + 10}, "root")
        await made.controller.sessions.start("default", another.id)
        while not made.tree.away(another.id):  # noqa: ASYNC110  # the same
            await asyncio.sleep(0.01)
        stopped = await made.controller.sessions.stop("default", another.id, "ada")
        assert (stopped.state, stopped.round) == (SessionState.STOPPED, 0)
        assert quotas._promised["default"] == 0
