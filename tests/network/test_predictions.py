"""What models say of clients' data, where their owners let it be told."""

import asyncio
from pathlib import Path

import pytest
from federation import Federation, federation
from pydantic import ByteSize

from hansa.errors import ConfigError, ConflictError, NotFoundError
from hansa.messages import RoundRules, RunSpec
from hansa.network.client.ledger import LEDGER, departures
from hansa.network.client.policy import Outbound, SitePolicy
from hansa.packages.package import build
from hansa.store.ports import Query
from hansa.store.records import AnswerRecord, PredictionRecord, SessionState
from hansa.wire import codec

APP = """
import pathlib
import time

import numpy as np
import hansa

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": np.full(3, 2.0)}


@app.train
def train(model, task):
    return hansa.Update(model, num_examples=1)


@app.predict
def predict(model, task):
    if task.config.get("gate") and task.client.index == 1:
        while not pathlib.Path(task.config["gate"]).exists():
            time.sleep(0.01)
    if task.config.get("odd") == task.client.name:
        return {"what": object()}
    task.log({"seen": 1})
    return {"y": model["w"] * task.client.index, "n": np.int64(3), "who": task.client.name, "more": task.config["more"]}
"""
OPEN = SitePolicy(outbound=Outbound(predictions=ByteSize(2000)))


@pytest.fixture
def predicting(tmp_path: Path) -> Path:
    folder = tmp_path / "predicting"
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    return folder / "app.py"


async def asked(made: Federation, app: Path, rules: RoundRules, **config: str) -> PredictionRecord:
    package = (await made.controller.artifacts.add_package("default", build(app))).id
    arrays = codec.Arrays({"w": [2.0, 2.0, 2.0]})
    model = await made.controller.artifacts.add_model("default", b"".join(codec.encode(arrays)))
    spec = RunSpec(name="who", rules=rules, config={"more": "x", **config})
    return await made.controller.predictions.start("default", spec, model=model.id, package=package, by="ada")


async def ended(made: Federation, prediction: PredictionRecord) -> PredictionRecord:
    kinds = {f"prediction.{state}" for state in (SessionState.FINISHED, SessionState.FAILED, SessionState.STOPPED)}
    async for happened in made.controller.journal.follow("default", 0):
        if happened.kind in kinds and happened.data.get("prediction") == prediction.id:
            break
    return await made.controller.store.get(PredictionRecord, "default", prediction.id)


async def answers(made: Federation, prediction: PredictionRecord) -> dict[str, AnswerRecord]:
    query = Query("default", {"prediction": prediction.id})
    return {each.client: each for each in (await made.controller.store.list(AnswerRecord, query)).items}


async def first_answer(made: Federation, prediction: PredictionRecord) -> dict[str, AnswerRecord]:
    while True:
        if found := await answers(made, prediction):
            return found
        await asyncio.sleep(0.01)


async def test_chosen_clients_answer_and_those_whose_owners_do_not_let_them_refuse(
    predicting: Path, tmp_path: Path
) -> None:
    async with federation(tmp_path, ["north"]) as made:
        await made.client("client-0", 0, 3, policy=OPEN, labels={"region": "eu"})
        await made.client("client-1", 1, 3, policy=OPEN, labels={"region": "eu"})
        await made.client("client-2", 2, 3, labels={"region": "eu"})
        await made.client("client-3", 3, 4, policy=OPEN)
        prediction = await asked(made, predicting, RoundRules(labels=("region=eu",), min_clients=3, deadline=60))
        done = await ended(made, prediction)
        found = await answers(made, prediction)
        left = departures(made.folder / "client-1" / LEDGER)
        await made.controller.predictions.delete("default", prediction.id)
        assert await answers(made, prediction) == {}
        with pytest.raises(NotFoundError):
            await made.controller.store.get(PredictionRecord, "default", prediction.id)
    assert (done.state, done.asked, done.answered) == (SessionState.FINISHED, 3, 2), done.cause
    assert done.cause == "2 of 3 clients have answered"
    assert found["client-1"].value == {"y": [2.0, 2.0, 2.0], "n": 3, "who": "client-1", "more": "x"}
    assert found["client-2"].document is None
    assert "predictions of its data do not leave (outbound.predictions)" in found["client-2"].reason
    assert set(found) == {"client-0", "client-1", "client-2"}
    (line,) = [each for each in left if each.kind == "prediction"]
    assert line.bytes == len(found["client-1"].document or "")


