"""Predictions, and what clients have answered."""

from pydantic import Field, JsonValue

from hansa.api.shapes.answer import Shape
from hansa.store.records import SessionState

__all__ = ["AnswerShape", "PredictionShape"]


class PredictionShape(Shape):
    """A question to clients: what does this model predict of your data?"""

    id: str = Field(examples=["5d41402abc4b"])
    project: str
    name: str
    model: str
    """Digest."""
    package: str | None
    """Digest of the user's code; null when clients bring their own."""
    spec: dict[str, JsonValue]
    """Whom it asks (`rules`), and what is handed to user code (`config`)."""
    state: SessionState
    """running, finished, failed or stopped."""
    created_at: float
    asked: int
    """Clients that were invited."""
    answered: int
    """Clients whose predictions are kept."""
    cause: str
    """Why it is over."""
    ended_at: float | None


class AnswerShape(Shape):
    """What one client predicted, or why it did not."""

    id: str
    project: str
    prediction: str
    client: str
    at: float
    document: str | None
    """JSON; null: it failed, or refused."""
    reason: str
    """Why there is none."""
