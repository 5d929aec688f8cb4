"""What goes wrong at FEDn's own server, and not here: weights, updates that do not belong, clients that vanish."""

import asyncio
import io
import json
import uuid
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from federation import PROJECT
from fedn_fleet import (
    CONFIG,
    Calls,
    Fleet,
    FleetClient,
    KotlinClient,
    Tensors,
    adds,
    ended,
    fleet,
    npz,
    pb,
    scripts,
    seeded,
    start,
)

from hansa.compat.fedn.gateway import Weak
from hansa.compat.fedn.listing import Asked, select
from hansa.errors import AuthenticationError, StorageUnavailableError
from hansa.store.records import SessionRecord, SessionState
from hansa.wire import tokens
from hansa.wire.frames import Role


async def values(made: Fleet, session: str) -> list[float]:
    """The model's two numbers after a session, which has finished."""
    record = await ended(made, session)
    assert record.state is SessionState.FINISHED, record.cause
    (array,) = (await made.made.model(record)).values()
    return [float(each) for each in array]


def client_of(made: Fleet, name: str, amount: float = 1, examples: int = 1, **more: Any) -> FleetClient:
    return FleetClient(made.server.grpc_address, name, adds(amount, examples), name=name, **more)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.01)


async def test_a_mean_over_two_combiners_is_weighted_by_examples(tmp_path: Path) -> None:
    """One example says +1, a hundred say +100: (1 + 100·100) / 101, not 50.5."""
    async with fleet(tmp_path, ["north", "south"]) as made, scripts(made) as client:
        for name, amount, examples, combiner in (("a", 1, 1, "north"), ("b", 100, 100, "south")):
            await made.start(client_of(made, name, amount, examples), preferred=combiner)
        servers = {
            each["client_id"]: each["combiner"] for each in (await client.get("/api/v1/clients")).json()["result"]
        }
        unknown = await client.post("/api/v1/clients/add", json={"client_id": "c", "preferred_combiner": "nope"})
        result = await values(made, await start(client, clients_required=2))
    assert servers == {"a": "north", "b": "south"}
    assert unknown.status_code == 400
    assert result == pytest.approx([10001 / 101] * 2, rel=1e-6)


