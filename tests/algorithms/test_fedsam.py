"""FedSAM."""

from collections.abc import Callable

import numpy as np
import pytest

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.fedsam import fedsam
from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ConfigError
from hansa.messages import Task, Update
from hansa.testing.federation import play, task_of
from hansa.testing.linear import LinearTrainer
from hansa.training.numpy import NumpyModel, NumpyTrainer, Params

H, T, ETA, RHO = np.array([1.0, 4.0]), np.array([3.0, -1.0]), 0.1, 0.5
MODEL = Arrays({"a": np.zeros(1), "b": np.zeros(1)})
DATA = {"ada": (np.zeros((1, 1)), np.zeros(1))}


def bowl(params: Params, _x: Array, _y: Array) -> tuple[float, dict[str, Array]]:
    """F(w) = ½ Σ h (w − t)², w in two tensors."""
    away = np.concatenate([params["a"], params["b"]]) - T
    slope = H * away
    return float((H * away**2).sum() / 2), {"a": slope[:1], "b": slope[1:]}


def trainer(**more: float) -> NumpyTrainer:
    return NumpyTrainer(NumpyModel(lambda _: dict(MODEL), bowl), ETA, **more)


def test_steps_are_those_of_the_paper(mean: WeightedMean):
    # w ← w − η h (w + ρ g/‖g‖ − t), g = h (w − t), ‖g‖ over both tensors; the loss is that at w.
    w, losses = np.zeros(2), []
    for _ in range(3):
        losses.append((H * (w - T) ** 2).sum() / 2)
        g = H * (w - T)
        w = w - ETA * H * (w + RHO * g / np.linalg.norm(g) - T)
    update = fedsam(mean, rho=RHO).client_update(trainer(steps=3), MODEL, task_of("ada", DATA))
    np.testing.assert_allclose(np.concatenate(list(update.arrays.values())), w, rtol=1e-12)
    assert update.metrics["loss"] == pytest.approx(np.mean(losses))


def test_where_the_gradient_is_0_nothing_moves(mean: WeightedMean):
    there = Arrays({"a": T[:1], "b": T[1:]})
    update = fedsam(mean, rho=RHO).client_update(trainer(), there, task_of("ada", DATA))
    assert not any(array.any() for array in update.arrays.values())


def test_without_rho_it_is_fedavg_to_the_bit(mean: WeightedMean):
    rng = np.random.default_rng(1)
    data = {"ada": (rng.normal(size=(9, 3)), rng.normal(size=9)), "bo": (rng.normal(size=(4, 3)), rng.normal(size=4))}
    of = LinearTrainer(3, epochs=2, batch_size=4)
    same, fedavgs = play(fedsam(mean, rho=0), of, data, rounds=2), play(fedavg(mean), of, data, rounds=2)
    assert [state.params for state in same] == [state.params for state in fedavgs]


def test_an_app_that_ignores_the_correction_is_told_what_to_do(mean: WeightedMean, task: Callable[..., Task]):
    app = hansa.App()
    app.train(lambda model, _: Update(model, 1))
    with pytest.raises(AppError, match=r"take each gradient g once more at w \+ task.correction.sharpness \* g / nor"):
        fedsam(mean).client_update(app.trainer, Arrays({"w": np.zeros(1)}), task(0.0))


def test_refuses_an_option_by_its_name_and_range(mean: WeightedMean):
    with pytest.raises(ConfigError, match=r"fedsam: rho is -0.1; it must be a number of at least 0, and finite"):
        fedsam(mean, rho=-0.1)
