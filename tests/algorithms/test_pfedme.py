"""pFedMe."""

from collections.abc import Callable

import numpy as np
import pytest
from bowls import BOWLS, Bowl, BowlTrainer

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.pfedme import pfedme
from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ConfigError
from hansa.messages import Task, Update
from hansa.testing.federation import aggregate, play, task_of

LAMBDA, ETA, ROUNDS, BETA = 2.0, 0.1, 3, 1.5


def written_out(present: list[list[str]]) -> tuple[list[Array], dict[str, Array]]:
    """Algorithm 1 of the paper once more, with gradient descent for the argmin: global models, and every θ_i."""
    w, thetas, models = np.zeros(2), dict[str, Array](), [np.zeros(2)]
    for names in present:
        ends = []
        for name in names:
            bowl, w_i = BOWLS[name], w
            for _ in range(ROUNDS):
                theta = w_i
                for _ in range(bowl.steps):
                    theta = theta - 0.1 * (bowl.gradient(theta) + LAMBDA * (theta - w_i))
                w_i = w_i - ETA * LAMBDA * (w_i - theta)
            thetas[name] = theta
            ends.append(w_i)
        w = (1 - BETA) * w + BETA * np.mean(ends, axis=0)
        models.append(w)
    return models, thetas


def test_follows_the_paper_also_when_only_some_take_part(mean: WeightedMean):
    present = [["ada", "bo"], ["cy"], ["bo", "cy"], ["ada", "bo", "cy"], ["ada"], ["bo"]]
    models, thetas = written_out(present)
    algorithm = pfedme(mean, penalty=LAMBDA, learning_rate=ETA, local_rounds=ROUNDS, beta=BETA)
    state, kept = algorithm.init(Arrays({"w": np.zeros(2)})), dict[str, Arrays | None]()
    for names, expected in zip(present, models[1:], strict=True):
        broadcast = algorithm.broadcast(state)
        tasks = {name: task_of(name, BOWLS, memory=kept.get(name)) for name in names}
        sent = {name: algorithm.client_update(BowlTrainer(), broadcast, task) for name, task in tasks.items()}
        kept |= {name: update.memory for name, update in sent.items()}
        state = algorithm.server_update(state, aggregate(algorithm, broadcast, sent))
        np.testing.assert_allclose(state.params["w"], expected, rtol=0, atol=1e-7)
    for name, theta in thetas.items():
        np.testing.assert_allclose(algorithm.personal(state.params, kept[name])["w"], theta, rtol=0, atol=1e-7)


def test_with_exact_local_optima_it_minimizes_the_envelopes(mean: WeightedMean):
    # The envelope of ½h(w − t)² is ½ λh/(λ + h) (w − t)²: harder bowls count less than in FedAvg.
    data = {name: Bowl(bowl.h, bowl.t, n=1, steps=150) for name, bowl in BOWLS.items()}
    algorithm = pfedme(mean, penalty=LAMBDA, learning_rate=0.5, local_rounds=1)
    *_, last = play(algorithm, BowlTrainer(), data, rounds=60)
    weights = {name: LAMBDA * bowl.h / (LAMBDA + bowl.h) for name, bowl in data.items()}
    expected = sum(weights[name] * bowl.t for name, bowl in data.items()) / sum(weights.values())
    np.testing.assert_allclose(last.params["w"], expected, rtol=0, atol=1e-5)


def test_integers_are_those_of_the_last_training(mean: WeightedMean, task: Callable[..., Task]):
    app, algorithm = hansa.App(), pfedme(mean, local_rounds=3)

    @app.train
    def train(model: Arrays, task: Task) -> Update:
        assert task.correction is not None
        return Update({"w": model["w"], "steps": model["steps"] + 2}, 1)

    model = Arrays({"w": np.zeros(1), "steps": np.zeros((), np.int64)})
    assert algorithm.client_update(app.trainer, model, task(0.0)).arrays["steps"] == 6


def test_an_app_that_ignores_the_correction_is_told_what_to_do(mean: WeightedMean, task: Callable[..., Task]):
    app = hansa.App()
    app.train(lambda model, _: Update(model, 1))
    with pytest.raises(AppError, match="pfedme corrects every gradient, but the app's train function never read"):
        pfedme(mean).client_update(app.trainer, Arrays({"w": np.zeros(1)}), task(0.0))


@pytest.mark.parametrize("options", [{"penalty": 0}, {"learning_rate": 0}, {"local_rounds": 0}, {"beta": 0}])
def test_refuses_an_option_by_its_name_and_range(mean: WeightedMean, options: dict[str, int]):
    (name,) = options
    with pytest.raises(ConfigError, match=f"pfedme: {name} is 0; it must be "):
        pfedme(mean, **options)
