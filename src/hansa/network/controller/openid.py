"""An OpenID provider as this server sees it: where its endpoints are, what they answer, and which keys it signs with.

OpenID Connect Core 1.0 and Discovery 1.0, with PKCE (RFC 7636) and the device grant (RFC 8628). Nothing that a caller
sends decides where a request goes: every address is of the issuer that is set, or of its own discovery document.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx
import jwt

from hansa.errors import AuthenticationError, ConfigError, ConnectionFailedError
from hansa.network.controller.id_tokens import key_id, public_keys, verify_id_token

__all__ = ["Device", "Pending", "Provider", "Registration"]

_TIMEOUT: Final = httpx.Timeout(10.0)
_LARGEST: Final = 1 << 20
"""Bytes of an answer."""
_FRESH: Final = 3600.0
"""Seconds for which the discovery document and the keys are believed."""
_PAUSE: Final = 30.0
"""Seconds before the keys are asked for again because of an unknown one: strangers can name any."""
_DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_LOCAL: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Registration:
    """How this server is registered with a provider."""

    issuer: str
    """The provider's URL, as its ID tokens name it."""
    client_id: str
    client_secret: str = field(default="", repr=False)
    """Empty: a public client, which PKCE alone protects."""
    scope: str = "openid profile email"
    """What is asked for, by spaces."""
    roots: str = ""
    """Authorities (PEM) of the provider's certificate; empty: those that the world believes."""


@dataclass(frozen=True, slots=True)
class Device:
    """A login that a person approves on another device."""

    device_code: str = field(repr=False)
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    """With the code in it; empty where the provider gives none."""
    expires_in: float
    """Seconds."""
    interval: float
    """Seconds between two questions."""


@dataclass(frozen=True, slots=True)
class Pending:
    """The person has not approved it yet."""

    slower: bool
    """Whether the provider wants to be asked less often."""


@dataclass(slots=True)
class _Remembered:
    document: Mapping[str, Any]
    at: float


