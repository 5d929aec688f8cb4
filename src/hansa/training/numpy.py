"""Local training of numpy models: mini-batch SGD, given a function for the loss and its gradient."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.arrays import Array, Arrays, delta_dtype, is_floating, norm
from hansa.errors import AppError, ConfigError, InputError
from hansa.messages import GradientCorrection, Metrics, Task, Update
from hansa.training.learning import check_descent
from hansa.training.local import LocalWork, count, evaluation_examples, known_distance, training_examples

__all__ = [
    "LossAndGradient",
    "NumpyModel",
    "NumpyTrainer",
    "binary_loss",
    "check_binary",
    "cross_entropy",
    "logistic_regression",
    "mlp",
    "softmax_regression",
]

Params: TypeAlias = Mapping[str, Array]
LossAndGradient: TypeAlias = Callable[[Params, Any, Any], tuple[float, Mapping[str, Array]]]
"""(params, x, y) → (mean loss over the examples, its gradient in the names and shapes of the params)."""


@dataclass(frozen=True, slots=True)
class NumpyModel:
    """A model as functions; `softmax_regression`, `logistic_regression` and `mlp` are ready ones."""

    init: Callable[[np.random.Generator], Mapping[str, npt.ArrayLike]]
    """rng → the parameters of round 0."""
    loss_and_gradient: LossAndGradient
    """Called once per step. The params belong to the trainer: read them, keep nothing."""
    evaluate: Callable[[Params, Any, Any], Mapping[str, float]] | None = None
    """(params, x, y) → means over the examples, for example {"loss": …, "accuracy": …}; None: the loss alone."""
    check: Callable[[Any, Any], None] | None = None
    """Raises `InputError` for x or y that are none of this model's; called with all that a task has."""


@dataclass(frozen=True, slots=True)
class NumpyTrainer:
    """Mini-batch SGD: v ← momentum·v + g + weight_decay·w; w ← w − learning_rate·v; g as the algorithm corrects it.

    `task.data` is what `hansa.training.local` says. `fit` reports the loss, a mean over the examples of all steps,
    each before its step.
    """

    model: NumpyModel
    learning_rate: float
    """Above 0."""
    batch_size: InitVar[int | None] = None
    """Examples per step; None: all of them in every step."""
    epochs: InitVar[int | None] = None
    """Passes over the examples in one round; 1 when neither this nor steps is given."""
    steps: InitVar[int | None] = None
    """Batches in one round, instead of epochs."""
    momentum: float = 0.0
    """0 ≤ momentum < 1; the velocity v starts from 0 in every round."""
    weight_decay: float = 0.0
    """≥ 0."""
    work: LocalWork = field(init=False)

    def __post_init__(self, batch_size: int | None, epochs: int | None, steps: int | None) -> None:
        """Refuse settings with which nothing is learnt."""
        check_descent(learning_rate=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay)
        object.__setattr__(self, "work", LocalWork(batch_size, epochs, steps))

    def initial_model(self, rng: np.random.Generator) -> Arrays:
        """What `model.init` draws."""
        return Arrays(self.model.init(rng))

    def fit(self, model: Arrays, task: Task) -> Update:
        """Train from `model` as far as `task.work` goes."""
        x, y = self._arrays(training_examples(task))
        params = {name: array.copy() for name, array in model.items()}
        descent = _Descent(self, model, task.correction)
        total, seen = 0.0, 0
        for batch in self.work.batches(len(x), task):
            descent.look(x[batch], y[batch])
            loss, gradient = self.model.loss_and_gradient(params, x[batch], y[batch])
            if descent.sharpness:
                _, gradient = self.model.loss_and_gradient(descent.uphill(params, gradient), x[batch], y[batch])
            descent.step(params, gradient)
            total += float(loss) * count(batch)
            seen += count(batch)
        return Update(params, len(x), {"loss": total / seen}, step_sum=known_distance(descent.step_sum))

    def gradient(self, model: Arrays, task: Task) -> Update:
        """The gradient over all local examples at once, in the dtypes of changes; zeros for tensors without one."""
        x, y = self._arrays(training_examples(task))
        loss, gradient = self.model.loss_and_gradient(model, x, y)
        arrays = {
            name: np.asarray(_namesake(name, array, gradient), delta_dtype(array.dtype))
            if is_floating(array)
            else np.zeros(array.shape, np.int64)
            for name, array in model.items()
        }
        return Update(arrays, len(x), {"loss": float(loss)})

    def evaluate(self, model: Arrays, task: Task) -> Metrics:
        """Metrics over the client's evaluation examples at once."""
        x, y = self._arrays(evaluation_examples(task))
        if self.model.evaluate is None:
            loss, _ = self.model.loss_and_gradient(model, x, y)
            return Metrics({"loss": float(loss)}, len(x))
        return Metrics(self.model.evaluate(model, x, y), len(x))

    def _arrays(self, pair: tuple[Any, Any]) -> tuple[Array, Array]:
        x, y = np.asarray(pair[0]), np.asarray(pair[1])
        if self.model.check is not None:
            self.model.check(x, y)
        return x, y


