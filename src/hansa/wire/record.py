"""A dataclass and its protobuf message: one converter by field names, compiled once per class.

A dataclass and its message in proto/hansa/v1 have the same names, so nothing is written twice: scalars map to scalars,
a StrEnum to an enum whose values carry the enum's name as a prefix, tuples to repeated fields, mappings to maps,
`Value`s to `Value` messages, dataclasses to messages. A field that is absent takes the dataclass's default, or is an
error where there is none; fields of a newer peer are ignored.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Final, TypeAlias, cast, get_args, get_origin

from hansa.errors import WireError
from hansa.messages import Contribution, Value
from hansa.wire._generated import calls_pb2, control_pb2, values_pb2
from hansa.wire.calls import DownloadRequest
from hansa.wire.chunks import INLINE_LIMIT
from hansa.wire.frames import Awaited, Blob, Counted, Letter, Predicted, Samples
from hansa.wire.limits import MAX_DOCUMENT, MAX_ENTRIES, MAX_ITEMS, MAX_NAME, MAX_TEXT, check_length
from hansa.wire.values import read_values, write_values

__all__ = ["FREE_TEXT", "Record", "message_class", "record_of"]

FREE_TEXT: Final = frozenset({"cause", "detail", "line", "message", "traceback", "why"})
"""Fields that hold text for people; it can always be sent: what is too long, not UTF-8 or NUL loses that part."""

_Message: TypeAlias = Any
_Write: TypeAlias = Callable[[_Message, Any], None]
_Read: TypeAlias = Callable[[_Message], Any]

_SCHEMA: Final = (control_pb2, values_pb2, calls_pb2)
_CUT: Final = " […] "
_NUL: Final = "\0"
_SHOWN_NUL: Final = "\N{SYMBOL FOR NULL}"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """How values of one class are written and read."""

    kind: type[Any]
    message: Callable[[], _Message]
    fields: tuple[tuple[str, _Write, _Read], ...]
    check: Callable[[Any], None] | None

    def write(self, message: _Message, value: Any) -> None:
        """Set the fields of an empty message."""
        if self.check is not None:
            self.check(value)
        for name, write, _ in self.fields:
            try:
                write(message, getattr(value, name))
            except (TypeError, ValueError, AttributeError) as error:
                raise WireError(f"{self.kind.__name__}.{name} cannot be sent: {error}") from error

    def read(self, message: _Message) -> Any:
        """The value of a message."""
        value = self.kind(*[read(message) for _, _, read in self.fields])
        if self.check is not None:
            self.check(value)
        return value


def record_of(kind: type[Any]) -> Record:
    """The record of a dataclass that has a message of the same name; compiled once."""
    record = _COMPILED.get(kind)
    if record is None:
        message = message_class(kind.__name__)
        fields = dataclasses.fields(kind)
        compiled = tuple((field.name, *_field(kind, field, message)) for field in fields)
        record = _COMPILED[kind] = Record(kind, message, compiled, _CHECKS.get(kind))
    return record


def message_class(name: str) -> Any:
    """The generated class of a message of hansa.v1."""
    return next(getattr(module, name) for module in _SCHEMA if hasattr(module, name))


def _field(kind: type[Any], field: "dataclasses.Field[Any]", message: Any) -> tuple[_Write, _Read]:
    """Writer and reader of one field, with its absence handled."""
    where = f"{kind.__name__}.{field.name}"
    descriptor = message.DESCRIPTOR.fields_by_name[field.name]
    inner, optional = _without_none(field.type)
    write, read = _by_type(inner, field.name, where, descriptor)
    if optional:
        write = partial(_write_unless_none, write)
    if descriptor.has_presence:
        read = partial(_read_or_default, field.name, _default(field, where), read)
    return write, read


def _by_type(inner: Any, name: str, where: str, descriptor: Any) -> tuple[_Write, _Read]:
    origin, arguments = get_origin(inner), get_args(inner)
    if origin is tuple:
        return _list_field(arguments[0], name, where)
    if origin is Mapping:
        return _value_map_field(name, where) if arguments[1] is Value else _map_field(name, where)
    if dataclasses.is_dataclass(inner):
        return _nested_field(cast("type[Any]", inner), name)
    if issubclass(inner, StrEnum):
        return _enum_field(inner, name, where, descriptor)
    if inner is str:
        return _free_text_field(name, where) if name in FREE_TEXT else _name_field(name, where)
    return partial(_set, name), attrgetter(name)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """(the type, whether None may stand in its place)."""
    if not isinstance(annotation, UnionType):
        return annotation, False
    (inner,) = (choice for choice in get_args(annotation) if choice is not NoneType)
    return inner, True


def _default(field: "dataclasses.Field[Any]", where: str) -> Callable[[], Any]:
    def missing() -> Any:
        raise WireError(f"{where} is missing")

    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory
    return missing if field.default is dataclasses.MISSING else lambda: field.default


def _write_unless_none(write: _Write, message: _Message, value: Any) -> None:
    if value is not None:
        write(message, value)


def _read_or_default(name: str, default: Callable[[], Any], read: _Read, message: _Message) -> Any:
    return read(message) if message.HasField(name) else default()


# ── kinds of fields ───────────────────────────────────────────────────────────────────────────────────────────────────


def _set(name: str, message: _Message, value: Any) -> None:
    setattr(message, name, value)


def _name_field(name: str, where: str) -> tuple[_Write, _Read]:
    def write(message: _Message, value: str) -> None:
        check_length(len(value), MAX_NAME, where)
        _check_nul((value,), where)
        setattr(message, name, value)

    def read(message: _Message) -> str:
        text = _read_text(name, where, MAX_NAME, message)
        _check_nul((text,), where)
        return text

    return write, read


def _free_text_field(name: str, where: str) -> tuple[_Write, _Read]:
    def write(message: _Message, value: str) -> None:
        if len(value) > MAX_TEXT:
            half = (MAX_TEXT - len(_CUT)) // 2
            value = value[:half] + _CUT + value[-half:]
        value = value.replace(_NUL, _SHOWN_NUL)
        setattr(message, name, value if value.isascii() else value.encode(errors="replace").decode())

    return write, lambda message: _read_text(name, where, MAX_TEXT, message).replace(_NUL, _SHOWN_NUL)


def _read_text(name: str, where: str, limit: int, message: _Message) -> str:
    text: str = getattr(message, name)
    if len(text) > limit:
        check_length(len(text), limit, where)
    return text


def _check_nul(texts: Iterable[object], where: str) -> None:
    """Raise `WireError` for a name with NUL: no database keeps it, and what a node says must not fail a session."""
    if any(isinstance(text, str) and _NUL in text for text in texts):
        raise WireError(f"{where} has a NUL character in it")


def _enum_field(kind: type[StrEnum], name: str, where: str, descriptor: Any) -> tuple[_Write, _Read]:
    numbers = {
        member: descriptor.enum_type.values_by_name[f"{kind.__name__.upper()}_{member.name}"].number for member in kind
    }
    members = {number: member for member, number in numbers.items()}

    def write(message: _Message, value: StrEnum) -> None:
        setattr(message, name, numbers[kind(value)])

    def read(message: _Message) -> StrEnum:
        number = getattr(message, name)
        member = members.get(number)
        if member is None:
            raise WireError(f"{where} is missing or of a newer version: there is no {kind.__name__} {number}")
        return member

    return write, read


def _nested_field(kind: type[Any], name: str) -> tuple[_Write, _Read]:
    record = record_of(kind)

    def write(message: _Message, value: Any) -> None:
        if not isinstance(value, kind):
            raise TypeError(f"{type(value).__name__} is not a {kind.__name__}")
        nested = getattr(message, name)
        nested.SetInParent()
        record.write(nested, value)

    return write, lambda message: record.read(getattr(message, name))


def _list_field(member: Any, name: str, where: str) -> tuple[_Write, _Read]:
    record = None if member is str else record_of(member)

    def write(message: _Message, value: Sequence[Any]) -> None:
        check_length(len(value), MAX_ITEMS, where)
        items = getattr(message, name)
        if record is None:
            _check_nul(value, where)
            items.extend(value)
        else:
            for item in value:
                record.write(items.add(), item)

    def read(message: _Message) -> tuple[Any, ...]:
        items = getattr(message, name)
        check_length(len(items), MAX_ITEMS, where)
        if record is not None:
            return tuple(map(record.read, items))
        _check_nul(items, where)
        return tuple(items)

    return write, read


def _map_field(name: str, where: str) -> tuple[_Write, _Read]:
    """A protobuf map has no order of its own: entries come out sorted by key."""

    def write(message: _Message, value: Mapping[str, Any]) -> None:
        check_length(len(value), MAX_ENTRIES, where)
        _check_nul((*value, *value.values()), where)
        if value:
            getattr(message, name).update(value)

    def read(message: _Message) -> dict[str, Any]:
        entries = getattr(message, name)
        if not entries:
            return {}
        check_length(len(entries), MAX_ENTRIES, where)
        _check_nul((*entries, *entries.values()), where)
        return dict(sorted(entries.items()))

    return write, read


def _value_map_field(name: str, where: str) -> tuple[_Write, _Read]:
    def write(message: _Message, values: Mapping[str, Value]) -> None:
        if values:
            write_values(getattr(message, name), values, where)

    return write, lambda message: read_values(getattr(message, name), where)


# ── what the types alone do not say ───────────────────────────────────────────────────────────────────────────────────


def _check_blob(blob: Blob) -> None:
    _check_digest("Blob", blob.digest)
    if blob.inline and (len(blob.inline) != blob.size or blob.size > INLINE_LIMIT):
        raise WireError(
            f"Blob.inline has {len(blob.inline)} bytes, Blob.size is {blob.size}: they must agree, "
            f"and at most {INLINE_LIMIT} travel inline"
        )


def _check_contribution(contribution: Contribution) -> None:
    if contribution.digest:
        _check_digest("Contribution", contribution.digest)
    if contribution.norm is not None and not 0 <= contribution.norm < math.inf:
        raise WireError(f"Contribution.norm is {contribution.norm}: a norm is finite, and 0 or more")


def _check_counted(counted: Counted) -> None:
    _check_digest("Counted", counted.digest)


def _check_download(request: DownloadRequest) -> None:
    _check_digest("DownloadRequest", request.digest)


def _check_letter(letter: Letter | Awaited) -> None:
    numbers = (letter.sender, letter.receiver, letter.number)
    if min(numbers) < 0:
        raise WireError(f"{type(letter).__name__} has the sender, receiver and number {numbers}: none is below 0")


def _check_digest(where: str, digest: str) -> None:
    if not _DIGEST.fullmatch(digest):
        raise WireError(f"{where}.digest is {digest[:80]!r}, not 64 lower-case hexadecimal digits")


def _check_predicted(predicted: Predicted) -> None:
    check_length(len(predicted.document), MAX_DOCUMENT, "Predicted.document")


def _check_samples(samples: Samples) -> None:
    check_length(len(samples.values), MAX_ENTRIES, "Samples.values")


_CHECKS: Final[Mapping[type[Any], Callable[[Any], None]]] = {
    Blob: _check_blob,
    Contribution: _check_contribution,
    Counted: _check_counted,
    DownloadRequest: _check_download,
    Letter: _check_letter,
    Awaited: _check_letter,
    Samples: _check_samples,
    Predicted: _check_predicted,
}
"""A digest becomes a file's name: it is looked at before anyone can use it."""

_COMPILED: Final[dict[type[Any], Record]] = {}
