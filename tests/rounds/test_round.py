from collections.abc import Callable, Iterable, Sequence

import pytest

from hansa.algorithm import Cohort
from hansa.errors import ConfigError, Reason, UpdateRejectedError
from hansa.messages import Kind, RoundRules
from hansa.rounds.events import (
    Abandoned,
    Accepted,
    Cancelled,
    Command,
    Completed,
    Connected,
    Disconnected,
    Due,
    Failed,
    Finish,
    Invite,
    NotMet,
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

ABC = ("a", "b", "c")


def invite_all(available: Sequence[str]) -> Cohort:
    return Cohort(tuple(available))


def invite(*clients: str, substitutes: tuple[str, ...] = ()) -> Callable[[Sequence[str]], Cohort]:
    return lambda _available: Cohort(clients, substitutes)


def opened(
    rules: RoundRules,
    choose: Callable[[Sequence[str]], Cohort] = invite_all,
    connected: Iterable[str] = ABC,
) -> Round:
    """A round that was due at 0 with everyone connected that it needs."""
    round_ = Round(1, Kind.TRAIN, rules, choose)
    round_.handle(Due(0.0, frozenset(connected)))
    assert round_.state is RoundState.OPEN
    return round_


def not_met(commands: list[Command]) -> NotMet:
    (command,) = commands
    assert isinstance(command, Finish)
    assert isinstance(command.outcome, NotMet)
    return command.outcome


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


# ── leases and substitutes ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_silent_client_loses_its_lease_and_a_substitute_is_invited():
    round_ = opened(RoundRules(lease=60.0), invite("a", substitutes=("c", "b")))
    assert round_.handle(Tick(60.0)) == [
        Withdraw("a", "no progress for 60 s, the lease is 60 s"),
        Invite(("c",)),
        WakeAt(120.0),
    ]


def test_leases_that_end_together_are_withdrawn_by_name_and_nobody_takes_two_places():
    round_ = opened(RoundRules(lease=60.0), invite("b", "a", substitutes=("d", "d", "c")), connected="abcd")
    why = "no progress for 60 s, the lease is 60 s"
    assert round_.handle(Tick(60.0))[:3] == [Withdraw("a", why), Withdraw("b", why), Invite(("d", "c"))]


def test_progress_renews_the_lease():
    round_ = opened(RoundRules(lease=60.0), invite("a", substitutes=("b",)))
    assert round_.handle(Progressed(59.0, "a", "train", 1, 10)) == []
    assert round_.handle(Tick(60.0)) == [WakeAt(119.0)]
    assert round_.handle(Tick(118.0)) == [WakeAt(119.0)]
    assert round_.handle(Tick(119.0))[:2] == [
        Withdraw("a", "no progress for 60 s, the lease is 60 s"),
        Invite(("b",)),
    ]


def test_being_disconnected_is_silence():
    round_ = opened(RoundRules(lease=60.0), invite("a", substitutes=("b",)))
    assert round_.handle(Disconnected(30.0, "a")) == []
    assert Withdraw("a", "no progress for 60 s, the lease is 60 s") in round_.handle(Tick(60.0))


def test_substitutes_come_in_the_cohorts_order_and_only_when_connected():
    round_ = opened(RoundRules(), invite("a", "b", substitutes=("f", "e", "d")), connected="abdef")
    round_.handle(Disconnected(1.0, "f"))
    assert round_.handle(Failed(2.0, "a", "boom")) == [Invite(("e",))]
    round_.handle(Connected(3.0, "f"))
    assert round_.handle(Rejected(4.0, "b", Reason.NOT_FINITE, "NaN")) == [Invite(("f",))]


def test_newcomers_come_after_the_substitutes_in_order_of_name():
    round_ = opened(RoundRules(), invite("m", "n", "o", substitutes=("z",)), connected="mnoz")
    for newcomer in ("y", "x", "p"):
        round_.handle(Connected(1.0, newcomer))
    assert round_.handle(Failed(2.0, "m", "boom")) == [Invite(("z",))]
    assert round_.handle(Failed(2.0, "n", "boom")) == [Invite(("p",))]
    assert round_.handle(Failed(2.0, "o", "boom")) == [Invite(("x",))]


def test_nobody_is_replaced_when_replace_failed_is_off():
    round_ = opened(RoundRules(replace_failed=False), invite("a", "b", substitutes=("c",)))
    assert round_.handle(Failed(1.0, "a", "boom")) == []
    assert round_.handle(Connected(2.0, "z")) == []
    assert round_.handle(Accepted(3.0, "b", 5)) == [Seal()]


def test_a_client_that_lost_its_lease_and_still_delivers_counts():
    round_ = opened(RoundRules(lease=60.0), invite("a", substitutes=("b",)))
    round_.handle(Tick(60.0))
    assert round_.handle(Accepted(61.0, "a", 5)) == []
    assert round_.handle(Accepted(62.0, "b", 5)) == [Seal()]
    assert round_.handle(Sealed(63.0, frozenset("ab"))) == [Finish(Completed(("a", "b")))]


def test_a_place_that_is_filled_twice_needs_no_third_client():
    round_ = opened(RoundRules(lease=60.0), invite("a", substitutes=("b", "c")))
    round_.handle(Tick(60.0))
    round_.handle(Accepted(61.0, "a", 5))
    assert round_.handle(Failed(62.0, "b", "boom")) == [Seal()]


def test_a_client_that_reconnects_is_invited_again_with_a_new_lease():
    round_ = opened(RoundRules(lease=60.0), invite("a"))
    round_.handle(Disconnected(10.0, "a"))
    assert round_.handle(Connected(50.0, "a")) == [Invite(("a",))]
    assert round_.handle(Connected(51.0, "a")) == []
    assert round_.handle(Tick(60.0)) == [WakeAt(110.0)]


def test_a_client_that_delivered_is_not_invited_again_when_it_reconnects():
    round_ = opened(RoundRules())
    round_.handle(Accepted(1.0, "a", 5))
    round_.handle(Disconnected(2.0, "a"))
    assert round_.handle(Connected(3.0, "a")) == []


def test_a_client_that_returns_after_its_lease_gets_its_place_back_if_nobody_has_it():
    round_ = opened(RoundRules(lease=60.0), invite("a"), connected="a")
    round_.handle(Disconnected(1.0, "a"))
    round_.handle(Tick(60.0))
    assert round_.handle(Connected(70.0, "a")) == [Invite(("a",)), WakeAt(130.0)]


def test_a_client_that_returns_after_its_lease_is_not_needed_if_its_place_is_taken():
    round_ = opened(RoundRules(lease=60.0), invite("a", substitutes=("b",)), connected="ab")
    round_.handle(Disconnected(1.0, "a"))
    round_.handle(Tick(60.0))
    assert round_.handle(Connected(70.0, "a")) == []


def test_a_client_that_came_back_and_went_again_is_not_offered_a_place():
    round_ = opened(RoundRules(lease=60.0), invite("a", substitutes=("b",)), connected="ab")
    round_.handle(Disconnected(1.0, "a"))
    round_.handle(Tick(60.0))
    round_.handle(Connected(70.0, "a"))
    round_.handle(Disconnected(71.0, "a"))
    assert round_.handle(Failed(72.0, "b", "boom")) == []
    assert round_.handle(Connected(73.0, "a")) == [Invite(("a",))]


def test_a_client_that_may_come_back_is_waited_for_even_when_nobody_is_replaced():
    round_ = opened(RoundRules(lease=60.0, replace_failed=False), invite("a"))
    round_.handle(Disconnected(1.0, "a"))
    round_.handle(Tick(60.0))
    assert round_.state is RoundState.OPEN
    assert round_.handle(Connected(70.0, "a")) == [Invite(("a",)), WakeAt(130.0)]


def test_a_client_that_lost_its_lease_and_then_fails_is_listed_as_failed():
    round_ = opened(RoundRules(lease=60.0), invite("a", substitutes=("b",)))
    round_.handle(Tick(60.0))
    round_.handle(Failed(61.0, "a", "killed"))
    round_.handle(Accepted(62.0, "b", 5))
    assert round_.handle(Sealed(63.0, frozenset("b"))) == [Finish(Completed(("b",), failed={"a": "killed"}))]


def test_nobody_is_invited_while_sealing_or_past_the_deadline():
    sealed = sealing(RoundRules(enough=2))
    sealed.handle(Disconnected(2.5, "c"))
    assert sealed.handle(Connected(2.6, "c")) == []
    over = opened(RoundRules(deadline=50.0), invite("a", "b"))
    over.handle(Accepted(1.0, "b", 5))
    over.handle(Disconnected(2.0, "a"))
    assert over.handle(Connected(50.0, "a")) == [Seal()]


def test_a_client_that_hangs_is_not_invited_over_and_over():
    round_ = opened(RoundRules(lease=60.0, deadline=1000.0), invite("a"), connected="a")
    assert Withdraw("a", "no progress for 60 s, the lease is 60 s") in round_.handle(Tick(60.0))
    assert round_.handle(Tick(500.0)) == [WakeAt(1000.0)]
    outcome = not_met(round_.handle(Tick(1000.0)))
    assert "lost its lease while connected: a" in outcome.cause


def test_a_client_that_speaks_after_its_lease_gets_its_place_back_if_nobody_has_it():
    round_ = opened(RoundRules(lease=60.0), invite("a"), connected="a")
    round_.handle(Tick(60.0))
    assert round_.handle(Progressed(61.0, "a", "train", 5, 10)) == [Invite(("a",)), WakeAt(121.0)]


# ── after the seal ───────────────────────────────────────────────────────────────────────────────────────────────────


def sealing(rules: RoundRules) -> Round:
    """a and b delivered, c works; sealed at 3."""
    round_ = opened(rules)
    round_.handle(Accepted(1.0, "a", 5))
    assert round_.handle(Accepted(2.0, "b", 5)) == [Seal()]
    return round_


def test_whose_update_was_lost_may_offer_it_again_though_the_rest_are_a_quorum():
    round_ = sealing(RoundRules(enough=2, lease=60.0))
    assert round_.handle(Sealed(3.0, frozenset("a"))) == [Invite(("b", "c")), WakeAt(60.0)]
    assert round_.handle(Accepted(4.0, "b", 5)) == [Seal()]
    assert round_.handle(Sealed(5.0, frozenset("ab"))) == [Finish(Completed(("a", "b"), missing=("c",)))]


def test_who_does_not_offer_a_lost_update_again_within_a_lease_is_missing():
    round_ = sealing(RoundRules(enough=2, lease=60.0))
    round_.handle(Sealed(3.0, frozenset("a")))
    round_.handle(Disconnected(4.0, "b"))
    assert round_.handle(Tick(60.0)) == [Withdraw("c", "no progress for 60 s, the lease is 60 s"), WakeAt(63.0)]
    assert round_.handle(Tick(63.0)) == [Withdraw("b", "no progress for 60 s, the lease is 60 s"), Seal()]
    assert round_.handle(Sealed(64.0, frozenset("a"))) == [Finish(Completed(("a",), missing=("b", "c")))]


def test_a_lost_update_is_not_waited_for_where_enough_are_left_or_the_deadline_has_passed():
    enough = opened(RoundRules(enough=1))
    assert enough.handle(Accepted(1.0, "a", 5)) == [Seal()]
    enough.handle(Accepted(2.0, "b", 5))
    assert enough.handle(Sealed(3.0, frozenset("b"))) == [Finish(Completed(("b",), missing=("a", "c")))]
    late = sealing(RoundRules(enough=2, deadline=50.0))
    assert late.handle(Sealed(51.0, frozenset("a"))) == [Finish(Completed(("a",), missing=("b", "c")))]


def test_opens_again_when_a_lost_server_leaves_less_than_the_quorum():
    rules = RoundRules(min_clients=2, quorum=2, enough=2, lease=60.0, deadline=500.0)
    round_ = sealing(rules)
    assert round_.handle(Sealed(70.0, frozenset("a"))) == [
        Withdraw("c", "no progress for 70 s, the lease is 60 s"),
        Invite(("b",)),
        WakeAt(130.0),
    ]
    assert round_.state is RoundState.OPEN
    assert round_.handle(Accepted(71.0, "b", 5)) == [Seal()]
    assert round_.handle(Sealed(72.0, frozenset("ab"))) == [Finish(Completed(("a", "b"), missing=("c",)))]


def test_opens_again_for_those_who_came_too_late_and_those_who_still_work():
    round_ = opened(RoundRules(min_clients=2, quorum=2, enough=2), connected="abcd")
    round_.handle(Accepted(1.0, "a", 5))
    round_.handle(Accepted(2.0, "b", 5))
    round_.handle(Rejected(2.5, "c", Reason.LATE, "sealed"))
    assert round_.handle(Sealed(3.0, frozenset()))[0] == Invite(("a", "b", "c", "d"))


def test_a_late_verdict_from_before_the_round_opened_again_is_out_of_date():
    round_ = sealing(RoundRules(min_clients=2, quorum=2, enough=2))
    round_.handle(Sealed(3.0, frozenset("a")))
    assert round_.handle(Rejected(4.0, "b", Reason.LATE, "sealed")) == []
    assert [client.name for client in round_.why(4.0).outstanding] == ["b", "c"]


def test_a_lost_client_that_is_away_is_invited_when_it_returns():
    round_ = sealing(RoundRules(min_clients=2, quorum=2, enough=2, lease=60.0))
    round_.handle(Disconnected(2.5, "b"))
    assert round_.handle(Sealed(3.0, frozenset("a"))) == [Invite(("c",)), WakeAt(60.0)]
    assert round_.handle(Connected(4.0, "b")) == [Invite(("b",))]


def test_fails_when_updates_are_lost_after_the_deadline():
    round_ = sealing(RoundRules(min_clients=2, quorum=2, enough=2, deadline=50.0))
    outcome = not_met(round_.handle(Sealed(50.0, frozenset("a"))))
    assert "1 of 3 invited clients delivered, 2 are needed" in outcome.cause
    assert "with a server the updates of b were lost" in outcome.cause
    assert outcome.contributors == ("a",)
    assert outcome.missing == ("b", "c")


def test_a_delivery_between_seal_and_sealed_counts_if_the_sum_holds_it():
    round_ = sealing(RoundRules(enough=2))
    assert round_.handle(Accepted(2.5, "c", 5)) == []
    assert round_.handle(Sealed(3.0, frozenset(ABC))) == [Finish(Completed(ABC))]


def test_the_sum_is_believed_where_the_acceptance_was_not_heard():
    round_ = sealing(RoundRules(enough=2))
    assert round_.handle(Sealed(3.0, frozenset(ABC))) == [Finish(Completed(ABC))]


def test_refuses_a_sum_of_clients_that_took_no_part():
    round_ = sealing(RoundRules(enough=2))
    with pytest.raises(UpdateRejectedError, match="a sum for round 1 holds eve, who took no part") as refused:
        round_.handle(Sealed(3.0, frozenset({"a", "eve"})))
    assert refused.value.reason is Reason.NOT_INVITED
    assert round_.handle(Sealed(4.0, frozenset("ab"))) == [Finish(Completed(("a", "b"), missing=("c",)))]


def test_sealed_while_open_changes_nothing():
    round_ = opened(RoundRules())
    assert round_.handle(Sealed(1.0, frozenset("a"))) == []
    assert round_.why(1.0).accepted == 0


def test_ticks_while_sealing_are_harmless_and_the_alarm_is_set_anew_when_it_opens_again():
    round_ = sealing(RoundRules(min_clients=2, quorum=2, enough=2, lease=60.0))
    assert round_.handle(Tick(59.999999)) == []
    assert WakeAt(60.0) in round_.handle(Sealed(59.999999, frozenset("a")))


# ── why ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_why_names_what_it_waits_for():
    round_ = opened(RoundRules(min_clients=2, quorum=2, enough=3, lease=60.0, deadline=100.0))
    round_.handle(Accepted(1.0, "a", 7))
    round_.handle(Progressed(10.0, "b", "train", 20, 100))
    round_.handle(Progressed(20.0, "b", "train", 50, 100))
    round_.handle(Disconnected(21.0, "c"))
    why = round_.why(30.0)
    assert (why.state, why.accepted, why.examples, why.quorum, why.enough, why.invited) == (
        RoundState.OPEN,
        1,
        7,
        2,
        3,
        3,
    )
    assert (why.connected, why.needed, why.deadline) == (2, 2, 100.0)
    b, c = why.outstanding
    assert (b.name, b.activity, b.done, b.total, b.rate) == ("b", "train", 50, 100, 3.0)
    assert (b.silent, b.lease_ends, b.connected) == (10.0, 80.0, True)
    assert (c.name, c.activity, c.rate, c.silent, c.lease_ends, c.connected) == (
        "c",
        "invited",
        None,
        30.0,
        60.0,
        False,
    )
    assert str(why) == (
        "round 1 is open: 1 of 3 invited clients delivered, 2 are needed; it waits for "
        "b (train 50/100, silent for 10 s), c (invited, silent for 30 s, not connected); 70 s to its deadline"
    )


def test_the_rate_starts_anew_with_another_activity_or_when_work_starts_over():
    round_ = opened(RoundRules(), invite("a"))

    def rate() -> float | None:
        return round_.why(9.0).outstanding[0].rate

    round_.handle(Progressed(0.0, "a", "download", 0, 100))
    round_.handle(Progressed(1.0, "a", "download", 100, 100))
    assert rate() == 100.0
    round_.handle(Progressed(2.0, "a", "train", 0, 10))
    assert rate() is None
    round_.handle(Progressed(2.5, "a", "upload", 5, 10))
    assert rate() is None
    round_.handle(Progressed(3.0, "a", "train", 2, 10))
    round_.handle(Progressed(4.0, "a", "train", 4, 10))
    assert rate() == 2.0
    round_.handle(Progressed(5.0, "a", "train", 1, 10))
    assert rate() is None
    round_.handle(Progressed(6.0, "a", "train", 3, 10))
    assert rate() == 2.0


def test_why_says_so_while_it_waits_for_clients_and_for_sums():
    waiting = Round(2, Kind.TRAIN, RoundRules(min_clients=3, deadline=100.0), invite_all)
    waiting.handle(Due(0.0, frozenset("a")))
    assert str(waiting.why(40.0)) == "round 2 waits for clients: 1 connected, 3 needed; 60 s to its deadline"
    round_ = sealing(RoundRules(enough=2))
    assert str(round_.why(3.0)) == (
        "round 1 waits for the servers' sums: 2 of 3 invited clients delivered, 1 are needed"
    )
    round_.handle(Sealed(4.0, frozenset("ab")))
    assert str(round_.why(5.0)) == "round 1 is closed: 2 of 3 invited clients delivered, 1 are needed"


def test_why_names_a_few_clients_and_counts_the_rest():
    names = [f"client-{i}" for i in range(9)]
    round_ = opened(RoundRules(lease=60.0), connected=names)
    assert "client-4 (invited, silent for 0 s) and 4 more" in str(round_.why(0.0))
    round_.handle(Tick(60.0))
    assert round_.why(60.0).withdrawn == tuple(names)
    assert "it waits for newcomers" in str(round_.why(60.0))


# ── an evaluation ────────────────────────────────────────────────────────────────────────────────────────────────────


def evaluation(connected: Iterable[str], kind: Kind = Kind.EVALUATE) -> Round:
    """Due at 0, as a session opens it: one report is enough, nobody is replaced."""
    round_ = Round(4, kind, RoundRules(lease=60.0, deadline=3600.0, replace_failed=False), invite_all)
    round_.handle(Due(0.0, frozenset(connected)))
    return round_


def test_an_evaluation_ends_when_its_only_client_is_gone_for_a_lease():
    round_ = evaluation("a")
    assert round_.handle(Disconnected(10.0, "a")) == []
    assert round_.handle(Tick(59.0)) == [WakeAt(60.0)]
    withdrawn, ended = round_.handle(Tick(60.0))
    assert isinstance(withdrawn, Withdraw)
    assert not_met([ended]).cause == (
        "round 4: 0 of 1 invited clients delivered, 1 are needed; lost its lease and is not connected: a; "
        "nobody who was invited is left to evaluate; start clients again"
    )


def test_an_evaluation_goes_on_with_a_client_that_is_back_within_the_lease():
    round_ = evaluation("a")
    round_.handle(Disconnected(10.0, "a"))
    assert round_.handle(Connected(50.0, "a")) == [Invite(("a",))]
    round_.handle(Tick(100.0))
    assert round_.handle(Accepted(105.0, "a", 1)) == [Seal()]


def test_an_evaluation_waits_for_a_client_that_is_silent_while_connected_until_that_goes():
    round_ = evaluation("a")
    (withdrawn, _) = round_.handle(Tick(60.0))
    assert isinstance(withdrawn, Withdraw)
    assert round_.state is RoundState.OPEN
    assert not_met(round_.handle(Disconnected(70.0, "a"))).missing == ("a",)


def test_an_evaluation_waits_a_lease_for_somebody_to_come():
    assert evaluation("").handle(Connected(59.0, "a"))[0] == Invite(("a",))
    assert not_met(evaluation("").handle(Tick(60.0))).cause == (
        "the evaluation of round 4 did not open within its lease of 60 s: 0 clients are connected, 1 are needed; "
        "start more clients, lengthen `lease`, or lower `min_clients` and `quorum`"
    )


def test_training_waits_for_its_clients_until_the_deadline():
    round_ = evaluation("a", Kind.TRAIN)
    round_.handle(Disconnected(10.0, "a"))
    round_.handle(Tick(60.0))
    round_.handle(Tick(3599.0))
    assert round_.state is RoundState.OPEN
    assert round_.handle(Connected(3599.5, "a"))[0] == Invite(("a",))
