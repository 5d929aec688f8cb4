"""What comes of a seal: a sum that holds everybody, one that has lost some, and the round that opens again."""

import pytest
from round_examples import ABC, not_met, opened, sealing

from hansa.errors import Reason, UpdateRejectedError
from hansa.messages import RoundRules
from hansa.rounds.events import (
    Accepted,
    Completed,
    Connected,
    Disconnected,
    Finish,
    Invite,
    Rejected,
    Seal,
    Sealed,
    Tick,
    WakeAt,
    Withdraw,
)
from hansa.rounds.why import RoundState


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
