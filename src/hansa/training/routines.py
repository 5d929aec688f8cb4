"""The routines of PyTorch that are fastest for local training on a CPU, where its own choice is another.

Linear layers: PyTorch multiplies by MKL, which on some processors makes no use of their widest registers, while oneDNN,
by which it convolves, does. Max-pooling whose images have their channels last: after a `Flatten` its gradient
comes in another order, which costs two copies of the images. Values differ from PyTorch's own in their last digits, and
are the same to the bit in every run and every process on a machine.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any, Final, cast

import torch
from torch.nn.functional import linear

__all__ = ["Quick", "uncompiled", "without_compiler"]

_LEAST_PRODUCTS: Final = 2**21
_LEAST_ROWS: Final = 4
_LEAST_WEIGHTS: Final = 2**13
"""With fewer rows, weights or products of both, another routine's start takes longer than it saves."""


class Quick:
    """Within it, layers of a module use them, wherever that is sure to be the same function.

    Nothing is left of it outside: whoever looks at the module, or runs it on stacks, finds PyTorch's own layers. The
    backward pass belongs within it, too, since checkpointed layers compute again there what they have not kept.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        """What was compiled stays as it is."""
        layers = list(module.modules())
        compiled = any(isinstance(layer, torch.jit.ScriptModule) or hasattr(layer, "_orig_mod") for layer in layers)
        self._methods = [] if compiled else [(layer, way) for layer in layers if (way := _way_of(layer)) is not None]
        self._depth = 0

    def __enter__(self) -> None:
        self._depth += 1
        for layer, method in self._methods if self._depth == 1 else ():
            vars(layer)["forward"] = method

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        for layer, _method in self._methods if not self._depth else ():
            vars(layer).pop("forward", None)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Within it, PyTorch's optimizers are made without its compiler, unless that is there already.

    They load it to tell it that it is to leave alone how they are made: as long as PyTorch itself takes, and 70 MB.
    """
    functions = [getattr(function, "__wrapped__", None) for function in _LOADING]
    if "torch._dynamo" in sys.modules or None in functions:
        yield
        return
    for function in functions:
        setattr(function, _LEFT_ALONE, function)
    try:
        yield
    finally:
        for function in functions:
            vars(function).pop(_LEFT_ALONE, None)


def uncompiled() -> AbstractContextManager[object]:
    """Within it, what `torch.compile` has made runs as it was written, and is not compiled anew."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


_LOADING: Final = (torch.optim.Optimizer.add_param_group, torch.optim.Optimizer.zero_grad)
_LEFT_ALONE: Final = "__dynamo_disable"
"""Where `torch._compile` looks for what a function is to be without the compiler."""


def _way_of(layer: torch.nn.Module) -> MethodType | None:
    """A layer's forward pass by another routine, if there is one."""
    if "forward" in vars(layer):
        return None
    if type(layer) is torch.nn.Linear and _PRODUCT is not None and layer.weight.numel() >= _LEAST_WEIGHTS:
        return MethodType(_linear, layer)
    if type(layer) is torch.nn.MaxPool2d and not layer.return_indices:
        return MethodType(_pooled, layer)
    return None


def _linear(layer: torch.nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    weight = layer.weight
    rows = inputs.numel() // max(1, layer.in_features)
    if rows < _LEAST_ROWS or rows * weight.numel() < _LEAST_PRODUCTS or not _is_plain(inputs, weight):
        return linear(inputs, weight, layer.bias)
    return _product(inputs.reshape(rows, -1), weight, layer.bias).view(*inputs.shape[:-1], -1)


def _is_plain(inputs: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether they are numbers in float32 on a CPU, and are to be multiplied as such."""
    return (
        {type(inputs), type(weight)} <= {torch.Tensor, torch.nn.Parameter}
        and inputs.dtype == weight.dtype == torch.float32
        and inputs.device.type == weight.device.type == "cpu"
        and inputs.shape[-1] == weight.shape[1]
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()  # noqa: SLF001 - torch.func does not tell
    )


def _product_of() -> Any:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        return None
    return getattr(getattr(torch.ops, "mkldnn", None), "_linear_pointwise", None)


_PRODUCT: Final = _product_of()
"""(inputs, weight, bias, what follows, …) → inputs · weightᵀ + bias, by oneDNN; None where it is not there."""


class _Linear(torch.autograd.Function):
    """inputs · weightᵀ + bias of matrices; its gradient is of such products too, and has one itself."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(inputs, weight)
        return cast("torch.Tensor", _PRODUCT(inputs, weight, bias, "none", [], ""))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,), (inputs, weight) = gradients, ctx.saved_tensors
        of_inputs, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if of_inputs else None,
            _product(gradient.t(), inputs.t()) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )


def _product(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return cast("torch.Tensor", _Linear.apply(inputs, weight, bias))  # type: ignore[no-untyped-call]  # as above


def _pooled(layer: torch.nn.MaxPool2d, inputs: torch.Tensor) -> torch.Tensor:
    outputs = torch.nn.MaxPool2d.forward(layer, inputs)
    if outputs.requires_grad and _has_channels_last(outputs):
        outputs.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
    return cast("torch.Tensor", outputs)


def _has_channels_last(images: torch.Tensor) -> bool:
    return images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last)  # noqa: PLR2004 - n, c, h, w
