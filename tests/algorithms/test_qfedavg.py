"""q-FedAvg."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from bowls import BOWLS, Bowl, BowlTrainer

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.qfedavg import qfedavg
from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ConfigError
from hansa.messages import Task, Update
from hansa.testing.federation import aggregate, play, task_of

ETA = 0.1


def written_out(q: float, present: list[list[str]]) -> list[Array]:
    """Algorithm 2 of the paper once more, with L = 1/η and nothing divided out; present: S by round."""
    w, models, lipschitz = np.zeros(2), [np.zeros(2)], 1 / ETA
    for names in present:
        deltas, hs = [], []
        for name in names:
            bowl, local = BOWLS[name], w
            for _ in range(bowl.steps):
                local = local - ETA * bowl.gradient(local)
            delta_w = lipschitz * (w - local)
            deltas.append(bowl.loss(w) ** q * delta_w)
            hs.append(q * bowl.loss(w) ** (q - 1) * float(delta_w @ delta_w) + lipschitz * bowl.loss(w) ** q)
        w = w - np.sum(deltas, axis=0) / np.sum(hs)
        models.append(w)
    return models


PRESENT = [["ada", "bo", "cy"], ["bo", "cy"], ["ada", "cy"], ["ada", "bo", "cy"], ["bo"], ["ada", "bo"]] * 2


@pytest.mark.parametrize("q", [0.0, 0.1, 1.0, 2.0, 5.0])
def test_follows_the_paper_for_unequal_steps_and_when_only_some_take_part(mean: WeightedMean, q: float):
    algorithm, trainer = qfedavg(mean, learning_rate=ETA, q=q), BowlTrainer(eta=ETA)
    state = algorithm.init(Arrays({"w": np.zeros(2)}))
    for names, expected in zip(
        [["ada", "bo"], *PRESENT], written_out(q, PRESENT), strict=True
    ):  # the first round measures
        broadcast = algorithm.broadcast(state)
        sent = {name: algorithm.client_update(trainer, broadcast, task_of(name, BOWLS)) for name in names}
        state = algorithm.server_update(state, aggregate(algorithm, broadcast, sent))
        np.testing.assert_allclose(state.params["w"], expected, rtol=0, atol=2e-6)


def test_with_q_0_it_is_fedavg_of_clients_that_count_alike(mean: WeightedMean):
    fair = play(qfedavg(mean, learning_rate=ETA, q=0), BowlTrainer(), BOWLS, rounds=5)
    alike = play(fedavg(replace(mean, uniform=True)), BowlTrainer(), BOWLS, rounds=4)
    next(fair)
    for mine, theirs in zip(fair, alike, strict=True):
        np.testing.assert_allclose(mine.params["w"], theirs.params["w"], rtol=0, atol=1e-7)


def test_a_larger_q_is_fairer_and_costs_the_mean(mean: WeightedMean):
    # Three clients agree and one does not: the one gains, the three lose more than it gains.
    data = {f"c{i}": Bowl(np.ones(2), np.full(2, 1.0 if i else -2.0), n=1, steps=1) for i in range(4)}
    spreads, means = [], []
    for q in (0.0, 1.0, 4.0):
        *_, last = play(qfedavg(mean, learning_rate=ETA, q=q), BowlTrainer(eta=ETA), data, rounds=120)
        losses = [bowl.loss(last.params["w"]) for bowl in data.values()]
        spreads.append(np.std(losses))
        means.append(np.mean(losses))
    assert spreads == sorted(spreads, reverse=True)
    assert means == sorted(means)
    assert spreads[2] < spreads[0] / 2


def test_the_largest_loss_of_a_round_is_the_measure_of_the_next(mean: WeightedMean):
    # Losses 8.25, 10.3 … at 0 are at most 2^4; where no h arrives, the model stays.
    algorithm = qfedavg(mean, learning_rate=ETA, q=2.0)
    first, second, *_ = play(algorithm, BowlTrainer(eta=ETA), BOWLS, rounds=2)
    assert max(bowl.loss(np.zeros(2)) for bowl in BOWLS.values()) == pytest.approx(9.6)
    assert first.slots["reference"]["loss"] == 0
    assert second.slots["reference"]["loss"] == 16
    assert second.params == first.params


def test_the_measure_falls_by_no_more_than_half_in_a_round(mean: WeightedMean):
    # "cy" alone has the loss 0.3125 at 0, at most 2^-1: from 16 to 8, so that the others' powers stay in range.
    algorithm, zero = qfedavg(mean, learning_rate=ETA), Arrays({"w": np.zeros(2)})
    state = replace(algorithm.init(zero), slots={"reference": Arrays({"loss": np.array(16.0)})})
    broadcast = algorithm.broadcast(state)
    sent = {"cy": algorithm.client_update(BowlTrainer(eta=ETA), broadcast, task_of("cy", BOWLS))}
    after = algorithm.server_update(state, aggregate(algorithm, broadcast, sent))
    assert BOWLS["cy"].loss(np.zeros(2)) == 0.3125
    assert after.slots["reference"]["loss"] == 8


@pytest.mark.parametrize("loss", [-1.0, float("nan"), None])
def test_a_loss_that_is_no_weight_is_refused(mean: WeightedMean, task: Callable[..., Task], loss: float | None):
    class Odd(BowlTrainer):
        def gradient(self, model: Arrays, task: Task) -> Update:
            return Update(model, 1, {} if loss is None or task.round != 1 else {"loss": loss})

    algorithm = qfedavg(mean, learning_rate=ETA)
    with pytest.raises(AppError, match="qfedavg weighs clients by their loss, which must be at least 0 and finite"):
        algorithm.client_update(Odd(), algorithm.broadcast(algorithm.init(Arrays({"w": np.zeros(2)}))), task(0.0))


def test_an_app_without_gradients_is_told_what_to_do(mean: WeightedMean, task: Callable[..., Task]):
    app, made = hansa.App(), qfedavg(mean, learning_rate=ETA)
    app.train(lambda model, _: Update(model, 1))
    with pytest.raises(AppError, match="needs gradients, which train"):
        made.client_update(app.trainer, made.broadcast(made.init(Arrays({"w": np.zeros(1)}))), task(0.0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"q": -1.0}, "qfedavg: q is -1.0; it must be a number of at least 0, and finite"),
        ({"learning_rate": 0.0}, "qfedavg: learning_rate is 0.0; it must be a number above 0, and finite"),
    ],
)
def test_refuses_an_option_by_its_name_and_range(mean: WeightedMean, options: dict[str, float], said: str):
    with pytest.raises(ConfigError, match=said):
        qfedavg(mean, **({"learning_rate": 1.0} | options))
