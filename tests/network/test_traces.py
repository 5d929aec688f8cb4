"""Traces of sessions, as a collector receives them over HTTP."""

import asyncio
import io
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cradle
import pytest
import structlog
from federation import PROJECT, Federation
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Told
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from servers import free_port
from structlog.testing import capture_logs

from hansa.cli.running import log_to, log_traces
from hansa.errors import ConfigError, MissingExtraError
from hansa.messages import EvaluationRules, RoundRules, RunSpec
from hansa.network.controller import traces
from hansa.network.controller.commit import OPENED
from hansa.network.controller.journal import event
from hansa.network.controller.server import ControllerServer
from hansa.network.controller.traces import Place, Span
from hansa.settings import Settings, traces_wanted
from hansa.store.records import SessionState

pytest.importorskip("opentelemetry.sdk.trace")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
from hansa.network.controller.otel import Collector

THREE = RoundRules(min_clients=3, quorum=2, deadline=60)


@dataclass
class Receiver:
    """A collector: what is sent to it by OTLP over HTTP."""

    port: int = 0
    spans: list[Told] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)
    waits: threading.Event | None = None
    """Answers are held back until it is set; None: they are not."""
    refuses: bool = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def named(self, name: str) -> list[Told]:
        return [span for span in self.spans if span.name == name]

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        for group in request.resource_spans:
            self.resource = attributes(group.resource.attributes)
            self.spans += [span for scope in group.scope_spans for span in scope.spans]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.headers.append({name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
            if made.waits is not None:
                made.waits.wait()
            if not made.refuses:
                made.take(body)
            self.send_response(400 if made.refuses else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.endpoint)
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@asynccontextmanager
async def traced(folder: Path) -> AsyncIterator[Federation]:
    with cradle.workers():
        async with Federation.open(folder, silence=5.0, trace=True) as network:
            yield network


def attributes(told: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in told}


def seconds(nanoseconds: int) -> float:
    return nanoseconds / 1e9


async def test_a_round_is_a_trace_of_its_tasks_aggregation_and_evaluation(
    app: Path, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ward-7")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=harbour")
    spec = RunSpec(
        rounds=2, rules=THREE, evaluation=EvaluationRules(every=1), config={"bad": "client-1", "how": "raise"}
    )
    before = time.time()
    async with traced(tmp_path) as made:
        await made.clients(3)
        session = await made.run(app, spec)
        rounds = await made.rounds(session)
        opened = await made.events(session, "round.opened")
        evaluated = await made.events(session, "round.evaluated")
        (started,) = await made.events(session, "session.started")
        (ended,) = await made.events(session, "session.finished")
    assert session.state is SessionState.FINISHED, session.cause

    assert Counter(span.name for span in receiver.spans) == {
        "session": 1, "round": 2, "task": 6, "aggregate": 2, "evaluate": 2,
    }  # fmt: skip
    assert receiver.resource["service.name"] == "ward-7"
    assert receiver.resource["deployment.environment.name"] == "test"
    assert {(each["x-key"], each["path"]) for each in receiver.headers} == {("harbour", "/v1/traces")}
    assert len({span.span_id for span in receiver.spans}) == len(receiver.spans)

    (root,) = receiver.named("session")
    assert seconds(root.start_time_unix_nano) == pytest.approx(started.at, abs=1e-6)
    assert seconds(root.end_time_unix_nano) == pytest.approx(ended.at, abs=1e-6)
    assert len({span.trace_id for span in receiver.named("round")} | {root.trace_id}) == 3
    told = {attributes(span.attributes)["hansa.round.number"]: span for span in receiver.named("round")}
    for record in rounds:
        span = told[record.number]
        below = [each for each in receiver.spans if each.parent_span_id == span.span_id]
        assert Counter(each.name for each in below) == {"task": 3, "aggregate": 1, "evaluate": 1}
        assert {each.trace_id for each in below} == {span.trace_id}
        assert not span.parent_span_id
        assert [(link.trace_id, link.span_id) for link in span.links] == [(root.trace_id, root.span_id)]
        assert attributes(span.attributes) | {
            "hansa.session.id": session.id,
            "hansa.round.accepted": 2,
            "hansa.round.failed": 1,
            "hansa.round.outcome": "committed",
        } == attributes(span.attributes)
        assert [moment.name for moment in span.events] == ["client.failed"]
        assert seconds(span.end_time_unix_nano) == pytest.approx(record.closed_at, abs=1e-6)
        assert before <= seconds(span.start_time_unix_nano) <= opened[record.number - 1].at

        tasks = {attributes(each.attributes)["hansa.client.name"]: each for each in below if each.name == "task"}
        assert {name: each.status.code for name, each in tasks.items()} == {
            "client-0": Status.STATUS_CODE_UNSET,
            "client-1": Status.STATUS_CODE_ERROR,
            "client-2": Status.STATUS_CODE_UNSET,
        }
        for task in tasks.values():
            assert seconds(task.start_time_unix_nano) == pytest.approx(opened[record.number - 1].at, abs=1e-6)
            assert task.start_time_unix_nano < task.end_time_unix_nano < span.end_time_unix_nano
        (raised,) = tasks["client-1"].events
        assert attributes(raised.attributes)["exception.type"] == "RuntimeError"
        assert "no such patient" in tasks["client-1"].status.message

        (summed,) = (each for each in below if each.name == "aggregate")
        last = max(task.end_time_unix_nano for task in tasks.values())
        assert last <= summed.start_time_unix_nano < summed.end_time_unix_nano == span.end_time_unix_nano
        (measured,) = (each for each in below if each.name == "evaluate")
        assert measured.start_time_unix_nano > span.end_time_unix_nano
        assert seconds(measured.end_time_unix_nano) == pytest.approx(evaluated[record.number - 1].at, abs=1e-6)
        assert attributes(measured.attributes)["hansa.metric.mse"] > 0


async def test_log_lines_have_the_ids_of_the_spans_of_their_session_and_round(
    app: Path, tmp_path: Path, receiver: Receiver
) -> None:
    """Also the last one, which is written when the session is over."""
    stream = io.StringIO()
    log_to(stream, level="info", as_json=True)
    async with traced(tmp_path) as made:
        log_traces(made.controller.place_of)
        session = await made.create(app, RunSpec(rounds=1))
        journal, told = made.controller.journal, partial(event, PROJECT, session.id)
        await journal.record(told("session.started", "it begins"), told(OPENED, "opened", round=1, invited=["ann"]))
        await journal.record(told("session.failed", "too few clients"))
        while made.controller.place_of(session.id, None) is None:  # noqa: ASYNC110 - its follower reads the store
            await asyncio.sleep(0.01)
        log = structlog.get_logger()
        log.warning("of a round", session=session.id, round=1)
        log.info("of a session", session=session.id, round="a word")
        log.info("of another", session="another", round=1)
    lines = {line["event"]: line for line in map(json.loads, stream.getvalue().splitlines())}
    for line, name in (("of a round", "round"), ("of a session", "session")):
        (span,) = receiver.named(name)
        assert (lines[line]["trace_id"], lines[line]["span_id"]) == (span.trace_id.hex(), span.span_id.hex())
    assert "trace_id" not in lines["of another"]


async def test_a_session_that_fails_says_so_in_its_round(app: Path, tmp_path: Path, receiver: Receiver) -> None:
    """As its journal tells it, written here: a quorum is given up at the deadline only."""
    async with traced(tmp_path) as made:
        session = await made.create(app, RunSpec(rounds=1))
        journal, told = made.controller.journal, partial(event, PROJECT, session.id)
        invited = ["client-0", "client-1", "client-2"]
        await journal.record(told("session.started", "it begins"), told(OPENED, "opened", round=1, invited=invited))
        journal.live(PROJECT, session.id, "client.accepted", client="client-0", round=1, phase="train")
        where = {"round": 1, "phase": "train", "client": "client-1"}
        await journal.record(told("task.failed", "it failed", **where, traceback="…\nValueError: no"))
        await journal.record(told("session.failed", "too few clients\nclient-1 said: …"))
    assert attributes(receiver.named("round")[0].attributes)["hansa.round.outcome"] == "failed"
    assert {
        attributes(span.attributes).get("hansa.client.name", span.name): (span.status.code, span.status.message)
        for span in receiver.spans
    } == {
        "session": (Status.STATUS_CODE_ERROR, "too few clients"),
        "round": (Status.STATUS_CODE_ERROR, "too few clients"),
        "client-0": (Status.STATUS_CODE_UNSET, ""),
        "client-1": (Status.STATUS_CODE_ERROR, "it failed"),
        "client-2": (Status.STATUS_CODE_UNSET, ""),
    }


async def test_a_collector_that_is_away_is_told_of_once_and_costs_no_round(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    with capture_logs() as logs:
        async with traced(tmp_path) as made:
            await made.clients(2)
            rules = RoundRules(min_clients=2, quorum=2, deadline=60)
            session = await made.run(app, RunSpec(rounds=3, rules=rules))
            leaving = time.monotonic()
        left = time.monotonic() - leaving
    assert session.state is SessionState.FINISHED, session.cause
    assert left < 30, "the end waits for the collector, which is asked again for a minute"
    assert sum("does not take them" in line["event"] for line in logs) == 1


async def test_a_collector_that_does_not_answer_holds_up_neither_rounds_nor_the_end(
    app: Path, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    receiver.waits = threading.Event()
    try:
        with capture_logs() as logs:
            async with traced(tmp_path) as made:
                await made.clients(2)
                rules = RoundRules(min_clients=2, quorum=2, deadline=60)
                session = await made.run(app, RunSpec(rounds=3, rules=rules))
        assert session.state is SessionState.FINISHED, session.cause
        assert [line for line in logs if "too slow" in line["event"]]
        assert receiver.spans == []
    finally:
        receiver.waits.set()


async def test_a_controller_that_comes_back_goes_on_with_the_trace_of_the_open_round(
    app: Path, tmp_path: Path, receiver: Receiver
) -> None:
    gate = tmp_path / "gate"
    spec = RunSpec(rounds=3, rules=RoundRules(min_clients=2, quorum=2, deadline=60), config={"gate": str(gate)})
    async with traced(tmp_path) as made:
        await made.clients(2)
        session = await made.start(app, spec)
        await made.until_round(session, 2)
        async for happened in made.controller.journal.follow(PROJECT, 0, session.id):
            if happened.kind == "round.opened" and happened.data["round"] == 3:
                break
    ids = {(span.trace_id, span.span_id) for span in receiver.spans}
    assert Counter(span.name for span in receiver.spans) == {"round": 2, "task": 4, "aggregate": 2, "evaluate": 2}

    gate.touch()
    async with traced(tmp_path) as made:
        await made.clients(2)
        session = await made.end(session)
        started = (await made.events(session, "session.started"))[0]
        (opened,) = [each for each in await made.events(session, "round.opened") if each.data["round"] == 3]
        place = Place.of("session", session.id, started.id)
    assert session.state is SessionState.FINISHED, session.cause
    new = [span for span in receiver.spans if (span.trace_id, span.span_id) not in ids]
    assert len(new) + len(ids) == len(receiver.spans), "spans were told twice"
    assert Counter(span.name for span in new) == {"session": 1, "round": 1, "task": 2, "aggregate": 1, "evaluate": 1}
    (root,) = receiver.named("session")
    assert (int.from_bytes(root.trace_id, "big"), int.from_bytes(root.span_id, "big")) == (place.trace, place.span)
    assert {(link.trace_id, link.span_id) for span in receiver.named("round") for link in span.links} == {
        (root.trace_id, root.span_id)
    }
    third = next(span for span in new if span.name == "round")
    assert "controller.restarted" in [moment.name for moment in third.events]
    assert seconds(third.start_time_unix_nano) <= opened.at
    for task in (span for span in new if span.name == "task"):
        assert seconds(task.start_time_unix_nano) == pytest.approx(opened.at, abs=1e-6)


async def test_of_an_asynchronous_session_each_task_is_in_the_round_that_counts_it(
    app: Path, tmp_path: Path, receiver: Receiver
) -> None:
    spec = RunSpec(
        rounds=4,
        algorithm="fedbuff",
        algorithm_options={"buffer": 2},
        rules=RoundRules(min_clients=3, deadline=60),
    )
    async with traced(tmp_path) as made:
        await made.clients(3)
        session = await made.run(app, spec)
        parts = await made.contributions(session)
    assert session.state is SessionState.FINISHED, session.cause
    rounds = {span.span_id: attributes(span.attributes)["hansa.round.number"] for span in receiver.named("round")}
    found = [(attributes(task.attributes), rounds[task.parent_span_id]) for task in receiver.named("task")]
    assert Counter(
        (told["hansa.client.name"], number, told.get("hansa.task.model_round", number))
        for told, number in found
        if told["hansa.task.outcome"] == "accepted"
    ) == Counter((part.client, part.round, part.base) for part in parts if part.outcome == "accepted")
    assert all(task.start_time_unix_nano < task.end_time_unix_nano for task in receiver.named("task"))


async def test_of_many_tasks_the_failed_and_the_slowest_have_spans(
    app: Path, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "MOST_TASKS", 2)
    async with traced(tmp_path) as made:
        await made.clients(3)
        session = await made.run(app, RunSpec(rounds=1, rules=THREE, config={"bad": "client-1", "how": "raise"}))
    assert session.state is SessionState.FINISHED, session.cause
    (span,) = receiver.named("round")
    assert attributes(span.attributes)["hansa.round.tasks_omitted"] == 1
    assert "client-1" in {attributes(each.attributes)["hansa.client.name"] for each in receiver.named("task")}
    assert len(receiver.named("task")) == 2


async def test_a_collector_that_is_back_is_told_of_with_what_was_lost(receiver: Receiver) -> None:
    span = Span("round", Place.of("round", 1), 1.0, 2.0, {})
    collector = Collector()
    receiver.refuses = True
    with capture_logs() as logs:
        for _ in range(2):
            collector.export([span, span])
            await asyncio.to_thread(collector._provider.force_flush)
        receiver.refuses = False
        collector.export([span])
        await collector.aclose()
    assert [(line["log_level"], line.get("lost")) for line in logs] == [("warning", None), ("info", 4)]
    assert [seconds(each.end_time_unix_nano) for each in receiver.spans] == [2.0]


async def test_a_sampler_keeps_whole_traces(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    collector = Collector()
    for number in range(100):
        root = Place.of("round", number)
        below = Place.of("task", number, within=root)
        collector.export([Span("round", root, 1.0, 2.0, {}), Span("task", below, 1.0, 2.0, {}, parent=root)])
    await collector.aclose()
    assert 20 < len(receiver.named("round")) < 80
    assert {span.trace_id for span in receiver.named("round")} == {span.trace_id for span in receiver.named("task")}


def test_the_standard_variables_turn_traces_on_and_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not traces_wanted()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318/v1/traces")
    assert traces_wanted()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert not traces_wanted()
    monkeypatch.delenv("OTEL_TRACES_EXPORTER")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not traces_wanted()
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigError, match="set it to http/protobuf"):
        traces_wanted()


async def test_without_the_extra_a_server_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hansa.network.controller.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hansa\[otel\]'"):
        await ControllerServer.open(Settings(data=tmp_path, grpc_port=0), trace=True)
