"""A simulation in a store: what a reader of sessions finds of it is what the simulation said."""

import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from hansa.errors import InputError
from hansa.evidence.stored import verify_session
from hansa.experiments.sessions import SimulatedSession, find_records, show_record
from hansa.messages import Kind, RoundRules, RunSpec
from hansa.simulation import Dropouts, LogNormalSpeeds, SimulationResult, replay, simulate
from hansa.simulation.record import open_record
from hansa.store.opening import open_objects, open_store
from hansa.store.ports import MetadataStore, ObjectStore, Query
from hansa.store.records import (
    ContributionRecord,
    EventRecord,
    MetricRecord,
    ModelRecord,
    ProjectRecord,
    RoundRecord,
    SampleRecord,
    SessionRecord,
    SessionState,
)

LAB = "lab"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[MetadataStore]:
    opened = open_store(f"sqlite:///{tmp_path}/hansa.db")
    await opened.open()
    await opened.create(ProjectRecord(LAB, LAB, 0.0))
    yield opened
    await opened.close()


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return open_objects(str(tmp_path / "objects"))


def simulated(app: Path, **settings: object) -> SimulationResult:
    rules = RoundRules(selection="count", count=4)
    return simulate(app, clients=6, rounds=3, seed=2, rules=rules, devices=Dropouts(0.3), **settings)  # type: ignore[arg-type]


async def test_a_record_is_a_session_with_the_rounds_clients_and_numbers_of_the_simulation(
    app: Path, tmp_path: Path, store: MetadataStore, objects: ObjectStore
) -> None:
    result = simulated(app)
    folder = result.save_record(tmp_path / "record")
    os.utime(folder / "manifest.json", (1000.0, 1000.0))

    shown = await show_record(store, objects, LAB, open_record(folder))
    assert shown is not None
    session = await store.get(SessionRecord, LAB, shown.id)
    assert (session.state, session.round, session.model) == (SessionState.FINISHED, 3, result.model_hash)
    assert session.engine == "inline"
    assert session.spec == replace(result.spec, project=LAB)
    assert session.ended_at == 1000.0
    assert session.started_at == pytest.approx(1000.0 - sum(done.seconds for done in result.rounds))

    rounds = (await store.list(RoundRecord, Query(LAB, {"session": shown.id}, sort="number"))).items
    for row, done in zip(rounds, result.rounds, strict=True):
        assert (row.model, row.weight, dict(row.metrics)) == (done.model_hash, done.num_examples, done.metrics)
        of_round = Query(LAB, {"session": shown.id, "round": done.round})
        parts = (await store.list(ContributionRecord, of_round)).items
        assert {part.client: part.num_examples for part in parts if part.outcome == "accepted"} == done.examples
        assert {part.client for part in parts if part.outcome == "missing"} == set(done.missing)
        accepted = {part.client: part for part in parts if part.outcome == "accepted"}
        assert [accepted[client].norm for client in done.examples] == list(done.norms)
        assert [accepted[client].metrics for client in done.examples] == [
            {"loss": each} for each in done.reports["loss"]
        ]
        numbers = (await store.list(MetricRecord, of_round)).items
        told = {(number.kind, number.client, number.name): number.value for number in numbers}
        assert told == {
            **{(Kind.TRAIN, "", name): value for name, value in done.metrics.items()},
            **{(Kind.EVALUATE, "central", name): value for name, value in done.central.items()},
        }
    assert sum(len(done.missing) for done in result.rounds) > 0  # the devices did drop out
    kinds = [event.kind for event in (await store.list(EventRecord, Query(LAB))).items]
    assert kinds == ["session.started", *["round.committed", "round.evaluated"] * 3, "session.finished"]


async def test_its_chain_holds_and_only_its_last_model_has_bytes(
    app: Path, tmp_path: Path, store: MetadataStore, objects: ObjectStore
) -> None:
    result = simulated(app)
    shown = await show_record(store, objects, LAB, open_record(result.save_record(tmp_path / "record")))
    assert shown is not None
    models = (await store.list(ModelRecord, Query(LAB, sort="round"))).items
    assert [(model.round, model.pruned_at is None) for model in models] == [(1, False), (2, False), (3, True)]
    assert models[-1].size == await objects.size(result.model_hash)
    assert [model.id for model in await store.ancestors(LAB, result.model_hash)] == [
        done.model_hash for done in result.rounds[1::-1]
    ]
    assert (await verify_session(store, objects, LAB, shown.id)).rounds == 3


