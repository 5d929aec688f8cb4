"""Nodes that have joined and mean harm: nobody is taken from the network, and no session fails by what they say."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import PROJECT, Federation
from nodes import access_token
from untouched import TOLD, rows, tables

from hansa.arrays import Arrays
from hansa.errors import ConnectionFailedError, PermissionDeniedError, QuotaExceededError, WireError
from hansa.messages import EvaluationRules, RoundRules, RunSpec, Sample
from hansa.network.controller.journal import Live
from hansa.network.controller.quotas import QuotaKind
from hansa.store.ports import Query
from hansa.store.records import AnswerRecord, EventRecord, SessionState
from hansa.wire import channel, codec
from hansa.wire._generated import control_pb2
from hansa.wire.channel import Stream
from hansa.wire.frames import (
    Dismiss,
    FromNode,
    Hello,
    LogLine,
    OpenRound,
    Predicted,
    Presence,
    Present,
    Role,
    Samples,
    ToNode,
)

APP = """
import numpy as np

import hansa

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": np.zeros(3, np.float32)}


@app.train
def train(model, task):
    return hansa.Update({"w": model["w"] + np.float32(1)}, num_examples=10)
"""

SPEC = RunSpec(
    rounds=1,
    rules=RoundRules(min_clients=1, quorum=1, enough=1, lease=2.0),
    evaluation=EvaluationRules(every=0),
)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Federation]:
    async with Federation.open(tmp_path, silence=5.0, tls="off") as network:
        yield network


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


class Villain:
    """A bare stream of a node that has joined."""

    def __init__(self, made: Federation, name: str, role: Role) -> None:
        self._made, self.name, self.role = made, name, role

    async def __aenter__(self) -> Stream[FromNode, ToNode]:
        token = await access_token(self._made.controller, PROJECT, self.name, self.role)
        self._channel = channel.open_channel(self._made.server.listening, None)
        return channel.attach(self._channel, token)

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()


def hello(role: Role) -> Hello:
    return Hello(role, "a process", "0", address="tcp://127.0.0.1:1" if role is Role.COMBINER else "")


async def newest(made: Federation) -> int:
    page = await made.controller.store.list(EventRecord, Query(PROJECT, sort="-id", limit=1))
    return page.items[0].id if page.items else 0


async def seen(made: Federation, kind: str, name: str, after: int) -> None:
    async for happened in made.controller.journal.follow(PROJECT, after):
        if happened.kind == kind and happened.data.get("name") == name:
            return


async def test_a_combiner_takes_nobody_from_another_server_by_a_claim(made: Federation, app: Path) -> None:
    await made.combiner("west")
    await made.client("ward", app=app, preferred="west")
    await made.client("other", app=app, preferred="west")
    after = await newest(made)
    async with Villain(made, "fort", Role.COMBINER) as fort:
        await fort.send(hello(Role.COMBINER))
        await fort.receive()
        await seen(made, "combiner.connected", "fort", after)
        before = dict(made.tree.directory.clients), tables(made.folder / "controller")
        for claimed in (
            Presence((Present("ward", {}, "fort", ""), Present("other", {}, "fort", "0" * 32))),
            Presence(combiners=(Present("ward", {"address": "tcp://127.0.0.1:1"}, "fort", "x"),)),
            Presence(joined=(Present("west", {}, "fort", ""),), left=("ward", "other", "west")),
            Presence(joined=tuple(Present(f"nobody-{n}", {}, "fort", f"{n}") for n in range(3000))),
        ):
            await fort.send(claimed)
            assert isinstance(await fort.receive(), Dismiss)
        assert (dict(made.tree.directory.clients), tables(made.folder / "controller")) == before
        assert (await made.run(app, SPEC)).state is SessionState.FINISHED


async def test_claims_by_the_hundred_thousand_end_the_stream_that_they_come_by_and_hold_nobody_up(
    made: Federation, app: Path
) -> None:
    await made.client("ward", app=app)
    many = Presence(joined=tuple(Present(f"nobody-{n}", {}, "fort", f"{n}") for n in range(100_000)))
    async with Villain(made, "fort", Role.COMBINER) as fort:
        await fort.send(hello(Role.COMBINER))
        await fort.send(many)
        after = await newest(made)
        while await fort.receive() is not None:
            pass
        await seen(made, "node.left", "fort", after)
    assert set(made.tree.directory.clients) == {"ward"}
    assert (await made.run(app, SPEC)).state is SessionState.FINISHED


KEY = {"round": 1, "kind": 1}
DIGEST = "0" * 64
WHO = {"client": "villain"}
UPDATE = {
    "sender": "villain",
    "blob": {"digest": DIGEST, "size": 1, "inline": b"x"},
    "contributions": [{**WHO, "num_examples": 1, "metrics": {"\0": 1.0}}],
}
NUL: list[dict[str, Any]] = [
    {"evaluated": {**WHO, "num_examples": 1, "metrics": {"lo\0ss": 1.0}}},
    {"offer": UPDATE},
    {"progress": {**WHO, "activity": "tr\0ain"}},
]


@pytest.mark.parametrize("said", NUL, ids=lambda said: next(iter(said)))
async def test_a_name_with_nul_ends_its_stream_and_fails_no_session(
    made: Federation, app: Path, said: dict[str, Any]
) -> None:
    async with Villain(made, "villain", Role.CLIENT) as stream:
        await stream.send(hello(Role.CLIENT))
        await stream.receive()
        session = await made.start(app, SPEC)
        opened = await stream.receive()
        assert isinstance(opened, OpenRound)
        before = tables(made.folder / "controller")
        ((kind, fields),) = said.items()
        frame = {kind: {**fields, "key": {**KEY, "run": opened.key.run}}}
        raw = control_pb2.FromNode(**frame).SerializeToString()
        await stream._call.write(raw)
        with pytest.raises(WireError, match="has a NUL character"):
            await to_its_end(stream)
        assert tables(made.folder / "controller", but=TOLD | {"clients"}) == {
            name: digest for name, digest in before.items() if name != "clients"
        }
    await made.client("ward", app=app)
    assert (await made.end(session)).state is SessionState.FINISHED
    outcomes = {part.client: part.outcome for part in await made.contributions(session)}
    assert outcomes["ward"] == "accepted"
    assert outcomes["villain"] != "accepted"


async def test_a_failure_told_with_nul_is_recorded_and_fails_no_session(made: Federation, app: Path) -> None:
    await made.client("ward", app=app)
    spec = replace(SPEC, rules=RoundRules(min_clients=2, quorum=1))
    async with Villain(made, "villain", Role.CLIENT) as stream:
        await stream.send(hello(Role.CLIENT))
        await stream.receive()
        session = await made.start(app, spec)
        opened = await stream.receive()
        assert isinstance(opened, OpenRound)
        key = {**KEY, "run": opened.key.run}
        failed = control_pb2.FromNode(task_failed={"key": key, "client": "villain", "message": "a\0b"})
        await stream._call.write(failed.SerializeToString())
        assert (await made.end(session)).state is SessionState.FINISHED
    (event,) = await made.events(session, "task.failed")
    assert "a\u2400b" in event.message


async def test_who_comes_after_one_with_nul_in_its_labels_is_recorded_still(made: Federation, app: Path) -> None:
    for fields in ({"version": "\0"}, {"labels": {"site": "\0"}}, {"instance": "\0"}):
        async with Villain(made, "villain", Role.CLIENT) as stream:
            await channel._connected(stream._call)
            await stream._call.write(control_pb2.FromNode(hello={"role": 2, **fields}).SerializeToString())
            with pytest.raises(WireError, match="NUL"):
                await to_its_end(stream)
    await made.client("ward", app=app)  # comes back when its row and its event are stored
    names = [row for row in rows(made.folder / "controller", "clients") if "ward" in row or "villain" in row]
    assert len(names) == 1


async def test_what_a_client_logs_in_a_session_that_did_not_invite_it_is_heard_by_nobody(
    made: Federation, app: Path
) -> None:
    spec = replace(SPEC, rules=RoundRules(min_clients=1, quorum=1, only=("member",)))
    after = await newest(made)
    async with Villain(made, "member", Role.CLIENT) as member, Villain(made, "villain", Role.CLIENT) as villain:
        for stream in (villain, member):
            await stream.send(hello(Role.CLIENT))
            await stream.receive()
        await seen(made, "client.connected", "villain", after)
        session = await made.start(app, spec)
        opened = await member.receive()
        assert isinstance(opened, OpenRound)
        following = made.controller.journal.follow(PROJECT, after)
        while (await anext(following)).kind != "session.started":
            pass
        for key in (opened.key, replace(opened.key, round=2), replace(opened.key, run="0" * 12)):
            await villain.send(Samples("villain", (Sample("loss", 1.0, 1, 5.0),), key))
            await villain.send(LogLine(key, "villain", "a line"))
        await villain.send(LogLine(opened.key, "member", "for another"))
        with pytest.raises(PermissionDeniedError):  # by now all before it was taken, or was not
            await to_its_end(villain)
        await member.send(Samples("member", (Sample("loss", 1.0, 1, 5.0),), opened.key))
        await member.send(LogLine(opened.key, "member", "a line"))
        heard = [await logged(following), await logged(following)]
        await made.controller.sessions.stop(PROJECT, session.id, "an operator")
    assert heard == [("client.logged", session.id, "member"), ("log", session.id, "member")]


@pytest.mark.parametrize(
    "document",
    [b"\xff\xfe", b"no JSON", b"[" * 200_000, b"NaN", b"[1e999]", b'"\\ud800"', b'"a\0b"', b"", b"1" * 10_000],
    ids=["bytes", "text", "deep", "nan", "infinite", "half", "nul", "nothing", "digits"],
)
async def test_a_prediction_that_not_every_reader_takes_is_rejected_and_leaves_nothing_under_way(
    made: Federation, document: bytes
) -> None:
    control, arrays = made.controller, Arrays({"w": np.zeros(3, np.float32)})
    model = await control.artifacts.add_model(PROJECT, b"".join(codec.encode(arrays)))
    after = await newest(made)
    async with Villain(made, "villain", Role.CLIENT) as stream:
        await stream.send(hello(Role.CLIENT))
        await stream.receive()
        await seen(made, "client.connected", "villain", after)
        asked = await control.predictions.start(PROJECT, RunSpec(rules=RoundRules(deadline=30.0)), model=model.id)
        task = made.tree._predicting[asked.id]
        opened = await stream.receive()
        assert isinstance(opened, OpenRound)
        await stream.send(Predicted(opened.key, "villain", document))
        ended = await task
    answers = (await control.store.list(AnswerRecord, Query(PROJECT, {"prediction": asked.id}))).items
    assert ended.state is not SessionState.RUNNING
    assert [(answer.document, "no JSON" in answer.reason) for answer in answers] == [(None, True)]


async def test_predictions_count_into_the_storage_of_a_project(made: Federation) -> None:
    control, arrays = made.controller, Arrays({"w": np.zeros(3, np.float32)})
    model = await control.artifacts.add_model(PROJECT, b"".join(codec.encode(arrays)))
    await control.quotas.change(PROJECT, {QuotaKind.STORAGE: 10_000}, "root")
    asked = await control.predictions.start(PROJECT, RunSpec(), model=model.id)
    await control.predictions.stop(PROJECT, asked.id)
    await control.store.put(AnswerRecord(f"{asked.id}/ward", PROJECT, asked.id, "ward", 1.0, json.dumps("x" * 10_000)))
    with pytest.raises(QuotaExceededError, match="predictions among them"):
        await control.predictions.start(PROJECT, RunSpec(), model=model.id)


async def logged(following: AsyncIterator[EventRecord | Live]) -> tuple[str, str, object]:
    """What is heard next of all that clients log."""
    while (told := await anext(following)).kind not in {"client.logged", "log"}:
        pass
    return told.kind, told.session, told.data["client"]


async def to_its_end(stream: Stream[FromNode, ToNode]) -> None:
    try:
        while await stream.receive() is not None:
            pass
    except ConnectionFailedError:
        pass
