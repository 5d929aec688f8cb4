"""Weights as bytes: canonical safetensors, written and read without copying a tensor.

A file is the header's length (8 bytes, little-endian), the header (JSON, padded with spaces to a multiple of 8) and the
tensors, one after the other. Canonical means: the order of the `Arrays`, no holes, no metadata, so that equal arrays
are equal bytes and `digest` is their content address. Every safetensors reader reads it; files of other writers, with
metadata or in another order, are read too, their tensors in the order of their bytes. Format:
https://huggingface.co/docs/safetensors

Nothing is trusted: lengths, names, dtypes, shapes and offsets are checked before a number is looked at, and what is
kept in memory while checking is bounded by the limits below, whatever a header claims.
"""

import json
import math
import mmap
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
from blake3 import blake3

from hansa.algorithm import Partial
from hansa.arrays import DTYPES, Array, Arrays, delta_dtype
from hansa.errors import InputError, Reason, UpdateRejectedError, WireError
from hansa.messages import Contribution

__all__ = [
    "MAX_DIMENSIONS",
    "MAX_HEADER",
    "MAX_NAME",
    "MAX_TENSORS",
    "Buffer",
    "Header",
    "Tensor",
    "decode",
    "decode_partial",
    "digest",
    "encode",
    "encode_partial",
    "load",
    "read_header",
    "save",
    "size",
    "update_limit",
    "write",
]

MAX_HEADER: Final = 8 * 1024 * 1024
"""Bytes of JSON."""
MAX_TENSORS: Final = 65_536
MAX_NAME: Final = 1024
"""Bytes of a tensor's name in UTF-8."""
MAX_DIMENSIONS: Final = 32

_MAX_NODES: Final = 16 * MAX_TENSORS
"""JSON values of a header: bounds what parsing can allocate, at about 64 bytes each."""
_ALIGNMENT: Final = 8
_PREFIX: Final = 8
_METADATA: Final = "__metadata__"
_ENTRY: Final = frozenset({"dtype", "shape", "data_offsets"})
_CODES: Final[Mapping[np.dtype[Any], str]] = {dtype: code for code, dtype in DTYPES.items()}
_OF_PARTIALS: Final = frozenset({DTYPES["I64"], DTYPES["U8"]})
"""Sums, and rows of bytes; which of them it must be, the aggregator knows."""
_FOREIGN_SLACK: Final = 4096
"""Header bytes that another writer of an update may spend beyond twice ours."""

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap.mmap
"""Contiguous bytes."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a header says of one tensor, after all checks."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    """Offset of its first byte from the start of the data."""
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header."""

    tensors: Mapping[str, Tensor]
    """In the order of their bytes, which follow each other without a hole."""
    metadata: Mapping[str, str]
    """Of another writer; ours writes none, and nothing reads it."""
    data: int
    """Offset of the first tensor's first byte."""
    size: int
    """Bytes of the whole file."""


def encode(arrays: Arrays, metadata: Mapping[str, str] | None = None) -> list[bytes | memoryview]:
    """The file in parts: the header, then each tensor's own memory (not a copy). Raises `InputError` beyond a limit.

    metadata: of files that are no models (`wire.packing`).
    """
    bodies = [array.reshape(-1).view(np.uint8).data for array in arrays.values() if array.size]
    return [_header(arrays, metadata), *bodies]


def size(arrays: Arrays) -> int:
    """Bytes of the file."""
    return len(_header(arrays)) + arrays.nbytes


def digest(arrays: Arrays) -> str:
    """The content address: blake3 of the file's bytes, 64 hexadecimal digits."""
    hasher = blake3()
    for part in encode(arrays):
        hasher.update(part)
    return hasher.hexdigest()


def decode(buffer: Buffer, template: Arrays | None = None) -> Arrays:
    """The tensors, as views of `buffer` where they are aligned. Raises `WireError`.

    template: the model that was broadcast, when the bytes are an update of it. Then names, order, shapes and the
    dtypes of a change must fit, and whatever is wrong raises `UpdateRejectedError` (MALFORMED, TOO_LARGE or STRUCTURE).
    """
    if template is None:
        return Arrays(_tensors(buffer, read_header(buffer)))
    try:
        _check_length(buffer, update_limit(template))
        header = read_header(buffer)
        _check_template(header, template)
        return Arrays(_tensors(buffer, header))
    except WireError as error:
        raise UpdateRejectedError(Reason.MALFORMED, str(error)) from error


