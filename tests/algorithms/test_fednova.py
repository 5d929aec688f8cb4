"""FedNova."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from bowls import BOWLS, Bowl, BowlTrainer

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Aggregate, Algorithm
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.fednova import fednova
from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ConfigError, UpdateRejectedError
from hansa.messages import Contribution, Task, Update
from hansa.testing.federation import play


def written_out(trainer: BowlTrainer, mu: float, gamma: float, rounds: int) -> list[Array]:
    """The paper's pseudo-code with G_i, a_i, p_i and τ_eff, once more."""
    w, buffer, models = np.zeros(2), np.zeros(2), [np.zeros(2)]
    total = sum(bowl.n for bowl in BOWLS.values())
    for _ in range(rounds):
        tau_eff, direction = 0.0, np.zeros(2)
        for bowl in BOWLS.values():
            x, velocity, a = w, np.zeros(2), np.zeros(bowl.steps)
            gradients = np.zeros((bowl.steps, 2))
            for k in range(bowl.steps):
                gradients[k] = bowl.gradient(x)
                velocity = trainer.rho * velocity + gradients[k] + mu * (x - w)
                x = x - trainer.eta * velocity
                # What step j adds to x − w: [1 − ρ^(k−j+1)]/(1 − ρ) with momentum, (1 − ημ)^(k−j) with a pull.
                left = np.arange(k, -1, -1)
                a[: k + 1] = (
                    (1 - trainer.eta * mu) ** left if mu else (1 - trainer.rho ** (left + 1)) / (1 - trainer.rho)
                )
            np.testing.assert_allclose(w - x, trainer.eta * a @ gradients, atol=1e-12)
            p = bowl.n / total
            tau_eff += p * a.sum()
            direction += p * (a @ gradients) / a.sum()
        buffer = gamma * buffer + trainer.eta * tau_eff * direction
        w = w - buffer
        models.append(w)
    return models


@pytest.mark.parametrize(
    ("rho", "mu", "gamma"), [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.7, 0.0), (0.0, 0.0, 0.6), (0.3, 0.0, 0.5)]
)
def test_follows_the_paper_for_unequal_steps_and_examples(mean: WeightedMean, rho: float, mu: float, gamma: float):
    trainer = BowlTrainer(rho=rho)
    states = play(fednova(mean, mu=mu, momentum=gamma), trainer, BOWLS, rounds=6)
    for state, expected in zip(states, written_out(trainer, mu, gamma, 6), strict=True):
        np.testing.assert_allclose(state.params["w"], expected, rtol=0, atol=1e-6)


def far_from_the_optimum(algorithm: Algorithm, data: Mapping[str, Bowl], rounds: int = 400) -> float:
    h = sum(bowl.n * bowl.h for bowl in data.values())
    optimum = sum(bowl.n * bowl.h * bowl.t for bowl in data.values()) / h
    *_, last = play(algorithm, BowlTrainer(eta=0.005), data, rounds=rounds)
    return float(np.abs(last.params["w"] - optimum).max())


def test_unequal_steps_do_not_move_the_optimum_as_they_do_in_fedavg(mean: WeightedMean):
    assert far_from_the_optimum(fedavg(mean), BOWLS) > 0.5
    assert far_from_the_optimum(fednova(mean), BOWLS) < 0.03


def test_with_equal_steps_it_has_fedavgs_drift(mean: WeightedMean):
    # Where the steps are equal there is nothing to normalize: the drift of many steps is FedAvg's.
    even = {name: Bowl(bowl.h, bowl.t, bowl.n, steps=40) for name, bowl in BOWLS.items()}
    far = far_from_the_optimum(fednova(mean), even, rounds=100)
    assert far == pytest.approx(far_from_the_optimum(fedavg(mean), even, rounds=100), abs=1e-6)
    assert far > 0.05


