"""Requests that the OpenAPI document allows, and many that it does not: none makes the server fail."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served import Served

from hansa.api.server import openapi
from hansa.wire.frames import Role


def _without_security(document: dict[str, Any]) -> dict[str, Any]:
    """The document of which schemathesis does not make tokens of its own: test_guard tries those."""
    del document["components"]["securitySchemes"]
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)
    return document


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

schema = schemathesis.openapi.from_dict(_without_security(openapi())).exclude(path_regex="/(stream|logout)$")
bounded = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        yield made


def call(served: Served, session: requests.Session, token: str, case: schemathesis.Case) -> requests.Response:
    """Send a request, in the project that the token is for, and check that the answer is one that is documented."""
    if "project" in case.path_parameters:
        case.path_parameters["project"] = "default"
    headers = {"Authorization": f"Bearer {token}"}
    believed = str(served.folder / "controller" / "keys" / "authority.crt")
    return case.call_and_validate(base_url=served.url, headers=headers, session=session, checks=CHECKS, verify=believed)


@schema.parametrize()
@settings(bounded, max_examples=5)
def test_no_request_of_a_site_administrator_makes_the_server_fail(
    served: Served, session: requests.Session, admin: str, case: schemathesis.Case
) -> None:
    call(served, session, admin, case)


@schema.parametrize()
@settings(bounded, max_examples=1)
def test_every_request_of_a_client_is_refused(
    served: Served, session: requests.Session, node: str, case: schemathesis.Case
) -> None:
    answered = call(served, session, node, case).status_code
    assert answered == 403 or case.path in {"/api/v1/me", "/healthz"} or case.path.startswith("/api/v1/login")


@pytest.fixture(scope="module")
def node(served: Served) -> str:
    """A data owner's token for the module's server."""
    return served.token(Role.CLIENT, name="ward")
