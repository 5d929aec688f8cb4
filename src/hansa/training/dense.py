"""The forward pass of dense modules on stacked parameters, without `torch.vmap`: less work for every operation.

A linear layer becomes one batched product with its bias; a function of each number alone is what it is. Nothing else is
known, and whatever a module does beside that is refused by name.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode, resolve_name

from hansa.training.tensors import Inputs, called

__all__ = ["Dense", "NotDenseError"]

_OF_EACH_NUMBER = frozenset(
    {
        functional.elu, functional.gelu, functional.hardswish, functional.hardtanh, functional.leaky_relu,
        functional.logsigmoid, functional.mish, functional.relu, functional.relu6, functional.selu, functional.silu,
        functional.softplus, functional.softsign, functional.tanhshrink, torch.Tensor.relu, torch.Tensor.sigmoid,
        torch.Tensor.tanh, torch.relu, torch.relu_, torch.sigmoid, torch.tanh,
    }
)  # fmt: skip
_FLATTEN = frozenset({torch.flatten, torch.Tensor.flatten})


class NotDenseError(Exception):
    """A module does something else; the message is its name."""


class Dense:
    """A copy of a module whose parameters are stacks."""

    def __init__(self, module: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """parameters: in place of the module's own of these names; the others are shared by all rows."""
        self._module = copy.deepcopy(module)
        self.replace(parameters)

    def replace(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Use other stacks."""
        for name, stack in parameters.items():
            owner, _, attribute = name.rpartition(".")
            setattr(self._module.get_submodule(owner), attribute, stack)

    def __call__(self, inputs: Inputs) -> torch.Tensor:
        """inputs: shape (rows, batch, …); raises `NotDenseError`."""
        with _Stacked():
            outputs: torch.Tensor = called(self._module, inputs)
        return outputs


class _Stacked(TorchFunctionMode):
    """Gives functions of one client's tensors the meaning that they have for stacks."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is functional.linear:
            return _linear(*args, **given)
        if func in _FLATTEN:
            return _flatten(*args, **given)
        if func in _OF_EACH_NUMBER:
            return func(*args, **given)
        raise NotDenseError(resolve_name(func) or str(func))


def _linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """inputs: shape (rows, …, in); weight: (rows, out, in), or (out, in) where it is frozen; bias: (rows, out)."""
    if weight.dim() != 3 or (bias is not None and bias.dim() != 2):  # noqa: PLR2004 - as above
        raise NotDenseError("a linear layer of which something is frozen")
    flat = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    turned = weight.transpose(1, 2)
    outputs = torch.bmm(flat, turned) if bias is None else torch.baddbmm(bias.unsqueeze(1), flat, turned)
    return outputs.reshape(*inputs.shape[:-1], weight.shape[1])


def _flatten(inputs: torch.Tensor, start_dim: int = 0, end_dim: int = -1) -> torch.Tensor:
    if start_dim < 1 or end_dim != -1:
        raise NotDenseError("a flattening of the batch")
    return inputs.flatten(start_dim + 1)
