"""Records to rows and back, each value with its type.

JSON columns hold what `hansa.store.documents` makes of a mapping or a specification.
"""

import math
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import RowMapping

from hansa.errors import InputError, StorageError
from hansa.messages import RunSpec
from hansa.store.documents import checked_text, decode_value, encode_value, spec_from_json, spec_to_json
from hansa.store.records import EventRecord, Record
from hansa.store.schema import TABLES, RecordType, field_types

__all__ = ["decode_value", "encode_value", "from_row", "spec_from_json", "spec_to_json", "to_row"]

R = TypeVar("R", bound=Record)
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
        return checked_text(value, where)
    return value


_ENCODERS: Final[Mapping[RecordType, tuple[tuple[str, Callable[[Any], Any]], ...]]] = {k: _encoders(k) for k in TABLES}
_DECODERS: Final[Mapping[RecordType, tuple[tuple[str, Callable[[Any], Any]], ...]]] = {k: _decoders(k) for k in TABLES}