class Provider:
    """One provider. It is asked when it is first needed, so that a server starts while its provider is away."""

    def __init__(self, registration: Registration, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds; it never goes back. Raises `ConfigError` for an issuer that is no https:// URL."""
        self.registration = registration
        self._clock = clock
        self._local = _checked_issuer(registration.issuer)
        self._http: httpx.AsyncClient | None = None
        self._discovery: _Remembered | None = None
        self._keys: _Remembered | None = None
        self._turn = asyncio.Lock()

    async def authorization_url(self, *, redirect: str, state: str, nonce: str, challenge: str) -> str:
        """Where a person's browser goes to log in. challenge: of PKCE, S256."""
        query = {
            "response_type": "code",
            "client_id": self.registration.client_id,
            "redirect_uri": redirect,
            "scope": self.registration.scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        address = await self._endpoint("authorization_endpoint")
        return f"{address}{'&' if urlsplit(address).query else '?'}{urlencode(query)}"

    async def says_who_it_is(self) -> bool:
        """Whether it names itself in the redirect (RFC 9207)."""
        document = await self._document()
        return document.get("authorization_response_iss_parameter_supported") is True

    async def redeem(self, code: str, *, redirect: str, verifier: str, nonce: str) -> Mapping[str, Any]:
        """The claims of the person who logged in; raises `AuthenticationError` when code or ID token do not hold."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect,
            "code_verifier": verifier,
        }
        status, answer = await self._post("token_endpoint", form)
        if status != httpx.codes.OK:
            raise AuthenticationError(f"the provider refuses the code ({_error_in(answer, status)}): log in again")
        return await self._claims(answer, nonce)

    async def begin_device(self) -> Device:
        """Ask for a code that a person types in on another device; raises `ConfigError` where the provider has none."""
        status, answer = await self._post("device_authorization_endpoint", {"scope": self.registration.scope})
        if status != httpx.codes.OK:
            raise AuthenticationError(f"the provider starts no login by device ({_error_in(answer, status)})")
        texts = [answer.get(name) for name in ("device_code", "user_code", "verification_uri")]
        if not all(isinstance(text, str) and text for text in texts):
            raise ConnectionFailedError(f"{self._name} answers a login by device without a code, or without an address")
        device_code, user_code, address = map(str, texts)
        complete = str(answer.get("verification_uri_complete") or "")
        return Device(
            device_code,
            user_code,
            address,
            complete,
            _seconds(answer.get("expires_in"), 600.0),
            _seconds(answer.get("interval"), 5.0),
        )

    async def redeem_device(self, device_code: str) -> Mapping[str, Any] | Pending:
        """The claims of the person who approved; raises `AuthenticationError` when they did not, or in no time."""
        status, answer = await self._post("token_endpoint", {"grant_type": _DEVICE_GRANT, "device_code": device_code})
        if status == httpx.codes.OK:
            return await self._claims(answer, None)
        said = _error_in(answer, status)
        if said in {"authorization_pending", "slow_down"}:
            return Pending(slower=said == "slow_down")
        raise AuthenticationError(f"the provider refuses the login by device ({said}): log in again")

    async def aclose(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    # ── tokens and keys ──────────────────────────────────────────────────────────────────────────────────────────

    async def _claims(self, answer: Mapping[str, Any], nonce: str | None) -> Mapping[str, Any]:
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise AuthenticationError("the provider gives no ID token: is `openid` in HANSA_OIDC_SCOPE?")
        _, kid = key_id(token)
        keys = await self._keys_for(kid)
        known = self.registration
        return await asyncio.to_thread(
            verify_id_token, token, keys, issuer=known.issuer, client_id=known.client_id, nonce=nonce
        )

    async def _keys_for(self, kid: str) -> tuple[jwt.PyJWK, ...]:
        """The keys that a token may be signed with. One that is not known is asked for, but not all the time."""
        async with self._turn:
            age = self._age(self._keys)
            if age < _FRESH and (found := _named(self._keys, kid)):
                return found
            if age >= _PAUSE:
                self._keys = _Remembered(await self._get(await self._endpoint("jwks_uri")), self._clock())
            return _named(self._keys, kid)

    # ── endpoints ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _name(self) -> str:
        return f"the OpenID provider {self.registration.issuer}"

    def _age(self, known: _Remembered | None) -> float:
        return float("inf") if known is None else self._clock() - known.at

    async def _document(self) -> Mapping[str, Any]:
        """What the provider says of itself (Discovery 1.0, section 4)."""
        if self._discovery is None or self._age(self._discovery) >= _FRESH:
            address = f"{self.registration.issuer.rstrip('/')}/.well-known/openid-configuration"
            document = await self._get(address)
            if document.get("issuer") != self.registration.issuer:
                raise ConfigError(
                    f"{self._name} calls itself {str(document.get('issuer'))[:200]!r}: if it is the one that is meant, "
                    "set HANSA_OIDC_ISSUER to exactly that"
                )
            self._discovery = _Remembered(document, self._clock())
        return self._discovery.document

    async def _endpoint(self, name: str) -> str:
        address = (await self._document()).get(name)
        if not isinstance(address, str) or not address:
            raise ConfigError(f"{self._name} has no {name}, which this way to log in needs")
        if not _is_safe(address, local=self._local):
            raise ConfigError(f"the {name} of {self._name} is no https:// URL, so nothing is sent there")
        return address

    async def _post(self, endpoint: str, form: Mapping[str, str]) -> tuple[int, Mapping[str, Any]]:
        """(status, answer) of a form, sent as the client that this server is registered as."""
        known, address = self.registration, await self._endpoint(endpoint)
        auth, filled = None, dict(form)
        methods = (await self._document()).get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if known.client_secret and "client_secret_basic" in methods:
            auth = httpx.BasicAuth(*(urlencode({"": text})[1:] for text in (known.client_id, known.client_secret)))
        else:
            filled["client_id"] = known.client_id
            if known.client_secret:
                filled["client_secret"] = known.client_secret
        return await self._ask("POST", address, data=filled, auth=auth)

    async def _get(self, address: str) -> Mapping[str, Any]:
        status, answer = await self._ask("GET", address)
        if status != httpx.codes.OK:
            raise ConnectionFailedError(f"{self._name} answers {status} to {address}; try again later")
        return answer

    async def _ask(self, method: str, address: str, **options: Any) -> tuple[int, Mapping[str, Any]]:
        """One request, of which no redirect is followed and of whose answer so much and no more is read."""
        body = bytearray()
        try:
            async with self._client().stream(method, address, **options) as response:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _LARGEST:
                        raise ConnectionFailedError(f"{self._name} answers more than {_LARGEST:,} bytes")
            answer = httpx.Response(response.status_code, content=bytes(body)).json()
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            raise ConnectionFailedError(
                f"{self._name} cannot be reached ({error!r}): try again later, or log in with a password"
            ) from error
        except ValueError as error:
            raise ConnectionFailedError(f"{self._name} does not answer in JSON: is it an OpenID provider?") from error
        if not isinstance(answer, dict):
            raise ConnectionFailedError(f"{self._name} answers with JSON that is no object: is it an OpenID provider?")
        return response.status_code, answer

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            verify = ssl.create_default_context(cadata=self.registration.roots or None)
            headers = {"Accept": "application/json"}
            self._http = httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False, verify=verify, headers=headers)
        return self._http


def _named(known: _Remembered | None, kid: str) -> tuple[jwt.PyJWK, ...]:
    keys = public_keys(known.document) if known is not None else ()
    return tuple(key for key in keys if not kid or key.key_id == kid)


def _checked_issuer(issuer: str) -> bool:
    """Whether the issuer is on this machine, where it may speak without TLS; raises `ConfigError`."""
    parts = urlsplit(issuer)
    local = parts.scheme == "http" and parts.hostname in _LOCAL
    if not _is_safe(issuer, local=local) or parts.query or parts.fragment:
        raise ConfigError(
            f"HANSA_OIDC_ISSUER is {issuer!r}: give the provider's https:// URL, without query or fragment"
        )
    return local


def _is_safe(address: str, *, local: bool) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    plain = local and parts.scheme == "http" and parts.hostname in _LOCAL
    return bool(parts.hostname) and (parts.scheme == "https" or plain) and parts.username is None


def _error_in(answer: Mapping[str, Any], status: int) -> str:
    """The error's short name (RFC 6749, section 5.2), which is safe to show; else the status."""
    said = answer.get("error")
    return said if isinstance(said, str) and said.isascii() and said.isprintable() and len(said) < 64 else str(status)  # noqa: PLR2004  # none is longer


def _seconds(given: Any, usual: float) -> float:
    return float(given) if isinstance(given, int | float) and 0 < given < 86_400 else usual  # noqa: PLR2004  # a day
