"""One function per invariant, over the history of what really happened. Each returns what is wrong, in sentences."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.history import History, Session
from faults.workload import KEPT, Replay, Replays
from hansa.errors import CorruptionError
from hansa.store.link import ACCEPTED, verify_chain
from hansa.store.records import ContributionRecord, SessionState

__all__ = ["CHECKS", "check"]

ENDED = (SessionState.FINISHED, SessionState.FAILED, SessionState.STOPPED)


def check(history: History, app: Path, known: Replays | None = None) -> list[str]:
    """Every violation, with the name of its invariant in front. app: the workload's file; known: of earlier checks."""
    known = known if known is not None else Replays()
    replays = {each.record.id: known.of(app, each.record.spec) for each in history.sessions}
    return [f"{name}: {flaw}" for name, invariant in CHECKS.items() for flaw in invariant(history, replays)]


def acknowledged_updates_count_or_are_refused(history: History, _: dict[str, Replay]) -> Iterator[str]:
    """I1: what a client was told is accepted is in the committed round, by its digest; what is refused has a reason."""
    counted = _accepted(history)
    committed = {(each.record.id, part.number) for each in history.sessions for part in each.rounds}
    for note in history.notes:
        if note["what"] != "verdict" or note["kind"] != "train":
            continue
        place = note["run"], note["round"], note["process"]
        if not note["accepted"]:
            if not note["reason"]:
                yield f"{_who(place)} was refused without a reason"
        elif place[:2] in committed and note["digest"] and note["digest"] not in counted[place]:
            yield f"{_who(place)} was acknowledged, and is not in the committed round"
    for each in history.sessions:
        for part in each.contributions:
            if part.outcome != ACCEPTED and not part.reason:
                yield f"{part.client} is {part.outcome} in round {part.round} without a reason"


def no_update_counts_twice(history: History, _: dict[str, Replay]) -> Iterator[str]:
    """I2: one row for each client and round, and as many contributors as the round says."""
    for place, digests in _accepted(history).items():
        if len(digests) > 1:
            yield f"{_who(place)} is counted {len(digests)} times"
    for each in history.sessions:
        for record in each.rounds:
            parts = [part for part in each.contributions if part.round == record.number and part.outcome == ACCEPTED]
            if record.accepted != len(parts):
                yield f"round {record.number} counts {record.accepted} updates, but has {len(parts)}"


def the_denominator_is_the_weight_of_what_was_summed(history: History, _: dict[str, Replay]) -> Iterator[str]:
    """I3: nothing else has moved it."""
    for each in history.sessions:
        for record in each.rounds:
            weight = sum(part.num_examples for part in _counted(each, record.number))
            if record.weight != weight:
                yield f"round {record.number} has the weight {record.weight}, its updates have {weight}"


def rounds_form_one_chain_and_can_be_recomputed(history: History, replays: dict[str, Replay]) -> Iterator[str]:
    """I4: no gap, no fork, every model and state is durable and is what follows from its inputs."""
    for each in history.sessions:
        try:
            verify_chain(each.rounds, each.contributions)
        except CorruptionError as error:
            yield str(error)
            continue
        record = each.record
        if (record.round, record.model) != (len(each.rounds), each.rounds[-1].model if each.rounds else None):
            yield f"session {record.name} is at round {record.round}, its rounds end with {len(each.rounds)}"
        yield from _not_recomputed(each, replays[record.id])
        pruned = {model.round for model in each.models if model.pruned_at is not None}
        for found in each.rounds:
            needed = {
                found.model if found.number not in pruned else "",
                found.state if not found.state_pruned_at else "",
                (found.aggregate or "") if not found.aggregate_pruned_at else "",
            }
            for digest in needed - {"", *each.stored}:
                yield f"{digest[:12]} of round {found.number} is committed, and not (whole) on the disk"


def _not_recomputed(each: Session, replay: Replay) -> Iterator[str]:
    """What does not follow from the updates that are recorded as counted."""
    accepted = [{part.client: part.num_examples for part in _counted(each, found.number)} for found in each.rounds]
    for found, (model, state, digests) in zip(each.rounds, replay.models(accepted), strict=True):
        if found.model != model:
            yield f"the model of round {found.number} does not follow from its updates"
            return
        if found.state != state:
            yield f"the state of round {found.number} does not follow from its updates"
        for part in _counted(each, found.number):
            if part.digest and part.digest != digests[part.client]:
                yield f"round {found.number} holds other bytes of {part.client} than it computed"


def the_model_is_that_of_a_run_without_faults(history: History, replays: dict[str, Replay]) -> Iterator[str]:
    """I5: where everybody was counted in every round, it is the model of a simulation."""
    for each in history.sessions:
        spec = each.record.spec
        everybody = {f"client-{i}": 10 + i for i in range(spec.rules.min_clients)}
        sets = [{part.client for part in _counted(each, record.number)} for record in each.rounds]
        if each.record.state is SessionState.FINISHED and all(found == everybody.keys() for found in sets):
            expected = replays[each.record.id].models([everybody] * spec.rounds)[-1][0]
            if each.record.model != expected:
                yield f"session {each.record.name} ends with {each.record.model}, without faults it is {expected}"


