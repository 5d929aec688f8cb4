"""Lists of any length, a page at a time."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeVar

from hansa.store.ports import MetadataStore, Query
from hansa.store.records import Record

__all__ = ["PAGE", "every"]

R = TypeVar("R", bound=Record)

PAGE = 1000
"""Records that are read at a time: the most that a store gives."""


async def every(store: MetadataStore, kind: type[R], query: Query) -> AsyncIterator[R]:
    """All that match, in the query's order; its limit and offset are not looked at.

    What comes or goes meanwhile may shift a page: collect them first where what is done with one changes whether it
    matches.
    """
    offset, total = 0, 1
    while offset < total:
        page = await store.list(kind, replace(query, limit=PAGE, offset=offset))
        for record in page.items:
            yield record
        offset, total = offset + PAGE, page.total
