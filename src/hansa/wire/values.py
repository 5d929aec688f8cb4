"""Configuration values as protobuf `Value`s: with their types, in their order, within the limits."""

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from hansa.errors import WireError
from hansa.messages import Value
from hansa.wire.limits import MAX_DEPTH, MAX_ENTRIES

__all__ = ["read_values", "write_values"]

_Message: TypeAlias = Any


def write_values(message: _Message, values: Mapping[str, Value], where: str) -> None:
    """Fill a `ValueMap`. where: the field, as Class.field, for the message of a `WireError`."""
    _write_map(message, values, where, _Budget())


def read_values(message: _Message, where: str) -> dict[str, Value]:
    """The values of a `ValueMap`; lists and tuples come back as lists. Raises `WireError`."""
    return _read_map(message, where, _Budget())


class _Budget:
    """What is left of `MAX_ENTRIES` while one configuration is walked."""

    def __init__(self) -> None:
        self.left = MAX_ENTRIES

    def spend(self, number: int, depth: int, where: str) -> None:
        """Count `number` more values at this depth."""
        self.left -= number
        if self.left < 0 or depth > MAX_DEPTH:
            raise WireError(f"{where} has more than {MAX_ENTRIES} values, or is more than {MAX_DEPTH} levels deep")


def _write_map(message: _Message, values: Mapping[str, Value], where: str, budget: _Budget, depth: int = 1) -> None:
    budget.spend(len(values), depth, where)
    message.SetInParent()
    for name, value in values.items():
        entry = message.entries.add()
        entry.name = name
        _write_value(entry.value, value, f"{where}[{name!r}]", budget, depth)


def _write_value(message: _Message, value: Value, where: str, budget: _Budget, depth: int) -> None:
    match value:
        case None:
            message.null.SetInParent()
        case bool():
            message.boolean = value
        case int():
            message.integer = value
        case float():
            message.number = value
        case str():
            message.text = value
        case Mapping():
            _write_map(message.map, value, where, budget, depth + 1)
        case list() | tuple():
            budget.spend(len(value), depth + 1, where)
            message.list.SetInParent()
            for index, item in enumerate(value):
                _write_value(message.list.items.add(), item, f"{where}[{index}]", budget, depth + 1)
        case _:
            raise WireError(
                f"{where} is a {type(value).__name__}; a configuration holds None, bool, int, float, str, list and dict"
            )


def _read_map(message: _Message, where: str, budget: _Budget, depth: int = 1) -> dict[str, Value]:
    budget.spend(len(message.entries), depth, where)
    values = {
        entry.name: _read_value(entry.value, f"{where}[{entry.name!r}]", budget, depth) for entry in message.entries
    }
    if len(values) != len(message.entries):
        raise WireError(f"{where} has a name twice")
    return values


def _read_value(message: _Message, where: str, budget: _Budget, depth: int) -> Value:
    match message.WhichOneof("kind"):
        case "null":
            return None
        case "map":
            return _read_map(message.map, where, budget, depth + 1)
        case "list":
            items = message.list.items
            budget.spend(len(items), depth + 1, where)
            return [_read_value(item, f"{where}[{index}]", budget, depth + 1) for index, item in enumerate(items)]
        case None:
            raise WireError(f"{where} is missing or of a newer version")
        case scalar:
            return cast("Value", getattr(message, scalar))
