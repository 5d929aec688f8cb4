"""Many owners, of whom only those are read that are asked for; one data set shared among clients."""

import tracemalloc
from collections.abc import Sequence
from typing import overload

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hansa
from hansa.data import Examples, FederatedData, Partitioned, Split, digits
from hansa.data.examples import hold_out
from hansa.data.federated import Names
from hansa.errors import InputError
from hansa.messages import ClientInfo, RoundRules

few = settings(derandomize=True, deadline=None, max_examples=50)


def split_of(number: int, size: int = 10) -> Split:
    examples = Examples(np.full((size, 2), number, np.float32), np.full(size, number, np.int64))
    return Split(examples, examples.take(np.arange(min(2, size))))


class Numbered(Sequence[str]):
    """user0 … without storing one."""

    def __init__(self, total: int) -> None:
        self._total = total

    def __len__(self) -> int:
        return self._total

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[str]: ...
    def __getitem__(self, position: int | slice) -> str | Sequence[str]:
        assert isinstance(position, int)
        if not 0 <= position < self._total:
            raise IndexError(position)
        return f"user{position}"


def test_an_owner_is_read_when_it_is_asked_for_and_never_kept() -> None:
    read: list[str] = []

    def reader(name: str) -> Split:
        read.append(name)
        return split_of(int(name[4:]))

    users = FederatedData(Names(f"user{k}" for k in range(10)), reader)
    assert (len(users), list(users)[:2], "user3" in users, "nobody" in users, read) == (
        10,
        ["user0", "user1"],
        True,
        False,
        [],
    )
    assert users["user3"].train.y.tolist() == [3] * 10
    assert users.at(4).train.y[0] == 4
    assert users["user3"].train.x.shape == (10, 2)
    assert read == ["user3", "user4", "user3"]
    with pytest.raises(KeyError, match="no user 'nobody' among the 10"):
        users["nobody"]
    assert users.get("nobody") is None


def test_it_says_how_many_owners_there_are() -> None:
    whole = Split(Examples(np.zeros((1, 2)), np.zeros(1)), Examples(np.zeros((1, 2)), np.zeros(1)))
    assert repr(FederatedData.of({"a": whole})) == "FederatedData of 1 user"
    assert repr(FederatedData(["a", "b"], lambda _: whole, what="hospital")) == "FederatedData of 2 hospitals"


def test_clients_have_every_owner_once_whatever_their_number() -> None:
    users = FederatedData.of({f"u{k}": split_of(k, 1 + k) for k in range(7)})
    for total in (1, 3, 7):
        shares = [users.share(ClientInfo(f"client-{k}", k, total)) for k in range(total)]
        owners = sorted({int(y) for share in shares for y in share.train.y})
        assert owners == list(range(7))
        assert sum(len(share.train.y) for share in shares) == 1 + 2 + 3 + 4 + 5 + 6 + 7
    assert sorted(set(users.share(ClientInfo("c", 1, 3)).train.y.tolist())) == [1, 4]
    with pytest.raises(InputError, match="8 clients and 7 users; use at most 7"):
        users.share(ClientInfo("c", 0, 8))


def test_owners_whose_examples_have_other_shapes_are_not_pooled() -> None:
    other = Split(Examples(np.zeros((1, 3)), np.zeros(1)), Examples(np.zeros((0, 3)), np.zeros(0)))
    with pytest.raises(InputError, match="different shapes"):
        FederatedData.of({"a": split_of(0), "b": other}).share(ClientInfo("c"))


def test_a_million_owners_cost_nothing_in_a_simulation_until_they_are_chosen() -> None:
    read: list[str] = []

    def reader(name: str) -> Split:
        read.append(name)
        return split_of(1)

    def peak(total: int) -> int:
        users = FederatedData(Numbered(total), reader)
        app = hansa.App()
        app.data(users.share)

        @app.model
        def model(_rng: np.random.Generator) -> dict[str, np.ndarray]:
            return {"w": np.zeros(2)}

        @app.train
        def train(model: hansa.Arrays, task: hansa.Task) -> hansa.Update:
            return hansa.Update({"w": model["w"] + task.data.train.x.mean()}, num_examples=len(task.data.train.y))

        tracemalloc.start()
        hansa.simulate(app, clients=total, rounds=2, rules=RoundRules(selection="count", count=5))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    small, large = peak(1_000), peak(1_000_000)
    assert len(read) == 20
    assert large < small + 100_000


