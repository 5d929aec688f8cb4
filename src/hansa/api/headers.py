"""What browsers are told of every answer, and which of their requests are refused.

The API is for programs: a browser gets no page from it, may run nothing in it, and shows it in no frame. Callers carry
a token in a header and never a cookie, so that no other site can call in their name; what says that it comes from
another site is refused all the same.
"""

from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

__all__ = ["is_foreign", "with_security"]

_ALWAYS: Final[Sequence[tuple[bytes, bytes]]] = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_HSTS: Final = (b"strict-transport-security", b"max-age=31536000")
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def with_security(headers: Iterable[tuple[bytes, bytes]], *, encrypted: bool) -> list[tuple[bytes, bytes]]:
    """An answer's headers, and those that it lacks. encrypted: whether the caller came by https."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    wanted = (*_ALWAYS, _HSTS) if encrypted else _ALWAYS
    return given + [(name, value) for name, value in wanted if name not in names]


def is_foreign(scope: Scope) -> bool:
    """Whether a browser says that a request which may change something comes from another site's page."""
    if scope["method"] in _SAFE:
        return False
    headers = Headers(scope=scope)
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:  # what the browser itself says: behind a proxy, the host may be called otherwise
        return site not in {"same-origin", "none"}
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
