"""Local training of scikit-learn estimators: those that learn step by step, or go on from where they were."""

import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from hansa.arrays import Array, Arrays, check_same_structure
from hansa.errors import AppError, MissingExtraError
from hansa.messages import GradientCorrection, Metrics, Task, Update
from hansa.training.local import LocalWork, evaluation_examples, training_examples

try:
    from sklearn.base import clone, is_classifier  # type: ignore[import-untyped]  # scikit-learn has no annotations
    from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]  # the same
    from sklearn.metrics import log_loss, mean_squared_error  # type: ignore[import-untyped]  # the same
except ImportError as error:
    raise MissingExtraError("hansa.training.sklearn", "sklearn") from error

__all__ = ["SklearnTrainer", "arrays_of_estimator"]

_ATTRIBUTES = ("coef_", "intercept_", "coefs_", "intercepts_")
_LINEAR = ("coef_", "intercept_")


class SklearnTrainer:
    """Trains an estimator that can go on from a given model, with `partial_fit` or `warm_start`.

    These are SGDClassifier, SGDRegressor, Perceptron, MLPClassifier, MLPRegressor, LogisticRegression and their like.
    The model is what the estimator has learnt: `coef_` and `intercept_`, or `coefs_0 … intercepts_0 …` of a network,
    and `t_`, the count of examples seen that stochastic gradient descent takes its step size from, as int64. Everything
    else (momentum, Adam's moments) starts anew in every round. A linear model starts from zeros; a network from what it
    draws, after one step on an all-zero example of each class.

    A client need not have every class. `task.data` is what `hansa.training.local` says, with `x` of shape
    (n, num_features), which is cast to float64, the dtype of the model. `fit` and `evaluate` report accuracy, and a
    loss where the estimator gives probabilities; for a regressor they report r2 and the mean squared error as loss.
    """

    def __init__(
        self,
        estimator: Any,
        *,
        num_features: int,
        classes: Iterable[Any] | None = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        steps: int | None = None,
    ) -> None:
        """Settings; the estimator is a pattern that is cloned for every task.

        classes: all that any client may have; None for a regressor. batch_size, epochs, steps: as in `LocalWork`, each
        batch being one call of `partial_fit`. An estimator without `partial_fit` does `max_iter` iterations.
        """
        self._pattern = estimator
        self._features = num_features
        self._classes = None if classes is None else np.asarray(list(classes))
        self._by_steps = hasattr(estimator, "partial_fit")
        self._work = LocalWork(batch_size, epochs, steps)
        self._check(estimator, batch_size or epochs or steps)

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """Zeros of a linear model; what a network draws with a seed from `rng`."""
        estimator = self._new(rng)
        for name in _LINEAR:
            if hasattr(estimator, name):
                setattr(estimator, name, np.zeros_like(getattr(estimator, name)))
        if hasattr(estimator, "coef_") and hasattr(estimator, "t_"):
            estimator.t_ = 1.0
        return arrays_of_estimator(estimator)

    def fit(self, model: Arrays, task: Task) -> Update:
        """Train from `model` as far as `task.work` goes; raises `AppError` when the algorithm corrects gradients."""
        x, y = _arrays(training_examples(task))
        correction = task.correction
        if correction is not None and correction != GradientCorrection():
            raise _no_gradients()
        estimator = self._holding(model, task.rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a round is not meant to converge
            if self._by_steps:
                for batch in self._work.batches(len(x), task):
                    self._step(estimator, x[batch], y[batch])
            else:
                estimator.set_params(max_iter=max(1, math.ceil(task.work * estimator.max_iter)))
                self._go_on(estimator, x, y)
                task.progress(1, 1)
        return Update(arrays_of_estimator(estimator), len(x), self._measured(estimator, x, y))

    def gradient(self, model: Arrays, task: Task) -> Update:
        """Always an `AppError`: scikit-learn keeps its gradients to itself."""
        del model, task
        raise _no_gradients()

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """Metrics over the client's evaluation examples."""
        x, y = _arrays(evaluation_examples(task))
        return Metrics(self._measured(self._holding(model, task.rng), x, y), len(x))

    def _check(self, estimator: Any, wants_steps: object) -> None:
        kind = type(estimator).__name__
        if not self._by_steps and not hasattr(estimator, "warm_start"):
            raise AppError(f"{kind} has neither partial_fit nor warm_start: it cannot go on from a given model")
        if not self._by_steps and wants_steps:
            raise AppError(f"{kind} has no partial_fit, so it knows no batches or epochs: set its max_iter instead")
        if is_classifier(estimator) != (self._classes is not None):
            raise AppError(
                f"{kind} is a classifier: give all the classes there are, for example classes=range(10)"
                if self._classes is None
                else f"{kind} is no classifier: leave out classes"
            )
        if getattr(estimator, "average", False):
            raise AppError(f"{kind}(average=True) keeps two models; leave average out, the federation averages")

    def _new(self, rng: np.random.Generator) -> Any:
        """A clone with all its attributes, made by fitting one all-zero example of each class."""
        estimator = clone(self._pattern)
        parameters = estimator.get_params()
        if "random_state" in parameters:
            estimator.set_params(random_state=int(rng.integers(2**32)))
        if not self._by_steps:
            estimator.set_params(warm_start=True)
        targets = np.zeros(1) if self._classes is None else self._classes
        blank = np.zeros((len(targets), self._features))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            if self._by_steps:
                self._step(estimator, blank, targets)
            else:
                estimator.fit(blank, targets)
        vars(estimator).pop("_optimizer", None)  # a network's Adam has seen the blank examples: let it start anew
        if not any(hasattr(estimator, name) for name in _ATTRIBUTES):
            raise AppError(f"{type(estimator).__name__} keeps neither coef_ nor coefs_: it cannot be averaged")
        return estimator

    def _step(self, estimator: Any, x: Array, y: Array) -> None:
        if self._classes is None:
            estimator.partial_fit(x, y)
        else:
            estimator.partial_fit(x, y, classes=self._classes)

    def _go_on(self, estimator: Any, x: Array, y: Array) -> None:
        """Fit with an example of weight 0 for each class that this client lacks, so that no class is forgotten."""
        lacking = np.empty(0) if self._classes is None else np.setdiff1d(self._classes, y)
        if not len(lacking):
            estimator.fit(x, y)
            return
        weights = np.concatenate([np.ones(len(x)), np.zeros(len(lacking))])
        blank = np.zeros((len(lacking), x.shape[1]))
        estimator.fit(np.concatenate([x, blank]), np.concatenate([y, lacking]), sample_weight=weights)

    def _holding(self, model: Arrays, rng: np.random.Generator) -> Any:
        """A new estimator that has learnt `model`."""
        estimator = self._new(rng)
        check_same_structure(arrays_of_estimator(estimator), model, "the model received")
        for attribute in _ATTRIBUTES:
            value = getattr(estimator, attribute, None)
            if isinstance(value, list):
                setattr(estimator, attribute, [model[f"{attribute}{i}"].copy() for i in range(len(value))])
            elif value is not None:
                setattr(estimator, attribute, model[attribute].copy())
        if "t_" in model:
            estimator.t_ = float(model["t_"])
        return estimator

    def _measured(self, estimator: Any, x: Array, y: Array) -> dict[str, float]:
        if self._classes is None:
            predicted = estimator.predict(x)
            spread = float(np.sum((y - np.mean(y)) ** 2))
            missed = float(np.sum((y - predicted) ** 2))
            loss = float(mean_squared_error(y, predicted))
            return {"loss": loss, "r2": 1 - missed / spread} if spread else {"loss": loss}
        measured = {"accuracy": float(np.mean(estimator.predict(x) == y))}
        if hasattr(estimator, "predict_proba"):
            measured["loss"] = float(log_loss(y, estimator.predict_proba(x), labels=self._classes))
        return measured


def arrays_of_estimator(estimator: Any) -> Arrays:
    """A copy of what a fitted estimator has learnt; raises `AppError` when there is nothing that can be averaged."""
    found: dict[str, Array] = {}
    for attribute in _ATTRIBUTES:
        value = getattr(estimator, attribute, None)
        if isinstance(value, list):
            found.update({f"{attribute}{i}": np.array(layer) for i, layer in enumerate(value)})
        elif value is not None:
            found[attribute] = np.array(value)
    if not found:
        raise AppError(
            f"{type(estimator).__name__} has no coef_ or coefs_: fit it first, or use SklearnTrainer(estimator, …)"
        )
    if "coef_" in found and hasattr(estimator, "t_"):
        found["t_"] = np.array(round(estimator.t_), np.int64)
    return Arrays(found)


def _arrays(pair: tuple[Any, Any]) -> tuple[Array, Array]:
    """Inputs, and targets of shape (n,): of a column, as scikit-learn takes one."""
    y = np.asarray(pair[1])
    if y.size != len(y):
        raise AppError(f"y has the shape {y.shape}; this trainer takes (n,), a target for each example")
    return np.asarray(pair[0], np.float64), y.reshape(len(y))


def _no_gradients() -> AppError:
    return AppError(
        "this algorithm works on gradients, which scikit-learn does not give: choose one that averages models, such as "
        "fedavg, or train with TorchTrainer or NumpyTrainer"
    )
