"""Quadratics whose optimum is known: 20 clients with F_i(w) = ½ Σ h_i (w − e_i)² in 10 dimensions.

h_i ~ LogNormal(0, 1), e_i ~ N(0, 1). Each client takes its own number of steps per round, drawn once.
"""

from functools import cache

import numpy as np

import hansa
from hansa.training.numpy import NumpyModel, NumpyTrainer, Params

CLIENTS, DIMENSION = 20, 10


def loss_and_gradient(params: Params, x: np.ndarray, _: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    """Of one client: every row of x is its (h, e)."""
    away = params["w"] - x[0, 1]
    return float((x[0, 0] * away**2).sum() / 2), {"w": x[0, 0] * away}


def local(learning_rate: float = 0.05) -> NumpyTrainer:
    """A step per row."""
    return NumpyTrainer(
        NumpyModel(lambda _: {"w": np.zeros(DIMENSION)}, loss_and_gradient), learning_rate, batch_size=1
    )


app = hansa.App(local)


@cache
def drawn(least: int, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """h and e of all clients, and their steps."""
    rng = np.random.default_rng(0)
    h, e = rng.lognormal(0, 1, (CLIENTS, DIMENSION)), rng.normal(size=(CLIENTS, DIMENSION))
    return h, e, rng.integers(least, most + 1, CLIENTS)


@app.data
def share(client: hansa.ClientInfo, *, least_steps: int = 1, most_steps: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """As many rows as the client takes steps."""
    h, e, steps = drawn(least_steps, most_steps)
    rows = np.repeat([[h[client.index], e[client.index]]], steps[client.index], axis=0)
    return rows, np.zeros(len(rows))


@app.central_evaluate
def distance(params: hansa.Arrays, _: np.random.Generator) -> hansa.Metrics:
    """‖w − w*‖, w* the optimum of the mean of the clients' losses."""
    h, e, _steps = drawn(1, 1)
    optimum = (h * e).sum(axis=0) / h.sum(axis=0)
    return hansa.Metrics({"distance": float(np.linalg.norm(params["w"] - optimum))}, 1)
