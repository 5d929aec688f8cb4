"""One function per invariant over what a simulation has left: its history, and the rows and bytes on its disk."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias, cast

from dst.clients import app_of
from dst.schedule import ENDED, is_asynchronous
from dst.world import World
from hansa.algorithm import State
from hansa.arrays import Arrays
from hansa.errors import CorruptionError
from hansa.messages import ClientInfo, Contribution, Kind, Update
from hansa.network.controller.commit import OPENED
from hansa.run import resolve, slots_to_arrays
from hansa.store.link import ACCEPTED, verify_chain
from hansa.store.records import (
    ContributionRecord,
    EventRecord,
    MetricRecord,
    ModelRecord,
    RoundRecord,
    SessionRecord,
    SessionState,
)
from hansa.wire import codec
from hansa.wire.frames import RoundKey

__all__ = ["CHECKS", "check"]

Invariant: TypeAlias = Callable[[World], Iterator[str]]

_HOLDING = ("kill", "power", "pause", "reset", "cut", "one-way", "slow", "trip", "stop", "away")
"""How the names begin of faults that can lose a sum with whoever holds it, or make it late."""


def check(world: World) -> list[str]:
    """Every violation, with the name of its invariant in front: those seen as they happened, and those left."""
    found = [f"{name}: {flaw}" for name, invariant in CHECKS.items() for flaw in invariant(world)]
    return [*world.history.wrong, *found]


def acknowledged_updates_count_or_are_refused(world: World) -> Iterator[str]:
    """I1: what a server accepted is counted with these bytes; else it is on record why not, or a fault lost the sum."""
    lossy = any(kind.startswith(_HOLDING) for kind in world.history.faults)
    for (client, key), digest in world.history.acknowledged.items():
        if key.kind is not Kind.TRAIN or _rounds(world, key.run) < key.round:
            continue
        session = world.session(key.run)
        if is_asynchronous(session.spec) and session.state is not SessionState.FINISHED:
            continue  # it counted in a round that was not committed, whatever that of its model was
        outcome, counted = world.fate(key, client)
        if outcome == ACCEPTED and counted != digest:
            yield f"{client} is counted in {key} with {counted[:8]}, acknowledged was {digest[:8]}"
        elif outcome != ACCEPTED and not lossy:
            yield f"the update of {client} in {key} was acknowledged and is {outcome or 'nowhere'}; nothing was lost"
    for part in world.left(ContributionRecord):
        if part.outcome != ACCEPTED and not part.reason:
            yield f"{part.client} is {part.outcome} in round {part.round} without a reason"
    yield from _without_a_row(world)


def no_update_counts_twice(world: World) -> Iterator[str]:
    """I2: one row for each client and round; the same bytes count once in a session."""
    parts = [part for part in world.left(ContributionRecord) if part.outcome == ACCEPTED]
    for what, number in Counter((part.session, part.base, part.client) for part in parts).items():
        if number > 1 and what[1] is not None:
            yield f"{what} is counted {number} times"
    for what, number in Counter((part.session, part.round, part.client) for part in parts).items():
        if number > 1:
            yield f"{what} is counted {number} times"
    for (_, digest), number in Counter((part.session, part.digest) for part in parts).items():
        if number > 1:
            yield f"the update {digest[:8]} is counted {number} times"


def the_denominator_is_the_weight_of_what_was_summed(world: World) -> Iterator[str]:
    """I3: a round's numbers are those of its accepted updates, whose own examples are known."""
    for record in world.left(RoundRecord):
        accepted = {
            client: examples
            for client, (outcome, _, examples) in world.counted(record.session, record.number).items()
            if outcome == ACCEPTED
        }
        if (record.accepted, record.weight) != (len(accepted), sum(accepted.values())):
            yield f"round {record.number} says {record.accepted} updates of {record.weight}, there are {accepted}"
        for client, examples in accepted.items():
            if examples != 10 + int(client.partition("-")[2]):
                yield f"{client} counts with {examples} examples in round {record.number}"


