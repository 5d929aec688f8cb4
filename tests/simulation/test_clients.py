"""A million names that are nowhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.errors import InputError
from hansa.simulation.clients import VirtualClients


@given(st.integers(1, 2500))
def test_names_are_those_of_a_sorted_list(total: int) -> None:
    names = sorted(f"client-{k}" for k in range(total))
    clients = VirtualClients(total)
    assert list(clients) == names
    assert [clients[k] for k in range(total)] == names
    assert [clients.index(name) for name in names] == list(range(total))


@given(st.integers(1, 10**9), st.data())
def test_a_name_is_at_its_position_among_very_many(total: int, data: st.DataObject) -> None:
    clients = VirtualClients(total)
    position = data.draw(st.integers(0, total - 1))
    assert clients.index(clients[position]) == position
    if position + 1 < total:
        assert clients[position] < clients[position + 1]


def test_it_is_a_sequence_as_a_list_is() -> None:
    clients = VirtualClients(12)
    assert len(clients) == 12
    assert clients[-1] == "client-9"
    assert clients[1:4] == ("client-1", "client-10", "client-11")
    assert "client-11" in clients
    assert [name in clients for name in ("client-12", "client-01", "client--1", "client-", "11", 3)] == [False] * 6
    with pytest.raises(IndexError, match="none at position 12"):
        clients[12]
    with pytest.raises(ValueError, match="client-12"):
        clients.index("client-12")


def test_a_clients_share_is_its_number_of_the_total() -> None:
    share = VirtualClients(12).share("client-7")
    assert (share.name, share.index, share.total) == ("client-7", 7, 12)
    with pytest.raises(InputError, match="client-12"):
        VirtualClients(12).share("client-12")


def test_there_must_be_a_client() -> None:
    with pytest.raises(InputError, match="at least 1"):
        VirtualClients(0)
