"""A case as a session of a network, whose records should be those of its simulation, to the bit.

The simulation is written into the network's own store, and what the store then has of the two is compared: who
contributed what, every number that clients measured, and the models. Of an asynchronous run, in which arrival orders
what comes out, the model is made once more from what is on record alone.
"""

import asyncio
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

from replaying import replayed

from agreement.cases import Case
from agreement.engines import Ended, spec_of, written
from hansa.errors import HansaError
from hansa.experiments.sessions import SimulatedSession
from hansa.messages import RunSpec
from hansa.network.local import PROJECT, LocalNetwork
from hansa.run import counted, resolve, seeded
from hansa.simulation import SimulationResult, simulate
from hansa.store.ports import Query
from hansa.store.records import ContributionRecord, MetricRecord, RoundRecord, SessionState
from hansa.wire import codec

__all__ = ["disagreements", "networked"]

_COMBINERS: Final = ("west", "east")

R = TypeVar("R", RoundRecord, ContributionRecord, MetricRecord)

Told = Mapping[tuple[Any, ...], Any]


def networked(case: Case) -> Case:
    """The same without what only a simulation has."""
    return replace(case, devices="", attack="", tolerate=True, max_weight=Case().max_weight)


def disagreements(case: Case) -> Iterator[str]:
    """In words; nothing where the records are the same. case: as `networked` gives it."""
    clients = len(case.sizes)
    spec = seeded(counted(spec_of(case), clients))
    spec = replace(spec, project=PROJECT, rules=replace(spec.rules, min_clients=clients))
    with TemporaryDirectory() as folder:
        app = written(case, Path(folder))
        simulated = _simulated(app, spec, clients)
        if isinstance(simulated, Ended):  # a network waits and tries again, or fails the session
            return
        yield from asyncio.run(_compared(Path(folder), app, spec, simulated, clients))


def _simulated(app: Path, spec: RunSpec, clients: int) -> SimulationResult | Ended:
    try:
        return simulate(app, spec, clients=clients, tolerate_failures=True, progress=False)
    except HansaError as error:
        return Ended(type(error).__name__, str(error))


async def _compared(folder: Path, app: Path, spec: RunSpec, simulated: SimulationResult, clients: int) -> list[str]:
    async with LocalNetwork.open(folder / "network", _COMBINERS) as network:
        await network.clients(clients, app, below=_COMBINERS)
        session = await network.run(app, spec)
        if session.state is not SessionState.FINISHED:
            return [f"the session {session.state.value}: {session.cause}"]
        if resolve(spec).algorithm.buffering is not None:
            again = await asyncio.to_thread(
                replayed, app, spec, clients, await _rows(network, session.id, ContributionRecord)
            )
            return [] if codec.digest(again) == session.model else ["its record makes another model"]
        controller = network.controller
        shown = await SimulatedSession.begin(
            controller.store, controller.objects, session="simulated", project=PROJECT, spec=session.spec,
            clients=clients, engine="inline", at=time.time(),
        )  # fmt: skip
        for done in simulated.rounds:
            await shown.round(done, time.time())
        return list(_unlike(await _told(network, "simulated"), await _told(network, session.id)))


async def _told(network: LocalNetwork, session: str) -> Told:
    """What the store has of a session, by what it is of."""
    kinds = (RoundRecord, ContributionRecord, MetricRecord)
    return dict([_value(row) for kind in kinds for row in await _rows(network, session, kind)])


async def _rows(network: LocalNetwork, session: str, kind: type[R]) -> Sequence[R]:
    page = await network.controller.store.list(kind, Query(PROJECT, {"session": session}, limit=1000))
    assert page.total == len(page.items)
    return page.items


def _value(row: RoundRecord | ContributionRecord | MetricRecord) -> tuple[tuple[Any, ...], Any]:
    match row:
        case RoundRecord():
            counts = (row.accepted, row.rejected, row.failed, row.missing, row.weight)
            return (row.number, "round"), (row.model, counts, dict(row.metrics))
        case ContributionRecord():
            norm = None if row.norm is None else f"{row.norm:.5g}"
            return (row.round, row.client), (row.outcome, row.num_examples, dict(row.metrics), norm)
        case _:
            return (row.round, row.kind, row.client, row.name), row.value


def _unlike(simulated: Told, session: Told) -> Iterator[str]:
    for key in sorted({*simulated, *session}, key=str):
        one, other = simulated.get(key), session.get(key)
        both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
        if not both_nan and repr(one) != repr(other):
            yield f"{' '.join(map(str, key))}: {one} / {other}"