async def test_it_is_there_once_however_often_it_is_shown(
    app: Path, tmp_path: Path, store: MetadataStore, objects: ObjectStore
) -> None:
    first, second = simulated(app), simulated(app, config={"lr": 0.5})
    for name, result in (("deep/first", first), ("second", second)):
        result.save_record(tmp_path / "records" / name)
    for _ in range(2):
        for record in find_records([tmp_path / "records", tmp_path / "records" / "second"]):
            await show_record(store, objects, LAB, record)
    sessions = (await store.list(SessionRecord, Query(LAB))).items
    assert {session.model for session in sessions} == {first.model_hash, second.model_hash}
    assert len(sessions) == 2


@pytest.fixture
def measuring(app: Path) -> Path:
    """The app, whose clients evaluate too."""
    measures = "\n\n@app.evaluate\ndef evaluate(model, task):\n    return hansa.Metrics({'error': task.data}, 1)\n"
    app.write_text(app.read_text() + measures)
    return app


async def test_what_each_client_measured_is_there_and_an_older_record_that_has_none_of_it_is_shown_too(
    measuring: Path, tmp_path: Path, store: MetadataStore, objects: ObjectStore
) -> None:
    folder = simulated(measuring).save_record(tmp_path / "record")
    shown = await show_record(store, objects, LAB, open_record(folder))
    assert shown is not None
    rows = (await store.list(MetricRecord, Query(LAB, {"session": shown.id, "round": 1, "name": "error"}))).items
    assert {row.client: row.value for row in rows if row.client} == {f"client-{k}": k + 1.0 for k in range(6)}

    manifest = json.loads((folder / "manifest.json").read_text())
    for done in manifest["rounds"]:
        for later in ("reports", "norms", "evaluated", "verdicts"):
            del done[later]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    older = await show_record(store, objects, LAB, open_record(folder))
    assert older is not None
    parts = (await store.list(ContributionRecord, Query(LAB, {"session": older.id, "outcome": "accepted"}))).items
    assert {(part.norm, len(part.metrics)) for part in parts} == {(None, 0)}


async def test_rounds_of_an_asynchronous_run_keep_whose_model_each_update_was_made_from(
    app: Path, tmp_path: Path, store: MetadataStore, objects: ObjectStore
) -> None:
    result = simulate(
        app, clients=6, rounds=4, algorithm="fedbuff", algorithm_options={"buffer": 2}, devices=Dropouts(0.0)
    )
    shown = await show_record(store, objects, LAB, open_record(result.save_record(tmp_path / "record")))
    assert shown is not None
    for done in result.rounds:
        parts = (await store.list(ContributionRecord, Query(LAB, {"session": shown.id, "round": done.round}))).items
        stale = {p.client: p.round - p.base for p in parts if p.outcome == "accepted" and p.base is not None}
        assert stale == done.staleness


async def test_an_asynchronous_round_tells_of_two_tasks_of_one_client(
    app: Path, tmp_path: Path, store: MetadataStore, objects: ObjectStore
) -> None:
    result = simulate(
        app, clients=6, rounds=12, algorithm="fedbuff", algorithm_options={"buffer": 3, "max_staleness": 0},
        devices=LogNormalSpeeds(sigma=0.5, jitter=0.5),
    )  # fmt: skip
    assert any(done.rejected.keys() & set(done.accepted) for done in result.rounds), "first too late, then in time"
    shown = await show_record(store, objects, LAB, open_record(result.save_record(tmp_path / "record")))
    assert shown is not None
    parts = (await store.list(ContributionRecord, Query(LAB, {"session": shown.id}))).items
    stale = {(part.client, part.base, part.round) for part in parts if part.outcome == "rejected"}
    assert stale == {(name, done.bases[name], done.round) for done in result.rounds for name in done.rejected}
    for done in result.rounds:
        told = [part for part in parts if part.round == done.round]
        assert len(told) == len(done.accepted) + len(done.rejected) + len(done.missing)