def test_what_is_read_passes_through_a_function_and_holds_some_out() -> None:
    users = FederatedData.of({"a": split_of(3), "b": split_of(5)})
    doubled = users.map(lambda split: Split(Examples(split.train.x * 2, split.train.y), split.test))
    assert doubled["a"].train.x[0, 0] == 6
    held = users.hold_out(0.3, seed=1)
    assert (len(held["a"].train.y), len(held["a"].test.y)) == (7, 3 + 2)
    assert np.array_equal(held["a"].train.x, users.hold_out(0.3, seed=1)["a"].train.x)


@few
@given(names=st.lists(st.text(min_size=1).filter(lambda t: "\0" not in t and t.isprintable()), unique=True))
def test_names_are_sorted_found_and_whole(names: list[str]) -> None:
    kept = Names(names)
    assert list(kept) == sorted(names)
    assert [kept.index(name) for name in kept] == list(range(len(names)))
    assert "no such name\n" not in kept
    with pytest.raises(ValueError, match="there is no"):
        kept.index("no such name\n")
    assert tuple(kept[:2]) == tuple(sorted(names)[:2])


def test_names_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(InputError, match="'a' names two clients"):
        Names(["a", "b", "a"])
    for name in ("", "a\0"):
        with pytest.raises(InputError, match="cannot be the name"):
            Names([name])


@few
@given(count=st.integers(0, 40), fraction=st.floats(0, 0.99), seed=st.integers(0, 9))
def test_what_is_held_out_and_what_is_not_are_all_examples_once(count: int, fraction: float, seed: int) -> None:
    examples = Examples(np.arange(count), np.arange(count))
    split = hold_out(examples, fraction, np.random.default_rng(seed))
    assert sorted([*split.train.y.tolist(), *split.test.y.tolist()]) == list(range(count))
    assert len(split.test.y) == int(fraction * count)


def test_a_fraction_that_leaves_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(InputError, match="at least 0 and below 1"):
        hold_out(Examples(np.zeros(1), np.zeros(1)), 1.0, np.random.default_rng(0))


def test_a_data_set_is_read_once_and_shared_by_name() -> None:
    read: list[int] = []

    def reader() -> Split:
        read.append(1)
        return digits.read()

    shares = Partitioned(reader, "shards:2", test_fraction=0.25)
    assert read == []
    all_of_them = [shares.share(ClientInfo(f"c{k}", k, 10)) for k in range(10)]
    assert read == [1]
    assert sum(len(s.train.y) + len(s.test.y) for s in all_of_them) == 1438
    assert max(len(np.unique(s.train.y)) for s in all_of_them) <= 4
    assert len(all_of_them[0].test.y) == 143 // 4 or len(all_of_them[0].test.y) == 144 // 4
    again = Partitioned(digits.read(), "shards:2", test_fraction=0.25).share(ClientInfo("c3", 3, 10))
    assert np.array_equal(again.train.x, all_of_them[3].train.x)


def test_a_scheme_that_needs_more_is_given_it() -> None:
    examples = Examples(np.zeros((6, 1)), np.array([0, 1, 2, 3, 0, 1]))
    by_owner = Partitioned(examples, "grouped", owners=np.array(list("aabbcc")), test_fraction=0)
    assert sorted(len(by_owner.share(ClientInfo("c", k, 3)).train.y) for k in range(3)) == [2, 2, 2]
    tree = Partitioned(examples, "pachinko", coarse=np.array([0, 0, 1, 1, 0, 0]))
    assert tree.parts(2).sizes.tolist() == [3, 3]
    with pytest.raises(InputError, match="needs owners"):
        Partitioned(examples, "natural").parts(2)
