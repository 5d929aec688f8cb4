"""Policies: how they are written, and what may be pruned by them whatever else the stores hold."""

import asyncio
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from dst.store import Database, MemoryStore
from hypothesis import given, settings
from hypothesis import strategies as st
from store_examples import PROJECT, a_commit, a_session, digest

from hansa.errors import ConfigError, ConflictError, NotFoundError
from hansa.messages import RunSpec
from hansa.store.ports import MetadataStore, Pruned, Release
from hansa.store.records import (
    ModelRecord,
    PackageRecord,
    PredictionRecord,
    RoundRecord,
    SessionRecord,
    SessionState,
)
from hansa.store.retention import Best, Direction, Policy, Source
from hansa.store.sqlite import SqliteStore

OTHER = "bay"


# ── how a policy is written ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("all", Policy()),
        (" all ", Policy()),
        ("last 5", Policy(5)),
        ("best accuracy max", Policy(None, (Best("accuracy", Direction.MAX),))),
        ("best loss min, last 3", Policy(3, (Best("loss", Direction.MIN),))),
        ("last  1 ,best central f1 max", Policy(1, (Best("f1", Direction.MAX, Source.CENTRAL),))),
        ("best train loss min", Policy(None, (Best("loss", Direction.MIN, Source.TRAIN),))),
        ("all, aggregates", Policy(aggregates=True)),
        (" aggregates ,last 4, best f1 max", Policy(4, (Best("f1", Direction.MAX),), aggregates=True)),
        ("best aggregates max", Policy(None, (Best("aggregates", Direction.MAX),))),
        ("best train max", Policy(None, (Best("train", Direction.MAX),))),
        ("best a max, best a max, best a min", Policy(None, (Best("a", Direction.MAX), Best("a", Direction.MIN)))),
    ],
)
def test_a_policy_is_read_and_written_back(text: str, policy: Policy) -> None:
    assert Policy.parse(text) == policy
    assert Policy.parse(str(policy)) == policy


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read at ''"),
        ("last", "cannot be read at 'last'"),
        ("last 0", "whole number of rounds, 1 to 1,000,000"),
        ("last -1", "whole number of rounds"),
        ("last five", "whole number of rounds"),
        ("last ²", "whole number of rounds"),
        ("last " + "9" * 5000, "whole number of rounds"),
        ("last 3, last 5", "cannot be read at 'last 5'"),
        ("all, last 3", "cannot be read at 'all'"),
        ("last 3,", "cannot be read at ''"),
        ("aggregates", "does not say which rounds: write `all, aggregates`"),
        ("all, last 3, aggregates", "cannot be read at 'all'"),
        ("last 3 aggregates", "cannot be read at 'last 3 aggregates'"),
        ("best accuracy", "`best accuracy max` or `best accuracy min`"),
        ("best max", "cannot be read at 'best max'"),
        ("best loss minimum", "does not say whether more or less is better"),
        ("best a b c max", "cannot be read at 'best a b c max'"),
        ("LAST 5", "cannot be read"),
    ],
)
def test_what_is_no_policy_is_refused_with_how_one_is_written(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Policy.parse(text)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "newest", "first"),
    [("all", 9, 1), ("last 1", 9, 9), ("last 3", 9, 7), ("last 20", 9, 1), ("best a max", 9, 9), ("last 1", 0, 1)],
)
def test_the_newest_rounds_are_kept(text: str, newest: int, first: int) -> None:
    assert Policy.parse(text).first_of_last(newest) == first


# ── what every metadata store does ───────────────────────────────────────────────────────────────────────────────────


async def committed(store: MetadataStore, rounds: int, **changes: object) -> SessionRecord:
    """A session whose round n has model n and state 1000 + n, made from the seed `digest(0)`."""
    session = a_session(**({"seed_model": digest(0)} | changes))
    await store.create(session)
    for number in range(1, rounds + 1):
        commit = a_commit(session, number)
        await store.commit_round(commit)
        session = commit.session
    return session


