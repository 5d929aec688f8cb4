"""Sessions that go on beyond the rounds that they were to commit, and those that begin where another ended."""

from pathlib import Path

import pytest
from federation import federation

import hansa
from hansa.errors import ConfigError, ConflictError
from hansa.evidence.stored import verify_session
from hansa.messages import EvaluationRules, RoundRules, RunSpec
from hansa.store.ports import Query
from hansa.store.records import ModelRecord, SessionState

TWO = RoundRules(min_clients=2, quorum=2, deadline=60)
ADAM = RunSpec(
    rounds=2,
    algorithm="fedadam",
    algorithm_options={"learning_rate": 0.1},
    rules=TWO,
    evaluation=EvaluationRules(every=3),
)


async def test_a_session_that_has_finished_goes_on_to_the_bits_of_one_that_was_longer(
    app: Path, tmp_path: Path
) -> None:
    async with federation(tmp_path) as made:
        await made.clients(2)
        first = await made.run(app, ADAM)
        assert (first.state, first.round) == (SessionState.FINISHED, 2)
        with pytest.raises(ConflictError, match="has finished its 2 rounds; say how many further ones"):
            await made.controller.sessions.start("default", first.id)
        for further in (0, -1, 10**6):
            with pytest.raises((ConflictError, ConfigError)):
                await made.controller.sessions.start("default", first.id, further=further)
        await made.controller.sessions.start("default", first.id, further=3)
        (continued,) = await made.events(first, "session.continued")
        async for happened in made.controller.journal.follow("default", continued.id, first.id):
            if happened.kind == "session.finished":
                break
        ended = await made.session(first)
        found = await verify_session(made.controller.store, made.controller.objects, "default", first.id, None)
        evaluated = {metric.round for metric in await made.metrics(ended, kind="evaluate")}
    assert (ended.state, ended.round, ended.rounds, ended.spec.rounds) == (SessionState.FINISHED, 5, 5, 2)
    assert ended.cause == "all 5 rounds are committed"
    assert ended.model == hansa.simulate(app, ADAM, clients=2, rounds=5).model_hash
    assert found.rounds == 5
    assert evaluated == {2, 3, 5}


async def test_a_session_starts_from_a_model_of_the_trail_and_names_its_own(app: Path, tmp_path: Path) -> None:
    spec = RunSpec(rounds=2, rules=TWO)
    async with federation(tmp_path) as made:
        await made.clients(2)
        first = await made.run(app, spec)
        controller = made.controller
        second = await controller.sessions.create(
            "default", spec, seed_model=first.model, package=first.package, model_prefix="heart", keep="last 1"
        )
        await controller.sessions.start("default", second.id)
        ended = await made.end(second)
        models = (await controller.store.list(ModelRecord, Query("default", {"session": second.id}))).items
        trail = await controller.store.ancestors("default", ended.model or "")
        with pytest.raises(ConfigError, match="cannot name a model prefix"):
            await controller.sessions.create("default", spec, seed_model=first.model, model_prefix="no/slash")
    assert [model.name for model in models] == ["heart-1", "heart-2"]
    assert models[0].parent == first.model
    assert models[0].pruned_at is not None, "a name that every model has keeps none of them"
    assert first.model in {model.id for model in trail}
