"""Joining: a token that makes one key known, once; access for who has that key; and how a node is sent away."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import numpy as np
import pytest
from federation import PROJECT, Federation, federation
from nodes import access_token
from rig import rig

from hansa.arrays import Arrays
from hansa.errors import AuthenticationError, ConflictError, InputError, NotFoundError, StorageUnavailableError
from hansa.messages import EvaluationRules, RoundRules, RunSpec
from hansa.network.combiner.children import Child
from hansa.network.controller.signing_keys import SigningKeys, forget_former_keys, rotate_keys
from hansa.store.ports import Query
from hansa.store.records import AuditRecord, EventRecord, NodeRecord, Record, SessionState, TokenRecord
from hansa.wire import channel, chunks, codec, tokens
from hansa.wire.calls import EnrollRequest
from hansa.wire.frames import Admission, Dismiss, FromNode, Hello, Redirect, Role, ToNode, Verdict, Welcome
from hansa.wire.node_key import NodeKey, check_proof, read_assertion

LARGE = Arrays({"w": np.zeros(1_000_000, np.float32)})


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Federation]:
    async with federation(tmp_path) as network:
        yield network


def request_of(key: NodeKey, token: str) -> EnrollRequest:
    return EnrollRequest(key.public, key.prove(token))


async def joined(made: Federation, name: str = "ward") -> NodeKey:
    token, _ = await made.controller.issue_token(PROJECT, name, Role.CLIENT)
    key = NodeKey.new()
    await made.controller.nodes.enroll(token, request_of(key, token))
    return key


async def state(made: Federation) -> tuple[list[NodeRecord], list[TokenRecord]]:
    """All that joining changes, but for the audit record."""
    store, everything = made.controller.store, Query(PROJECT, limit=1000)
    return [*(await store.list(NodeRecord, everything)).items], [*(await store.list(TokenRecord, everything)).items]


async def actions(made: Federation) -> list[tuple[str, str]]:
    page = await made.controller.store.list(AuditRecord, Query(PROJECT, limit=1000))
    return [(line.action, line.outcome) for line in page.items]


# ── join tokens ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_join_token_makes_one_key_known_and_no_other(made: Federation) -> None:
    token, record = await made.controller.issue_token(PROJECT, "ward", Role.CLIENT)
    key, thief = NodeKey.new(), NodeKey.new()
    nodes = made.controller.nodes

    assert (await nodes.enroll(token, request_of(key, token))).node == "ward"
    before = await state(made)
    assert (await nodes.enroll(token, request_of(key, token))).node == "ward"  # the first answer was lost
    with pytest.raises(AuthenticationError, match="was used already, by another key"):
        await nodes.enroll(token, request_of(thief, token))

    assert await state(made) == before
    (node,), (spent,) = before
    assert (node.key, node.token, spent.id) == (key.public, record.id, record.id)
    assert spent.used_at is not None
    assert (await actions(made))[-2:] == [("node.join", "done"), ("node.join", "refused")]
    with pytest.raises(AuthenticationError):
        await nodes.access(thief.assertion("ward", PROJECT, "a process"))


async def test_a_node_that_is_gone_while_its_key_is_stored_is_known_when_it_is_back(
    made: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, _ = await made.controller.issue_token(PROJECT, "ward", Role.CLIENT)
    key, nodes, store = NodeKey.new(), made.controller.nodes, made.controller.store
    stored, put = asyncio.Event(), store.put

    async def slow(*records: Record) -> None:
        await put(*records)
        stored.set()
        await asyncio.sleep(0)

    monkeypatch.setattr(nodes, "_store", store.fenced(made.server._leadership))
    monkeypatch.setattr(nodes._store, "put", slow)
    joining = asyncio.create_task(nodes.enroll(token, request_of(key, token)))
    await stored.wait()
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining

    assert (await nodes.enroll(token, request_of(key, token))).node == "ward"
    assert (await nodes.access(key.assertion("ward", PROJECT, "a process"))).token


async def test_a_node_whose_key_was_stored_while_the_answer_was_lost_joins_and_nobody_else(
    made: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, _ = await made.controller.issue_token(PROJECT, "ward", Role.CLIENT)
    key, nodes, store = NodeKey.new(), made.controller.nodes, made.controller.store
    put, get = store.put, store.get

    async def put_without_an_answer(*records: Record) -> None:
        await put(*records)
        raise StorageUnavailableError("the store went away before it answered")

    async def get_nothing_about_nodes(kind: type[Record], project: str, name: str) -> Record:
        if kind is NodeRecord:
            raise StorageUnavailableError("the store is away")
        return await get(kind, project, name)

    with monkeypatch.context() as away:
        away.setattr(store, "put", put_without_an_answer)
        away.setattr(store, "get", get_nothing_about_nodes)
        with pytest.raises(StorageUnavailableError):
            await nodes.enroll(token, request_of(key, token))
    with pytest.raises(AuthenticationError, match="used already, by another key"):
        await nodes.enroll(token, request_of(NodeKey.new(), token))
    assert (await nodes.enroll(token, request_of(key, token))).node == "ward"
    assert (await nodes.access(key.assertion("ward", PROJECT, "i"))).token


async def test_a_join_token_that_is_over_revoked_forged_or_of_another_kind_lets_nobody_join(made: Federation) -> None:
    controller = made.controller
    revoked, record = await controller.issue_token(PROJECT, "revoked", Role.CLIENT)
    await controller.revoke_token(PROJECT, record.id)
    over, _ = await controller.issue_token(PROJECT, "over", Role.CLIENT, expires_in=-60.0)
    access = await access_token(controller, PROJECT, "ward")
    unknown = tokens.issue(controller._key, "ward", Role.CLIENT, PROJECT, audience=tokens.JOINING)[0]
    forged = tokens.issue(tokens.new_key(), "ward", Role.CLIENT, PROJECT, audience=tokens.JOINING)[0]
    none = jwt.encode(jwt.decode(unknown, options={"verify_signature": False}), "", algorithm="none")
    before = await state(made)

    key = NodeKey.new()
    for token, flaw in (
        (revoked, "was revoked"),
        (over, "expired"),
        (access, "another audience"),
        (unknown, "knows no such join token"),
        (forged, "signature does not hold"),
        (none, "not signed with EdDSA"),
        ("", "not a valid token"),
    ):
        with pytest.raises(AuthenticationError, match=flaw):
            await controller.nodes.enroll(token, request_of(key, token))
    assert await state(made) == before


async def test_a_key_is_enrolled_by_who_has_its_private_half(made: Federation) -> None:
    token, _ = await made.controller.issue_token(PROJECT, "ward", Role.CLIENT)
    key, other = NodeKey.new(), NodeKey.new()
    before = await state(made)
    for request in (
        EnrollRequest(key.public, other.prove(token)),
        EnrollRequest(key.public, key.prove("another token")),
        EnrollRequest(key.public, ""),
        EnrollRequest(key.public, "zz" * 64),
        EnrollRequest(key.public.upper(), key.prove(token)),
        EnrollRequest("ed25519:" + "00" * 31, key.prove(token)),
    ):
        with pytest.raises(AuthenticationError):
            await made.controller.nodes.enroll(token, request)
    assert await state(made) == before


async def test_of_two_that_use_a_join_token_at_once_one_joins(made: Federation) -> None:
    token, _ = await made.controller.issue_token(PROJECT, "ward", Role.CLIENT)
    keys = [NodeKey.new() for _ in range(8)]
    answers = await asyncio.gather(
        *(made.controller.nodes.enroll(token, request_of(key, token)) for key in keys), return_exceptions=True
    )
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    assert len((await state(made))[0]) == 1


# ── access ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_access_is_for_who_signs_with_the_key_and_is_bound_to_name_and_project(made: Federation) -> None:
    key = await joined(made)
    access = await made.controller.nodes.access(key.assertion("ward", PROJECT, "a process"))

    identity = made.controller.verify(access.token)
    assert (identity.name, identity.role, identity.project) == ("ward", Role.CLIENT, PROJECT)
    claims = jwt.decode(access.token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == access.expires_in == 900
    with pytest.raises(AuthenticationError, match="another audience"):
        tokens.verify(made.controller.public_key, access.token, tokens.JOINING)


async def test_a_nodes_own_token_holds_once_for_its_own_name_and_a_minute(made: Federation) -> None:
    key, other = await joined(made), await joined(made, "other")
    nodes = made.controller.nodes
    said = key.assertion("ward", PROJECT, "a process")
    await nodes.access(said)
    claims = jwt.decode(said, options={"verify_signature": False}) | {"jti": "another"}
    signed = lambda changed, algorithm="EdDSA", by=key: jwt.encode(  # noqa: E731
        claims | changed, by._private if algorithm == "EdDSA" else "", algorithm=algorithm
    )
    before = await state(made)
    for assertion, flaw in (
        (said, "used before"),
        (other.assertion("ward", PROJECT, "a process"), "Signature verification failed"),
        (key.assertion("other", PROJECT, "a process"), "Signature verification failed"),
        (key.assertion("ward", "cardiology", "a process"), "has not joined"),
        (key.assertion("nobody", PROJECT, "a process"), "has not joined"),
        (signed({"exp": claims["iat"] - 100, "iat": claims["iat"] - 150}), "expired"),
        (signed({"exp": claims["iat"] + 10_000}), "60 seconds at most"),
        (signed({"iat": claims["iat"] + 1000, "exp": claims["iat"] + 1050}), "not yet valid"),
        (signed({"aud": "hansa"}), "[Aa]udience"),
        (signed({"jti": ""}), "lacks what it must say"),
        (signed({"instance": 5}), "lacks what it must say"),
        (signed({}, "none"), "."),
        ("", "."),
        ("x" * 10_000, "too many"),
    ):
        with pytest.raises(AuthenticationError, match=flaw):
            await nodes.access(assertion)
    assert await state(made) == before


async def test_while_one_process_is_connected_another_with_the_same_key_gets_no_access(
    made: Federation, tmp_path: Path
) -> None:
    await made.client("ward")
    key = NodeKey.of_pem((tmp_path / "ward" / "node-key.pem").read_bytes())
    with pytest.raises(ConflictError, match="from another process"):
        await made.controller.nodes.access(key.assertion("ward", PROJECT, "another process"))
    await made.leave("ward")
    await made.gone("ward")
    first = await made.controller.nodes.access(key.assertion("ward", PROJECT, "another process"))
    await made.controller.nodes.access(key.assertion("ward", PROJECT, "a third"))
    with pytest.raises(AuthenticationError, match="another process of ward has taken its place"):
        made.controller.verify(first.token)


async def test_who_has_joined_is_known_to_the_next_controller(made: Federation) -> None:
    await made.client("ward")
    before = made.controller.nodes
    again = type(before)(
        made.controller.store, SigningKeys(made.controller._key), lambda _: False, lambda _node, _why: None
    )
    await again.recall(PROJECT)
    assert again._known == before._known
    assert again._known[PROJECT, "ward"].grant


# ── being sent away ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_revoked_client_is_ended_refused_and_replaced_and_may_join_anew(
    app: Path, made: Federation, tmp_path: Path
) -> None:
    await made.client("ward", app=app)
    task = made.nodes.pop("ward")
    await made.controller.nodes.revoke(PROJECT, "ward", by="ada")
    with pytest.raises(AuthenticationError, match="ward was revoked"):
        await task
    await made.gone("ward")
    assert made.tree.directory.clients == {}
    with pytest.raises(AuthenticationError, match="ward was revoked"):
        await made.controller.nodes.access(
            NodeKey.of_pem((tmp_path / "ward" / "node-key.pem").read_bytes()).assertion("ward", PROJECT, "again")
        )
    with pytest.raises(NotFoundError, match="no node 'nobody'"):
        await made.controller.nodes.revoke(PROJECT, "nobody")
    assert ("node.revoke", "done") in await actions(made)

    await made.client("ward", app=app)  # with another join token, and the key that it has
    spec = RunSpec(rounds=1, rules=RoundRules(min_clients=1, quorum=1), evaluation=EvaluationRules(every=0))
    assert (await made.run(app, spec, package=False)).state is SessionState.FINISHED


async def test_with_its_join_token_a_node_is_revoked(made: Federation) -> None:
    await made.client("ward")
    (_, (token,)) = await state(made)
    task = made.nodes.pop("ward")
    await made.controller.revoke_token(PROJECT, token.id)
    with pytest.raises(AuthenticationError, match="ward was revoked"):
        await task


async def test_a_combiner_that_is_revoked_goes_and_its_clients_find_another(app: Path, tmp_path: Path) -> None:
    async with federation(tmp_path, ["west"]) as made:
        await made.client("ward", app=app, preferred="west")
        assert made.tree.directory.clients["ward"].combiner == "west"
        task = made.nodes.pop("west")
        newest = Query(PROJECT, sort="-id", limit=1)
        seen = (await made.controller.store.list(EventRecord, newest)).items[0].id
        await made.controller.nodes.revoke(PROJECT, "west")
        with pytest.raises(AuthenticationError, match="west was revoked"):
            await task
        await made._told("client.connected", "ward", seen)
        assert made.tree.directory.clients["ward"].combiner == "root"


async def test_a_grant_that_holds_no_more_is_refused_by_the_server_that_would_believe_its_token() -> None:
    """A combiner verifies tokens by itself, and this one would hold for minutes."""
    async with rig() as made, made.dialled() as parent:
        token, hello = made.token("ward"), Hello(Role.CLIENT, "a process", "0")
        stream = channel.attach(parent, token)
        await stream.send(hello)
        assert isinstance(await stream.receive(), Welcome)
        grant = made.hub.children.streams["ward"].grant
        made.hub.receive_from_parent(Dismiss("ward", grant, "ward was revoked"))
        assert await stream.receive() == Redirect("ward was revoked")
        assert await stream.receive() is None
        assert made.hub.children.streams == {}

        with pytest.raises(AuthenticationError, match="ward was revoked"):
            await answered(channel.attach(parent, token), hello)


async def test_who_is_dismissed_while_it_is_welcomed_hears_both_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being sent is sent before the farewell: a stream that has begun a message can begin no other."""
    async with rig() as made, made.dialled() as parent:
        join = made.hub.join

        def revoked_at_once(child: Child) -> None:
            join(child)
            made.hub.receive_from_parent(Dismiss("ward", child.grant, "ward was revoked"))

        monkeypatch.setattr(made.hub, "join", revoked_at_once)
        stream = channel.attach(parent, made.token("ward"))
        await stream.send(Hello(Role.CLIENT, "a process", "0"))
        told = [frame async for frame in stream]
        assert [type(frame) for frame in told] == [Welcome, Redirect]
        assert told[1] == Redirect("ward was revoked")


