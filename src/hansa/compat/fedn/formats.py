"""Model files of FEDn's helpers, in and out: what travels is a list of tensors, whose names its clients never learn.

The order is that of the model's tensors. A file is read against the model that it was trained from, so that it says the
same whichever helper wrote it; nothing in it is ever unpickled.

| helper       | bytes                                                                             |
|--------------|-----------------------------------------------------------------------------------|
| numpyhelper  | a zip of the members 0.npy, 1.npy …, deflated or stored; written stored            |
| binaryhelper | all tensors after another, flat, as little-endian float64                          |
| androidhelper| the same as float32                                                                |

Others are plug-ins of the group `hansa.fedn_helpers`.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final

import numpy as np

from hansa.arrays import Array, Arrays, is_floating
from hansa.errors import InputError
from hansa.run import names, plugin

__all__ = [
    "NUMPY",
    "Helper",
    "helper_names",
    "helper_of",
    "read_model",
    "read_named",
    "read_one",
    "read_update",
    "write_model",
    "write_one",
]

NUMPY: Final = "numpyhelper"
"""The helper of who names none."""

_GROUP: Final = "hansa.fedn_helpers"
_SLACK: Final = 1 << 16
"""Bytes that the members' headers may add to a file."""
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Helper:
    """How a list of tensors is a file. Made by a plug-in's factory without arguments."""

    save: Callable[[Iterable[Array], IO[bytes]], None]
    """(tensors, file that is open for writing)."""
    load: Callable[[IO[bytes], int], Iterable[Array]]
    """(file that can be sought in, the most bytes that its tensors may have) → tensors, one after another.

    Raises `InputError` for what is no such file.
    """


def helper_names() -> list[str]:
    """Of those that are installed."""
    return names(_GROUP)


def helper_of(name: str) -> Helper:
    """The helper of this name; raises `ConfigError` that lists those there are."""
    made: Helper = plugin(_GROUP, name)()
    return made


def write_model(model: Arrays, helper: Helper, file: IO[bytes]) -> None:
    """Write the file that clients are given. bfloat16, which numpy's own files cannot name, goes out as float32."""
    helper.save(map(_portable, model.values()), file)


def read_model(file: IO[bytes], helper: Helper, limit: int) -> Arrays:
    """A model that somebody uploads: its tensors are called by their places, from "0". limit: bytes of all tensors."""
    read = Arrays({str(place): array for place, array in enumerate(helper.load(file, limit))})
    if not read.nbytes:
        raise InputError("the file holds no number: it is no model")
    return read


def read_update(file: IO[bytes], helper: Helper, model: Arrays) -> Arrays:
    """A model that a client has trained from this one: the same names, shapes and dtypes. Raises `InputError`."""
    expected = list(model.values())
    limit = max(1, sum(array.size for array in expected)) * np.dtype(np.float64).itemsize
    loaded = list(helper.load(file, limit))
    if len(loaded) == 1 and loaded[0].ndim == 1 and (len(expected) != 1 or expected[0].shape != loaded[0].shape):
        loaded = _split(loaded[0], expected)
    if len(loaded) != len(expected):
        raise InputError(f"the file holds {len(loaded)} tensors, and the model has {len(expected)}: return all of them")
    return Arrays({name: _as(name, loaded.pop(0), like) for name, like in model.items()})


def write_one(file: IO[bytes], name: str, array: Array) -> None:
    """What a client is given of gradients, as FEDn's splitlearninghelper writes them: by its own id, and no other's."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _put(archive, name, array)


def read_one(file: IO[bytes], limit: int) -> Array:
    """The one array of such a file, whatever it is called; raises `InputError`. limit: bytes."""
    with _archive(file, limit) as archive:
        members = archive.infolist()
        if len(members) != 1:
            raise InputError(f"the file holds {len(members)} arrays: one is wanted, that of the client itself")
        with archive.open(members[0]) as member:
            return _npy(member, members[0].file_size)


def read_named(file: IO[bytes], limit: int) -> dict[str, Array]:
    """The arrays of a file of `numpy.savez`, by name; raises `InputError`. limit: bytes."""
    found: dict[str, Array] = {}
    with _archive(file, limit) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                found[info.filename.removesuffix(".npy")] = _npy(member, info.file_size)
    return found


# ── the three helpers ────────────────────────────────────────────────────────────────────────────────────────────────


def numpy_helper() -> Helper:
    """A zip of .npy files."""
    return Helper(_save_zip, _load_zip)


def binary_helper() -> Helper:
    """Flat float64."""
    return _flat(np.dtype("<f8"))


def android_helper() -> Helper:
    """Flat float32."""
    return _flat(np.dtype("<f4"))


def _save_zip(tensors: Iterable[Array], file: IO[bytes]) -> None:
    """As `numpy.savez`, with one tensor in memory at a time."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for place, tensor in enumerate(tensors):
            _put(archive, str(place), np.asarray(tensor))


