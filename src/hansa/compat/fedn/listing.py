"""How FEDn's lists are asked: fields that a document must have, by their names in either spelling, order and page."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, Final, TypeAlias

from hansa.errors import InputError

__all__ = ["Asked", "Document", "iso_time", "matches", "plain", "plain_text", "select"]

Document: TypeAlias = Mapping[str, Any]
"""What FEDn calls an entity: times are `datetime`, all else is JSON."""

_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
    "ne": lambda a, b: a != b,
    "eq": lambda a, b: a == b,
}
_DIGITS: Final = 18
_NOTHING: Final = frozenset({"null", "None"})
"""How a script writes that there is none."""
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])([A-Z])")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a list."""

    where: Mapping[str, Any]
    """Field, perhaps with `__gt` and the like → what it is held against."""
    sort: str = "committed_at"
    descending: bool = True
    skip: int = 0
    limit: int | None = None

    @classmethod
    def of(cls, where: Mapping[str, Any], headers: Mapping[str, str]) -> "Asked":
        """From a query or body, and the headers X-Limit, X-Skip, X-Sort-Key and X-Sort-Order."""
        limit = _whole(headers, "x-limit")
        return cls(
            where,
            _snake(headers.get("x-sort-key") or "committed_at"),
            headers.get("x-sort-order", "desc").lower() != "asc",
            _whole(headers, "x-skip") or 0,
            limit or None,
        )

    @property
    def fields(self) -> Mapping[str, Any]:
        """The same by the names that documents have, each with its operator, if there is one."""
        return {_snake(name): wanted for name, wanted in self.where.items()}


def plain_text(wanted: object) -> bool:
    """Whether a value is asked for as it stands, and not as a list or as nothing."""
    return isinstance(wanted, str) and "," not in wanted and wanted not in _NOTHING


def select(documents: Sequence[Document], asked: Asked) -> tuple[int, list[Document]]:
    """(how many match in all, those of the page)."""
    found = [each for each in documents if matches(each, asked.where)]
    key = lambda each: _order(_get(each, asked.sort))  # noqa: E731 - as long as its name
    found.sort(key=key, reverse=asked.descending)
    end = None if asked.limit is None else asked.skip + asked.limit
    return len(found), found[asked.skip : end]


def matches(document: Document, where: Mapping[str, Any]) -> bool:
    """Whether a document has all that is asked for."""
    for name, wanted in where.items():
        field, _, operator = name.partition("__")
        if operator and operator not in _OPERATORS:
            field, operator = name, ""
        if not _holds(_get(document, _snake(field)), operator or "eq", wanted):
            return False
    return True


def plain(value: Any) -> Any:
    """A document as JSON: times as RFC 1123."""
    if isinstance(value, datetime):
        return format_datetime(value.astimezone(UTC), usegmt=True)
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def iso_time(at: float) -> str:
    """A `timestamp`. at: POSIX seconds."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def _holds(value: Any, operator: str, wanted: Any) -> bool:
    if isinstance(wanted, str) and "," in wanted and operator == "eq" and str(value) != wanted:
        return any(_holds(value, "eq", each.strip()) for each in wanted.split(","))
    if isinstance(wanted, list):
        return any(_holds(value, operator, each) for each in wanted)
    try:
        here, there = _alike(value, wanted)
        if operator not in {"eq", "ne"} and _is_number(here) and _is_number(there):
            here, there = int(here), int(there)  # ids of rounds are numbers, as text
        return _OPERATORS[operator](here, there)
    except TypeError:
        return False


def _alike(value: Any, wanted: Any) -> tuple[Any, Any]:
    """Both in the type that the document has: a number that is asked for as text stays text where the field is."""
    if wanted is None or (isinstance(wanted, str) and wanted in _NOTHING):
        return value, None
    if isinstance(value, datetime):
        return value, _time(str(wanted))
    if isinstance(value, bool):
        return value, wanted if isinstance(wanted, bool) else str(wanted).lower() == "true"
    if isinstance(value, int | float):
        try:
            return value, float(wanted)
        except ValueError:
            return value, wanted
    return (value if value is None or isinstance(value, str) else str(value)), str(wanted)


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _DIGITS


def _time(text: str) -> datetime:
    """RFC 1123, ISO 8601 or POSIX seconds; raises `InputError`."""
    for read in (
        parsedate_to_datetime,
        datetime.fromisoformat,
        lambda given: datetime.fromtimestamp(float(given), UTC),
    ):
        try:
            found = read(text)
        except (ValueError, OverflowError, OSError):
            continue
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    raise InputError(f"{text[:64]!r} is no time: write it as 2026-11-21T22:54:05Z")


def _get(document: Document, path: str) -> Any:
    """A field, of a document within it where the name has dots; None: it has none."""
    value: Any = document
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _snake(name: str) -> str:
    return _CAMEL.sub(lambda found: "_" + found.group(1).lower(), name)


def _order(value: Any) -> tuple[int, Any]:
    """Whatever there is in an order; what is not there comes first."""
    if value is None:
        return 0, 0
    if isinstance(value, datetime):
        return 1, value.timestamp()
    if isinstance(value, int | float):
        return 1, float(value)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return 1, float(value)  # round ids are numbers: 9 is before 10
    return 2, str(value)


def _whole(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise InputError(f"{name.title()} must be a whole number, not {text[:32]!r}")
    return int(text[:12])