async def answered(stream: channel.Stream[FromNode, ToNode], hello: Hello) -> ToNode | None:
    await stream.send(hello)
    return await stream.receive()


async def test_an_upload_ends_with_its_grant_and_does_not_count() -> None:
    async with rig() as made, made.node("ward") as ward, made.node("other") as other, made.dialled() as parent:
        made.open("ward", "other", model=LARGE)
        ward.offer(LARGE, inline=False)
        admission = await ward.told(Admission)
        token, begun = await ward.link._entrance.access(), asyncio.Event()

        async def trickling() -> AsyncIterator[bytes]:
            for offset in range(0, 4_000_000, 1000):
                yield chunks.frame(offset, b"x" * 1000)
                begun.set()
                await asyncio.sleep(0.01)

        sending = asyncio.create_task(channel.upload(parent, token, admission.upload, trickling()))
        await begun.wait()
        made.hub.receive_from_parent(Dismiss("ward", made.hub.children.streams["ward"].grant, "ward was revoked"))
        with pytest.raises(AuthenticationError, match="ward was revoked"):
            await sending
        other.offer(LARGE, inline=False)
        admission = await other.told(Admission)
        await other.link.upload(admission.upload, [memoryview(b"".join(codec.encode(LARGE)))], admission.offset)
        await other.told(Verdict)
        partial = await made.sealed()
        assert partial is not None
        assert set(partial.contributions) == {"other"}


