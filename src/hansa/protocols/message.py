"""What workers say to each other: frozen dataclasses, registered by a name of their own.

```python
@message("greeting")
@dataclass(frozen=True)
class Greeting:
    text: str
    model: Arrays
```

The schema is closed: a field is a `bool`, `int`, `float`, `str`, an ndarray or `Arrays`, and nothing else travels. How
a message becomes bytes is the runtimes' affair (`hansa.programs.encoding`); the name, not the class, is sent.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar, get_origin, get_type_hints

import numpy as np

from hansa.arrays import Arrays
from hansa.errors import InputError

__all__ = ["NAME", "Schema", "message", "name_of", "schema_named", "schema_of"]

T = TypeVar("T")

NAME: Final = re.compile(r"[a-z][a-z0-9.-]{0,63}")
"""What a message may be called."""
_KINDS: Final = (bool, int, float, str, np.ndarray, Arrays)


@dataclass(frozen=True, slots=True)
class Schema:
    """A registered message."""

    name: str
    kind: type[Any]
    fields: Mapping[str, type[Any]]
    """Field → one of bool, int, float, str, np.ndarray, Arrays."""


_BY_NAME: Final[dict[str, Schema]] = {}
_BY_KIND: Final[dict[type[Any], Schema]] = {}


def message(name: str) -> Callable[[type[T]], type[T]]:
    """Register a frozen dataclass under a name, in lower case, unique in the process: for example "dsgd.model".

    Raises `InputError` for a name that another class has, a class that is no frozen dataclass, a field of another type
    or one that the constructor does not take.
    """
    if not _is_name(name):
        raise InputError(
            f"a message's name is {name!r}; it must be a text of at most 64 lower-case letters, digits, dots and "
            'dashes: @message("a-name")'
        )

    def register(kind: type[T]) -> type[T]:
        before = _BY_NAME.get(name)
        if before is not None and _identity(before.kind) != _identity(kind):
            raise InputError(
                f"{_identity(before.kind)} is the message {name!r} already; give {_identity(kind)} another name"
            )
        schema = Schema(name, kind, _fields(kind))
        _BY_NAME[name] = schema
        _BY_KIND[kind] = schema
        return kind

    return register


def _is_name(given: object) -> bool:
    return isinstance(given, str) and NAME.fullmatch(given) is not None


def schema_of(kind: type[Any]) -> Schema:
    """The schema of a class; raises `InputError` where it is not registered."""
    schema = _BY_KIND.get(kind)
    if schema is None:
        raise InputError(f'{kind.__name__} is no message: decorate a frozen dataclass with @message("a-name")')
    return schema


def schema_named(name: str) -> Schema | None:
    """The schema of a name, or None where nothing has it here."""
    return _BY_NAME.get(name)


def name_of(kind: type[Any]) -> str:
    """The name of a registered class."""
    return schema_of(kind).name


def _fields(kind: type[Any]) -> Mapping[str, type[Any]]:
    parameters = getattr(kind, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise InputError(f"{kind.__name__} is no frozen dataclass: put @dataclass(frozen=True) below @message")
    for field in dataclasses.fields(kind):
        if not field.init:
            raise InputError(
                f"{kind.__name__}.{field.name} is not given to its constructor, by which a message is made"
            )
    hints = get_type_hints(kind)
    return MappingProxyType(
        {field.name: _kind(kind, field.name, hints[field.name]) for field in dataclasses.fields(kind)}
    )


def _kind(owner: type[Any], field: str, annotation: Any) -> type[Any]:
    found = get_origin(annotation) or annotation
    if found not in _KINDS:
        raise InputError(
            f"{owner.__name__}.{field} is a {annotation}; a message holds bool, int, float, str, ndarrays and Arrays"
        )
    return found  # type: ignore[no-any-return]  # one of _KINDS


def _identity(kind: type[Any]) -> str:
    """A class made anew by running a notebook's cell again is the same class."""
    return f"{kind.__module__}.{kind.__qualname__}"
