"""What `hansa verify` finds: anything that is not as it was written."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from store_examples import PROJECT, a_commit, a_session, every

from hansa.arrays import Arrays
from hansa.errors import CorruptionError, NotFoundError
from hansa.evidence.stored import verify_session
from hansa.messages import RunSpec
from hansa.store.link import round_link
from hansa.store.opening import open_objects
from hansa.store.ports import MetadataStore, ObjectStore, Release
from hansa.store.records import ContributionRecord, ModelRecord, RoundRecord, SessionRecord, SessionState
from hansa.wire import codec

ROUNDS = 4


@dataclass
class Recorded:
    """A session that has finished, and where it lies."""

    store: MetadataStore
    objects: ObjectStore
    folder: Path
    session: SessionRecord
    rounds: list[RoundRecord]

    async def verify(self, head: str | None = None) -> object:
        return await verify_session(self.store, self.objects, PROJECT, "s1", head)

    def file(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest[2:4] / digest


@pytest.fixture
async def recorded(store: MetadataStore, tmp_path: Path) -> Recorded:
    objects = open_objects(str(tmp_path / "objects"))
    seed = await objects.put([b"seed"])
    session = a_session(seed_model=seed)
    await store.create(session)
    rounds: list[RoundRecord] = []
    for number in range(1, ROUNDS + 1):
        model, state = [await objects.put([f"{what} {number}".encode() * 1000]) for what in ("model", "state")]
        commit = a_commit(session, number, model=model, parent=session.model or seed)
        record = replace(commit.round, state=state)
        link = round_link(rounds[-1].link if rounds else "", record, commit.contributions)
        commit = replace(commit, round=replace(record, link=link))
        await store.commit_round(commit)
        session = commit.session
        rounds.append(commit.round)
    session = replace(session, state=SessionState.FINISHED, cause="done")
    await store.put(session)
    return Recorded(store, objects, tmp_path / "objects", session, rounds)


async def test_a_whole_record_is_counted_and_its_head_is_told(recorded: Recorded) -> None:
    found = await verify_session(recorded.store, recorded.objects, PROJECT, "s1")
    assert (found.session, found.rounds, found.contributions, found.objects) == (
        "s1",
        ROUNDS,
        4 * ROUNDS,
        1 + 2 * ROUNDS,
    )
    assert found.bytes == len(b"seed") + ROUNDS * 2 * len(b"model 1") * 1000
    assert found.head == recorded.rounds[-1].link
    assert await recorded.verify(recorded.rounds[1].link) == found


async def test_a_session_before_its_first_round_is_whole(store: MetadataStore, objects: ObjectStore) -> None:
    await store.create(a_session(seed_model=await objects.put([b"seed"])))
    found = await verify_session(store, objects, PROJECT, "s1")
    assert (found.rounds, found.objects, found.head) == (0, 1, "")


async def test_a_round_that_is_committed_meanwhile_is_the_next_call_s(recorded: Recorded) -> None:
    behind = replace(recorded.session, state=SessionState.RUNNING, round=3, model=recorded.rounds[2].model)
    await recorded.store.put(behind)
    found = await verify_session(recorded.store, recorded.objects, PROJECT, "s1")
    assert (found.rounds, found.head) == (3, recorded.rounds[2].link)


def flipped(recorded: Recorded) -> None:
    path = recorded.file(recorded.rounds[1].model)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))


def cut(recorded: Recorded) -> None:
    path = recorded.file(recorded.rounds[2].state)
    path.chmod(0o600)
    os.truncate(path, 100)


def removed(recorded: Recorded) -> None:
    recorded.file(recorded.rounds[0].model).unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flipped, r"the model of round 2 of session digits is damaged"),
        (cut, r"the state of the algorithm of round 3 of session digits is damaged"),
        (removed, r"the model of round 1 of session digits is lost: there is no object"),
    ],
)
async def test_damaged_bytes_are_named(recorded: Recorded, damage: Callable[[Recorded], None], said: str) -> None:
    await asyncio.to_thread(damage, recorded)
    with pytest.raises(CorruptionError, match=said):
        await recorded.verify()


async def another_weight(recorded: Recorded) -> None:
    row = await recorded.store.get(ContributionRecord, PROJECT, "s1/2/client-1")
    await recorded.store.put(replace(row, num_examples=3))


async def another_update(recorded: Recorded) -> None:
    row = await recorded.store.get(ContributionRecord, PROJECT, "s1/2/client-1")
    await recorded.store.put(replace(row, digest="f" * 64))


async def another_model(recorded: Recorded) -> None:
    other = await recorded.objects.put([b"a better one"])
    await recorded.store.put(replace(recorded.rounds[-1], model=other), replace(recorded.session, model=other))


async def another_newest_model(recorded: Recorded) -> None:
    await recorded.store.put(replace(recorded.session, model=recorded.rounds[0].model))


async def fewer_rounds(recorded: Recorded) -> None:
    await recorded.store.put(replace(recorded.session, round=2))


async def another_seed(recorded: Recorded) -> None:
    await recorded.store.put(replace(recorded.session, seed_model=await recorded.objects.put([b"another"])))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (another_weight, "round 2 of session s1 counts 3 updates of 6 examples"),
        (another_update, "round 2 of session s1 has been changed"),
        (another_model, "round 4 of session s1 has been changed"),
        (another_newest_model, "the model of session digits is not that of its last round"),
        (fewer_rounds, "session digits is at round 2, but 4 rounds are recorded"),
        (another_seed, "round 1 of session digits starts from another model"),
    ],
)
async def test_a_changed_row_is_named(
    recorded: Recorded, change: Callable[[Recorded], Awaitable[None]], said: str
) -> None:
    await change(recorded)
    with pytest.raises(CorruptionError, match=said):
        await recorded.verify()


async def test_yesterday_s_backup_is_recognised_by_a_link_that_was_kept(
    recorded: Recorded, reopened: Callable[[], Awaitable[MetadataStore]]
) -> None:
    store = await reopened()
    await store.delete_session(PROJECT, "s1")
    session = a_session(seed_model=recorded.session.seed_model)
    await store.create(session)
    for record in recorded.rounds[:2]:
        commit = a_commit(session, record.number, model=record.model, parent=record.parent_model)
        await store.commit_round(replace(commit, round=record))
        session = commit.session
    assert len(await every(store, RoundRecord)) == 2
    await recorded.verify()
    await recorded.verify(recorded.rounds[1].link)
    with pytest.raises(CorruptionError, match=r"later rounds are lost, or it is another history"):
        await recorded.verify(recorded.rounds[3].link)


async def given_up(recorded: Recorded, *, removed: bool = True) -> None:
    """Rounds 1 and 2, by the policy `last 2`."""
    release = Release(PROJECT, "s1", before=3)
    marked = await recorded.store.prune(release, (await recorded.store.prunable(release)).digests, at=7.0, by="last 2")
    for digest in marked.digests if removed else ():
        await recorded.objects.delete(digest)


async def test_what_was_pruned_by_policy_is_counted_and_not_missed(recorded: Recorded) -> None:
    whole = await verify_session(recorded.store, recorded.objects, PROJECT, "s1")
    await given_up(recorded)
    found = await verify_session(recorded.store, recorded.objects, PROJECT, "s1")
    assert (found.rounds, found.objects, found.pruned, found.head) == (ROUNDS, whole.objects - 4, 4, whole.head)
    assert found.bytes == whole.bytes - 4 * len(b"model 1") * 1000


async def test_what_is_missing_without_a_mark_is_lost_also_in_a_pruned_session(recorded: Recorded) -> None:
    await given_up(recorded)
    await recorded.objects.delete(recorded.rounds[2].model)
    with pytest.raises(CorruptionError, match=r"the model of round 3 of session digits is lost"):
        await recorded.verify()


async def test_a_mark_excuses_neither_the_newest_model_nor_the_seed(recorded: Recorded) -> None:
    newest = await recorded.store.get(ModelRecord, PROJECT, recorded.rounds[-1].model)
    await recorded.store.put(replace(newest, pruned_at=1.0, pruned_by="last 1"))
    assert (await verify_session(recorded.store, recorded.objects, PROJECT, "s1")).pruned == 0
    await recorded.objects.delete(newest.id)
    with pytest.raises(CorruptionError, match=r"the model of round 4 of session digits is lost"):
        await recorded.verify()


async def test_what_is_pruned_while_others_are_read_is_not_missed(recorded: Recorded) -> None:
    class Meanwhile:
        async def read(self, digest: str) -> AsyncIterator[bytes]:
            if digest == recorded.session.seed_model:
                await given_up(recorded)
            async for chunk in recorded.objects.read(digest):
                yield chunk

    found = await verify_session(recorded.store, Meanwhile(), PROJECT, "s1")  # type: ignore[arg-type]

    assert (found.objects, found.pruned) == (1 + 2 * ROUNDS - 4, 4)


async def test_there_must_be_such_a_session(store: MetadataStore, objects: ObjectStore) -> None:
    with pytest.raises(NotFoundError):
        await verify_session(store, objects, PROJECT, "none")


@pytest.fixture
async def recomputable(store: MetadataStore, tmp_path: Path) -> Recorded:
    """FedAvg by hand: round n adds 10^n to a model that begins as 5, and all of it is kept."""
    objects = open_objects(str(tmp_path / "objects"))

    async def put(value: float) -> str:
        return await objects.put(codec.encode(Arrays({"w": np.float64([value])})))

    session = a_session(seed_model=await put(5.0), spec=RunSpec(project=PROJECT))
    await store.create(session)
    rounds: list[RoundRecord] = []
    for number in range(1, ROUNDS + 1):
        model = await put(5.0 + sum(10.0**n for n in range(1, number + 1)))
        commit = a_commit(session, number, model=model, parent=session.model or session.seed_model or "")
        kept = {"aggregate": await put(10.0**number), "aggregate_size": 8, "aggregate_weight": commit.round.weight}
        await store.commit_round(replace(commit, round=replace(commit.round, state="", **kept)))
        session = commit.session
        rounds.append(await store.get(RoundRecord, PROJECT, commit.round.id))
    session = replace(session, state=SessionState.FINISHED, cause="done")
    await store.put(session)
    return Recorded(store, objects, tmp_path / "objects", session, rounds)


async def test_models_are_computed_anew_from_what_is_kept(recomputable: Recorded) -> None:
    found = await verify_session(recomputable.store, recomputable.objects, PROJECT, "s1")
    assert (found.recomputed, found.not_recomputed, found.obstacle) == (ROUNDS, 0, "")
    await given_up(recomputable)  # of rounds 1 and 2: round 3 has nothing to begin from
    found = await verify_session(recomputable.store, recomputable.objects, PROJECT, "s1")
    assert (found.recomputed, found.not_recomputed, found.pruned) == (1, 3, 4)


async def test_what_is_pruned_while_models_are_computed_is_not_missed(recomputable: Recorded) -> None:
    class Meanwhile:
        read = staticmethod(recomputable.objects.read)

        async def fetch(self, digest: str) -> Path:
            if digest == recomputable.rounds[1].model:  # which the third round begins from
                await given_up(recomputable)
            return await recomputable.objects.fetch(digest)

    found = await verify_session(recomputable.store, Meanwhile(), PROJECT, "s1")  # type: ignore[arg-type]

    assert (found.recomputed, found.not_recomputed) == (3, 1)


async def test_what_is_lost_while_models_are_computed_is_missed(recomputable: Recorded) -> None:
    class Meanwhile:
        read = staticmethod(recomputable.objects.read)

        async def fetch(self, digest: str) -> Path:
            await recomputable.objects.delete(recomputable.rounds[1].model)
            return await recomputable.objects.fetch(digest)

    with pytest.raises(CorruptionError, match="what round 3 of session digits was made from is lost"):
        await verify_session(recomputable.store, Meanwhile(), PROJECT, "s1")  # type: ignore[arg-type]
