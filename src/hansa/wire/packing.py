"""An update in fewer bytes: a safetensors file whose tensors are parts of the model's.

Its header's metadata is {"hansa": "packed 1"}. Of each tensor NAME of the change, with n elements of the dtype D, it
holds parts, as tensors that are called NAME:PART. Elements are counted in C order.

| part    | dtype, shape |                                                                                        |
|---------|--------------|----------------------------------------------------------------------------------------|
| values  | D, its shape | all values; alone                                                                      |
| values  | D, (k,)      | with index, or with seed: the k values that travel                                     |
| index   | U32, (k,)    | their positions, ascending; all others are 0                                           |
| seed    | U8, (32,)    | with share: draws the positions (`compression.mask.drawn`); all others are 0           |
| share   | U64, (1,)    | 1 ≤ share < 2^32                                                                       |
| levels8 | I8, (k,)     | in place of values: whole numbers l, −127 ≤ l ≤ 127; k = n without index and seed      |
| levels4 | U8, (⌈k/2⌉,) | in place of values: l + 8 in four bits, −7 ≤ l ≤ 7; low bits first, padded with 8       |
| steps   | D, (m,)      | with levels: a value is l·s rounded to D; one s for all, or for each 512 of the n      |

A tensor is packed only where that makes the file smaller; a file in which none is, is the plain one of `codec`. Packing
loses nothing: what is decoded has the bits of what the client's transforms made.

Nothing is trusted: names, parts, dtypes, shapes and the numbers of positions are checked against the model's tensors
before anything of their size is made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from blake3 import blake3

from hansa.arrays import DTYPES, Array, Arrays, delta_dtype
from hansa.compression.mask import SEED, drawn
from hansa.compression.quantize import BUCKET
from hansa.errors import AppError, Reason, UpdateRejectedError, WireError
from hansa.messages import Packing, Update
from hansa.wire import codec

__all__ = ["Outline", "digest", "outline", "pack", "packed_size", "unpack"]

_METADATA: Final = {"hansa": "packed 1"}

_ENTRY: Final = 96
"""Bytes that a part's entry in the header costs, about."""

_INDEX: Final = DTYPES["U32"]
_SHARE: Final = DTYPES["U64"]
_LARGEST_INDEX: Final = 2**32
_CENTRE: Final = 8
"""What is added to a level of four bits."""

_KINDS: Final = frozenset(
    frozenset(where | what)
    for where in (frozenset(), frozenset({"index"}), frozenset({"seed", "share"}))
    for what in (frozenset({"values"}), frozenset({"levels8", "steps"}), frozenset({"levels4", "steps"}))
)
"""Parts that a tensor may have together."""

