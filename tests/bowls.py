"""Clients whose loss is a bowl, F_i(w) = ½ Σ h_i (w − t_i)²: what algorithms are written out once more for in tests."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hansa.arrays import Array, Arrays
from hansa.messages import Metrics, Task, Update


@dataclass(frozen=True)
class Bowl:
    """The data of one client."""

    h: Array
    """Curvatures, shape (d,)."""
    t: Array
    """Where the loss is 0, shape (d,)."""
    n: int
    """Examples."""
    steps: int
    """τ_i of full-batch gradient descent, so that every client takes another number of them."""

    def loss(self, w: Array) -> float:
        """F_i(w)."""
        return float(np.sum(self.h * (w - self.t) ** 2) / 2)

    def gradient(self, w: Array) -> Array:
        """∇F_i(w)."""
        return self.h * (w - self.t)


BOWLS: Mapping[str, Bowl] = {
    "ada": Bowl(np.array([1.0, 0.5]), np.array([4.0, -1.0]), n=10, steps=1),
    "bo": Bowl(np.array([0.3, 2.0]), np.array([-2.0, 3.0]), n=30, steps=7),
    "cy": Bowl(np.array([1.5, 1.0]), np.array([0.5, 0.5]), n=5, steps=3),
}
"""They disagree in where, in how much, in how many examples and in how many steps."""


@dataclass(frozen=True)
class BowlTrainer:
    """τ_i steps of v ← ρv + g, w ← w − ηv on the client's bowl; `step_sum` is η‖a‖₁ as papers write it."""

    eta: float = 0.1
    rho: float = 0.0
    start: Array = field(default_factory=lambda: np.zeros(2))

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """The same for everybody."""
        del rng
        return Arrays({"w": self.start})

    def fit(self, model: Arrays, task: Task) -> Update:
        """Honours the correction."""
        bowl: Bowl = task.data
        w, v, correction = model["w"], np.zeros(2), task.correction
        mu = correction.proximal if correction else 0.0
        offset = correction.offset["w"] if correction and correction.offset is not None else 0.0
        for _ in range(bowl.steps):
            anchor = bowl.gradient(model["w"]) if correction and correction.anchored else 0.0
            v = self.rho * v + bowl.gradient(w) + mu * (w - model["w"]) + offset - anchor
            w = w - self.eta * v
        return Update({"w": w}, bowl.n, {"loss": bowl.loss(w)}, step_sum=self.eta * self.norm(bowl.steps, mu))

    def norm(self, tau: int, mu: float = 0.0) -> float:
        """‖a‖₁ of momentum or of a proximal term, arXiv:2007.07481, section 4."""
        if mu:
            return float((1 - (1 - self.eta * mu) ** tau) / (self.eta * mu))
        return float((tau - self.rho * (1 - self.rho**tau) / (1 - self.rho)) / (1 - self.rho))

    def gradient(self, model: Arrays, task: Task) -> Update:
        """∇F_i(w), and the loss there."""
        bowl: Bowl = task.data
        return Update({"w": bowl.gradient(model["w"])}, bowl.n, {"loss": bowl.loss(model["w"])})

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """The loss."""
        bowl: Bowl = task.data
        return Metrics({"loss": bowl.loss(model["w"])}, bowl.n)
