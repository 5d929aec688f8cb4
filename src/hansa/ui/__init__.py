"""The Studio: static pages in front of the REST API, which they use like any other caller.

Nothing is built: the browser loads these modules as they lie here, and asks nobody but this server.
"""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

import hansa
from hansa.api.headers import with_security

__all__ = ["ROOT", "Studio"]

ROOT: Final = "/ui/"
_MEDIA: Final[Mapping[str, str]] = MappingProxyType(
    {
        "css": "text/css; charset=utf-8",
        "html": "text/html; charset=utf-8",
        "js": "text/javascript; charset=utf-8",
        "svg": "image/svg+xml",
        "woff2": "font/woff2",
    }
)
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing inline, nothing from elsewhere; data: and blob: are charts that are saved as images."""
_SMALL: Final = 1024
"""Bytes below which compression gains nothing."""
_READING: Final = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    packed: bytes
    """gzip; empty where it would not be smaller."""
    media: str


class Studio:
    """ASGI: answers `/` and what is below `/ui/`, and passes on all else.

    Files are at an address with their own hash in it, and kept by browsers for good; every other path below `/ui/` is
    the one page, which knows what to show there.
    """

    def __init__(self, app: ASGIApp) -> None:
        """app: the REST API."""
        self._app = app
        found = dict(_below(files("hansa.ui") / "static"))
        page = found.pop("index.html").decode()
        told = hashlib.sha256(b"".join(name.encode() + body for name, body in sorted(found.items()))).hexdigest()
        self._base = f"{ROOT}{hansa.__version__}-{told[:12]}/"
        modules = [name for name in sorted(found) if name.endswith(".js") and "worker" not in name]
        preload = "\n    ".join(f'<link rel="modulepreload" href="{self._base}{name}">' for name in modules)
        page = page.replace("{base}", self._base).replace("{preload}", preload).replace("{version}", hansa.__version__)
        self._page = _file("index.html", page.encode())
        self._files = {self._base + name: _file(name, body) for name, body in found.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path in {"/", "/ui"} or path.startswith(ROOT)):
            await self._app(scope, receive, send)
            return
        encrypted = scope["scheme"] == "https"
        if scope["method"] not in _READING:
            await _answer(send, 405, {"allow": "GET, HEAD"}, b"", encrypted=encrypted)
        elif path in {"/", "/ui"}:
            await _answer(send, 307, {"location": ROOT}, b"", encrypted=encrypted)
        elif (known := self._files.get(path)) is not None:
            await _send(scope, send, known, "public, max-age=31536000, immutable")
        elif "." in path.rpartition("/")[2] and path.startswith(self._base):
            await _answer(send, 404, {}, b"", encrypted=encrypted)
        else:
            await _send(scope, send, self._page, "no-cache")


def _below(folder: Traversable, prefix: str = "") -> list[tuple[str, bytes]]:
    """(path, bytes) of every file that a browser may ask for."""
    found: list[tuple[str, bytes]] = []
    for item in folder.iterdir():
        if item.is_dir():
            found += _below(item, f"{prefix}{item.name}/")
        elif item.name.rpartition(".")[2] in _MEDIA:
            found.append((prefix + item.name, item.read_bytes()))
    return found


def _file(name: str, body: bytes) -> _File:
    packed = gzip.compress(body, mtime=0) if len(body) >= _SMALL and not name.endswith("woff2") else b""
    return _File(body, packed, _MEDIA[name.rpartition(".")[2]])


async def _send(scope: Scope, send: Send, file: _File, keep: str) -> None:
    headers = {"content-type": file.media, "cache-control": keep, "vary": "accept-encoding"}
    body = file.body
    if file.packed and "gzip" in Headers(scope=scope).get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        body = file.packed
    headers["content-length"] = str(len(body))
    shown = b"" if scope["method"] == "HEAD" else body
    await _answer(send, 200, headers, shown, encrypted=scope["scheme"] == "https")


async def _answer(send: Send, status: int, headers: Mapping[str, str], body: bytes, *, encrypted: bool) -> None:
    told = {"content-security-policy": _POLICY, "content-length": str(len(body))} | dict(headers)
    pairs = [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": with_security(pairs, encrypted=encrypted)})
    await send({"type": "http.response.body", "body": body})
