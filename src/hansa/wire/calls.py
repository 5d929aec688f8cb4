"""What the unary and transfer calls carry, as values; `proto/hansa/v1/calls.proto` says the same in bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["AssignRequest", "Assignment", "DownloadRequest", "UploadReply"]


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
    """host:port."""


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
