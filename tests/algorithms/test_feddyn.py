"""FedDyn."""

from collections.abc import Callable

import numpy as np
import pytest
from bowls import BOWLS, Bowl, BowlTrainer

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Aggregate, Algorithm
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.feddyn import feddyn
from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ConfigError
from hansa.messages import Contribution, Task, Update
from hansa.testing.federation import aggregate, play, task_of

ALPHA = 0.4


def written_out(eta: float, present: list[list[str]]) -> list[Array]:
    """The paper's pseudo-code once more, with gradient descent for the argmin; present: who, round by round."""
    w, h, models = np.zeros(2), np.zeros(2), [np.zeros(2)]
    h_k = {name: np.zeros(2) for name in BOWLS}
    for names in present:
        thetas = {}
        for name in names:
            theta = w
            for _ in range(BOWLS[name].steps):
                theta = theta - eta * (BOWLS[name].gradient(theta) - h_k[name] + ALPHA * (theta - w))
            h_k[name] = h_k[name] - ALPHA * (theta - w)
            thetas[name] = theta
        h = h - ALPHA / len(BOWLS) * sum(theta - w for theta in thetas.values())
        w = np.mean(list(thetas.values()), axis=0) - h / ALPHA
        models.append(w)
    return models


def test_follows_the_paper_for_unequal_steps_and_examples(mean: WeightedMean):
    states = play(feddyn(mean, num_clients=3, alpha=ALPHA), BowlTrainer(), BOWLS, rounds=8)
    for state, expected in zip(states, written_out(0.1, [list(BOWLS)] * 8), strict=True):
        np.testing.assert_allclose(state.params["w"], expected, rtol=0, atol=1e-7)


def test_follows_the_paper_when_only_some_take_part(mean: WeightedMean):
    present = [["ada", "bo"], ["cy"], ["bo", "cy"], ["ada", "bo", "cy"], ["ada"]]
    algorithm, trainer = feddyn(mean, num_clients=3, alpha=ALPHA), BowlTrainer()
    state, kept = algorithm.init(Arrays({"w": np.zeros(2)})), dict[str, Arrays | None]()
    for names, expected in zip(present, written_out(0.1, present)[1:], strict=True):
        broadcast = algorithm.broadcast(state)
        sent = {n: algorithm.client_update(trainer, broadcast, task_of(n, BOWLS, memory=kept.get(n))) for n in names}
        kept |= {name: update.memory for name, update in sent.items()}
        state = algorithm.server_update(state, aggregate(algorithm, broadcast, sent))
        np.testing.assert_allclose(state.params["w"], expected, rtol=0, atol=1e-7)


def far_from_the_optimum(algorithm: Algorithm, rounds: int, steps: int) -> float:
    """From the optimum of the mean of the clients' losses, which counts them alike."""
    data = {name: Bowl(bowl.h, bowl.t, n=1, steps=steps) for name, bowl in BOWLS.items()}
    optimum = sum(b.h * b.t for b in data.values()) / sum(b.h for b in data.values())
    *_, last = play(algorithm, BowlTrainer(), data, rounds=rounds)
    return float(np.abs(last.params["w"] - optimum).max())


def test_it_reaches_the_common_optimum_where_fedavg_with_many_local_steps_does_not(mean: WeightedMean):
    assert far_from_the_optimum(fedavg(mean), 60, steps=200) > 0.5
    assert far_from_the_optimum(feddyn(mean, num_clients=3, alpha=ALPHA), 60, steps=200) < 1e-6


def test_with_an_alpha_too_small_it_is_worse_than_fedavg(mean: WeightedMean):
    # One short local step is no argmin, and h/α adds up what the step left over.
    averaged = far_from_the_optimum(fedavg(mean), 20, steps=1)
    assert far_from_the_optimum(feddyn(mean, num_clients=3, alpha=0.001), 20, steps=1) > averaged


