"""A node that changes its key: both keys sign it, the network swaps them at once, and a kill at any step leaves one."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import cradle
import pytest
from federation import PROJECT, Federation, federation

from hansa.errors import AuthenticationError, ConflictError, InputError, StorageUnavailableError
from hansa.evidence.bundle import open_bundle, verify_bundle
from hansa.evidence.findings import Known
from hansa.messages import EvaluationRules, RoundRules, RunSpec, Signature
from hansa.network.controller.export import Models
from hansa.network.entrance import Entrance
from hansa.network.node_keys import NodeKeys, handover
from hansa.statements import handover_statement
from hansa.store.ports import Query
from hansa.store.records import AuditRecord, EventRecord, HandoverRecord, NodeRecord, Record, SessionState
from hansa.wire.calls import EnrollRequest, RotateRequest
from hansa.wire.frames import Role
from hansa.wire.node_key import NodeKey, holds
from hansa.wire.transport import GRPC

ALONE = RunSpec(rounds=4, rules=RoundRules(min_clients=2, quorum=2, deadline=60), evaluation=EvaluationRules(every=0))


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Federation]:
    async with federation(tmp_path) as network:
        yield network


async def joined(made: Federation, name: str = "ward") -> NodeKey:
    token, _ = await made.controller.issue_token(PROJECT, name, Role.CLIENT)
    key = NodeKey.new()
    await made.controller.nodes.enroll(token, EnrollRequest(key.public, key.prove(token)))
    return key


def request(former: NodeKey, key: NodeKey, name: str = "ward", project: str = PROJECT) -> RotateRequest:
    told = handover(project, name, former, key, 0.0)
    return RotateRequest(key.public, told.by_former, told.by_key)


def said(key: NodeKey, instance: str = "a process", name: str = "ward") -> str:
    return key.assertion(name, PROJECT, instance)


async def node(made: Federation, name: str = "ward") -> NodeRecord:
    return await made.controller.store.get(NodeRecord, PROJECT, f"{PROJECT}/{name}")


async def handovers(made: Federation) -> tuple[HandoverRecord, ...]:
    return (await made.controller.store.list(HandoverRecord, Query(PROJECT, sort="at"))).items


async def later(made: Federation, name: str = "ward") -> None:
    """As though a quarter of an hour had passed since the last change."""
    known = made.controller.nodes._known
    known[PROJECT, name] = replace(known[PROJECT, name], rotated_at=time.time() - 1000)


# ── what the network takes ───────────────────────────────────────────────────────────────────────────────────────


async def test_another_key_takes_the_place_of_the_first_and_the_first_is_worth_nothing(made: Federation) -> None:
    first, second = await joined(made), NodeKey.new()
    nodes = made.controller.nodes
    before = await nodes.access(said(first))

    assert (await nodes.rotate(said(first), request(first, second))).node == "ward"
    with pytest.raises(AuthenticationError, match="Signature verification failed"):
        await nodes.access(said(first))
    after = await nodes.access(said(second))

    assert made.controller.verify(before.token).key == first.public  # of the same process: it holds for its minutes
    identity = made.controller.verify(after.token)
    assert (identity.key, identity.former, identity.keys) == (
        second.public,
        first.public,
        {first.public, second.public},
    )
    assert nodes.keys_of(PROJECT, "ward") == {first.public, second.public}
    stored, (kept,) = await node(made), await handovers(made)
    assert (stored.key, stored.former) == (second.public, first.public)
    statement = handover_statement(PROJECT, "ward", first.public, second.public)
    assert holds(Signature(first.public, kept.by_former), statement)
    assert holds(Signature(second.public, kept.by_key), statement)
    audit = (await made.controller.store.list(AuditRecord, Query(PROJECT, sort="-number", limit=1))).items[0]
    assert (audit.actor, audit.action, audit.target) == ("ward", "node.rotate", second.public)

    await later(made)
    assert nodes.keys_of(PROJECT, "ward") == {second.public}
    assert made.controller.verify((await nodes.access(said(second))).token).former == ""


async def test_a_handover_that_both_keys_have_not_signed_for_this_node_changes_nothing(made: Federation) -> None:
    key, thief, following = await joined(made), NodeKey.new(), NodeKey.new()
    other = await joined(made, "other")
    good = request(key, following)
    before = await node(made)
    for assertion, handed, flaw in (
        (said(key), replace(good, by_former=thief.sign(b"").value), "both keys have not signed"),
        (said(key), replace(good, by_key=""), "both keys have not signed"),
        (said(key), replace(good, public_key=thief.public), "both keys have not signed"),
        (said(key), request(key, following, project="cardiology"), "both keys have not signed"),
        (said(key), request(key, following, name="other"), "both keys have not signed"),
        (said(key), request(other, following), "both keys have not signed"),
        (said(key), replace(good, public_key="ed25519:" + "00" * 31), "64 hexadecimal digits"),
        (said(key), request(key, key), "that it has had"),
        (said(thief), good, "Signature verification failed"),
        (said(following), good, "Signature verification failed"),
        (said(other, name="other"), good, "both keys have not signed"),
        ("", good, "."),
    ):
        with pytest.raises(AuthenticationError, match=flaw):
            await made.controller.nodes.rotate(assertion, handed)
    now = await node(made)
    assert (now.key, now.former, await handovers(made)) == (before.key, None, ())


async def test_what_was_signed_once_is_of_no_use_again(made: Federation) -> None:
    """Handovers are public: they are in every bundle."""
    first, second, third = await joined(made), NodeKey.new(), NodeKey.new()
    nodes = made.controller.nodes
    assertion = said(first)
    await nodes.rotate(assertion, request(first, second))
    for again in (assertion, said(first), said(second)):
        with pytest.raises(AuthenticationError):
            await nodes.rotate(again, request(first, second))
    with pytest.raises(ConflictError, match="has just changed its key"):
        await nodes.rotate(said(second), request(second, third))
    await later(made)
    await nodes.rotate(said(second), request(second, third))
    await later(made)
    with pytest.raises(AuthenticationError, match="that it has had"):
        await nodes.rotate(said(third), request(third, first))
    assert [each.key for each in await handovers(made)] == [second.public, third.public]


async def test_while_one_process_is_connected_another_with_the_same_key_cannot_change_it(
    made: Federation, tmp_path: Path
) -> None:
    await made.client("ward")
    stolen = NodeKeys(tmp_path / "ward").current()
    assert stolen is not None
    with pytest.raises(ConflictError, match="from another process"):
        await made.controller.nodes.rotate(said(stolen, "the thief's"), request(stolen, NodeKey.new()))
    assert (await node(made)).key == stolen.public


async def test_who_is_revoked_hands_over_to_nobody(made: Federation) -> None:
    key = await joined(made)
    await made.controller.nodes.revoke(PROJECT, "ward")
    with pytest.raises(AuthenticationError, match="ward was revoked"):
        await made.controller.nodes.rotate(said(key), request(key, NodeKey.new()))
    assert made.controller.nodes.keys_of(PROJECT, "ward") == frozenset()


async def test_of_two_changes_at_once_one_is_made(made: Federation) -> None:
    key = await joined(made)
    answers = await asyncio.gather(
        *(made.controller.nodes.rotate(said(key), request(key, NodeKey.new())) for _ in range(8)),
        return_exceptions=True,
    )
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    assert len(await handovers(made)) == 1


async def test_a_change_that_was_stored_while_the_answer_was_lost_is_made(
    made: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await joined(made), NodeKey.new()
    await made.controller.nodes.access(said(first))
    store, put = made.controller.store, made.controller.store.put

    async def put_without_an_answer(*records: Record) -> None:
        await put(*records)
        raise StorageUnavailableError("the store went away before it answered")

    with monkeypatch.context() as away:
        away.setattr(store, "put", put_without_an_answer)
        await made.controller.nodes.rotate(said(first), request(first, second))
    assert (await made.controller.nodes.access(said(second))).token
    assert len(await handovers(made)) == 1


# ── what a node does ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_client_and_its_combiner_change_their_keys_in_a_session_and_every_update_counts(
    app: Path, tmp_path: Path
) -> None:
    """Below a combiner, which knows its children by their tokens; a third party goes from one key to the other."""
    gate, folder, file = tmp_path / "gate", tmp_path / "ward", tmp_path / "session.zip"
    async with federation(tmp_path, ["west"]) as made:
        await made.client("ward", 0, 2, app=app, preferred="west")
        await made.client("other", 1, 2, app=app, preferred="west")
        session = await made.start(app, replace(ALONE, config={"gate": str(gate)}), package=False)
        await made.until_round(session, 2)
        newest = await made.controller.store.list(EventRecord, Query(PROJECT, sort="-id", limit=1))
        seen, first = newest.items[0].id, NodeKeys(folder).current()
        second = NodeKeys(folder).make_next()
        assert first is not None
        await made._told("client.connected", "ward", seen)
        assert (await node(made)).key == second.public
        NodeKeys(tmp_path / "west").make_next()
        await made._told("combiner.connected", "west", seen)
        assert (await node(made, "west")).former is not None
        gate.touch()
        session = await made.end(session)
        assert session.state is SessionState.FINISHED, session.cause
        parts = [part for part in await made.contributions(session) if part.client == "ward"]
        await made.controller.sessions.export(PROJECT, session.id, Models.NONE, file, "ada")

    assert [part.outcome for part in parts] == ["accepted"] * 4
    assert [part.signer for part in sorted(parts, key=lambda part: part.round)] == [first.public] * 2 + [
        second.public
    ] * 2
    keys = NodeKeys(folder)
    current = keys.current()
    assert current is not None
    assert (current.public, keys.has_next(), [each.former for each in keys.former()]) == (
        second.public,
        False,
        [first.public],
    )
    with file.open("rb") as opened:
        bundle = open_bundle(opened)
        found = verify_bundle(bundle)
        assert (found.handovers, found.clients["ward"]) == (1, (first.public, second.public))
        for known in (first.public, second.public):
            assert verify_bundle(bundle, Known(clients={"ward": known})) == found
        with pytest.raises(Exception, match="whose key is"):
            verify_bundle(bundle, Known(clients={"other": first.public}))


async def test_a_key_that_is_old_is_changed_and_one_that_was_just_made_is_not(made: Federation, tmp_path: Path) -> None:
    token, _ = await made.controller.issue_token(PROJECT, "ward", Role.CLIENT)

    def entrance(age: float) -> Entrance:
        return Entrance(made.server.address, token, tmp_path / "ward", made.trust, GRPC, key_age=age)

    young = entrance(3600.0)
    await young.access()
    await young.change_key()
    first = (await node(made)).key
    assert not NodeKeys(tmp_path / "ward").former()
    old = entrance(0.0)
    await old.access()
    assert old.identity.key_is_due()
    await old.change_key()
    assert ((await node(made)).former, old.identity.sign(b"").signer) == (first, (await node(made)).key)
    assert await old.access()
    await old.change_key()  # the network takes the next one in a quarter of an hour
    assert not old.identity.key_is_due()
    assert (await node(made)).former == first


def test_there_is_nothing_to_change_before_a_node_has_joined(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has not joined its network yet"):
        NodeKeys(tmp_path).make_next()
    first = NodeKeys(tmp_path).make()
    asked = NodeKeys(tmp_path).make_next().public
    assert (NodeKeys(tmp_path).make_next().public, asked != first.public) == (asked, True)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


# ── killed ───────────────────────────────────────────────────────────────────────────────────────────────────────

CHANGING = """
import asyncio, os, pathlib, signal, sys
from hansa.network.entrance import Entrance
from hansa.network.node_keys import NodeKeys
from hansa.wire import channel, tls
from hansa.wire.transport import GRPC

