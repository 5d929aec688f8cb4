"""HTTP for the client: requests, problems as exceptions, and server-sent events."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import httpx

from hansa.api.encryption import client_context
from hansa.api.problems import MEDIA_TYPE, error_of
from hansa.errors import (
    AuthenticationError,
    ConnectionFailedError,
    HansaError,
    InputError,
    UntrustedServerError,
    WireError,
)
from hansa.wire.tls import WORLD, Trust

__all__ = ["Message", "Transport"]

_TIMEOUT: Final = httpx.Timeout(10.0, read=120.0, write=120.0)
_SILENCE: Final = 45.0
"""Seconds without a byte after which a stream counts as lost; the server says something every 15."""
_BLOCK: Final = 1 << 20
_PIECE: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Message:
    """One server-sent event."""

    id: int | None
    event: str
    data: Any


class Transport:
    """Requests to one server with one token."""

    def __init__(self, url: str, token: str, trust: Trust = WORLD) -> None:
        """url: of the server, without the path; token: empty for a request that needs none.

        trust: how the server is known, where the URL begins with https.
        """
        self.url = url.rstrip("/")

        def named(request: httpx.Request) -> None:
            if trust.name:
                request.extensions["sni_hostname"] = trust.name

        try:
            self._client = httpx.Client(
                base_url=f"{self.url}/api/v1",
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=_TIMEOUT,
                trust_env=False,
                verify=client_context(trust),
                event_hooks={"request": [named]},
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise InputError(f"{url!r} cannot be a server's URL ({error}); give one like https://host:8470") from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def json(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> Mapping[str, Any]:
        """The JSON object that the server answers; raises what a problem stands for."""
        with self._explained():
            response = self._client.request(method, path, params=_given(query), json=body)
        return self._document(response)

    def upload(self, path: str, parts: Sequence[bytes | memoryview], query: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a POST of the parts' bytes."""
        views = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(sum(map(len, views)))}
        with self._explained():
            response = self._client.post(path, params=_given(query), content=_blocks(views), headers=headers)
        return self._document(response)

    def download(self, path: str, target: BinaryIO) -> int:
        """Write the bytes of an answer; returns how many."""
        written = 0
        with self._explained(), self._client.stream("GET", path) as response:
            if response.is_error:
                response.read()
                raise self._error(response)
            for block in response.iter_bytes(_BLOCK):
                written += target.write(block)
        return written

    def stream(self, path: str, query: Mapping[str, Any], last: int | None = None) -> Iterator[Message]:
        """Server-sent events until the server closes. last: the id after which they begin, over the query's `after`."""
        headers = {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": str(last)})
        timeout = httpx.Timeout(_TIMEOUT.connect, read=_SILENCE)
        with (
            self._explained(),
            self._client.stream("GET", path, params=_given(query), headers=headers, timeout=timeout) as response,
        ):
            if response.is_error:
                response.read()
                raise self._error(response)
            yield from _messages(response.iter_lines())

    def _document(self, response: httpx.Response) -> Mapping[str, Any]:
        if response.is_error:
            raise self._error(response)
        if not response.content:
            return {}
        try:
            document = response.json()
        except ValueError as error:
            raise WireError(f"{self.url} did not answer in JSON: is it a hansa server?") from error
        if not isinstance(document, dict):
            raise WireError(f"{self.url} did not answer with a JSON object: is it a hansa server?")
        return document

    def _error(self, response: httpx.Response) -> HansaError:
        if response.headers.get("content-type", "").startswith(MEDIA_TYPE):
            try:
                return error_of(response.status_code, json.loads(response.content))
            except (ValueError, AttributeError):
                pass
        return ConnectionFailedError(
            f"{self.url} answered with status {response.status_code}, and not as a hansa server does: check the URL"
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except httpx.InvalidURL as error:
            raise InputError(f"{self.url!r} cannot be a server's URL; give one like https://host:8470") from error
        except httpx.UnsupportedProtocol as error:
            raise InputError(
                f"{self.url!r} cannot be a server's URL; give one that begins with http:// or https://"
            ) from error
        except httpx.LocalProtocolError as error:
            raise AuthenticationError("the token cannot be sent: copy it whole, as it was printed") from error
        except httpx.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                reason = _reason(error)
                remedy = (
                    "check the clocks of both machines; if they are right, let its operator renew it"
                    if reason in {"certificate has expired", "certificate is not yet valid"}
                    else "give the fingerprint of its authority, as `hansa up` prints it there, with --ca or HANSA_CA"
                )
                raise UntrustedServerError(
                    f"{self.url} shows a certificate that is not believed here ({reason}): {remedy}"
                ) from error
            if "SSL" in str(error):
                raise ConnectionFailedError(
                    f"{self.url} does not speak TLS, or does not like what this caller shows ({error}): write http:// "
                    "only where the server was started without TLS"
                ) from error
            raise ConnectionFailedError(
                f"no hansa server answers at {self.url} ({error}): start one with `hansa up`, or set the right URL"
            ) from error
        except httpx.ConnectTimeout as error:
            raise ConnectionFailedError(
                f"cannot reach {self.url}: nothing answers there within {_TIMEOUT.connect:.0f} seconds; check the "
                "address, that the server runs, and the network between"
            ) from error
        except httpx.TimeoutException as error:
            raise ConnectionFailedError(
                f"{self.url} said nothing for too long: the network between passes nothing any more, or the server is "
                "overloaded"
            ) from error
        except httpx.TransportError as error:
            raise ConnectionFailedError(f"the connection to {self.url} broke ({error}): try again") from error


def _reason(error: httpx.ConnectError) -> str:
    return str(error).rpartition("verify failed: ")[2].partition(" (_ssl")[0]


def _blocks(views: Iterable[memoryview]) -> Iterator[bytes]:
    """Small pieces: what httpcore sends in one piece it copies again for every packet."""
    for view in views:
        for start in range(0, len(view), _PIECE):
            yield bytes(view[start : start + _PIECE])


def _given(query: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (query or {}).items() if value is not None}


def _messages(lines: Iterator[str]) -> Iterator[Message]:
    """Server-sent events of lines; comments and fields of no use here are left out."""
    number: int | None = None
    event, data = "message", list[str]()
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Message(number, event, json.loads("\n".join(data)))
            number, event, data = None, "message", []
        elif name == "id" and value.isdigit():
            number = int(value)
        elif name == "event":
            event = value
        elif name == "data":
            data.append(value)
