"""Whatever a model is, it learns with what its trainer would have been given."""

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier

import hansa
from hansa.data import Examples, Split
from hansa.errors import AppError, ConfigError
from hansa.training.numpy import NumpyTrainer, softmax_regression
from hansa.training.sklearn import SklearnTrainer

torch = pytest.importorskip("torch")
from hansa.training.torch import TorchTrainer  # noqa: E402 - torch is an extra

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 4)).astype(np.float32), RNG.integers(0, 3, 60)
DATA = Split(Examples(X, Y), Examples(X[:12], Y[:12]))


def net() -> torch.nn.Module:
    return torch.nn.Linear(4, 3)


def hashes(app: hansa.App, **settings: Any) -> str:
    return hansa.simulate(app, clients=3, rounds=2, progress=False, **settings).model_hash


def by_hand(trainer: Any) -> hansa.App:
    app = hansa.App.of(trainer, DATA)  # a trainer is taken as it is
    assert app.given_trainer({}) is trainer
    return app


def test_a_torch_module_is_trained_as_its_trainer_would() -> None:
    trainer = TorchTrainer(
        net, torch.nn.functional.cross_entropy, lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.5), batch_size=8
    )
    made = hansa.App.of(net, DATA, learning_rate=0.3, momentum=0.5, batch_size=8)
    assert hashes(made) == hashes(by_hand(trainer))


def test_a_module_brings_its_own_weights_and_stays_as_it_is() -> None:
    module = net()
    before = module.weight.detach().numpy().copy()  # type: ignore[union-attr,operator]
    app = hansa.App.of(module, DATA)
    for seed in (1, 2):
        assert np.array_equal(app.trainer.initial_model(np.random.default_rng(seed))["weight"], before)
    hashes(app)
    assert np.array_equal(module.weight.detach().numpy(), before)  # type: ignore[union-attr,operator]


def test_an_optimizer_is_named_or_given() -> None:
    named = hansa.App.of(net, DATA, optimizer="Adam", learning_rate=0.01)
    given = hansa.App.of(net, DATA, optimizer=lambda p: torch.optim.Adam(p, lr=0.01))
    assert hashes(named) == hashes(given)


def test_a_module_with_batch_norm_is_told_of_drop_last_and_given_it() -> None:
    def normalized() -> Any:
        return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))

    def spread(outputs: Any, _: Any) -> Any:
        return outputs.std()

    whole = Split(Examples(X[:9], Y[:9]), DATA.test)  # of 9 examples the last batch of 4 is one
    with pytest.raises(AppError, match="BatchNorm cannot train on a last batch of one example: give drop_last=True"):
        hansa.simulate("fedavg", model=normalized, data=whole, clients=1, rounds=1, batch_size=4)
    given: dict[str, Any] = {"batch_size": 4, "drop_last": True, "metrics": {"spread": spread}}
    found = hansa.simulate("fedavg", model=normalized, data=whole, clients=1, rounds=1, **given)
    assert set(found.rounds[0].central) == {"loss", "spread"}


def test_a_numpy_model_and_an_estimator_are_trained_as_their_trainers_would() -> None:
    model = softmax_regression(4, 3)
    assert hashes(hansa.App.of(model, DATA, learning_rate=0.2, epochs=2)) == hashes(
        by_hand(NumpyTrainer(model, 0.2, batch_size=32, epochs=2))
    )
    for estimator, batch in ((SGDClassifier(loss="log_loss"), 32), (LogisticRegression(max_iter=5), None)):
        trainer = SklearnTrainer(estimator, num_features=4, classes=[0, 1, 2], batch_size=batch)
        assert hashes(hansa.App.of(estimator, DATA)) == hashes(by_hand(trainer))


def test_regression_has_squared_error() -> None:
    targets = Split(Examples(X, X[:, 0]), Examples(X[:12], X[:12, 0]))
    app = hansa.App.of(lambda: torch.nn.Linear(4, 1), targets)
    result = hansa.simulate(app, clients=3, rounds=3, progress=False)
    assert result.curves["central.loss"][-1] < result.curves["central.loss"][0]


@pytest.mark.parametrize(
    ("model", "learning", "said"),
    [
        ("a CNN", {}, "model is 'a CNN': give a torch module"),
        (lambda: "net", {}, "it must make a torch module"),
        (net, {"optimizer": "sdg"}, "there is no optimizer 'sdg'; there is: .*sgd"),
        (net, {"optimizer": "adam", "momentum": 0.9}, "Adam does not take momentum"),
        (net, {"optimizer": torch.optim.SGD([torch.zeros(1)], lr=0.1)}, "of a module already"),
        (net, {"optimizer": lambda p: torch.optim.SGD(p, 0.1), "momentum": 0.5}, "settings of its own"),
        (net, {"optimizer": 0.1}, "optimizer is 0.1; it must be a name, a class, or a function"),
        (net, {"loss": "mse"}, "loss is 'mse'; TorchTrainer takes functions"),
        (net, {"representation": 1}, "representation is 1; it must be the name of a submodule"),
        (softmax_regression(4, 3), {"optimizer": "sgd"}, "optimizer is given, and the model is a numpy model"),
        (SGDClassifier(), {"learning_rate": 0.1}, "learning_rate is given, and the model is a scikit-learn"),
        (NumpyTrainer(softmax_regression(4, 3), 0.1), {"epochs": 2}, "epochs is given, and the model is a trainer"),
        (LinearRegression(), {}, "neither partial_fit nor warm_start"),
    ],
)
def test_what_cannot_be_trained_is_told_at_once(model: Any, learning: dict[str, Any], said: str) -> None:
    with pytest.raises(AppError, match=said):
        hansa.App.of(model, DATA, **learning).given_trainer({})


@pytest.mark.parametrize(
    ("learning", "said"),
    [
        ({"learning_rate": -1}, "learning_rate is -1; it must be a number above 0, and finite"),
        ({"optimizer": "adam", "learning_rate": "fast"}, "learning_rate is 'fast'"),
        ({"momentum": 1.0}, "momentum is 1.0; it must be a number of at least 0 and below 1"),
        ({"weight_decay": True}, "weight_decay is True; it must be a number of at least 0, and finite"),
        ({"device": "tpu"}, "device is 'tpu', which PyTorch cannot use here: Expected one of cpu"),
        ({"device": None}, r"device is None, which PyTorch cannot use here: device\(\) received an invalid"),
    ],
)
def test_settings_of_a_module_are_in_their_range(learning: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        hansa.App.of(net, DATA, **learning)
