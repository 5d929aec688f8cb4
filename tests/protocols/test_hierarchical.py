"""Hierarchical averaging against FedAvg and against a loop."""

import numpy as np
import pytest
from quadratics import classified, quadratics

import hansa
from hansa.distributed import hierarchical, hierarchy, ring, run, star
from hansa.errors import ConfigError


def test_with_one_inner_round_it_is_fedavg_whatever_the_groups() -> None:
    app, _, _ = classified(5, batch_size=7)
    simulated = hansa.simulate(app, clients=5, rounds=4, seed=2)
    for groups in ([5], [2, 3], [1, 1, 3]):
        outcome = run(hierarchical(app, rounds=4, inner_rounds=1), hierarchy(groups), seed=2)
        assert outcome.results[-1].model == outcome.results[0].arrays
        for name, array in simulated.model.items():
            assert np.allclose(outcome.results[0].arrays[name], array, atol=1e-6)


def test_inner_rounds_average_within_groups_first_and_groups_count_by_their_examples() -> None:
    app, h, e = quadratics(3)
    outcome = run(hierarchical(app, rounds=3, inner_rounds=2), hierarchy([2, 1]))
    w = np.zeros(3)
    for _ in range(3):
        groups = []
        for members in ([0, 1], [2]):
            model = w
            for _ in range(2):
                model = np.mean([model - 0.1 * h[i] * (model - e[i]) for i in members], axis=0)
            groups.append(model)
        w = (2 * groups[0] + groups[1]) / 3
    assert np.allclose(outcome.results[0].arrays["w"], w, atol=1e-12)


def test_groups_of_unequal_examples_are_weighted_by_them() -> None:
    app = hansa.App()
    app.model(lambda _: {"w": np.zeros(1)})
    app.train(lambda _, task: hansa.Update({"w": np.full(1, float(task.client.index))}, [1, 3, 6][task.client.index]))
    outcome = run(hierarchical(app, rounds=1, inner_rounds=1), hierarchy([2, 1]))
    assert outcome.results[0].arrays["w"][0] == pytest.approx((1 * 0 + 3 * 1 + 6 * 2) / 10)


def test_other_topologies_are_refused() -> None:
    app, _, _ = quadratics(3)
    with pytest.raises(ConfigError, match=r"a tree of root, heads and members, not star\(3\)"):
        run(hierarchical(app, rounds=1, inner_rounds=1), star(3))
    with pytest.raises(ConfigError, match=r"a tree of root, heads and members, not ring\(4\)"):
        run(hierarchical(app, rounds=1, inner_rounds=1), ring(4))
    with pytest.raises(ConfigError, match="inner_rounds is 0"):
        hierarchical(app, rounds=1, inner_rounds=0)
    assert ring(3).size == 3
