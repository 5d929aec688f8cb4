"""Records and results as JSON and back: the server writes with one half, the client reads with the other.

A number that is NaN or infinite becomes null, and a null where a number must be comes back as NaN. The reader leaves
out fields that it does not know, so that a client understands a newer server.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Final, TypeVar, Union, cast, get_args, get_origin

from hansa.errors import WireError
from hansa.messages import RunSpec
from hansa.store.documents import decode_value, spec_to_json

__all__ = ["from_document", "record_document", "to_document"]

T = TypeVar("T")
_VALUES: Final = frozenset({"aggregator_options", "algorithm_options", "config", "options"})
"""Fields of a specification that hold values of any kind, with marks for those that JSON lacks."""


def to_document(value: Any) -> Any:
    """A record, a result or a value as plain JSON."""
    match value:
        case RunSpec():
            document: Any = spec_to_json(value)
        case Enum():
            document = value.value
        case float():
            document = value if math.isfinite(value) else None
        case Mapping():
            document = {str(key): to_document(item) for key, item in value.items()}
        case list() | tuple():
            document = [to_document(item) for item in value]
        case _ if is_dataclass(value):
            document = {field.name: to_document(getattr(value, field.name)) for field in fields(value)}
        case _:
            document = value
    return document


def record_document(record: Any) -> dict[str, Any]:
    """A record or a result as a JSON object."""
    document: dict[str, Any] = to_document(record)
    return document


def from_document(kind: type[T], document: Any) -> T:
    """The record or result of a JSON object; raises `WireError`, naming the field, for what cannot be one."""
    if not isinstance(document, Mapping):
        raise WireError(f"the server's answer should hold a {kind.__name__}, but holds {str(document)[:80]!r}")
    known = _hints(cast("Any", kind))
    try:
        given = {name: _value(known[name], document[name], name) for name in known if name in document}
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise WireError(
            f"the server's {kind.__name__} cannot be read ({error}): client and server are too far apart in version"
        ) from error


@lru_cache(maxsize=64)
def _hints(kind: type[Any]) -> Mapping[str, Any]:
    return {field.name: field.type for field in fields(kind)}


def _value(hint: Any, value: Any, name: str) -> Any:
    origin = get_origin(hint)
    read: Any = value
    if origin in (Union, types.UnionType):
        inner = [part for part in get_args(hint) if part is not types.NoneType]
        read = None if value is None or len(inner) != 1 else _value(inner[0], value, name)
    elif origin is tuple:
        read = tuple(_value(get_args(hint)[0], item, name) for item in value)
    elif origin is Mapping and get_args(hint)[1] is float:
        read = {key: _number(item) for key, item in value.items()}
    elif origin is Mapping:
        read = decode_value(value) if name in _VALUES else value
    elif hint is float:
        read = _number(value)
    elif isinstance(hint, type) and issubclass(hint, Enum):
        read = _member(hint, value)
    elif is_dataclass(hint):
        read = from_document(cast("type[Any]", hint), value)
    return read


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _member(kind: type[Enum], value: Any) -> Any:
    """The member; a value that only a newer server knows stays what it is."""
    try:
        return kind(value)
    except ValueError:
        return value
