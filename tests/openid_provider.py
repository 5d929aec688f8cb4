"""An OpenID provider in a thread, that checks what it is sent and answers what a test has it answer.

It knows the code flow with PKCE, nonce and client secret, and the device grant; each test can have it sign anything.
"""

import base64
import hashlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hansa.wire.tls import Certificate

__all__ = ["CLIENT", "SECRET", "ScriptedProvider", "scripted_provider"]

CLIENT = "hansa-here"
SECRET = "a secret: with/what a form must quote"  # noqa: S105
_KEYS: dict[str, Any] = {}


def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """The same key for the same name."""
    if name not in _KEYS:
        _KEYS[name] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    key: rsa.RSAPrivateKey = _KEYS[name]
    return key


class ScriptedProvider:
    """What it says; a test changes any of it."""

    def __init__(self, scheme: str, port: int) -> None:
        self.issuer = f"{scheme}://127.0.0.1:{port}"
        self.subject = "248289761001"
        self.claims: dict[str, Any] = {"preferred_username": "ida"}
        self.kid = "one"
        self.shown: list[dict[str, Any]] = [self.jwk("one")]
        """The keys that it shows."""
        self.document: dict[str, Any] = {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/jwks",
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "device_authorization_endpoint": f"{self.issuer}/device",
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            "authorization_response_iss_parameter_supported": True,
        }
        self.id_token: Callable[[dict[str, Any]], str] = self.signed
        """From the claims that would be right."""
        self.approvals: list[str] = []
        """What the device grant answers, one after another; then the token."""
        self.asked: list[str] = []
        """The paths that were asked for."""
        self.codes: dict[str, dict[str, str]] = {}

    def jwk(self, kid: str) -> dict[str, Any]:
        public = jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key(kid).public_key(), as_dict=True)
        return public | {"kid": kid, "use": "sig", "alg": "RS256"}

    def signed(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, rsa_key(self.kid), "RS256", {"kid": self.kid})

    def answer(self, path: str, query: dict[str, str], form: dict[str, str], client: str) -> tuple[int, Any]:
        """(status, what it answers: JSON, or where it redirects to)."""
        self.asked.append(path)
        match path:
            case "/.well-known/openid-configuration":
                return 200, self.document
            case "/jwks":
                return 200, {"keys": self.shown}
            case "/authorize":
                code = f"code-{len(self.codes)}"
                self.codes[code] = query
                came = {"code": code, "state": query["state"], "iss": self.issuer}
                return 302, f"{query['redirect_uri']}?{urlencode(came)}"
            case "/device" if client == CLIENT:
                return 200, {"device_code": "of the device", "user_code": "WDJB-MJHT", "expires_in": 60, "interval": 1,
                             "verification_uri": f"{self.issuer}/activate"}  # fmt: skip
            case "/token" if client == CLIENT:
                return self.token(form)
        return 404, {"error": "not_found"}

    def token(self, form: dict[str, str]) -> tuple[int, Any]:
        if form["grant_type"].endswith("device_code"):
            if form["device_code"] != "of the device":
                return 400, {"error": "invalid_grant"}
            if self.approvals:
                return 400, {"error": self.approvals.pop(0)}
            return 200, {"id_token": self.id_token(self.right())}
        asked = self.codes.pop(form["code"], None)
        made = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        if asked is None or asked["redirect_uri"] != form["redirect_uri"] or asked["code_challenge"] != made:
            return 400, {"error": "invalid_grant"}
        return 200, {"id_token": self.id_token(self.right() | {"nonce": asked["nonce"]})}

    def right(self) -> dict[str, Any]:
        now = int(time.time())
        return {"iss": self.issuer, "aud": CLIENT, "sub": self.subject, "iat": now, "exp": now + 300, **self.claims}


class _Handler(BaseHTTPRequestHandler):
    provider: ScriptedProvider

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self._answer(dict(parse_qsl(body)))

    def _answer(self, form: dict[str, str]) -> None:
        asked = urlsplit(self.path)
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        name, _, secret = base64.b64decode(given).decode().partition(":") if scheme == "Basic" else ("", "", "")
        client = name if unquote(secret.replace("+", " ")) == SECRET else ""
        query = {key: values[0] for key, values in parse_qs(asked.query).items()}
        status, answer = self.provider.answer(asked.path, query, form, client)
        body = json.dumps(answer).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", answer)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Somebody who does not trust it hangs up."""


@contextmanager
def scripted_provider(certificate: Certificate | None = None) -> Iterator[ScriptedProvider]:
    """One that answers until the end of the block. certificate: it speaks TLS, with this one."""
    handler = type("Handler", (_Handler,), {})
    server = _Server(("127.0.0.1", 0), handler)
    if certificate is not None:
        server.socket = _secured(certificate).wrap_socket(server.socket, server_side=True)
    handler.provider = ScriptedProvider("http" if certificate is None else "https", server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield handler.provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _secured(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(certificate.chain + certificate.key)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def elliptic() -> ec.EllipticCurvePrivateKey:
    """Another kind of key."""
    return ec.generate_private_key(ec.SECP256R1())
