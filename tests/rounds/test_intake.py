import pytest

from hansa.errors import ConflictError, Reason, UpdateRejectedError
from hansa.messages import Kind
from hansa.rounds.intake import Admit, Intake, Repeat


def intake() -> Intake:
    """a and b are invited to round 3; an update may weigh up to 100."""
    server = Intake("run-1", 3, Kind.TRAIN, 100)
    server.invite(["a", "b"])
    return server


def refusal(server: Intake, client: str, num_examples: int, digest: str) -> Reason:
    with pytest.raises(UpdateRejectedError) as refused:
        server.offer(client, num_examples, digest)
    return refused.value.reason


def test_admits_an_invited_client_and_counts_it_once_it_is_settled():
    server = intake()
    assert server.offer("a", 10, "d1") == Admit("a", "d1")
    assert server.receiving == {"a"}
    assert server.accepted == set()
    server.settle("a", accepted=True)
    assert server.receiving == set()
    assert server.accepted == {"a"}
    assert server.seal() == {"a"}


def test_refuses_a_client_that_is_not_invited():
    server = intake()
    assert refusal(server, "eve", 10, "d1") is Reason.NOT_INVITED
    server.invite(["eve"])
    assert server.offer("eve", 10, "d1") == Admit("eve", "d1")
    assert server.invited == {"a", "b", "eve"}


@pytest.mark.parametrize("num_examples", [0, -1, 101, 2**63])
def test_refuses_a_weight_out_of_range(num_examples: int):
    server = intake()
    assert refusal(server, "a", num_examples, "d1") is Reason.WEIGHT
    assert server.receiving == set()


@pytest.mark.parametrize("num_examples", [1, 100])
def test_admits_the_smallest_and_the_largest_weight(num_examples: int):
    assert intake().offer("a", num_examples, "d1") == Admit("a", "d1")


def test_refuses_what_comes_after_the_seal():
    server = intake()
    server.seal()
    assert refusal(server, "a", 10, "d1") is Reason.LATE


def test_refuses_another_update_of_a_client_that_is_counted():
    server = intake()
    server.offer("a", 10, "d1")
    server.settle("a", accepted=True)
    assert refusal(server, "a", 10, "d2") is Reason.DUPLICATE


def test_recognises_what_it_accepted_before_and_after_the_seal():
    server = intake()
    server.offer("a", 10, "d1")
    server.settle("a", accepted=True)
    assert server.offer("a", 10, "d1") == Repeat("a", "d1", accepted=True)
    server.seal()
    assert server.offer("a", 10, "d1") == Repeat("a", "d1", accepted=True)


def test_resumes_what_it_is_receiving():
    server = intake()
    server.offer("a", 10, "d1")
    assert server.offer("a", 10, "d1") == Repeat("a", "d1", accepted=False)


def test_a_client_that_trained_again_replaces_its_unfinished_offer():
    server = intake()
    server.offer("a", 10, "d1")
    assert server.offer("a", 10, "d2") == Admit("a", "d2", replaces="d1")
    assert server.offer("a", 10, "d2") == Repeat("a", "d2", accepted=False)


def test_the_verdict_of_a_replaced_offer_does_not_end_the_newer_one():
    server = intake()
    server.offer("a", 10, "d1")
    server.offer("a", 10, "d2")
    server.settle("a", accepted=False, digest="d1")
    assert server.offer("a", 10, "d2") == Repeat("a", "d2", accepted=False)


def test_a_replaced_offer_that_was_folded_all_the_same_is_the_one_that_counts():
    server = intake()
    server.offer("a", 10, "d1")
    server.offer("a", 10, "d2")
    server.settle("a", accepted=True, digest="d1")
    assert server.offer("a", 10, "d1") == Repeat("a", "d1", accepted=True)
    assert refusal(server, "a", 10, "d2") is Reason.DUPLICATE


def test_a_rejected_client_may_offer_again():
    server = intake()
    server.offer("a", 10, "d1")
    server.settle("a", accepted=False)
    assert server.receiving == set()
    assert server.offer("a", 10, "d2") == Admit("a", "d2")


def test_settling_and_sealing_twice_changes_nothing():
    server = intake()
    server.offer("a", 10, "d1")
    server.settle("a", accepted=True)
    server.settle("a", accepted=True)
    server.settle("a", accepted=False)
    server.invite(["a"])
    assert server.seal() == {"a"}
    assert server.seal() == {"a"}


def test_sealing_forgets_what_is_half_received_and_refuses_to_count_it():
    server = intake()
    server.offer("a", 10, "d1")
    assert server.seal() == set()
    with pytest.raises(ConflictError, match=r"a cannot be accepted in round 3 \(train\) of run run-1: it was sealed"):
        server.settle("a", accepted=True)
    assert server.seal() == set()


def test_refuses_to_count_what_was_never_offered():
    with pytest.raises(ConflictError, match="no offer of it was admitted"):
        intake().settle("a", accepted=True)


def test_reopening_admits_again_and_keeps_what_was_accepted():
    server = intake()
    server.offer("a", 10, "d1")
    server.settle("a", accepted=True)
    server.seal()
    server.reopen()
    server.reopen()
    assert server.offer("b", 10, "d2") == Admit("b", "d2")
    server.settle("b", accepted=True)
    assert server.seal() == {"a", "b"}
