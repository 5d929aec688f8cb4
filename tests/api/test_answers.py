"""What the server answers: pages, files, problems."""

import json
from dataclasses import fields
from pathlib import Path
from typing import get_args

import httpx
import numpy as np
import pytest
from pydantic import BaseModel
from served import Served

from hansa.api.documents import from_document, to_document
from hansa.api.requests import Spec
from hansa.api.results import IssuedToken, Me, ServerInfo, User, Waiting
from hansa.api.shapes.answer import Shape
from hansa.errors import ConfigError, ConflictError, InputError, NotFoundError, WireError
from hansa.evidence.findings import Verification
from hansa.messages import Kind, RunSpec
from hansa.store.documents import spec_to_json
from hansa.store.records import (
    AccountRecord,
    EvaluationRecord,
    HandoverRecord,
    InstallationRecord,
    MetricRecord,
    NoteRecord,
    Record,
    SessionRecord,
    SessionState,
    SubjectRecord,
)
from hansa.wire import codec
from hansa.wire.frames import Role

BASE = "/api/v1/projects/default"


@pytest.fixture
def http(served: Served) -> httpx.Client:
    return served.http(served.token())


def post_session(http: httpx.Client, spec: object) -> httpx.Response:
    return http.post(f"{BASE}/sessions", json={"spec": spec, "seed_model": "0" * 64})


# ── problems ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"round": 5},
            "spec: there is no 'round'; there is: name, project, algorithm, algorithm_options, aggregator",
        ),
        (
            {"rules": {"quorom": 1}},
            "spec.rules: there is no 'quorom'; there is: selection, count, fraction, min_clients",
        ),
        ({"rounds": "5"}, "spec.rounds: Input should be a valid integer"),
        ({"rounds": 0}, "rounds is 0; it must be a whole number between 1 and"),
        ({"algorithm": "fedwhat"}, "there is no 'fedwhat' in hansa.algorithms; there is: afl, "),
        ({"rules": {"quorum": 3}}, "raise min_clients to 3 or lower quorum"),
        ({"project": "other"}, "spec.project is 'other', but the path is that of project 'default'"),
        ({"config": {"$float": 1}}, "spec holds a value that cannot be read"),
        ({"algorithm_options": {"momentum": 3}}, "fedavg has no option 'momentum'"),
    ],
)
def test_a_specification_that_cannot_be_is_refused_with_what_to_do(
    http: httpx.Client, spec: dict[str, object], said: str
) -> None:
    response = post_session(http, spec)
    assert response.status_code == 422
    assert said in response.json()["detail"]


