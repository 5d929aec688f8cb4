"""Named ndarrays in a fixed order, and the arithmetic on them.

A model, a change of a model and a control variate are all `Arrays`. The rules for dtypes are in one place, here:

| dtype of the model's tensor | dtype of its change (`subtract`) | applying a change (`apply`)                        |
|-----------------------------|----------------------------------|----------------------------------------------------|
| float16, float32            | float32                          | added in float64, rounded once                     |
| bfloat16                    | float32                          | added in float32, then rounded                     |
| float64                     | float64                          | added in float64                                   |
| integers                    | int64                            | added exactly; beyond the dtype's range, its limit |
| bool                        | int64                            | added as 0 and 1; true when above 0                |

Beyond its range, the change of a floating tensor is infinite and that of an integer is the nearest limit of int64:
aggregators reject both by name, and no number wraps around.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt

from hansa.errors import ArraysMismatchError

__all__ = [
    "DTYPES",
    "Array",
    "Arrays",
    "add",
    "apply",
    "check_same_structure",
    "constant_change",
    "delta_dtype",
    "first_difference",
    "is_floating",
    "length",
    "lengths",
    "map_floating",
    "norm",
    "scale",
    "stacked",
    "subtract",
    "subtract_from_each",
    "zeros_like",
]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""An ndarray of any shape and of a dtype in `DTYPES`."""

DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "BOOL": np.dtype(np.bool_),
        "U8": np.dtype(np.uint8),
        "I8": np.dtype(np.int8),
        "U16": np.dtype("<u2"),
        "I16": np.dtype("<i2"),
        "U32": np.dtype("<u4"),
        "I32": np.dtype("<i4"),
        "U64": np.dtype("<u8"),
        "I64": np.dtype("<i8"),
        "F16": np.dtype("<f2"),
        "BF16": np.dtype(ml_dtypes.bfloat16),
        "F32": np.dtype("<f4"),
        "F64": np.dtype("<f8"),
    }
)
"""The dtypes a tensor may have, by their safetensors names."""

_BLOCK = 64 * 1024
"""Elements that a norm works on at once."""
_FEW = 8 * 1024
"""Elements whose squares are added in float32: of numbers with few digits, as bfloat16's, all additions err one way."""
_SHORT = 4096
"""Elements of rows of which a call for each would cost more than what it computes."""

_ALLOWED = frozenset(DTYPES.values())


class Arrays(Mapping[str, Array]):
    """An immutable mapping of tensor name to ndarray, in a fixed order.

    The arrays are read-only views, C-contiguous and little-endian; `.copy()` one to change it. Equality is of names,
    order, dtypes, shapes and bits (NaN equals NaN).

    Raises `ArraysMismatchError` for a value that is not numeric or a name that is not a string.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, npt.ArrayLike] | None = None, /) -> None:
        """items: tensor name → anything that `numpy.asarray` takes; never copied where it is contiguous already."""
        if not isinstance(items, Mapping | None):
            raise ArraysMismatchError(
                f"Arrays are made of a mapping of tensor name to array, not of a {type(items).__name__}"
            )
        frozen: dict[str, Array] = {}
        for name, value in (items or {}).items():
            frozen[_checked_name(name)] = _frozen(name, value)
        self._items = frozen

    def __getitem__(self, name: str) -> Array:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arrays) and first_difference(self, other) is None

    __hash__ = None  # type: ignore[assignment]  # large and compared by value: not a dictionary key

    def __repr__(self) -> str:
        return f"Arrays({len(self)} tensors, {self.nbytes:,} bytes)"

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(array.nbytes for array in self._items.values())


def is_floating(array: Array) -> bool:
    """Whether an array holds floating-point numbers (float16, bfloat16, float32, float64)."""
    return array.dtype.kind == "f" or array.dtype == DTYPES["BF16"]


def delta_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a change of a tensor of this dtype: float32, float64 or int64."""
    if dtype == DTYPES["F64"]:
        return DTYPES["F64"]
    return DTYPES["F32"] if dtype.kind == "f" or dtype == DTYPES["BF16"] else DTYPES["I64"]


