"""What a user calls a model, as `Arrays`. No framework is loaded here: a torch module exists only where torch is."""

import sys
from collections.abc import Mapping
from typing import Any

from hansa.arrays import Arrays
from hansa.errors import AppError

__all__ = ["as_arrays"]


def as_arrays(model: Any) -> Arrays:
    """The tensors of a model, in its own order.

    model: `Arrays`; a mapping of name to array or torch tensor; a torch module (parameters and buffers, as in its
    state_dict); a fitted scikit-learn estimator. Raises `AppError` for anything else.
    """
    if isinstance(model, Arrays):
        return model
    torch, sklearn = sys.modules.get("torch"), sys.modules.get("sklearn.base")
    if torch is not None and isinstance(model, torch.nn.Module):
        from hansa.training.torch import arrays_of_module  # noqa: PLC0415 - only where torch is loaded already

        return arrays_of_module(model)
    if sklearn is not None and isinstance(model, sklearn.BaseEstimator):
        from hansa.training.sklearn import arrays_of_estimator  # noqa: PLC0415 - the same for scikit-learn

        return arrays_of_estimator(model)
    if isinstance(model, Mapping):
        return Arrays({name: _array(value, torch) for name, value in _distinct(model, torch).items()})
    kind = "nothing" if model is None else f"a {type(model).__name__}"
    raise AppError(
        f"the model is {kind}, which cannot be read as named arrays: give a mapping of name to array, "
        "a torch module, or a fitted scikit-learn estimator"
    )


def _distinct(model: Mapping[str, Any], torch: Any) -> Mapping[str, Any]:
    """Without other names of the same weights, as in the state_dict of a torch module."""
    if torch is None:
        return model
    from hansa.training.tensors import distinct  # noqa: PLC0415 - only where torch is loaded already

    return distinct(model)


def _array(value: Any, torch: Any) -> Any:
    if torch is not None and isinstance(value, torch.Tensor):
        from hansa.training.torch import array_of_tensor  # noqa: PLC0415 - only where torch is loaded already

        return array_of_tensor(value)
    return value
