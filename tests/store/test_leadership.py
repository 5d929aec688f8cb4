"""One leader for each database: who may lead, who takes over, and what a former leader can still do."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from servers import Gate, PostgresServer
from sqlalchemy import Connection, text
from store_examples import PROJECT, Reopened, a_commit, a_session, every

from hansa.errors import ConflictError, InputError, StorageUnavailableError
from hansa.store.opening import open_store
from hansa.store.ports import Leadership, MetadataStore
from hansa.store.postgres import PostgresStore
from hansa.store.records import EventRecord, RoundRecord, SessionRecord

LEADER = str(Path(__file__).with_name("leader.py"))
LONG = 60.0
"""A lease that does not run out during a test."""


def lead(url: str, lease: float = LONG) -> subprocess.Popen[str]:
    command = [sys.executable, LEADER, url, str(lease)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def write(process: subprocess.Popen[str], session: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{session}\n")
    process.stdin.flush()


async def test_of_two_candidates_one_leads_and_the_other_when_it_has_ended(reopened: Reopened):
    first = (await reopened()).leadership("controller", lease=LONG)
    second = (await reopened()).leadership("controller", lease=LONG)

    async with first:
        assert first.held
        with pytest.raises(ConflictError, match=r"'controller' is led by process \d+ on .*: stop it first"):
            await second.acquire(timeout=0)
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(0)
        assert not second.held
    await waiting

    assert (first.held, second.held) == (False, True)
    assert 0 < first.epoch < second.epoch
    await second.release()
    await second.release()


async def test_who_leads_already_cannot_lead_twice(store: MetadataStore):
    async with store.leadership("controller") as leadership:
        with pytest.raises(ConflictError, match="led from here already"):
            await leadership.acquire()


async def test_leaders_of_different_things_do_not_meet(store: MetadataStore):
    async with store.leadership("a") as one, store.leadership("b") as other:
        assert one.held
        assert other.held


async def test_every_leader_has_a_larger_epoch(reopened: Reopened):
    epochs = []
    for _ in range(3):
        async with (await reopened()).leadership("controller") as leadership:
            epochs.append(leadership.epoch)

    assert epochs == [1, 2, 3]


@pytest.mark.parametrize("name", ["", "Controller", "a/b", "-a", "a" * 65])
async def test_a_name_that_cannot_be_is_refused(store: MetadataStore, name: str):
    with pytest.raises(InputError, match="cannot be the name of a leadership"):
        store.leadership(name)


async def test_only_a_leader_can_write_as_one(store: MetadataStore):
    with pytest.raises(ConflictError, match="is not led from here"):
        store.fenced(store.leadership("controller"))


# ── a former leader ──────────────────────────────────────────────────────────────────────────────────────────────────


async def superseded(reopened: Reopened) -> tuple[MetadataStore, MetadataStore, Leadership]:
    """(what a former leader writes to, what its successor does, whose claim)."""
    first, second = await reopened(), await reopened()
    async with first.leadership("controller") as before:
        former = first.fenced(before)
        await former.put(a_session())
        await former.commit_round(a_commit(a_session(), 1))
    after = second.leadership("controller", lease=LONG)
    await after.acquire()
    return former, second.fenced(after), after


async def test_what_a_former_leader_writes_is_refused_and_changes_nothing(reopened: Reopened):
    former, leader, claim = await superseded(reopened)

    for refused in (
        former.commit_round(a_commit(a_session(), 2)),
        former.put(a_session("s2")),
        former.create(a_session("s3")),
        former.delete_session(PROJECT, "s1"),
    ):
        with pytest.raises(ConflictError, match=r"nothing was written.* has led since, as epoch 2"):
            await refused

    assert [session.id for session in await every(leader, SessionRecord)] == ["s1"]
    assert len(await every(leader, EventRecord)) == 2
    await claim.release()


async def test_a_round_that_a_former_and_a_new_leader_commit_is_committed_once(reopened: Reopened):
    former, leader, claim = await superseded(reopened)

    outcomes = await asyncio.gather(
        *(each.commit_round(a_commit(a_session(), 2)) for each in (former, leader, former)), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes] == [ConflictError, type(None), ConflictError]
    assert [record.number for record in await every(leader, RoundRecord)] == [1, 2]
    assert len(await every(leader, EventRecord)) == 4
    await claim.release()


async def test_a_former_leader_can_read(reopened: Reopened):
    former, _, claim = await superseded(reopened)

    assert [session.id for session in await every(former, SessionRecord)] == ["s1"]
    await claim.release()


@pytest.mark.parametrize("store_url", ["sqlite", "postgres"], indirect=True)
async def test_a_killed_leader_is_followed_by_the_one_that_waits(store: MetadataStore, store_url: str):
    with lead(store_url, lease=1.0) as process:
        assert said(process) == "1"
        leadership = store.leadership("controller")
        with pytest.raises(ConflictError, match=f"process {process.pid} "):
            await leadership.acquire(timeout=0)
        process.kill()

    await leadership.acquire()

    assert leadership.epoch == 2
    await store.fenced(leadership).put(a_session())
    await leadership.release()


async def test_who_waits_to_lead_is_known_while_it_waits_and_no_longer(reopened: Reopened):
    first, second = await reopened(), await reopened()
    leading = first.leadership("controller")
    await leading.acquire()
    me = f"process {os.getpid()} on {socket.gethostname()}"
    assert await first.replicas("controller") == (me, ())

    following = second.leadership("controller")
    waiting = asyncio.create_task(following.acquire())
    async with asyncio.timeout(20):
        while await first.replicas("controller") != (me, (me,)):  # noqa: ASYNC110 - nobody is told of another's row
            await asyncio.sleep(0)
    assert await first.replicas("another") == ("", ())
    await leading.release()
    await waiting

    assert await second.replicas("controller") == (me, ())
    await following.release()


# ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_leader_that_was_stopped_for_longer_than_its_lease_finds_itself_refused(postgres_url: str):
    store = open_store(postgres_url)
    await store.open()
    with lead(postgres_url, lease=1.0) as process:
        assert said(process) == "1"
        write(process, "as-leader")
        assert said(process) == "written"
        process.send_signal(signal.SIGSTOP)
        async with store.leadership("controller", lease=LONG) as leadership:
            process.send_signal(signal.SIGCONT)
            write(process, "too-late")
            assert said(process) == "ConflictError"
            assert leadership.held
        process.kill()

    assert [session.id for session in await every(store, SessionRecord)] == ["as-leader"]
    await store.close()


async def test_a_write_that_a_leader_has_begun_is_done_before_anybody_else_leads(
    postgres: PostgresServer, postgres_url: str
):
    first, second = PostgresStore(postgres_url), PostgresStore(postgres_url)
    await first.open()
    await second.open()
    begun, go_on = threading.Event(), threading.Event()

    def slowly(connection: Connection) -> None:
        begun.set()
        go_on.wait()
        connection.execute(text("SELECT 1"))

    leadership = first.leadership("controller", lease=LONG)
    await leadership.acquire()
    writing = asyncio.create_task(first.fenced(leadership)._write(slowly))
    await asyncio.to_thread(begun.wait)
    postgres.query("UPDATE leases SET until = 0", str(first._url.database))  # as if the leader had been cut off
    waiting = asyncio.create_task(second.leadership("controller", lease=LONG).acquire())
    while postgres.query("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)]:  # noqa: ASYNC110  # it tells nobody
        await asyncio.sleep(0.01)
    assert not waiting.done()
    go_on.set()

    await writing
    await waiting
    with pytest.raises(ConflictError, match="has led since"):
        await first.fenced(leadership).put(a_session())
    await first.close()
    await second.close()


async def test_a_leader_learns_that_another_one_has_led_since(postgres: PostgresServer, postgres_url: str):
    store = PostgresStore(postgres_url)
    await store.open()
    async with store.leadership("controller", lease=1.0) as leadership:
        postgres.query("UPDATE leases SET epoch = epoch + 1", str(store._url.database))

        await leadership.lost.wait()

        assert not leadership.held
        assert "another process has led since" in leadership.cause
    await store.close()


async def test_a_leader_whose_database_is_away_for_a_whole_lease_leads_no_more_and_may_try_again(
    postgres: PostgresServer, postgres_url: str
):
    gate = Gate(postgres.port)
    await gate.open()
    store = PostgresStore(postgres_url.replace(str(postgres.port), str(gate.port)))
    await store.open()
    leadership = store.leadership("controller", lease=1.0)
    await leadership.acquire()
    await gate.close()

    await leadership.lost.wait()

    assert "cannot be reached" in leadership.cause
    with pytest.raises(StorageUnavailableError):
        await leadership.acquire()
    await gate.open()
    await leadership.acquire()
    assert (leadership.epoch, leadership.held, leadership.lost.is_set()) == (2, True, False)
    await leadership.release()
    await store.close()
    await gate.close()


async def test_a_lease_is_renewed_for_as_long_as_its_leader_is_there(postgres: PostgresServer, postgres_url: str):
    store = PostgresStore(postgres_url)
    await store.open()
    async with store.leadership("controller", lease=1.5) as leadership:
        seen = {await until(postgres, store)}
        while len(seen) < 4:  # the server tells nobody
            await asyncio.sleep(0.1)
            seen.add(await until(postgres, store))
        assert leadership.epoch == 1
    assert await until(postgres, store) == 0.0
    await store.close()


async def until(postgres: PostgresServer, store: PostgresStore) -> float:
    rows = await asyncio.to_thread(postgres.query, "SELECT until FROM leases", str(store._url.database))
    return float(rows[0][0])