async def test_models_and_states_are_marked_and_their_objects_are_to_be_removed(store: MetadataStore) -> None:
    session = await committed(store, 4)
    release = Release(PROJECT, session.id, before=4, kept=frozenset({2}))
    found = Pruned(((1, digest(1)), (3, digest(3))), ((1, digest(1001)), (3, digest(1003))))
    assert await store.prunable(release) == found
    assert await store.prunable(release, limit=1) == Pruned(found.models[:1], found.states[:1])

    assert await store.prune(release, found.digests - {digest(3)}, at=7.5, by="last 1") == Pruned(
        found.models[:1], found.states
    )
    first = await store.get(ModelRecord, PROJECT, digest(1))
    assert (first.pruned_at, first.pruned_by) == (7.5, "last 1")
    assert (await store.get(RoundRecord, PROJECT, "s1/3")).state_pruned_at == 7.5
    assert (await store.get(ModelRecord, PROJECT, digest(2))).pruned_at is None
    assert await store.removals() == [digest(1), digest(1001), digest(1003)]
    assert await store.removals(1) == [digest(1)]

    assert await store.prune(release, found.digests, at=9.5, by="last 1") == Pruned(found.models[1:], ())
    assert (await store.get(ModelRecord, PROJECT, digest(1))).pruned_at == 7.5
    assert await store.prunable(release) == Pruned()
    await store.removed([digest(1), digest(1001)])
    await store.removed([])
    assert await store.removals() == [digest(3), digest(1003)]


async def test_the_newest_round_is_never_given_up(store: MetadataStore) -> None:
    session = await committed(store, 3)
    assert dict((await store.prunable(Release(PROJECT, session.id, before=100))).models).keys() == {1, 2}
    assert await store.prunable(Release(PROJECT, "none", before=100)) == Pruned()
    assert await store.prunable(Release(OTHER, session.id, before=100)) == Pruned()


async def test_what_a_person_or_another_session_needs_is_not_given_up(store: MetadataStore) -> None:
    session = await committed(store, 6)
    await store.put(replace(await store.get(ModelRecord, PROJECT, digest(1)), name="for the paper"))
    await store.put(ModelRecord(digest(2), PROJECT, "", 0, None, 1, 1.0))  # uploaded again by a person
    await store.create(a_session("s2", seed_model=digest(3)))
    twin = await committed(store, 0, key="s3")
    await store.commit_round(a_commit(twin, 1, model=digest(4), parent=digest(0)))

    found = await store.prunable(Release(PROJECT, session.id, before=6))

    assert found.models == ((5, digest(5)),)
    assert dict(found.states).keys() == {2, 3, 4, 5}  # the twin's round 1 has the same state as ours


async def test_an_object_that_another_project_needs_is_marked_and_not_removed(store: MetadataStore) -> None:
    session = await committed(store, 4)
    abroad = await committed(store, 2, project=OTHER)
    everything = Release(PROJECT, session.id, before=4)
    assert await store.needed({digest(1), digest(1003), digest(77), session.seed_model or ""}) == {
        digest(0), digest(1), digest(1003),
    }  # fmt: skip

    marked = await store.prune(everything, {digest(n) for n in (1, 2, 3, 1001, 1002, 1003)}, at=1.0, by="last 1")

    assert dict(marked.models).keys() == {1, 2, 3}
    assert await store.removals() == [digest(3), digest(1003)]
    assert await store.needed(marked.digests) == {digest(1), digest(2), digest(1001), digest(1002)}
    await store.delete_session(OTHER, abroad.id)
    assert await store.removals() == [digest(n) for n in (1, 2, 3, 1001, 1002, 1003)]


