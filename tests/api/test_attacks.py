"""Ways past the gate of the REST API that others have left open: each is refused, changes nothing and tells nothing."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from served import Served
from untouched import rows, tables

from hansa.store.records import ProjectRole
from hansa.wire import tokens
from hansa.wire.frames import Role

METHODS = ["GET", "HEAD", "OPTIONS", "TRACE", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"]
AGENTS = ["", "kube-probe/1.30", "ELB-HealthChecker/2.0", "GoogleHC/1.0", "Prometheus/2.5", "hansa/0.1", "curl/8"]
PATHS = ["/api/v1/me", "/api/v1/projects/default/sessions", "/api/v1/users", "/api/v1/openapi.json", "/metrics"]
TRICKS = [
    {"X-HTTP-Method-Override": "GET"},
    {"X-Original-URL": "/healthz"},
    {"X-Rewrite-URL": "/healthz"},
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Forwarded-User": "root"},
    {"Forwarded": "for=127.0.0.1;proto=https"},
    {"Host": "localhost"},
    {"Cookie": "token=TOKEN; Authorization=Bearer TOKEN"},
    {"X-Api-Key": "TOKEN"},
    {"Proxy-Authorization": "Bearer TOKEN"},
    {"Authorization": "TOKEN"},
    {"Authorization": "Token TOKEN"},
    {"Authorization": "Bearer,Bearer TOKEN"},
]


def kept(served: Served) -> Path:
    return served.folder / "controller"


@pytest.mark.parametrize("path", PATHS)
def test_no_method_and_no_user_agent_is_let_in_without_a_token(served: Served, path: str) -> None:
    http = served.http()
    before = tables(kept(served))
    for method in METHODS:
        for agent in AGENTS:
            answered = http.request(method, path, headers={"User-Agent": agent})
            assert answered.status_code == 401, (method, agent)
            assert method == "HEAD" or set(answered.json()) == {"type", "title", "status", "detail", "instance"}
    assert tables(kept(served)) == before


@pytest.mark.parametrize("method", METHODS[1:])
def test_health_is_open_to_who_asks_for_it_and_to_no_other_method(served: Served, method: str) -> None:
    assert served.http().get("/healthz").text == "ok"
    assert served.http().request(method, "/healthz").status_code in {401, 405}


@pytest.mark.parametrize("headers", TRICKS, ids=lambda headers: next(iter(headers)))
def test_no_other_header_takes_the_place_of_a_token(served: Served, admin: str, headers: dict[str, str]) -> None:
    sent = {name: value.replace("TOKEN", admin) for name, value in headers.items()}
    for path in PATHS:
        answered = served.http().get(path, headers=sent)
        assert answered.status_code == 401
        assert admin not in answered.text
    assert served.http(admin).get("/api/v1/me").status_code == 200


def test_a_token_in_the_address_is_none(served: Served, admin: str) -> None:
    for name in ("token", "access_token", "authorization", "api_key"):
        answered = served.http().get("/api/v1/me", params={name: admin})
        assert answered.status_code == 401
        assert admin not in answered.text


def forged(served: Served, **changes: Any) -> str:
    """A token of root's, signed with the server's own key, that is right but for its changes."""
    claims = {"sub": "root", "role": "person", "project": "", "jti": "1", "aud": "hansa", "iat": int(time.time())}
    key = changes.pop("key", served.server.controller._key)
    algorithm = changes.pop("algorithm", "EdDSA")
    return jwt.encode(claims | changes, key, algorithm=algorithm)


def test_a_token_that_does_not_hold_lets_nobody_in_whatever_is_wrong_with_it(served: Served, admin: str) -> None:
    good = jwt.decode(admin, options={"verify_signature": False})
    node = jwt.decode(served.token(Role.CLIENT, name="a-node"), options={"verify_signature": False})
    bad = {
        "expired": forged(served, exp=int(time.time()) - 100, jti=good["jti"]),
        "never issued": forged(served),
        "alg none": forged(served, jti=good["jti"], key="", algorithm="none"),
        "alg confusion": forged(served, jti=good["jti"], key="a secret of thirty-two characters", algorithm="HS256"),
        "another key": forged(served, jti=good["jti"], key=tokens.new_key()),
        "another audience": forged(served, jti=good["jti"], aud=tokens.JOINING),
        "a node as a person": forged(served, sub="a-node", jti=node["jti"]),
        "a path for a name": forged(served, sub="../root", jti=good["jti"]),
    }
    before = tables(kept(served))
    for flaw, token in bad.items():
        http = served.http(token)
        for method, path in (("GET", "/api/v1/me"), ("POST", "/api/v1/users"), ("DELETE", "/api/v1/users/root")):
            answered = http.request(method, path, json={})
            assert answered.status_code == 401, flaw
            assert token not in answered.text
            assert token.split(".")[1] not in answered.text
    assert tables(kept(served)) == before
    assert served.http(admin).get("/api/v1/me").status_code == 200


def test_who_is_refused_in_another_project_has_changed_nothing_and_is_in_the_record(served: Served) -> None:
    served.run(served.server.controller.create_project("theirs"))
    stranger = served.token(ProjectRole.OWNER, "theirs", "mallory")
    before, told = tables(kept(served)), len(rows(kept(served), "audit"))
    answers = [
        served.http(stranger).post("/api/v1/projects/default/tokens", json={"name": "x", "role": "client"}),
        served.http(stranger).put("/api/v1/projects/default/members/mallory", json={"role": "owner"}),
        served.http(stranger).delete("/api/v1/projects/default/nodes/ward"),
    ]
    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert tables(kept(served)) == before
    lines = rows(kept(served), "audit")[told:]
    assert len(lines) == 3
    assert all("mallory" in line and "refused" in line for line in lines)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/b", "..", "a\0b", "a\nb", "$(touch x)", "; rm -rf /", "x" * 500]
)
def test_a_name_that_could_be_a_path_or_a_command_is_refused_and_makes_no_file(
    served: Served, admin: str, name: str
) -> None:
    http, before = served.http(admin), tables(kept(served))
    files = sorted(path for path in served.folder.rglob("*") if path.suffix not in {".db-wal", ".db-shm"})
    for path, body in (
        ("/api/v1/projects", {"name": name}),
        ("/api/v1/users", {"name": name, "password": "a password of some length"}),
        ("/api/v1/projects/default/tokens", {"name": name, "role": "client"}),
    ):
        answered = http.post(path, json=body)
        assert answered.status_code == 422, path
        assert "a password of some length" not in answered.text
    assert tables(kept(served)) == before
    assert sorted(path for path in served.folder.rglob("*") if path.suffix not in {".db-wal", ".db-shm"}) == files


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_nested_without_end_is_refused_and_fells_nothing(served: Served, admin: str, opening: str) -> None:
    http, before = served.http(admin), tables(kept(served))
    for depth in (500, 900, 1000, 5000, 100_000):
        text = opening * depth
        for body in (text, f'{{"name": {text}', f'{{"spec": {{"config": {opening * depth}'):
            answered = http.post(
                "/api/v1/projects/default/sessions", content=body, headers={"Content-Type": "application/json"}
            )
            assert answered.status_code == 422
        whole = json.dumps(None)
        for _ in range(min(depth, 900)):
            whole = f"[{whole}]"
        answered = http.post(
            "/api/v1/projects/default/sessions",
            content=f'{{"spec": {{"config": {{"a": {whole}}}}}}}',
            headers={"Content-Type": "application/json"},
        )
        assert 400 <= answered.status_code < 500
    assert tables(kept(served)) == before


def test_a_login_cannot_be_made_longer_by_a_browser(served: Served) -> None:
    """Twelve hours after a login, what was copied of it is of no use, whatever was asked for with it meanwhile."""
    people = served.server.controller.people
    served.person("ada")
    token, record = served.run(people.issue("ada", called="login", expires_in=100.0))
    assert record.expires_at is not None
    browser = served.http(token).post("/api/v1/login/browser")
    code = served.http(token).post("/api/v1/login/codes").json()["code"]
    by_code = served.http().post("/api/v1/login/code", json={"code": code})
    for answer in (browser, by_code):
        assert answer.status_code == 201
        assert answer.json()["record"]["expires_at"] <= record.expires_at + 1
        assert "Max-Age=9" in answer.headers["set-cookie"] or "Max-Age=100;" in answer.headers["set-cookie"]


def test_a_token_that_ends_makes_none_that_outlives_it(served: Served) -> None:
    """Whoever has copied one cannot renew it for ever, neither by tokens of its own nor by a browser's."""
    own = served.http(served.token(name="ada")).post(
        "/api/v1/projects/default/api-tokens", json={"name": "ci", "role": "viewer", "expires_in": 3600}
    )
    issued = own.json()
    ends = issued["record"]["expires_at"]
    assert ends - time.time() < 3601

    stolen = served.http(issued["token"])
    longer = {"name": "longer", "role": "viewer", "expires_in": 366 * 86_400}
    again = stolen.post("/api/v1/projects/default/api-tokens", json=longer)
    assert again.status_code == 201
    assert again.json()["record"]["expires_at"] <= ends + 1
    browser = stolen.post("/api/v1/login/browser")
    assert browser.status_code == 201
    assert browser.json()["record"]["expires_at"] <= ends + 1
    assert stolen.post("/api/v1/login/codes").status_code == 422
