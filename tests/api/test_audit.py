"""Who did what, over HTTP and from the command line: every deed leaves a line, and no line a secret."""

import asyncio
import sqlite3
from pathlib import Path

import httpx
import numpy as np
import pytest
from google.protobuf import json_format
from opentelemetry.proto.logs.v1.logs_pb2 import SEVERITY_NUMBER_INFO, LogsData
from served import Served
from typer.testing import CliRunner, Result

from hansa.api.client import Client, log_in
from hansa.api.permissions import Permission
from hansa.api.server import openapi
from hansa.cli import app as commands
from hansa.errors import AuthenticationError, CorruptionError, NotFoundError, PermissionDeniedError, ThrottledError
from hansa.packages.package import build
from hansa.store.audit import verify_audit
from hansa.store.ports import Query
from hansa.store.records import AuditRecord, ProjectRole

CANARY = "canary-7f3a9c-secret"
Line = tuple[str, str, str]


@pytest.fixture
def root(fresh: Served) -> Client:
    return fresh.client(token=fresh.admin())


def told(client: Client, *, installation: bool = False) -> list[Line]:
    return [(line.actor, line.action, line.outcome) for line in client.audit.lines(installation=installation)]


def command(served: Served, *arguments: str) -> Result:
    given = {
        "HANSA_URL": served.url,
        "HANSA_CA": served.server.fingerprint,
        "HANSA_TOKEN": served.admin(),
        "HANSA_CREDENTIALS": str(served.folder / "none"),
    }
    return CliRunner().invoke(commands, arguments, env=given)


def test_every_deed_of_a_project_leaves_a_line_in_order(fresh: Served, root: Client, app: Path, tmp_path: Path) -> None:
    root.users.create("ida", CANARY)
    root.members.add("ida", "owner")
    ida = fresh.client(token=log_in(fresh.url, "ida", CANARY, fresh.server.trust).token)
    node = ida.tokens.create("ward", "client")
    program = ida.tokens.create("nightly", "viewer")
    ida.tokens.revoke(node.record.id)
    session = ida.sessions.prepare(app)
    ida.models.download(session.seed_model or "", tmp_path / "model")
    ida.sessions.delete(session.id)
    with pytest.raises(PermissionDeniedError):
        fresh.client(token=program.token).members.add("ida", "viewer")
    root.members.remove("ida")

    lines = told(root)
    assert lines[:2] == [("hansa", "project.create", "done"), ("root", "member.put", "done")]
    assert sorted(lines[5:7]) == [("ida", "model.upload", "done"), ("ida", "package.upload", "done")]
    assert lines[2:5] + lines[7:] == [
        ("ida", "token.issue", "done"),
        ("ida", "token.issue", "done"),
        ("ida", "token.revoke", "done"),
        ("ida", "session.create", "done"),
        ("ida", "model.download", "done"),
        ("ida", "session.delete", "done"),
        ("ida", "request", "refused"),
        ("root", "member.remove", "done"),
    ]
    assert verify_audit(root.audit.lines())[0] == len(lines)


def test_logins_and_what_concerns_no_project_are_the_installations(fresh: Served, root: Client) -> None:
    root.users.create("ida", CANARY)
    log_in(fresh.url, "ida", CANARY, fresh.server.trust)
    for name, password in (("ida", "wrong " + CANARY), (CANARY, "whatever")):
        with pytest.raises(AuthenticationError):
            log_in(fresh.url, name, password, fresh.server.trust)
    with pytest.raises(NotFoundError):
        fresh.client(token=fresh.person("ida")).sessions.list()
    root.users.disable("ida")

    lines = told(root, installation=True)
    assert lines[lines.index(("root", "user.create", "done")) :] == [
        ("root", "user.create", "done"),
        ("ida", "login", "done"),
        ("ida", "login", "failed"),
        ("(an unknown name)", "login", "failed"),
        ("ida", "token.issue", "done"),
        ("ida", "request", "refused"),
        ("root", "user.disable", "done"),
    ]
    assert verify_audit(root.audit.lines(installation=True))[0] == len(lines)


