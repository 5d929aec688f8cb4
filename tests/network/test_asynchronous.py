"""FedBuff and FedAsync over a real network: who is counted with which staleness decides the bits, and is on record."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from federation import PROJECT, Federation, federation

from hansa.app import load_app
from hansa.arrays import Arrays
from hansa.errors import ConfigError
from hansa.evidence.stored import verify_session
from hansa.messages import ClientInfo, RoundRules, RunSpec
from hansa.run import resolve
from hansa.simulation.clients import VirtualClients
from hansa.simulation.fold import Assignment, Folded, Folding
from hansa.store.records import ContributionRecord, SessionRecord, SessionState
from hansa.wire import codec

FOUR = RoundRules(min_clients=4, quorum=1, deadline=60)


def buffered(size: int = 2, rounds: int = 6, **options: object) -> RunSpec:
    return RunSpec(
        rounds=rounds,
        seed=7,
        algorithm="fedbuff",
        algorithm_options={"buffer": size, **options},  # type: ignore[dict-item]
        rules=FOUR,
    )


def replayed(app: Path, spec: RunSpec, clients: int, parts: Iterable[ContributionRecord]) -> Arrays:
    """The model of a simulation's fold over what is on record: who counted in which round, with which model."""
    run, loaded = resolve(spec), load_app(app)
    folding = Folding(loaded, run, VirtualClients(clients), tolerate_failures=False)
    state = run.start(run.initial_model(loaded))
    accepted = [part for part in parts if part.outcome == "accepted"]
    for number in range(1, spec.rounds + 1):
        folding.begin(number, run.algorithm.broadcast(state), frozenset(range(number)))
        for part in (each for each in accepted if each.round == number):
            assert isinstance(folding.train(Assignment(part.client, 1.0, part.base or 0)), Folded)
        plan = run.algorithm.aggregator.plan(run.algorithm.broadcast(state))
        state = run.finish(state, run.report(plan, folding.partial, number))
    return state.params


async def checked(made: Federation, app: Path, session: SessionRecord, clients: int = 4) -> list[ContributionRecord]:
    """The record of a session that has finished: whole, and what its models were made from."""
    assert session.state is SessionState.FINISHED, session.cause
    parts = list(await made.contributions(session))
    found = await verify_session(made.controller.store, made.controller.objects, PROJECT, session.id)
    assert found.sealed
    assert found.updates == sum(part.outcome == "accepted" for part in parts)
    assert codec.digest(replayed(app, session.spec, clients, parts)) == session.model
    return parts


@pytest.mark.parametrize("combiners", [(), ("north", "south")], ids=["root", "combiners"])
async def test_a_session_goes_on_with_whoever_has_come(app: Path, tmp_path: Path, combiners: tuple[str, ...]) -> None:
    async with federation(tmp_path, combiners) as made:
        await made.clients(4)
        session = await made.run(app, buffered())
        parts = await checked(made, app, session)
        rounds = await made.rounds(session)
        (last,) = (event for event in await made.events(session, "round.committed") if event.data["round"] == 6)
    assert all(part.base is not None for part in parts)
    assert len({(part.client, part.base) for part in parts}) == len(parts)
    assert all(record.accepted >= 2 for record in rounds)
    assert "staleness" in last.message
    if not combiners:
        assert [record.accepted for record in rounds] == [2] * 6
