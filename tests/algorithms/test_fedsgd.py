"""FedSGD."""

from collections.abc import Callable

import numpy as np
import pytest

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Trainer
from hansa.algorithms.fedsgd import fedsgd
from hansa.arrays import Arrays
from hansa.errors import AppError, ArraysMismatchError, ConfigError
from hansa.messages import Task, Update
from hansa.testing.federation import play


def test_one_round_by_hand(mean: WeightedMean, spring: Trainer):
    # Gradients −4 (1 example) and 0 (3 examples): mean −1, w = 0 − ½·(−1) = 0.5; then −3.5 and 0.5: mean −0.5, w = 0.75
    data = {"ada": (4.0, 1, 9), "bo": (0.0, 3, 9)}
    models = [state.params["w"].item() for state in play(fedsgd(mean, learning_rate=0.5), spring, data, rounds=2)]
    assert models == [0.0, 0.5, 0.75]


def test_a_gradient_travels_in_the_dtypes_of_a_change_and_integers_stay(
    mean: WeightedMean, spring: Trainer, task: Callable[..., Task]
):
    model = Arrays({"w": np.ones(1, np.float16), "steps": np.array([3], np.int32), "seen": np.array(True)})
    algorithm = fedsgd(mean, learning_rate=0.25)
    update = algorithm.client_update(spring, model, task(5.0))
    assert update.arrays == Arrays({"w": np.array([-4], np.float32), "steps": np.zeros(1, int), "seen": np.array(0)})
    plan = mean.plan(model)
    partial = mean.accumulate(plan, mean.zero(plan), update, hansa.messages.Contribution("ada", 1))
    after = algorithm.server_update(algorithm.init(model), mean.report(plan, partial)).params
    assert after == Arrays({"w": np.array([2], np.float16), "steps": np.array([3], np.int32), "seen": np.array(True)})


def test_a_gradient_of_another_structure_is_refused(mean: WeightedMean, spring: Trainer, task: Callable[..., Task]):
    class Forgetful(type(spring)):
        def gradient(self, model: Arrays, task: Task) -> Update:
            assert model
            return Update({}, task.data[1])

    with pytest.raises(ArraysMismatchError, match=r"the gradient lacks \['w'\]"):
        fedsgd(mean).client_update(Forgetful(), Arrays({"w": np.ones(1)}), task(5.0))


def test_an_app_without_gradients_is_told_what_to_do(mean: WeightedMean, task: Callable[..., Task]):
    app = hansa.App()

    @app.train
    def train(model: Arrays, task: Task) -> Update:
        return Update(model, task.round)

    with pytest.raises(AppError, match=r"needs gradients, which train\(\) does not give: use hansa.App\(trainer=…\)"):
        fedsgd(mean).client_update(app.trainer, Arrays({"w": np.ones(1)}), task(5.0))


@pytest.mark.parametrize("learning_rate", [0, -0.1, float("nan"), float("inf"), "0.1"])
def test_refuses_a_learning_rate_out_of_range(mean: WeightedMean, learning_rate: float):
    with pytest.raises(ConfigError, match=r"fedsgd: learning_rate is .*; it must be a number above 0, and finite"):
        fedsgd(mean, learning_rate=learning_rate)
