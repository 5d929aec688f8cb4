"""Local training of workers: an app's trainer and the data of a client, as in a round of FedAvg.

Worker i trains as the client `client-i`, with the random numbers of this client in a simulation with the same seed.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from hansa.algorithm import Trainer
from hansa.arrays import Arrays, subtract
from hansa.errors import AppError, ConfigError
from hansa.messages import ClientInfo, Kind, Task, Update
from hansa.protocols.message import message
from hansa.protocols.worker import Worker

__all__ = ["Learner", "LocalClient", "Trained"]


class Learner(Protocol):
    """What brings a trainer and data: a `hansa.App` is one."""

    @property
    def trainer(self) -> Trainer:
        """Local training."""

    def load_data(self, client: ClientInfo) -> Any:
        """The data of a client."""


@message("trained")
@dataclass(frozen=True, slots=True)
class Trained:
    """What a worker ends with: its model, and the loss that its local training reported in each round."""

    model: Arrays
    losses: np.ndarray
    """One of each round in which it trained; NaN where local training reports no loss."""


class LocalClient:
    """The client that a worker is."""

    def __init__(self, learner: Learner, worker: Worker, index: int, total: int) -> None:
        """index, total: which share of a split data set is its own, and of how many."""
        if not callable(getattr(learner, "load_data", None)):
            raise ConfigError(f"{learner!r} is no app: give the hansa.App itself, `from app import app`")
        self._learner = learner
        self._worker = worker
        self.info = ClientInfo(f"client-{index}", index, total, worker.settings)
        """Who it is."""
        self._losses: list[float] = []

    @cached_property
    def _data(self) -> Any:
        """Loaded when it is first needed."""
        return self._learner.load_data(self.info)

    def initial_model(self) -> Arrays:
        """The model of round 0, the same for all workers."""
        return self._learner.trainer.initial_model(self._worker.shared_rng("init"))

    def fit(self, model: Arrays, number: int) -> Update:
        """Local training from a model in a round, from 1; `arrays` is the change. Its loss is remembered."""
        rng = self._worker.shared_rng(Kind.TRAIN.value, number, self.info.name)
        task = Task(client=self.info, round=number, rng=rng, data=self._data)
        update = self._learner.trainer.fit(model, task)
        self._losses.append(update.metrics.get("loss", np.nan))
        return Update(_change(update.arrays, model, self.info.name), update.num_examples, update.metrics)

    def trained(self, model: Arrays) -> Trained:
        """The result of a worker."""
        return Trained(model, np.array(self._losses))


def _change(trained: Arrays, model: Arrays, name: str) -> Arrays:
    change = subtract(trained, model)
    broken = [tensor for tensor, array in change.items() if not np.all(np.isfinite(array.astype(np.float64)))]
    if broken:
        raise AppError(
            f"{name} has trained {broken[0]!r} to NaN or infinity: lower the learning rate, or look for inputs that "
            "are not finite"
        )
    return change
