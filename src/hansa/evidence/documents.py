"""Records as JSON, with every bit, and back: what is read comes from a stranger, and is checked field by field."""

import types
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin

from hansa.errors import CorruptionError, InputError, StorageError
from hansa.messages import RunSpec
from hansa.store.documents import checked_text, decode_value, encode_value, spec_from_json, spec_to_json

__all__ = ["from_json", "to_json"]

T = TypeVar("T")


def to_json(record: Any) -> dict[str, Any]:
    """A record as a JSON object."""
    return {field.name: _written(getattr(record, field.name)) for field in fields(record)}


def from_json(kind: type[T], document: Any) -> T:
    """The record of a JSON object. Raises `CorruptionError` that names the field which is not what it should be.

    A bundle of an older hansa lacks the fields that came after it, which may all be None.
    """
    known = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    optional = {field.name for field in fields(kind) if field.default is None}  # type: ignore[arg-type]  # as above
    if not isinstance(document, dict) or not known.keys() - optional <= document.keys() <= known.keys():
        raise CorruptionError(f"the bundle holds no {kind.__name__} where one should be: was it cut, or made newer?")
    try:
        return kind(**{name: _read(known[name], value) for name, value in document.items()})
    except (ValueError, TypeError, AttributeError, InputError, StorageError, RecursionError) as error:
        raise CorruptionError(f"a {kind.__name__} of the bundle cannot be read: {error}") from error


def _written(value: Any) -> Any:
    if isinstance(value, RunSpec):
        return spec_to_json(value)
    if isinstance(value, Enum):
        return value.value
    return encode_value(value)


def _read(hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = next(part for part in get_args(hint) if part is not types.NoneType)
        return None if value is None else _read(inner, value)
    if hint is RunSpec:
        return spec_from_json(value)
    if origin is Mapping:
        return _mapping(value, numbers=get_args(hint)[1] is float)
    if issubclass(hint, Enum):
        return hint(value)
    read = _fitting(decode_value(value))
    if type(read) is not hint and not (hint is float and type(read) is int):
        raise ValueError(f"{str(value)[:80]!r} is no {hint.__name__}")
    return float(read) if hint is float else read


def _fitting(value: Any) -> Any:
    """The value, where a database could have kept it: whole numbers of 64 bits, and text that is Unicode."""
    match value:
        case int() if not -(2**63) <= value < 2**63:
            raise ValueError("a whole number does not fit into 64 bits")
        case str():
            checked_text(value, "a text")
        case dict():
            for each in (*value, *value.values()):
                _fitting(each)
        case list() | tuple():
            for each in value:
                _fitting(each)
        case _:
            pass
    return value


def _mapping(value: Any, *, numbers: bool) -> Any:
    read = _fitting(decode_value(value))
    if not isinstance(read, dict) or (numbers and not all(type(number) is float for number in read.values())):
        raise ValueError(f"{str(value)[:80]!r} is no mapping of that kind")
    return read
