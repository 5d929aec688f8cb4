"""Who is waited for: leases, those who take the place of others, and those who come back."""

from collections.abc import Iterable

from round_examples import invite, invite_all, not_met, opened, sealing

from hansa.errors import Reason
from hansa.messages import Kind, RoundRules
from hansa.rounds.events import (
    Accepted,
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
