import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.data import Examples, Split, partition
from hansa.data.sharing import SCHEMES, Shares, shared_by
from hansa.errors import InputError

LABELS = np.repeat(np.arange(4), 30)


@given(st.sampled_from(sorted(SCHEMES)), st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_partition_by_name_covers_all_exactly(name: str, clients: int, seed: int) -> None:
    if name == "label-count" and clients * 2 < 4:
        clients = 2
    parts = shared_by(name, LABELS, clients, np.random.default_rng(seed))
    assert len(parts) == clients
    assert sorted(np.concatenate(parts).tolist()) == list(range(120))


def test_the_number_after_the_colon_is_the_functions_own() -> None:
    one = shared_by("dirichlet:0.1", LABELS, 5, np.random.default_rng(3))
    other = partition.dirichlet(LABELS, 5, 0.1, np.random.default_rng(3))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("scheme", "said"),
    [("dirichlett:1", "there is: iid, dirichlet"), ("shards:two", "comes a number"), ("shards:1.5", "not a whole")],
)
def test_a_partition_that_is_none_is_told(scheme: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        shared_by(scheme, LABELS, 3, np.random.default_rng(0))


def test_a_split_is_shared_but_for_its_test() -> None:
    x = np.arange(120)[:, None]
    shares = Shares(Split(Examples(x, LABELS), Examples(x[:5], LABELS[:5])))
    assert shares.clients is None
    assert shares.test is not None
    assert len(shares.test.y) == 5
    mine = [shares.of(k, 7, "iid", 0).x[:, 0] for k in range(7)]
    assert sorted(np.concatenate(mine).tolist()) == list(range(120))


def test_each_clients_own_data_stay_as_they_are() -> None:
    own = {"north": (np.zeros((2, 1)), np.zeros(2)), "south": (np.ones((3, 1)), np.ones(3))}
    shares = Shares(own)
    assert shares.clients == 2
    assert shares.of(1, 2, "iid", 0) is own["south"]
    with pytest.raises(InputError, match="data of 2 clients, not of 3"):
        shares.of(1, 3, "iid", 0)


def test_other_data_are_refused() -> None:
    with pytest.raises(InputError, match="data is a str: give a Split"):
        Shares("mnist")
    with pytest.raises(InputError, match="no client"):
        Shares([])
