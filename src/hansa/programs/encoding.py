"""Messages as bytes: the name, then a canonical safetensors file of the fields. Nothing is pickled, no class is named.

| field          | tensor                                             |
|----------------|----------------------------------------------------|
| `bool`         | `field`, BOOL, shape ()                            |
| `int`          | `field`, I64, shape ()                             |
| `float`        | `field`, F64, shape ()                             |
| `str`          | `field`, U8, its UTF-8                             |
| ndarray        | `field`, as it is                                  |
| `Arrays`       | `field/name` for each tensor, in their order       |

The name is preceded by its length (one byte) and padded with NUL to a multiple of 8 bytes, so that tensors are aligned.
"""

from typing import Any, Final

import numpy as np

from hansa.arrays import DTYPES, Array, Arrays
from hansa.errors import InputError, WireError
from hansa.protocols.message import Schema, schema_named, schema_of
from hansa.wire import codec

__all__ = ["decode", "encode", "head", "named"]

_ALIGNMENT: Final = 8
_OTHERS: Final = "; if its sender runs another version of hansa, or of the app, let all parties run the same"
"""What is mostly the reason."""
_SCALARS: Final = {bool: DTYPES["BOOL"], int: DTYPES["I64"], float: DTYPES["F64"]}


def encode(message: Any) -> bytes:
    """The bytes of a registered message; raises `InputError` that names the field which does not fit its type."""
    schema = schema_of(type(message))
    tensors: dict[str, Array] = {}
    for field, kind in schema.fields.items():
        tensors |= _written(schema, field, kind, getattr(message, field))
    return b"".join([head(schema.name), *codec.encode(Arrays(tensors))])


def decode(frame: bytes | memoryview) -> Any:
    """The message of these bytes; raises `WireError` unless it is registered here and has the fields of its schema."""
    name, tensors = named(frame)
    schema = schema_named(name)
    if schema is None:
        raise WireError(
            f"a message {name!r} has arrived, for which no class is registered here: import its module{_OTHERS}"
        )
    arrays = codec.decode(tensors)
    rest = dict(arrays)
    values = {field: _read(schema, field, kind, rest) for field, kind in schema.fields.items()}
    if rest:
        raise WireError(f"a message {name!r} has arrived with the unknown field {next(iter(rest))!r}{_OTHERS}")
    return schema.kind(**values)


def head(name: str) -> bytes:
    """What precedes the tensors of a message of this name."""
    written = bytes([len(name)]) + name.encode()
    return written.ljust(_aligned(len(written)), b"\0")


def named(frame: bytes | memoryview) -> tuple[str, memoryview]:
    """The name of a message and the safetensors file of its fields, neither of them checked."""
    length = frame[0] if frame else 0
    name = bytes(frame[1 : 1 + length]).decode("ascii", errors="replace")
    return name, memoryview(frame)[_aligned(1 + length) :]


def _written(schema: Schema, field: str, kind: type[Any], value: Any) -> dict[str, Array]:
    where = f"{schema.kind.__name__}.{field}"
    if kind is Arrays:
        if not isinstance(value, Arrays):
            raise InputError(f"{where} is a {type(value).__name__}, not Arrays")
        return {f"{field}/{name}": array for name, array in value.items()}
    if kind is np.ndarray:
        if not isinstance(value, np.ndarray):
            raise InputError(f"{where} is a {type(value).__name__}, not an ndarray")
        return {field: value}
    if kind is str:
        return {field: np.frombuffer(_text(where, value), np.uint8)}
    accepted = {bool: (bool, np.bool_), int: (int, np.integer), float: (float, int, np.floating, np.integer)}[kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where} is {value!r}, a {type(value).__name__}, not a {kind.__name__}")
    try:
        return {field: np.asarray(value, _SCALARS[kind])}
    except OverflowError as error:
        raise InputError(f"{where} is {value}: only numbers of 64 bits travel") from error


def _text(where: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise InputError(f"{where} is a {type(value).__name__}, not a str")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where} cannot be sent as UTF-8: {error}") from error


def _read(schema: Schema, field: str, kind: type[Any], rest: dict[str, Array]) -> Any:
    """The value of one field, whose tensors are taken from `rest`."""
    if kind is Arrays:
        prefix = f"{field}/"
        if prefix in rest:
            raise WireError(f"the field {field!r} of a message {schema.name!r} has a tensor without a name")
        return Arrays({name.removeprefix(prefix): rest.pop(name) for name in list(rest) if name.startswith(prefix)})
    array = rest.pop(field, None)
    if array is None:
        raise WireError(f"a message {schema.name!r} has arrived without its field {field!r}{_OTHERS}")
    if kind is np.ndarray:
        return array
    expected, shape = (DTYPES["U8"], array.shape[:1]) if kind is str else (_SCALARS[kind], ())
    if array.dtype != expected or array.shape != shape:
        raise WireError(
            f"the field {field!r} of a message {schema.name!r} is {array.dtype}{list(array.shape)}, not {kind.__name__}"
        )
    if kind is not str:
        return array.item()
    try:
        return array.tobytes().decode()
    except UnicodeDecodeError as error:
        raise WireError(f"the field {field!r} of a message {schema.name!r} is not UTF-8: {error}") from error


def _aligned(length: int) -> int:
    return length + -length % _ALIGNMENT
