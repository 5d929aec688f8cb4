"""FedProx."""

from collections.abc import Callable

import numpy as np
import pytest

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Trainer
from hansa.algorithms.fedprox import fedprox
from hansa.arrays import Arrays
from hansa.errors import AppError, ConfigError
from hansa.messages import Task, Update
from hansa.testing.federation import play
from hansa.testing.linear import LinearTrainer, make_examples

MODEL = Arrays({"w": np.zeros(1)})


def test_two_local_steps_by_hand(mean: WeightedMean, spring: Trainer, task: Callable[..., Task]):
    # Target 4, η = ½, μ = 1: w = 2; then the gradient −2 and the pull 1·(2 − 0) cancel: Δ = 2.
    update = fedprox(mean, mu=1.0).client_update(spring, MODEL, task(4.0, examples=7, steps=2))
    assert update.arrays["w"].tolist() == [2.0]
    assert update.num_examples == 7


def test_a_small_pull_by_hand(mean: WeightedMean, spring: Trainer, task: Callable[..., Task]):
    # μ = ¼: w = 2; then 2 − ½(−2 + ¼·2) = 2.75 (FedAvg: 3)
    assert fedprox(mean, mu=0.25).client_update(spring, MODEL, task(4.0, steps=2)).arrays["w"].tolist() == [2.75]


def test_the_pull_is_towards_the_model_of_this_round(mean: WeightedMean, spring: Trainer):
    # Each round of two steps halves the rest: 4 − 2 = 2, then 2 + 1 = 3.
    data = {"ada": (4.0, 1, 2), "bo": (4.0, 9, 2)}
    models = [state.params["w"].item() for state in play(fedprox(mean, mu=1.0), spring, data, rounds=2)]
    assert models == [0.0, 2.0, 3.0]


def test_the_work_of_a_straggler_counts_as_far_as_it_got(
    mean: WeightedMean, spring: Trainer, task: Callable[..., Task]
):
    algorithm = fedprox(mean, mu=0.25)
    assert algorithm.keeps_partial_work
    # Half of two steps: one
    assert algorithm.client_update(spring, MODEL, task(4.0, steps=2, work=0.5)).arrays["w"].tolist() == [2.0]


def test_the_pull_shortens_the_local_change(mean: WeightedMean):
    trainer = LinearTrainer(3, learning_rate=0.05, epochs=20)
    data = make_examples(np.random.default_rng(5), (20, 30), 3)
    lengths = []
    for mu in (0.0, 0.1, 1.0, 10.0):
        before, after = play(fedprox(mean, mu=mu), trainer, data, rounds=1)
        lengths.append(float(np.linalg.norm(after.params["weight"] - before.params["weight"])))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0] / 2


def test_an_app_that_ignores_the_correction_is_told_what_to_do(mean: WeightedMean, task: Callable[..., Task]):
    app = hansa.App()

    @app.train
    def train(model: Arrays, task: Task) -> Update:
        return Update({"w": model["w"] + 1}, num_examples=task.round)

    with pytest.raises(
        AppError, match=r"fedprox corrects every gradient, .* add task.correction.proximal \* \(w - model\) to each"
    ):
        fedprox(mean, mu=0.5).client_update(app.trainer, MODEL, task(0.0))
    assert fedprox(mean, mu=0.0).client_update(app.trainer, MODEL, task(0.0)).arrays["w"].tolist() == [1.0]


def test_an_app_that_reads_the_correction_may_use_it(mean: WeightedMean, task: Callable[..., Task]):
    app = hansa.App()

    @app.train
    def train(model: Arrays, task: Task) -> Update:
        assert task.correction is not None
        return Update({"w": model["w"] + task.correction.proximal}, num_examples=1)

    assert fedprox(mean, mu=0.5).client_update(app.trainer, MODEL, task(0.0)).arrays["w"].tolist() == [0.5]


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf"), "1"])
def test_refuses_mu_out_of_range(mean: WeightedMean, mu: float):
    with pytest.raises(ConfigError, match=r"fedprox: mu is .*; it must be a number of at least 0, and finite"):
        fedprox(mean, mu=mu)