def check_same_structure(expected: Mapping[str, Array], actual: Mapping[str, Array], what: str) -> None:
    """Raise `ArraysMismatchError`, naming the first tensor at fault, unless names, order and shapes agree.

    what: the actual thing, as the subject of the sentence, for example "the trained model".
    """
    missing = [name for name in expected if name not in actual]
    extra = [name for name in actual if name not in expected]
    if missing or extra:
        said = [f"lacks {missing[:3]}"] * bool(missing) + [f"has the unknown {extra[:3]}"] * bool(extra)
        raise ArraysMismatchError(f"{what} {' and '.join(said)}: its tensors must be the model's, {list(expected)[:6]}")
    if list(expected) != list(actual):
        raise ArraysMismatchError(f"{what} has its tensors in another order; keep the model's, {list(expected)[:6]}")
    for name, array in expected.items():
        if actual[name].shape != array.shape:
            raise ArraysMismatchError(
                f"{what} has the shape {actual[name].shape} for {name!r}, but the model has {array.shape}"
            )


def first_difference(left: Arrays, right: Arrays) -> str | None:
    """The name of the first tensor whose dtype, shape or bits differ (or that one side lacks), else None."""
    for mine, theirs in zip(left, right, strict=False):
        if mine != theirs:
            return mine
        a, b = left[mine], right[mine]
        if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
            return mine
    if len(left) != len(right):
        longer = left if len(left) > len(right) else right
        return list(longer)[min(len(left), len(right))]
    return None


def subtract(new: Arrays, old: Arrays) -> Arrays:
    """The change `new − old`, in the dtypes of `delta_dtype`; both must have the same structure.

    Raises `ArraysMismatchError` where an integer of the old model has become a floating-point number in the new one.
    """
    check_same_structure(old, new, "the trained model")
    for name, array in old.items():
        if is_floating(new[name]) and not is_floating(array):
            raise ArraysMismatchError(
                f"the trained model has {new[name].dtype} for {name!r}, but the model has {array.dtype}: convert it"
            )
    with np.errstate(over="ignore", invalid="ignore"):  # the aggregator names what is not finite
        return Arrays({name: _difference(new[name], old[name]) for name in old})


def subtract_from_each(stacks: Mapping[str, Array], old: Arrays) -> Arrays:
    """`subtract` of many models at once, to the same bits. stacks: of their tensors, each of shape (models, …)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return Arrays({name: _difference(stacks[name], array) for name, array in old.items()})


def apply(params: Arrays, change: Arrays) -> Arrays:
    """`params + change`, in the dtypes of `params`, each value rounded once."""
    check_same_structure(params, change, "the change")
    return Arrays({name: _moved(params[name], change[name]) for name in params})


def add(left: Arrays, right: Arrays) -> Arrays:
    """`left + right`, tensor by tensor, in the dtypes of `left`."""
    check_same_structure(left, right, "the right-hand side")
    return Arrays({name: np.add(left[name], right[name], dtype=left[name].dtype) for name in left})


def scale(arrays: Arrays, factor: float) -> Arrays:
    """Floating tensors times `factor`; other tensors are left as they are."""
    return map_floating(lambda array: array * array.dtype.type(factor), arrays)


def norm(arrays: Mapping[str, Array], order: int = 2) -> float:
    """The norm of all floating tensors together: Euclidean, or with order 1 the sum of the absolute values.

    In float64, in blocks whose sums are added exactly; NaN or infinity where a tensor holds one.
    """
    sums = [_power_sum(array, order) for array in arrays.values() if is_floating(array)]
    total = math.fsum(sums) if all(map(math.isfinite, sums)) else float(np.sum(sums))
    return math.sqrt(total) if order == 2 else total  # noqa: PLR2004 - the Euclidean norm


def length(arrays: Mapping[str, Array]) -> float:
    """The Euclidean norm of all floating tensors together, to six digits: for people to read, at a tenth of the cost.

    What is not within the range of float32 squared is left to `norm`.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        total = sum(_square(array) for array in arrays.values() if is_floating(array))
    return math.sqrt(total) if 0 < total < math.inf else norm(arrays)


def lengths(stacks: Mapping[str, Array]) -> list[float]:
    """`length` of many at once. stacks: of their tensors, each of shape (many, …)."""
    many = len(next(iter(stacks.values())))
    total = np.zeros(many)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for stack in filter(is_floating, stacks.values()):
            rows = stack.reshape(many, -1)
            total += _squares(rows) if rows.shape[1] <= _SHORT else [_square(row) for row in rows]
    found = enumerate(total.tolist())
    return [
        math.sqrt(squares) if 0 < squares < math.inf else norm({name: stack[row] for name, stack in stacks.items()})
        for row, squares in found
    ]


