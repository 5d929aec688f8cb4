"""Records to rows and back, each value with its type.

JSON columns hold what `encode_value` makes of a mapping, because JSON has no tuple, NaN or infinity:

| value                                  | JSON                                |
|----------------------------------------|-------------------------------------|
| null, true, 7, 7.0, "text", list       | itself                              |
| NaN, infinity, −infinity               | {"$float": "nan"} ("inf", "-inf")   |
| tuple                                  | {"$tuple": […]}                     |
| mapping                                | itself; {"$mapping": {…}} where a key begins with "$" |
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from enum import Enum
from functools import partial
from typing import Any, Final, TypeVar, cast

from sqlalchemy import RowMapping

from hansa.errors import InputError, StorageError
from hansa.messages import EvaluationRules, RoundRules, RunSpec
from hansa.store.records import EventRecord, Record
from hansa.store.schema import TABLES, RecordType, field_types

__all__ = ["decode_value", "encode_value", "from_row", "spec_from_json", "spec_to_json", "to_row"]

R = TypeVar("R", bound=Record)
_NESTED: Final[Mapping[str, type]] = {"rules": RoundRules, "evaluation": EvaluationRules}
_LARGEST: Final = 2**63


def to_row(record: Record) -> dict[str, Any]:
    """Column → value. Raise `InputError` for a value that a database cannot keep."""
    kind = type(record)
    return {name: encode(getattr(record, name)) for name, encode in _ENCODERS[kind]}


def from_row(kind: type[R], row: Mapping[str, Any] | RowMapping) -> R:
    """The record of a row. Raise `StorageError` for one that a newer hansa wrote, or that cannot be read."""
    try:
        return kind(**{name: decode(row[name]) for name, decode in _DECODERS[kind]})
    except (ValueError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{TABLES[kind].name} row {row['id']!r} holds a value that this version of hansa does not know "
            f"({error}); use the version that wrote it, or a newer one"
        ) from error


def _encoders(kind: RecordType) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    table = TABLES[kind]
    return tuple(
        (name, _encoder(f"{table.name}.{name}", plain, nullable=bool(table.c[name].nullable)))
        for name, (plain, _) in field_types(kind).items()
        if not (kind is EventRecord and name == "id")
    )


def _decoders(kind: RecordType) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    return tuple((name, _decoder(plain, optional=optional)) for name, (plain, optional) in field_types(kind).items())


def _encoder(where: str, plain: type, *, nullable: bool) -> Callable[[Any], Any]:
    if plain is RunSpec:
        return spec_to_json
    if plain is dict:
        return partial(encode_value, where=where)
    if issubclass(plain, Enum):
        return lambda member: None if member is None else plain(member).value
    if plain is float:
        return partial(_encode_float, where=where, nullable=nullable)
    if plain is str:
        return partial(_encode_text, where=where)
    return partial(_encode_whole, where=where) if plain is int else lambda value: value


def _decoder(plain: type, *, optional: bool) -> Callable[[Any], Any]:
    if plain is RunSpec:
        return spec_from_json
    if plain is dict:
        return decode_value
    if issubclass(plain, Enum):
        return lambda value: None if value is None else plain(value)
    if plain is float and not optional:
        return lambda value: math.nan if value is None else float(value)
    return lambda value: value


def _encode_float(value: float | None, where: str, *, nullable: bool) -> float | None:
    if value is None:
        return None
    if math.isnan(value):
        if not nullable:
            raise InputError(f"{where} must be a number, not NaN")
        return None
    return float(value)


def _encode_whole(value: int | None, where: str) -> int | None:
    if value is not None and not -_LARGEST <= value < _LARGEST:
        raise InputError(f"{where} = {value} does not fit into 64 bits")
    return None if value is None else int(value)


def _encode_text(value: str | None, where: str) -> str | None:
    if value is not None and ("\0" in value or not value.isascii()):
        return _checked_text(value, where)
    return value


def _checked_text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where} = {value!r} is not valid Unicode, so it cannot be stored") from error
    if "\0" in value:
        raise InputError(f"{where} = {value!r} contains a NUL character, which a database cannot keep")
    return str(value)


def encode_value(value: Any, where: str = "value") -> Any:
    """A `Value` as plain JSON, see the table above. Raise `InputError`, naming the place, for anything else."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _checked_text(value, where)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, list | tuple):
        items = [encode_value(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        return _encoded_mapping(value, where)
    raise InputError(
        f"{where} is a {type(value).__name__}, which cannot be stored; use None, bool, int, float, str, lists and "
        "mappings of these (a numpy number becomes one with .item())"
    )


def _encoded_mapping(mapping: Mapping[Any, Any], where: str) -> dict[str, Any]:
    for key in mapping:
        if not isinstance(key, str):
            raise InputError(f"{where} has the key {key!r}; the keys of a stored mapping must be strings")
        _checked_text(key, where)
    encoded = {str(key): encode_value(item, f"{where}[{key!r}]") for key, item in mapping.items()}
    return {"$mapping": encoded} if any(key.startswith("$") for key in encoded) else encoded


def decode_value(value: Any) -> Any:
    """The value that `encode_value` was given. Raise `ValueError` for a mark of a newer version."""
    if isinstance(value, list):
        return [decode_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$float": str(number)}:
            return float(number)
        case {"$tuple": list(items)}:
            return tuple(decode_value(item) for item in items)
        case {"$mapping": dict(items)}:
            return {key: decode_value(item) for key, item in items.items()}
        case _ if unknown := [key for key in value if key.startswith("$")]:
            raise ValueError(f"unknown mark {unknown[0]!r}")
        case _:
            return {key: decode_value(item) for key, item in value.items()}


def spec_to_json(spec: RunSpec) -> dict[str, Any]:
    """A run's specification as plain JSON; `spec_from_json` gives back an equal one."""
    return _fields_to_json(spec, "spec")


def spec_from_json(document: Mapping[str, Any]) -> RunSpec:
    """The specification of a JSON object; what is absent has its default.

    Raise `StorageError`, naming the field, for one that this version does not know: leaving it out could change the
    result of the run.
    """
    return cast("RunSpec", _fields_from_json(RunSpec, document, "spec"))


def _fields_to_json(value: Any, where: str) -> dict[str, Any]:
    return {
        field.name: (
            _fields_to_json(getattr(value, field.name), f"{where}.{field.name}")
            if field.name in _NESTED
            else encode_value(getattr(value, field.name), f"{where}.{field.name}")
        )
        for field in fields(value)
    }


def _fields_from_json(kind: Any, document: Any, where: str) -> Any:
    if not isinstance(document, Mapping):
        raise StorageError(f"{where} should be a JSON object, but is {document!r}")
    known: dict[str, Field[Any]] = {field.name: field for field in fields(kind)}
    unknown = sorted(document.keys() - known.keys())
    if unknown:
        raise StorageError(
            f"{where} has the field {unknown[0]!r}, which this version of hansa does not know; "
            "it was written by a newer version: upgrade hansa to read it"
        )
    missing = [
        name
        for name, field in known.items()
        if name not in document and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise StorageError(f"{where} lacks the field {missing[0]!r}")
    return kind(
        **{
            name: (
                _fields_from_json(_NESTED[name], value, f"{where}.{name}") if name in _NESTED else decode_value(value)
            )
            for name, value in document.items()
        }
    )


_ENCODERS: Final[Mapping[RecordType, tuple[tuple[str, Callable[[Any], Any]], ...]]] = {k: _encoders(k) for k in TABLES}
_DECODERS: Final[Mapping[RecordType, tuple[tuple[str, Callable[[Any], Any]], ...]]] = {k: _decoders(k) for k in TABLES}
