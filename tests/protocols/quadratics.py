"""Clients whose losses are quadratics with known optima, and what is computed of them in one place."""

from typing import Any

import numpy as np
import numpy.typing as npt

import hansa
from hansa.training.numpy import NumpyModel, NumpyTrainer, softmax_regression

DIMENSION = 3


def quadratics(count: int, *, rate: float = 0.1, curved: bool = True) -> tuple[hansa.App, Any, Any]:
    """F_i(w) = ½ Σ h_i (w − e_i)², full batch, float64; also h and e, shape (count, 3). Not curved: h is 1."""
    rng = np.random.default_rng(3)
    h = rng.uniform(0.5, 2, (count, DIMENSION)) if curved else np.ones((count, DIMENSION))
    e = rng.normal(size=(count, DIMENSION))

    def loss_and_gradient(params: Any, x: Any, _: Any) -> tuple[float, dict[str, Any]]:
        away = params["w"] - x[0, 1]
        return float((x[0, 0] * away**2).sum() / 2), {"w": x[0, 0] * away}

    model = NumpyModel(lambda _: {"w": np.zeros(DIMENSION)}, loss_and_gradient)
    app = hansa.App(trainer=NumpyTrainer(model, rate))
    app.data(lambda client: (np.array([[h[client.index], e[client.index]]]), np.zeros(1)))
    return app, h, e


def classified(count: int, *, per_client: int = 20, batch_size: int | None = None) -> tuple[hansa.App, Any, Any]:
    """Softmax regression in float64, clients of equal sizes and different labels; also all x and y."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(count * per_client, 5))
    y = np.sort((x @ rng.normal(size=5) > 0).astype(np.int64) + (x[:, 0] > 1))
    app = hansa.App(trainer=NumpyTrainer(softmax_regression(5, 3, np.float64), 0.3, batch_size))

    @app.data
    def share(client: hansa.ClientInfo) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        own = slice(client.index * per_client, (client.index + 1) * per_client)
        return x[own], y[own]

    return app, x, y


def mean_of(models: Any) -> Any:
    """The mean of models of one tensor `w`."""
    return np.mean([model["w"] for model in models], axis=0)
