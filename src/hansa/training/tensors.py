"""Arrays and the tensors of PyTorch: there and back, with the bits."""

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from hansa.arrays import DTYPES, Array, Arrays, check_same_structure, stacked
from hansa.errors import AppError
from hansa.training.local import Batch

__all__ = [
    "Inputs",
    "array_in",
    "array_of_tensor",
    "arrays_of_module",
    "called",
    "copied",
    "distinct",
    "joined",
    "load_into_module",
    "mapped",
    "stack_of",
    "taken",
]


Inputs: TypeAlias = Any
"""Of a batch: a tensor, or several by name, a dict, with whose names a module is called."""


def called(module: Callable[..., Any], inputs: Inputs) -> Any:
    """What a module makes of a batch."""
    return module(**inputs) if isinstance(inputs, dict) else module(inputs)


def mapped(function: Callable[[Any], Any], inputs: Inputs) -> Any:
    """What a function makes of a batch, or of each input that it has by name."""
    return {name: function(each) for name, each in inputs.items()} if isinstance(inputs, dict) else function(inputs)


def copied(inputs: Inputs, part: slice = slice(None)) -> Inputs:
    """The same, or some of the examples, which a module may change in place."""
    return mapped(lambda each: each[part].clone(), inputs)


def arrays_of_module(module: torch.nn.Module) -> Arrays:
    """A copy of the module's parameters and buffers, in the order of its state_dict; of tied ones the first."""
    return Arrays({name: array_of_tensor(tensor) for name, tensor in _state(module).items()})


def array_of_tensor(tensor: torch.Tensor) -> Array:
    """A copy of a tensor as an ndarray; bfloat16 stays bfloat16."""
    return np.array(_view(tensor.detach().cpu()), order="C")


def array_in(tensor: torch.Tensor) -> Array:
    """The memory of a tensor as an ndarray in the order of C; a copy where it lies on a device, or in another order."""
    return np.ascontiguousarray(_view(tensor.cpu()))


def stack_of(arrays: Sequence[Array], like: torch.Tensor, *, transposed: bool = False) -> torch.Tensor:
    """Arrays along a new first axis, on the device and in the dtype of `like`.

    transposed: the two axes of each are in memory in the other order, as a product with its transpose wants it.
    """
    host = torch.empty((len(arrays), *like.shape), dtype=like.dtype)
    np.copyto(_view(host), stacked(arrays), casting="same_kind")
    stack = host.to(like.device)
    return stack.transpose(1, 2).contiguous().transpose(1, 2) if transposed else stack


def load_into_module(module: torch.nn.Module, arrays: Mapping[str, Array]) -> None:
    """Copy arrays into the module's parameters and buffers; raises `ArraysMismatchError` where they do not fit."""
    state = _state(module)
    if list(state) != list(arrays) and list(map(_uncounted, state)) == list(map(_uncounted, arrays)):
        raise AppError(
            f"the module has other names each time that it is built, as {_changed(arrays, state)}: name its layers, or "
            "begin to count anew in the function that makes it (keras.utils.clear_session())"
        )
    unknown = arrays.keys() - state.keys()
    if unknown and (tied := unknown & module.state_dict().keys()):
        raise AppError(
            f"{min(tied)!r} of the module is tied to a tensor before it, and tied weights travel once: begin with a "
            "model without it, as arrays_of_module makes it"
        )
    check_same_structure(cast("Mapping[str, Array]", state), arrays, "the model received")  # names and shapes alone
    for name, tensor in state.items():
        if tensor.device.type == "cpu":
            np.copyto(_view(tensor), arrays[name], casting="same_kind")
        else:
            host = torch.empty(tensor.shape, dtype=tensor.dtype)
            np.copyto(_view(host), arrays[name], casting="same_kind")
            tensor.copy_(host)


def _uncounted(name: str) -> str:
    """A name without its numbers."""
    return re.sub(r"\d+", "", name)


def _changed(before: Iterable[str], now: Iterable[str]) -> str:
    return next(f"{one!r} and {other!r}" for one, other in zip(before, now, strict=True) if one != other)


def _state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What travels of a module: what has several names, as tied weights have, once, by the first of them."""
    state = module.state_dict()
    for name, value in state.items():
        if is_lazy(value):
            raise AppError(f"{name!r} of the module has no shape before it has seen an input: give its layer all sizes")
        if not isinstance(value, torch.Tensor):
            raise AppError(f"{name!r} in the module's state_dict is a {type(value).__name__}; only tensors can travel")
    return distinct(state)


def distinct(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Without tensors that are the memory of one before them."""
    first: dict[Hashable, str] = {}
    for name, tensor in tensors.items():
        view = isinstance(tensor, torch.Tensor) and tensor.numel()
        first.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if view else name, name)
    return {name: tensors[name] for name in first.values()}


def _view(tensor: torch.Tensor) -> Array:
    """The memory of a CPU tensor as an ndarray."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return cast("Array", tensor.view(torch.int16).numpy().view(DTYPES["BF16"]))
    return cast("Array", tensor.numpy())


def joined(sources: Sequence[Any]) -> Any:
    """Arrays or tensors, or mappings of such, one after the other along their first axis."""
    if isinstance(sources[0], dict):
        return {name: joined([source[name] for source in sources]) for name in sources[0]}
    if all(isinstance(source, torch.Tensor) for source in sources):
        return torch.cat(list(sources))
    return np.concatenate([np.asarray(source) for source in sources])


def taken(source: Any, batch: "Batch | None") -> torch.Tensor:
    """A copy of some of the examples, of an array or a tensor: a module may change its inputs in place.

    batch: None for all of them, as they are, in memory that is the caller's.
    """
    if isinstance(source, torch.Tensor):
        if isinstance(batch, np.ndarray):
            return source[torch.from_numpy(batch)]
        return source if batch is None else source[batch].clone()
    if batch is None:
        return torch.from_numpy(source)
    found = np.asarray(source)[batch]
    return torch.from_numpy(found if isinstance(batch, np.ndarray) else found.copy())
