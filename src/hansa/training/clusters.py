"""Clusters of points: how many, and how good they are."""

from dataclasses import dataclass

import numpy as np

from hansa.algorithms.examples import points
from hansa.algorithms.kmeans import distances
from hansa.algorithms.options import check_count
from hansa.arrays import Arrays
from hansa.messages import Metrics, Task, Update
from hansa.training.unaveraged import only_by

__all__ = ["KMeansTrainer"]


@dataclass(frozen=True, slots=True)
class KMeansTrainer:
    """For the algorithm `kmeans`. `task.data`: as `hansa.training.local` says, or inputs alone, (n, features)."""

    clusters: int
    """k."""
    num_features: int

    def __post_init__(self) -> None:
        """Refuse what is not a positive whole number."""
        check_count("KMeansTrainer", "clusters", self.clusters)
        check_count("KMeansTrainer", "num_features", self.num_features)

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """Normal centres, for those who begin at the model: `centers` (k, features), float64; `sizes` (k,), 0."""
        centers = rng.normal(0, 1, (self.clusters, self.num_features))
        return Arrays({"centers": centers, "sizes": np.zeros(self.clusters, np.int64)})

    def fit(self, model: Arrays, task: Task) -> Update:
        """Always an `AppError`."""
        del model, task
        raise only_by(self, "kmeans")

    def gradient(self, model: Arrays, task: Task) -> Update:
        """Always an `AppError`."""
        del model, task
        raise only_by(self, "kmeans")

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """The mean of ‖x − c‖² to the nearest centre, as `loss`."""
        x = points(task, self.num_features, evaluation=True)
        return Metrics({"loss": float(distances(x, model["centers"]).min(axis=1).mean())}, len(x))