async def test_a_prediction_that_is_too_large_or_no_json_is_told_and_nothing_of_it_leaves(
    predicting: Path, tmp_path: Path
) -> None:
    async with federation(tmp_path) as made:
        await made.client("client-0", 0, 2, policy=OPEN)
        await made.client("client-1", 1, 2, policy=SitePolicy(outbound=Outbound(predictions=ByteSize(20))))
        rules = RoundRules(min_clients=2, deadline=60)
        done = await ended(made, prediction := await asked(made, predicting, rules, odd="client-0"))
        found = await answers(made, prediction)
    assert done.state is SessionState.FAILED
    assert "0 of 2 clients have answered" in done.cause
    assert "that JSON cannot hold" in found["client-0"].reason
    assert "a prediction may have 20 bytes, and this one has" in found["client-1"].reason


async def test_a_prediction_is_stopped_and_keeps_what_was_answered(predicting: Path, tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        await made.client("client-0", 0, 2, policy=OPEN)
        await made.client("client-1", 1, 2, policy=OPEN)
        gate = str(tmp_path / "gate")
        prediction = await asked(made, predicting, RoundRules(min_clients=2, deadline=60), gate=gate)
        await first_answer(made, prediction)
        with pytest.raises(ConflictError, match="stop it before you delete it"):
            await made.controller.predictions.delete("default", prediction.id)
        stopped = await made.controller.predictions.stop("default", prediction.id, "ada")
        assert (stopped.state, stopped.answered, stopped.asked) == (SessionState.STOPPED, 1, 2)
        assert stopped.cause == "stopped by ada; 1 of 2 clients have answered"
        with pytest.raises(ConfigError, match="neither parties nor transforms"):
            await made.controller.predictions.start("default", RunSpec(parties=("a",)), model=prediction.model)
        with pytest.raises(NotFoundError):
            await made.controller.predictions.start("default", RunSpec(), model="0" * 64)


async def test_a_prediction_goes_on_with_those_who_have_not_answered_when_the_controller_is_back(
    predicting: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with federation(tmp_path) as made:
        await made.client("client-0", 0, 2, policy=OPEN)
        await made.client("client-1", 1, 2, policy=OPEN)
        prediction = await asked(made, predicting, RoundRules(min_clients=2, quorum=2, deadline=60), gate=str(gate))
        before = await first_answer(made, prediction)
    gate.touch()
    async with federation(tmp_path) as made:
        await made.client("client-0", 0, 2, policy=OPEN)
        await made.client("client-1", 1, 2, policy=OPEN)
        done = await ended(made, prediction)
        after = await answers(made, prediction)
    assert (done.state, done.answered) == (SessionState.FINISHED, 2), done.cause
    assert set(after) == {"client-0", "client-1"}
    assert after["client-0"] == before["client-0"]


async def test_a_prediction_too_many_is_refused_and_is_over_at_once(tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        predictions, store = made.controller.predictions, made.controller.store
        arrays = codec.Arrays({"w": [2.0]})
        model = await made.controller.artifacts.add_model("default", b"".join(codec.encode(arrays)))
        spec = RunSpec(rules=RoundRules(deadline=600))  # nobody is there to answer
        for _ in range(16):
            await predictions.start("default", spec, model=model.id)
        with pytest.raises(ConflictError, match="16 predictions of default are under way: wait for one, or stop it"):
            await predictions.start("default", spec, model=model.id)
        failed = Query("default", {"state": SessionState.FAILED.value})
        (refused,) = (await store.list(PredictionRecord, failed)).items
    assert refused.ended_at is not None
    assert "16 predictions" in refused.cause
