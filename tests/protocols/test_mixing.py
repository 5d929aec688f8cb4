"""Mixing matrices: stochastic, as fast as their eigenvalues say, and arithmetic with one rounding."""

from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

from hansa.arrays import Arrays
from hansa.distributed import run
from hansa.errors import ArraysMismatchError, ConfigError
from hansa.protocols import topology as t
from hansa.protocols.gossip import gossip
from hansa.protocols.mixing import (
    check_column_stochastic,
    check_doubly_stochastic,
    column_stochastic,
    mean_distance,
    metropolis,
    mix,
    second_eigenvalue,
    spectral_gap,
    uniform,
)

RNG = np.random.default_rng(0)
SYMMETRIC = [
    t.ring(2), t.ring(9), t.torus(3, 4), t.complete(5), t.star(7), t.wheel(6), t.hierarchy([2, 3]),
    t.random_regular(12, 4, RNG), t.erdos_renyi(12, 0.4, RNG), t.watts_strogatz(16, 4, 0.3, RNG),
]  # fmt: skip


@pytest.mark.parametrize("topology", SYMMETRIC, ids=lambda each: each.name)
def test_metropolis_weights_are_symmetric_and_doubly_stochastic(topology: t.Topology) -> None:
    weights = metropolis(topology)
    assert np.array_equal(weights, weights.T)
    check_doubly_stochastic(weights, topology)
    assert np.all(np.diag(weights) >= 0)


def test_metropolis_weights_of_a_star_are_those_computed_by_hand() -> None:
    quarter = 0.25
    assert metropolis(t.star(4)).tolist() == [
        [quarter] * 4,
        [quarter, 0.75, 0, 0],
        [quarter, 0, 0.75, 0],
        [quarter, 0, 0, 0.75],
    ]


def test_column_stochastic_weights_share_out_everything_whatever_the_directions() -> None:
    topology = t.from_edges(4, [(0, 1), (1, 2), (2, 0), (0, 3), (3, 0)], directed=True)
    weights = column_stochastic(topology)
    check_column_stochastic(weights, topology)
    assert weights[:, 0].tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    with pytest.raises(ConfigError, match=r"row 0 of the mixing matrix .* not 1"):
        check_doubly_stochastic(weights, topology)


def test_uniform_weights_are_doubly_stochastic_where_degrees_are_equal_and_refused_elsewhere() -> None:
    check_doubly_stochastic(uniform(t.exponential(8)), t.exponential(8))
    with pytest.raises(ConfigError, match="degrees of"):
        uniform(t.star(4))


def test_metropolis_weights_of_a_directed_topology_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"exponential\(8\) is directed"):
        metropolis(t.exponential(8))


def test_a_weight_without_an_edge_a_lost_column_and_a_negative_weight_are_refused() -> None:
    with pytest.raises(ConfigError, match="a weight for worker 0 from 2, who does not send"):
        check_doubly_stochastic(np.full((4, 4), 0.25), t.ring(4))
    with pytest.raises(ConfigError, match=r"column 0 .* sums to 0.5"):
        check_column_stochastic(np.eye(4) / 2, t.ring(4))
    with pytest.raises(ConfigError, match="no negative weight"):
        check_column_stochastic(-np.eye(4), t.ring(4))
    with pytest.raises(ConfigError, match=r"shape \(4, 4\)"):
        check_column_stochastic(np.eye(3), t.ring(4))


def test_the_eigenvalues_of_a_ring_and_a_complete_graph_are_those_of_the_formula() -> None:
    assert second_eigenvalue(t.ring(9)) == pytest.approx((1 + 2 * np.cos(2 * np.pi / 9)) / 3)
    assert second_eigenvalue(t.complete(6)) == pytest.approx(0, abs=1e-12)
    assert spectral_gap(t.star(5)) == pytest.approx(1 / 5)
    assert second_eigenvalue(t.ring(1)) == 0


def test_a_one_peer_exponential_graph_of_eight_averages_exactly_in_three_steps() -> None:
    assert second_eigenvalue(t.one_peer_exponential(8), uniform) < 1e-4
    outcome = run(gossip(lambda i: {"w": np.array([float(i)])}, steps=3, mixing=uniform), t.one_peer_exponential(8))
    assert [result.arrays["w"][0] for result in outcome.results] == [3.5] * 8


@pytest.mark.parametrize("topology", SYMMETRIC[1:], ids=lambda each: each.name)
def test_consensus_contracts_by_the_second_eigenvalue_in_each_step(topology: t.Topology) -> None:
    starts = np.random.default_rng(1).normal(size=(topology.size, 4))
    steps = 12
    models: list[dict[int, Arrays]] = [{} for _ in range(steps)]
    program = gossip(
        lambda i: {"w": starts[i]}, steps=steps, watch=lambda i, step, model: models[step].update({i: model})
    )
    run(program, topology)
    distances = [
        mean_distance([Arrays({"w": start}) for start in starts]),
        *(mean_distance(list(each.values())) for each in models),
    ]
    rate = second_eigenvalue(topology)
    for before, after in pairwise(distances):
        assert after <= rate * before + 1e-14
    exact = np.linalg.matrix_power(metropolis(topology), steps) @ starts
    last = np.array([models[-1][i]["w"] for i in range(topology.size)])
    assert np.allclose(last, exact, atol=1e-12)
    assert np.allclose(last.mean(axis=0), starts.mean(axis=0), atol=1e-12)


def test_a_mixture_is_rounded_once_to_the_models_dtypes() -> None:
    dtypes = {"f4": np.float32, "f2": np.float16, "bf": ml_dtypes.bfloat16, "i": np.int64, "b": np.bool_, "u": np.uint8}
    models = {j: Arrays({name: np.array([j], dtype) for name, dtype in dtypes.items()}) for j in (0, 1)}
    mixed = mix({0: 1 / 3, 1: 2 / 3}, models, Arrays({name: np.array([0.0]) for name in dtypes}))
    assert [array.dtype for array in mixed.values()] == [np.dtype(dtype) for dtype in dtypes.values()]
    assert mixed["f4"][0] == np.float32(2 / 3)
    assert (mixed["i"][0], mixed["b"][0], mixed["u"][0]) == (1, True, 1)
    assert mix({0: -5.0, 1: -5.0}, models)["u"][0] == 0


def test_models_of_other_structures_are_not_mixed() -> None:
    with pytest.raises(ArraysMismatchError, match="the model of worker 1"):
        mix({0: 0.5, 1: 0.5}, {0: Arrays({"a": np.zeros(2)}), 1: Arrays({"a": np.zeros(3)})})
