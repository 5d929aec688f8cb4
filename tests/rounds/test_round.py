"""How a round opens, closes and ends, and what counts in it."""

from collections.abc import Iterable, Sequence

import pytest
from round_examples import ABC, invite, invite_all, not_met, opened

from hansa.algorithm import Cohort
from hansa.errors import ConfigError, Reason
from hansa.messages import Kind, RoundRules
from hansa.rounds.events import (
    Abandoned,
    Accepted,
    Cancelled,
    Completed,
    Connected,
    Disconnected,
    Due,
    Failed,
    Finish,
    Invite,
    Progressed,
    Rejected,
    Seal,
    Sealed,
    Tick,
    WakeAt,
    Withdraw,
)
from hansa.rounds.round import Round
from hansa.rounds.why import RoundState

# ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_opens_at_once_with_the_sorted_connected_clients():
    seen: list[Sequence[str]] = []

    def choose(available: Sequence[str]) -> Cohort:
        seen.append(available)
        return Cohort(("b",), ("a", "c"))

    round_ = Round(1, Kind.TRAIN, RoundRules(lease=60.0), choose)
    assert round_.handle(Due(0.0, frozenset({"c", "a", "b"}))) == [Invite(("b",)), WakeAt(60.0)]
    assert seen == [["a", "b", "c"]]


def test_waits_until_min_clients_are_connected():
    round_ = Round(1, Kind.TRAIN, RoundRules(min_clients=3, deadline=100.0), invite_all)
    assert round_.handle(Due(10.0, frozenset({"a"}))) == [WakeAt(110.0)]
    assert round_.handle(Connected(11.0, "b")) == []
    assert round_.handle(Disconnected(12.0, "a")) == []
    assert round_.handle(Connected(13.0, "c")) == []
    assert round_.state is RoundState.WAITING
    assert round_.handle(Connected(14.0, "a")) == [Invite(("a", "b", "c")), WakeAt(74.0)]


def test_waits_for_the_quorum_even_where_min_clients_is_less():
    round_ = Round(1, Kind.TRAIN, RoundRules(min_clients=1, quorum=2), invite_all)
    assert Invite(("a",)) not in round_.handle(Due(0.0, frozenset({"a"})))
    assert round_.handle(Connected(1.0, "b"))[0] == Invite(("a", "b"))


def test_fails_at_the_deadline_when_too_few_clients_came_and_says_what_to_do():
    round_ = Round(4, Kind.TRAIN, RoundRules(min_clients=2, deadline=100.0), invite_all)
    round_.handle(Due(10.0, frozenset({"a"})))
    assert round_.handle(Tick(109.9)) == [WakeAt(110.0)]
    outcome = not_met(round_.handle(Tick(110.0)))
    assert outcome.cause == (
        "round 4 did not open within its deadline of 100 s: 1 clients are connected (a), 2 are needed; "
        "start more clients, lengthen `deadline`, or lower `min_clients` and `quorum`"
    )


def test_a_client_that_comes_after_the_deadline_does_not_open_the_round():
    round_ = Round(1, Kind.TRAIN, RoundRules(deadline=100.0), invite_all)
    round_.handle(Due(0.0, frozenset()))
    assert isinstance(round_.handle(Connected(100.0, "a"))[0], Finish)


def test_nothing_happens_before_it_is_due():
    round_ = Round(1, Kind.TRAIN, RoundRules(), invite_all)
    assert round_.handle(Connected(0.0, "a")) == []
    assert round_.handle(Tick(9e9)) == []
    assert str(round_.why(0.0)) == "round 1 is not due yet"


def test_a_second_due_changes_nothing():
    round_ = opened(RoundRules(deadline=100.0))
    assert round_.handle(Due(50.0, frozenset())) == []
    assert round_.why(50.0).deadline == 100.0


# ── going on after its driver has died ───────────────────────────────────────────────────────────────────────────────


