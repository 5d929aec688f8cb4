"""A small `Trainer` in NumPy for tests: linear models, whose gradients and optima can be checked by hand.

With predictions h = f(Xw + b), the gradient of the mean loss is ∇_w = Xᵀ(h − y)/n and ∇_b = mean(h − y), both for least
squares (f(z) = z, loss ½(h − y)²) and for logistic regression (f(z) = 1/(1 + e^−z), loss: cross-entropy). The only
representation there is, Xw + b, is one number, and the cosine of numbers has no gradient: a contrast adds nothing.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.arrays import Array, Arrays, norm
from hansa.messages import Metrics, Task, Update

__all__ = ["Examples", "LinearTrainer", "make_examples"]

Examples: TypeAlias = tuple[Array, Array]
"""X of shape (n, features), y of shape (n,)."""


@dataclass(frozen=True, slots=True)
class LinearTrainer:
    """Mini-batch gradient descent on a linear model; `task.data` are the client's `Examples`."""

    features: int
    logistic: bool = False
    """Labels 0 and 1; otherwise least squares."""
    learning_rate: float = 0.1
    epochs: int = 1
    batch_size: int | None = None
    """None: one batch of all examples."""
    dtype: npt.DTypeLike = np.float64
    """Of the model; arithmetic is in float64."""

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """Small random weights and no bias."""
        weight = rng.normal(0, 0.1, self.features)
        return Arrays({"weight": weight.astype(self.dtype), "bias": np.zeros((), self.dtype)})

    def fit(self, model: Arrays, task: Task) -> Update:
        """⌈work · steps⌉ steps of w ← w − η(g + μ(w − w₀) + offset), and + ηg₀ where anchored; g uphill where asked."""
        x, y = _examples(task)
        start = _as_float64(model)
        params = dict(start)
        batch = self.batch_size or len(y)
        batches = math.ceil(len(y) / batch)
        todo = math.ceil(task.work * self.epochs * batches)
        correction = task.correction
        losses: list[float] = []
        moved = 0.0
        order = np.arange(len(y))
        for step in range(todo):
            if step % batches == 0 and batches > 1:
                order = task.rng.permutation(len(y))
            rows = order[step % batches * batch :][:batch]
            gradient, loss = self._gradient(params, x[rows], y[rows])
            losses.append(loss)
            if correction is not None and correction.sharpness:
                length = norm({name: g for name, g in gradient.items() if name not in correction.frozen})
                pace = correction.sharpness / length if length else 0.0
                higher = {name: array + pace * gradient[name] for name, array in params.items()}
                gradient, _ = self._gradient(higher | {n: params[n] for n in correction.frozen}, x[rows], y[rows])
            for name, g in gradient.items():
                if correction is not None and name in correction.frozen:
                    continue
                corrected = g
                if correction is not None:
                    corrected = corrected + correction.proximal * (params[name] - start[name])
                    if correction.offset is not None:
                        corrected = corrected + correction.offset[name]
                    if correction.anchored:
                        corrected = corrected - self._gradient(start, x[rows], y[rows])[0][name]
                params[name] = params[name] - self.learning_rate * corrected
            moved += self.learning_rate * (1 - (correction.proximal * moved if correction else 0.0))
            task.progress(step + 1, todo)
        arrays, loss = self._like(params, model), float(np.mean(losses))
        return Update(arrays, len(y), {"loss": loss}, step_sum=moved)

    def gradient(self, model: Arrays, task: Task) -> Update:
        """∇ of the mean loss over all examples."""
        x, y = _examples(task)
        gradient, loss = self._gradient(_as_float64(model), x, y)
        return Update(self._like(gradient, model), len(y), {"loss": loss})

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """The mean loss, and the accuracy of logistic regression."""
        x, y = _examples(task)
        params = _as_float64(model)
        _, loss = self._gradient(params, x, y)
        if not self.logistic:
            return Metrics({"loss": loss}, len(y))
        decided = x @ params["weight"] + params["bias"] > 0
        return Metrics({"loss": loss, "accuracy": float(np.mean(decided == (y > 0)))}, len(y))

    def _gradient(self, params: dict[str, Array], x: Array, y: Array) -> tuple[dict[str, Array], float]:
        scores = x @ params["weight"] + params["bias"]
        if self.logistic:
            predicted = 0.5 * (1 + np.tanh(scores / 2))
            loss = float(np.mean(np.logaddexp(0, scores) - y * scores))
        else:
            predicted = scores
            loss = float(np.mean((scores - y) ** 2) / 2)
        error = predicted - y
        return {"weight": x.T @ error / len(y), "bias": np.asarray(error.mean())}, loss

    def _like(self, params: dict[str, Array], model: Arrays) -> Arrays:
        return Arrays({name: np.asarray(params[name]).astype(array.dtype) for name, array in model.items()})


def make_examples(
    rng: np.random.Generator, sizes: tuple[int, ...], features: int, *, logistic: bool = False
) -> dict[str, Examples]:
    """Examples of clients of these sizes, each around its own truth, so that the clients disagree."""
    examples: dict[str, Examples] = {}
    for index, size in enumerate(sizes):
        truth = rng.normal(0, 1, features)
        x = rng.normal(0, 1, (size, features))
        y = x @ truth + rng.normal(0, 0.1, size)
        examples[f"client-{index}"] = x, (y > 0).astype(np.float64) if logistic else y
    return examples


def _examples(task: Task) -> Examples:
    x, y = task.data
    return x, y


def _as_float64(model: Arrays) -> dict[str, Array]:
    return {name: array.astype(np.float64) for name, array in model.items()}
