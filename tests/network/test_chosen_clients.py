"""Sessions that choose their clients by name or by label."""

import asyncio
from pathlib import Path

import pytest
from federation import Federation, federation

import hansa
from hansa.errors import ConfigError, NotFoundError
from hansa.messages import RoundRules, RunSpec
from hansa.rounds.why import Why
from hansa.store.ports import Query
from hansa.store.records import AuditRecord, ClientRecord, SessionRecord, SessionState


async def waiting(made: Federation, session: SessionRecord) -> Why:
    """What a session waits for, once it waits."""
    while True:
        why = made.tree.why(session.id)
        if why is not None and why.deadline is not None:
            return why
        await asyncio.sleep(0.01)


LABELS = {"client-0": {"region": "eu"}, "client-1": {"region": "us"}, "client-2": {"region": "eu"}, "client-3": {}}


async def test_only_clients_with_the_labels_train_and_evaluate_to_the_bits_of_a_simulation(
    app: Path, tmp_path: Path
) -> None:
    rules = RoundRules(labels=("region=eu",), min_clients=2, quorum=2, deadline=60)
    spec = RunSpec(rounds=2, seed=3, rules=rules)
    async with federation(tmp_path) as made:
        for number, (name, labels) in enumerate(LABELS.items()):
            await made.client(name, number, 4, labels=labels)
        session = await made.run(app, spec)
        contributions = await made.contributions(session)
    assert session.state is SessionState.FINISHED, session.cause
    assert {part.client for part in contributions} == {"client-0", "client-2"}
    assert session.model == hansa.simulate(app, spec, clients=4, labels=LABELS).model_hash
    assert session.model != hansa.simulate(app, spec, clients=4, rules=RoundRules(min_clients=2)).model_hash


async def test_a_session_names_its_clients_and_says_how_many_of_them_are_there(app: Path, tmp_path: Path) -> None:
    spec = RunSpec(rounds=1, rules=RoundRules(only=("client-1", "client-2"), min_clients=2, quorum=2, deadline=60))
    async with federation(tmp_path) as made:
        for number in (0, 1):
            await made.client(f"client-{number}", number, 3)
        session = await made.start(app, spec)
        why = await waiting(made, session)
        assert "1 of 2 connected are named client-1, client-2, 2 needed" in str(why)
        await made.client("client-2", 2, 3)
        ended = await made.end(session)
        parts = await made.contributions(session)
    assert ended.state is SessionState.FINISHED, ended.cause
    assert {part.client for part in parts} == {"client-1", "client-2"}
    assert ended.model == hansa.simulate(app, spec, clients=3).model_hash


async def test_a_label_that_an_operator_gives_lets_a_waiting_session_invite_a_client(app: Path, tmp_path: Path) -> None:
    spec = RunSpec(rounds=1, rules=RoundRules(labels=("ward=heart",), deadline=60))
    async with federation(tmp_path) as made:
        await made.client("client-0", 0, 1, labels={"ward": "lung"})
        session = await made.start(app, spec)
        why = await waiting(made, session)
        assert why.connected == 0
        labelled = await made.controller.tree("default").label("client-0", {"ward": "heart"}, by="ada")
        ended = await made.end(session)
        audit = await made.controller.store.list(AuditRecord, Query("default", {"action": "client.label"}))
    assert labelled.all_labels == {"ward": "heart"}
    assert ended.state is SessionState.FINISHED, ended.cause
    assert [(line.actor, line.target, line.detail) for line in audit.items] == [("ada", "client-0", "ward=heart")]


async def test_labels_that_operators_gave_outlive_a_reconnect_and_are_found(tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        await made.client("client-0", labels={"region": "eu", "disk": "big"})
        await made.controller.tree("default").label("client-0", {"region": "us", "tier": "1"}, by="ada")
        await made.leave("client-0")
        await made.gone("client-0")
        await made.controller.tree("default").label("client-0", {"tier": None}, by="ada")

        async def found(*labels: str) -> list[str]:
            page = await made.controller.store.list(ClientRecord, Query("default", {"label": list(labels)}))
            return [row.name for row in page.items]

        assert await found("region=us", "disk=big") == ["client-0"]
        assert await found("region=eu") == []
        assert await found("tier=1") == []
        row = await made.controller.store.get(ClientRecord, "default", "default/client-0")
        with pytest.raises(NotFoundError):
            await made.controller.tree("default").label("nobody", {"region": "us"}, by="ada")
        with pytest.raises(ConfigError, match="has no value: write it as region=eu"):
            await found("region")
    assert (row.labels, row.assigned) == ({"region": "eu", "disk": "big"}, {"region": "us"})


def test_a_simulation_in_which_too_few_clients_match_says_so(app: Path) -> None:
    with pytest.raises(ConfigError, match="0 of the 2 virtual clients are labelled region=eu, and a round needs 1"):
        hansa.simulate(app, clients=2, rules=RoundRules(labels=("region=eu",)))
