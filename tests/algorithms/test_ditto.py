"""Ditto."""

from collections.abc import Callable

import numpy as np
import pytest
from bowls import BOWLS, BowlTrainer

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.ditto import ditto
from hansa.algorithms.fedavg import fedavg
from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ConfigError
from hansa.messages import Task, Update
from hansa.testing.federation import aggregate, play, task_of


def written_out(pull: float, present: list[list[str]]) -> tuple[list[Array], dict[str, Array]]:
    """The paper's pseudo-code once more: the global models, and each client's own at the end."""
    w, own, models = np.zeros(2), dict[str, Array](), [np.zeros(2)]
    for names in present:
        locals_, total = [], sum(BOWLS[name].n for name in names)
        for name in names:
            bowl = BOWLS[name]
            x, v = w, own.get(name, w)
            for _ in range(bowl.steps):
                x = x - 0.1 * bowl.gradient(x)
            for _ in range(bowl.steps):
                v = v - 0.1 * (bowl.gradient(v) + pull * (v - w))
            own[name] = v
            locals_.append(bowl.n / total * x)
        w = np.sum(locals_, axis=0)
        models.append(w)
    return models, own


def test_follows_the_paper_also_when_only_some_take_part(mean: WeightedMean):
    present = [["ada", "bo"], ["cy"], ["bo", "cy"], ["ada", "bo", "cy"], ["ada"], ["bo"]]
    models, own = written_out(0.7, present)
    algorithm, trainer = ditto(mean, pull=0.7), BowlTrainer()
    state, kept = algorithm.init(Arrays({"w": np.zeros(2)})), dict[str, Arrays | None]()
    for names, expected in zip(present, models[1:], strict=True):
        broadcast = algorithm.broadcast(state)
        sent = {n: algorithm.client_update(trainer, broadcast, task_of(n, BOWLS, memory=kept.get(n))) for n in names}
        kept |= {name: update.memory for name, update in sent.items()}
        state = algorithm.server_update(state, aggregate(algorithm, broadcast, sent))
        np.testing.assert_allclose(state.params["w"], expected, rtol=0, atol=1e-8)
    for name, v in own.items():
        np.testing.assert_allclose(algorithm.personal(state.params, kept[name])["w"], v, rtol=0, atol=1e-8)


def test_the_global_model_is_fedavgs_to_the_bit(mean: WeightedMean):
    for mine, theirs in zip(
        play(ditto(mean, pull=2.0), BowlTrainer(), BOWLS, rounds=4),
        play(fedavg(mean), BowlTrainer(), BOWLS, rounds=4),
        strict=True,
    ):
        assert mine.params == theirs.params


@pytest.mark.parametrize(("pull", "near"), [(0.0, "its own optimum"), (1e-6, "its own optimum"), (8.0, "the model")])
def test_the_pull_decides_between_the_clients_own_optimum_and_the_global_model(
    mean: WeightedMean, pull: float, near: str
):
    algorithm, memory, model = ditto(mean, pull=pull), None, Arrays({"w": np.zeros(2)})
    for number in range(1, 60):
        memory = algorithm.client_update(BowlTrainer(), model, task_of("bo", BOWLS, number, memory=memory)).memory
    bowl = BOWLS["bo"]
    assert memory is not None
    # The optimum of F(v) + (λ/2)‖v‖² is h t/(h + λ).
    np.testing.assert_allclose(memory["w"], bowl.h * bowl.t / (bowl.h + pull), rtol=1e-4)
    closer = np.abs(memory["w"] - bowl.t) < np.abs(memory["w"])
    assert closer.all() if near == "its own optimum" else not closer.any()


def test_a_client_without_a_model_of_its_own_evaluates_the_global_one(mean: WeightedMean):
    model = Arrays({"w": np.ones(2)})
    assert ditto(mean).personal(model, None) is model


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (lambda model, task: Update(model, task.round), r"ditto corrects every gradient, but"),
        (lambda model, task: Update(model, len([task.correction]), memory=model), "return no memory of the app's own"),
    ],
    ids=["ignores the correction", "keeps a memory of its own"],
)
def test_an_app_that_does_not_fit_is_told_what_to_do(
    mean: WeightedMean, task: Callable[..., Task], train: Callable[[Arrays, Task], Update], said: str
):
    app = hansa.App()
    app.train(train)
    with pytest.raises(AppError, match=said):
        ditto(mean).client_update(app.trainer, Arrays({"w": np.zeros(1)}), task(0.0))


def test_refuses_an_option_by_its_name_and_range(mean: WeightedMean):
    with pytest.raises(ConfigError, match=r"ditto: pull is -1; it must be a number of at least 0, and finite"):
        ditto(mean, pull=-1)