def test_the_dynamic_term_has_a_gradient(mean: WeightedMean, task: Callable[..., Task]):
    # η = ½, α = 1, h_i = 2, ∇F = w − 4: θ = 0 − ½(−4 − 2) = 3; then −1 − 2 + 3 = 0 and it stays; h_i = 2 − 3.
    algorithm, app = feddyn(mean, num_clients=1, alpha=1.0), hansa.App()

    @app.train
    def train(model: Arrays, task: Task) -> Update:
        w, correction = model["w"], task.correction
        assert correction is not None
        assert correction.offset is not None
        for _ in range(2):
            w = w - 0.5 * (w - 4 + correction.proximal * (w - model["w"]) + correction.offset["w"])
        return Update({"w": w}, num_examples=5)

    broadcast = algorithm.broadcast(algorithm.init(Arrays({"w": np.zeros(1)})))
    remembering = task(0.0)
    remembering.memory = Arrays({"w": np.array([2.0])})
    update = algorithm.client_update(app.trainer, broadcast, remembering)
    assert update.arrays["params/w"].tolist() == [3.0]
    assert update.memory == Arrays({"w": np.array([-1.0])})


def test_tensors_without_gradients_follow_fedavg(mean: WeightedMean, task: Callable[..., Task]):
    model = Arrays({"w": np.zeros(1), "steps": np.zeros((), np.int64), "running_var": np.ones(1, np.float32)})
    algorithm, app = feddyn(mean, num_clients=1, alpha=0.5), hansa.App()

    @app.train
    def train(model: Arrays, task: Task) -> Update:
        assert task.correction is not None
        new = {"w": model["w"] - 2, "steps": model["steps"] + 7, "running_var": model["running_var"] * 0.5}
        return Update(new, num_examples=1, step_sum={"w": 0.0})

    update = algorithm.client_update(app.trainer, algorithm.broadcast(algorithm.init(model)), task(0.0))
    assert update.memory is not None
    assert {name: array.item() for name, array in update.memory.items()} == {"w": 1.0, "running_var": 0.0}
    after = algorithm.server_update(algorithm.init(model), Aggregate(update.arrays, 1, {"ada": Contribution("ada", 1)}))
    # h = 0 − ½·(−2) = 1, w = 0 − 2 − 1/½
    assert {name: array.item() for name, array in after.params.items()} == {"w": -4.0, "steps": 7, "running_var": 0.5}


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (lambda model, task: Update(model, task.round), r"offset\[name\] to each gradient"),
        (lambda model, task: Update(model, len([task.correction]), memory=model), "return no memory of the app's own"),
    ],
    ids=["ignores the correction", "keeps a memory of its own"],
)
def test_an_app_that_does_not_fit_is_told_what_to_do(
    mean: WeightedMean, task: Callable[..., Task], train: Callable[[Arrays, Task], Update], said: str
):
    algorithm, app = feddyn(mean, num_clients=1), hansa.App()
    app.train(train)
    with pytest.raises(AppError, match=said):
        algorithm.client_update(app.trainer, algorithm.broadcast(algorithm.init(Arrays({"w": np.zeros(1)}))), task(0.0))


def test_more_clients_than_there_are_is_an_error(mean: WeightedMean):
    algorithm = feddyn(mean, num_clients=1)
    two = {name: Contribution(name, 1) for name in ("ada", "bo")}
    moved = Aggregate(Arrays({"params/w": np.zeros(1), "trained/by_gradients": np.ones(1)}), 2, two)
    with pytest.raises(ConfigError, match="feddyn: 2 clients took part, but num_clients is 1"):
        algorithm.server_update(algorithm.init(Arrays({"w": np.zeros(1)})), moved)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 0.0}, "feddyn: alpha is 0.0; it must be a number above 0, and finite"),
        ({"num_clients": 0}, "feddyn: num_clients is 0; it must be a whole number of at least 1"),
    ],
)
def test_refuses_an_option_by_its_name_and_range(mean: WeightedMean, options: dict[str, float], said: str):
    with pytest.raises(ConfigError, match=said):
        feddyn(mean, **({"num_clients": 2} | options))
