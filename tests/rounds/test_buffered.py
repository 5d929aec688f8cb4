"""Rounds that end with their K-th update, whoever sends it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.algorithm import Cohort
from hansa.errors import Reason
from hansa.messages import RoundRules
from hansa.rounds.buffered import Buffered
from hansa.rounds.events import (
    Abandoned,
    Accepted,
    Cancelled,
    Command,
    Completed,
    Connected,
    Disconnected,
    Due,
    Event,
    Failed,
    Finish,
    Invite,
    NotMet,
    Progressed,
    Rejected,
    Seal,
    Sealed,
    Tick,
    Unused,
    WakeAt,
    Withdraw,
)

ALL = frozenset("abcd")
RULES = RoundRules(lease=60.0, deadline=1000.0)


def opened(size: int = 2, at_once: int = 3, rules: RoundRules = RULES, max_staleness: int | None = None) -> Buffered:
    """The first round, due at 0 with a, b, c and d; so many of the first by name work at once."""
    machine = Buffered(rules, size, max_staleness, lambda here, _: Cohort(tuple(here[:at_once]), tuple(here[at_once:])))
    machine.handle(Due(0.0, ALL))
    return machine


def sealed(machine: Buffered, now: float, contributors: str) -> Completed:
    (finish,) = machine.handle(Sealed(now, frozenset(contributors)))
    assert isinstance(finish, Finish)
    assert isinstance(finish.outcome, Completed)
    return finish.outcome


def invited(commands: list[Command]) -> tuple[str, ...]:
    return tuple(client for command in commands if isinstance(command, Invite) for client in command.clients)


def test_a_round_is_over_with_its_kth_update_and_whoever_works_goes_on():
    machine = opened()
    assert sorted(machine.at_work) == ["a", "b", "c"]
    assert machine.handle(Accepted(1.0, "a", 5)) == [WakeAt(1.0)]
    assert invited(machine.handle(Tick(1.0))) == ("d",)
    assert machine.handle(Accepted(2.0, "c", 5)) == [Seal()]
    assert sealed(machine, 2.0, "ac") == Completed(("a", "c"))
    assert invited(machine.handle(Due(2.0, ALL))) == ("a",)
    assert {client: place.base for client, place in machine.at_work.items()} == {"b": 1, "d": 1, "a": 2}
    machine.handle(Accepted(3.0, "b", 5))
    machine.handle(Accepted(3.0, "a", 5))
    assert machine.counted == {"b": 1, "a": 0}


def test_what_happens_at_one_time_is_taken_before_places_are_filled():
    machine = opened(size=3)
    for client in "ab":
        assert machine.handle(Accepted(1.0, client, 5)) == [WakeAt(1.0)]
    assert machine.handle(Accepted(1.0, "c", 5)) == [Seal()]
    assert sealed(machine, 1.0, "abc").contributors == ("a", "b", "c")
    assert invited(machine.handle(Due(1.0, ALL))) == ("a", "b", "c")


def test_an_update_counts_once():
    machine = opened(size=3)
    assert machine.refusal("a") is None
    machine.handle(Accepted(1.0, "a", 5))
    machine.handle(Accepted(1.0, "a", 5))
    assert machine.counted == {"a": 0}
    assert machine.refusal("a") == (Reason.DUPLICATE, "a is counted in round 1 already")
    reason, detail = machine.refusal("d") or ("", "")
    assert reason is Reason.NOT_INVITED
    assert "gets one" in detail
    machine.handle(Accepted(1.0, "d", 5))
    assert machine.counted == {"a": 0}


def test_an_update_that_is_too_stale_is_refused_and_its_client_gets_the_new_model():
    machine = opened(size=1, max_staleness=0)
    machine.handle(Accepted(1.0, "a", 5))
    sealed(machine, 1.0, "a")
    machine.handle(Due(1.0, ALL))
    assert machine.refusal("b") == (Reason.STALE, "its model is 1 round old, and max_staleness is 0")
    machine.handle(Rejected(2.0, "b", Reason.STALE, "old"))
    assert invited(machine.handle(Tick(2.0))) == ("b",)
    assert machine.at_work["b"].base == 2
    assert machine.refusal("b") is None


def test_who_fails_is_not_given_the_same_model_again():
    machine = opened(size=2, at_once=1)
    machine.handle(Failed(1.0, "a", "the sensor is off"))
    assert invited(machine.handle(Tick(1.0))) == ("b",)
    machine.handle(Accepted(2.0, "b", 5))
    assert invited(machine.handle(Tick(2.0))) == ("c",)
    machine.handle(Accepted(3.0, "c", 5))
    assert sealed(machine, 3.0, "bc").failed == {"a": "the sensor is off"}
    assert invited(machine.handle(Due(3.0, ALL))) == ("a",)


def test_silence_costs_a_place_and_progress_keeps_it():
    machine = opened(size=2, at_once=2)
    machine.handle(Progressed(50.0, "b", "train", 1.0, 2.0))
    commands = machine.handle(Tick(60.0))
    assert Withdraw("a", "no progress for 60 s, its lease") in commands
    assert invited(commands) == ("c",)
    assert commands[-1] == WakeAt(110.0)
    assert machine.refusal("a") is not None
    for client in "bc":
        machine.handle(Accepted(70.0, client, 5))
    assert sealed(machine, 70.0, "bc").missing == ("a",)


def test_a_client_that_comes_back_while_its_task_is_open_gets_it_again():
    machine = opened()
    machine.handle(Disconnected(1.0, "a"))
    assert invited(machine.handle(Connected(2.0, "a"))) == ("a",)
    assert machine.at_work["a"].since == 2.0
    machine.handle(Disconnected(3.0, "d"))
    machine.handle(Accepted(3.0, "b", 5))
    assert invited(machine.handle(Tick(3.0))) == ()
    assert machine.handle(Connected(4.0, "d"))[-1] == WakeAt(4.0)
    assert invited(machine.handle(Tick(4.0))) == ("d",)


def test_the_deadline_takes_what_there_is_or_ends_the_run():
    machine = opened(size=3)
    machine.handle(Accepted(1.0, "a", 5))
    assert Seal() in machine.handle(Tick(1000.0))
    assert sealed(machine, 1000.0, "a").contributors == ("a",)
    machine = opened(size=3, rules=RoundRules(quorum=2, min_clients=2, deadline=1000.0, lease=2000.0))
    machine.handle(Accepted(1.0, "a", 5))
    (finish,) = machine.handle(Tick(1000.0))
    assert isinstance(finish, Finish)
    assert isinstance(finish.outcome, NotMet)
    assert "1 of 3 updates are in its buffer, the quorum is 2, and its deadline has passed" in finish.outcome.cause
    assert "still at work: b, c" in finish.outcome.cause


def test_where_everyone_has_failed_the_run_ends_at_once():
    machine = opened(at_once=4)
    for client in "abc":
        machine.handle(Failed(1.0, client, "no data"))
    (finish,) = machine.handle(Failed(1.0, "d", "no data"))
    assert isinstance(finish, Finish)
    assert isinstance(finish.outcome, NotMet)
    assert "nobody is left to train; failed: a (no data), b (no data)" in finish.outcome.cause


def test_a_lost_sum_leaves_the_round_open():
    machine = opened()
    machine.handle(Accepted(1.0, "a", 5))
    machine.handle(Accepted(1.0, "b", 5))
    assert invited(machine.handle(Sealed(1.0, frozenset("a")))) == ("b", "c")
    assert machine.is_open
    assert machine.counted == {"a": 0}
    assert machine.handle(Accepted(2.0, "b", 5)) == [Seal()]
    assert sealed(machine, 2.0, "ab").contributors == ("a", "b")


def test_an_update_of_a_task_that_was_given_up_counts_and_where_it_is_lost_the_newer_task_stays():
    machine = opened(size=2, at_once=4)
    machine.silence_is_final = True
    for client in "ab":
        machine.handle(Accepted(1.0, client, 5))
    sealed(machine, 1.0, "ab")
    machine.handle(Due(1.0, ALL))
    machine.handle(Progressed(50.0, "d", "train", 1.0, 2.0))
    assert "c" in invited(machine.handle(Tick(60.0)))
    other = machine.copy()
    for each in (machine, other):
        each.handle(Accepted(60.5, "c", 5, base=1))
        each.handle(Accepted(60.5, "a", 5))
    assert sealed(machine, 60.5, "ac").unused == ()
    other.handle(Sealed(60.5, frozenset("a")))
    assert (other.counted, other.at_work["c"].base) == ({"a": 0}, 2)
    other.handle(Accepted(60.6, "b", 5))
    assert sealed(other, 60.6, "ab").unused == (Unused("c", 1),)


def test_what_comes_between_two_rounds_of_a_task_that_was_told_of_is_told_no_more():
    machine = opened(size=1)
    machine.handle(Progressed(30.0, "a", "train", 1.0, 2.0))
    machine.handle(Tick(60.0))
    machine.handle(Accepted(61.0, "a", 5))
    assert sealed(machine, 61.0, "a").missing == ("b", "c")
    machine.handle(Rejected(61.5, "b", Reason.STALE, "old"))
    machine.handle(Due(62.0, ALL))
    machine.handle(Accepted(63.0, "a", 5))
    assert sealed(machine, 63.0, "a").unused == ()


def test_a_stopped_run_is_abandoned():
    machine = opened()
    assert machine.handle(Cancelled(1.0, "by ann")) == [Finish(Abandoned("by ann"))]
    assert machine.handle(Accepted(2.0, "a", 5)) == []


def test_a_copy_goes_its_own_way():
    machine = opened()
    other = machine.copy()
    other.handle(Accepted(1.0, "a", 5))
    other.handle(Failed(1.0, "b", "no data"))
    assert sorted(machine.at_work) == ["a", "b", "c"]
    assert not machine.counted


def tasks_of(machine: Buffered, outcome: Completed) -> list[tuple[str, int]]:
    """(client, base) of all that the round tells of, when it has just ended."""
    counted = [(client, machine.number - machine.counted[client]) for client in outcome.contributors]
    return [*counted, *((each.client, each.base) for each in outcome.unused)]


def test_each_of_a_clients_tasks_is_told_of():
    machine = opened(size=3, at_once=3, rules=replace(RULES, lease=5000.0))
    machine.handle(Accepted(1.0, "a", 5))
    machine.handle(Accepted(1.0, "b", 5))
    machine.handle(Tick(1000.0))
    sealed(machine, 1000.0, "ab")
    machine.handle(Due(1000.0, ALL))
    assert machine.at_work["c"].base == 1
    machine.handle(Rejected(1001.0, "c", Reason.NOT_FINITE, "NaN"))
    assert invited(machine.handle(Tick(1001.0))) == ("c",)
    machine.handle(Failed(1002.0, "c", "no data"))
    for client in "abd":
        machine.handle(Tick(1002.0))
        machine.handle(Accepted(1002.0, client, 5))
    outcome = sealed(machine, 1002.0, "abd")
    assert outcome.unused == (Unused("c", 1, "NaN", Reason.NOT_FINITE), Unused("c", 2, "no data"))
    assert (outcome.rejected, outcome.failed) == ({}, {"c": "no data"})


def event_of(kind: str, now: float, client: str) -> Event:
    made: dict[str, Event] = {
        "accepted": Accepted(now, client, 1),
        "failed": Failed(now, client, "no data"),
        "rejected": Rejected(now, client, Reason.NOT_FINITE, "NaN"),
        "progressed": Progressed(now, client, "train", 0.0, 0.0),
        "tick": Tick(now),
        "gone": Disconnected(now, client),
        "back": Connected(now, client),
    }
    return made[kind]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["accepted", "failed", "rejected", "progressed", "tick", "gone", "back"]),
        st.sampled_from("abcd"),
        st.floats(0.0, 40.0),
        st.booleans(),
    ),
    max_size=60,
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(events=EVENTS, size=st.integers(1, 4), at_once=st.integers(1, 4), final=st.sampled_from([False, True]))
def test_whatever_happens_nobody_counts_twice_and_each_task_is_told_of_once(
    events: list[tuple[str, str, float, bool]], size: int, at_once: int, *, final: bool
):
    machine = opened(size, at_once, replace(RULES, lease=30.0))
    machine.silence_is_final = final
    now, given_out, silent = 0.0, {(client, 1) for client in machine.at_work}, set[str]()
    told: list[tuple[str, int]] = []
    for kind, client, after, pause in events:  # pause: something happens before the next round opens
        now, due = now + after, [] if machine.is_open else [Due(now + after, ALL)]
        happens = event_of("tick" if due and kind == "accepted" else kind, now, client)  # nothing is summed in between
        pending, at_work = list(machine.handle(happens)), set(machine.at_work)
        pending += [command for event in due for command in machine.handle(event)]
        while pending:
            match pending.pop(0):
                case Invite(clients):
                    again = {
                        (each, base) for each, base in given_out if each in silent or (kind, each) == ("back", client)
                    }
                    tasks = {(each, machine.at_work[each].base) for each in clients}
                    assert not tasks & given_out - again
                    given_out |= tasks
                case Withdraw(each):
                    silent.add(each)
                case Seal():
                    pending += machine.handle(Sealed(now, frozenset(machine.counted)))
                case Finish(Completed() as outcome):
                    assert len(set(outcome.contributors)) == len(outcome.contributors) <= size
                    told += tasks_of(machine, outcome)
                    assert len(set(told)) == len(told)
                    assert set(told) == given_out - {(name, place.base) for name, place in machine.at_work.items()}
                    pending += [] if pause else machine.handle(Due(now, ALL))
                case Finish():
                    return
                case _:
                    pass
        assert len(at_work) <= at_once
        assert not machine.at_work.keys() & machine.counted.keys()


@pytest.mark.parametrize("places", [1, 4])
def test_the_queue_decides_who_gets_a_place(places: int):
    machine = Buffered(RULES, 4, None, lambda here, _: Cohort(tuple(reversed(here))[:places], tuple(here)))
    assert invited(machine.handle(Due(0.0, ALL))) == (("d",) if places == 1 else ("a", "b", "c", "d"))
