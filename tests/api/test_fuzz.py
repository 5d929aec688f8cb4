"""Requests that the OpenAPI document allows, and many that it does not: as everybody, none makes the server fail.

Of another project nobody learns a word, and nothing there changes.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings, strategies
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served import Served
from untouched import TOLD, rows, tables

from hansa.api.permissions import Permission
from hansa.api.server import openapi
from hansa.store.records import ProjectRole
from hansa.wire.frames import Role


def _without_security() -> dict[str, Any]:
    """The document of which schemathesis does not make tokens of its own: test_guard tries those."""
    document = deepcopy(openapi())
    del document["components"]["securitySchemes"]
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)
    return document


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SECRET = "xylographer"  # noqa: S105 - a word that is nowhere but in what is theirs
THEIRS = f"{SECRET}-project"
OPEN = {
    (method.upper(), path)
    for path, operations in openapi()["paths"].items()
    for method, operation in operations.items()
    if operation["x-permission"] == Permission.STRANGERS
}


def _operations() -> dict[str, APIOperation]:
    schema = schemathesis.openapi.from_dict(_without_security()).exclude(path_regex=NEVER_DRAWN)
    return {made.ok().label: made.ok() for made in schema.get_all_operations()}


NEVER_DRAWN = "/(stream|logout)$"
OPERATIONS = _operations()
of_everything = pytest.mark.parametrize("operation", OPERATIONS)
of_projects = pytest.mark.parametrize("operation", [label for label in OPERATIONS if "{project}" in label])
draws = given(data=strategies.data())
bounded = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """Of a connection that is kept; a browser's login of one request is in no other."""
    with requests.Session() as made:
        made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        yield made


def drawn(operation: str, data: strategies.DataObject) -> schemathesis.Case:
    return data.draw(OPERATIONS[operation].as_strategy())


def call(
    served: Served, session: requests.Session, token: str, case: schemathesis.Case, project: str = "default"
) -> requests.Response:
    """Send a request about this project, and check that the answer is one that is documented."""
    if "project" in case.path_parameters:
        case.path_parameters["project"] = project
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return case.call_and_validate(
        base_url=served.url, headers=headers, session=session, checks=CHECKS, verify=served.believed
    )


