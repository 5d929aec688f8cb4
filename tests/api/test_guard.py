"""Who is let in at all: every route of the OpenAPI document is walked. `test_permissions` says who may do what."""

import re
from collections.abc import Iterator

import httpx
import pytest
from served import Served

from hansa.api.permissions import Permission
from hansa.api.server import openapi
from hansa.wire.frames import Role

PLACEHOLDERS = {
    "session": "5d41402abc4b",
    "number": "1",
    "model": "0" * 64,
    "models": "all",
    "package": "0" * 64,
    "name": "x",
    "token": "x",
    "user": "nobody",
    "path": "app.py",
    "prediction": "5d41402abc4b",
}


PATHS = openapi()["paths"]


def _routes() -> Iterator[tuple[str, str]]:
    for path, operations in PATHS.items():
        for method in operations:
            yield method.upper(), path


ROUTES = sorted(_routes())
LOGINS = [f"/api/v1/login{way}" for way in ("", "/code", "/oidc", "/oidc/code", "/oidc/device", "/oidc/device/token")]
OPEN = [("GET", "/api/v1/login"), ("GET", "/healthz"), *(("POST", path) for path in LOGINS)]
GUARDED = [route for route in ROUTES if route not in OPEN]
OF_PROJECTS = [route for route in ROUTES if "{project}" in route[1]]
FOR_PEOPLE = [route for route in GUARDED if route != ("GET", "/api/v1/me")]


def _filled(path: str, project: str = "default") -> str:
    return re.sub(r"\{(\w+)\}", lambda match: {**PLACEHOLDERS, "project": project}[match[1]], path)


def _assert_problem(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:hansa:problem:")
    assert body["detail"]


@pytest.fixture(scope="module")
def foreign(served: Served) -> str:
    """A token of another project's owner."""
    served.run(served.server.controller.create_project("other"))
    return served.token(project="other", name="oskar")


def test_health_and_logging_in_alone_are_open_and_tell_nothing(served: Served) -> None:
    assert [(method, path) for method, path in ROUTES if permission(method, path) == Permission.STRANGERS] == OPEN
    assert served.http().get("/healthz").text == "ok"
    body = {"name": "nobody", "password": "a password of nobody"}
    _assert_problem(served.http().post("/api/v1/login", json=body), 401)
    assert [path for _, path in ROUTES if not path.startswith("/api/v1/")] == ["/healthz", "/metrics"]


def permission(method: str, path: str) -> str:
    return str(PATHS[path][method.lower()]["x-permission"])


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_a_route_without_a_token_is_refused(served: Served, method: str, path: str) -> None:
    response = served.http().request(method, _filled(path))
    _assert_problem(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("role", [Role.CLIENT, Role.COMBINER])
def test_nodes_may_call_nothing_but_me(served: Served, role: Role) -> None:
    http = served.http(served.token(role, name=f"a-{role}"))
    assert http.get("/api/v1/me").json()["role"] == role
    for method, path in FOR_PEOPLE:
        _assert_problem(http.request(method, _filled(path)), 403)


@pytest.mark.parametrize(("method", "path"), OF_PROJECTS)
@pytest.mark.parametrize("asked", ["default", "no-such-project"])
def test_a_token_of_another_project_finds_nothing(
    served: Served, foreign: str, method: str, path: str, asked: str
) -> None:
    response = served.http(foreign).request(method, _filled(path, asked), json={})
    _assert_problem(response, 404)
    assert response.json()["detail"].replace(asked, "?") == (
        "oskar knows no project '?'; `hansa project list` shows those it knows"
    )


@pytest.mark.parametrize("path", ["/", "/api", "/api/v1", "/api/v1/openapi.json", "/docs", "/healthz/", "//healthz"])
def test_what_is_no_route_tells_strangers_nothing(served: Served, path: str) -> None:
    _assert_problem(served.http().get(path), 401)


@pytest.mark.parametrize(
    "path", ["default%2Fsessions", "default/../other/sessions", "%64efault/sessions", "DEFAULT/sessions"]
)
def test_a_disguised_project_is_still_another_project(served: Served, foreign: str, path: str) -> None:
    response = served.http(foreign).get(f"{served.url}/api/v1/projects/{path}")
    assert response.status_code in {404, 200}
    if response.status_code == 200:  # the client resolved the dots to our own project
        assert response.request.url.path == "/api/v1/projects/other/sessions"


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "Bearer x.y.z", "Bearer " + "x" * 9000, "Bearer é"])
def test_a_header_that_is_no_token_is_refused(served: Served, header: str) -> None:
    response = served.http().get("/api/v1/me", headers={"Authorization": header.encode()})
    _assert_problem(response, 401)


def test_a_revoked_token_is_refused_at_once(served: Served) -> None:
    admin = served.client()
    issued = admin.tokens.create("brief", "viewer")
    http = served.http(issued.token)
    assert http.get("/api/v1/me").status_code == 200
    assert admin.tokens.revoke(issued.record.id).revoked
    _assert_problem(http.get("/api/v1/me"), 401)


def test_tokens_are_listed_without_themselves(served: Served) -> None:
    admin = served.client()
    issued = admin.tokens.create("hidden", Role.CLIENT, expires_in=60)
    listed = served.http(served.token()).get("/api/v1/projects/default/tokens?limit=1000").text
    assert issued.record.id in listed
    assert issued.token not in listed


def test_models_of_another_project_are_not_there(served: Served, foreign: str) -> None:
    ours = served.client().models.upload({"secret": [1.0, 2.0]})
    theirs = served.http(foreign)
    base = "/api/v1/projects/other"
    for tail in ("", "/file", "/ancestors", "/descendants"):
        _assert_problem(theirs.get(f"{base}/models/{ours.id}{tail}"), 404)
    body = {"spec": {}, "seed_model": ours.id}
    _assert_problem(theirs.post(f"{base}/sessions", json=body), 404)
