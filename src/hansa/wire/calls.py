"""What the unary and transfer calls carry, as values; `proto/hansa/v1/calls.proto` says the same in bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "AccessRequest",
    "AccessToken",
    "AssignRequest",
    "Assignment",
    "CertificateRequest",
    "DownloadRequest",
    "EnrollRequest",
    "Enrolled",
    "Kept",
    "RotateRequest",
    "SignedCertificate",
    "UploadReply",
]


@dataclass(frozen=True, slots=True)
class EnrollRequest:
    """A node makes its public key known, with the join token that the operator gave it."""

    public_key: str
    """`ed25519:` and 64 hexadecimal digits."""
    proof: str
    """Its signature of the join token (`node_key.NodeKey.prove`): 128 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """From now on the key stands for the node."""

    node: str


@dataclass(frozen=True, slots=True)
class RotateRequest:
    """A node has made another key, and hands its name over to it: both sign that (`statements.handover_statement`)."""

    public_key: str
    """The new one: `ed25519:` and 64 hexadecimal digits."""
    by_former: str
    """Signature with the key so far: 128 hexadecimal digits."""
    by_key: str
    """Signature with the new one."""


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """A node asks for an access token; who it is says the token that it has signed."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What every other call carries."""

    token: str
    expires_in: float
    """Seconds."""


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


@dataclass(frozen=True, slots=True)
class Kept:
    """What the relay has of a pair of parties."""

    letters: int
    """How many of the sender to the receiver."""
