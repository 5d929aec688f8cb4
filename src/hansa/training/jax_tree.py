"""Arrays and the pytrees of JAX: there and back, with the bits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import jax
import numpy as np

from hansa.arrays import Array, Arrays, check_same_structure, is_floating
from hansa.errors import AppError

__all__ = ["Tree"]

_ALONE = "weights"
"""The name of a model that is one array."""


@dataclass(frozen=True)
class Tree:
    """The shape of a user's parameters: any pytree of arrays.

    A leaf is named by its path, for example `params.Dense_0.kernel`. Floating leaves are trained, others stay.
    """

    names: tuple[str, ...]
    """Of the leaves, in JAX's order."""
    like: tuple[jax.ShapeDtypeStruct, ...]
    """Shape and dtype of each leaf."""
    structure: Any

    @classmethod
    def of(cls, init: Callable[[Any], Any]) -> Self:
        """That of what a function makes of a random key; nothing is computed."""
        try:
            made = jax.eval_shape(init, jax.random.key(0))
        except TypeError as error:
            raise AppError(f"init makes no pytree of arrays of a key, init(jax.random.key(0)): {error}") from error
        paths, structure = jax.tree_util.tree_flatten_with_path(made)
        names = tuple(jax.tree_util.keystr(path, simple=True, separator=".") or _ALONE for path, _ in paths)
        if not names:
            raise AppError("init makes no array at all: return the parameters, for example a dictionary of arrays")
        if len(set(names)) < len(names):
            raise AppError(f"two of init's arrays have one name: {sorted({n for n in names if names.count(n) > 1})}")
        return cls(names, tuple(leaf for _, leaf in paths), structure)

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """The names of the leaves that gradients reach."""
        return tuple(name for name, like in zip(self.names, self.like, strict=True) if _is_floating(like))

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all leaves."""
        return sum(like.size * like.dtype.itemsize for like in self.like)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Of the first floating leaf: that of floating examples."""
        return next((np.dtype(like.dtype) for like in self.like if _is_floating(like)), np.dtype(np.float32))

    def arrays(self, params: Any) -> Arrays:
        """A copy of the leaves."""
        leaves = jax.tree.leaves(params)
        return Arrays({name: np.array(leaf) for name, leaf in zip(self.names, leaves, strict=True)})

    def leaves(self, model: Mapping[str, Array]) -> dict[str, Array]:
        """The tensors of a model, in the order and dtypes of the tree; raises `ArraysMismatchError`."""
        ordered = {name: model[name] for name in self.names if name in model} | dict(model)
        check_same_structure(self._expected, ordered, "the model received")
        return {name: ordered[name].astype(x.dtype, copy=False) for name, x in self._expected.items()}

    def params(self, leaves: Mapping[str, Any]) -> Any:
        """The pytree of these leaves; None where there is none of that name, which is no leaf to JAX."""
        return jax.tree.unflatten(self.structure, [leaves.get(name) for name in self.names])

    @cached_property
    def _expected(self) -> dict[str, Array]:
        """Arrays of the leaves' shapes and dtypes that take no memory."""
        made = (np.broadcast_to(np.empty((), each.dtype), each.shape) for each in self.like)
        return dict(zip(self.names, made, strict=True))


def _is_floating(like: jax.ShapeDtypeStruct) -> bool:
    return is_floating(np.empty(0, like.dtype))