async def test_a_simulation_under_way_is_seen_round_by_round_and_its_failure_too(
    app: Path, store: MetadataStore, objects: ObjectStore
) -> None:
    result = simulated(app)
    spec = RunSpec(name="digits", rounds=5)
    shown = await SimulatedSession.begin(
        store, objects, session="s", project=LAB, spec=spec, clients=6, engine="inline", at=1.0
    )
    assert (await store.get(SessionRecord, LAB, "s")).state is SessionState.RUNNING
    await shown.round(result.rounds[0], 2.0)
    assert (await store.get(SessionRecord, LAB, "s")).round == 1
    await shown.end(SessionState.FAILED, "the app raised ValueError", 3.0)
    assert (await store.get(SessionRecord, LAB, "s")).cause == "the app raised ValueError"


async def test_a_model_that_is_not_the_recorded_one_is_refused(
    app: Path, tmp_path: Path, store: MetadataStore, objects: ObjectStore
) -> None:
    folder = simulated(app).save_record(tmp_path / "record")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["rounds"][-1]["model_hash"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="but its last round has made 0000"):
        await show_record(store, objects, LAB, open_record(folder))


def test_a_folder_without_records_says_how_one_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hansa simulate APP --record FOLDER"):
        find_records([tmp_path])


LOGGING = """
import numpy as np

import hansa

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": np.zeros(2)}


@app.train
def train(model, task):
    task.log({"loss": 0.5, "odd": float("nan")}, step=4 + task.client.index)
    return hansa.Update(model, num_examples=1)
"""


async def test_what_clients_logged_on_their_way_is_in_a_record_and_in_its_session(
    tmp_path: Path, store: MetadataStore, objects: ObjectStore
) -> None:
    (tmp_path / "logging.py").write_text(LOGGING)
    folder = simulate(tmp_path / "logging.py", clients=2, rounds=1).save_record(tmp_path / "record")
    shown = await show_record(store, objects, LAB, open_record(folder))
    assert shown is not None
    rows = (await store.list(SampleRecord, Query(LAB, {"session": shown.id, "name": "loss"}))).items
    assert [(row.round, row.task, row.client, row.step, row.value) for row in rows] == [
        (1, "train", "client-0", 4, 0.5),
        (1, "train", "client-1", 5, 0.5),
    ]
    assert (await store.list(SampleRecord, Query(LAB, {"session": shown.id, "name": "odd"}))).total == 2


NOT_FINITE = """
import numpy as np
import hansa

app = hansa.App()

@app.model
def initial_model(rng):
    return {"w": np.zeros(3)}

@app.train
def train(model, task):
    told = [{"loss": np.nan}, {"loss": 1.0}, {"rate": np.inf}][task.client.index]
    return hansa.Update({"w": model["w"] + 1}, num_examples=1, metrics=told)

@app.evaluate
def evaluate(model, task):
    return hansa.Metrics([{"error": np.nan}, {"error": 2.0}, {}][task.client.index], num_examples=1)
"""


async def test_a_number_that_is_none_is_kept_apart_from_no_number(
    tmp_path: Path, store: MetadataStore, objects: ObjectStore
) -> None:
    app = tmp_path / "app.py"
    app.write_text(NOT_FINITE)
    result = simulate(app, clients=3, rounds=1)
    folder = result.save_record(tmp_path / "record")
    assert replay(folder, progress=False).same
    shown = await show_record(store, objects, LAB, open_record(folder))
    assert shown is not None
    query = Query(LAB, {"session": shown.id})
    parts = {part.client: dict(part.metrics) for part in (await store.list(ContributionRecord, query)).items}
    assert repr(parts) == "{'client-0': {'loss': nan}, 'client-1': {'loss': 1.0}, 'client-2': {'rate': inf}}"
    told = {(row.client, row.name): row.value for row in (await store.list(MetricRecord, query)).items}
    assert repr([told.get((f"client-{each}", "error")) for each in range(3)]) == "[nan, 2.0, None]"
