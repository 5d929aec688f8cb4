"""TLS as a caller sees it: which authorities it believes, and how it comes to know a network's own one.

A network signs its servers' certificates itself, unless it is given others. Whoever joins knows the SHA-256 fingerprint
of that authority, from the line that the operator copied; the server shows the authority's certificate in each
handshake, and one with this fingerprint is believed from then on. Such certificates are made out to a server's name
in its network, not to a host: addresses may change, and no server can be taken for another.
"""

import hashlib
import socket
import ssl
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from hansa.errors import ConnectionFailedError, InputError, UntrustedServerError
from hansa.wire.frames import ROOT

__all__ = [
    "CONTROLLER",
    "WORLD",
    "Certificate",
    "Scheme",
    "Trust",
    "address_of",
    "fingerprint",
    "read_pair",
    "read_pem",
    "roots_of",
    "server_name",
    "trust_in",
]

CONTROLLER: Final = "controller.hansa"
"""The controller's name in the certificates that a network signs itself."""

_PREFIX: Final = "sha256:"
_LENGTH: Final = 64
_HEX: Final = frozenset("0123456789abcdef")
_PATIENCE: Final = 10.0
"""Seconds for the handshake that shows an authority."""


class Scheme(StrEnum):
    """What stands before `://` in the address of a server that nodes join."""

    NETWORK = ""
    """Nothing: TLS, with a certificate that the network has signed."""
    TLS = "tls"
    """TLS, with a certificate for the host, which an authority has signed that the caller knows."""
    PLAIN = "tcp"
    """No encryption: whoever is between reads all, tokens too."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What one end of a connection shows, and proves that it is its own; both as PEM."""

    chain: str
    """The certificate first, then those that lead to the authority."""
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Trust:
    """How a caller knows that a server is the one that it means."""

    fingerprint: str = ""
    """Of the network's own authority, as `sha256:…`; its certificate is asked for when first needed."""
    roots: str = ""
    """Certificates (PEM) of the authorities that are believed; empty: those that the world believes."""
    name: str = ""
    """The name that the server's certificate must have; empty: the address's host."""
    own: Certificate | None = None
    """What the caller shows, to a server that wants to see one (mutual TLS)."""

    def __post_init__(self) -> None:
        """Raise `InputError` for a fingerprint that is none."""
        if self.fingerprint:
            _check_fingerprint(self.fingerprint)


WORLD: Final = Trust()
"""Authorities that the world believes, and a certificate for the address's host."""


def address_of(text: str) -> tuple[Scheme, str]:
    """(how it is dialled, host:port) of an address such as 10.0.0.5:8471 or tcp://host:8471; raises `InputError`."""
    scheme, mark, address = text.rpartition("://")
    if not mark:
        return Scheme.NETWORK, text
    if scheme not in {Scheme.TLS, Scheme.PLAIN}:
        raise InputError(
            f"{text!r} is no address of a node's server: write host:port, tls://host:port or tcp://host:port"
        )
    return Scheme(scheme), address


def server_name(project: str, node: str) -> str:
    """The name of a project's server in a certificate of the network: of letters that a host's name may have."""
    return CONTROLLER if node == ROOT else f"{blake3(f'{project}/{node}'.encode()).hexdigest()[:40]}.combiner.hansa"


def fingerprint(certificate: bytes) -> str:
    """`sha256:` and 64 hexadecimal digits, over a certificate's DER bytes."""
    return _PREFIX + hashlib.sha256(certificate).hexdigest()


def read_pem(path: Path) -> str:
    """The text of a file of certificates; raises `InputError` for one that has none."""
    try:
        text = path.expanduser().read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise InputError(f"the certificates in {path} cannot be read: {error}") from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise InputError(f"{path} holds no certificate in PEM: it has no line -----BEGIN CERTIFICATE-----")
    return text


def read_pair(chain: Path | None, key: Path | None) -> Certificate | None:
    """A certificate and its key from two files (PEM), None where neither is given; raises `InputError`."""
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise InputError("a certificate needs its key: set both HANSA_TLS_CERT and HANSA_TLS_KEY, or neither")
    try:
        return Certificate(read_pem(chain), key.expanduser().read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise InputError(f"the key in {key} cannot be read: {error}") from error


def trust_in(authority: str, own: Certificate | None = None) -> Trust:
    """Trust in an authority as people write it: sha256:…, a file of certificates (PEM), or nothing for the world's."""
    if authority.startswith(_PREFIX):
        return Trust(fingerprint=authority, own=own)
    return Trust(roots=read_pem(Path(authority)) if authority else "", own=own)


def roots_of(address: str, wanted: str) -> str:
    """The certificate (PEM) with this fingerprint that the server at host:port shows; it blocks for a handshake.

    Raises `UntrustedServerError` when it shows none, `ConnectionFailedError` when there is no TLS server.
    """
    _check_fingerprint(wanted)
    for shown in _shown(address):
        if fingerprint(shown) == wanted:
            return ssl.DER_cert_to_PEM_cert(shown)
    raise UntrustedServerError(
        f"{address} is not a server of the network {wanted[:19]}…: it shows no certificate of that authority; compare "
        "the fingerprint with what `hansa up` prints there, and do not go on if they differ: somebody may be between"
    )


def _shown(address: str) -> list[bytes]:
    """The chain of a handshake, DER; nothing in it is believed yet."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is said here, and the fingerprint is compared
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), _PATIENCE) as raw,
            context.wrap_socket(raw, server_hostname=CONTROLLER) as connection,
        ):
            return _chain(connection)
    except ssl.SSLError as error:
        raise ConnectionFailedError(
            f"{address} does not speak TLS ({error.reason or error}): check the address; a network without TLS is "
            "joined with tcp:// before the address"
        ) from error
    except OSError as error:
        raise ConnectionFailedError(
            f"cannot reach {address} ({error.strerror or error}): check the address, that the server runs, and the "
            "network between"
        ) from error


def _chain(connection: Any) -> list[bytes]:
    """Before Python 3.13 only the object inside can tell the whole chain."""
    if hasattr(connection, "get_unverified_chain"):
        return [bytes(each) for each in connection.get_unverified_chain()]
    inner = connection._sslobj  # noqa: SLF001 - the same method, not public yet
    return [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in inner.get_unverified_chain()]


def _check_fingerprint(text: str) -> None:
    digits = text.removeprefix(_PREFIX)
    if digits == text or len(digits) != _LENGTH or not _HEX.issuperset(digits):
        raise InputError(f"{text[:100]!r} is no fingerprint: it is sha256: and 64 digits of 0-9a-f; copy it whole")