def rounds_form_one_chain(world: World) -> Iterator[str]:
    """I4: no gap, no fork, and everything that a round names is stored."""
    for session in world.left(SessionRecord):
        rounds = [each for each in world.left(RoundRecord) if each.session == session.id]
        parts = [each for each in world.left(ContributionRecord) if each.session == session.id]
        try:
            verify_chain(rounds, parts)
        except CorruptionError as error:
            yield str(error)
        newest = rounds[-1].model if rounds else None
        if (session.round, session.model) != (len(rounds), newest):
            yield f"{session.name} is at round {session.round}, its rounds end with {len(rounds)}"
        models = {each.round: each for each in world.left(ModelRecord) if each.session == session.id}
        for record in rounds:
            model = models.get(record.number)
            if model is None or model.id != record.model:
                yield f"the model of round {record.number} has no record"
            elif model.pruned_at is None and model.id not in world.stored:
                yield f"the model of round {record.number} is committed, and not stored"
            if record.state and record.state_pruned_at is None and record.state not in world.stored:
                yield f"the state of round {record.number} is committed, and not stored"
            if record.aggregate and record.aggregate_pruned_at is None and record.aggregate not in world.stored:
                yield f"the aggregate of round {record.number} is committed, and not stored"


def models_are_those_of_a_run_without_faults(world: World) -> Iterator[str]:
    """I5: every model, state and update, computed anew from who was counted, is the same to the bit."""
    for session in world.left(SessionRecord):
        yield from _not_recomputed(world, session)


def every_session_ends_with_a_cause(world: World) -> Iterator[str]:
    """I6: and fails only because too few could deliver."""
    for session in world.left(SessionRecord):
        if session.state in ENDED and not session.cause:
            yield f"{session.name} is {session.state} without a cause"
        if session.state is SessionState.FAILED and not session.cause.startswith("round "):
            yield f"{session.name} has failed: {session.cause}"
        if session.state is SessionState.FINISHED and session.round != session.spec.rounds:
            yield f"{session.name} has finished after {session.round} of {session.spec.rounds} rounds"
        if session.state is SessionState.FAILED and not world.history.faults:
            yield f"{session.name} has failed, and nothing was wrong: {session.cause}"


def updates_stay_in_their_run(world: World) -> Iterator[str]:
    """I7: whoever is counted has learned these bytes in this very phase."""
    learned = {(n.node, n.key.run, n.key.round, n.digest) for n in world.history.notes if n.what == "kept" and n.key}
    for part in world.left(ContributionRecord):
        where = part.client, part.session, part.base or part.round, part.digest
        if part.outcome == ACCEPTED and where not in learned:
            yield f"{part.client} is counted in round {part.round} of {part.session} with what it has not learned there"


def what_policies_give_up_is_gone_and_nothing_else(world: World) -> Iterator[str]:
    """Retention: by the end exactly what a policy does not keep is marked, and no bytes are left of it."""
    sessions = world.left(SessionRecord)
    if any(session.state not in ENDED for session in sessions):
        return  # whatever holds it up is told elsewhere; nobody has pruned at its end
    needed = {digest for session in sessions for digest in (session.seed_model, session.model)}
    for session in sessions:
        kept = _kept(world, session)
        models = [(each.round, each.pruned_at) for each in world.left(ModelRecord) if each.session == session.id]
        rounds = [each for each in world.left(RoundRecord) if each.session == session.id and each.state]
        states = [(each.number, each.state_pruned_at) for each in rounds]
        sums = [(each.number, each.aggregate_pruned_at) for each in rounds if each.aggregate]
        for what, marks in (("model", models), ("state", states), ("aggregate", sums)):
            for number, pruned_at in marks:
                if (pruned_at is None) != (number in kept):
                    how = "kept" if pruned_at is None else "given up"
                    yield f"the {what} of round {number} of {session.name} is {how}, which keeps {session.keep}"
    needed |= {model.id for model in world.left(ModelRecord) if model.pruned_at is None}
    needed |= {record.state for record in world.left(RoundRecord) if record.state_pruned_at is None}
    needed |= {record.aggregate for record in world.left(RoundRecord) if record.aggregate_pruned_at is None}
    if left := world.stored - needed:
        yield f"nobody needs {sorted(digest[:8] for digest in left)}, and it is stored"
    if world.database.removals:
        yield f"{sorted(world.database.removals)} is still to be removed"


CHECKS: Mapping[str, Invariant] = {
    "I1": acknowledged_updates_count_or_are_refused,
    "I2": no_update_counts_twice,
    "I3": the_denominator_is_the_weight_of_what_was_summed,
    "I4": rounds_form_one_chain,
    "I5": models_are_those_of_a_run_without_faults,
    "I6": every_session_ends_with_a_cause,
    "I7": updates_stay_in_their_run,
    "retention": what_policies_give_up_is_gone_and_nothing_else,
}