def test_a_session_that_runs_and_nodes_that_join_are_told(fresh: Served, root: Client, app: Path) -> None:
    fresh.run(fresh.nodes.clients(1))
    session = root.sessions.start(app, rounds=1)
    root.sessions.wait(session.id)
    assert {("client-0", "client.join", "done"), ("root", "session.start", "done")} <= set(told(root))


def test_one_who_is_refused_again_and_again_cannot_fill_the_disk(fresh: Served, root: Client) -> None:
    http = fresh.http(fresh.token(ProjectRole.VIEWER, name="noisy"))
    for _ in range(70):
        assert http.delete("/api/v1/projects/default/sessions/x").status_code == 403
    assert told(root).count(("noisy", "request", "refused")) == 60


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit SET actor = 'nobody' WHERE project = 'default' AND number = 2",
        "DELETE FROM audit WHERE project = 'default' AND number = 2",
        "UPDATE audit SET seq = 100 - seq WHERE project = 'default'",
    ],
    ids=["changed", "removed", "moved"],
)
def test_a_record_that_was_tampered_with_in_the_database_is_found(fresh: Served, root: Client, tampering: str) -> None:
    for name in ("a", "b", "c"):
        root.tokens.create(name, "client")
    assert command(fresh, "audit", "verify").exit_code == 0
    database = sqlite3.connect(fresh.folder / "controller" / "hansa.db")
    with database:
        database.execute(tampering)
    database.close()
    with pytest.raises(CorruptionError, match="audit record"):
        verify_audit(root.audit.lines())
    assert command(fresh, "audit", "verify").exit_code != 0


def test_an_exported_record_is_verified_without_a_server(fresh: Served, root: Client, tmp_path: Path) -> None:
    for name in ("a", "b"):
        root.tokens.create(name, "client")
    exported = command(fresh, "audit", "export").output
    file = tmp_path / "audit.jsonl"
    file.write_text(exported)
    assert "3 lines" in command(fresh, "audit", "verify", str(file)).output
    file.write_text(exported.replace("token.issue", "token.revoke", 1))
    assert command(fresh, "audit", "verify", str(file)).exit_code != 0
    newest = list(root.audit.lines())[-1].link
    file.write_text("".join(exported.splitlines(keepends=True)[:-1]))
    assert command(fresh, "audit", "verify", str(file)).exit_code == 0
    assert command(fresh, "audit", "verify", str(file), "--head", newest).exit_code != 0
    assert "token.issue" in command(fresh, "audit", "list").output


