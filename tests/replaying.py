"""An asynchronous session from its record alone: who counted in which round, with which round's model."""

from collections.abc import Iterable
from pathlib import Path

from hansa.app import load_app
from hansa.arrays import Arrays
from hansa.messages import RunSpec
from hansa.run import resolve
from hansa.simulation.clients import VirtualClients
from hansa.simulation.fold import Assignment, Folded, Folding
from hansa.store.link import ACCEPTED
from hansa.store.records import ContributionRecord

__all__ = ["replayed"]


def replayed(app: Path, spec: RunSpec, clients: int, parts: Iterable[ContributionRecord]) -> Arrays:
    """The model of a simulation's fold over what is on record, in the order of names."""
    run, loaded = resolve(spec), load_app(app)
    folding = Folding(loaded, run, VirtualClients(clients), tolerate_failures=False)
    state = run.start(run.initial_model(loaded))
    accepted = sorted((part for part in parts if part.outcome == ACCEPTED), key=lambda part: part.client)
    for number in range(1, spec.rounds + 1):
        broadcast = run.algorithm.broadcast(state)
        folding.begin(number, broadcast, spec.config, frozenset(range(number)))
        for part in (each for each in accepted if each.round == number):
            outcome = folding.train(Assignment(part.client, 1.0, part.base or 0))
            assert isinstance(outcome, Folded), outcome
        plan = run.algorithm.aggregator.plan(broadcast)
        state = run.finish(state, run.report(plan, folding.partial, number))
    return state.params
