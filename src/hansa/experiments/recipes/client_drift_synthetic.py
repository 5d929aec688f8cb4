"""Softmax regression on FedProx's Synthetic(1, 1), one client per device: how far local steps drift apart."""

from functools import cache

import numpy as np

import hansa
from hansa.data import Examples, Split, synthetic
from hansa.training.numpy import NumpyTrainer, softmax_regression

MODEL = softmax_regression(60, 10)


def local(learning_rate: float = 0.01, epochs: int = 5) -> NumpyTrainer:
    """Batches of 10."""
    return NumpyTrainer(MODEL, learning_rate, batch_size=10, epochs=epochs)


app = hansa.App(local)


@cache
def devices() -> list[Split]:
    """Thirty, of 53 to 5,000 examples."""
    return synthetic.generate(1, 1, seed=0)


@app.data
def share(client: hansa.ClientInfo) -> Examples:
    """One device's training examples."""
    return devices()[client.index].train


@app.central_evaluate
def evaluate(params: hansa.Arrays, _: np.random.Generator) -> hansa.Metrics:
    """The mean of the devices' training losses."""
    losses = [MODEL.loss_and_gradient(params, *device.train)[0] for device in devices()]
    return hansa.Metrics({"train_loss": np.mean(losses)}, len(losses))
