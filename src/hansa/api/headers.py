"""What browsers are told of every answer, and which of their requests are refused.

The API is for programs: a browser gets no page from it, may run nothing in it, and shows it in no frame. Programs carry
a token in a header. A browser carries it in a cookie that no script can read and that it sends for no other site; what
says that it comes from another site is refused all the same.
"""

from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import Scope

__all__ = ["forget_token", "is_foreign", "keep_token", "token_of", "with_security"]

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
_COOKIE: Final = "hansa"
_COOKIE_BY_TLS: Final = "__Host-hansa"
"""A browser takes a cookie of this prefix by https alone, and for this very host."""


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


def token_of(scope: Scope) -> str:
    """The token that a request carries, in its header or else in a browser's cookie; empty where there is none."""
    headers = Headers(scope=scope)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme:
        return token.strip() if scheme.lower() == "bearer" else ""
    return cookie_parser(headers.get("cookie", "")).get(_cookie(scope), "")


def keep_token(scope: Scope, response: Response, token: str, seconds: float) -> None:
    """Have the browser keep a token where no script can read it, and send it for this server's own pages alone."""
    response.set_cookie(
        _cookie(scope),
        token,
        max_age=int(seconds),
        path="/",
        secure=scope["scheme"] == "https",
        httponly=True,
        samesite="strict",
    )


def forget_token(scope: Scope, response: Response) -> None:
    """Have the browser forget it."""
    secure = scope["scheme"] == "https"
    response.delete_cookie(_cookie(scope), path="/", secure=secure, httponly=True, samesite="strict")


def _cookie(scope: Scope) -> str:
    return _COOKIE_BY_TLS if scope["scheme"] == "https" else _COOKIE