def test_a_proof_is_for_one_token_and_one_key() -> None:
    key = NodeKey.new()
    check_proof(key.public, key.prove("token"), "token")
    assert NodeKey.of_pem(key.pem).public == key.public
    said = read_assertion(key.assertion("ward", PROJECT, "a process"), key.public)
    assert (said.name, said.project, said.instance) == ("ward", PROJECT, "a process")
    assert said.id != read_assertion(key.assertion("ward", PROJECT, "a process")).id


# ── the keys of a controller ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_controller_with_a_new_key_believes_what_the_former_one_has_signed_until_it_is_told_not_to(
    app: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "controller" / "keys"
    async with federation(tmp_path, ["west"]) as made:
        await made.client("ward", app=app, preferred="west")
        person = (await made.controller.people.issue((await made.controller.people.operator("ada")).id, called="t"))[0]
        waiting, _ = await made.controller.issue_token(PROJECT, "late", Role.CLIENT)
    rotate_keys(keys)
    async with federation(tmp_path, ["west"]) as made:
        assert made.controller.verify(person).name == "ada"
        late = NodeKey.new()
        await made.controller.nodes.enroll(waiting, request_of(late, waiting))
        await made.client("ward", app=app, preferred="west")
        spec = RunSpec(rounds=1, rules=RoundRules(min_clients=1, quorum=1), evaluation=EvaluationRules(every=0))
        assert (await made.run(app, spec, package=False)).state is SessionState.FINISHED
        newer = (await made.controller.people.issue("ada", called="t"))[0]
    assert forget_former_keys(keys)
    assert not forget_former_keys(keys)
    async with federation(tmp_path) as made:
        assert made.controller.verify(newer).name == "ada"
        with pytest.raises(AuthenticationError, match="signature does not hold"):
            made.controller.verify(person)


async def test_a_node_whose_token_is_refused_asks_for_another_before_it_gives_up(app: Path, tmp_path: Path) -> None:
    """The controller has restarted with a new key, and believes no former one."""
    async with federation(tmp_path) as made:
        await made.client("ward", app=app)
        (child,) = made.tree.hub.children.streams.values()
        made.controller.nodes._key = tokens.new_key()
        made.controller.public_key = made.controller.nodes._public_key = tokens.public_key(made.controller.nodes._key)
        newest = Query(PROJECT, sort="-id", limit=1)
        seen = (await made.controller.store.list(EventRecord, newest)).items[0].id
        child.close("the server restarts")
        await made._told("client.connected", "ward", seen)
        assert not made.nodes["ward"].done()


def test_keys_are_readable_by_their_owner_alone_and_there_is_nothing_to_change_before_the_first_start(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match="start the server once"):
        rotate_keys(tmp_path / "keys")
    SigningKeys.of(tmp_path / "keys")
    rotate_keys(tmp_path / "keys")
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "keys").iterdir()}
    assert modes == {"tokens.key": 0o600, "tokens.former.pem": 0o644}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