async def test_a_deleted_session_gives_up_what_nobody_else_needs(store: MetadataStore) -> None:
    session = await committed(store, 3, package=digest(50))
    await store.put(
        PackageRecord(digest(50), PROJECT, "app", 1, 1.0), ModelRecord(digest(0), PROJECT, "", 0, None, 1, 1.0)
    )
    await store.create(a_session("s2", seed_model=digest(2)))

    await store.delete_session(PROJECT, session.id)

    assert await store.removals() == [digest(n) for n in (1, 3, 1001, 1002, 1003)]
    assert await store.needed({digest(0), digest(2), digest(50)}) == {digest(0), digest(2), digest(50)}


async def test_an_upload_goes_unless_somebody_names_it_and_its_bytes_unless_somebody_needs_them(
    store: MetadataStore,
) -> None:
    def asked(name: str, model: str, package: str | None) -> PredictionRecord:
        return PredictionRecord(name, PROJECT, name, model, package, RunSpec(), SessionState.FINISHED, 1.0)

    def seed(number: int, parent: int | None = None, project: str = PROJECT) -> ModelRecord:
        return ModelRecord(digest(number), project, "", 0, None if parent is None else digest(parent), 100, 1.0)

    def package(number: int, project: str = PROJECT) -> PackageRecord:
        return PackageRecord(digest(number), project, "app", 10, 1.0)

    session = a_session("s1", seed_model=digest(1), package=digest(11), name="night")
    await store.put(session, asked("p", digest(3), digest(13)))
    await store.put(*(seed(n) for n in (1, 2, 3, 4)), seed(5, parent=4), seed(2, project=OTHER))
    await store.put(*(package(n) for n in (11, 12, 13, 14)), package(14, project=OTHER))
    await store.commit_round(a_commit(session, 1, model=digest(6)))

    for kind, number, named_by in (
        (ModelRecord, 1, "session night"),
        (ModelRecord, 3, "prediction p"),
        (ModelRecord, 4, f"model {digest(5)}"),
        (PackageRecord, 11, "session night"),
        (PackageRecord, 13, "prediction p"),
    ):
        with pytest.raises(ConflictError, match=f"is needed by {named_by}: delete that first"):
            await store.delete_upload(kind, PROJECT, digest(number))
        assert (await store.get(kind, PROJECT, digest(number))).id == digest(number)
    for kind, number in ((ModelRecord, 6), (ModelRecord, 9), (PackageRecord, 1), (PackageRecord, 19)):
        with pytest.raises(NotFoundError, match="in project"):
            await store.delete_upload(kind, PROJECT, digest(number))
    assert await store.removals() == []

    for kind, number in ((ModelRecord, 2), (ModelRecord, 5), (PackageRecord, 12), (PackageRecord, 14)):
        await store.delete_upload(kind, PROJECT, digest(number))
        with pytest.raises(NotFoundError):
            await store.get(kind, PROJECT, digest(number))
    await store.delete_upload(ModelRecord, PROJECT, digest(4))  # nothing was made from it any more
    assert set(await store.removals()) == {digest(4), digest(5), digest(12)}
    assert (await store.get(ModelRecord, OTHER, digest(2))).id == digest(2)


async def test_a_former_leader_marks_nothing(store: MetadataStore) -> None:
    session = await committed(store, 3)
    leadership = store.leadership("controller")
    await leadership.acquire()
    former = store.fenced(leadership)
    await leadership.release()
    async with store.leadership("controller"):
        with pytest.raises(ConflictError, match="nothing was written"):
            await former.prune(Release(PROJECT, session.id, before=3), {digest(1)}, at=1.0, by="last 1")
        with pytest.raises(ConflictError, match="nothing was written"):
            await former.removed({digest(1)})

    assert await store.removals() == []


