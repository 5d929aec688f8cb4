"""FedAvg."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Trainer
from hansa.algorithms.fedavg import fedavg
from hansa.arrays import Arrays
from hansa.messages import Task, Update
from hansa.testing.federation import aggregate, play


def test_the_change_is_the_model_after_training_minus_the_model_before(
    mean: WeightedMean, spring: Trainer, task: Callable[..., Task]
):
    # From 2 with target 4: one step of ½·2 to 3, then ½·1 to 3.5: Δ = 1.5
    update = fedavg(mean).client_update(spring, Arrays({"w": np.full(1, 2.0)}), task(4.0, examples=7, steps=2))
    assert update.arrays["w"].tolist() == [1.5]
    assert update.num_examples == 7


def test_the_server_adds_the_mean_weighted_by_examples(mean: WeightedMean):
    # 1 + (1·1 + 3·2)/4 = 2.75
    algorithm, model = fedavg(mean), Arrays({"w": np.ones(1)})
    sent = {"ada": Update({"w": np.full(1, 1.0)}, 1), "bo": Update({"w": np.full(1, 2.0)}, 3)}
    state = algorithm.server_update(algorithm.init(model), aggregate(algorithm, model, sent))
    assert state.params["w"].tolist() == [2.75]
    assert state.round == 1


def test_only_the_accepted_clients_are_in_the_denominator(mean: WeightedMean):
    # One client of three answered: its own mean, not a third of it.
    algorithm, model = fedavg(mean), Arrays({"w": np.zeros(1)})
    report = aggregate(algorithm, model, {"ada": Update({"w": np.full(1, 3.0)}, 10)})
    assert algorithm.server_update(algorithm.init(model), report).params["w"].tolist() == [3.0]


def test_two_rounds_by_hand(mean: WeightedMean, spring: Trainer):
    # Targets 4 (1 example) and 8 (3 examples), one step of ½ each: w → w + ½(7 − w): 3.5, then 5.25
    data = {"ada": (4.0, 1, 1), "bo": (8.0, 3, 1)}
    models = [state.params["w"].item() for state in play(fedavg(mean), spring, data, rounds=2)]
    assert models == [0.0, 3.5, 5.25]


def test_a_late_straggler_is_late(mean: WeightedMean):
    assert not fedavg(mean).keeps_partial_work


def test_at_most_eight_modules_of_hansa_are_loaded_to_read_fedavg():
    program = "import sys, hansa.algorithms.fedavg; print(*(m for m in sys.modules if m.split('.')[0] == 'hansa'))"
    run = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert "hansa.algorithms.fedavg" in loaded
    assert len(loaded) <= 8, loaded
