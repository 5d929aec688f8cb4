"""Where a collection's documents come from, and how much of what is asked of them the store can answer.

A field that a column holds as it is can be searched and sorted by in the store; where all that is asked for is of such
fields, no more rows are read than are shown. Else what the store can search by narrows what is looked through here.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeAlias, TypeVar

from hansa.compat.fedn.listing import Asked, Document, plain_text, select
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import Record

__all__ = ["Source", "listed"]

R = TypeVar("R", bound=Record)

Where: TypeAlias = Mapping[str, str | int | float | bool | Sequence[str]]

_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Source(Generic[R]):
    """Rows of one kind, each of which is one document."""

    kind: type[R]
    make: Callable[[Sequence[R]], Awaitable[list[Document]]]
    """The documents of some rows, in their order."""
    times: str
    """The column of `committed_at`."""
    where: Where = field(default_factory=dict)
    """Which of the rows."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field → the column that holds the same text."""
    sessions: frozenset[str] | None = None
    """Those of which each row says that it is one's; None: of any."""

    def column(self, name: str, wanted: object) -> str | None:
        """The column in which the store finds a field's value; None: it must be looked for in the documents."""
        column = self.columns.get(name)
        if column is None or not plain_text(wanted):
            return None
        if column == "session" and self.sessions is not None and wanted not in self.sessions:
            return None
        return column


async def listed(
    store: MetadataStore, project: str, sources: Sequence[Source[Any]], asked: Asked
) -> tuple[int, list[Document]]:
    """(how many match in all, those of the page), as `listing.select` of all documents."""
    asks = [_Ask(store, project, source, asked) for source in sources]
    whole = all(ask.whole for ask in asks) and asked.sort == "committed_at"
    end = None if asked.limit is None else asked.skip + asked.limit
    total, documents = 0, list[Document]()
    for ask in asks:
        count, rows = await ask.rows(end if whole else None)
        total += count
        documents += await ask.source.make(rows)
    if not whole:
        return select(documents, asked)
    return total, select(documents, replace(asked, where={}))[1]


class _Ask:
    """What the store is asked of one source."""

    def __init__(self, store: MetadataStore, project: str, source: Source[Any], asked: Asked) -> None:
        self.source = source
        found = {name: source.column(name, wanted) for name, wanted in asked.fields.items()}
        self.whole = None not in found.values()
        """Whether that is all there is to ask."""
        where = {column: asked.fields[name] for name, column in found.items() if column is not None}
        self._where = {**where, **source.where}
        self._sort = f"{'-' if asked.descending else ''}{source.times}"
        self._store, self._project = store, project
        self._nothing = any(column in source.where and source.where[column] != where[column] for column in where)

    async def rows(self, most: int | None) -> tuple[int, list[Any]]:
        """(how many there are, the first of them); most: None: all."""
        if self._nothing:
            return 0, []
        rows: list[Any] = []
        total = 1
        while len(rows) < total and (most is None or len(rows) < most):
            limit = _PAGE if most is None else min(_PAGE, most - len(rows))
            query = Query(self._project, self._where, sort=self._sort, limit=limit, offset=len(rows))
            page = await self._store.list(self.source.kind, query)
            rows += page.items
            total = page.total if page.items else len(rows)
        return max(total, len(rows)), rows
