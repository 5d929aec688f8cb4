"""Lists that are longer than a page, on every store."""

import pytest

from hansa.store import paging
from hansa.store.paging import every
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import ClientRecord


@pytest.mark.parametrize("count", [0, 2, 5])
async def test_all_records_come_once_and_in_order(
    store: MetadataStore, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "PAGE", 2)
    names = [f"client-{number}" for number in range(count)]
    await store.put(*(ClientRecord(f"p/{name}", "p", name, "", False, 1.0, 1.0) for name in reversed(names)))
    await store.put(ClientRecord("q/other", "q", "other", "", False, 1.0, 1.0))
    found = [record.name async for record in every(store, ClientRecord, Query("p", sort="name", limit=1, offset=1))]
    assert found == names
