"""IFCA: clusters of clients, each with a model of its own."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Aggregate
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.ifca import ifca, models
from hansa.arrays import Array, Arrays
from hansa.errors import ConfigError
from hansa.messages import RunSpec
from hansa.run import resolve
from hansa.testing.equalities import same_trajectory
from hansa.testing.federation import play, task_of
from hansa.testing.linear import LinearTrainer, make_examples

MEAN = WeightedMean()
LOCAL = LinearTrainer(3, learning_rate=0.1, epochs=5)


@settings(derandomize=True, deadline=None, max_examples=8)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5).map(tuple), seed=st.integers(0, 2**32 - 1))
def test_one_cluster_is_fedavg_to_the_bit(sizes: tuple[int, ...], seed: int):
    data = make_examples(np.random.default_rng(seed), sizes, 3, logistic=True)
    trainer = LinearTrainer(3, logistic=True, epochs=3, batch_size=4)
    same_trajectory((ifca(MEAN, clusters=1), trainer), (fedavg(MEAN), trainer), data)


def planted() -> tuple[list[Array], dict[str, Any]]:
    """Six clients of two linear truths."""
    rng = np.random.default_rng(1)
    truths = [np.array([2.0, -1.0, 0.5]), np.array([-2.0, 1.0, 1.5])]
    data = {}
    for k in range(6):
        x = rng.normal(0, 1, (20 + 5 * k, 3))
        data[f"c{k}"] = x, x @ truths[k % 2] + rng.normal(0, 0.01, len(x))
    return truths, data


def test_recovers_planted_clusters_and_their_models():
    truths, data = planted()
    algorithm = ifca(MEAN, clusters=2, seed=1)
    *_, last = play(algorithm, LOCAL, data, rounds=15)
    found = [model["weight"] for model in models(last)]
    order = [int(np.argmin([np.linalg.norm(w - truth) for w in found])) for truth in truths]
    assert sorted(order) == [0, 1]
    for truth, j in zip(truths, order, strict=True):
        np.testing.assert_allclose(found[j], truth, atol=0.05)
    examples = [sum(len(x) for k, (x, _) in enumerate(data.values()) if k % 2 == parity) for parity in (0, 1)]
    shares = last.slots["clusters"]["share"]
    np.testing.assert_allclose(shares[order], np.array(examples) / sum(examples), atol=1e-9)
    assert last.params == models(last)[int(np.argmax(shares))]


def test_a_client_evaluates_the_model_of_its_cluster():
    _, data = planted()
    algorithm = ifca(MEAN, seed=1)
    *_, last = play(algorithm, LOCAL, data, rounds=10)
    asked = algorithm.broadcast(last)
    for client in data:
        task = task_of(client, data)
        sent = algorithm.client_update(LOCAL, asked, task)
        own = algorithm.personal(last.params, sent.memory)
        losses = [LOCAL.evaluate(model, task).values["loss"] for model in models(last)]
        assert LOCAL.evaluate(own, task).values["loss"] == min(losses)
    assert algorithm.personal(last.params, None) == last.params


def test_each_cluster_is_the_fedavg_of_its_clients():
    _, data = planted()
    algorithm = ifca(MEAN, seed=1)
    for before, after in pairwise(list(play(algorithm, LOCAL, data, rounds=4))):
        asked, chosen = algorithm.broadcast(before), {}
        for client in data:
            kept = algorithm.client_update(LOCAL, asked, task_of(client, data)).memory
            chosen[client] = next(j for j, model in enumerate(models(before)) if model == kept)
        for j, model in enumerate(models(before)):
            there = [client for client, which in chosen.items() if which == j]
            moved = {name: array.astype(np.float64) for name, array in model.items()}
            weight = sum(len(data[client][1]) for client in there)
            for client in there:
                trained = LOCAL.fit(model, task_of(client, data)).arrays
                share = len(data[client][1]) / weight
                moved = {name: array + share * (trained[name] - model[name]) for name, array in moved.items()}
            for name, array in models(after)[j].items():
                np.testing.assert_allclose(array, moved[name], atol=1e-6)


def test_a_cluster_without_clients_stays_as_it_is():
    data = make_examples(np.random.default_rng(1), (10,), 3)
    algorithm = ifca(MEAN, clusters=3, spread=1.0)
    first, second = play(algorithm, LOCAL, data, rounds=1)
    moved = [before != after for before, after in zip(models(first), models(second), strict=True)]
    assert sum(moved) == 1


def test_integers_move_by_the_rounded_mean_of_their_cluster():
    algorithm = ifca(MEAN, clusters=2)
    state = algorithm.init(Arrays({"seen": np.array([5], np.int64)}))
    mean = Arrays({"0/seen": np.array([3]), "1/seen": np.array([0]), "share": np.array([0.5, 0.5])})

    after = algorithm.server_update(state, Aggregate(mean, 2, {}))
    assert [int(model["seen"][0]) for model in models(after)] == [11, 5]


def test_only_a_weighted_mean_keeps_sum_and_weight_of_each_cluster():
    with pytest.raises(ConfigError, match="ifca sends which cluster it is in"):
        resolve(RunSpec(algorithm="ifca", aggregator="median"))