def _put(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _load_zip(file: IO[bytes], limit: int) -> Iterator[Array]:
    with _archive(file, limit) as archive:
        members = {each.filename: each for each in archive.infolist()}
        wanted = [f"{place}.npy" for place in range(len(members))]
        if set(members) != set(wanted) or len(members) != len(archive.infolist()):
            raise InputError("the file is no list of tensors: its members must be 0.npy, 1.npy … without a gap")
        for name in wanted:
            with archive.open(name) as member:
                yield _npy(member, members[name].file_size)


@contextmanager
def _archive(file: IO[bytes], limit: int) -> Iterator[zipfile.ZipFile]:
    """Sizes are those that the directory states: zipfile reads no more than that of a member."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if sum(each.file_size for each in members) > limit + _SLACK + 128 * len(members):
                raise InputError(f"the file unpacks to more than the {limit:,} bytes that it may hold")
            yield archive
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"the file is no .npz of numbers ({error}): write it with numpy.savez") from error


def _npy(member: IO[bytes], size: int) -> Array:
    """Raises `ValueError` for a header that claims more than is there, before anything of that size is made."""
    version = np.lib.format.read_magic(member)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = read_header(member)
    left = size - member.tell()
    if dtype.hasobject or dtype.kind not in "biufc" or math.prod(shape) * dtype.itemsize != left:
        raise ValueError(f"a header claims the shape {shape} of {dtype}, and {left} bytes follow")
    array: Array = np.empty(shape[::-1] if by_column else shape, dtype)
    _fill(array, member)
    array = array.transpose() if by_column else array
    return array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.byteorder == ">" else array


def _fill(array: Array, file: IO[bytes]) -> None:
    """Read it in pieces, straight to where they belong; raises `EOFError`."""
    if not array.nbytes:
        return
    into, at = array.reshape(-1).view(np.uint8).data, 0
    while at < len(into):
        piece = file.read(min(_PIECE, len(into) - at))
        if not piece:
            raise EOFError(f"a tensor ends after {at:,} of {len(into):,} bytes")
        into[at : at + len(piece)] = piece
        at += len(piece)


def _flat(dtype: np.dtype[Any]) -> Helper:
    def save(tensors: Iterable[Array], file: IO[bytes]) -> None:
        for tensor in tensors:
            file.write(np.ascontiguousarray(tensor, dtype).data)

    def load(file: IO[bytes], limit: int) -> Iterator[Array]:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size % dtype.itemsize:
            raise InputError(f"{size} bytes are no whole number of {dtype.name}")
        if size > limit:
            raise InputError(f"the file holds {size:,} bytes, more than the {limit:,} that it may")
        array: Array = np.empty(size // dtype.itemsize, dtype)
        _fill(array, file)
        yield array

    return Helper(save, load)


# ── against the model ────────────────────────────────────────────────────────────────────────────────────────────────


def _portable(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _split(flat: Array, expected: Sequence[Array]) -> list[Array]:
    """One long tensor as those of the model; one of another length stays as it is, for the error."""
    sizes = [array.size for array in expected]
    if flat.size != sum(sizes):
        raise InputError(f"the file holds {flat.size:,} numbers, and the model has {sum(sizes):,}: return all of them")
    ends = np.cumsum(sizes)[:-1]
    return [part.reshape(like.shape) for part, like in zip(np.split(flat, ends), expected, strict=True)]


def _as(name: str, tensor: Array, like: Array) -> Array:
    """With the model's dtype: between floating dtypes by rounding, else where it says the same number."""
    if tensor.shape != like.shape and tensor.size == like.size == math.prod(tensor.shape) and tensor.ndim <= 1:
        tensor = tensor.reshape(like.shape)
    if tensor.shape != like.shape:
        raise InputError(f"tensor {name} has the shape {tensor.shape}, and the model's has {like.shape}")
    if tensor.dtype == like.dtype:
        return tensor
    if tensor.dtype.kind not in "biuf" and not is_floating(tensor):
        raise InputError(f"tensor {name} is of {tensor.dtype}, and the model's of {like.dtype}: return numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = tensor.astype(like.dtype)
        if not is_floating(like) and not np.array_equal(cast, tensor):
            raise InputError(f"tensor {name} is of {tensor.dtype}, and the model's whole numbers of {like.dtype}")
    return cast