# ── whatever the trail ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Trail:
    """Sessions of two projects, as they are committed and given up; digests are few, so that many are shared."""

    rounds: dict[tuple[str, str], list[tuple[int, int, int | None]]] = field(default_factory=dict)
    """(project, session) → model, state and, where it is kept, aggregate of each round."""
    seeds: dict[tuple[str, str], int] = field(default_factory=dict)
    uploads: set[tuple[str, int]] = field(default_factory=set)
    marked: set[tuple[str, str, int]] = field(default_factory=set)
    """What had a mark: (project, session, number) of the model, with "/state", "/sum" after the session of others."""

    def holders(self, project: str | None = None) -> set[int]:
        """The digests of models, 1000 + those of states, 2000 + those of aggregates, that a row holds on to."""
        held = {number for place, number in self.uploads if project in (None, place)}
        for (place, session), rounds in self.rounds.items():
            if project not in (None, place):
                continue
            held.add(self.seeds[place, session])
            for n, (model, state, aggregate) in enumerate(rounds, 1):
                held |= {model} if (place, session, n) not in self.marked else set()
                held |= {state} if (place, session + "/state", n) not in self.marked else set()
                held |= {aggregate} - {None} if (place, session + "/sum", n) not in self.marked else set()
            held |= {rounds[-1][0]} if rounds else set()
        return held


projects = st.sampled_from([PROJECT, PROJECT, OTHER])
names = st.sampled_from(["s1", "s2"])
seeds, models, states = st.integers(0, 3), st.integers(0, 9), st.integers(1000, 1009)
sums = st.none() | st.integers(2000, 2005)
begin = st.tuples(st.just("begin"), projects, names, seeds)
commit = st.tuples(st.just("commit"), projects, names, models, states, sums)
kept = st.frozensets(st.integers(1, 5), max_size=2)
prune = st.tuples(st.just("prune"), projects, names, st.integers(1, 12), kept, st.booleans())
ends = [("prune", PROJECT, name, 100, frozenset[int](), False) for name in ("s1", "s2")]
rare = st.one_of(st.tuples(st.just("upload"), projects, models), st.tuples(st.just("delete"), projects, names), begin)
trails = st.tuples(
    st.lists(begin, min_size=4, max_size=8),
    st.lists(st.one_of(commit, commit, commit, commit, prune, rare), min_size=10, max_size=30),
).map(lambda parts: [*parts[0], *parts[1], *ends])


async def carried_out(store: MetadataStore, happens: Sequence[tuple]) -> tuple[Trail, set[int], set[int]]:  # type: ignore[type-arg]
    """(the trail, the objects ever stored, the objects still there when what is listed to be removed is removed)."""
    trail, ever, there = Trail(), set[int](), set[int]()
    for what, project, *rest in happens:
        match what, rest:
            case "upload", [model]:
                await store.put(ModelRecord(digest(model), project, "", 0, None, 1, 1.0))
                trail.uploads.add((project, model))
                there.add(model)
            case "begin", [name, seed] if (project, name) not in trail.rounds:
                await store.create(a_session(name, project, seed_model=digest(seed)))
                trail.rounds[project, name], trail.seeds[project, name] = [], seed
                there.add(seed)
            case "commit", [name, model, state, aggregate] if (project, name) in trail.rounds:
                rounds = trail.rounds[project, name]
                session = await store.get(SessionRecord, project, name)
                parent = session.model or session.seed_model or ""
                commit = a_commit(session, len(rounds) + 1, model=digest(model), parent=parent)
                made = {"state": digest(state), "aggregate": digest(aggregate) if aggregate is not None else None}
                await store.commit_round(replace(commit, round=replace(commit.round, **made)))
                rounds.append((model, state, aggregate))
                there |= {model, state, aggregate} - {None}
            case "delete", [name] if (project, name) in trail.rounds:
                await store.delete_session(project, name)
                del trail.rounds[project, name]
                trail.marked = {mark for mark in trail.marked if (mark[0], mark[1].split("/")[0]) != (project, name)}
            case "prune", [name, before, kept, every] if (project, name) in trail.rounds:
                await pruned(store, trail, Release(project, name, before, kept, all_aggregates=every))
        ever |= there
        gone = {int(each, 16) for each in await store.removals()}
        assert gone <= there, "listed twice, or never stored"
        assert not await store.needed([digest(n) for n in gone]), "a needed object is to be removed"
        there -= gone
        await store.removed([digest(n) for n in gone])
        assert trail.holders() <= there, "a needed object was removed"
    return trail, ever, there


