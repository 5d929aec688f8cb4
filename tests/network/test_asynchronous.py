"""FedBuff and FedAsync over a real network: who is counted with which staleness decides the bits, and is on record."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from federation import PROJECT, Federation, federation
from replaying import replayed

from hansa.errors import ConfigError, CorruptionError
from hansa.evidence.record import gather
from hansa.evidence.stored import verify_session
from hansa.evidence.verification import verify_record
from hansa.messages import EvaluationRules, RoundRules, RunSpec
from hansa.store.records import ContributionRecord, SessionRecord, SessionState
from hansa.wire import codec

FOUR = RoundRules(min_clients=4, quorum=1, deadline=60)


def buffered(
    rounds: int = 6, algorithm: str = "fedbuff", config: dict[str, Any] | None = None, **options: Any
) -> RunSpec:
    given = {"buffer": 2, **options} if algorithm == "fedbuff" else options
    return RunSpec(
        rounds=rounds, seed=7, algorithm=algorithm, algorithm_options=given, rules=FOUR, config=config or {},
        evaluation=EvaluationRules(every=3),
    )  # fmt: skip


@pytest.fixture
def slow_first(app: Path) -> Path:
    """The app whose client-0 trains on the first model until a first gate opens.

    Clients 2 and 3 train on the fourth and later ones once another is open: until then no round is without client-0.
    """
    gates = '{"client-0": "first" * (task.round == 1), "client-1": ""}.get(task.client.name, "then" * (task.round > 3))'
    text = app.read_text().replace('if task.round == 3 and "gate" in task.config:', f"gate = {gates}\n    if gate:")
    app.write_text(text.replace('task.config["gate"]', "task.config[gate]"))
    return app


@pytest.fixture
def gated(app: Path) -> Path:
    """The app that trains on the models of rounds 3 and 4 once a first gate is open, on later ones once another is."""
    text = app.read_text().replace('task.round == 3 and "gate"', 'task.round >= 3 and "first"')
    app.write_text(text.replace('task.config["gate"]', 'task.config["first" if task.round < 5 else "then"]'))
    return app


async def checked(made: Federation, app: Path, session: SessionRecord) -> list[ContributionRecord]:
    """The record of a session that has finished: whole, signed, and what its models were made from."""
    assert session.state is SessionState.FINISHED, session.cause
    parts = list(await made.contributions(session))
    found = await verify_session(made.controller.store, made.controller.objects, PROJECT, session.id)
    assert found.sealed
    assert found.updates == sum(part.outcome == "accepted" for part in parts)
    assert len({(part.client, part.base) for part in parts}) == len(parts)
    assert codec.digest(replayed(app, session.spec, 4, parts)) == session.model
    return parts


async def accepted(made: Federation, session: SessionRecord, client: str) -> None:
    """Wait until an update of a client counts."""
    async for happened in made.controller.journal.follow(PROJECT, 0, session.id):
        if (happened.kind, happened.data.get("client")) == ("client.accepted", client):
            return


async def test_rounds_are_made_of_whoever_has_come_and_the_record_says_from_which_model(
    app: Path, tmp_path: Path
) -> None:
    async with federation(tmp_path) as made:
        await made.clients(4)
        session = await made.run(app, buffered())
        parts = await checked(made, app, session)
        rounds = await made.rounds(session)
        committed = await made.events(session, "round.committed")
        metrics = await made.metrics(session, kind="evaluate", client="")
        evidence = await gather(made.controller.store, PROJECT, session.id)
    assert [record.accepted for record in rounds] == [2] * 6
    assert all(part.base is not None and 1 <= part.base <= part.round for part in parts)
    assert "staleness" in committed[-1].message
    assert {metric.round for metric in metrics} == {3, 6}
    part = next(each for each in evidence.contributions if each.outcome == "accepted" and each.round == 6)
    others = [each for each in evidence.contributions if each is not part]
    younger = replace(part, base=6 if part.base != 6 else 5)
    with pytest.raises(CorruptionError, match=r"round 6 of session .* has been changed"):
        verify_record(replace(evidence, contributions=(*others, younger)))


async def test_combiners_take_updates_of_several_rounds(large_app: Path, tmp_path: Path) -> None:
    async with federation(tmp_path, ["north", "south"]) as made:
        await made.combiner("n1", parent="north")
        await made.clients(4)
        session = await made.run(large_app, buffered(3, "fedasync", alpha=0.5))
        await checked(made, large_app, session)
        rounds = await made.rounds(session)
    assert all(record.accepted >= 1 for record in rounds)


async def test_a_controller_that_comes_back_goes_on_with_who_was_at_work(gated: Path, tmp_path: Path) -> None:
    first, then = tmp_path / "first", tmp_path / "then"
    spec = buffered(8, config={"first": str(first), "then": str(then)})
    async with federation(tmp_path) as made:
        await made.clients(4)
        session = await made.start(gated, spec)
        await made.until_round(session, 3)  # by the two that have older models: the others wait with that of round 3
        before = await made.session(session)
    async with federation(tmp_path) as made:
        working = (await made.events(session, "round.committed"))[-1].data["working"]
        first.touch()
        await made.clients(4)
        await made.until_round(session, 5)  # by all four, none of whom goes on before
        then.touch()
        session = await made.end(session)
        parts = await checked(made, gated, session)
    assert isinstance(working, dict)
    assert before.round == 3
    assert list(working.values()).count(3) == 2
    tasks = {(part.client, part.base) for part in parts if part.outcome == "accepted"}
    assert tasks >= set(working.items())
    assert any(part.base == 3 and part.round > 3 for part in parts)


async def test_an_update_that_is_too_stale_is_refused_and_its_client_gets_the_new_model(
    slow_first: Path, tmp_path: Path
) -> None:
    app, first, then = slow_first, tmp_path / "first", tmp_path / "then"
    config = {"first": str(first), "then": str(then)}
    spec = replace(buffered(8, max_staleness=1, config=config), evaluation=EvaluationRules(every=0))
    async with federation(tmp_path) as made:
        await made.clients(4)
        session = await made.start(app, spec)
        await made.until_round(session, 3)
        counted = asyncio.create_task(accepted(made, session, "client-0"))
        first.touch()
        await counted
        then.touch()
        session = await made.end(session)
        parts = await checked(made, app, session)
    (refused,) = (part for part in parts if (part.client, part.base, part.outcome) == ("client-0", 1, "rejected"))
    assert refused.reason.startswith("stale: its model is ")
    assert refused.reason.endswith(" rounds old, and max_staleness is 1")
    assert all(part.round - (part.base or 0) <= 1 for part in parts if part.outcome == "accepted")
    assert any(part.client == "client-0" and part.outcome == "accepted" for part in parts)


async def test_an_aggregator_that_keeps_updates_is_refused_where_the_session_is_made(tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        with pytest.raises(ConfigError, match=r"fedbuff scales updates.*use the aggregator mean"):
            await made.controller.sessions.create(PROJECT, replace(buffered(), aggregator="median"), seed_model="")