def stacked(arrays: Sequence[Array]) -> Array:
    """Arrays along a new first axis; one that comes again and again is not copied."""
    first = arrays[0]
    if all(array is first for array in arrays):
        return np.broadcast_to(first, (len(arrays), *first.shape))
    return np.stack(arrays)


def zeros_like(arrays: Arrays) -> Arrays:
    """Zeros of the same names, shapes and dtypes."""
    return Arrays({name: np.zeros_like(array) for name, array in arrays.items()})


def constant_change(params: Arrays, value: float) -> Arrays:
    """A change by `value` of every floating tensor, and of no other: what server optimizers start to remember with."""
    return Arrays(
        {
            name: np.full(array.shape, value, delta_dtype(array.dtype))
            for name, array in params.items()
            if is_floating(array)
        }
    )


def map_floating(function: Callable[..., Array], arrays: Arrays, *others: Arrays) -> Arrays:
    """`function` over the floating tensors of `arrays` and their namesakes in `others`; the rest is taken unchanged.

    Namesakes have one shape, else `ArraysMismatchError`.
    """
    for other in others:
        for name, array in arrays.items():
            if is_floating(array) and other[name].shape != array.shape:
                raise ArraysMismatchError(f"tensor {name!r} has the shape {other[name].shape}, not {array.shape}")
    return Arrays(
        {
            name: function(array, *(other[name] for other in others)) if is_floating(array) else array
            for name, array in arrays.items()
        }
    )


def _power_sum(array: Array, order: int) -> float:
    """Σ |x|^order."""
    flat, sums = array.reshape(-1), []
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            sums.append(float(np.sum(np.abs(block) if order == 1 else np.square(block))))
    return math.fsum(sums) if all(map(math.isfinite, sums)) else float(np.sum(sums))


def _square(array: Array) -> float:
    """Σ x², by the processor's own products of float32, or of float64 where the values are."""
    flat, total = array.reshape(-1), 0.0
    for start in range(0, flat.size, _FEW):
        block = flat[start : start + _FEW]
        block = block if block.dtype in (np.float32, np.float64) else block.astype(np.float32)
        total += float(np.dot(block, block))
    return total


def _squares(rows: Array) -> Array:
    """`_square` of each row."""
    rows = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32)
    return np.asarray(np.einsum("ij,ij->i", rows, rows), np.float64)


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ArraysMismatchError(f"a tensor's name must be a non-empty string, not {name!r}")
    return name


def _frozen(name: str, value: npt.ArrayLike) -> Array:
    try:
        array = np.asarray(value, order="C")
    except (TypeError, ValueError) as error:
        raise ArraysMismatchError(f"tensor {name!r} is not an array of numbers: {error}") from error
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if array.dtype not in _ALLOWED:
        raise ArraysMismatchError(f"tensor {name!r} has the dtype {array.dtype}; use one of {', '.join(DTYPES)}")
    view = array.view()
    view.flags.writeable = False
    return cast("Array", view)


def _difference(new: Array, old: Array) -> Array:
    dtype = delta_dtype(old.dtype)
    if dtype != DTYPES["I64"]:
        return np.asarray(np.subtract(new, old, dtype=dtype, casting="same_kind"))
    wrapped = np.asarray(np.subtract(new.astype(dtype), old.astype(dtype)))
    above = new > old
    wrapped = np.where(above & (wrapped < 0), np.iinfo(dtype).max, wrapped)
    return np.asarray(np.where((new < old) & (wrapped > 0), np.iinfo(dtype).min, wrapped))


def _moved(param: Array, change: Array) -> Array:
    if is_floating(param):
        moved = np.empty_like(param)
        exact = np.float32 if param.dtype == DTYPES["BF16"] else np.float64
        with np.errstate(over="ignore"):  # beyond the dtype's range is infinity, and the next check names it
            np.add(param, change, out=moved, dtype=exact, casting="unsafe")
        return moved
    if param.dtype == DTYPES["BOOL"]:
        return np.asarray(param.astype(np.int64) + change > 0)
    limits = np.iinfo(param.dtype)
    moved = np.asarray((param.astype(np.int64) + change).astype(param.dtype))
    # What was added and came out smaller has wrapped around; a step of 2^width or more is beyond the limit anyway.
    width = limits.max - limits.min
    moved = np.where((change > 0) & ((moved < param) | (change > width)), limits.max, moved)
    return np.asarray(np.where((change < 0) & ((moved > param) | (change < -width)), limits.min, moved))
