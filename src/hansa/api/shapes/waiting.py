"""What a session or a prediction waits for."""

from pydantic import Field

from hansa.api.shapes.answer import Shape
from hansa.messages import Kind
from hansa.rounds.why import RoundState
from hansa.store.records import SessionState

__all__ = ["OutstandingShape", "PhaseShape", "WaitingShape"]


class OutstandingShape(Shape):
    """A client that a round waits for."""

    name: str
    activity: str
    done: float | None
    total: float | None
    """0 where it is unknown."""
    rate: float | None
    silent: float | None
    """Seconds since it was invited or last heard."""
    lease_ends: float | None
    connected: bool
    staleness: int | None
    """Rounds committed since it was given its model; null: of no asynchronous session."""


class PhaseShape(Shape):
    """The phase under way; its times are on the server's monotonic clock, `now` among them."""

    now: float
    round: int
    kind: Kind
    state: RoundState
    connected: int
    needed: int
    invited: int
    accepted: int
    examples: int
    quorum: int
    enough: int | None
    deadline: float | None
    outstanding: list[OutstandingShape]
    withdrawn: list[str]
    rejected: int
    failed: int
    staleness: int | None
    """Of an asynchronous session: the largest of the accepted updates, of which `enough` close the round."""


class WaitingShape(Shape):
    """What a session waits for."""

    session: str
    state: SessionState
    sentence: str = Field(examples=["round 3 is open: 2 of 4 invited clients delivered, 3 are needed"])
    phase: PhaseShape | None
    """null when the session does not run, or is between phases."""
