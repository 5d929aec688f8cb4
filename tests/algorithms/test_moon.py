"""MOON."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.moon import moon
from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ConfigError
from hansa.messages import Task, Update
from hansa.testing.federation import task_of
from hansa.testing.linear import LinearTrainer
from hansa.training.numpy import NumpyTrainer, softmax_regression

torch = pytest.importorskip("torch")
from hansa.training.torch import TorchTrainer  # noqa: E402 - torch is an extra

RNG = np.random.default_rng(5)
DATA = {"ada": (RNG.normal(size=(7, 3)), RNG.integers(0, 2, 7))}
MU, TAU, ETA = 0.7, 0.5, 0.1


def encoder_and_head() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()


def trainer(representation: str | None = "1", **more: int) -> TorchTrainer:
    return TorchTrainer(
        encoder_and_head,
        torch.nn.CrossEntropyLoss(),
        lambda parameters: torch.optim.SGD(parameters, lr=ETA),
        representation=representation,
        **more,
    )


def models() -> tuple[Arrays, Arrays]:
    """The one received, and the client's own."""
    return trainer().initial_model(np.random.default_rng(1)), trainer().initial_model(np.random.default_rng(2))


def written_out(model: Arrays, received: Arrays, own: Arrays) -> float:
    """Cross-entropy + μ ℓ as the paper writes them, without torch."""
    x, y = DATA["ada"]

    def z(params: Arrays) -> Array:
        return np.tanh(x @ params["0.weight"].T + params["0.bias"])

    def cosine(a: Array, b: Array) -> Array:
        return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    logits = z(model) @ model["2.weight"].T + model["2.bias"]
    supervised = (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]).mean()
    near, far = np.exp(cosine(z(model), z(received)) / TAU), np.exp(cosine(z(model), z(own)) / TAU)
    return float(supervised + MU * -np.log(near / (near + far)).mean())


def slopes(model: Arrays, received: Arrays, own: Arrays) -> dict[str, Array]:
    """The gradient by differences."""
    found = {}
    for name, array in model.items():
        found[name] = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            step = np.zeros_like(array)
            step[index] = 1e-5
            up, down = (Arrays(dict(model) | {name: array + sign * step}) for sign in (1, -1))
            found[name][index] = (written_out(up, received, own) - written_out(down, received, own)) / 2e-5
    return found


def test_two_steps_descend_the_loss_of_the_paper(mean: WeightedMean):
    received, own = models()
    task = replace(task_of("ada", DATA), memory=own)
    update = moon(mean, mu=MU, temperature=TAU).client_update(trainer(epochs=2), received, task)
    expected = received
    for _ in range(2):
        gradient = slopes(expected, received, own)
        expected = Arrays({name: array - ETA * gradient[name] for name, array in expected.items()})
    for name, array in expected.items():
        np.testing.assert_allclose(received[name] + update.arrays[name], array, rtol=0, atol=1e-8)
    assert update.memory is not None
    assert list(update.memory) == list(received)


def test_a_client_keeps_its_last_model_and_has_no_contrast_before_the_first(mean: WeightedMean):
    received, _ = models()
    plain = fedavg(mean).client_update(trainer(), received, task_of("ada", DATA))
    first = moon(mean).client_update(trainer(), received, task_of("ada", DATA))
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(first.arrays[name], array, rtol=0, atol=1e-12)
        assert first.memory is not None
        np.testing.assert_allclose(first.memory[name], received[name] + array, rtol=0, atol=1e-12)
    second = moon(mean).client_update(trainer(), received, replace(task_of("ada", DATA), memory=first.memory))
    assert np.abs(second.arrays["0.weight"] - plain.arrays["0.weight"]).max() > 1e-6


def test_the_loss_that_is_reported_is_without_the_contrast(mean: WeightedMean):
    received, own = models()
    losses = [
        moon(mean, mu=mu).client_update(trainer(), received, replace(task_of("ada", DATA), memory=own)).metrics["loss"]
        for mu in (0.0, 5.0)
    ]
    assert losses[0] == losses[1]


def test_a_trainer_that_knows_no_representation_is_told_what_to_do(mean: WeightedMean):
    received, _ = models()
    with pytest.raises(AppError, match='give TorchTrainer representation="encoder"'):
        moon(mean).client_update(trainer(None), received, task_of("ada", DATA))
    linear = NumpyTrainer(softmax_regression(3, 2), 0.1)
    with pytest.raises(AppError, match="which NumpyTrainer does not know: use TorchTrainer"):
        moon(mean).client_update(linear, linear.initial_model(RNG), task_of("ada", DATA))


def test_an_app_that_ignores_the_correction_is_told_what_to_do(mean: WeightedMean, task: Callable[..., Task]):
    app = hansa.App()
    app.train(lambda model, _: Update(model, 1))
    with pytest.raises(
        AppError, match=r"moon corrects every gradient, .* add the gradient of task.correction.contrast"
    ):
        moon(mean).client_update(app.trainer, Arrays({"w": np.zeros(1)}), task(0.0))


def test_without_mu_it_is_fedavg_to_the_bit(mean: WeightedMean):
    of = LinearTrainer(3)
    model = of.initial_model(RNG)
    data = {"ada": (DATA["ada"][0], DATA["ada"][1].astype(float))}
    plain = fedavg(mean).client_update(of, model, task_of("ada", data))
    assert moon(mean, mu=0).client_update(of, model, task_of("ada", data)).arrays == plain.arrays


@pytest.mark.parametrize("options", [{"mu": -1}, {"temperature": 0}])
def test_refuses_an_option_by_its_name_and_range(mean: WeightedMean, options: dict[str, int]):
    (name,) = options
    with pytest.raises(ConfigError, match=f"moon: {name} is "):
        moon(mean, **options)
