"""An app with the settings of a run, for programs: who runs one gives no tasks, which bring them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hansa.algorithm import Trainer
from hansa.app.app import App
from hansa.arrays import Arrays
from hansa.messages import ClientInfo, Metrics, Task, Update, Value

__all__ = ["Configured"]


@dataclass(frozen=True, slots=True)
class Configured:
    """What learns in a program (`hansa.protocols.learner.Learner`), and its trainer in one."""

    app: App
    config: Mapping[str, Value]
    """As with `--set`."""

    @property
    def trainer(self) -> Trainer:
        """Local training with these settings."""
        return self

    def load_data(self, client: ClientInfo) -> Any:
        """The data of a client."""
        return self.app.load_data(client, self.config)

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """See `Trainer`."""
        return self.app.initial_model(rng, self.config)

    def fit(self, model: Arrays, task: Task) -> Update:
        """See `Trainer`."""
        return self.app.trainer.fit(model, self._settled(task))

    def gradient(self, model: Arrays, task: Task) -> Update:
        """See `Trainer`."""
        return self.app.trainer.gradient(model, self._settled(task))

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """See `Trainer`."""
        return self.app.trainer.evaluate(model, self._settled(task))

    def _settled(self, task: Task) -> Task:
        return replace(task, config=self.config)