def _without_a_row(world: World) -> Iterator[str]:
    """Who had a place in a round that is committed, and is not told of in it."""
    if any(kind.startswith("stop") for kind in world.history.faults):
        return  # a round that was given up begins anew, with others perhaps
    working: dict[str, set[str]] = {}
    for event in world.left(EventRecord):
        if "working" in event.data:
            working[event.session] = set(cast("dict[str, int]", event.data["working"]))
    for opened in world.left(EventRecord):
        if opened.kind == OPENED and (number := int(str(opened.data["round"]))) <= _rounds(world, opened.session):
            key, session = RoundKey(opened.session, number, Kind.TRAIN), world.session(opened.session)
            if is_asynchronous(session.spec) and session.keep is not None:
                continue  # a model that was given up while nobody held it takes its tasks with it
            for client in cast("list[str]", opened.data["invited"]):
                if not world.fate(key, client)[0] and client not in working.get(opened.session, ()):
                    yield f"{client} was invited to round {number} of {opened.session}, and has no row there"


def _kept(world: World, session: SessionRecord) -> set[int]:
    """The rounds that its policy keeps, worked out in the plainest way."""
    everything = set(range(1, session.round + 1))
    if session.keep in (None, "all, aggregates"):
        return everything
    kept = {session.round}
    for clause in session.keep.split(", "):
        match clause.split():
            case ["last", number]:
                kept |= set(range(session.round - int(number) + 1, session.round + 1))
            case [*_, "loss", better]:
                losses = {
                    metric.round: metric.value
                    for metric in world.left(MetricRecord)
                    if (metric.session, metric.kind, metric.name, metric.client) == (session.id, Kind.TRAIN, "loss", "")
                }
                if not losses:
                    return everything
                best = (max if better == "max" else min)(losses.values())
                kept.add(min(number for number, loss in losses.items() if loss == best))
    return kept & everything


def _rounds(world: World, session: str) -> int:
    return next(each.round for each in world.left(SessionRecord) if each.id == session)


def _not_recomputed(world: World, session: SessionRecord) -> Iterator[str]:
    """Play the session on one server, in one order, with nobody but those who were counted."""
    clients = world.plan.clients
    app, run = app_of(clients), resolve(session.spec)
    aggregator = run.algorithm.aggregator
    state: State = run.start(run.initial_model(app))
    memories: dict[str, Arrays] = {}
    broadcasts: dict[int, Arrays] = {}
    rounds = {each.number: each for each in world.left(RoundRecord) if each.session == session.id}
    for number in range(1, session.round + 1):
        if number not in rounds:
            yield f"round {number} of {session.name} is nowhere"
            return
        record = rounds[number]
        broadcast = broadcasts[number] = run.algorithm.broadcast(state)
        plan = aggregator.plan(broadcast)
        total, kept = aggregator.zero(plan), {}
        parts = [part for part in world.left(ContributionRecord) if (part.session, part.round) == (session.id, number)]
        for part in sorted(parts, key=lambda part: part.client):
            if part.outcome != ACCEPTED:
                continue
            client, base = part.client, part.base or number
            info = ClientInfo(client, int(client.partition("-")[2]), clients)
            task = run.task(app, info, base, Kind.TRAIN, memory=memories.get(client))
            update: Update = run.train(app, broadcasts[base], task)
            if codec.digest(update.arrays) != part.digest:
                yield f"round {number} of {session.name} holds other bytes of {client} than it would have computed"
            if run.algorithm.buffering is not None:
                counted = run.algorithm.buffering.counted
                update = replace(update, arrays=counted(update.arrays, number - base, broadcasts[base], broadcast))
            total = aggregator.accumulate(plan, total, update, Contribution(client, update.num_examples))
            if update.memory is not None:
                kept[client] = update.memory
        memories |= kept
        aggregate = aggregator.report(plan, total)
        state = run.finish(state, aggregate)
        slots = slots_to_arrays(state.slots)
        keeps = "aggregates" in (session.keep or "")
        added = (codec.digest(aggregate.mean), aggregate.weight) if keeps else (None, None)
        found = record.model, record.state, record.aggregate, record.aggregate_weight
        if found != (codec.digest(state.params), codec.digest(slots) if slots else "", *added):
            yield f"round {number} of {session.name} does not follow from the updates that are counted in it"
            return