async def test_an_update_that_comes_twice_or_late_or_of_nowhere_changes_nothing(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        twice = client_of(made, "twice", 1)
        said: list[str] = []
        told = asyncio.Event()  # the last answer comes after the session's end

        async def do_train(task: Any) -> None:
            for amount in (1, 1000):  # the second is another update of the same task
                name = str(uuid.uuid4())
                await twice.calls.upload(name, npz([np.full(2, amount, np.float32) + made_of[task.model_id]]))
                meta = {"training_metadata": {"num_examples": 1}, "config": task.data}
                said.append(await twice.update(task.model_id, name, meta))
            if len(twice.tasks) > 1:  # and one of the round before
                first = twice.tasks[0]
                name = str(uuid.uuid4())
                await twice.calls.upload(name, npz([np.full(2, 1000, np.float32)]))
                meta = {"training_metadata": {"num_examples": 1}, "config": first.data}
                said.append(await twice.update(first.model_id, name, meta))
                await twice.calls.upload("strange", npz([np.full(2, 1000, np.float32)]))
                said.append(await twice.update("no such model", "strange", {"training_metadata": {"num_examples": 1}}))
                told.set()

        made_of: dict[str, Any] = {}

        async def knowing(task: Any) -> None:
            data = await twice.calls.download(task.model_id)
            assert data is not None
            with np.load(io.BytesIO(data)) as file:
                made_of[task.model_id] = file["0"]
            await do_train(task)

        twice.do_train = knowing  # type: ignore[method-assign]
        await made.start(twice)
        result = await values(made, await start(client, rounds=2))
        await told.wait()
    assert result == [2, 2]
    assert [each.rpartition(": ")[2] for each in said] == [
        "received", "duplicate", "received", "duplicate", "duplicate", "late",
    ]  # fmt: skip


async def test_an_update_that_cannot_be_used_is_not_counted_and_ends_nothing(tmp_path: Path) -> None:
    def broken(_: Tensors, __: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
        return [np.zeros((3, 3), np.float32)], {"num_examples": 10**6}

    def weightless(model: Tensors, _: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
        return model, {}

    async with fleet(tmp_path) as made, scripts(made) as client:
        for name, train in (("bad", broken), ("odd", weightless)):
            await made.start(FleetClient(made.server.grpc_address, name, train, name=name))
        for name, amount in (("a", 1.0), ("b", 3.0)):
            await made.start(client_of(made, name, amount))
        first = await values(made, await start(client, clients_required=4, buffer_size=2))
        session = await start(client, clients_required=4)
        second = await values(made, session)
        parts = await made.made.contributions(await ended(made, session))
    assert (first, second) == ([2, 2], [2, 2])
    reasons = {part.client: part.reason for part in parts if part.outcome == "failed"}
    assert "shape (3, 3)" in reasons["bad"]
    assert "num_examples" in reasons["odd"]


async def test_chosen_clients_are_chosen_whole_and_names_of_digits_are_names(tmp_path: Path) -> None:
    """`12` is in the text `123`, and is not it."""
    async with fleet(tmp_path) as made, scripts(made) as client:
        clients = [await made.start(client_of(made, name, int(name))) for name in ("12", "123")]
        result = await values(made, await start(client, start={"client_ids": "123"}))
        found = (await client.get("/api/v1/clients/?client_id=123")).json()
        several = (await client.post("/api/v1/clients/list", json={"name": "12,123,7"})).json()
    assert result == [123, 123]
    assert [len(each.tasks) for each in clients] == [0, 1]
    assert (found["count"], found["result"][0]["name"]) == (1, "123")
    assert several["count"] == 2


async def test_a_client_that_vanishes_costs_its_lease_and_not_the_rounds_time(tmp_path: Path) -> None:
    async with fleet(tmp_path, silence=1.0) as made, scripts(made) as client:
        await made.start(client_of(made, "stays", 4))
        gone = client_of(made, "goes", 100)
        working = asyncio.Event()

        async def never(_: Any) -> None:
            working.set()
            made.running[-1].cancel()
            await asyncio.Event().wait()

        gone.do_train = never  # type: ignore[method-assign]
        await made.start(gone)
        session = await start(client, clients_required=2, round_timeout=3)
        await working.wait()
        result = await values(made, session)
    assert result == [4, 4]


async def test_a_task_is_given_again_to_a_client_that_comes_back(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        lost = client_of(made, "lost", 2)
        usual = lost.do_train

        async def once(task: Any) -> None:
            lost.do_train = usual  # type: ignore[method-assign]
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, (), (), details=f"no answer to {task.model_id}")

        lost.do_train = once  # type: ignore[method-assign]
        await made.start(lost)
        result = await values(made, await start(client))
    assert result == [2, 2]
    assert len(lost.tasks) == 2
    assert lost.tasks[0].correlation_id == lost.tasks[1].correlation_id


async def test_of_two_processes_with_one_id_the_newer_stays(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        old = await made.start(client_of(made, "same", 1))
        new = client_of(made, "same", 5)
        made.running.append(asyncio.create_task(new.run()))
        await until(lambda: old.ended is not None)
        result = await values(made, await start(client))
    assert old.ended is grpc.StatusCode.ALREADY_EXISTS
    assert result == [5, 5]


async def test_a_broken_upload_leaves_nothing_in_the_one_after_it(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        sender = client_of(made, "a")
        large = [np.arange(400_000, dtype=np.float32)]

        async def do_train(task: Any) -> None:
            data = await sender.calls.download(task.model_id)
            assert data is not None
            trained = [each + np.float32(1) for each in large]
            await sender.calls.break_off("u", npz(trained)[: 1 << 20])
            await sender.calls.upload("u", npz(trained))
            await sender.calls.upload("u", npz(trained))
            await sender.update(task.model_id, "u", {"training_metadata": {"num_examples": 1}, "config": task.data})

        sender.do_train = do_train  # type: ignore[method-assign]
        await made.start(sender)
        session = await start(client, model_id=await seeded(client, large), seed_model_id=None)
        record = await ended(made, session)
        assert record.state is SessionState.FINISHED, record.cause
        (array,) = (await made.made.model(record)).values()
    assert array.tolist() == (large[0] + 1).tolist()


async def test_deleting_a_client_disturbs_no_other(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        gone, stays = [await made.start(client_of(made, name, 3)) for name in ("gone", "stays")]
        deleted = await client.delete("/api/v1/clients/gone")
        await until(lambda: gone.ended is not None)
        result = await values(made, await start(client))
        left = (await client.get("/api/v1/clients/")).json()["result"]
    assert deleted.json() == {"message": "Client deleted"}
    assert gone.ended is grpc.StatusCode.UNAUTHENTICATED
    assert result == [3, 3]
    assert stays.ended is None
    assert {each["client_id"]: each["status"] for each in left}["stays"] == "online"


async def test_a_session_without_updates_ends_with_a_cause_and_the_next_one_runs(tmp_path: Path) -> None:
    def raises(_: Tensors, __: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
        return [], {"num_examples": 1}

    async with fleet(tmp_path) as made, scripts(made) as client:
        await made.start(FleetClient(made.server.grpc_address, "bad", raises, name="bad"))
        failed = await ended(made, await start(client))
        status = (await client.get(f"/api/v1/sessions/{failed.id}")).json()["status"]
        state = (await client.get("/get_controller_status")).json()
        await made.start(client_of(made, "good", 7))
        result = await values(made, await start(client))
    assert (failed.state, status, state) == (SessionState.FAILED, "Failed", {"state": "idle"})
    assert "0 tensors, and the model has 1" in failed.cause
    assert result == [7, 7]


async def test_models_are_shown_and_fetched_and_predicted_with(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        await made.start(client_of(made, "a", 7))
        session = await ended(made, await start(client))
        shown = await client.get(f"/api/v1/models/{session.model}/parameters")
        fetched = await client.get(f"/api/v1/models/{session.model}/download")
        asked = await client.post("/api/v1/predictions/start", json={"prediction_id": "p-1"})
        trail = await client.get(f"/api/v1/models/{session.model}/ancestors")
        await until(lambda: any(task.type == pb.MODEL_PREDICTION for task in made.clients[0].tasks))
    assert shown.json() == {"array": [[7, 7]]}
    assert fetched.headers["content-disposition"] == f"attachment; filename={session.model}"
    with np.load(io.BytesIO(fetched.content)) as file:
        assert file["0"].tolist() == [7, 7]
    assert asked.json() == {"message": "Prediction session started"}
    assert made.clients[0].tasks[-1].session_id == "p-1"
    assert [each["model_id"] for each in trail.json()] == [session.seed_model]


async def test_nobody_is_let_in_without_a_token_that_is_theirs(tmp_path: Path) -> None:
    async with fleet(tmp_path, fedn_weak="off") as made, scripts(made) as client:
        tokens = [(await made.made.controller.issue_token("default", name, Role.CLIENT))[0] for name in ("a", "b")]
        add = {"client_id": "id-a", "name": "a", "package": "local"}
        async with httpx.AsyncClient(base_url=made.server.url, timeout=60) as nobody:
            refused = [
                await nobody.get("/api/v1/models/"),
                await nobody.post("/api/v1/metrics/list", json={}),
                await nobody.post("/api/v1/graphql", json={"query": "{ sessions { name } }"}),
                await nobody.get("/api/v1/packages/download"),
                await nobody.post("/api/v1/clients/add", json=add, headers={"Authorization": "Bearer None"}),
                await nobody.get("/api/v1/models/", headers={"Authorization": f"Bearer {tokens[0]}"}),
            ]
        for name, token in zip(("a", "b"), tokens, strict=True):
            kotlin = KotlinClient(made.server.grpc_address, f"id-{name}", adds(2, 1), name=name, token=token)
            await made.start(kotlin, token)
        codes = []
        for metadata in ((), (("client", "id-a"),), (("client", "id-a"), ("authorization", f"Bearer {tokens[1]}"))):
            calls = Calls(made.server.grpc_address, metadata)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await calls.unary("SendHeartbeat", pb.Heartbeat(sender=pb.Client(client_id="id-a")))
            codes.append(raised.value.code())
            await calls.channel.close()
        stolen = await client.post(
            "/api/v1/clients/add", json=add | {"client_id": "other"}, headers={"Authorization": f"Bearer {tokens[0]}"}
        )
        result = await values(made, await start(client, clients_required=2))
        nodes = {guest.member.node for guest in made.server.gateway.guests}
    assert [each.status_code for each in refused] == [401] * 6
    assert refused[0].json() == {"message": "Missing token"}
    assert codes == [grpc.StatusCode.UNAUTHENTICATED] * 2 + [grpc.StatusCode.PERMISSION_DENIED]
    assert stolen.status_code == 401
    assert result == [2, 2]
    assert nodes == {"a", "b"}


async def test_a_weak_call_is_believed_only_of_who_was_added_with_a_token(tmp_path: Path) -> None:
    async with fleet(tmp_path, fedn_weak="calls") as made, scripts(made) as client:
        assert made.server.gateway.weak is Weak.CALLS
        token, _ = await made.made.controller.issue_token("default", "a", Role.CLIENT)
        await made.start(client_of(made, "id-a", 2), token)
        calls = Calls(made.server.grpc_address, (("client", "stranger"),))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await calls.unary("SendHeartbeat", pb.Heartbeat())
        await calls.channel.close()
        result = await values(made, await start(client))
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert result == [2, 2]


async def test_a_server_that_comes_back_takes_the_update_that_was_trained_meanwhile(tmp_path: Path) -> None:
    """The client trains while its server is away, and hands in what nobody has asked it for yet."""
    async with fleet(tmp_path) as made, scripts(made) as client:
        training, go_on = asyncio.Event(), asyncio.Event()
        patient = client_of(made, "a", 2)
        usual = patient.do_train

        async def do_train(task: Any) -> None:
            training.set()
            await go_on.wait()
            patient.do_train = usual  # type: ignore[method-assign]
            name = str(uuid.uuid4())
            again = Calls(made.server.grpc_address, patient.metadata())
            patient.calls, before = again, patient.calls
            await again.upload(name, npz([np.full(2, 2, np.float32)]))
            await patient.update(task.model_id, name, {"training_metadata": {"num_examples": 1}, "config": task.data})
            patient.calls = before
            await again.channel.close()

        patient.do_train = do_train  # type: ignore[method-assign]
        await made.start(patient)
        session = await start(client)
        await training.wait()
        await made.restart()
        go_on.set()
        result = await values(made, session)
    assert result == [2, 2]
    assert [json.loads(task.data)["session_id"] for task in patient.tasks][:1] == [session]


async def test_who_calls_a_server_that_ends_has_no_agent_there_which_would_keep_its_name_from_the_next(
    tmp_path: Path,
) -> None:
    """Its port still answers for a moment, and clients try again at once."""
    async with fleet(tmp_path) as made, scripts(made) as client:
        await made.start(client_of(made, "a", 2))
        await made.server.gateway.aclose()
        for name in ("a", "straight"):
            sender = pb.Client(name=name, role=pb.CLIENT, client_id=name)
            calls = Calls(made.server.grpc_address, (("client", name),))
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await calls.stream("TaskStream", pb.ClientAvailableMessage(sender=sender), pb.TaskRequest).read()
            await calls.channel.close()
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        await made.restart()
        back = next(guest for guest in made.server.gateway.guests if guest.member.node == "a")
        await until(lambda: back.listens and "a" in made.made.tree.directory.clients)
        result = await values(made, await start(client))
    assert result == [2, 2]


async def test_momentum_outlives_rounds_combiners_and_a_session_that_is_continued(tmp_path: Path) -> None:
    """FedOpt below two combiners, in two goes and a restart, is FedAdam over all rounds at once."""
    kwargs = {"serveropt": "adam", "learning_rate": 0.1}
    async with fleet(tmp_path, ["north", "south"]) as made, scripts(made) as client:
        for name, amount, combiner in (("a", 1, "north"), ("b", 3, "south")):
            await made.start(client_of(made, name, amount), preferred=combiner)
        config = {"clients_required": 2, "aggregator": "fedopt", "aggregator_kwargs": kwargs}
        whole = await values(made, await start(client, rounds=3, **config))
        session = await start(client, rounds=1, **config)
        first = await values(made, session)
        record = await made.made.controller.store.get(SessionRecord, PROJECT, session)
        (before,) = await made.made.events(record, "session.finished")
        told = await client.post("/api/v1/sessions/start", json={"session_id": session, "rounds": 2})
        async for happened in made.made.controller.journal.follow("default", before.id, session):
            if happened.kind == "session.finished":
                break
        second = await values(made, session)
    assert told.json() == {"message": "Session started"}
    assert second == whole
    assert first != pytest.approx([each / 3 for each in whole], rel=1e-3), "each step alone would be a third of all"


async def test_only_chosen_clients_validate(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        clients = [await made.start(client_of(made, name)) for name in ("a", "b")]
        await values(made, await start(client, start={"client_ids": "b"}, validate=True))
        await until(lambda: any(task.type == pb.MODEL_VALIDATION for task in clients[1].tasks))
    assert [len(each.tasks) for each in clients] == [0, 2]


async def test_zeros_and_empty_texts_are_told_as_they_are(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        sender = await made.start(client_of(made, "a", metrics={"loss": 0.0}))
        await values(made, await start(client))
        await sender.attributes({"note": ""})
        await sender.attributes({})
        await sender.telemetry({})
        await sender.calls.unary("SendModelMetric", pb.ModelMetric(sender=sender.sender(), model_id="none"))
        metrics = (await client.get("/api/v1/metrics/?key=loss")).json()["result"]
        attributes = (await client.get("/api/v1/attributes/")).json()["result"]
    assert [each["value"] for each in metrics] == [0.0]
    assert [(each["key"], each["value"]) for each in attributes] == [("note", "")]
    assert sender.ended is None


def test_round_ids_are_in_the_order_of_numbers() -> None:
    documents = [{"round_id": str(number)} for number in (10, 9, 2, 100)]
    _, found = select(documents, Asked({}, sort="round_id", descending=False))
    assert [each["round_id"] for each in found] == ["2", "9", "10", "100"]
    count, _ = select(documents, Asked({"round_id__gt": "9"}))
    assert count == 2


async def test_what_was_summed_at_a_combiner_that_is_gone_is_offered_again_and_counts(tmp_path: Path) -> None:
    """Though the round would have a quorum without it."""
    async with fleet(tmp_path, ["north"]) as made, scripts(made) as client:
        slow, go = client_of(made, "slow", 10, 1), asyncio.Event()
        train = slow.do_train

        async def held(task: Any) -> None:
            await go.wait()
            await train(task)

        slow.do_train = held  # type: ignore[method-assign]
        await made.start(client_of(made, "quick", 4, 3), preferred="north")
        await made.start(slow)
        session = await start(client, clients_required=2)
        await until(lambda: (why := made.made.tree.why(session)) is not None and why.accepted == 1)
        await made.made.leave("north")
        await made.made.gone("north")
        go.set()
        record = await ended(made, session)
        (committed,) = await made.made.rounds(record)
    assert record.state is SessionState.FINISHED, record.cause
    assert (committed.accepted, committed.weight) == (2, 4)


async def test_settings_of_a_round_have_their_types_and_a_session_its_own_seed(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        await made.start(client_of(made, "a", 5))
        older = await seeded(client, [np.ones(2, np.float32)])
        last = (await ended(made, await start(client))).model
        session = await ended(made, await start(client, model_id=older))
        document = (await client.get("/api/v1/rounds/2")).json()["round_config"]
        first = (await client.get(f"/api/v1/models/{session.model}")).json()
    assert (document["buffer_size"], document["validate"], document["aggregator_kwargs"]) == (-1, False, None)
    assert first["parent_model"] == older != last


async def test_a_refused_start_leaves_nothing_behind_and_sessions_run_side_by_side(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        await made.start(client_of(made, "a", 2))
        model = await seeded(client)
        config = {**CONFIG, "model_id": model, "clients_required": 9}
        made_ = (await client.post("/api/v1/sessions/", json={"name": "s", "session_config": config})).json()
        refused = await client.post("/api/v1/sessions/start", json={"session_id": made_["session_id"], "rounds": 1})
        state = (await client.get("/get_controller_status")).json()
        both = [await start(client, rounds=2) for _ in range(2)]
        results = [await values(made, each) for each in both]
    assert refused.status_code == 400
    assert state == {"state": "idle"}
    assert results == [[4, 4]] * 2


async def test_a_round_without_its_clients_ends_its_session_with_a_cause_at_the_deadline(tmp_path: Path) -> None:
    async with fleet(tmp_path, silence=0.5) as made, scripts(made) as client:
        gone = client_of(made, "gone")
        working = asyncio.Event()

        async def never(_: Any) -> None:
            working.set()
            await asyncio.Event().wait()

        gone.do_train = never  # type: ignore[method-assign]
        await made.start(gone)
        session = await start(client, round_timeout=2)
        await working.wait()
        made.running[-1].cancel()
        record = await ended(made, session)
    assert record.state is SessionState.FAILED
    assert record.cause


async def test_clients_come_and_go_while_lists_are_read(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:

        async def comes(number: int) -> None:
            told = {"client_id": f"c-{number}", "name": "same", "package": "local"}
            assert (await client.post("/api/v1/clients/add", json=told)).status_code == 200
            assert (await client.get("/api/v1/clients/")).status_code == 200
            if number % 2:
                assert (await client.delete(f"/api/v1/clients/c-{number}")).status_code == 200

        await asyncio.gather(*map(comes, range(30)))
        left = (await client.get("/api/v1/clients/count")).json()
    assert left == 15


async def test_nothing_that_was_staged_stays(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        await made.start(client_of(made, "a"))
        await values(made, await start(client, rounds=12, validate=True))
        folder = tmp_path / "controller" / "fedn"
        uploads, models = (len(list((folder / name).iterdir())) for name in ("uploads", "models"))
    assert uploads == 0
    assert models <= 8


async def test_a_token_holds_for_its_client_when_it_has_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FEDn's clients have no other, and never renew it."""
    monkeypatch.setattr(tokens, "_LEEWAY", 3600)  # as if all were an hour ago
    async with fleet(tmp_path, fedn_weak="off") as made, scripts(made) as client:
        token, _ = await made.made.controller.issue_token("default", "a", Role.CLIENT, expires_in=-60)
        kotlin = KotlinClient(made.server.grpc_address, "id-a", adds(2, 1), name="a", token=token)
        await made.start(kotlin, token)
        monkeypatch.setattr(tokens, "_LEEWAY", 0)
        assert expired(made, token)
        again = await client.post(
            "/api/v1/clients/add", json={"client_id": "id-a", "name": "a"}, headers={"Authorization": f"Bearer {token}"}
        )
        other = await client.post(
            "/api/v1/clients/add", json={"client_id": "id-b", "name": "b"}, headers={"Authorization": f"Bearer {token}"}
        )
        result = await values(made, await start(client))
    assert (again.status_code, other.status_code) == (200, 401)
    assert result == [2, 2]


def expired(made: Fleet, token: str) -> bool:
    try:
        tokens.verify(made.made.controller.public_key, token, tokens.JOINING)
    except AuthenticationError:
        return True
    return False


async def test_what_is_told_before_a_client_listens_and_of_no_task_is_answered(tmp_path: Path) -> None:
    """Telemetry, and gradients that nobody asked for: a failure of either would end a client's thread."""
    async with fleet(tmp_path) as made:
        sender = pb.Client(name="a", role=pb.CLIENT, client_id="a")
        calls = Calls(made.server.grpc_address, (("client", "a"),))
        told = pb.TelemetryMessage(sender=sender, telemetries=[pb.TelemetryElem(key="load", value=1.0)])
        first = await calls.unary("SendTelemetryMessage", told)
        second = await calls.unary("SendBackwardCompletion", pb.BackwardCompletion(sender=sender, gradient_id="g"))
        await calls.channel.close()
    assert first.response.endswith("received")
    assert second.response.endswith("late")


async def test_a_client_that_comes_straight_is_let_in_where_everybody_is(tmp_path: Path) -> None:
    """`fedn client start --combiner HOST`, which asks nobody where to go; one that was deleted is not let in again."""
    async with fleet(tmp_path) as made, scripts(made) as client:
        straight = client_of(made, "straight", 6)
        made.running.append(asyncio.create_task(straight.run()))
        await until(lambda: "straight" in made.made.tree.directory.clients)
        result = await values(made, await start(client))
        await client.delete("/api/v1/clients/straight")
        await until(lambda: straight.ended is not None)
    assert result == [6, 6]
    assert straight.ended is grpc.StatusCode.UNAUTHENTICATED


async def test_a_store_that_is_away_has_clients_come_again_and_does_not_end_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their connecting knows 200, 203, 400, 401 and 404, and nothing else."""
    async with fleet(tmp_path) as made, scripts(made) as client:

        async def away(*_: object, **__: object) -> None:
            raise StorageUnavailableError("the database is away")

        monkeypatch.setattr(made.made.controller, "issue_token", away)
        told = await client.post("/api/v1/clients/add", json={"client_id": "a", "name": "a", "package": "local"})
    assert (told.status_code, told.json()["status"]) == (203, "retry")


async def test_probes_are_told_that_the_port_serves_without_a_token(tmp_path: Path) -> None:
    async with fleet(tmp_path, fedn_weak="off") as made, grpc.aio.insecure_channel(made.server.grpc_address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert await check(b"") == bytes([8, 1]), "field 1, SERVING"
        assert await watch.read() == bytes([8, 1])
        watch.cancel()