def begun_before(rules: RoundRules, invited: tuple[str, ...], places: int, connected: Iterable[str]) -> Round:
    def choose(_available: Sequence[str]) -> Cohort:
        raise AssertionError("it has been chosen before")

    round_ = Round(3, Kind.TRAIN, rules, choose)
    here = [Invite(tuple(sorted(set(invited) & set(connected))))] if set(invited) & set(connected) else []
    assert round_.handle(Due(0.0, frozenset(connected), invited, places)) == [*here, WakeAt(rules.lease)]
    return round_


def test_a_round_that_had_begun_goes_on_with_those_who_were_in_it():
    round_ = begun_before(RoundRules(min_clients=3, lease=60.0), ("c", "a"), 2, connected="abd")
    assert round_.handle(Accepted(1.0, "a", 5)) == []
    assert round_.handle(Connected(2.0, "c")) == [Invite(("c",))]
    assert round_.handle(Accepted(3.0, "c", 5)) == [Seal()]


def test_in_a_round_that_had_begun_a_place_is_given_away_only_when_its_lease_has_ended():
    round_ = begun_before(RoundRules(lease=60.0), ("a", "b"), 2, connected="ad")
    assert round_.handle(Accepted(1.0, "a", 5)) == []
    withdrawn, invited, _ = round_.handle(Tick(60.0))
    assert withdrawn == Withdraw("b", "no progress for 60 s, the lease is 60 s")
    assert invited == Invite(("d",))


def test_those_who_took_a_place_before_are_not_more_places():
    round_ = begun_before(RoundRules(lease=60.0), ("a", "b", "c"), 2, connected="abcd")
    round_.handle(Failed(1.0, "a", "out of memory"))
    assert round_.handle(Accepted(2.0, "b", 5)) == []
    assert round_.handle(Accepted(3.0, "c", 5)) == [Seal()]  # and "d", who is connected, is not asked


def test_in_a_round_that_had_begun_everyone_gets_a_row():
    round_ = begun_before(RoundRules(lease=60.0, replace_failed=False, quorum=1), ("a", "b"), 2, connected="a")
    round_.handle(Accepted(1.0, "a", 5))
    assert Seal() in round_.handle(Tick(60.0))
    (finish,) = round_.handle(Sealed(61.0, frozenset("a")))
    assert finish == Finish(Completed(("a",), ("b",)))


@pytest.mark.parametrize(
    ("cohort", "said"),
    [
        (Cohort(("a", "z")), "z, who are not connected"),
        (Cohort(("a", "a")), "a client twice"),
        (Cohort(("a",)), "1 clients, fewer than the quorum of 2"),
    ],
)
def test_refuses_a_cohort_that_a_policy_may_not_choose(cohort: Cohort, said: str):
    round_ = Round(1, Kind.TRAIN, RoundRules(selection="mine", min_clients=2, quorum=2), lambda _: cohort)
    with pytest.raises(ConfigError, match=f"the policy 'mine' invited {said} to round 1"):
        round_.handle(Due(0.0, frozenset(ABC)))
    assert round_.invited == frozenset()


# ── delivering and closing ───────────────────────────────────────────────────────────────────────────────────────────


def test_seals_when_everyone_delivered_and_completes_with_whom_the_sum_holds():
    round_ = opened(RoundRules())
    assert round_.handle(Accepted(1.0, "a", 5)) == []
    assert round_.handle(Accepted(2.0, "b", 5)) == []
    assert round_.handle(Accepted(3.0, "c", 5)) == [Seal()]
    assert round_.state is RoundState.SEALING
    assert round_.handle(Sealed(4.0, frozenset(ABC))) == [Finish(Completed(ABC))]
    assert round_.outcome == Completed(ABC)


def test_seals_when_enough_updates_are_accepted():
    round_ = opened(RoundRules(enough=2))
    round_.handle(Accepted(1.0, "c", 5))
    assert round_.handle(Accepted(2.0, "a", 5)) == [Seal()]
    assert round_.handle(Sealed(3.0, frozenset("ac"))) == [Finish(Completed(("a", "c"), missing=("b",)))]


