"""Linear layers with rectifiers between them, and cross-entropy at the end, on stacked parameters: backward by hand.

    h_0 = x;  h_l = max(0, h_{l−1} W_lᵀ + b_l), without the maximum where there is none;  p = softmax(h_L)
    ∂/∂h_L = (p − onehot(y)) · weight;  ∂/∂W_l = (∂/∂h_l)ᵀ h_{l−1};  ∂/∂b_l = Σ ∂/∂h_l;  ∂/∂h_{l−1} = ∂/∂h_l W_l

What automatic differentiation computes too, in fewer and faster operations, on a CPU: products by NumPy, whose library
has less to do before a small one than PyTorch's, and the softmax with an example in each column, so that each operation
is one over all of them.

Functions such as exp treat the last few numbers of a tensor by other instructions. Here there are always further
columns, which are not looked at, so that the bits of an example do not depend on how many there are.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hansa.arrays import Array

__all__ = ["Chain", "Layer", "chain_of", "is_cross_entropy"]

_LANES = 64
"""Columns come in multiples of it: at least as many as one instruction takes at once."""

_SMALL = 1 << 18
"""Multiplications in a product up to which NumPy's library is faster than PyTorch's, and keeps to one thread."""

_RECTIFIERS = frozenset({functional.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_})
_FLATTEN = frozenset({torch.flatten, torch.Tensor.flatten})


class Layer(NamedTuple):
    """A linear layer."""

    weight: str
    bias: str | None
    rectified: bool
    """Whether a rectifier follows."""


def is_cross_entropy(loss: Any) -> bool:
    """Whether a loss is the mean cross-entropy of class numbers, and nothing else."""
    if type(loss) is torch.nn.CrossEntropyLoss:
        return loss.weight is None and loss.label_smoothing == 0 and loss.reduction == "mean" and loss.ignore_index < 0
    return loss is functional.cross_entropy


def chain_of(module: torch.nn.Module, inputs: torch.Tensor) -> tuple[Layer, ...] | None:
    """The layers of a module, where it is nothing but such a chain, and all of it is trained. inputs: a batch.

    None also where it computes in a dtype that NumPy has no products of, or elsewhere than on a CPU.
    """
    if inputs.device.type != "cpu" or inputs.dtype not in {torch.float32, torch.float64}:
        return None
    traced = _Traced(module, inputs)
    try:
        with torch.no_grad(), traced:
            outputs = module(inputs)
    except _NoChainError:
        return None
    layers = tuple(traced.layers)
    names = [name for layer in layers for name in (layer.weight, layer.bias) if name is not None]
    if layers and layers[-1].rectified:  # its slope would be another one than the softmax's
        return None
    whole = sorted(names) == sorted(name for name, _ in module.named_parameters())
    return layers if layers and whole and outputs is traced.last else None


class _NoChainError(Exception):
    """A module does something else."""


class _Traced(TorchFunctionMode):
    """Notes what a module does with a batch."""

    def __init__(self, module: torch.nn.Module, inputs: torch.Tensor) -> None:
        super().__init__()
        self._names = {parameter: name for name, parameter in module.named_parameters() if parameter.requires_grad}
        self.layers: list[Layer] = []
        self.last = inputs

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not args or args[0] is not self.last:
            raise _NoChainError
        if func is functional.linear:
            self._linear(*args, **(kwargs or {}))
        elif func in _RECTIFIERS and self.layers:
            self.layers[-1] = self.layers[-1]._replace(rectified=True)
        elif func not in _FLATTEN or self.layers or kwargs or args[1:] not in {(1,), (1, -1)}:
            raise _NoChainError
        self.last = func(*args, **(kwargs or {}))
        return self.last

    def _linear(self, inputs: torch.Tensor, weight: Any, bias: Any = None) -> None:
        if inputs.dim() != 2 or weight not in self._names or (bias is not None and bias not in self._names):  # noqa: PLR2004 - (n, features)
            raise _NoChainError
        self.layers.append(Layer(self._names[weight], None if bias is None else self._names[bias], rectified=False))


class Chain:
    """The loss of a stack, and its gradients. Gradients of one step are overwritten by those of the next."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """layers: from the inputs to the outputs."""
        self._layers = layers
        self._rooms: dict[str, Array] = {}
        """Memory that is used again in each step: to ask for it anew costs more than some of the products."""
        self._parameters: Mapping[str, torch.nn.Parameter] = {}
        self._values: dict[str, Array] = {}
        """The memory of these parameters, which steps change in place."""

    @np.errstate(all="ignore")  # as PyTorch does: who diverges is found out by their update
    def differentiate(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """Set the gradient of Σ weights · losses with respect to each row's parameters; returns these sums, (rows,).

        inputs: shape (rows, size, …); targets: class numbers (rows · size,); weights: of each example, (rows, size).
        """
        values = self._memory(parameters)
        below = [inputs.flatten(2).numpy()]
        for weight, bias, rectified in self._layers:
            h = self._product(f"outputs of {weight}", below[-1], values[weight].transpose(0, 2, 1))
            if bias is not None:
                np.add(h, values[bias][:, np.newaxis], out=h)
            if rectified:
                torch.from_numpy(h).relu_()  # faster than NumPy's maximum
            below.append(h)
        losses, slope = self._cross_entropy(below.pop(), targets.numpy(), weights.numpy().reshape(-1))
        for number, (weight, bias, _) in reversed(list(enumerate(self._layers))):
            h = below.pop()
            _set(parameters[weight], self._product(f"gradient of {weight}", slope.transpose(0, 2, 1), h))
            if bias is not None:
                room = self._room(f"gradient of {bias}", (len(slope), 1, slope.shape[2]), slope.dtype)
                _set(parameters[bias], np.matmul(np.ones(slope.shape[1], slope.dtype), slope, out=room[:, 0]))
            if number:
                slope = self._product(f"slopes below {weight}", slope, values[weight])
                if self._layers[number - 1].rectified:
                    slopes, outputs = torch.from_numpy(slope), torch.from_numpy(h)
                    torch.ops.aten.threshold_backward.grad_input(slopes, outputs, 0, grad_input=slopes)
        return torch.from_numpy(losses.reshape(weights.shape).sum(1))

    def _memory(self, parameters: Mapping[str, torch.nn.Parameter]) -> Mapping[str, Array]:
        known = self._parameters
        if any(known.get(name) is not parameter for name, parameter in parameters.items()):
            self._parameters = dict(parameters)
            self._values = {name: parameter.detach().numpy() for name, parameter in parameters.items()}
        return self._values

    def _cross_entropy(self, outputs: Array, targets: Array, weights: Array) -> tuple[Array, Array]:
        """(the loss of each example times its weight, shape (n,); its gradient in the shape of the outputs)."""
        n, classes = len(targets), outputs.shape[-1]
        columns = self._room("columns", (classes, n + -n % _LANES), outputs.dtype)
        columns[:, n:] = 0
        np.copyto(columns[:, :n], outputs.reshape(n, classes).T)
        np.subtract(columns, columns.max(0), out=columns)
        place = targets, np.arange(n)
        right = columns[place]
        np.exp(columns, out=columns)
        total = columns.sum(0)
        np.divide(columns, total, out=columns)
        columns[place] -= 1
        slopes = columns[:, :n]
        np.multiply(slopes, weights, out=slopes)
        np.copyto(outputs.reshape(n, classes), slopes.T)
        return (np.log(total)[:n] - right) * weights, outputs

    def _product(self, what: str, left: Array, right: Array) -> Array:
        """left @ right, row by row, in the memory of this name."""
        found = self._room(what, (len(left), left.shape[1], right.shape[2]), left.dtype)
        if left[0].size * right.shape[2] <= _SMALL:
            return np.matmul(left, right, out=found)
        torch.bmm(torch.from_numpy(left), torch.from_numpy(right), out=torch.from_numpy(found))
        return found

    def _room(self, what: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Memory for a result; the first rows of what there is, where it has more."""
        room = self._rooms.get(what)
        if room is None or len(room) < shape[0] or room.shape[1:] != shape[1:]:
            room = self._rooms[what] = np.empty(shape, dtype)
        return room[: shape[0]]


def _set(parameter: torch.nn.Parameter, gradient: Array) -> None:
    parameter.grad = torch.from_numpy(gradient)
