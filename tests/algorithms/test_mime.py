"""Mime and MimeLite."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from bowls import BOWLS, BowlTrainer

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Algorithm, Trainer
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.mime import mime, mimelite
from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ConfigError
from hansa.messages import Task, Update
from hansa.testing.federation import aggregate, play, task_of
from hansa.testing.linear import LinearTrainer

ETA, BETA = 0.05, 0.7


def written_out(present: Sequence[Sequence[str]], *, lite: bool) -> list[Array]:
    """The paper's pseudo-code once more, m and η in the paper's scale, for SGD with momentum; present: S by round."""
    eta = ETA / (1 - BETA)
    x, m, models = np.zeros(2), np.zeros(2), [np.zeros(2)]
    for names in present:
        c = np.mean([BOWLS[name].gradient(x) for name in names], axis=0)
        ys = []
        for name in names:
            y = x
            for _ in range(BOWLS[name].steps):
                g = BOWLS[name].gradient(y)
                if not lite:
                    g = g - BOWLS[name].gradient(x) + c
                y = y - eta * ((1 - BETA) * g + BETA * m)
            ys.append(y)
        m = (1 - BETA) * c + BETA * m
        x = np.mean(ys, axis=0)
        models.append(x)
    return models


def played(algorithm: Algorithm, present: Sequence[Sequence[str]]) -> list[Array]:
    """The models of rounds with these clients."""
    trainer = BowlTrainer(eta=ETA)
    state, models = algorithm.init(Arrays({"w": np.zeros(2)})), [np.zeros(2)]
    for names in present:
        broadcast = algorithm.broadcast(state)
        sent = {name: algorithm.client_update(trainer, broadcast, task_of(name, BOWLS)) for name in names}
        state = algorithm.server_update(state, aggregate(algorithm, broadcast, sent))
        models.append(state.params["w"])
    return models


PRESENT = [["ada", "bo", "cy"], ["bo", "cy"], ["ada"], ["ada", "bo", "cy"], ["bo"], ["ada", "cy"]]


def test_mimelite_follows_the_paper(mean: WeightedMean):
    np.testing.assert_allclose(
        played(mimelite(mean, momentum=BETA), PRESENT), written_out(PRESENT, lite=True), rtol=0, atol=1e-7
    )


def test_two_rounds_of_mime_are_one_of_the_paper(mean: WeightedMean):
    models = played(mime(mean, momentum=BETA), [names for names in PRESENT for _ in range(2)])
    np.testing.assert_allclose(models[0::2], written_out(PRESENT, lite=False), rtol=0, atol=1e-7)
    np.testing.assert_array_equal(models[1::2], models[0:-1:2])  # a round of gradients moves nothing


def test_the_momentum_stays_as_it_is_in_a_round(mean: WeightedMean, task: Callable[..., Task], spring: Trainer):
    # η = ½, βm = 2, target 0, from w = 8: 8 − ½(8 + 2) = 3, then 3 − ½(3 + 2) = 0.5: both steps have m = 4.
    broadcast = Arrays({"params/w": np.array([8.0]), "m/w": np.array([4.0])})

    class Offset:
        def __getattr__(self, name: str) -> object:
            return getattr(spring, name)

        def fit(self, model: Arrays, task: Task) -> Update:
            w, correction = model["w"], task.correction
            assert correction is not None
            assert correction.offset is not None
            for _ in range(2):
                w = w - 0.5 * (w + correction.offset["w"])
            return Update({"w": w}, 3)

    update = mimelite(mean, momentum=0.5).client_update(Offset(), broadcast, task(0.0, examples=3))
    assert {name: array.tolist() for name, array in update.arrays.items()} == {"params/w": [-7.5], "m/w": [8.0]}


def test_mimelite_without_momentum_is_fedavg_of_clients_that_count_alike(mean: WeightedMean):
    lite = play(mimelite(mean, momentum=0.0), BowlTrainer(), BOWLS, rounds=4)
    alike = play(fedavg(replace(mean, uniform=True)), BowlTrainer(), BOWLS, rounds=4)
    for mine, theirs in zip(lite, alike, strict=True):
        assert mine.params == theirs.params


def test_mime_takes_the_drift_out_of_minibatch_steps_which_mimelite_does_not(mean: WeightedMean):
    rng = np.random.default_rng(3)
    data = {}
    for name, scale, truth in (("ada", 1.0, [1.0, -2.0]), ("bo", 2.0, [-3.0, 1.0])):
        x = rng.normal(0, scale, (40, 2))
        data[name] = x, x @ np.array(truth) + scale
    x, y = (np.concatenate(arrays) for arrays in zip(*data.values(), strict=True))
    optimum = np.linalg.lstsq(np.c_[x, np.ones(80)], y, rcond=None)[0]
    trainer = LinearTrainer(2, learning_rate=0.01, epochs=4, batch_size=8)

    def distance(algorithm: Algorithm, rounds: int) -> float:
        *_, last = play(algorithm, trainer, data, rounds=rounds)
        return float(np.abs(np.append(last.params["weight"], last.params["bias"]) - optimum).max())

    assert distance(mimelite(mean, momentum=0.5), 200) > 0.1
    assert distance(mime(mean, momentum=0.5), 400) < 1e-3


@pytest.mark.parametrize("algorithm", [mimelite, mime])
def test_an_app_without_gradients_is_told_what_to_do(
    mean: WeightedMean, task: Callable[..., Task], algorithm: Callable[[WeightedMean], Algorithm]
):
    app, made = hansa.App(), algorithm(mean)
    app.train(lambda model, _: Update(model, 1))
    with pytest.raises(AppError, match="needs gradients, which train"):
        made.client_update(app.trainer, made.broadcast(made.init(Arrays({"w": np.zeros(1)}))), task(0.0))


@pytest.mark.parametrize("algorithm", [mimelite, mime])
def test_refuses_an_option_by_its_name_and_range(mean: WeightedMean, algorithm: Callable[..., Algorithm]):
    with pytest.raises(ConfigError, match=r": momentum is 1.0; it must be a number of at least 0 and below 1"):
        algorithm(mean, momentum=1.0)