def test_seals_at_the_deadline_with_the_quorum():
    round_ = opened(RoundRules(quorum=1, deadline=50.0))
    round_.handle(Accepted(1.0, "a", 5))
    round_.handle(Progressed(49.0, "b", "train", 1, 2))
    assert round_.handle(Tick(50.0)) == [Seal()]
    assert round_.handle(Sealed(51.0, frozenset("a"))) == [Finish(Completed(("a",), missing=("b", "c")))]


def test_fails_at_the_deadline_without_the_quorum_and_says_who_was_missing():
    rules = RoundRules(min_clients=3, quorum=2, deadline=50.0, lease=20.0)
    round_ = opened(rules, connected="abcd")
    round_.handle(Accepted(1.0, "a", 5))
    round_.handle(Failed(2.0, "b", "ValueError: no data"))
    round_.handle(Disconnected(3.0, "c"))
    round_.handle(Progressed(5.0, "d", "train", 40, 100))
    round_.handle(Tick(20.0))
    round_.handle(Progressed(24.0, "d", "train", 50, 100))
    round_.handle(Progressed(43.0, "d", "train", 60, 100))
    outcome = not_met(round_.handle(Tick(50.0)))
    assert outcome.cause == (
        "round 1: 1 of 4 invited clients delivered, 2 are needed; "
        "still at work: d (train 60/100, silent for 7 s); lost its lease and is not connected: c; "
        "failed: b (ValueError: no data); lengthen `deadline` (50 s) or lower `quorum` (2)"
    )
    assert outcome.contributors == ("a",)
    assert outcome.missing == ("c", "d")
    assert outcome.failed == {"b": "ValueError: no data"}


def test_a_delivery_handed_in_with_the_deadline_counts():
    round_ = opened(RoundRules(deadline=50.0))
    assert round_.handle(Accepted(50.0, "a", 5)) == [Seal()]


def test_waits_for_newcomers_when_everyone_settled_without_the_quorum():
    round_ = opened(RoundRules(min_clients=2, quorum=2), invite("a", "b"), connected="ab")
    round_.handle(Accepted(1.0, "a", 5))
    assert round_.handle(Failed(2.0, "b", "boom")) == []
    assert round_.handle(Connected(3.0, "z")) == [Invite(("z",))]
    assert round_.handle(Accepted(4.0, "z", 5)) == [Seal()]
    assert round_.handle(Sealed(5.0, frozenset("az"))) == [Finish(Completed(("a", "z"), failed={"b": "boom"}))]


def test_fails_at_once_when_nobody_is_left_and_nobody_may_come():
    round_ = opened(RoundRules(replace_failed=False), invite("a"))
    outcome = not_met(round_.handle(Failed(1.0, "a", "boom")))
    said = "failed: a (boom); nobody is left who could deliver, and `replace_failed` is off; mend that first"
    assert outcome.cause.endswith(said)


def test_fails_at_once_when_everyone_failed_and_nobody_else_is_connected():
    round_ = opened(RoundRules(), invite("a", "b"), connected="ab")
    assert round_.handle(Failed(1.0, "a", "boom")) == []
    outcome = not_met(round_.handle(Rejected(2.0, "b", Reason.STRUCTURE, "no such tensor")))
    assert outcome.cause.endswith("failed: a (boom); everyone failed, and nobody else is connected; mend that first")


def test_why_says_in_whose_place_newcomers_are_awaited_and_long_times_in_whole_seconds():
    round_ = opened(RoundRules(min_clients=3, quorum=3, deadline=3600.0), invite("a", "b", "c"), connected="abc")
    round_.handle(Accepted(1.0, "a", 5))
    round_.handle(Failed(1.0, "b", "boom"))
    round_.handle(Rejected(1.0, "c", Reason.STRUCTURE, "no such tensor"))
    assert str(round_.why(15.5)).endswith(
        "it waits for newcomers, in the place of 1 that failed and 1 that were refused; 3584 s to its deadline"
    )