class _Descent:
    """The steps of one task; its buffers have the size of the model and are used again in every step."""

    def __init__(self, settings: NumpyTrainer, start: Arrays, correction: GradientCorrection | None) -> None:
        self.step_sum = 0.0
        """As `Update.step_sum`."""
        self._pace = 0.0
        self._settings = settings
        self._start = start
        self._proximal = correction.proximal if correction else 0.0
        self._offset = correction.offset if correction else None
        self._anchored = correction.anchored if correction else False
        self.sharpness = correction.sharpness if correction else 0.0
        self._anchor: dict[str, Array] = {}
        if correction and correction.contrast:
            raise AppError(
                "this algorithm compares representations, which NumpyTrainer does not know: use TorchTrainer"
            )
        if correction and correction.penalty:
            raise AppError("this algorithm adds a term to the loss that is written in PyTorch: use TorchTrainer")
        frozen = correction.frozen if correction else frozenset()
        self._directions = {
            name: np.empty(array.shape, delta_dtype(array.dtype))
            for name, array in start.items()
            if is_floating(array) and name not in frozen
        }
        self._spare = {name: np.empty_like(direction) for name, direction in self._directions.items()}
        self._velocity = {
            name: np.zeros_like(direction) for name, direction in self._directions.items() if settings.momentum
        }

    def look(self, x: Any, y: Any) -> None:
        """The examples of the step that comes next: their gradient at w₀, where the correction asks for it."""
        if self._anchored:
            _, gradient = self._settings.model.loss_and_gradient(self._start, x, y)
            self._anchor = {name: np.array(_namesake(name, self._start[name], gradient)) for name in self._directions}

    def uphill(self, params: Params, gradient: Mapping[str, Array]) -> Params:
        """w + ρ g/‖g‖ of what is trained; w where g is 0."""
        slopes = {name: _namesake(name, params[name], gradient) for name in self._directions}
        length = norm(slopes)
        pace = self.sharpness / length if length else 0.0
        moved = {name: (params[name] + slope * pace).astype(params[name].dtype) for name, slope in slopes.items()}
        return {**params, **moved}

    def step(self, params: dict[str, Array], gradient: Mapping[str, Array]) -> None:
        """Move `params`, in place; `gradient` is left as it is."""
        self._pace = self._settings.momentum * self._pace + 1 - self._proximal * self.step_sum
        self.step_sum += self._settings.learning_rate * self._pace
        for name, direction in self._directions.items():
            param = params[name]
            np.copyto(direction, _namesake(name, param, gradient), casting="same_kind")
            self._correct(name, param, direction)
            if self._velocity:
                velocity = self._velocity[name]
                velocity *= self._settings.momentum
                velocity += direction
                np.copyto(direction, velocity)
            np.multiply(direction, self._settings.learning_rate, out=direction)
            np.subtract(param, direction, out=param, casting="unsafe")  # float16, bfloat16: stepped in float32

    def _correct(self, name: str, param: Array, direction: Array) -> None:
        """`direction` += proximal·(w − w₀) + offset − g₀ + weight_decay·w, in place."""
        spare = self._spare[name]
        if self._proximal:
            np.subtract(param, self._start[name], out=spare)
            spare *= self._proximal
            direction += spare
        if self._offset is not None:
            direction += self._offset[name]
        if self._anchored:
            np.subtract(direction, self._anchor[name], out=direction, casting="unsafe")
        if self._settings.weight_decay:
            np.copyto(spare, param)
            spare *= self._settings.weight_decay
            direction += spare


