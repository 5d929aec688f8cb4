"""What the unary and transfer calls carry, as values; `proto/hansa/v1/calls.proto` says the same in bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "AssignRequest",
    "Assignment",
    "CertificateRequest",
    "DownloadRequest",
    "SignedCertificate",
    "UploadReply",
]


@dataclass(frozen=True, slots=True)
class AssignRequest:
    """A node asks the controller which server to attach to."""

    preferred: str = ""
    """A combiner's name, honoured where it is connected; empty: no preference."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """As in `Hello`."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The server to attach to."""

    node: str
    address: str
    """As of `Hello`; empty: the controller itself, where it was asked."""
    roots: str = ""
    """Certificate (PEM) of the network's own authority; empty: it has none."""


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """A combiner has made a key, and wants a certificate for it that its children believe."""

    request: str
    """PKCS #10, PEM. The names that it asks for do not matter: it is made out to the caller's identity."""


@dataclass(frozen=True, slots=True)
class SignedCertificate:
    """What the combiner shows from now on."""

    chain: str
    """PEM: its certificate, then the authority's."""


@dataclass(frozen=True, slots=True)
class DownloadRequest:
    """The bytes of an object, from an offset to the end."""

    digest: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class UploadReply:
    """How far an upload has come."""

    received: int
    """Bytes of the whole that the server has."""
