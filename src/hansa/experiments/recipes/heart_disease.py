"""Fed-Heart-Disease of FLamby: logistic regression of four hospitals, judged on the test patients of all together."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

import hansa
from hansa.data import Examples, Split, heart_disease
from hansa.training.numpy import NumpyTrainer, logistic_regression


def linear_with_torch_defaults(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """PyTorch's Linear(13, 1): weights and bias uniform in ±1/√13."""
    bound = 13**-0.5
    return {
        "weight": rng.uniform(-bound, bound, 13).astype(np.float32),
        "bias": rng.uniform(-bound, bound, 1).astype(np.float32),
    }


def local(learning_rate: float = 0.001) -> NumpyTrainer:
    """Batches of 4, 100 updates per round."""
    model = replace(logistic_regression(13), init=linear_with_torch_defaults)
    return NumpyTrainer(model, learning_rate, batch_size=4, steps=100)


app = hansa.App(local)


@cache
def read(folder: str) -> tuple[dict[str, Split], Examples]:
    """The hospitals, and the test patients of all, standardized by the training parts of all."""
    return dict(heart_disease.read(Path(folder))), heart_disease.pooled_test(Path(folder))


@app.data
def patients(
    client: hansa.ClientInfo, *, data: str = "data/heart_disease", hospitals: Sequence[str] = heart_disease.HOSPITALS
) -> Split:
    """One client per hospital, in this order."""
    return read(data)[0][hospitals[client.index]]


@app.central_evaluate
def pooled(params: hansa.Arrays, _: np.random.Generator, *, data: str = "data/heart_disease") -> hansa.Metrics:
    """Accuracy on the pooled test."""
    test = read(data)[1]
    says = test.x @ params["weight"] + params["bias"] > 0
    return hansa.Metrics({"accuracy": np.mean(says == (test.y > 0))}, num_examples=len(test.y))
