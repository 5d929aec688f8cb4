"""Logging in by the server's OpenID provider, seen from the person's machine: in its browser, or on another device.

The browser comes back to a port of this machine (RFC 8252). What it brings is of use only with the verifier, which
does not leave this process before (PKCE, RFC 7636).
"""

import base64
import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from hansa.api.documents import from_document
from hansa.api.results import DeviceState, IssuedToken
from hansa.api.transport import Transport
from hansa.errors import AuthenticationError, WireError
from hansa.wire.tls import WORLD, Trust

__all__ = ["DeviceLogin", "log_in_by_browser", "log_in_by_device"]

_CALLBACK: Final = "/callback"
_SAID: Final = "hansa: you can close this window, and go on where you logged in.\n"
_LOCAL: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class DeviceLogin:
    """What a person needs to approve a login on another device."""

    handle: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    """With the code in it; empty where the provider gives none."""
    expires_in: float
    """Seconds."""
    interval: float
    """Seconds between two questions."""


def log_in_by_browser(url: str, show: Callable[[str], None], trust: Trust = WORLD) -> IssuedToken:
    """A token of a server, for a login in the browser that `show` opens, or has opened by the person.

    Waits until the browser comes back, or the time for it is over. Raises `AuthenticationError` that says why not.
    """
    transport = Transport(url, "", trust)
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    try:
        with _Callback() as callback:
            body: dict[str, Any] = {"redirect": callback.redirect, "challenge": challenge}
            begun = transport.json("POST", "/login/oidc", body=body)
            callback.state = str(begun["state"])
            show(_checked(str(begun["authorization_url"])))
            answer = callback.wait(float(begun["expires_in"]))
        body = {"state": callback.state, "code": answer.get("code", ""), "verifier": verifier, "iss": answer.get("iss")}
        return from_document(IssuedToken, transport.json("POST", "/login/oidc/code", body=body))
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"the server's answer to a login by OpenID does not fit ({error!r})") from error
    finally:
        transport.close()


def log_in_by_device(
    url: str,
    show: Callable[[DeviceLogin], None],
    trust: Trust = WORLD,
    pause: Callable[[float], None] = time.sleep,
) -> IssuedToken:
    """A token of a server, for a login that the person approves on another device.

    show: tells them where, and with which code; pause: waits some seconds. Raises `AuthenticationError` when they
    refuse, or the code expires.
    """
    transport = Transport(url, "", trust)
    try:
        begun = from_document(DeviceLogin, transport.json("POST", "/login/oidc/device"))
        _checked(begun.verification_uri)
        show(begun)
        wait = begun.interval
        while True:
            pause(wait)
            answer = transport.json("POST", "/login/oidc/device/token", body={"handle": begun.handle})
            state = from_document(DeviceState, answer)
            if state.issued is not None:
                return state.issued
            wait = state.wait
    finally:
        transport.close()


class _Callback(HTTPServer):
    """A port of this machine that waits for the browser, beside the thread that opens it: some are waited for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.state = ""
        self.answer: dict[str, str] = {}
        self.came = threading.Event()
        self._serving = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def redirect(self) -> str:
        """Where the browser is to come back to."""
        return f"http://127.0.0.1:{self.server_port}{_CALLBACK}"

    def wait(self, seconds: float) -> dict[str, str]:
        """What the browser brings; raises `AuthenticationError` for a refusal, and when the time is over."""
        if not self.came.wait(seconds):
            raise AuthenticationError("the browser did not come back in time: log in again")
        if "error" in self.answer:
            raise AuthenticationError(f"the OpenID provider refuses the login: {self.answer['error'][:100]!r}")
        return self.answer

    def __enter__(self) -> Self:
        self._serving.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._serving.join()
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    """One request of the browser."""

    server: _Callback
    timeout = 5
    """Seconds for a request that is begun."""

    def do_GET(self) -> None:
        """Take what the redirect carries, when it is of this login."""
        asked = urlsplit(self.path)
        given = {name: values[0] for name, values in parse_qs(asked.query).items() if len(values) == 1}
        ours = (
            asked.path == _CALLBACK
            and self.server.state != ""
            and secrets.compare_digest(given.get("state", "").encode(), self.server.state.encode())
        )
        if ours and not self.server.came.is_set():
            self.server.answer = given
        text = (_SAID if ours else "There is nothing here.\n").encode()
        self.send_response(200 if ours else 404)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(text)
        if ours:
            self.server.came.set()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name there
        """Nothing: the path holds a code."""


def _checked(address: str) -> str:
    """An address that a browser may be sent to, and nothing that starts a program."""
    parts = urlsplit(address)
    if not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL)):
        raise WireError(
            f"the server sends the browser to {address[:200]!r}, which is no https:// URL: nothing was opened"
        )
    return address
