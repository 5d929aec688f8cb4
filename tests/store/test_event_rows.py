"""Events are numbered, read on after one, and never change, in every metadata store."""

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest
from store_examples import PROJECT, Reopened, a_session, every

from hansa.errors import ConflictError, NotFoundError
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import (
    EventRecord,
)


def an_event(message: str, session: str = "") -> EventRecord:
    return EventRecord(0, PROJECT, session, "client.joined", message, 1.0)


async def test_events_get_growing_ids_and_a_cursor_reads_on_after_one(store: MetadataStore):
    await store.put(an_event("one"), an_event("two"))
    await store.put(an_event("three"))

    events = (await store.list(EventRecord, Query(PROJECT))).items
    later = await store.list(EventRecord, Query(PROJECT, after=events[0].id, limit=1))

    assert [e.message for e in events] == ["one", "two", "three"]
    assert all(0 < left.id < right.id for left, right in pairwise(events))
    assert ([e.message for e in later.items], later.total) == (["two"], 2)


async def test_the_id_of_a_deleted_event_is_not_given_again(store: MetadataStore):
    await store.put(a_session("s"), an_event("gone", "s"))
    cursor = (await store.list(EventRecord, Query(PROJECT))).items[-1].id
    await store.delete_session(PROJECT, "s")

    await store.put(an_event("new"))

    assert [e.message for e in (await store.list(EventRecord, Query(PROJECT, after=cursor))).items] == ["new"]


async def test_many_writers_at_once_number_their_events_without_gap_or_repeat(store: MetadataStore):
    await asyncio.gather(*(store.put(an_event(f"{i}a"), an_event(f"{i}b")) for i in range(50)))

    events = await every(store, EventRecord)

    assert [e.id for e in events] == list(range(events[0].id, events[0].id + 100))
    assert all(events[i].message[:-1] == events[i + 1].message[:-1] for i in range(0, 100, 2))


async def test_who_follows_the_ids_of_events_misses_none_that_several_writers_store(
    store: MetadataStore, reopened: Reopened
):
    writers = [await reopened() for _ in range(4)]
    seen: list[EventRecord] = []

    async def write(writer: MetadataStore, name: str) -> None:
        for i in range(25):
            await writer.put(an_event(f"{name}/{i}a"), an_event(f"{name}/{i}b"))

    async def follow() -> None:
        while len(seen) < 200:
            after = seen[-1].id if seen else 0
            seen.extend((await store.list(EventRecord, Query(PROJECT, after=after, limit=7))).items)

    async with asyncio.timeout(100):
        await asyncio.gather(follow(), *(write(writer, str(i)) for i, writer in enumerate(writers)))

    assert seen == await every(store, EventRecord)
    assert len({event.message for event in seen}) == 200


async def test_an_event_never_changes(store: MetadataStore):
    await store.put(an_event("said"))
    event = (await store.list(EventRecord, Query(PROJECT))).items[0]

    for refused in (store.put(replace(event, message="unsaid")), store.create(replace(event, message="unsaid"))):
        with pytest.raises(ConflictError, match="never change"):
            await refused

    assert (await store.get(EventRecord, PROJECT, str(event.id))).message == "said"


@pytest.mark.parametrize("key", ["x", "-1", "", "99", "9" * 30, "²"])
async def test_an_event_that_is_not_there_is_not_found(store: MetadataStore, key: str):
    with pytest.raises(NotFoundError):
        await store.get(EventRecord, PROJECT, key)