def test_the_server_by_hand(mean: WeightedMean):
    # Σ p s = 3, Σ p d = 2: Δ = 6; v = 6, then ½·6 + 6 = 9; w = 1 + 6 + 9.
    algorithm = fednova(mean, momentum=0.5)
    state = algorithm.init(Arrays({"w": np.ones(1)}))
    sent = Aggregate(
        Arrays({"params/w": np.array([2.0]), "sums/s": np.array([3.0])}), 1, {"ada": Contribution("ada", 1)}
    )
    models = []
    for _ in range(2):
        state = algorithm.server_update(state, sent)
        models.append(state.params["w"].item())
    assert models == [7.0, 16.0]


def test_tensors_without_gradients_follow_fedavg(mean: WeightedMean, task: Callable[..., Task]):
    model = Arrays({"w": np.zeros(1), "steps": np.zeros((), np.int64), "running_mean": np.zeros(1, np.float32)})
    algorithm = fednova(mean)
    broadcast = algorithm.broadcast(algorithm.init(model))
    app = hansa.App()

    @app.train
    def train(model: Arrays, task: Task) -> Update:
        new = {"w": model["w"] - 0.5, "steps": model["steps"] + 7, "running_mean": model["running_mean"] + 10}
        return Update(new, num_examples=task.round, step_sum={"w": 0.1})

    update = algorithm.client_update(app.trainer, broadcast, task(0.0))
    assert list(update.arrays) == ["params/w", "params/steps", "params/running_mean", "sums/s"]
    assert update.arrays["params/w"] == pytest.approx(-5)
    assert update.arrays["sums/s"].tolist() == [0.1, 1.0]
    after = algorithm.server_update(algorithm.init(model), Aggregate(update.arrays, 1, {}))
    assert {name: array.item() for name, array in after.params.items()} == {"w": -0.5, "steps": 7, "running_mean": 10.0}


@pytest.mark.parametrize("step_sum", [1e-3, 4000.0])
def test_one_step_and_a_hundred_thousand_are_summed_alike(
    mean: WeightedMean, task: Callable[..., Task], step_sum: float
):
    algorithm, app = fednova(mean), hansa.App()

    @app.train
    def train(model: Arrays, task: Task) -> Update:
        return Update({"w": model["w"] + task.round}, num_examples=1, step_sum=step_sum)

    state = algorithm.init(Arrays({"w": np.zeros(1)}))
    plan = mean.plan(algorithm.broadcast(state))
    update = algorithm.client_update(app.trainer, algorithm.broadcast(state), task(0.0))
    # Alone, a client's change comes back, to what the quanta of s and d leave of it.
    if step_sum < 1:
        with pytest.raises(UpdateRejectedError, match=r"'params/w' changes by up to 1e\+03"):
            mean.check(plan, update)  # a gradient of 1,000 at w = 0 is beyond the range, as it is for fedsgd
        update = Update(dict(update.arrays) | {"params/w": update.arrays["params/w"] / 100}, 1)
    partial = mean.accumulate(plan, mean.zero(plan), update, Contribution("ada", 1))
    after = algorithm.server_update(state, mean.report(plan, partial))
    assert after.params["w"].item() == pytest.approx(1 if step_sum > 1 else 0.01, rel=1e-5)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (lambda model, task: Update(model, task.round, step_sum=1.0), "fednova corrects every gradient, but"),
        (lambda model, task: Update(model, len([task.correction])), r"return hansa.Update\(…, step_sum=steps"),
    ],
    ids=["ignores the correction", "tells no steps"],
)
def test_an_app_that_does_not_fit_is_told_what_to_do(
    mean: WeightedMean, task: Callable[..., Task], train: Callable[[Arrays, Task], Update], said: str
):
    algorithm, app = fednova(mean, mu=0.1), hansa.App()
    app.train(train)
    with pytest.raises(AppError, match=said):
        algorithm.client_update(app.trainer, algorithm.broadcast(algorithm.init(Arrays({"w": np.zeros(1)}))), task(0.0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mu": -1.0}, "fednova: mu is -1.0; it must be a number of at least 0, and finite"),
        ({"momentum": 1.0}, "fednova: momentum is 1.0; it must be a number of at least 0 and below 1"),
    ],
)
def test_refuses_an_option_by_its_name_and_range(mean: WeightedMean, options: dict[str, float], said: str):
    with pytest.raises(ConfigError, match=said):
        fednova(mean, **options)
