"""What a session has come to, round by round, a column for each number."""

from pydantic import Field

from hansa.api.shapes.answer import Shape
from hansa.messages import Kind

__all__ = ["BandShape", "CurveShape", "CurvesShape", "RoundColumnsShape", "SpreadShape"]


class CurveShape(Shape):
    """One metric, round by round: `rounds` and `values` are of one length."""

    kind: Kind
    name: str = Field(examples=["accuracy"])
    client: str
    """Empty: the weighted mean over clients; "central": evaluated beside the server."""
    rounds: list[int]
    values: list[float | None]
    """null where it was NaN."""


class RoundColumnsShape(Shape):
    """Committed rounds, a column for each of their numbers."""

    number: list[int]
    opened_at: list[float]
    closed_at: list[float]
    accepted: list[int]
    rejected: list[int]
    failed: list[int]
    missing: list[int]
    weight: list[int]
    """Examples summed."""
    model: list[str]


class CurvesShape(Shape):
    """What a session has come to, round by round."""

    curves: list[CurveShape]
    rounds: RoundColumnsShape
    cursor: int
    """The newest event before this was read."""


class BandShape(Shape):
    """How far apart the clients are in one metric, by nearest rank."""

    kind: Kind
    name: str = Field(examples=["accuracy"])
    rounds: list[int]
    low: list[float]
    """A tenth of the clients are at or below it."""
    middle: list[float]
    high: list[float]
    """Nine tenths of the clients are at or below it."""
    clients: list[int]
    """That reported it."""


class SpreadShape(Shape):
    """How far apart a session's clients are, round by round."""

    bands: list[BandShape]