def every_session_ends_with_a_cause(history: History, _: dict[str, Replay]) -> Iterator[str]:
    """I6: no fault of the laboratory is a reason to fail, and a finished session has all of its rounds."""
    for each in history.sessions:
        record = each.record
        if record.state not in ENDED:
            yield f"session {record.name} is {record.state}"
        elif not record.cause:
            yield f"session {record.name} is {record.state} without a cause"
        elif record.state is SessionState.FAILED:
            yield f"session {record.name} has failed: {record.cause}"
        elif record.state is SessionState.FINISHED and record.round != record.spec.rounds:
            yield f"session {record.name} has finished after {record.round} of {record.spec.rounds} rounds"
    for name, codes in history.exits.items():
        yield f"{name} has ended by itself, with {codes}"


def nothing_is_learned_twice(history: History, _: dict[str, Replay]) -> Iterator[str]:
    """I1, the client's side: an update that was kept is offered until it is settled, and never trained again."""
    names = {each.record.id: each.record.name for each in history.sessions}
    kept = Counter(
        (names.get(note["run"], ""), note["round"], note["process"])
        for note in history.notes
        if note["what"] == "kept" and note["kind"] == "train"
    )
    for place, times in kept.items():
        if times > 1:
            yield f"{_who(place)} was trained again after it had been kept"


def updates_stay_in_their_run(history: History, _: dict[str, Replay]) -> Iterator[str]:
    """I7: who is counted has computed these very bytes for this very run."""
    offered = defaultdict(set)
    for note in history.notes:
        if note["what"] == "kept":
            offered[note["run"], note["round"], note["process"]].add(note["digest"])
    for place, digests in _accepted(history).items():
        if place in offered and not set(digests) <= offered[place]:
            yield f"{_who(place)} is counted with bytes that it has not learned there"


def no_secret_is_logged(history: History, _: dict[str, Replay]) -> Iterator[str]:
    """I9."""
    for place in history.leaks:
        yield f"a token is in {place}"


def nothing_is_left_behind(history: History, _: dict[str, Replay]) -> Iterator[str]:
    """I10: no half transfer lies about."""
    for path in history.left:
        yield f"{path} is left"


def what_policies_give_up_is_gone_and_nothing_else(history: History, _: dict[str, Replay]) -> Iterator[str]:
    """Retention: no round is given up that a policy keeps; what is given up has no bytes any more."""
    needed = {digest for each in history.sessions for digest in (each.record.model, each.record.seed_model)}
    for each in history.sessions:
        keep = each.record.keep
        first = each.record.round - KEPT + 1 if keep else 1
        given_up = {number for number, is_pruned in _pruned(each) if is_pruned}
        if too_many := sorted(number for number in given_up if number >= first):
            yield f"rounds {too_many} of {each.record.name} are given up, which keeps {keep or 'all'}"
        needed |= {model.id for model in each.models if model.round >= first}
        needed |= {found.state for found in each.rounds if found.number >= first}
        if each.record.state is SessionState.FINISHED and keep and (without := _without_aggregates(each)):
            yield f"rounds {without} of {each.record.name} have no aggregate, which keeps {keep}"
    if history.unneeded is None:
        return
    yield from (f"nobody needs {digest[:12]}, and it is stored" for digest in history.unneeded)
    for each in history.sessions:
        for model in each.models:
            if model.pruned_at is None and model.id not in needed:
                yield f"the model of round {model.round} of {each.record.name} is kept, which keeps {each.record.keep}"


CHECKS: dict[str, Callable[[History, dict[str, Replay]], Iterator[str]]] = {
    "I1": acknowledged_updates_count_or_are_refused,
    "I1 once": nothing_is_learned_twice,
    "I2": no_update_counts_twice,
    "I3": the_denominator_is_the_weight_of_what_was_summed,
    "I4": rounds_form_one_chain_and_can_be_recomputed,
    "I5": the_model_is_that_of_a_run_without_faults,
    "I6": every_session_ends_with_a_cause,
    "I7": updates_stay_in_their_run,
    "I9": no_secret_is_logged,
    "I10": nothing_is_left_behind,
    "retention": what_policies_give_up_is_gone_and_nothing_else,
}


def _pruned(session: Session) -> Iterator[tuple[int, bool]]:
    """Of each round: whether its model, and then whether its state, and its aggregate, is given up."""
    yield from ((model.round, model.pruned_at is not None) for model in session.models)
    yield from ((found.number, found.state_pruned_at is not None) for found in session.rounds)
    yield from ((found.number, found.aggregate_pruned_at is not None) for found in session.rounds if found.aggregate)


def _without_aggregates(session: Session) -> list[int]:
    return [found.number for found in session.rounds if found.aggregate is None]


def _counted(session: Session, number: int) -> list[ContributionRecord]:
    return [part for part in session.contributions if part.round == number and part.outcome == ACCEPTED]


def _accepted(history: History) -> dict[tuple[str, int, str], list[str]]:
    found: dict[tuple[str, int, str], list[str]] = defaultdict(list)
    for each in history.sessions:
        for part in each.contributions:
            if part.outcome == ACCEPTED:
                found[each.record.id, part.round, part.client].append(part.digest)
    return found


def _who(place: tuple[str, int, str]) -> str:
    return f"the update of {place[2]} in round {place[1]} of {place[0]}"