def test_a_session_of_a_model_that_is_not_there_says_to_upload_it(http: httpx.Client) -> None:
    response = post_session(http, {})
    assert response.status_code == 404
    assert "upload it first" in response.json()["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"spec": NaN}', b"null", b'"\\ud800"'])
def test_a_body_that_is_no_json_object_is_a_problem_and_not_a_fault(http: httpx.Client, body: bytes) -> None:
    response = http.post(f"{BASE}/sessions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


def test_a_json_body_beyond_the_limit_is_refused_announced_or_not(http: httpx.Client) -> None:
    large = json.dumps({"spec": {"config": {"text": "x" * (1 << 20)}}, "seed_model": ""}).encode()
    announced = http.post(f"{BASE}/sessions", content=large)
    streamed = http.post(f"{BASE}/sessions", content=iter([large[:600_000], large[600_000:]]))
    for response in (announced, streamed):
        assert response.status_code == 413
        assert "1,048,576 bytes" in response.json()["detail"]


def test_an_unknown_path_and_a_wrong_method_are_problems_too(http: httpx.Client) -> None:
    assert http.get(f"{BASE}/session").json()["detail"].startswith("there is no route")
    wrong = http.put(f"{BASE}/sessions")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "GET"
    assert wrong.headers["content-type"] == "application/problem+json"


def test_a_fault_of_the_server_is_told_by_an_id_and_never_by_a_traceback(
    served: Served, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(served.server.controller.store, "get", broken)
    response = http.get(f"{BASE}/sessions/x")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert "secret" not in response.text
    assert body["instance"].removeprefix("urn:hansa:fault:") in body["detail"]


def test_problems_come_back_as_the_exceptions_that_they_were(served: Served, app: Path) -> None:
    client = served.client()
    with pytest.raises(NotFoundError, match="no session 'nobody'"):
        client.sessions.get("nobody")
    with pytest.raises(ConflictError, match="already; choose another"):
        served.client(token=served.admin()).projects.create("default")
    with pytest.raises(ConfigError, match="cannot name a"):
        client.tokens.create("a b", "client")
    with pytest.raises(WireError, match="too few for a safetensors file"):
        client.models.upload(b"")
    with pytest.raises(InputError, match="role"):
        client.tokens.create("x", "king")
    session = client.sessions.prepare(app, name="idle")
    with pytest.raises(ConflictError, match="nothing to stop"):
        client.sessions.stop("idle")
    client.sessions.delete(session.id[:6])


# ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_list_is_paged_filtered_and_sorted(served: Served, http: httpx.Client) -> None:
    client = served.client()
    names = [f"node-{i}" for i in range(5)]
    for name in names:
        client.tokens.create(name, "client")
    page = http.get(f"{BASE}/tokens", params={"name": names, "sort": "-name", "limit": 2, "offset": 1}).json()
    assert [item["name"] for item in page["items"]] == ["node-3", "node-2"]
    assert (page["total"], page["limit"], page["offset"]) == (5, 2, 1)
    assert [token.name for token in client.tokens.all(name=names)] == names
    unknown = http.get(f"{BASE}/tokens", params={"colour": "red"})
    assert "there is no 'colour'; there is: limit, offset, sort, id, name, role, revoked" in unknown.json()["detail"]
    sorted_by = http.get(f"{BASE}/tokens", params={"sort": "colour"})
    assert "cannot sort by 'colour': the columns of tokens are" in sorted_by.json()["detail"]
    assert http.get(f"{BASE}/tokens", params={"limit": 1001}).status_code == 422


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_is_downloaded_as_it_is_stored_whole_in_part_or_not_again(served: Served, http: httpx.Client) -> None:
    arrays = {"w": np.arange(3_000_000, dtype=np.float32)}  # beyond what is held in memory
    record = served.client().models.upload(arrays, name="seed")
    url = f"{BASE}/models/{record.id}/file"
    whole = http.get(url)
    assert whole.headers["etag"] == f'"{record.id}"'
    assert int(whole.headers["content-length"]) == record.size == len(whole.content)
    assert codec.digest(codec.decode(whole.content)) == record.id
    part = http.get(url, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert http.get(url, headers={"If-None-Match": f'"{record.id}"'}).status_code == 304


def test_a_large_upload_leaves_nothing_behind(served: Served, http: httpx.Client) -> None:
    before = sorted(path.name for path in (served.folder / "controller").iterdir())
    response = http.post(f"{BASE}/models", content=b"\0" * (6 << 20))
    assert response.status_code == 422
    assert sorted(path.name for path in (served.folder / "controller").iterdir()) == before


def test_a_package_that_is_no_archive_is_refused(http: httpx.Client) -> None:
    response = http.post(f"{BASE}/packages", content=b"no archive")
    assert response.status_code == 422
    assert "not an archive" in response.json()["detail"]


# ── documents ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_number_that_json_lacks_is_null_there_and_nan_here() -> None:
    record = MetricRecord("m", "p", "s", 1, Kind.TRAIN, "loss", float("nan"), 3)
    document = json.loads(json.dumps(to_document(record), allow_nan=False))
    assert document["value"] is None
    back = from_document(MetricRecord, document)
    assert back.value != back.value
    assert back.kind is Kind.TRAIN


def test_a_record_of_a_newer_server_is_read_without_what_is_new() -> None:
    spec = RunSpec(config={"shape": (1, 2), "rate": float("inf")})
    record = SessionRecord("s", "p", "n", spec, SessionState.RUNNING, 1.0)
    document = to_document(record)
    assert from_document(SessionRecord, document) == record
    document["colour"] = "red"
    document["spec"]["rules"]["moon"] = "full"
    document["state"] = "hibernating"
    newer = from_document(SessionRecord, document)
    assert newer.spec == spec
    assert newer.state == "hibernating"


OF_USERS = (AccountRecord, SubjectRecord)
"""One holds a hash, the other whom a provider means: a `User` is told instead."""
OF_SERVERS = (EvaluationRecord, HandoverRecord, InstallationRecord, NoteRecord)
TOLD = [kind for kind in get_args(Record) if kind not in (*OF_USERS, *OF_SERVERS)]
"""What clients sign of evaluations is in bundles alone; the numbers are told as metrics."""
SHAPES = {shape.__name__: shape for shape in Shape.__subclasses__()}
PAIRS = [
    (kind, SHAPES[f"{kind.__name__.removesuffix('Record')}Shape"])
    for kind in (*TOLD, Waiting, Verification, Me, ServerInfo, IssuedToken, User)
]


@pytest.mark.parametrize(("kind", "shape"), PAIRS)
def test_what_is_documented_is_what_is_sent(kind: type, shape: type[BaseModel]) -> None:
    assert list(shape.model_fields) == [field.name for field in fields(kind)]
    for field in fields(kind):
        documented = shape.model_fields[field.name].annotation
        if field.type in {str, int, bool, str | None, int | None, float | None, Kind, Role, SessionState}:
            assert documented == field.type, field.name
        elif field.type is float:  # a NaN is sent as null
            assert documented in {float, float | None}, field.name


def test_a_specification_is_documented_whole_and_with_its_defaults() -> None:
    documented = Spec().model_dump()
    assert {**documented, "project": "default"} == spec_to_json(RunSpec())