def read_header(buffer: Buffer) -> Header:
    """Check everything that can be checked without reading a number of a tensor. Raises `WireError`."""
    view = memoryview(buffer)
    total = view.nbytes
    if total < _PREFIX:
        raise WireError(f"{total} bytes are too few for a safetensors file")
    length = int.from_bytes(view[:_PREFIX], "little")
    if length > min(MAX_HEADER, total - _PREFIX):
        raise WireError(
            f"the header claims {length} bytes, but the file has {total} and a header may have {MAX_HEADER}"
        )
    entries = _parse(bytes(view[_PREFIX : _PREFIX + length]))
    metadata = _metadata(entries.pop(_METADATA, {}))
    if len(entries) > MAX_TENSORS:
        raise WireError(f"{len(entries)} tensors are more than the {MAX_TENSORS} that a file may have")
    tensors = {name: _tensor(name, entry) for name, entry in entries.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    data = _PREFIX + length
    _check_contiguous(ordered, total - data)
    return Header(MappingProxyType(ordered), metadata, data, total)


def update_limit(template: Arrays) -> int:
    """The most bytes that an update of the template, or a partial sum of such updates, may have.

    A partial that keeps updates has at most so many for each.
    """
    header = len(_header(template))
    tensors = sum(array.size * max(delta_dtype(array.dtype).itemsize, 8) for array in template.values())
    return tensors + 2 * header + _FOREIGN_SLACK


def encode_partial(partial: Partial) -> list[bytes | memoryview]:
    """The sums of a partial, or its rows by client; its weight and contributions travel in the `Offer`."""
    return encode(Arrays(partial.sums))


def decode_partial(buffer: Buffer, contributions: Sequence[Contribution], weight: int) -> Partial:
    """A partial that owns its sums: views of `buffer` where that is writable, else copies.

    Raises `UpdateRejectedError` (MALFORMED, STRUCTURE or DUPLICATE); that the weight is the contributors' and that the
    sums fit the model is for `Aggregator.merge` to check.
    """
    try:
        sums = _tensors(buffer, read_header(buffer))
    except WireError as error:
        raise UpdateRejectedError(Reason.MALFORMED, f"a partial sum: {error}") from error
    for name, array in sums.items():
        if array.dtype not in _OF_PARTIALS:
            raise UpdateRejectedError(Reason.STRUCTURE, f"a partial sum of {name!r} is {array.dtype}, not int64")
    by_client = {contribution.client: contribution for contribution in contributions}
    if len(by_client) != len(contributions):
        raise UpdateRejectedError(Reason.DUPLICATE, "a partial sum names a client twice")
    owned = {name: array if array.flags.writeable else array.copy() for name, array in sums.items()}
    return Partial(owned, weight, by_client)


def save(arrays: Arrays, path: str | Path) -> None:
    """`write` a file of `encode`."""
    write(encode(arrays), path)


def write(parts: Sequence[bytes | memoryview], path: str | Path) -> None:
    """Write a file at once and through to the disk: it is there whole or not at all, in place of an older one.

    Its name is as durable as its directory, which is the caller's affair.
    """
    target = Path(path)
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with unfinished.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: str | Path) -> Arrays:
    """The tensors of a file, mapped into memory: pages are read when they are used, and the file must not be cut.

    Raises `InputError` when it cannot be opened, `WireError` when it is not a safetensors file.
    """
    try:
        with Path(path).open("rb") as file:
            empty = file.seek(0, 2) == 0
            mapped: Buffer = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return decode(mapped)
    except WireError as error:
        raise WireError(f"{path} is not a safetensors file that can be read: {error}") from error


def _header(arrays: Arrays, metadata: Mapping[str, str] | None = None) -> bytes:
    """Prefix and padded JSON."""
    entries: dict[str, object] = {}
    position = 0
    for name, array in arrays.items():
        end = position + array.nbytes
        code = _CODES[array.dtype]
        entries[name] = {"dtype": code, "shape": array.shape, "data_offsets": (position, end)}
        position = end
        if array.ndim > MAX_DIMENSIONS:
            raise InputError(f"tensor {name!r} has {array.ndim} dimensions, more than {MAX_DIMENSIONS} do not travel")
    _check_names(entries)
    if metadata:
        entries = {_METADATA: metadata, **entries}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    padded = text + b" " * (-(_PREFIX + len(text)) % _ALIGNMENT)
    if len(padded) > MAX_HEADER or len(entries) > MAX_TENSORS:
        raise InputError(
            f"{len(entries)} tensors with a header of {len(padded)} bytes are too many: "
            f"{MAX_TENSORS} tensors and {MAX_HEADER} bytes travel; merge small tensors or shorten their names"
        )
    return len(padded).to_bytes(_PREFIX, "little") + padded


def _check_names(names: Mapping[str, object]) -> None:
    if _METADATA in names:
        raise InputError(f"a tensor may not be called {_METADATA!r}: safetensors keeps that name for itself")
    for name in names:
        if not _is_name(name):
            raise InputError(f"the tensor name {name[:40]!r} is not UTF-8 text of at most {MAX_NAME} bytes")


def _is_name(name: str) -> bool:
    if not name or len(name) > MAX_NAME:
        return False
    if name.isascii():
        return True
    try:
        return len(name.encode()) <= MAX_NAME
    except UnicodeEncodeError:  # half of a surrogate pair, which no other reader takes
        return False


