"""What a round says that it waits for."""

import pytest
from round_examples import invite, invite_all, opened, sealing

from hansa.messages import Kind, RoundRules
from hansa.rounds.events import (
    Accepted,
    Disconnected,
    Due,
    Progressed,
    Sealed,
    Tick,
)
from hansa.rounds.round import Round
from hansa.rounds.why import RoundState


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


@pytest.mark.parametrize(
    ("activity", "said"),
    [("upload", "upload 3.2/16.0 MB"), ("train", "train 3.2e+06/1.6e+07"), ("model", "model 3.2/16.0 MB")],
)
def test_what_moves_bytes_is_told_in_megabytes_and_what_user_code_does_in_its_own_units(activity: str, said: str):
    round_ = opened(RoundRules(), invite("a"))
    round_.handle(Progressed(1.0, "a", activity, 3_200_000, 16_000_000))
    assert said in str(round_.why(2.0))


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
    back = "newcomers, or for those that lost their lease to come back: client-0, client-1, "
    assert f"it waits for {back}" in str(round_.why(60.0))
