"""Parts of cut networks in numpy: dense layers, stepped by plain SGD."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.arrays import Array, Arrays, check_same_structure
from hansa.errors import ConfigError, InputError
from hansa.protocols.parts import Parts, VerticalParts
from hansa.training.learning import check_descent
from hansa.training.numpy import binary_loss, check_binary, cross_entropy, mlp

__all__ = ["DenseBottom", "DenseTop", "LossAndSlope", "logistic_parts", "mlp_parts", "vertical_mlp_parts"]

LossAndSlope: TypeAlias = Callable[[Array, Array], tuple[float, Array]]
"""(outputs, which may be overwritten; labels) → (mean loss, ∂loss/∂outputs)."""


class _Dense:
    """Some layers of an `mlp`, whose tensors have their names there: weight0, bias0, weight1 and so on."""

    def __init__(self, tensors: Mapping[str, npt.ArrayLike], learning_rate: float, *, rectify_last: bool) -> None:
        check_descent(learning_rate=learning_rate)
        self._tensors = {name: np.array(array) for name, array in tensors.items()}
        self._layers = sorted({int(name.removeprefix("weight").removeprefix("bias")) for name in tensors})
        self._rate = learning_rate
        self._rectify_last = rectify_last
        self._values: list[Array] = []

    def arrays(self) -> Arrays:
        """A copy of its tensors."""
        return Arrays({name: array.copy() for name, array in self._tensors.items()})

    def load(self, arrays: Arrays) -> None:
        """Take these tensors; plain SGD has no memory."""
        check_same_structure(self._tensors, arrays, "the part received")
        self._tensors = {name: array.copy() for name, array in arrays.items()}

    def forward(self, x: Any) -> Array:
        """The outputs; the inputs of all layers are kept for `backward`."""
        self._values = self._computed(np.asarray(x))
        return self._values[-1].copy()

    def predict(self, x: Any) -> Array:
        """The outputs; nothing is kept."""
        return self._computed(np.asarray(x))[-1]

    def descend(self, slope: Array) -> Array:
        """Step all layers, and ∂L/∂inputs as it was before. slope: ∂L/∂outputs of the last `forward`."""
        for position in reversed(range(len(self._layers))):
            layer = self._layers[position]
            if self._rectified(position):
                slope = slope * (self._values[position + 1] > 0)
            gradients = {"weight": self._values[position].T @ slope, "bias": slope.sum(axis=0)}
            slope = slope @ self._tensors[f"weight{layer}"].T
            for kind, gradient in gradients.items():
                if f"{kind}{layer}" in self._tensors:
                    tensor = self._tensors[f"{kind}{layer}"]
                    self._tensors[f"{kind}{layer}"] = tensor - tensor.dtype.type(self._rate) * gradient
        return slope

    def _computed(self, x: Array) -> list[Array]:
        takes = len(self._tensors[f"weight{self._layers[0]}"])
        if x.ndim != 2 or x.shape[1] != takes:  # noqa: PLR2004 - a row of each example
            raise InputError(f"inputs have the shape {x.shape}; this part takes (n, {takes}): look at the party's data")
        values = [x]
        for position, layer in enumerate(self._layers):
            value = values[-1] @ self._tensors[f"weight{layer}"]
            if f"bias{layer}" in self._tensors:
                value += self._tensors[f"bias{layer}"]
            values.append(np.maximum(value, 0) if self._rectified(position) else value)
        return values

    def _rectified(self, position: int) -> bool:
        return self._rectify_last or position < len(self._layers) - 1


class DenseBottom(_Dense):
    """Dense layers with ReLU after each but, unless `rectify_last`, the last; a `hansa.protocols.parts.Bottom`."""

    def backward(self, slope: Array) -> None:
        """Step all layers."""
        self.descend(slope)


class DenseTop:
    """Dense layers with ReLU between them, and a loss; a `hansa.protocols.parts.Top`."""

    def __init__(self, tensors: Mapping[str, npt.ArrayLike], learning_rate: float, loss: LossAndSlope) -> None:
        """tensors: weight3, bias3 … of consecutive layers."""
        self._dense = _Dense(tensors, learning_rate, rectify_last=False)
        self._loss = loss

    def arrays(self) -> Arrays:
        """A copy of its tensors."""
        return self._dense.arrays()

    def load(self, arrays: Arrays) -> None:
        """Take these tensors."""
        self._dense.load(arrays)

    def step(self, activations: Array, y: Any) -> tuple[float, Array]:
        """The mean loss and its slope at the activations, before the step that this takes."""
        loss, slope = self._loss(self._dense.forward(activations), np.asarray(y))
        return loss, self._dense.descend(slope)

    def predict(self, activations: Array) -> Array:
        """The outputs."""
        return self._dense.predict(activations)


class _LogisticTop:
    """σ(z + bias) of a sum z that bottoms have computed, with the logistic loss."""

    def __init__(self, learning_rate: float, dtype: npt.DTypeLike) -> None:
        self._bias = np.zeros(1, dtype)
        self._rate = learning_rate

    def arrays(self) -> Arrays:
        return Arrays({"bias": self._bias.copy()})

    def load(self, arrays: Arrays) -> None:
        self._bias = arrays["bias"].copy()

    def step(self, activations: Array, y: Any) -> tuple[float, Array]:
        z, labels = self.predict(activations), np.asarray(y)
        check_binary(labels)
        slope = ((0.5 * np.tanh(0.5 * z) + 0.5 - labels) / len(labels)).astype(z.dtype)
        self._bias = self._bias - self._bias.dtype.type(self._rate) * slope.sum(keepdims=True)
        return binary_loss(z, labels), slope[:, None]

    def predict(self, activations: Array) -> Array:
        """Logits, shape (n,)."""
        return np.asarray(activations[:, 0] + self._bias)


def mlp_parts(sizes: tuple[int, ...], cut: int, *, learning_rate: float, dtype: npt.DTypeLike = np.float32) -> Parts:
    """`hansa.training.numpy.mlp(sizes)`, whose first `cut` layers are the bottom: 1 ≤ cut < number of layers.

    The tensors of both together are those of the whole network, by name.
    """
    check_descent(learning_rate=learning_rate)
    if not 1 <= cut < len(sizes) - 1:
        raise ConfigError(f"cut is {cut}; it must be at least 1 and below the number of layers, {len(sizes) - 1}")
    init = mlp(sizes, dtype).init

    def bottom(rng: np.random.Generator) -> DenseBottom:
        return DenseBottom(_of_layers(init(rng), range(cut)), learning_rate, rectify_last=True)

    def top(rng: np.random.Generator) -> DenseTop:
        return DenseTop(_of_layers(init(rng), range(cut, len(sizes) - 1)), learning_rate, cross_entropy)

    return Parts(bottom, top)


def logistic_parts(
    num_features: Sequence[int], *, learning_rate: float, dtype: npt.DTypeLike = np.float64
) -> VerticalParts:
    """Logistic regression from zeros on the features of all parties: z = Σ_p x_p·θ_p + bias; labels 0 and 1.

    num_features: of each party, by number. Tensors: weight0 (num_features, 1) of each party, bias (1,) of the top.
    """

    def bottom(party: int, _: np.random.Generator) -> DenseBottom:
        return DenseBottom({"weight0": np.zeros((num_features[party], 1), dtype)}, learning_rate, rectify_last=False)

    check_descent(learning_rate=learning_rate)
    return VerticalParts(bottom, lambda _: _LogisticTop(learning_rate, dtype), "sum", len(num_features))


def vertical_mlp_parts(
    bottoms: Sequence[tuple[int, ...]],
    top: tuple[int, ...],
    *,
    learning_rate: float,
    dtype: npt.DTypeLike = np.float32,
) -> VerticalParts:
    """Dense bottoms with ReLU after every layer, and a dense top on all their outputs side by side.

    bottoms: the sizes of each party's layers, by number, for example (20, 16); top: for example (32, 10).
    """

    def make_bottom(party: int, rng: np.random.Generator) -> DenseBottom:
        return DenseBottom(mlp(bottoms[party], dtype).init(rng), learning_rate, rectify_last=True)

    def make_top(rng: np.random.Generator) -> DenseTop:
        return DenseTop(mlp(top, dtype).init(rng), learning_rate, cross_entropy)

    check_descent(learning_rate=learning_rate)
    return VerticalParts(make_bottom, make_top, "concatenate", len(bottoms))


def _of_layers(tensors: Mapping[str, npt.ArrayLike], layers: range) -> dict[str, npt.ArrayLike]:
    return {f"{kind}{layer}": tensors[f"{kind}{layer}"] for layer in layers for kind in ("weight", "bias")}