async def pruned(store: MetadataStore, trail: Trail, release: Release) -> None:
    """Prune, and compare with the rule in words: what is asked for goes unless somebody else holds on to it."""
    project, name, before, kept = release.project, release.session, release.before, release.kept
    rounds = trail.rounds[project, name]
    asked = {n for n in range(1, len(rounds)) if n < before and n not in kept}
    asked_sums = set(range(1, len(rounds))) if release.all_aggregates else asked
    marked_then = {(project, each, n) for each in (name, f"{name}/state") for n in asked}
    marked_then |= {(project, f"{name}/sum", n) for n in asked_sums}
    held = replace(trail, marked=trail.marked | marked_then).holders(project)
    models = {n for n in asked if (project, name, n) not in trail.marked and rounds[n - 1][0] not in held}
    states = {n for n in asked if (project, f"{name}/state", n) not in trail.marked and rounds[n - 1][1] not in held}
    sums = {n for n in asked_sums if (project, f"{name}/sum", n) not in trail.marked and rounds[n - 1][2] is not None}
    sums = {n for n in sums if rounds[n - 1][2] not in held}
    found = await store.prunable(release)
    marked = await store.prune(release, found.digests, at=1.0, by="last 1")
    assert marked == found
    assert (set(dict(marked.models)), set(dict(marked.states)), set(dict(marked.aggregates))) == (models, states, sums)
    trail.marked |= {(project, name, n) for n in models} | {(project, f"{name}/state", n) for n in states}
    trail.marked |= {(project, f"{name}/sum", n) for n in sums}


def check_everything(trail: Trail, ever: set[int], there: set[int]) -> None:
    assert there <= ever
    assert there == trail.holders(), "what nobody needs is there still, or what somebody needs is gone"


@settings(deadline=None, max_examples=200)
@given(trails)
def test_what_is_needed_is_never_removed_and_what_is_not_is(happens: list[tuple]) -> None:  # type: ignore[type-arg]
    async def carry_out() -> None:
        store = MemoryStore(Database())
        await store.open()
        check_everything(*await carried_out(store, happens))

    asyncio.run(carry_out())


def a_trail(seed: int) -> list[tuple]:  # type: ignore[type-arg]
    """Four sessions, and what happens to them: longer than hypothesis would make it."""
    rng = random.Random(seed)  # noqa: S311  # a schedule, not a secret
    places = [(project, name) for project in (PROJECT, OTHER) for name in ("s1", "s2")]
    happens: list[tuple] = [("begin", *place, rng.randrange(4)) for place in places]  # type: ignore[type-arg]
    for _ in range(50):
        place = rng.choice(places)
        match rng.choices(["commit", "prune", "upload", "delete", "begin"], [12, 5, 1, 1, 2])[0]:
            case "commit":
                aggregate = rng.choice([None, *range(2000, 2015)])
                happens.append(("commit", *place, rng.randrange(20), rng.randrange(1000, 1020), aggregate))
            case "prune":
                kept = frozenset(rng.sample(range(1, 8), 2))
                happens.append(("prune", *place, rng.randrange(2, 12), kept, rng.random() < 0.3))
            case "upload":
                happens.append(("upload", place[0], rng.randrange(20)))
            case "delete":
                happens.append(("delete", *place))
            case _:
                happens.append(("begin", *place, rng.randrange(20)))
    return [*happens, *(("prune", *place, 100, frozenset(), False) for place in places)]


async def test_a_database_prunes_as_the_rule_says(tmp_path: Path) -> None:
    empty = SqliteStore(tmp_path / "empty.db")
    await empty.open()
    await empty.close()
    for seed in range(12):
        path = tmp_path / f"{seed}.db"
        await asyncio.to_thread(shutil.copy, empty.path, path)
        store = SqliteStore(path)
        await store.open()
        try:
            check_everything(*await carried_out(store, a_trail(seed)))
        finally:
            await store.close()
