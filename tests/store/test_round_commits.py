"""A round is committed whole or not at all, and a session goes with all that is its own, in every store."""

import asyncio
from dataclasses import replace

import pytest
from store_examples import KINDS, PROJECT, a_commit, a_session, digest, every

from hansa.errors import ConflictError, HansaError, InputError, NotFoundError
from hansa.store.link import round_link, verify_chain
from hansa.store.ports import MetadataStore
from hansa.store.records import (
    ContributionRecord,
    EventRecord,
    MetricRecord,
    ModelRecord,
    Record,
    RoundRecord,
    SessionRecord,
)


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