address, authority, token, folder, killed_at = sys.argv[1:]
steps = 0

def step():
    global steps
    steps += 1
    if steps == int(killed_at):
        os.kill(os.getpid(), signal.SIGKILL)

def stepping(function):
    def called(*given, **named):
        step()
        done = function(*given, **named)
        step()
        return done
    return called

def stepping_over(function):
    async def called(*given, **named):
        step()
        done = await function(*given, **named)
        step()
        return done
    return called

async def change():
    entrance = Entrance(address, token, pathlib.Path(folder), tls.trust_in(authority), GRPC)
    await entrance.access()
    await entrance.change_key()
    await entrance.access()

os.fsync, pathlib.Path.replace = stepping(os.fsync), stepping(pathlib.Path.replace)
channel.rotate, channel.access = stepping_over(channel.rotate), stepping_over(channel.access)
NodeKeys(pathlib.Path(folder)).make_next()
asyncio.run(change())
print(steps)
"""
"""A client's process that changes its key, and is killed at the n-th of its durable steps and calls."""


async def test_a_kill_at_every_step_of_a_change_leaves_one_key_that_both_sides_know(
    made: Federation, tmp_path: Path
) -> None:
    killed, finished = 0, False
    while not finished:
        killed += 1
        name, folder = f"ward-{killed}", tmp_path / f"ward-{killed}"
        token, _ = await made.controller.issue_token(PROJECT, name, Role.CLIENT)

        def entrance(token: str = token, folder: Path = folder) -> Entrance:
            return Entrance(made.server.address, token, folder, made.trust, GRPC)

        await entrance().access()
        first = NodeKeys(folder).current()
        assert first is not None
        arguments = [made.server.address, made.trust.fingerprint, token, str(folder), str(killed)]
        process = cradle.Popen([sys.executable, "-c", CHANGING, *arguments], stdin=-3, stdout=-3, stderr=-3)
        finished = await asyncio.to_thread(process.wait) == 0
        again = entrance()
        await again.access()  # whoever starts it again does nothing but that

        keys, known = NodeKeys(folder), await node(made, name)
        current = keys.current()
        assert current is not None
        assert (current.public, again.identity.sign(b"").signer) == (known.key, known.key), killed
        assert keys.has_next() is False
        if known.key == first.public:  # killed before the next key was whole: nobody has heard of it
            assert (known.former, keys.former()) == (None, [])
            continue
        (kept,) = keys.former()
        (stored,) = [each for each in await handovers(made) if each.node == name]
        assert replace(kept, id=stored.id, at=stored.at) == stored
        assert (known.former, stored.former, stored.key) == (first.public, first.public, current.public)
    assert killed > 16
