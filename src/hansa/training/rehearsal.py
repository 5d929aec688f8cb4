"""Whether clients can train together on stacked parameters: one step is tried on a few examples of one client."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hansa.training.chain import Layer, chain_of, is_cross_entropy
from hansa.training.dense import Dense, NotDenseError
from hansa.training.steps import trained_parameters
from hansa.training.vectorized import PerExample, Stack

__all__ = ["OPTIMIZERS", "Rehearsal", "rehearse"]

OPTIMIZERS = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Adadelta,
)
"""Those that move each number by its own gradients alone, and remember nothing before the first step."""

_TOLERANCE = 1e-2
"""Relative and absolute: what is compared is equal but for rounding, or something else altogether."""

_LANES = 32
"""Numbers that elementwise operations of a CPU take at once, at most; what is left over goes one by one."""

_ALIKE = frozenset(
    {
        "_log_softmax", "_log_softmax_backward_data", "_softmax", "_softmax_backward_data", "_to_copy", "_unsafe_view",
        "abs", "add", "alias", "arange", "baddbmm", "bmm", "cat", "clone", "detach", "div", "embedding",
        "embedding_dense_backward", "eq", "expand", "fill", "full", "ge", "gt", "index_select", "le", "lift_fresh",
        "lt", "max_pool2d_with_indices", "max_pool2d_with_indices_backward", "mean", "mse_loss", "mse_loss_backward",
        "mul", "native_layer_norm", "native_layer_norm_backward", "ne", "neg", "new_ones", "new_zeros",
        "nll_loss_backward", "nll_loss_forward", "ones_like", "permute", "relu", "reshape", "select",
        "select_backward", "slice", "slice_backward", "split", "squeeze", "sub", "sum", "t", "threshold_backward",
        "transpose", "unsqueeze", "view", "where", "zeros", "zeros_like",
    }
)  # fmt: skip
"""Operations of which a row has the same bits wherever it lies in a stack."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What came of one step."""

    obstacle: str | None = None
    """Why clients cannot train together, as the end of a sentence."""
    dense: bool = False
    """Whether `Dense` can run the module."""
    layers: tuple[Layer, ...] | None = None
    """What a `Chain` can run, with the loss."""
    multiple: int = 1
    """Of how many rows a stack must be, so that the bits of one do not depend on the others."""
    saved_bytes: int = 0
    """What the forward pass of one example keeps for the backward pass."""


def rehearse(
    module: torch.nn.Module, loss: PerExample, each: PerExample, optimizer: type, *, x: torch.Tensor, y: torch.Tensor
) -> Rehearsal:
    """Try a step. loss: a mean over a batch; each: the same of each example; x, y: at least one example.

    The module is in training mode. Its buffers, and torch's random state, are the caller's to restore.
    """
    if optimizer not in OPTIMIZERS:
        return Rehearsal(f"{optimizer.__name__} is not an optimizer that is known to move each number by itself")
    if len(list(module.named_parameters(remove_duplicate=False))) != len(list(module.parameters())):
        return Rehearsal("one parameter of the module has two names")
    if getattr(loss, "ignore_index", -1) >= 0:
        return Rehearsal("the loss leaves some targets out")
    try:
        tried = _plain(module, loss, each, x, y) or _stacked(module, each, x, y)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        said = str(error).strip() or type(error).__name__
        if "randomness" in said:
            return Rehearsal("the module draws random numbers while it trains (is it dropout?)")
        return Rehearsal(f"the module cannot run on stacked parameters: {said.splitlines()[0]}")
    classes = is_cross_entropy(loss) and y.dim() == 1 and not y.is_floating_point()
    layers = chain_of(module, x) if classes else None
    return tried if tried.obstacle is not None or layers is None else replace(tried, layers=layers, multiple=1)


def _plain(
    module: torch.nn.Module, loss: PerExample, each: PerExample, x: torch.Tensor, y: torch.Tensor
) -> Rehearsal | None:
    """Look at the module and the loss on their own."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.no_grad():
        outputs = module(x)
        if any(not torch.equal(buffer, before[name]) for name, buffer in module.named_buffers()):
            return Rehearsal("the module changes its buffers while it trains (is it batch normalization?)")
        if not isinstance(outputs, torch.Tensor):
            return Rehearsal(f"the module returns a {type(outputs).__name__}, not a tensor")
        if not _alike(module(x[:1]), outputs[:1]):
            return Rehearsal("the module draws random numbers, or mixes the examples of a batch, while it trains")
        if not _alike(loss(outputs, y), each(outputs, y).mean()):
            return Rehearsal("the loss of a batch is not the mean of the losses of its examples")
    return None


def _stacked(module: torch.nn.Module, each: PerExample, x: torch.Tensor, y: torch.Tensor) -> Rehearsal:
    """One step of two rows that have one example each."""
    parameters = {
        name: parameter.detach().expand(2, *parameter.shape).clone()
        for name, parameter in trained_parameters(module).items()
    }
    dense = _is_dense(module, parameters, x)
    stack = Stack(module, parameters, each, x, y, dense=dense)
    mine = {parameter.untyped_storage().data_ptr() for parameter in stack.parameters.values()}
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with warnings.catch_warnings(record=True) as warned, _Operations() as operations:
        warnings.simplefilter("always")
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            weights = next(iter(parameters.values())).new_ones((2, 1))
            stack.differentiate(x.new_zeros((2, 1), dtype=torch.int64), weights)
    if any("batching rule" in str(each.message) for each in warned):
        return Rehearsal("torch.vmap would run a part of the module for one client at a time")
    multiple = 1
    if x.device.type == "cpu":
        if "convolution" in operations.sizes:
            return Rehearsal("on a CPU its convolutions are faster for one client at a time")
        rest = (size for name, sizes in operations.sizes.items() if name not in _ALIKE for size in sizes)
        multiple = math.lcm(*(_LANES // math.gcd(_LANES, size // 2) for size in rest))
    return Rehearsal(dense=dense, multiple=multiple, saved_bytes=sum(saved.values()) // 2)


def _is_dense(module: torch.nn.Module, parameters: Mapping[str, torch.Tensor], x: torch.Tensor) -> bool:
    """Whether `Dense` can run it."""
    try:
        Dense(module, {name: torch.nn.Parameter(stack) for name, stack in parameters.items()})(
            x[None, :1].expand(2, 1, *x.shape[1:])
        )
    except NotDenseError:
        return False
    return True


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch annotates few of its methods
    """Notes every operation, and how many numbers its results have."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.sizes: dict[str, set[int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        for result in results if isinstance(results, tuple | list) else (results,):
            if isinstance(result, torch.Tensor):
                self.sizes.setdefault(name, set()).add(result.numel())
        return results


def _alike(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.shape == right.shape and torch.allclose(left, right, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
