"""Projects, what they use of their quotas, and what was pruned of them."""

from pydantic import Field

from hansa.api.shapes.answer import Shape

__all__ = ["ProjectQuotaShape", "ProjectShape", "PruneReportShape", "PrunedSessionShape", "UseShape"]

_TIME = 1767225600.0


class ProjectShape(Shape):
    """A workspace."""

    id: str
    name: str
    created_at: float = Field(examples=[_TIME])
    """POSIX seconds, as all times."""
    max_sessions: int | None
    """Sessions that may run at once; null: the server's default."""
    max_storage: int | None
    """Bytes that it may hold on to; null: the server's default."""
    max_clients: int | None
    """Clients that may join, or hold a join token; null: the server's default."""


class UseShape(Shape):
    """What a project uses of one quota."""

    used: int
    most: int | None
    """null: any."""
    own: bool
    """Whether the project has a quota of its own, or the server's default."""


class ProjectQuotaShape(Shape):
    """What a project uses of its quotas."""

    sessions: UseShape
    """That run now."""
    storage: UseShape
    """Bytes of models, states of algorithms and packages, each object once."""
    clients: UseShape
    """That have joined, or hold a join token."""


class PrunedSessionShape(Shape):
    """What one session's policy gave up."""

    session: str
    name: str
    keep: str
    """The policy."""
    models: list[int]
    """The rounds whose models it was."""
    states: list[int]
    """The rounds whose states of the algorithm it was."""
    aggregates: list[int]
    """The rounds of which it was what they had added to the model."""


class PruneReportShape(Shape):
    """What was pruned; in a dry run what would be."""

    dry_run: bool
    sessions: list[PrunedSessionShape]
    """Those whose policies gave something up; one that runs does so itself, after each round."""
    objects: int
    """Objects that were removed."""
    bytes: int
    """Bytes of these objects."""
    unreferenced: int
    """How many of them were named by no row: of rounds that were never committed, or of deleted sessions."""
    waiting: int
    """Objects that are still to be removed, because they are in use."""
