"""Errors over HTTP, as problem details (RFC 9457): what the server makes of an error, and the client of a problem."""

from collections.abc import Mapping
from typing import Any, Final

from hansa.errors import (
    AppError,
    ArraysMismatchError,
    AuthenticationError,
    ConfigError,
    ConflictError,
    ConnectionFailedError,
    CorruptionError,
    HansaError,
    InputError,
    NotFoundError,
    PermissionDeniedError,
    PrunedError,
    QuorumNotMetError,
    QuotaExceededError,
    RunFailedError,
    StorageError,
    StorageUnavailableError,
    ThrottledError,
    UserCodeError,
    WireError,
)

__all__ = ["MEDIA_TYPE", "error_of", "problem", "status_of"]

MEDIA_TYPE: Final = "application/problem+json"
_PREFIX: Final = "urn:hansa:problem:"

_KINDS: Final[Mapping[type[HansaError], tuple[int, str, str]]] = {
    ArraysMismatchError: (422, "arrays-mismatch", "Arrays do not fit"),
    AppError: (422, "app", "The app cannot be used"),
    ConfigError: (422, "config", "A setting cannot be used"),
    InputError: (422, "input", "The request cannot be used"),
    WireError: (422, "wire", "The bytes are not what they should be"),
    AuthenticationError: (401, "authentication", "No token, or one that does not hold"),
    PermissionDeniedError: (403, "permission-denied", "Not allowed"),
    ThrottledError: (429, "throttled", "Tried too often"),
    PrunedError: (410, "pruned", "It was pruned"),
    NotFoundError: (404, "not-found", "There is no such thing"),
    QuotaExceededError: (409, "quota-exceeded", "The project's quota is used up"),
    ConflictError: (409, "conflict", "The state forbids it"),
    QuorumNotMetError: (409, "quorum-not-met", "Too few updates"),
    RunFailedError: (409, "run-failed", "The run failed"),
    UserCodeError: (422, "user-code", "User code failed"),
    ConnectionFailedError: (503, "connection-failed", "A peer cannot be reached"),
    CorruptionError: (500, "corruption", "What is stored is damaged"),
    StorageUnavailableError: (503, "storage-unavailable", "Storage is away for now"),
    StorageError: (500, "storage", "Storage failed"),
    HansaError: (500, "hansa", "Something went wrong"),
}
_BY_SLUG: Final = {slug: kind for kind, (_, slug, _) in _KINDS.items()}
_BY_STATUS: Final[Mapping[int, type[HansaError]]] = {
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: PrunedError,
    413: InputError,
    422: InputError,
    429: ThrottledError,
    503: ConnectionFailedError,
}


def status_of(error: HansaError) -> int:
    """The HTTP status of an error, by its nearest class in the table."""
    return _kind(error)[0]


def problem(error: HansaError, instance: str, status: int | None = None) -> dict[str, Any]:
    """The problem details of an error. instance: the path that was asked for; status: in place of the table's."""
    usual, slug, title = _kind(error)
    return {
        "type": _PREFIX + slug,
        "title": title,
        "status": status or usual,
        "detail": str(error),
        "instance": instance,
    }


def error_of(status: int, body: Mapping[str, Any]) -> HansaError:
    """The exception that a problem stands for, with the server's own sentence."""
    slug = str(body.get("type", "")).removeprefix(_PREFIX)
    kind = _BY_SLUG.get(slug) or _BY_STATUS.get(status, HansaError)
    return kind(str(body.get("detail") or body.get("title") or f"the server answered with status {status}"))


def _kind(error: HansaError) -> tuple[int, str, str]:
    return next(_KINDS[kind] for kind in type(error).__mro__ if kind in _KINDS)
