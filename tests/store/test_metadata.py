"""What every metadata store must do, whatever database it keeps its rows in."""

import asyncio
import math
from dataclasses import replace

import pytest
from store_examples import KINDS, PROJECT, Reopened, a_commit, a_session, digest, every, fill, one_of_each

from hansa.errors import ConfigError, ConflictError, InputError, NotFoundError
from hansa.messages import Kind, RunSpec
from hansa.store.link import verify_chain
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import (
    AnswerRecord,
    ClientRecord,
    ContributionRecord,
    EventRecord,
    MetricRecord,
    ModelRecord,
    PackageRecord,
    PredictionRecord,
    Record,
    RoundRecord,
    SampleRecord,
    SessionRecord,
    SessionState,
)

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
