"""One number to learn: small enough to check every step by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Aggregate, Algorithm
from hansa.arrays import Arrays
from hansa.messages import ClientInfo, Contribution, Metrics, Task, Update


class Spring:
    """F(w) = ½(w − target)², ∇F = w − target; gradient descent with η = ½. `task.data`: (target, examples, steps)."""

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """The same for everybody."""
        assert isinstance(rng, np.random.Generator)
        return Arrays({"w": np.zeros(1)})

    def fit(self, model: Arrays, task: Task) -> Update:
        """`work` times the steps."""
        target, examples, steps = task.data
        w, correction = model["w"], task.correction
        for _ in range(round(steps * task.work)):
            pull = correction.proximal * (w - model["w"]) if correction else 0
            w = w - 0.5 * (w - target + pull)
        return Update(Arrays(dict(model) | {"w": w}), examples)

    def gradient(self, model: Arrays, task: Task) -> Update:
        """W − target."""
        target, examples, _ = task.data
        return Update(Arrays(dict(model) | {"w": model["w"] - np.array(target, model["w"].dtype)}), examples)

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """The energy that is left."""
        target, examples, _ = task.data
        return Metrics({"loss": float(((model["w"] - target) ** 2).sum() / 2)}, examples)


@pytest.fixture
def spring() -> Spring:
    """A trainer."""
    return Spring()


@pytest.fixture
def mean() -> WeightedMean:
    """The aggregator of every built-in algorithm."""
    return WeightedMean()


@pytest.fixture
def task() -> Callable[..., Task]:
    """task(target, examples, steps, work=1.0)."""

    def make(target: float, examples: int = 1, steps: int = 1, work: float = 1.0) -> Task:
        return Task(ClientInfo("ada"), 1, np.random.default_rng(0), data=(target, examples, steps), work=work)

    return make


@pytest.fixture
def trajectory() -> Callable[..., list[float]]:
    """trajectory(algorithm, Δ, Δ …): w after each round, from 0, when the mean changes are these."""

    def play(algorithm: Algorithm, *changes: float, dtype: type = np.float64) -> list[float]:
        state, seen = algorithm.init(Arrays({"w": np.zeros(1, dtype)})), []
        for change in changes:
            mean = Arrays({"w": np.array([change], dtype)})
            state = algorithm.server_update(state, Aggregate(mean, 1, {"ada": Contribution("ada", 1)}))
            seen.append(float(state.params["w"][0]))
        return seen

    return play
