"""What FEDn's clients tell is hansa's own: predictions, attributes, telemetry and metrics, whichever API asks."""

import asyncio
from pathlib import Path

from federation import PROJECT
from fedn_fleet import CppClient, FleetClient, KotlinClient, adds, ended, fleet, scripts, seeded, start

from hansa.messages import RoundRules, RunSpec
from hansa.store.ports import Query
from hansa.store.records import AnswerRecord, ClientRecord, PredictionRecord, SampleRecord, SessionState


async def test_predictions_are_hansas_whoever_asks_for_them(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        for name, kind in (("a", FleetClient), ("b", FleetClient), ("k", KotlinClient)):
            await made.start(kind(made.server.grpc_address, name, adds(1, 1), name=name))
        model = await seeded(client)
        asked = await client.post("/api/v1/predictions/start", json={"prediction_id": "p-1", "model_id": model})
        control = made.made.controller
        (prediction,) = (await control.store.list(PredictionRecord, Query(PROJECT))).items
        async for happened in control.journal.follow(PROJECT, 0, ""):
            if happened.kind == "prediction.finished":
                break
        answers = (await control.store.list(AnswerRecord, Query(PROJECT, {"prediction": prediction.id}))).items
        listed = (await client.get("/api/v1/predictions/?prediction_id=p-1")).json()
        one = (await client.get("/api/v1/predictions/p-1")).json()
        ended_ = await control.store.get(PredictionRecord, PROJECT, prediction.id)
    assert asked.json() == {"message": "Prediction session started"}
    assert (prediction.name, prediction.model, ended_.state) == ("p-1", model, SessionState.FINISHED)
    assert {each.client: each.value for each in answers} == {"a": {"sum": 0.0}, "b": {"sum": 0.0}, "k": None}
    assert {each.client: each.reason for each in answers}["k"] == "k does not evaluate models"
    assert listed["count"] == 2
    assert {each["sender"]["client_id"] for each in listed["result"]} == {"a", "b"}
    assert (one["model_id"], one["data"]) == (model, '{"sum": 0.0}')


async def test_a_prediction_that_cannot_be_kept_is_told_and_not_kept(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        large = {"all": "x" * (1 << 20)}
        await made.start(FleetClient(made.server.grpc_address, "a", adds(1, 1), predict=lambda _: large, name="a"))
        prediction = await made.made.controller.predictions.start(
            PROJECT, RunSpec(name="mine", rounds=1, rules=RoundRules(deadline=30)), model=await seeded(client)
        )
        async for happened in made.made.controller.journal.follow(PROJECT, 0, ""):
            if happened.kind.startswith("prediction.f"):
                break
        query = Query(PROJECT, {"prediction": prediction.id})
        (answer,) = (await made.made.controller.store.list(AnswerRecord, query)).items
        listed = (await client.get("/api/v1/predictions/")).json()
    assert "the prediction has 1,048,587 bytes, and may have 1,048,576" in answer.reason
    assert listed == {"count": 0, "result": []}


async def test_attributes_are_labels_by_which_sessions_choose_and_stay_over_a_restart(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        clients = [
            await made.start(FleetClient(made.server.grpc_address, name, adds(1, 1), name=name)) for name in "ab"
        ]
        await clients[0].attributes({"charging": "yes", "site": "north"})
        await made.labelled("a", "charging", "yes")
        await clients[0].attributes({"charging": "no"})
        await made.labelled("a", "charging", "no")
        many = {f"k{number}": "v" for number in range(100)} | {"fedn.name": "forged", "": "", "long": "x" * 300}
        await clients[1].attributes(many)
        await made.labelled("b", "k0", "v")
        given = await client.post(
            "/api/v1/attributes/", json={"key": "ward", "value": "7", "sender": {"client_id": "b", "name": "b"}}
        )
        await made.restart()
        await asyncio.gather(*(made.labelled(name, key, value) for name, key, value in (
            ("a", "site", "north"), ("b", "k47", "v"), ("b", "ward", "7"),
        )))  # fmt: skip
        rows = {each.name: each for each in (await made.made.controller.store.list(ClientRecord, Query(PROJECT))).items}
        session = await ended(made, await start(client, clients_required=1))
        history = (await client.get("/api/v1/attributes/?sender.client_id=a&key=charging")).json()
        current = (await client.get("/api/v1/clients/a/attributes")).json()
    assert given.status_code == 201
    assert rows["a"].labels == {
        "charging": "no", "site": "north", "fedn.name": "a", "fedn.client_id": "a",
    }  # fmt: skip
    assert (rows["b"].labels["fedn.name"], len(rows["b"].labels), rows["b"].assigned) == ("b", 50, {"ward": "7"})
    assert session.state is SessionState.FINISHED
    assert history["count"] == 2
    assert current == {"charging": "no", "site": "north"}


async def test_metrics_and_telemetry_are_numbers_on_the_way(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        cpp = await made.start(CppClient(made.server.grpc_address, "c", adds(1, 1), name="c"))
        python = await made.start(
            FleetClient(made.server.grpc_address, "a", adds(1, 1), name="a", metrics={"train_loss": 0.5})
        )
        session = await ended(made, await start(client, clients_required=2))
        await python.telemetry({"cpu_usage": 1.5})
        posted = await client.post(
            "/api/v1/telemetry/", json={"key": "load", "value": 2, "sender": {"client_id": "c", "name": "c"}}
        )
        bad = await client.post("/api/v1/telemetry/", json={"key": "load", "value": "much", "sender": {}})
        listed = (await client.get("/api/v1/telemetry/")).json()["result"]
        samples = (await made.made.controller.store.list(SampleRecord, Query(PROJECT))).items
    assert cpp.ended is None
    assert {(each.client, each.task, each.name, each.value) for each in samples if each.session == session.id} == {
        ("a", "train", "train_loss", 0.5)
    }
    assert (posted.status_code, posted.json()["value"]) == (201, 2)
    assert bad.status_code == 400
    told = {(each.client, each.name, each.value) for each in samples if not each.session}
    assert told == {("a", "cpu_usage", 1.5), ("c", "load", 2.0)}
    assert {(each["sender"]["client_id"], each["key"]) for each in listed} == {("a", "cpu_usage"), ("c", "load")}
