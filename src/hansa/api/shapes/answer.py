"""An answer, a page of a list of them, and a problem: what every route may give."""

from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ListShape", "ProblemShape", "Shape"]

T = TypeVar("T")


class Shape(BaseModel):
    """An answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ProblemShape(Shape):
    """What went wrong, and what to do (RFC 9457)."""

    type: str = Field(examples=["urn:hansa:problem:not-found"])
    """Stable; what programs should look at."""
    title: str = Field(examples=["There is no such thing"])
    """The kind of problem, for a person."""
    status: int = Field(examples=[404])
    """The HTTP status."""
    detail: str = Field(examples=["there is no session '1234' in project 'default'"])
    """What happened, to whom, and what to do."""
    instance: str = Field(examples=["/api/v1/projects/default/sessions/1234"])
    """The path that was asked for; for a fault of the server, the id under which it is in its log."""
    errors: list[dict[str, str]] = []
    """Of a request that does not fit: the field and what is wrong with it, for each."""


class ListShape(Shape, Generic[T]):
    """One page of a list."""

    items: list[T]
    total: int
    """How many match in all."""
    limit: int
    offset: int
    cursor: int
    """The newest event before this page was read; open the event stream after it and nothing is missed."""