def test_cancelling_abandons_the_round_in_every_state():
    waiting = Round(1, Kind.TRAIN, RoundRules(), invite_all)
    assert waiting.handle(Cancelled(0.0, "stopped by ada")) == [Finish(Abandoned("stopped by ada"))]
    open_ = opened(RoundRules())
    assert open_.handle(Cancelled(1.0, "stopped")) == [Finish(Abandoned("stopped"))]
    sealing = opened(RoundRules(enough=1))
    sealing.handle(Accepted(1.0, "a", 5))
    assert sealing.handle(Cancelled(2.0, "stopped")) == [Finish(Abandoned("stopped"))]


def test_nothing_changes_after_the_end():
    round_ = opened(RoundRules())
    round_.handle(Cancelled(1.0, "stopped"))
    for event in (
        Due(2.0, frozenset(ABC)),
        Connected(2.0, "z"),
        Disconnected(2.0, "a"),
        Progressed(2.0, "a", "train", 1, 2),
        Accepted(2.0, "a", 5),
        Rejected(2.0, "b", Reason.LATE, "late"),
        Failed(2.0, "c", "boom"),
        Tick(9e9),
        Sealed(9e9, frozenset("a")),
        Cancelled(9e9, "again"),
    ):
        assert round_.handle(event) == []
    assert round_.outcome == Abandoned("stopped")


def test_an_evaluation_closes_by_the_same_rules():
    round_ = Round(1, Kind.EVALUATE, RoundRules(), invite_all)
    round_.handle(Due(0.0, frozenset("ab")))
    round_.handle(Accepted(1.0, "a", 5))
    assert round_.handle(Accepted(1.0, "b", 5)) == [Seal()]
    assert round_.handle(Sealed(1.0, frozenset("ab"))) == [Finish(Completed(("a", "b")))]


# ── reports that must not count ──────────────────────────────────────────────────────────────────────────────────────


def test_never_counts_a_client_twice():
    round_ = opened(RoundRules(min_clients=2, quorum=2))
    round_.handle(Accepted(1.0, "a", 5))
    assert round_.handle(Accepted(1.0, "a", 9)) == []
    why = round_.why(1.0)
    assert (why.accepted, why.examples) == (1, 5)


def test_a_client_that_was_not_invited_does_not_count():
    round_ = opened(RoundRules(), invite("a"))
    for event in (
        Accepted(1.0, "b", 5),
        Rejected(1.0, "b", Reason.WEIGHT, "0"),
        Failed(1.0, "b", "boom"),
        Progressed(1.0, "b", "train", 1, 2),
    ):
        assert round_.handle(event) == []
    assert round_.invited == {"a"}
    assert round_.why(1.0).accepted == 0


def test_what_is_counted_stays_counted_whatever_else_is_said():
    round_ = opened(RoundRules())
    round_.handle(Accepted(1.0, "a", 5))
    round_.handle(Rejected(2.0, "a", Reason.DUPLICATE, "another digest"))
    round_.handle(Failed(3.0, "a", "killed while cleaning up"))
    round_.handle(Progressed(4.0, "a", "upload", 1, 1))
    assert round_.why(4.0).accepted == 1


def test_the_first_failure_stands():
    round_ = opened(RoundRules(enough=1))
    round_.handle(Failed(1.0, "a", "first"))
    round_.handle(Failed(2.0, "a", "second"))
    round_.handle(Rejected(3.0, "a", Reason.STRUCTURE, "third"))
    round_.handle(Accepted(4.0, "b", 5))
    (finish,) = round_.handle(Sealed(5.0, frozenset("b")))
    assert finish == Finish(Completed(("b",), missing=("c",), failed={"a": "first"}))


def test_time_never_runs_backwards():
    round_ = opened(RoundRules(lease=60.0), invite("a"))
    round_.handle(Progressed(50.0, "a", "train", 1, 9))
    round_.handle(Progressed(40.0, "a", "train", 2, 9))
    assert round_.why(50.0).outstanding[0].lease_ends == 110.0