def test_no_secret_is_in_log_audit_database_traceback_or_answer(
    fresh: Served, root: Client, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[httpx.Response] = []
    root.users.create("ida", CANARY)
    root.members.add("ida", "owner")
    secrets = [CANARY, log_in(fresh.url, "ida", CANARY, fresh.server.trust).token]
    ida = fresh.client(token=secrets[1])
    secrets += [ida.tokens.create("ward", "client").token, ida.tokens.create("nightly", "viewer").token]
    http = fresh.http(secrets[1])
    for secret in secrets:
        with pytest.raises(AuthenticationError):
            log_in(fresh.url, secret, "not it: " + secret, fresh.server.trust)
        answers += [
            http.post("/api/v1/login", json={"name": ["x", secret], "password": [secret]}),
            http.post("/api/v1/login", content=f'{{"password": "{secret}"'.encode()),
            http.put("/api/v1/me/password", json={"current": "not it", "password": [secret]}),
            http.post("/api/v1/users", json={"name": "x", "password": secret}),
            http.delete("/api/v1/projects/other/tokens/x", headers={"X-Token": secret}),
            fresh.http(secret + "x").get("/api/v1/me"),
        ]
    fresh.run(fresh.server.controller.store.close())
    assert http.get("/api/v1/projects/default/clients/x").status_code == 500
    captured = capfd.readouterr()
    logged = captured.out + captured.err + caplog.text
    assert "Traceback" in logged
    files = [path for path in (fresh.folder / "controller").rglob("*") if path.is_file()]
    written = {"the log": logged.encode()} | {str(path): path.read_bytes() for path in files}
    assert any(path.endswith("hansa.db") for path in written)
    for secret in secrets:
        assert [where for where, content in written.items() if secret.encode() in content] == []
        assert [str(answer.url) for answer in answers if secret in answer.text] == []


def test_throttled_logins_and_what_is_done_about_models_leave_a_line(fresh: Served, root: Client, app: Path) -> None:
    root.users.create("ida", CANARY)
    for attempt in range(8):
        with pytest.raises(AuthenticationError if attempt < 5 else ThrottledError):
            log_in(fresh.url, "ida", "wrong " + CANARY, fresh.server.trust)
    lines = [line for line in root.audit.lines(installation=True) if line.action == "login"]
    assert [line.outcome for line in lines] == ["failed"] * 5 + ["refused"]
    assert lines[-1].detail == "127.0.0.1: throttled, too many attempts with this name"
    session = root.sessions.prepare(app)
    root.sessions.keep(session.id, "last 2")
    root.prune(dry_run=True)
    root.prune()
    kept, pruned = list(root.audit.lines())[-2:]
    assert (kept.actor, kept.action, kept.target, kept.detail) == ("root", "session.keep", session.id, "last 2")
    assert (pruned.actor, pruned.action, pruned.target) == ("root", "prune", "default")


def test_a_collector_reads_the_record_as_opentelemetry_logs(fresh: Served, root: Client) -> None:
    root.members.add("root", "owner")
    done = command(fresh, "audit", "export", "--format", "otlp")
    assert done.exit_code == 0, done.output
    lines = list(root.audit.lines())
    read = [json_format.Parse(line, LogsData()) for line in done.output.splitlines()]
    assert len(read) == len(lines) > 0
    for parsed, line in zip(read, lines, strict=True):
        (resource,) = parsed.resource_logs
        ((record,),) = [scope.log_records for scope in resource.scope_logs]
        assert record.time_unix_nano == round(line.at * 10**9)
        assert record.event_name == f"hansa.audit.{line.action}"
        assert (record.severity_number, record.severity_text) == (SEVERITY_NUMBER_INFO, "INFO")
        said = {a.key: a.value.string_value or a.value.int_value for a in record.attributes}
        assert said["user.name"] == line.actor
        assert said["hansa.audit.number"] == line.number
        assert said["hansa.audit.link"] == line.link
        assert {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"] == "hansa"


CHANGING = {
    (method.upper(), path.removeprefix("/api/v1"))
    for path, operations in openapi()["paths"].items()
    for method, operation in operations.items()
    if method != "get" or operation["x-permission"] == Permission.DOWNLOAD
}
OF_A_PROVIDER = {
    *(("POST", f"/login/oidc{way}") for way in ("", "/code", "/device", "/device/token")),
    *((method, "/users/{user}/subject") for method in ("PUT", "DELETE")),
}
"""`network/test_sign_on` and `api/test_openid` have a provider, and look at the record."""


def test_every_route_that_changes_something_or_hands_out_models_leaves_a_line(  # noqa: PLR0915 - every route
    fresh: Served, root: Client, app: Path
) -> None:
    http, place, ids = fresh.http(fresh.admin()), "/projects/{project}", {"project": "default"}
    package = root.packages.upload(app)
    spec = {"name": "x", "rounds": 1, "evaluation": {"every": 0}}
    waiting = {"name": "x", "rounds": 1, "rules": {"min_clients": 9, "quorum": 9}, "evaluation": {"every": 0}}
    seed = http.post("/api/v1/projects/default/initial-models", json={"package": package.id, "spec": spec}, timeout=60)
    ids |= {"model": seed.json()["model"]["id"], "models": "all"}
    session = {"spec": waiting, "seed_model": ids["model"], "package": package.id}
    question = {"model": ids["model"], "package": package.id, "rules": {"min_clients": 9, "quorum": 9}}
    missing = set(CHANGING) - OF_A_PROVIDER

    def call(
        method: str, path: str, body: object = None, *, by: httpx.Client = http, route: str = "", **more: object
    ) -> httpx.Response:
        missing.discard((method, route or path))
        before = lines()
        options = more if body is None else {"json": body, **more}
        answer = by.request(method, "/api/v1" + path.format(**ids), timeout=60, **options)  # type: ignore[arg-type]
        assert answer.status_code < 300, (path, answer.text)
        assert lines() > before, f"{method} {path} has left no line in the audit record"
        return answer

    def lines() -> int:
        projects = ("", *(project.id for project in root.projects.list()))
        query = (Query(project, limit=1) for project in projects)
        return sum(fresh.run(fresh.server.controller.store.list(AuditRecord, each)).total for each in query)

    call("POST", "/projects", {"name": "other"})
    call("POST", f"{place}/apps", content=app.read_bytes())
    call("POST", f"{place}/apps/example")
    call("POST", f"{place}/packages", content=build(app))
    call("POST", f"{place}/models", content=root.models.download(ids["model"], fresh.folder / "model").read_bytes())
    call("POST", f"{place}/initial-models", {"package": package.id, "spec": spec})
    call("GET", f"{place}/models/{{model}}/file")
    ids["session"] = call("POST", f"{place}/sessions", session).json()["id"]
    call("POST", f"{place}/sessions/{{session}}/start")
    call("PUT", f"{place}/sessions/{{session}}/keep", {"keep": "last 1"})
    call("POST", f"{place}/sessions/{{session}}/stop")
    call("GET", f"{place}/sessions/{{session}}/bundle/{{models}}")
    call("POST", f"{place}/sessions/{{session}}/resume")
    call("POST", f"{place}/sessions/{{session}}/stop")
    call("DELETE", f"{place}/sessions/{{session}}")
    simulated = {"package": package.id, "spec": {**spec, "rounds": 100_000}, "clients": 1}
    ids["session"] = call("POST", f"{place}/simulations", simulated).json()["id"]
    call("POST", f"{place}/sessions/{{session}}/stop")
    ids["prediction"] = call("POST", f"{place}/predictions", question).json()["id"]
    call("GET", f"{place}/predictions/{{prediction}}/answers")
    call("POST", f"{place}/predictions/{{prediction}}/stop")
    call("DELETE", f"{place}/predictions/{{prediction}}")
    ids["token"] = call("POST", f"{place}/tokens", {"name": "idle", "role": "client"}).json()["record"]["id"]
    call("DELETE", f"{place}/tokens/{{token}}")
    fresh.run(fresh.nodes.client("ward"))
    ids["name"] = "ward"
    call("PATCH", f"{place}/clients/{{name}}/labels", {"labels": {"region": "eu"}})
    call("DELETE", f"{place}/nodes/{{name}}")
    fresh.run(asyncio.wait([fresh.nodes.nodes.pop("ward")]))  # it was put out
    api_token = call("POST", f"{place}/api-tokens", {"name": "ci", "role": "viewer", "expires_in": 60}).json()
    ids["token"] = api_token["record"]["id"]
    call("DELETE", f"{place}/api-tokens/{{token}}")
    call("PUT", f"{place}/quota", {"sessions": 5})
    call("POST", f"{place}/prune", {"dry_run": False})
    other = root.models.upload({"w": np.zeros(1, np.float32)})
    call("DELETE", f"{place}/models/{other.id}", route=f"{place}/models/{{model}}")
    unused = http.post("/api/v1/projects/default/apps", content=app.read_bytes() + b"# unused").json()["id"]
    call("DELETE", f"{place}/packages/{unused}", route=f"{place}/packages/{{package}}")
    password = {"name": "ida", "password": CANARY}
    call("POST", "/users", password)
    ids["user"] = "ida"
    call("PUT", f"{place}/members/{{user}}", {"role": "viewer"})
    call("DELETE", f"{place}/members/{{user}}")
    ida = fresh.http(call("POST", "/login", password, by=fresh.http()).json()["token"])
    code = call("POST", "/login/codes", by=ida).json()["code"]
    call("POST", "/login/code", {"code": code}, by=fresh.http())
    call("POST", "/login/browser", by=ida)
    call("PUT", "/me/password", {"current": CANARY, "password": CANARY + "!"}, by=ida)
    call("POST", "/logout", by=ida)
    call("PUT", "/users/{user}/password", {"password": CANARY})
    call("POST", "/users/{user}/disable")
    call("POST", "/users/{user}/enable")
    assert missing == set()
