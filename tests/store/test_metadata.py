"""What every metadata store must do, whatever database it keeps its rows in."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from store_examples import PROJECT, a_commit, a_session, digest, every, one_of_each

from hansa.errors import ConfigError, ConflictError, HansaError, InputError, NotFoundError
from hansa.messages import Kind, RunSpec
from hansa.store.link import round_link, verify_chain
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import (
    AnswerRecord,
    AuditRecord,
    ClientRecord,
    ContributionRecord,
    EventRecord,
    MetricRecord,
    ModelRecord,
    PackageRecord,
    PredictionRecord,
    ProjectRecord,
    Record,
    RoundRecord,
    SampleRecord,
    SessionRecord,
    SessionState,
    TokenRecord,
)

Reopened = Callable[[], Awaitable[MetadataStore]]
KINDS = [type(record) for record in one_of_each()]


async def fill(store: MetadataStore, project: str = PROJECT) -> None:
    """Store one record of each kind."""
    await store.put(*(unnumbered(record) for record in one_of_each(project)))


def unnumbered(record: Record) -> Record:
    """As it is before it is stored."""
    match record:
        case EventRecord():
            return replace(record, id=0, link=None)
        case AuditRecord():
            return replace(record, id="", number=0, link="")
        case _:
            return record


# ── one row ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("record", one_of_each(), ids=lambda record: type(record).__name__)
async def test_a_record_comes_back_equal_and_with_the_types_of_its_values(store: MetadataStore, record: Record):
    await fill(store)

    assert repr(await store.get(type(record), PROJECT, str(record.id))) == repr(record)


async def test_rows_are_there_after_the_store_was_closed_and_opened(store: MetadataStore, reopened: Reopened):
    await fill(store)
    await store.close()

    again = await reopened()

    assert [(await every(again, kind)) for kind in KINDS] == [[record] for record in one_of_each()]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_a_row_of_another_project_is_not_found_and_not_listed(store: MetadataStore, kind: type[Record]):
    await fill(store, "theirs")
    key = next(str(record.id) for record in one_of_each("theirs") if type(record) is kind)
    assert await store.get(kind, "theirs", key)

    with pytest.raises(NotFoundError, match=rf"'{key}' in project 'ours'"):
        await store.get(kind, "ours", key)
    assert (await store.list(kind, Query("ours"))).total == 0


async def test_the_same_ids_in_two_projects_are_two_rows_each(store: MetadataStore):
    await store.put(a_session("s", "ours", name="mine"), a_session("s", "theirs", name="their own"))

    await store.put(a_session("s", "ours", name="renamed"))

    assert (await store.get(SessionRecord, "theirs", "s")).name == "their own"
    assert (await store.get(SessionRecord, "ours", "s")).name == "renamed"


async def test_put_replaces_the_row_with_the_same_id_and_keeps_its_place(store: MetadataStore):
    await store.put(a_session("a"), a_session("b"))

    await store.put(a_session("a", state=SessionState.STOPPED, cause="stopped by an operator"))

    listed = (await store.list(SessionRecord, Query(PROJECT))).items
    assert [(s.id, s.state) for s in listed] == [("a", SessionState.STOPPED), ("b", SessionState.RUNNING)]


async def test_put_stores_all_or_none(store: MetadataStore):
    orphan = ContributionRecord("x/1/c", PROJECT, "no such session", 1, "c", "accepted")

    with pytest.raises(NotFoundError, match="session"):
        await store.put(a_session("a"), orphan)

    assert await every(store, SessionRecord) == []


async def test_put_of_nothing_is_harmless(store: MetadataStore):
    await store.put()


async def test_create_refuses_an_id_that_exists_and_leaves_the_row(store: MetadataStore):
    await store.create(a_session("a", name="first"))

    with pytest.raises(ConflictError, match="session 'a'"):
        await store.create(a_session("a", name="second"))

    assert (await store.get(SessionRecord, PROJECT, "a")).name == "first"


async def test_of_many_that_create_the_same_id_at_once_one_succeeds(store: MetadataStore):
    outcomes = await asyncio.gather(
        *(store.create(a_session("a", name=str(i))) for i in range(20)), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes].count(ConflictError) == 19


async def test_nan_and_infinity_survive(store: MetadataStore):
    await store.put(
        a_session("s1"),
        MetricRecord("m", PROJECT, "s1", 1, Kind.TRAIN, "loss", math.nan, 1),
        MetricRecord("n", PROJECT, "s1", 1, Kind.TRAIN, "loss", -math.inf, 1),
        ContributionRecord("c", PROJECT, "s1", 1, "c", "accepted", metrics={"loss": math.nan, "max": math.inf}),
    )

    assert math.isnan((await store.get(MetricRecord, PROJECT, "m")).value)
    assert (await store.get(MetricRecord, PROJECT, "n")).value == -math.inf
    metrics = (await store.get(ContributionRecord, PROJECT, "c")).metrics
    assert (repr(metrics["loss"]), metrics["max"]) == ("nan", math.inf)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (a_session("a", round=2**63), "sessions.round"),
        (a_session("a", created_at=math.nan), "sessions.created_at"),
        (a_session("a\0b"), "NUL"),
        (a_session("\ud800"), "Unicode"),
        (a_session("a", spec=RunSpec(config={"key": b"bytes"})), r"spec\.config\['key'\] is a bytes"),
    ],
    ids=["beyond 64 bits", "NaN", "NUL", "lone surrogate", "bytes"],
)
async def test_a_value_that_cannot_be_kept_is_refused_by_name(store: MetadataStore, record: Record, says: str):
    with pytest.raises(InputError, match=says):
        await store.put(record)

    assert await every(store, SessionRecord) == []


# ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── rounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def everything(store: MetadataStore) -> list[list[Record]]:
    return [await every(store, kind) for kind in KINDS]


async def test_a_committed_round_is_there_with_all_its_parts_and_its_link(store: MetadataStore):
    await store.put(a_session())
    commit = a_commit(a_session(), 1)

    await store.commit_round(commit)

    link = round_link("", commit.round, commit.contributions)
    assert await store.get(RoundRecord, PROJECT, "s1/1") == replace(commit.round, link=link)
    assert await store.get(SessionRecord, PROJECT, "s1") == commit.session
    assert await every(store, ContributionRecord) == list(commit.contributions)
    assert await every(store, ModelRecord) == [commit.model]
    assert await every(store, MetricRecord) == list(commit.metrics)
    assert [e.kind for e in await every(store, EventRecord)] == ["round.opened", "round.committed"]


async def test_committed_rounds_form_a_chain_that_verifies(store: MetadataStore):
    await store.put(a_session())
    for number in range(1, 6):
        await store.commit_round(a_commit(a_session(), number))

    verify_chain(await every(store, RoundRecord), await every(store, ContributionRecord))


async def test_committing_the_same_round_again_changes_nothing(store: MetadataStore):
    await store.put(a_session())
    await store.commit_round(a_commit(a_session(), 1))
    await store.commit_round(a_commit(a_session(), 2))
    before = await everything(store)

    await store.commit_round(a_commit(a_session(), 2))
    await store.commit_round(a_commit(a_session(), 1))

    assert await everything(store) == before


async def test_of_many_that_commit_the_same_round_at_once_all_succeed_and_it_is_there_once(store: MetadataStore):
    await store.put(a_session())

    await asyncio.gather(*(store.commit_round(a_commit(a_session(), 1)) for _ in range(10)))

    assert len(await every(store, EventRecord)) == 2


def refused_commits() -> dict[str, tuple[object, type[HansaError], str]]:
    session = a_session()
    good = a_commit(session, 2)
    accepted = good.contributions[0]
    others = good.contributions[1:]
    fewer = replace(good, contributions=others, round=replace(good.round, accepted=2, weight=5))
    return {
        "another model": (a_commit(session, 1, model=digest(77)), ConflictError, "committed with model"),
        "other contributors": (
            replace(a_commit(session, 1, 2), model=a_commit(session, 1).model),
            ConflictError,
            "other contributors",
        ),
        "a gap": (a_commit(session, 3), ConflictError, "round 2 has not been"),
        "another parent": (a_commit(session, 2, parent=digest(55)), ConflictError, "the round before made"),
        "a wrong link": (
            replace(good, round=replace(good.round, link=digest(1))),
            ConflictError,
            "read the session again",
        ),
        "no such session": (a_commit(a_session("s9"), 1), NotFoundError, "'s9'"),
        "a session of another project": (a_commit(a_session("s1", "theirs"), 1), NotFoundError, "'theirs'"),
        "round 0": (a_commit(session, 0, parent=digest(9)), InputError, "from 1"),
        "a sum that is not its parts'": (replace(good, contributions=others), InputError, "accepted contributions"),
        "a wrong weight": (replace(fewer, round=replace(fewer.round, weight=6)), InputError, "examples"),
        "a client twice": (
            replace(
                good,
                contributions=(accepted, replace(accepted, id="other")),
                round=replace(good.round, accepted=2, weight=2),
            ),
            InputError,
            "'client-0' twice",
        ),
        "another session's contribution": (
            replace(good, contributions=(*good.contributions, replace(accepted, outcome="missing", session="s2"))),
            InputError,
            "of session s2",
        ),
        "another round's metric": (replace(good, metrics=(replace(good.metrics[0], round=1),)), InputError, "round 1"),
        "another project's event": (
            replace(good, events=(replace(good.events[0], project="theirs"),)),
            InputError,
            "rows in",
        ),
        "another session's round": (replace(good, session=replace(good.session, round=1)), InputError, "session.round"),
        "a model from elsewhere": (replace(good, model=replace(good.model, parent=None)), InputError, "model.parent"),
        "a stored event": (replace(good, events=(replace(good.events[0], id=1),)), ConflictError, "never change"),
    }


@pytest.mark.parametrize("name", refused_commits())
async def test_a_round_that_contradicts_itself_or_the_chain_changes_nothing(store: MetadataStore, name: str):
    commit, error, says = refused_commits()[name]
    await store.put(a_session())
    await store.commit_round(a_commit(a_session(), 1))
    before = await everything(store)

    with pytest.raises(error, match=says):
        await store.commit_round(commit)

    assert await everything(store) == before


async def test_a_round_whose_link_was_computed_by_the_caller_is_taken(store: MetadataStore):
    await store.put(a_session())
    commit = a_commit(a_session(), 1)
    linked = replace(commit.round, link=round_link("", commit.round, commit.contributions))

    await store.commit_round(replace(commit, round=linked))

    assert await store.get(RoundRecord, PROJECT, "s1/1") == linked


async def test_a_deleted_session_is_gone_with_all_its_rows_and_no_others(store: MetadataStore):
    for session in (a_session("s1"), a_session("s2"), a_session("s1", "theirs")):
        await store.put(session)
        await store.commit_round(a_commit(session, 1))

    await store.delete_session(PROJECT, "s1")

    for kind in (RoundRecord, ContributionRecord, ModelRecord, MetricRecord, EventRecord):
        assert {row.session for row in await every(store, kind)} == {"s2"}
        assert {row.session for row in await every(store, kind, "theirs")} == {"s1"}
    assert [s.id for s in await every(store, SessionRecord)] == ["s2"]


async def test_deleting_a_session_that_the_project_does_not_have_is_not_found(store: MetadataStore):
    await store.put(a_session("s1", "theirs"))

    with pytest.raises(NotFoundError, match="'s1' in project 'harbour'"):
        await store.delete_session(PROJECT, "s1")

    assert await every(store, SessionRecord, "theirs") != []


async def test_a_round_of_a_session_that_was_deleted_does_not_bring_it_back(store: MetadataStore):
    await store.put(a_session())
    await store.delete_session(PROJECT, "s1")

    with pytest.raises(NotFoundError, match="any more"):
        await store.commit_round(a_commit(a_session(), 1))

    assert await everything(store) == [[] for _ in KINDS]


# ── the trail of models ──────────────────────────────────────────────────────────────────────────────────────────────


def a_model(number: int, parent: int | None, session: str = "s1", at: int = 1, project: str = PROJECT) -> ModelRecord:
    made_from = None if parent is None else digest(parent)
    return ModelRecord(digest(number), project, session, at, made_from, 1, 1.0, f"{session}-{number}")


async def trail(store: MetadataStore, model: int, **options: int) -> tuple[list[int], list[int]]:
    """(ancestors, descendants), by number."""
    up = await store.ancestors(PROJECT, digest(model), **options)
    down = await store.descendants(PROJECT, digest(model), **options)
    return [int(m.id, 16) for m in up], [int(m.id, 16) for m in down]


async def test_the_trail_of_a_tree_of_models(store: MetadataStore):
    #  1 ─ 2 ─ 3 ─ 4          another project has a trail of the same names
    #      └── 5 ─ 6
    family = {1: None, 2: 1, 3: 2, 5: 2, 4: 3, 6: 5}
    await store.put(*(a_model(child, parent) for child, parent in family.items()))
    await store.put(
        *(a_model(child, parent, project="theirs") for child, parent in {4: 8, 8: 7, 7: None, 9: 2}.items())
    )

    assert await trail(store, 4) == ([3, 2, 1], [])
    assert await trail(store, 2) == ([1], [3, 5, 4, 6])
    assert await trail(store, 1) == ([], [2, 3, 5, 4, 6])
    assert await trail(store, 4, limit=2) == ([3, 2], [])
    assert await trail(store, 1, limit=2) == ([], [2, 3])


async def test_a_model_that_two_sessions_reached_is_in_a_trail_once(store: MetadataStore):
    for session in ("s1", "s2"):
        await store.put(*(a_model(n, n - 1 if n else None, session, n) for n in range(4)))

    assert await trail(store, 2) == ([1, 0], [3])
    assert (await store.ancestors(PROJECT, digest(2)))[0].name == "s1-1"
    assert (await store.list(ModelRecord, Query(PROJECT, {"id": digest(2)}))).total == 2
    assert (await store.get(ModelRecord, PROJECT, digest(2))).session == "s1"


async def test_a_trail_that_comes_back_to_itself_ends(store: MetadataStore):
    # round 2 leaves the model as it is, round 4 returns to the model of round 2
    await store.put(a_model(0, None, at=0), a_model(1, 0, at=1), a_model(1, 1, at=2))
    await store.put(a_model(2, 1, at=3), a_model(1, 2, at=4))

    assert await trail(store, 1) == ([0, 2], [2])
    assert await trail(store, 2) == ([1, 0], [1])
    assert await trail(store, 0) == ([], [1, 2])


async def test_a_trail_of_many_rounds_is_followed_to_its_seed(store: MetadataStore):
    await store.put(*(a_model(n, n - 1 if n else None, at=n) for n in range(1000)))

    assert await trail(store, 999) == (list(range(998, -1, -1)), [])
    assert await trail(store, 0) == ([], list(range(1, 1000)))


async def test_the_trail_of_a_model_of_another_project_is_not_found(store: MetadataStore):
    await store.put(a_model(1, None, project="theirs"))

    for follow in (store.ancestors, store.descendants):
        with pytest.raises(NotFoundError, match="in project 'harbour'"):
            await follow(PROJECT, digest(1))


async def test_a_trail_has_at_least_one_model(store: MetadataStore):
    with pytest.raises(ConfigError, match="limit = 0"):
        await store.ancestors(PROJECT, digest(1), limit=0)


# ── many at once ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_readers_see_whole_rounds_while_rounds_are_committed(store: MetadataStore):
    await store.put(a_session())

    async def commit() -> None:
        for number in range(1, 31):
            await store.commit_round(a_commit(a_session(), number))

    async def watch() -> int:
        sightings = 0
        while not writer.done():
            number = (await store.get(SessionRecord, PROJECT, "s1")).round
            seen = await store.list(ContributionRecord, Query(PROJECT, {"round": number}))
            assert seen.total == (4 if number else 0)
            sightings += 1
        return sightings

    writer = asyncio.create_task(commit())
    sightings = await asyncio.gather(*(watch() for _ in range(3)))
    await writer
    assert min(sightings) > 0


async def test_a_write_that_is_cancelled_is_whole_or_absent_and_the_store_goes_on(store: MetadataStore):
    await store.put(a_session())
    number = 1
    for turns in range(0, 400, 10):
        task = asyncio.create_task(store.commit_round(a_commit(a_session(), number)))
        for _ in range(turns):
            await asyncio.sleep(0)  # as many steps of the loop; no time
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        rounds = await store.list(RoundRecord, Query(PROJECT))
        assert (await store.list(ContributionRecord, Query(PROJECT))).total == 4 * rounds.total
        number = rounds.total + 1

    await store.commit_round(a_commit(a_session(), number))

    verify_chain(await every(store, RoundRecord), await every(store, ContributionRecord))


# ── what a project holds on to ───────────────────────────────────────────────────────────────────────────────────────


async def test_the_bytes_of_a_project_are_those_of_its_objects_each_counted_once(store: MetadataStore):
    assert await store.stored_bytes(PROJECT) == 0
    await store.put(a_session())
    seed = ModelRecord(digest(0), PROJECT, "", 0, None, 4096, 1.0)
    await store.put(seed, PackageRecord(digest(50), PROJECT, "app", 100, 1.0))
    assert await store.stored_bytes(PROJECT) == 4196
    first = a_commit(a_session(), 1)
    await store.commit_round(replace(first, round=replace(first.round, state_size=1000)))
    assert await store.stored_bytes(PROJECT) == 4196 + 4096 + 1000
    again = a_commit(first.session, 2, model=digest(1))  # the same model: one object
    await store.commit_round(replace(again, round=replace(again.round, state=first.round.state, state_size=1000)))
    assert await store.stored_bytes(PROJECT) == 4196 + 4096 + 1000
    await store.put(replace(seed, pruned_at=9.0, pruned_by="last 1"))
    assert await store.stored_bytes(PROJECT) == 100 + 4096 + 1000
    row = (await store.list(RoundRecord, Query(PROJECT, sort="number"))).items[0]
    await store.put(replace(row, aggregate=digest(60), aggregate_size=300))
    assert await store.stored_bytes(PROJECT) == 100 + 4096 + 1000 + 300
    await store.put(replace(row, aggregate=digest(60), aggregate_size=300, aggregate_pruned_at=9.0))
    assert await store.stored_bytes(PROJECT) == 100 + 4096 + 1000
    assert await store.stored_bytes("another") == 0


# ── labels, samples, predictions ─────────────────────────────────────────────────────────────────────────────────────


async def test_rows_are_found_by_a_part_of_their_names_in_any_case(store: MetadataStore):
    names = ["ward_1", "Ward-12", "wardx1", "north%"]
    await store.put(
        *(
            ClientRecord(f"{PROJECT}/{name}", PROJECT, name, "", connected=True, first_seen=1.0, last_seen=1.0)
            for name in names
        )
    )

    async def found(text: object) -> list[str]:
        page = await store.list(ClientRecord, Query(PROJECT, {"search": text}, sort="name"))  # type: ignore[dict-item]
        assert page.total == len(page.items)
        return [row.name for row in page.items]

    assert await found("WARD") == ["Ward-12", "ward_1", "wardx1"]
    assert await found("d_1") == ["ward_1"]
    assert await found("%") == ["north%"]
    assert await found("'; DROP TABLE clients; --") == []
    with pytest.raises(ConfigError, match="search"):
        await found(["ward", "north"])
    with pytest.raises(ConfigError, match="search"):
        await store.list(EventRecord, Query(PROJECT, {"search": "x"}))


async def test_clients_are_found_by_their_labels_and_by_those_that_operators_gave(store: MetadataStore):
    def client(name: str, labels: dict[str, str], assigned: dict[str, str] | None = None) -> ClientRecord:
        key = f"{PROJECT}/{name}"
        return ClientRecord(
            key, PROJECT, name, "", connected=True, first_seen=1.0, last_seen=1.0, labels=labels, assigned=assigned
        )

    await store.put(
        client("a", {"region": "eu", "gpu.kind": "x"}),
        client("b", {"region": "eu"}, {"region": "us"}),
        client("c", {}, {"region": "it's", "gpu.kind": "x"}),
    )

    async def found(*labels: str) -> list[str]:
        page = await store.list(ClientRecord, Query(PROJECT, {"label": list(labels)}, sort="name"))
        return [row.name for row in page.items]

    assert await found("region=eu") == ["a"]
    assert await found("region=us", "region=it's") == ["b", "c"]
    assert await found("gpu.kind=x") == ["a", "c"]
    assert await found("gpu.kind=x", "region=eu") == ["a"]
    assert await found("none=x") == []
    for text in ("region", "=eu", 'a"b=c'):
        with pytest.raises(ConfigError, match="label"):
            await found(text)


async def test_what_machines_told_expires_and_what_tasks_logged_does_not(store: MetadataStore):
    def sample(session: str, at: float) -> SampleRecord:
        return SampleRecord(f"{session}/{at}", PROJECT, session, 0, "", "a", "cpu", 0, 0.5, at)

    await store.put(a_session(), *(sample(session, at) for session in ("", a_session().id) for at in (1.0, 2.0, 3.0)))
    assert await store.expire_samples(3.0, limit=1) == 1
    assert await store.expire_samples(3.0) == 1
    assert await store.expire_samples(3.0) == 0
    left = (await store.list(SampleRecord, Query(PROJECT, sort="at"))).items
    assert [row.at for row in left if not row.session] == [3.0]
    assert [row.at for row in left if row.session] == [1.0, 2.0, 3.0]


async def test_a_prediction_goes_with_its_answers_and_no_others(store: MetadataStore):
    def asked(name: str) -> PredictionRecord:
        return PredictionRecord(name, PROJECT, name, digest(1), None, RunSpec(), SessionState.FINISHED, 1.0)

    answers = [AnswerRecord(f"{name}/a", PROJECT, name, "a", 1.0, "{}") for name in ("p", "q")]
    await store.put(asked("p"), asked("q"), *answers)
    assert (await store.answered_bytes(PROJECT), await store.answered_bytes("another")) == (4, 0)
    await store.delete_prediction(PROJECT, "p")
    assert [row.id for row in (await store.list(PredictionRecord, Query(PROJECT))).items] == ["q"]
    assert [row.id for row in (await store.list(AnswerRecord, Query(PROJECT))).items] == ["q/a"]
    with pytest.raises(NotFoundError, match="there is no prediction 'p'"):
        await store.delete_prediction(PROJECT, "p")
