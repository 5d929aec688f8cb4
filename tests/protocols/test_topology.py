"""Topologies against their definitions."""

from itertools import product

import numpy as np
import pytest

from hansa.errors import ConfigError
from hansa.protocols import topology as t
from hansa.protocols.topology import TimeVarying, Topology


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


UNDIRECTED = [
    t.ring(1), t.ring(2), t.ring(7), t.torus(3, 4), t.torus(1, 3), t.torus(2, 2), t.complete(5), t.star(6),
    t.hubs(2, 5), t.wheel(2), t.wheel(3), t.wheel(6), t.hierarchy([2, 1, 3]), t.random_regular(12, 5, rng()),
    t.random_regular(40, 8, rng()), t.erdos_renyi(12, 0.4, rng()), t.watts_strogatz(20, 4, 0.3, rng()),
]  # fmt: skip
DIRECTED = [t.directed_ring(5), t.exponential(6), t.exponential(8)]


@pytest.mark.parametrize("topology", UNDIRECTED, ids=lambda each: each.name)
def test_an_undirected_topology_is_symmetric_and_connected(topology: Topology) -> None:
    assert topology.is_symmetric
    assert topology.is_connected


@pytest.mark.parametrize("topology", DIRECTED, ids=lambda each: each.name)
def test_a_directed_topology_is_strongly_connected(topology: Topology) -> None:
    assert not topology.is_symmetric
    assert topology.is_connected


@pytest.mark.parametrize("topology", [*UNDIRECTED, *DIRECTED], ids=lambda each: each.name)
def test_connectedness_and_senders_are_those_of_the_adjacency_matrix(topology: Topology) -> None:
    adjacency = np.zeros((topology.size, topology.size), dtype=int)
    for worker, receivers in enumerate(topology.receivers):
        adjacency[worker, list(receivers)] = 1
    walks = np.linalg.matrix_power(adjacency + np.eye(topology.size, dtype=int), topology.size).astype(bool)
    assert topology.is_connected == walks.all()
    assert topology.senders == tuple(tuple(np.flatnonzero(column)) for column in adjacency.T)
    assert topology.num_edges == adjacency.sum()


def test_a_path_cut_in_two_and_a_one_way_path_are_not_connected() -> None:
    assert not t.from_edges(4, [(0, 1), (2, 3)]).is_connected
    assert not t.from_edges(3, [(0, 1), (1, 2)], directed=True).is_connected


def test_small_topologies_are_those_drawn_by_hand() -> None:
    assert t.ring(4).receivers == ((1, 3), (0, 2), (1, 3), (0, 2))
    assert t.torus(2, 3).receivers[0] == (1, 2, 3)
    assert t.star(3).receivers == ((1, 2), (0,), (0,))
    assert t.hubs(2, 4).receivers == ((2, 3), (2, 3), (0, 1), (0, 1))
    assert t.wheel(5).receivers == ((1, 2, 3, 4), (0, 2, 4), (0, 1, 3), (0, 2, 4), (0, 1, 3))
    assert t.hierarchy([2, 1]).receivers == ((1, 2), (0, 3, 4), (0, 5), (1,), (1,), (2,))
    assert t.exponential(6).receivers[5] == (0, 1, 3)
    assert [phase.receivers[0] for phase in t.one_peer_exponential(8).phases] == [(1,), (2,), (4,)]


def test_everybody_of_a_random_regular_graph_has_the_same_degree() -> None:
    for size, degree in product((10, 16, 30), (3, 4, 7)):
        if size * degree % 2 == 0:
            assert {len(r) for r in t.random_regular(size, degree, rng(size)).receivers} == {degree}


def test_the_edges_of_random_graphs_are_as_many_as_they_should_be() -> None:
    edges = [t.erdos_renyi(40, 0.3, rng(seed)).num_edges / 2 for seed in range(20)]
    assert np.mean(edges) == pytest.approx(0.3 * 40 * 39 / 2, rel=0.05)
    assert t.watts_strogatz(30, 6, 0.5, rng()).num_edges == 30 * 6
    ring = t.watts_strogatz(10, 2, 0.0, rng())
    assert ring.receivers == t.ring(10).receivers


def test_the_same_generator_draws_the_same_graph() -> None:
    assert t.random_regular(20, 4, rng(1)) == t.random_regular(20, 4, rng(1))
    assert t.watts_strogatz(20, 4, 0.5, rng(1)) != t.watts_strogatz(20, 4, 0.5, rng(2))


def test_a_time_varying_topology_has_its_phases_in_turn_and_the_edges_of_all() -> None:
    varying = TimeVarying((t.from_edges(4, [(0, 1), (2, 3)]), t.from_edges(4, [(1, 2), (3, 0)])))
    assert varying.at(0) == varying.at(2) == varying.phases[0]
    assert varying.receivers == t.ring(4).receivers
    assert varying.is_connected
    assert not varying.at(0).is_connected


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Topology(()), "no workers"),
        (lambda: Topology(((0,),)), "worker 0 sends to"),
        (lambda: Topology(((1, 1), (0,))), "worker 0 sends to"),
        (lambda: Topology(((2,), (0,))), "worker 0 sends to"),
        (lambda: t.from_edges(2, [(0, 2)]), "edge \\(0, 2\\)"),
        (lambda: t.from_edges(2, [("a", "b")]), "edge \\('a', 'b'\\).* take networkx"),  # type: ignore[list-item]
        (lambda: t.ring(0), "ring of 0 workers"),
        (lambda: t.random_regular(5, 3, rng()), "degree is 3"),
        (lambda: t.erdos_renyi(3, 0.0, rng()), "none of 1000 graphs was connected"),
        (lambda: t.erdos_renyi(5, 1.5, rng()), "probability is 1.5"),
        (lambda: t.watts_strogatz(10, 3, 0.1, rng()), "neighbours is 3"),
        (lambda: t.exponential(1), "at least 2"),
        (lambda: t.hierarchy([]), "groups is"),
        (lambda: TimeVarying((t.ring(3), t.ring(4))), "must have the same"),
    ],
)
def test_what_is_no_topology_is_refused_by_name(make: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()  # type: ignore[operator]
