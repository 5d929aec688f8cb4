"""Linear layers with rectifiers between them, and cross-entropy at the end, on stacked parameters: backward by hand.

    h_0 = x;  h_l = max(0, h_{l−1} W_lᵀ + b_l), without the maximum where there is none;  p = softmax(h_L)
    ∂/∂h_L = (p − onehot(y)) · weight;  ∂/∂W_l = (∂/∂h_l)ᵀ h_{l−1};  ∂/∂b_l = Σ ∂/∂h_l;  ∂/∂h_{l−1} = ∂/∂h_l W_l

What automatic differentiation computes too, in fewer and faster operations: products in the layout that a batched
product is quick in, and the softmax with an example in each column, so that each operation is one over all of them.

Functions such as exp treat the last few numbers of a tensor by other instructions. Here there are always further
columns, which are not looked at, so that the bits of an example do not depend on how many there are.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["Chain", "Layer", "chain_of", "is_cross_entropy"]

_LANES = 64
"""Columns come in multiples of it: at least as many as one instruction takes at once."""

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
    """The layers of a module, where it is nothing but such a chain, and all of it is trained. inputs: a batch."""
    traced = _Traced(module, inputs)
    try:
        with torch.no_grad(), traced:
            outputs = module(inputs)
    except _NoChainError:
        return None
    layers = tuple(traced.layers)
    names = [name for layer in layers for name in (layer.weight, layer.bias) if name is not None]
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
        self._rooms: dict[str, torch.Tensor] = {}
        """Memory that is used again in each step: to ask for it anew costs more than some of the products."""

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
        with torch.no_grad():
            seen = [inputs.flatten(2)]
            for weight, bias, rectified in self._layers:
                h = self._product(f"outputs of {weight}", seen[-1], parameters[weight].transpose(1, 2))
                if bias is not None:
                    h += parameters[bias][:, None]
                seen.append(h.relu_() if rectified else h)
            losses, slope = _cross_entropy(seen.pop(), targets, weights.reshape(-1))
            for number, (weight, bias, _) in reversed(list(enumerate(self._layers))):
                below = seen.pop()
                parameters[weight].grad = self._product(f"gradient of {weight}", slope.transpose(1, 2), below)
                if bias is not None:
                    parameters[bias].grad = slope.sum(1)
                if number:
                    slope = self._product(f"slopes below {weight}", slope, parameters[weight])
                    if self._layers[number - 1].rectified:
                        slope *= below.sign()  # 0 or 1: nothing is below 0
            return losses.view(weights.shape).sum(1)

    def _product(self, what: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """left @ right, row by row, in the memory of this name."""
        rows, n, m = len(left), left.shape[1], right.shape[2]
        room = self._rooms.get(what)
        if room is None or len(room) < rows or room.shape[1:] != (n, m):
            room = self._rooms[what] = left.new_empty((rows, n, m))
        return torch.bmm(left, right, out=room[:rows])


def _cross_entropy(
    outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(the loss of each example times its weight, shape (n,); its gradient in the shape of the outputs)."""
    examples, classes = len(targets), outputs.shape[-1]
    columns = outputs.new_zeros((classes, examples + -examples % _LANES))
    columns[:, :examples] = outputs.reshape(examples, classes).t()
    columns -= columns.amax(0)
    right = columns[:, :examples].gather(0, targets[None])[0]
    columns.exp_()
    total = columns.sum(0)
    columns /= total
    slopes = columns[:, :examples]
    slopes.scatter_add_(0, targets[None], slopes.new_full((1, 1), -1.0).expand(1, examples))
    slopes *= weights
    return (total.log_()[:examples] - right) * weights, slopes.t().reshape(outputs.shape)
