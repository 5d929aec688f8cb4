"""Lists of rows: filtered, sorted, page by page, from every metadata store alike."""

import pytest
from store_examples import PROJECT, a_session, fill

from hansa.errors import ConfigError
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import (
    ClientRecord,
    ProjectRecord,
    Record,
    SessionRecord,
    SessionState,
    TokenRecord,
)


async def test_a_list_is_filtered_sorted_and_paged(store: MetadataStore):
    states = [SessionState.RUNNING, SessionState.FINISHED, SessionState.FAILED]
    await store.put(*(a_session(f"s{i}", state=states[i % 3], created_at=100.0 - i) for i in range(9)))

    page = await store.list(
        SessionRecord, Query(PROJECT, {"state": ["running", "failed"]}, sort="-created_at", limit=3, offset=2)
    )

    assert ([s.id for s in page.items], page.total) == (["s3", "s5", "s6"], 6)


async def test_pages_cover_everything_once_even_when_the_sorted_column_is_equal(store: MetadataStore):
    await store.put(*(a_session(f"s{i}") for i in range(10)))

    pages = [await store.list(SessionRecord, Query(PROJECT, sort="-name", limit=3, offset=i)) for i in (0, 3, 6, 9, 12)]

    assert [s.id for page in pages for s in page.items] == [f"s{i}" for i in reversed(range(10))]
    assert {page.total for page in pages} == {10}


async def test_without_a_sort_the_oldest_comes_first(store: MetadataStore):
    for key in ("z", "a", "m"):
        await store.put(a_session(key))

    assert [s.id for s in (await store.list(SessionRecord, Query(PROJECT))).items] == ["z", "a", "m"]


async def test_what_has_no_value_is_found_by_that(store: MetadataStore):
    await store.put(a_session("a", started_at=2.0), a_session("b"), a_session("c"))

    page = await store.list(SessionRecord, Query(PROJECT, {"started_at": None}, limit=1))

    assert ([each.id for each in page.items], page.total) == (["b"], 2)


async def test_what_has_no_value_is_sorted_last_in_both_directions(store: MetadataStore):
    await store.put(a_session("a", started_at=2.0), a_session("b"), a_session("c", started_at=1.0))

    orders = [await store.list(SessionRecord, Query(PROJECT, sort=sort)) for sort in ("started_at", "-started_at")]

    assert [[s.id for s in order.items] for order in orders] == [["c", "a", "b"], ["a", "c", "b"]]


@pytest.mark.parametrize(
    ("kind", "where", "found"),
    [
        (TokenRecord, {"revoked": True}, 1),
        (TokenRecord, {"revoked": "false"}, 0),
        (SessionRecord, {"round": 3}, 1),
        (SessionRecord, {"round": "3"}, 1),
        (SessionRecord, {"created_at": 1.5, "state": SessionState.FAILED}, 1),
        (SessionRecord, {"id": ["s1", "s2"]}, 1),
        (SessionRecord, {"id": []}, 0),
        (ClientRecord, {"name": "a' OR '1'='1"}, 0),
    ],
    ids=str,
)
async def test_a_filter_takes_a_value_its_text_or_several(
    store: MetadataStore, kind: type[Record], where: dict[str, object], found: int
):
    await fill(store)

    assert (await store.list(kind, Query(PROJECT, where))).total == found


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (Query(PROJECT, {"nmae": "x"}), "filter by 'nmae': the columns of sessions are id, project, name, state"),
        (Query(PROJECT, {"spec": "x"}), "filter by 'spec'"),
        (Query(PROJECT, {"seq": 1}), "filter by 'seq'"),
        (Query(PROJECT, sort="-nmae"), "sort by 'nmae': the columns of sessions are"),
        (Query(PROJECT, sort="name; DROP TABLE sessions"), "sort by"),
        (Query(PROJECT, {"state": "runing"}), "one of created, running, finished, failed, stopped"),
        (Query(PROJECT, {"round": "three"}), "a whole number"),
        (Query(PROJECT, {"round": 1.5}), "a whole number"),
        (Query(PROJECT, {"round": True}), "a whole number"),
        (Query(PROJECT, {"round": 2**63}), "a whole number"),
        (Query(PROJECT, {"created_at": "soon"}), "a number"),
        (Query(PROJECT, {"name": 3}), "a text"),
        (Query(PROJECT, limit=0), "1 to 1000"),
        (Query(PROJECT, limit=1001), "1 to 1000"),
        (Query(PROJECT, offset=-1), "offset"),
        (Query(PROJECT, after=3), "events"),
    ],
    ids=str,
)
async def test_a_query_that_cannot_be_is_refused_with_what_could_be(store: MetadataStore, query: Query, says: str):
    with pytest.raises(ConfigError, match=says):
        await store.list(SessionRecord, query)


async def test_a_truth_value_is_true_or_false(store: MetadataStore):
    with pytest.raises(ConfigError, match="true or false"):
        await store.list(TokenRecord, Query(PROJECT, {"revoked": "perhaps"}))


async def test_only_the_list_of_projects_may_span_all_projects(store: MetadataStore):
    await store.put(ProjectRecord("a", "A", 1.0), ProjectRecord("b", "B", 2.0), a_session("s", "a"))

    assert [p.id for p in (await store.list(ProjectRecord, Query(""))).items] == ["a", "b"]
    assert [p.id for p in (await store.list(ProjectRecord, Query("b"))).items] == ["b"]
    assert (await store.list(SessionRecord, Query(""))).total == 0
