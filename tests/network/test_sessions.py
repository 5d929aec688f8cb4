"""Sessions over a real network: the same bits as in simulation, whatever the tree."""

import asyncio
import gc
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from federation import PROJECT, federation

import hansa
from hansa.aggregators.mean import SumPlan, WeightedMean
from hansa.algorithm import Partial
from hansa.errors import ConflictError
from hansa.messages import RoundRules, RunSpec
from hansa.run import seeded
from hansa.store.link import verify_chain
from hansa.store.ports import Query
from hansa.store.records import ContributionRecord, MetricRecord, ModelRecord, SessionRecord, SessionState
from hansa.wire import codec

FOUR = RoundRules(min_clients=4, quorum=4, deadline=60)


async def test_a_session_on_one_server_has_the_bits_of_the_simulation(app: Path, tmp_path: Path) -> None:
    spec = RunSpec(rounds=3, seed=7, rules=FOUR)
    async with federation(tmp_path) as made:
        await made.clients(4)
        session = await made.run(app, spec)
    assert session.state is SessionState.FINISHED, session.cause
    assert session.model == hansa.simulate(app, spec, clients=4).model_hash


async def test_a_tree_of_three_tiers_and_five_combiners_has_the_same_bits(large_app: Path, tmp_path: Path) -> None:
    spec = RunSpec(rounds=2, algorithm="fedadam", algorithm_options={"learning_rate": 0.1}, rules=FOUR)
    async with federation(tmp_path, ["north", "south"]) as made:
        for name, parent in (("n1", "north"), ("n2", "north"), ("s1", "south")):
            await made.combiner(name, parent=parent)
        await made.clients(4)
        session = await made.run(large_app, spec)
        servers = {present.combiner for present in made.tree.directory.clients.values()}
        rounds = await made.rounds(session)
        contributions = await made.contributions(session)
    assert servers == {"n1", "n2", "s1"}
    assert session.state is SessionState.FINISHED, session.cause
    assert session.model == hansa.simulate(large_app, spec, clients=4).model_hash
    assert [record.weight for record in rounds] == [10 + 11 + 12 + 13] * 2
    verify_chain(rounds, contributions)


