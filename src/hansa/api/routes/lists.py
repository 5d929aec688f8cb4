"""Lists: one route for every kind of record, with pages, filters on every column, sorting and a cursor."""

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from functools import cache
from typing import Annotated, Any, Final, TypeVar

from fastapi import Query as QueryParameter
from pydantic import BaseModel, Field, create_model

from hansa.api.documents import to_document
from hansa.api.guard import Routes
from hansa.api.permissions import Permission
from hansa.api.requests import Strict
from hansa.api.shapes.answer import ListShape
from hansa.store.ports import MetadataStore, Page, Query
from hansa.store.queries import SEARCH, SEARCHED
from hansa.store.records import EventRecord, Record

__all__ = ["Cursors", "add_list", "list_shape", "listed"]

R = TypeVar("R", bound=Record)

_LARGEST: Final = 2**63 - 1
_PAGING: Final = frozenset({"limit", "offset", "sort", "after"})


class Paging(Strict):
    """Which part of a list."""

    limit: int = Field(100, ge=1, le=1000)
    """Items on a page."""
    offset: int = Field(0, ge=0, le=_LARGEST)
    """Items before the page."""
    sort: str | None = Field(None, max_length=50, examples=["-created_at"])
    """A column, with "-" before it for descending; by default oldest first."""


class Cursors:
    """The newest event of each project."""

    def __init__(self, store: MetadataStore) -> None:
        """store: where events are."""
        self._store = store
        self._known: dict[str, int] = {}

    async def newest(self, project: str) -> int:
        """The id of the newest event; 0 when there is none. Read it before what it goes with."""
        after = self._known.get(project, 0) - 1  # all that are older need not be counted
        page = await self._store.list(EventRecord, Query(project, after=after, sort="-id", limit=1))
        if page.items:
            self._known[project] = page.items[0].id
        return self._known.get(project, 0)


def add_list(
    routes: Routes,
    path: str,
    kind: type[R],
    shape: type[BaseModel],
    about: str,
    *,
    needs: Permission,
    store: MetadataStore,
    cursors: Cursors,
    fixed: Mapping[str, str | bool] | None = None,
) -> None:
    """Add the list of a kind of record. about: for its documentation; fixed: columns that are not for the caller."""
    set_here = dict(fixed or {})

    async def endpoint(project: str, query: Any) -> dict[str, Any]:
        cursor = await cursors.newest(project)
        given = query.model_dump(exclude_none=True)
        where = {name: value for name, value in given.items() if name not in _PAGING} | set_here
        page = await store.list(
            kind,
            Query(project, where, given.get("after"), query.sort or "", query.limit, query.offset),
        )
        return listed(page, cursor, query.limit, query.offset)

    endpoint.__annotations__["query"] = Annotated[_filters(kind, frozenset(set_here)), QueryParameter()]
    name = f"list_{path[1:].replace('-', '_')}"
    routes.add(needs, path, endpoint, response_model=list_shape(shape), name=name, description=about)


def listed(page: Page[R], cursor: int, limit: int, offset: int = 0) -> dict[str, Any]:
    """The envelope of every list."""
    items = [to_document(item) for item in page.items]
    return {"items": items, "total": page.total, "limit": limit, "offset": offset, "cursor": cursor}


@cache
def list_shape(shape: type[BaseModel]) -> type[BaseModel]:
    """The envelope with items of a shape."""
    name = shape.__name__.removesuffix("Shape")
    made: type[BaseModel] = create_model(f"{name}ListShape", __base__=ListShape[shape])  # type: ignore[valid-type]
    return made


def _filters(kind: Any, fixed: frozenset[str]) -> type[Paging]:
    """The query of a list: every column that can be compared; several values of a column mean any of them."""
    columns: dict[str, Any] = {}
    for field in fields(kind):
        plain = _comparable(field.type)
        if plain is None or field.name in fixed or field.name == "project":
            continue
        several = plain if plain is bool else list.__class_getitem__(plain)
        columns[field.name] = (
            several | None,
            Field(None, description=f"Only those with this {field.name}."),
        )
    if kind in SEARCHED:
        columns[SEARCH] = (
            Annotated[str, Field(max_length=100)] | None,
            Field(None, description=f"Only those whose {SEARCHED[kind]} holds this, in any case."),
        )
    if any(field.name == "labels" for field in fields(kind)):
        columns["label"] = (
            list[str] | None,
            Field(None, description="Only those with this label, as region=eu: of one key any value, of several all."),
        )
    if kind is EventRecord:
        columns["after"] = (
            Annotated[int | None, Field(ge=-1, le=_LARGEST)],
            Field(None, description="Only those after this event."),
        )
    name = kind.__name__.removesuffix("Record")
    made: type[Paging] = create_model(f"{name}Filter", __base__=Paging, **columns)
    return made


def _comparable(hint: Any) -> Any:
    if hint in (str, str | None):
        return str
    if hint is int:
        return Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]
    if hint is bool or (isinstance(hint, type) and issubclass(hint, Enum)):
        return hint
    return None
