"""One hash, whatever trains whom, in which order, and however sums are grouped."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hansa.app import load_app
from hansa.arrays import Arrays
from hansa.messages import RoundRules, RunSpec
from hansa.run import resolve
from hansa.simulation import Variant, check_parity, differences, simulate
from hansa.simulation.clients import VirtualClients
from hansa.simulation.devices import Instant
from hansa.simulation.fold import Folding
from hansa.simulation.parity import WAYS, Shuffled, Tree
from hansa.simulation.runtime import Simulation
from hansa.wire import codec


@pytest.mark.parametrize("algorithm", ["fedavg", "fedadam"])
def test_every_way_gives_the_same_bits(app: Path, algorithm: str) -> None:
    rules = RoundRules(selection="fraction", fraction=0.5)
    variants = check_parity(app, RunSpec(algorithm=algorithm, rounds=2, rules=rules), 17)
    assert [variant.name for variant in variants] == [
        "in this process",
        "two processes",
        "three processes",
        "arrival order shuffled",
        "random groups",
        "three tiers of five combiners",
        "every client retries",
    ]
    assert {variant.model_hash for variant in variants} == {codec.digest(variants[0].model)}
    assert differences(variants) == {}


def test_an_app_that_is_not_deterministic_is_caught_and_its_tensor_named(write_app: Callable[[str], Path]) -> None:
    path = write_app("""
import numpy as np
import hansa

app = hansa.App()
mood = np.random.default_rng()

@app.model
def initial_model(rng):
    return {"steady": np.zeros(3), "moody": np.zeros(3)}

@app.train
def train(model, task):
    trained = {"steady": model["steady"] + 1, "moody": model["moody"] + mood.random(3)}
    return hansa.Update(trained, num_examples=1 + len(task.client.name))
""")
    variants = check_parity(path, RunSpec(rounds=1), 12)
    found = differences(variants)
    assert found["two processes"] == found["arrival order shuffled"] == "moody"


def test_an_algorithm_that_must_know_how_many_clients_there_are_is_told(write_app: Callable[[str], Path]) -> None:
    path = write_app("""
import numpy as np
import hansa
from hansa.training.numpy import NumpyTrainer, softmax_regression

app = hansa.App(NumpyTrainer(softmax_regression(3, 2), learning_rate=0.1))

@app.data
def data(client):
    rng = np.random.default_rng(client.index)
    return rng.normal(size=(4, 3)).astype(np.float32), rng.integers(0, 2, 4)
""")
    assert differences(check_parity(path, RunSpec(algorithm="scaffold", rounds=2), 3, [WAYS[0], WAYS[4]])) == {}


def test_differences_name_the_first_tensor() -> None:
    one = Arrays({"a": np.zeros(2), "b": np.zeros(2)})
    two = Arrays({"a": np.zeros(2), "b": np.array([0.0, -0.0])})
    variants = [Variant(name, model, codec.digest(model)) for name, model in (("x", one), ("y", one), ("z", two))]
    assert differences(variants) == {"z": "b"}


@hypothesis_settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_tree_and_any_order_of_arrival_give_the_bits_of_one_sum(app: Path, data: st.DataObject) -> None:
    combiners = data.draw(st.integers(1, 7))
    parents = {f"c{k}": "root" if (p := data.draw(st.integers(-1, k - 1))) < 0 else f"c{p}" for k in range(combiners)}
    seed, order = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 10**6))
    spec = RunSpec(rounds=1, seed=seed)
    loaded, names = load_app(app), VirtualClients(9)
    run = resolve(spec)
    tree = Tree(Folding(loaded, run, names, tolerate_failures=False), parents, np.random.default_rng(order))
    climbed = Simulation(run, loaded, names, tree, Instant()).run(None, None, None)
    assert climbed.model_hash == simulate(loaded, spec, clients=9, devices=Shuffled(order)).model_hash
    plain = simulate(loaded, spec, clients=9)
    assert climbed.model_hash == plain.model_hash
    assert climbed.rounds[0].evaluation == plain.rounds[0].evaluation