Outline: TypeAlias = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Tensor → shape and dtype of its change."""

Parts: TypeAlias = Mapping[str, Array]


def outline(template: Arrays) -> Outline:
    """What updates of this broadcast look like once they are unpacked."""
    return {name: (array.shape, delta_dtype(array.dtype)) for name, array in template.items()}


def pack(update: Update) -> list[bytes | memoryview]:
    """The file of an update, in parts. Raises `AppError` for a packing that would change values."""
    packed = {name: parts for name, array in update.arrays.items() if (parts := _packed(name, array, update.packing))}
    if not packed:
        return codec.encode(update.arrays)
    tensors: dict[str, Array] = {}
    for name, array in update.arrays.items():
        tensors |= {f"{name}:{part}": each for part, each in packed.get(name, {"values": array}).items()}
    return codec.encode(Arrays(tensors), _METADATA)


def packed_size(update: Update) -> int:
    """Bytes of the file."""
    return sum(memoryview(part).nbytes for part in pack(update)) if update.packing else codec.size(update.arrays)


def digest(parts: Sequence[bytes | memoryview]) -> str:
    """The content address of a file in parts: blake3, 64 hexadecimal digits."""
    hasher = blake3()
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def unpack(buffer: codec.Buffer, of: Outline) -> Arrays:
    """The change in a file, packed or plain; a plain one's tensors are for the aggregator to check.

    Raises `UpdateRejectedError` (MALFORMED or STRUCTURE) that names the tensor.
    """
    try:
        header = codec.read_header(buffer)
        if dict(header.metadata) != _METADATA:
            return codec.decode(buffer)
        parts = _grouped(codec.decode(buffer))
    except WireError as error:
        raise UpdateRejectedError(Reason.MALFORMED, str(error)) from error
    if parts.keys() != of.keys():
        unknown, missing = sorted(parts.keys() - of.keys()), sorted(of.keys() - parts.keys())
        raise UpdateRejectedError(
            Reason.STRUCTURE, f"the tensors are not the model's: unknown {unknown[:3]}, missing {missing[:3]}"
        )
    checked = {name: _Checked.of(name, parts[name], *of[name]) for name in of}
    return Arrays({name: each.expanded() for name, each in checked.items()})


def _grouped(tensors: Arrays) -> dict[str, dict[str, Array]]:
    grouped: dict[str, dict[str, Array]] = {}
    for key, array in tensors.items():
        name, _, part = key.rpartition(":")
        grouped.setdefault(name, {})[part] = array
    return grouped


# ── packing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _packed(name: str, array: Array, packing: Mapping[str, Packing]) -> dict[str, Array] | None:
    """The parts of one tensor; None where they are no smaller than the tensor."""
    how = packing.get(name)
    if how is None or array.size >= _LARGEST_INDEX:
        return None
    flat = array.reshape(-1)
    parts: dict[str, Array] = {}
    positions: Array | None = None
    if how.seed:
        positions = np.flatnonzero(drawn(how.seed, name, flat.size, how.share))
        parts = {"seed": np.frombuffer(how.seed, np.uint8), "share": np.array([how.share], _SHARE)}
    elif how.sparse:
        positions = np.flatnonzero(flat.view(f"u{flat.dtype.itemsize}"))
        parts = {"index": positions.astype(_INDEX)}
        if not how.bits and _size(parts) + positions.size * flat.itemsize + _ENTRY >= array.nbytes:
            return None
    values = flat if positions is None else flat[positions]
    parts |= {"values": values} if not how.bits or how.steps is None else _levels(values, positions, how)
    if _size(parts) + _ENTRY * (len(parts) - 1) >= array.nbytes:
        return None
    if _Checked.of(name, parts, array.shape, array.dtype).expanded().tobytes() != array.tobytes():
        raise AppError(f"a transform says that {name!r} can travel in fewer bytes, but that would change its values")
    return parts


def _levels(values: Array, positions: Array | None, how: Packing) -> dict[str, Array]:
    steps = np.asarray(how.steps)
    each = _spread(steps, values.size if positions is None else positions)
    levels = np.rint(values.astype(np.float64) / each).astype(np.int8)
    if how.bits == 8:  # noqa: PLR2004 - a byte
        return {"levels8": levels, "steps": steps}
    nibbles = (levels + _CENTRE).astype(np.uint8)
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(_CENTRE))
    return {"levels4": nibbles[0::2] | nibbles[1::2] << 4, "steps": steps}


def _spread(steps: Array, positions: "Array | int") -> Array:
    """The step of each position, or of the first so many, in float64."""
    wide = steps.astype(np.float64)
    if steps.size == 1:
        return wide
    return np.repeat(wide, BUCKET)[:positions] if isinstance(positions, int) else wide[positions // BUCKET]


def _size(parts: Parts) -> int:
    return sum(part.nbytes for part in parts.values())


# ── unpacking ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Checked:
    """The parts of one tensor, after all checks that need no memory of its size."""

    name: str
    parts: Parts
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    size: int

    @classmethod
    def of(cls, name: str, parts: Parts, shape: tuple[int, ...], dtype: np.dtype[Any]) -> "_Checked":
        """Raises `UpdateRejectedError`."""
        checked = cls(name, parts, shape, dtype, int(np.prod(shape, dtype=object)))
        if frozenset(parts) not in _KINDS:
            raise checked.flaw(f"has the parts {sorted(parts)[:6]}, which do not belong together")
        if len(parts) > 1 and dtype.kind != "f":
            raise checked.flaw(f"is {dtype} and cannot be packed")
        checked.check_where()
        checked.check_what()
        return checked

    def flaw(self, what: str) -> UpdateRejectedError:
        """The error to raise."""
        return UpdateRejectedError(Reason.STRUCTURE, f"the packed tensor {self.name!r} {what}")

    def need(self, part: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """Raise unless a part has this dtype and shape."""
        array = self.parts[part]
        if array.dtype != dtype or array.shape != shape:
            raise self.flaw(f"has {part} as {array.dtype}{list(array.shape)}, not as {dtype}{list(shape)}")

    def check_where(self) -> None:
        """Positions: as many as the tensor can have, ascending and within it."""
        if "index" in self.parts:
            index = self.parts["index"]
            if index.ndim != 1 or index.size > self.size:
                raise self.flaw(f"has an index of the shape {list(index.shape)}, but {self.size} elements")
            self.need("index", _INDEX, index.shape)
            if index.size and (int(index[-1]) >= self.size or not (index[1:] > index[:-1]).all()):
                raise self.flaw(f"has an index that is not ascending within its {self.size} elements")
        elif "seed" in self.parts:
            self.need("seed", DTYPES["U8"], (SEED,))
            self.need("share", _SHARE, (1,))
            if not 1 <= int(self.parts["share"][0]) < _LARGEST_INDEX:
                raise self.flaw("has a share that is not between 1 and 2^32 − 1")

    def check_what(self) -> None:
        """Values or levels: their dtype, and as many as there are positions where these are counted already."""
        if "values" in self.parts:
            array = self.parts["values"]
            shape = self.shape if "index" not in self.parts and "seed" not in self.parts else (self.count(array.size),)
            self.need("values", self.dtype, shape)
            return
        steps = self.parts["steps"]
        self.need("steps", self.dtype, (1,) if steps.shape == (1,) else (-(-self.size // BUCKET),))
        if not (np.isfinite(steps) & (steps >= 0)).all():
            raise self.flaw("has a step that is not a finite number of at least 0")
        if "levels8" in self.parts:
            self.need("levels8", DTYPES["I8"], (self.count(self.parts["levels8"].size),))
        else:
            packed = self.parts["levels4"].size
            odd = self.count(2 * packed) if "seed" not in self.parts else 2 * packed
            self.need("levels4", DTYPES["U8"], (-(-odd // 2),))

    def count(self, given: int) -> int:
        """How many values must be there; given: how many are, which of a seed's is checked when it has drawn."""
        if "index" in self.parts:
            return self.parts["index"].size
        if "seed" in self.parts:
            return min(given, self.size)
        return self.size

    def expanded(self) -> Array:
        """The tensor; raises `UpdateRejectedError` for more or fewer values than positions, or levels beyond theirs."""
        positions = self._positions()
        count = self.size if positions is None else positions.size
        values = self._values(positions, count)
        if positions is None:
            return values.reshape(self.shape)
        flat: Array = np.zeros(self.size, self.dtype)
        flat[positions] = values
        return flat.reshape(self.shape)

    def _positions(self) -> Array | None:
        if "index" in self.parts:
            return self.parts["index"].astype(np.int64)
        if "seed" in self.parts:
            seed, share = self.parts["seed"].tobytes(), int(self.parts["share"][0])
            return np.flatnonzero(drawn(seed, self.name, self.size, share))
        return None

    def _values(self, positions: Array | None, count: int) -> Array:
        if "values" in self.parts:
            values = self.parts["values"]
            if values.size != count:
                raise self.flaw(f"has {values.size} values for {count} positions")
            return values
        levels = self._levels(count)
        steps = _spread(self.parts["steps"], count if positions is None else positions)
        with np.errstate(over="ignore"):  # infinity is for the aggregator to name
            return np.asarray((levels * steps).astype(self.dtype))

    def _levels(self, count: int) -> Array:
        if "levels8" in self.parts:
            levels = self.parts["levels8"]
            if levels.size != count or (levels.size and levels.min() < -127):  # noqa: PLR2004 - 2^7 − 1
                raise self.flaw(f"has {levels.size} levels for {count} positions, or one of −128")
            return levels
        packed = self.parts["levels4"]
        nibbles = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)
        if packed.size != -(-count // 2) or not nibbles.all() or (count % 2 and nibbles[-1] != _CENTRE):
            raise self.flaw(f"has {nibbles.size} levels for {count} positions, or one of −8")
        return nibbles[:count].astype(np.int8) - np.int8(_CENTRE)