def _namesake(name: str, param: Array, gradient: Mapping[str, Array]) -> Array:
    if name not in gradient:
        raise AppError(f"loss_and_gradient gives no gradient for {name!r}, only for {list(gradient)[:6]}")
    array = np.asarray(gradient[name])
    if array.shape != param.shape:
        raise AppError(
            f"loss_and_gradient gives {name!r} a gradient of the shape {array.shape}; the tensor's is {param.shape}"
        )
    return array


def _check_sizes(**sizes: object) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ConfigError(f"{name} is {size!r}; it must be a whole number, at least 1")


# ── ready models ─────────────────────────────────────────────────────────────────────────────────────────────────────


def softmax_regression(num_features: int, num_classes: int, dtype: npt.DTypeLike = np.float32) -> NumpyModel:
    """Multinomial logistic regression from zeros. x: shape (n, num_features); y: class numbers, shape (n,).

    Tensors: weight (num_features, num_classes), bias (num_classes,).
    """
    _check_sizes(num_features=num_features, num_classes=num_classes)

    def init(_: np.random.Generator) -> dict[str, Array]:
        return {"weight": np.zeros((num_features, num_classes), dtype), "bias": np.zeros(num_classes, dtype)}

    def loss_and_gradient(params: Params, x: Array, y: Array) -> tuple[float, dict[str, Array]]:
        logits = x @ params["weight"]
        logits += params["bias"]
        loss, slope = _cross_entropy(logits, y)
        return loss, {"weight": x.T @ slope, "bias": slope.sum(axis=0)}

    def evaluate(params: Params, x: Array, y: Array) -> dict[str, float]:
        return _classified(x @ params["weight"] + params["bias"], y)

    return NumpyModel(init, loss_and_gradient, evaluate, _classes_of(num_features, num_classes))


def logistic_regression(num_features: int, dtype: npt.DTypeLike = np.float32) -> NumpyModel:
    """Binary logistic regression from zeros. x: shape (n, num_features); y: 0 or 1, shape (n,).

    Tensors: weight (num_features,), bias (1,).
    """
    _check_sizes(num_features=num_features)

    def init(_: np.random.Generator) -> dict[str, Array]:
        return {"weight": np.zeros(num_features, dtype), "bias": np.zeros(1, dtype)}

    def loss_and_gradient(params: Params, x: Array, y: Array) -> tuple[float, dict[str, Array]]:
        z = x @ params["weight"] + params["bias"]
        slope = (0.5 * np.tanh(0.5 * z) + 0.5 - y) / z.dtype.type(len(y))  # the logistic function without overflow
        slope = slope.astype(z.dtype, copy=False)
        return binary_loss(z, y), {"weight": x.T @ slope, "bias": slope.sum(keepdims=True)}

    def evaluate(params: Params, x: Array, y: Array) -> dict[str, float]:
        z = x @ params["weight"] + params["bias"]
        return {"loss": binary_loss(z, y), "accuracy": float(np.mean((z > 0) == (y > 0)))}

    def check(x: Array, y: Array) -> None:
        _check_features(x, num_features)
        check_binary(y)

    return NumpyModel(init, loss_and_gradient, evaluate, check)


