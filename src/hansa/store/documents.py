"""Values and specifications as plain JSON and back, each with its type: for the database and for the REST API.

`encode_value` marks what JSON lacks: a tuple, NaN, infinity.

| value                                  | JSON                                |
|----------------------------------------|-------------------------------------|
| null, true, 7, 7.0, "text", list       | itself                              |
| NaN, infinity, −infinity               | {"$float": "nan"} ("inf", "-inf")   |
| tuple                                  | {"$tuple": […]}                     |
| mapping                                | itself; {"$mapping": {…}} where a key begins with "$" |
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, Final, cast

from hansa.errors import InputError, StorageError
from hansa.messages import EvaluationRules, RoundRules, RunSpec, TransformSpec

__all__ = ["checked_text", "decode_value", "encode_value", "spec_from_json", "spec_to_json"]

_NESTED: Final[Mapping[str, type]] = {"rules": RoundRules, "evaluation": EvaluationRules}
_LISTED: Final[Mapping[str, type]] = {"transforms": TransformSpec}
_NAMES: Final = frozenset({"parties", "functions", "only", "labels"})
"""Tuples of text, which are plain lists in JSON."""


def checked_text(value: str, where: str) -> str:
    """The text, when a database can keep it; raises `InputError` that names the place."""
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
        return checked_text(value, where)
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
        checked_text(key, where)
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
    return {field.name: _field_to_json(field.name, getattr(value, field.name), where) for field in fields(value)}


def _field_to_json(name: str, value: Any, where: str) -> Any:
    place = f"{where}.{name}"
    if name in _NESTED:
        return _fields_to_json(value, place)
    if name in _LISTED:
        return [_fields_to_json(item, f"{place}[{i}]") for i, item in enumerate(value)]
    if name in _NAMES:
        return encode_value(list(value), place)
    return encode_value(value, place)


@cache
def _fields_of(kind: type[Any]) -> Mapping[str, bool]:
    """Name → whether it must be given."""
    return {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(kind)}


def _fields_from_json(kind: Any, document: Any, where: str) -> Any:
    if not isinstance(document, Mapping):
        raise StorageError(f"{where} should be a JSON object, but is {document!r}")
    known = _fields_of(kind)
    unknown = sorted(document.keys() - known.keys())
    if unknown:
        raise StorageError(
            f"{where} has the field {unknown[0]!r}, which this version of hansa does not know; "
            "it was written by a newer version: upgrade hansa to read it"
        )
    missing = [name for name, needed in known.items() if needed and name not in document]
    if missing:
        raise StorageError(f"{where} lacks the field {missing[0]!r}")
    return kind(**{name: _field_from_json(name, value, f"{where}.{name}") for name, value in document.items()})


def _field_from_json(name: str, value: Any, place: str) -> Any:
    if name in _NESTED:
        return _fields_from_json(_NESTED[name], value, place)
    if name in _LISTED:
        if not isinstance(value, list):
            raise StorageError(f"{place} should be a JSON array, but is {value!r}")
        return tuple(_fields_from_json(_LISTED[name], item, f"{place}[{i}]") for i, item in enumerate(value))
    if name in _NAMES:
        return tuple(value)
    return decode_value(value)
