"""SCAFFOLD."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Aggregate, Trainer
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.scaffold import scaffold
from hansa.arrays import Arrays
from hansa.errors import AppError, ConfigError
from hansa.messages import Contribution, Task, Update
from hansa.testing.federation import play
from hansa.testing.linear import Examples, LinearTrainer

BROADCAST = Arrays({"params/w": np.zeros(1), "c/w": np.array([1.0])})


def one_step(target: float, eta: float = 0.5) -> Callable[[Arrays, Task], Update]:
    """One step on ½(w − target)², as a person would write it."""

    def train(model: Arrays, task: Task) -> Update:
        assert task.correction is not None
        assert task.correction.offset is not None
        gradient = model["w"] - target + task.correction.offset["w"]
        return Update({"w": model["w"] - eta * gradient}, num_examples=3, step_sum=eta)

    return train


def app_of(train: Callable[[Arrays, Task], Update]) -> Trainer:
    app = hansa.App()
    app.train(train)
    return app.trainer


def test_a_first_task_by_hand(mean: WeightedMean, task: Callable[..., Task]):
    # w = 0, c = 1, c_i = 0: y = 0 − ½(−4 − 0 + 1) = 1.5; c_i⁺ = 0 − 1 + (0 − 1.5)/½ = −4, the gradient at 0.
    update = scaffold(mean, num_clients=2).client_update(app_of(one_step(4.0)), BROADCAST, task(0.0))
    assert {name: array.tolist() for name, array in update.arrays.items()} == {"params/w": [1.5], "c/w": [-4.0]}
    assert update.num_examples == 3
    assert update.memory == Arrays({"w": np.array([-4.0])})


def test_the_next_task_starts_from_what_the_client_kept(mean: WeightedMean, task: Callable[..., Task]):
    # c_i = −3: y = 0 − ½(−4 + 3 + 1) = 0; c_i⁺ = −3 − 1 + 0 = −4, Δc = −1.
    remembering = replace(task(0.0), memory=Arrays({"w": np.array([-3.0])}))
    update = scaffold(mean, num_clients=2).client_update(app_of(one_step(4.0)), BROADCAST, remembering)
    assert {name: array.tolist() for name, array in update.arrays.items()} == {"params/w": [0.0], "c/w": [-1.0]}
    assert update.memory == Arrays({"w": np.array([-4.0])})


def test_the_server_by_hand(mean: WeightedMean):
    # η_g = ½: w = 1 + ½·4; |S|/N = 2/8: c = 0 + ¼·(−6).
    algorithm = scaffold(mean, num_clients=8, learning_rate=0.5)
    two = {name: Contribution(name, 1) for name in ("ada", "bo")}
    state = algorithm.init(Arrays({"w": np.ones(1)}))
    moved = Aggregate(Arrays({"params/w": np.array([4.0]), "c/w": np.array([-6.0])}), 2, two)
    after = algorithm.server_update(state, moved)
    assert after.params["w"].tolist() == [3.0]
    assert after.slots["c"]["w"].tolist() == [-1.5]


@pytest.mark.parametrize(("weighted", "expected"), [(False, 2.0), (True, 3.0)])
def test_every_client_counts_alike_unless_weighted(mean: WeightedMean, *, weighted: bool, expected: float):
    # One step of ½ towards 0 and 8: Δ = 0 and 4; of 1 and 3 examples the weighted mean is 3.
    algorithm = scaffold(mean, num_clients=2, weighted=weighted)
    aggregator, broadcast = algorithm.aggregator, algorithm.broadcast(algorithm.init(Arrays({"w": np.zeros(1)})))
    plan = aggregator.plan(broadcast)
    partial = aggregator.zero(plan)
    for name, delta, n in (("ada", 0.0, 1), ("bo", 4.0, 3)):
        update = Update({"params/w": np.array([delta]), "c/w": np.zeros(1)}, n)
        partial = aggregator.accumulate(plan, partial, update, Contribution(name, n))
    assert aggregator.report(plan, partial).mean["params/w"].tolist() == [expected]


def drifting() -> tuple[dict[str, Examples], np.ndarray]:
    """Two clients of equal size that disagree in optimum and in curvature; the optimum of both, weight and bias."""
    rng = np.random.default_rng(3)
    data = {}
    for name, scale, truth in (("ada", 1.0, [1.0, -2.0]), ("bo", 3.0, [-3.0, 1.0])):
        x = rng.normal(0, scale, (40, 2))
        data[name] = x, x @ np.array(truth) + scale
    x = np.concatenate([np.c_[part, np.ones(len(part))] for part, _ in data.values()])
    y = np.concatenate([part for _, part in data.values()])
    return data, np.linalg.lstsq(x, y, rcond=None)[0]


def test_it_reaches_the_common_optimum_where_fedavg_with_many_local_steps_does_not(mean: WeightedMean):
    data, optimum = drifting()
    trainer = LinearTrainer(2, learning_rate=0.02, epochs=20)
    far = {}
    for algorithm in (fedavg(mean), scaffold(mean, num_clients=2)):
        *_, last = play(algorithm, trainer, data, rounds=300)
        far[algorithm.name] = float(np.abs(np.append(last.params["weight"], last.params["bias"]) - optimum).max())
    assert far["fedavg"] > 0.1
    assert far["scaffold"] < 1e-5


def test_c_is_the_mean_of_what_the_clients_keep(mean: WeightedMean):
    data, _ = drifting()
    trainer = LinearTrainer(2, learning_rate=0.02, epochs=5)
    algorithm = scaffold(mean, num_clients=2)
    kept: dict[str, Arrays] = {}
    seen: list[float] = []

    def remembering(inner: Trainer, model: Arrays, task: Task) -> Update:
        update = algorithm.client_update(inner, model, task)
        assert task.memory == kept.get(task.client.name)
        assert update.memory is not None
        kept[task.client.name] = update.memory
        return update

    for state in play(replace(algorithm, client_update=remembering), trainer, data, rounds=4):
        if kept:
            between = np.mean([arrays["weight"] for arrays in kept.values()], axis=0)
            seen.append(float(np.abs(state.slots["c"]["weight"] - between).max()))
    assert len(seen) == 4
    assert max(seen) < 1e-8


def test_tensors_without_gradients_follow_fedavg(mean: WeightedMean, task: Callable[..., Task]):
    model = Arrays({"w": np.zeros(1), "steps": np.zeros((), np.int64), "running_mean": np.zeros(1, np.float32)})
    algorithm = scaffold(mean, num_clients=1)

    def train(model: Arrays, task: Task) -> Update:
        assert task.correction is not None
        new = {"w": model["w"] - 0.5, "steps": model["steps"] + 7, "running_mean": model["running_mean"] + 10}
        return Update(new, num_examples=1, step_sum={"w": 0.1})

    update = algorithm.client_update(app_of(train), algorithm.broadcast(algorithm.init(model)), task(0.0))
    algorithm.aggregator.check(algorithm.aggregator.plan(algorithm.broadcast(algorithm.init(model))), update)
    assert list(update.arrays) == ["params/w", "params/steps", "params/running_mean", "c/w", "c/running_mean"]
    assert update.arrays["params/steps"] == 7
    assert update.arrays["params/running_mean"] == 10
    assert update.arrays["c/w"] == pytest.approx(5.0)
    assert update.arrays["c/running_mean"] == 0


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (lambda model, task: Update(model, task.round), "never read task.correction: add"),
        (lambda model, task: Update(model, len([task.correction])), r"return hansa.Update\(…, step_sum=steps"),
        (
            lambda model, task: Update(model, len([task.correction]), step_sum=1.0, memory=model),
            "return no memory of the app's own",
        ),
    ],
    ids=["ignores the correction", "tells no steps", "keeps a memory of its own"],
)
def test_an_app_that_does_not_fit_is_told_what_to_do(
    mean: WeightedMean, task: Callable[..., Task], train: Callable[[Arrays, Task], Update], said: str
):
    with pytest.raises(AppError, match=said):
        scaffold(mean, num_clients=2).client_update(app_of(train), BROADCAST, task(0.0))


def test_more_clients_than_there_are_is_an_error(mean: WeightedMean):
    algorithm = scaffold(mean, num_clients=1)
    two = {name: Contribution(name, 1) for name in ("ada", "bo")}
    moved = Aggregate(Arrays({"params/w": np.zeros(1), "c/w": np.zeros(1)}), 2, two)
    with pytest.raises(ConfigError, match="2 clients took part, but num_clients is 1"):
        algorithm.server_update(algorithm.init(Arrays({"w": np.zeros(1)})), moved)


@pytest.mark.parametrize("num_clients", [0, -1, 1.5, True, "4"])
def test_refuses_a_number_of_clients_that_is_none(mean: WeightedMean, num_clients: int):
    with pytest.raises(ConfigError, match=r"scaffold: num_clients is .*; it must be a whole number of at least 1"):
        scaffold(mean, num_clients=num_clients)