@of_everything
@settings(bounded, max_examples=4)
@draws
def test_no_request_of_a_site_administrator_makes_the_server_fail(
    served: Served, session: requests.Session, admin: str, operation: str, data: strategies.DataObject
) -> None:
    call(served, session, admin, drawn(operation, data))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_request_at_the_boundaries_of_a_parameter_makes_the_server_fail(
    served: Served, admin: str, tmp_path: Path
) -> None:
    """Each kind of value that is just within or just without, of every parameter, which takes minutes."""
    document = _without_security()
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "project":
                    parameter["schema"] = {"type": "string", "enum": ["default"]}
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    command = [str(Path(sys.executable).with_name("st")), "run", str(tmp_path / "openapi.json"), "--url", served.url]
    command += ["--header", f"Authorization: Bearer {admin}", "--tls-verify", served.believed, "--no-color"]
    command += ["--phases", "coverage", "--checks", ",".join(check.__name__ for check in CHECKS)]
    command += ["--exclude-path-regex", NEVER_DRAWN, "--generation-deterministic", "--warnings", "off"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (ran.returncode, f"✅ {len(OPERATIONS)} passed" in ran.stdout) == (0, True), ran.stdout


@of_everything
@settings(bounded, max_examples=1)
@draws
def test_every_request_of_a_client_is_refused(
    served: Served, session: requests.Session, node: str, operation: str, data: strategies.DataObject
) -> None:
    case = drawn(operation, data)
    answered = call(served, session, node, case).status_code
    assert answered == 403 or case.path in {"/api/v1/me", "/healthz"} or case.path.startswith("/api/v1/login")


@pytest.fixture(scope="module")
def node(served: Served) -> str:
    """A data owner's token for the module's server."""
    return served.token(Role.CLIENT, name="ward")


# ── and of everybody else ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Theirs:
    """Another project on the same server, with something of every kind."""

    kept: Path
    ids: frozenset[str]
    """What is there is called so, and nothing else is."""
    strangers: str
    """A token of the owner of the project `default`, without bounds."""
    viewer: str
    """Of a viewer there."""

    def but_tokens_of(self, account: str) -> dict[str, object]:
        """Every table, without the tokens that a person may make for themselves."""
        others = [row for row in rows(self.kept, "tokens") if account not in row]
        return {**tables(self.kept, but=TOLD | {"tokens"}), "tokens": others}

    def state(self) -> tuple[list[tuple[object, ...]], ...]:
        """Every row of theirs, but for what only tells what happened."""
        names = [name for name in tables(self.kept) if name != "objects" and name not in TOLD]
        return tuple([row for row in rows(self.kept, name) if THEIRS in row or SECRET in str(row)] for name in names)

    def known_in(self, text: str) -> list[str]:
        return [word for word in (SECRET, *self.ids) if word in text]


@pytest.fixture(scope="module")
def theirs(served: Served) -> Theirs:
    served.run(served.server.controller.create_project(THEIRS))
    owner_token = served.token(ProjectRole.OWNER, THEIRS, f"{SECRET}-owner")
    owner = served.client(THEIRS, owner_token)
    model = owner.models.upload({SECRET: [1.0, 2.0]})
    body = {"spec": {"name": f"{SECRET}-run"}, "seed_model": model.id}
    made = served.http(owner_token).post(f"/api/v1/projects/{THEIRS}/sessions", json=body)
    assert made.status_code in {200, 201}, made.text
    token = owner.tokens.create(f"{SECRET}-ward", Role.CLIENT)
    served.token(Role.CLIENT, THEIRS, f"{SECRET}-node")
    served.token(ProjectRole.OWNER, name="olga")
    served.token(ProjectRole.VIEWER, name="vera")
    return Theirs(
        served.folder / "controller",
        frozenset({model.id, made.json()["id"], token.record.id}),
        served.person("olga"),
        served.person("vera"),
    )


@of_everything
@settings(bounded, max_examples=2)
@draws
def test_every_request_of_nobody_is_refused_where_it_is_not_open_to_all(
    served: Served, session: requests.Session, theirs: Theirs, operation: str, data: strategies.DataObject
) -> None:
    case = drawn(operation, data)
    answered = call(served, session, "", case, THEIRS)
    assert answered.status_code == 401 or (case.method.upper(), case.path) in OPEN
    assert theirs.known_in(answered.text.replace(THEIRS, "")) == []


@of_everything
@settings(bounded, max_examples=2)
@draws
def test_a_viewer_changes_nothing_but_tokens_of_their_own_and_hears_of_no_other_project(
    served: Served, session: requests.Session, theirs: Theirs, operation: str, data: strategies.DataObject
) -> None:
    case = drawn(operation, data)
    before = theirs.but_tokens_of("vera")
    answered = call(served, session, theirs.viewer, case)
    assert theirs.but_tokens_of("vera") == before
    assert theirs.known_in(answered.text) == []


@of_everything
@settings(bounded, max_examples=2)
@draws
def test_an_owner_hears_of_no_other_project_and_the_server_does_not_fail(
    served: Served, session: requests.Session, theirs: Theirs, operation: str, data: strategies.DataObject
) -> None:
    case = drawn(operation, data)
    before = theirs.state()
    assert theirs.known_in(call(served, session, theirs.strangers, case).text) == []
    assert theirs.state() == before


@of_projects
@settings(bounded, max_examples=2)
@draws
def test_an_owner_of_another_project_finds_nothing_and_changes_nothing(
    served: Served, session: requests.Session, theirs: Theirs, operation: str, data: strategies.DataObject
) -> None:
    """With ids that there are, where the path has one: their names do not help."""
    case = drawn(operation, data)
    for name, value in zip(("session", "model", "token"), sorted(theirs.ids), strict=False):
        if name in case.path_parameters:
            case.path_parameters[name] = value
    before = theirs.state()
    answered = call(served, session, theirs.strangers, case, THEIRS)
    assert answered.status_code == 404
    asked = {THEIRS, *map(str, case.path_parameters.values())}
    said = answered.text
    for word in sorted(asked, key=len, reverse=True):
        said = said.replace(word, "")
    assert theirs.known_in(said) == []
    assert theirs.state() == before


def test_what_is_theirs_is_there_for_them(served: Served, theirs: Theirs) -> None:
    """Else the tests before this one would have found nothing of nothing."""
    http = served.http(served.person(f"{SECRET}-owner"))
    seen = "".join(
        http.get(f"/api/v1/projects/{THEIRS}/{what}").text for what in ("sessions", "models", "tokens", "members")
    )
    assert set(theirs.known_in(seen)) == {SECRET, *theirs.ids}
    assert sum(map(len, theirs.state())) >= 6
