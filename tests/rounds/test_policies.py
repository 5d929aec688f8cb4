from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from hansa.algorithm import Cohort, Policy
from hansa.errors import ConfigError
from hansa.messages import RoundRules
from hansa.rounds.policies import all_clients, count, cyclic, fraction

TEN = [f"client-{i}" for i in range(10)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_all_invites_everyone_and_keeps_nobody_in_reserve():
    assert all_clients(RoundRules())(TEN, 1, rng()) == Cohort(tuple(TEN))


def test_count_invites_that_many_and_keeps_the_rest_in_random_order():
    cohort = count(RoundRules(selection="count", count=3))(TEN, 1, rng())
    assert len(cohort.invited) == 3
    assert sorted(cohort.invited + cohort.substitutes) == TEN
    assert list(cohort.substitutes) != sorted(cohort.substitutes)


def test_count_invites_all_where_fewer_are_connected():
    assert count(RoundRules(selection="count", count=30))(TEN, 1, rng()) == Cohort(tuple(TEN))


def test_the_reserve_of_a_small_cohort_of_many_clients_is_bounded():
    many = [f"client-{i}" for i in range(10_000)]
    cohort = count(RoundRules(selection="count", count=3))(many, 1, rng())
    assert (len(cohort.invited), len(cohort.substitutes)) == (3, 3 + 256)
    assert len({*cohort.invited, *cohort.substitutes}) == 3 + 3 + 256
    assert len(cyclic(RoundRules(selection="cyclic"))(many, 1, rng()).substitutes) == 256


def test_the_same_generator_chooses_the_same_cohort():
    policy = count(RoundRules(selection="count", count=3))
    assert policy(TEN, 1, rng(5)) == policy(TEN, 1, rng(5))
    assert policy(TEN, 1, rng(5)) != policy(TEN, 1, rng(6))


def test_count_chooses_uniformly():
    policy, generator = count(RoundRules(selection="count", count=3)), rng()
    chosen = Counter(name for _ in range(2000) for name in policy(TEN, 1, generator).invited)
    # 2000 draws of 3 of 10: 600 each, standard deviation sqrt(2000 · 0.3 · 0.7) = 20.5; five of them either way.
    assert all(abs(chosen[name] - 600) < 103 for name in TEN)


@pytest.mark.parametrize(("share", "size"), [(0.1, 1), (0.01, 1), (0.25, 3), (0.24, 2), (1.0, 10)])
def test_fraction_invites_that_share_to_the_nearest_whole_number_but_somebody(share: float, size: int):
    cohort = fraction(RoundRules(selection="fraction", fraction=share))(TEN, 1, rng())
    assert len(cohort.invited) == size
    assert sorted(cohort.invited + cohort.substitutes) == TEN


def test_fraction_invites_at_least_the_quorum():
    rules = RoundRules(selection="fraction", fraction=0.1, min_clients=4, quorum=4)
    assert len(fraction(rules)(TEN, 1, rng()).invited) == 4


def test_cyclic_invites_one_client_per_round_in_turn():
    policy = cyclic(RoundRules(selection="cyclic"))
    assert [policy(["a", "b", "c"], number, rng()).invited for number in (1, 2, 3, 4)] == [
        ("a",),
        ("b",),
        ("c",),
        ("a",),
    ]
    assert policy(["a", "b", "c"], 2, rng()).substitutes == ("c", "a")


@pytest.mark.parametrize("factory", [all_clients, cyclic])
def test_nobody_available_is_an_empty_cohort(factory: Callable[[RoundRules], Policy]):
    assert factory(RoundRules())([], 1, rng()) == Cohort(())


@pytest.mark.parametrize(
    ("factory", "rules", "said"),
    [
        (count, RoundRules(), "count is not set; set it to the number of clients"),
        (
            count,
            RoundRules(count=2, quorum=3, min_clients=3),
            "count is 2, fewer than the quorum of 3; raise count to 3",
        ),
        (fraction, RoundRules(), "fraction is not set; set it above 0"),
        (fraction, RoundRules(fraction=1.5), "fraction is 1.5; it must be above 0 and at most 1"),
        (cyclic, RoundRules(quorum=2, min_clients=2), "invites one client, but quorum is 2; set it to 1"),
        (all_clients, RoundRules(count=3), "count is set, but the selection 'all' does not use it"),
        (count, RoundRules(count=3, fraction=0.5), "fraction is set, but the selection 'count' does not use it"),
        (all_clients, RoundRules(quorum=2), "raise min_clients to 2 or lower quorum"),
    ],
)
def test_refuses_rules_that_do_not_suit_the_policy_and_says_what_to_do(
    factory: Callable[[RoundRules], Policy], rules: RoundRules, said: str
):
    with pytest.raises(ConfigError, match=said):
        factory(rules)
