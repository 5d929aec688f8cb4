"""What the API answers beside the records of `hansa.store.records`: the same values on the server and in the client."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from hansa.rounds.why import Why
from hansa.store.records import ProjectRecord, SessionState, TokenRecord
from hansa.wire.frames import Role

__all__ = ["IssuedToken", "Listing", "Me", "NewProject", "ServerInfo", "Waiting"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """One page of a list; iterating it gives the items."""

    items: tuple[T, ...]
    total: int
    """How many match in all."""
    cursor: int
    """The newest event of the project before this page was read: a stream opened after it misses nothing."""

    def __iter__(self) -> Iterator[T]:
        """The items."""
        return iter(self.items)

    def __len__(self) -> int:
        """How many items are on this page."""
        return len(self.items)

    def __getitem__(self, index: int) -> T:
        """An item of this page."""
        return self.items[index]


@dataclass(frozen=True, slots=True)
class Me:
    """Whom the server takes the caller for."""

    name: str
    role: Role
    project: str
    token_id: str


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The server, as nodes and people need to know it."""

    version: str
    grpc_address: str
    """host:port that clients and combiners join."""
    project: str
    """The caller's project."""
    started_at: float
    uptime: float
    """Seconds."""
    clients: int
    """Connected now, in the caller's project."""
    combiners: int
    """Connected now, in the caller's project."""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token; it is shown this once and never kept."""

    token: str
    record: TokenRecord


@dataclass(frozen=True, slots=True)
class NewProject:
    """A new project, and a token for its first admin, which is shown this once."""

    project: ProjectRecord
    token: str
    record: TokenRecord


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a session waits for."""

    session: str
    state: SessionState
    sentence: str
    """For a person."""
    phase: Why | None
    """The phase under way; None when the session does not run, or is between phases."""