def _parse(text: bytes) -> dict[str, Any]:
    """The header's JSON object; its values are not checked yet."""
    if not text.startswith(b"{"):
        raise WireError("a safetensors header must begin with '{'")
    if text.count(b",") + text.count(b"[") + text.count(b"{") > _MAX_NODES:
        raise WireError(f"a header of more than {_MAX_NODES} values is not read")
    try:
        parsed = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the header is not JSON: {str(error)[:200]}") from error
    if not isinstance(parsed, dict):  # pragma: no cover - a text that begins with { is an object or no JSON
        raise WireError("the header is not a JSON object")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise WireError(f"the header has the name {twice[:40]!r} twice")
    return unique


def _metadata(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise WireError(f"the header's {_METADATA!r} is not a mapping of text to text")
    return MappingProxyType(value)


def _tensor(name: str, entry: object) -> Tensor:
    """One entry of the header, checked by itself."""
    if not _is_name(name):
        raise WireError(f"the tensor name {name[:40]!r} is not UTF-8 text of 1 to {MAX_NAME} bytes")
    if not isinstance(entry, dict) or entry.keys() != _ENTRY:
        raise WireError(f"the header's entry of {name!r} must have dtype, shape and data_offsets, and nothing else")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise WireError(f"tensor {name!r} has the dtype {str(code)[:20]!r}; known are {', '.join(DTYPES)}")
    if not _whole_numbers(shape) or len(shape) > MAX_DIMENSIONS:
        raise WireError(f"tensor {name!r} has no usable shape: {str(shape)[:60]}")
    if not _whole_numbers(offsets) or len(offsets) != 2:  # noqa: PLR2004 - begin and end
        raise WireError(f"tensor {name!r} has no usable data_offsets: {str(offsets)[:60]}")
    if math.prod(filter(None, shape)) * dtype.itemsize >= 2**63:
        raise WireError(f"tensor {name!r} has a shape beyond 2^63 bytes: {str(shape)[:60]}")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise WireError(f"tensor {name!r} has {end - begin} bytes, but {code}{shape} needs another number")
    return Tensor(dtype, tuple(shape), begin, end)


def _whole_numbers(values: object) -> bool:
    """Whether it is a list of integers from 0 to 2^63 - 1 (True is no integer here)."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_contiguous(ordered: Mapping[str, Tensor], available: int) -> None:
    position = 0
    for name, tensor in ordered.items():
        if tensor.begin != position:
            flaw = "overlaps the tensor before it" if tensor.begin < position else "leaves a hole before it"
            raise WireError(f"tensor {name!r} begins at {tensor.begin}, not {position}: it {flaw}")
        position = tensor.end
    if position != available:
        flaw = "is cut short" if position > available else "has bytes after its last tensor"
        raise WireError(f"the file {flaw}: its tensors have {position} bytes, {available} are there")


def _check_length(buffer: Buffer, limit: int) -> None:
    length = memoryview(buffer).nbytes
    if length > limit:
        raise UpdateRejectedError(
            Reason.TOO_LARGE, f"{length} bytes are more than the {limit} that the model accounts for"
        )


def _check_template(header: Header, template: Arrays) -> None:
    if list(header.tensors) != list(template):
        unknown = [name for name in header.tensors if name not in template]
        missing = [name for name in template if name not in header.tensors]
        raise UpdateRejectedError(
            Reason.STRUCTURE,
            f"the tensors are not the model's in the model's order: unknown {unknown[:3]}, missing {missing[:3]}",
        )
    for (name, tensor), array in zip(header.tensors.items(), template.values(), strict=True):
        dtype = delta_dtype(array.dtype)
        if tensor.shape != array.shape or tensor.dtype != dtype:
            raise UpdateRejectedError(
                Reason.STRUCTURE,
                f"{name!r} is {tensor.dtype}{list(tensor.shape)}, but the change of this model's tensor is "
                f"{dtype}{list(array.shape)}",
            )


def _tensors(buffer: Buffer, header: Header) -> dict[str, Array]:
    """Each tensor as a view of the buffer (writable where that is), or as a writable copy where it is not aligned."""
    arrays: dict[str, Array] = {}
    for name, tensor in header.tensors.items():
        count = (tensor.end - tensor.begin) // tensor.dtype.itemsize
        if count == 0:
            arrays[name] = np.empty(tensor.shape, tensor.dtype)
            continue
        flat: Array = np.frombuffer(buffer, tensor.dtype, count, header.data + tensor.begin)
        if tensor.dtype == np.bool_ and flat.view(np.uint8).max() > 1:
            raise WireError(f"tensor {name!r} is boolean, but holds a byte other than 0 and 1")
        array = flat.reshape(tensor.shape)
        arrays[name] = array if array.flags.aligned else array.copy()
    return arrays