def mlp(sizes: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> NumpyModel:
    """A dense network with ReLU between its layers. x: shape (n, sizes[0]); y: class numbers below sizes[-1].

    sizes: (num_features, hidden …, num_classes), for example (60, 64, 10). Tensors: weight0 (in, out), bias0 (out,),
    weight1 … Weights start as N(0, 2/in), biases at 0: He et al. 2015, arXiv:1502.01852.
    """
    if not isinstance(sizes, Sequence):
        raise ConfigError(f"sizes is {sizes!r}; it must be a tuple, for example (64, 32, 10)")
    layers = range(len(sizes) - 1)
    _check_sizes(**{f"sizes[{place}]": size for place, size in enumerate(sizes)})
    if not layers:
        raise ConfigError(f"sizes is {sizes}; an mlp needs at least an input and an output size")

    def init(rng: np.random.Generator) -> dict[str, Array]:
        params: dict[str, Array] = {}
        for layer in layers:
            drawn = rng.standard_normal((sizes[layer], sizes[layer + 1])) * np.sqrt(2 / sizes[layer])
            params[f"weight{layer}"] = drawn.astype(dtype)
            params[f"bias{layer}"] = np.zeros(sizes[layer + 1], dtype)
        return params

    def loss_and_gradient(params: Params, x: Array, y: Array) -> tuple[float, dict[str, Array]]:
        *inputs, logits = _forward(params, x, layers)
        loss, slope = _cross_entropy(logits, y)
        gradient: dict[str, Array] = {}
        for layer in reversed(layers):
            gradient[f"weight{layer}"] = inputs[layer].T @ slope
            gradient[f"bias{layer}"] = slope.sum(axis=0)
            if layer:
                slope = slope @ params[f"weight{layer}"].T
                slope *= inputs[layer] > 0
        return loss, gradient

    def evaluate(params: Params, x: Array, y: Array) -> dict[str, float]:
        return _classified(_forward(params, x, layers)[-1], y)

    return NumpyModel(init, loss_and_gradient, evaluate, _classes_of(sizes[0], sizes[-1]))


def _check_features(x: Array, num_features: int) -> None:
    if x.ndim != 2 or x.shape[1] != num_features:  # noqa: PLR2004 - a row of each example
        raise InputError(f"x has the shape {x.shape}; this model takes (n, {num_features}): reshape it, or the model")


def _classes_of(num_features: int, num_classes: int) -> Callable[[Array, Array], None]:
    """Class numbers from 0 on: a negative one would count from the end."""

    def check(x: Array, y: Array) -> None:
        _check_features(x, num_features)
        _check_classes(y, num_classes)

    return check


def check_binary(y: Array) -> None:
    """Raise `InputError` unless y has shape (n,) and the labels 0 and 1, or what lies between."""
    _check_row(y)
    if y.size and not (y.min() >= 0 and y.max() <= 1):
        raise InputError(f"y has targets from {y.min()} to {y.max()}; this model has the labels 0 and 1")


def _check_classes(y: Array, num_classes: int) -> None:
    _check_row(y)
    if y.dtype.kind not in "iu":
        raise InputError(f"y is {y.dtype}; this model takes class numbers, which are whole: y.astype(np.int64)")
    if y.size and not (y.min() >= 0 and y.max() < num_classes):
        raise InputError(f"y has classes from {y.min()} to {y.max()}; this model has {num_classes}, numbered from 0")


def _check_row(y: Array) -> None:
    """A column of targets would be taken with every output of its batch."""
    if y.ndim != 1:
        raise InputError(
            f"y has the shape {y.shape}; this model takes (n,), a number for each example: y.ravel() of a column, "
            "y.argmax(axis=1) of one-hot rows"
        )


def _forward(params: Params, x: Array, layers: range) -> list[Array]:
    """The input of each layer, and the logits."""
    values = [x]
    for layer in layers:
        value = values[-1] @ params[f"weight{layer}"]
        value += params[f"bias{layer}"]
        if layer < layers[-1]:
            np.maximum(value, 0, out=value)
        values.append(value)
    return values


def cross_entropy(logits: Array, y: Array) -> tuple[float, Array]:
    """The mean of −log softmax(logits)[y], and its slope with respect to the logits, which are overwritten.

    logits: shape (n, classes); y: class numbers, shape (n,). Raises `InputError` for others.
    """
    _check_classes(y, logits.shape[1])
    return _cross_entropy(logits, y)


def _cross_entropy(logits: Array, y: Array) -> tuple[float, Array]:
    """The same of labels that were checked."""
    rows = np.arange(len(y))
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[rows, y]
    np.exp(logits, out=logits)
    sums = logits.sum(axis=1, keepdims=True)
    loss = float((np.log(sums[:, 0]) - chosen).mean())
    logits /= sums
    logits[rows, y] -= 1
    logits /= len(y)
    return loss, logits


def _classified(logits: Array, y: Array) -> dict[str, float]:
    accuracy = float(np.mean(logits.argmax(axis=1) == y))
    loss, _ = _cross_entropy(logits, y)
    return {"loss": loss, "accuracy": accuracy}


def binary_loss(z: Array, y: Array) -> float:
    """The mean logistic loss of logits z for labels 0 and 1."""
    return float(np.mean(np.logaddexp(0, z) - y * z))