async def test_the_sum_of_a_round_is_gone_when_that_of_the_next_one_begins(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the garbage collector's help: sums are the largest that a server holds."""
    zero, older = WeightedMean.zero, []

    def counted(mean: WeightedMean, plan: SumPlan) -> Partial:
        older.append(sum(type(each) is Partial for each in gc.get_objects()))
        return zero(mean, plan)

    monkeypatch.setattr(WeightedMean, "zero", counted)
    async with federation(tmp_path) as made:
        await made.clients(2)
        gc.collect()
        gc.disable()
        try:
            session = await made.run(app, RunSpec(rounds=3, rules=RoundRules(min_clients=2, quorum=2, deadline=60)))
        finally:
            gc.enable()
    assert session.state is SessionState.FINISHED, session.cause
    assert older == [0, 0, 0]


async def test_the_aggregator_of_a_run_is_used_on_every_server(app: Path, tmp_path: Path) -> None:
    spec = RunSpec(rounds=2, aggregator_options={"uniform": True}, rules=FOUR)
    async with federation(tmp_path, ["north", "south"]) as made:
        await made.clients(4)
        session = await made.run(app, spec)
    assert session.state is SessionState.FINISHED, session.cause
    assert session.model == hansa.simulate(app, spec, clients=4).model_hash
    assert session.model != hansa.simulate(app, spec, clients=4, aggregator_options={}).model_hash


async def test_the_norm_of_each_update_is_recorded_as_the_server_that_added_it_has_measured(
    app: Path, tmp_path: Path
) -> None:
    spec = RunSpec(rounds=2, rules=RoundRules(min_clients=1, quorum=1, deadline=60))
    async with federation(tmp_path, ["north"]) as made:
        await made.clients(1, below=("north",))
        session = await made.run(app, spec)
        parts = sorted(await made.contributions(session), key=lambda part: part.round)
        rounds = await made.rounds(session)
        digests = [rounds[0].parent_model, *(row.model for row in rounds)]
        models = [codec.load(await made.controller.objects.fetch(digest)) for digest in digests]
    changes = [float(np.linalg.norm(after["w"] - before["w"])) for before, after in pairwise(models)]
    assert [part.norm for part in parts] == pytest.approx(changes, rel=1e-5)
    assert changes[0] > changes[1] > 0


async def test_where_a_sum_is_published_with_noise_no_norm_of_one_client_is_recorded(app: Path, tmp_path: Path) -> None:
    spec = RunSpec(
        rounds=1,
        rules=FOUR,
        aggregator_options={"uniform": True},
        transforms=("clip:norm=2", "central-noise:multiplier=0.01,clients=4"),  # type: ignore[arg-type]
    )
    async with federation(tmp_path) as made:
        await made.clients(4)
        session = await made.run(app, seeded(spec))
        parts = await made.contributions(session)
    assert [part.norm for part in parts] == [None] * 4


async def test_clients_may_bring_their_own_code(app: Path, tmp_path: Path) -> None:
    spec = RunSpec(rounds=1, rules=FOUR)
    async with federation(tmp_path) as made:
        await made.clients(4, app=app)
        session = await made.run(app, spec, package=False)
    assert session.state is SessionState.FINISHED, session.cause


async def test_metrics_are_kept_per_client_merged_and_central(app: Path, tmp_path: Path) -> None:
    async with federation(tmp_path, ["only"]) as made:
        await made.clients(4)
        session = await made.run(app, RunSpec(rounds=2, rules=FOUR))
        last = await made.metrics(session, round=2, kind="evaluate")
    by_client = {metric.client: metric for metric in last if metric.name == "mse" and metric.client}
    merged = next(metric for metric in last if metric.name == "mse" and not metric.client)
    weights = {f"client-{i}": 10 + i for i in range(4)}
    assert {name: metric.num_examples for name, metric in by_client.items()} == weights
    assert merged.value == pytest.approx(sum(by_client[name].value * n for name, n in weights.items()) / 46)
    assert any(metric.name == "norm" and metric.client == "central" for metric in last)


async def test_two_sessions_run_at_once_and_keep_apart(app: Path, tmp_path: Path) -> None:
    one, two = RunSpec(name="one", rounds=3, seed=1, rules=FOUR), RunSpec(name="two", rounds=3, seed=2, rules=FOUR)
    async with federation(tmp_path, ["a", "b"]) as made:
        await made.clients(4)
        first, second = await made.start(app, one), await made.start(app, two)
        ended = await asyncio.gather(made.end(first), made.end(second))
    assert [session.model for session in ended] == [
        hansa.simulate(app, spec, clients=4).model_hash for spec in (one, two)
    ]


async def test_a_stopped_session_resumes_to_the_bits_of_one_that_never_stopped(app: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    spec = RunSpec(rounds=5, algorithm="fedyogi", rules=FOUR, config={"gate": str(gate)})
    async with federation(tmp_path) as made:
        await made.clients(4)
        session = await made.start(app, spec)
        await made.until_round(session, 2)
        stopped = await made.controller.sessions.stop("default", session.id, "a test")
        assert (stopped.state, stopped.round, stopped.cause) == (SessionState.STOPPED, 2, "stopped by a test")
        gate.touch()
        await made.controller.sessions.start("default", session.id)
        await made.until_event(session, "session.finished")
        session = await made.session(session)
    assert session.round == 5
    assert session.model == hansa.simulate(app, spec, clients=4).model_hash


@pytest.mark.parametrize("then", ["resumed", "deleted"])
async def test_a_session_that_is_stored_as_ended_is_resumed_and_deleted_at_once(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """Who reads that it has ended does not hear that it is running, whatever is left for its server to tell."""
    stored, told = asyncio.Event(), asyncio.Event()
    async with federation(tmp_path) as made:
        sessions, put = made.controller.sessions, made.controller.store.put

        async def puts(*given: Any) -> None:
            await put(*given)
            if isinstance(given[0], SessionRecord) and given[0].state is SessionState.FAILED:
                stored.set()
                await told.wait()

        monkeypatch.setattr(made.controller.store, "put", puts)
        session = await made.start(app, RunSpec(rules=RoundRules(min_clients=1, quorum=1, deadline=0.01)))
        await stored.wait()
        assert (await made.session(session)).state is SessionState.FAILED
        asked = sessions.start(PROJECT, session.id) if then == "resumed" else sessions.delete(PROJECT, session.id)
        asking = asyncio.create_task(asked)
        await asyncio.sleep(0.05)
        assert not asking.done()
        told.set()
        await asking


async def test_a_controller_that_comes_back_goes_on_with_its_sessions(app: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    spec = RunSpec(rounds=5, algorithm="fedavgm", rules=FOUR, config={"gate": str(gate)})
    async with federation(tmp_path) as made:
        await made.clients(4)
        session = await made.start(app, spec)
        await made.until_round(session, 2)
    async with federation(tmp_path) as made:
        left = await made.session(session)
        assert (left.state, left.round) == (SessionState.RUNNING, 2)
        gate.touch()
        await made.clients(4)
        await made.until_event(session, "session.finished")
        session = await made.session(session)
        where = {"session": session.id, "kind": "evaluate", "client": ""}
        evaluated = await made.controller.store.list(MetricRecord, Query("default", where))
    assert session.model == hansa.simulate(app, spec, clients=4).model_hash
    assert {metric.round for metric in evaluated.items} == {1, 2, 3, 4, 5}  # that of round 2 is made up for


async def test_a_round_that_a_controller_left_open_goes_on_with_the_clients_that_it_had_chosen(
    app: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    rules = RoundRules(min_clients=3, quorum=3, selection="count", count=3, deadline=100, lease=90)
    spec = RunSpec(rounds=4, rules=rules, config={"gate": str(gate)})
    async with federation(tmp_path) as made:
        await made.clients(6)
        session = await made.start(app, spec)
        async for happened in made.controller.journal.follow("default", 0, session.id):
            if happened.kind == "round.opened" and happened.data["round"] == 3:
                chosen = {str(name) for name in cast("list[str]", happened.data["invited"])}
                break
    gate.touch()
    async with federation(tmp_path) as made:
        for i in sorted(range(6), key=lambda i: f"client-{i}" in chosen):  # first three others: enough for a round
            await made.client(f"client-{i}", i, 6)
        session = await made.end(session)
        rows = await made.controller.store.list(
            ContributionRecord, Query("default", {"session": session.id, "round": 3})
        )
    assert {row.client for row in rows.items} == chosen
    assert session.model == hansa.simulate(app, spec, clients=6).model_hash


async def test_the_model_trail_leads_from_the_last_model_to_the_seed(app: Path, tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        await made.clients(4)
        session = await made.run(app, RunSpec(rounds=3, rules=FOUR))
        assert session.model is not None
        trail = await made.controller.store.ancestors("default", session.model)
        models = await made.controller.store.list(ModelRecord, Query("default"))
    assert [model.round for model in trail] == [2, 1, 0]
    assert trail[-1].id == session.seed_model
    assert models.total == 4


async def test_a_running_session_is_not_started_twice_nor_deleted(app: Path, tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        session = await made.create(app, RunSpec(rules=FOUR))
        opened = asyncio.create_task(made.until_event(session, "train.opened"))
        await made.controller.sessions.start("default", session.id)
        await opened
        with pytest.raises(ConflictError, match="running already"):
            await made.controller.sessions.start("default", session.id)
        with pytest.raises(ConflictError, match="stop it before"):
            await made.controller.sessions.delete("default", session.id)
        why, _ = await made.controller.sessions.why("default", session.id)
        assert "0 connected, 4 needed" in str(why)
        await made.controller.sessions.stop("default", session.id, "a test")
        await made.controller.sessions.delete("default", session.id)
