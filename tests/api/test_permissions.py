"""Who may do what: every route × every role × own and foreign project, through a real server with a real store."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import pytest
from fastapi import APIRouter
from served import Served
from starlette.routing import Route

from hansa.api.client import Client
from hansa.api.guard import Routes, permission_of
from hansa.api.permissions import ROLES, Permission, allows, covered
from hansa.api.server import _Nobody, create_app
from hansa.errors import ConflictError, NotFoundError, PermissionDeniedError
from hansa.store.records import ProjectRole
from hansa.wire.frames import Role

APP = create_app(cast("Any", _Nobody()))
IDS = {"session": "5d41402abc4b", "number": "1", "model": "0" * 64, "package": "0" * 64}


class Asked(NamedTuple):
    method: str
    path: str
    needs: Permission


def _routes() -> Iterator[Asked]:
    for route in cast("list[Route]", APP.routes):
        for method in sorted((route.methods or set()) - {"HEAD"}):
            yield Asked(method, route.path, permission_of(route))


WALK = sorted(_routes())
OF_PROJECTS = [asked for asked in WALK if "{project}" in asked.path]
LOGOUT = "/api/v1/logout"
"""Whoever walks here is gone afterwards: it has a test of its own."""
ELSEWHERE = [asked for asked in WALK if "{project}" not in asked.path and asked.path != LOGOUT]


def test_every_route_names_a_permission_and_every_permission_has_a_route() -> None:
    assert len(WALK) > 50
    assert {asked.needs for asked in WALK} == set(Permission) == set(ROLES)


def test_a_route_without_a_permission_cannot_be_made() -> None:
    router = APIRouter()
    with pytest.raises(TypeError):
        Routes(router).add(path="/open", endpoint=lambda: None)  # type: ignore[call-arg]
    router.add_api_route("/open", lambda: None)
    with pytest.raises(LookupError, match="'/open' names no permission"):
        permission_of(router.routes[0])


@pytest.fixture(scope="module")
def tokens(served: Served) -> dict[str, str]:
    """Who → their token, without bounds but for the nodes'. All are of project `default` but for the strangers."""
    served.run(served.server.controller.create_project("other"))
    made = {role.value: served.token(role, name=f"a-{role}") for role in (Role.CLIENT, Role.COMBINER)}
    for role in ProjectRole:
        served.token(role, name=role.value)
        made[role.value] = served.person(role.value)
    made["nobody's member"] = served.person("newcomer")
    made["member of another"] = served.token(ProjectRole.OWNER, "other", "oskar")
    made["admin"] = served.admin()
    made["bounded admin"] = served.run(
        served.server.controller.people.issue("root", called="t", project="default", bound=ProjectRole.VIEWER)
    )[0]
    return made


def _status(served: Served, token: str, asked: Asked, project: str = "default") -> int:
    """What a request that every route refuses for its content is answered, when it is not refused for its sender."""
    ids = IDS | {"project": project}
    path = re.sub(r"\{(\w+)\}", lambda match: ids.get(match[1], "nothing"), asked.path)
    http = served.http(token)
    if path.endswith("/stream"):  # it would never end
        path += "?after=-1"
    return http.request(asked.method, path, content=b"{" if asked.method in {"POST", "PUT"} else None).status_code


@pytest.mark.parametrize("asked", OF_PROJECTS, ids=lambda asked: f"{asked.method} {asked.path[8:]}")
def test_who_may_in_a_project_and_who_may_not(served: Served, tokens: dict[str, str], asked: Asked) -> None:
    for role in ProjectRole:
        answered = _status(served, tokens[role.value], asked)
        assert (answered != 403) == (role in ROLES[asked.needs]), (role, answered)
        assert answered != 401
        assert _status(served, tokens[role.value], asked, "other") == 404
        assert _status(served, tokens[role.value], asked, "no-such-project") == 404
    assert _status(served, tokens["admin"], asked) not in {401, 403}
    assert _status(served, tokens["admin"], asked, "no-such-project") == 404
    assert (_status(served, tokens["bounded admin"], asked) != 403) == (ProjectRole.VIEWER in ROLES[asked.needs])
    assert _status(served, tokens["bounded admin"], asked, "other") == 404
    assert _status(served, tokens["nobody's member"], asked) == 404
    assert _status(served, tokens["member of another"], asked) == 404
    assert _status(served, tokens["client"], asked) == 403
    assert _status(served, tokens["combiner"], asked) == 403
    assert _status(served, "", asked) == 401


@pytest.mark.parametrize("asked", ELSEWHERE, ids=lambda asked: f"{asked.method} {asked.path}")
def test_who_may_outside_of_projects_and_who_may_not(served: Served, tokens: dict[str, str], asked: Asked) -> None:
    if asked.needs is Permission.STRANGERS:
        assert _status(served, "", asked) not in {401, 403}
        return
    for who, token in tokens.items():
        role = Role(who) if who in {"client", "combiner"} else Role.PERSON
        assert (_status(served, token, asked) != 403) == (who == "admin" or role in ROLES[asked.needs]), who
    assert _status(served, "", asked) == 401


def test_every_person_may_log_out_and_no_node(served: Served, tokens: dict[str, str]) -> None:
    assert Asked("POST", LOGOUT, Permission.USE_SERVER) in WALK
    for who in ("owner", "viewer", "newcomer", "root"):
        token = served.person(who)
        assert served.http(token).post(LOGOUT).status_code == 204
        assert served.http(token).get("/api/v1/me").status_code == 401
    for who in ("client", "combiner"):
        assert served.http(tokens[who]).post(LOGOUT).status_code == 403
    assert served.http().post(LOGOUT).status_code == 401


def test_a_refusal_says_what_is_needed(served: Served, tokens: dict[str, str]) -> None:
    answer = served.http(tokens["viewer"]).post("/api/v1/projects/default/prune", json={})
    assert answer.json()["detail"] == (
        "viewer (viewer) may not delete sessions, predictions, models and packages, and prune in project default; this "
        "needs one of: owner, maintainer, site administrator"
    )


def test_each_of_several_roles_must_allow() -> None:
    assert allows(Permission.RUN, [ProjectRole.OWNER, ProjectRole.DATA_SCIENTIST])
    assert not allows(Permission.RUN, [ProjectRole.OWNER, ProjectRole.VIEWER])
    assert not allows(Permission.READ, [])


def test_nobody_hands_on_more_than_they_have() -> None:
    assert covered(ProjectRole.VIEWER, [ProjectRole.AUDITOR])
    assert not covered(ProjectRole.AUDITOR, [ProjectRole.DATA_SCIENTIST])
    assert not covered(ProjectRole.OWNER, [ProjectRole.OWNER, ProjectRole.VIEWER])


# ── people come and go ───────────────────────────────────────────────────────────────────────────────────────────────


def _member(served: Served, name: str, role: ProjectRole) -> Client:
    served.token(role, name=name)
    return served.client(token=served.person(name))


def test_a_removed_member_is_out_at_once_with_every_token(served: Served) -> None:
    owner, gone = served.client(), _member(served, "gone", ProjectRole.MAINTAINER)
    program = served.client(token=gone.tokens.create("nightly", "viewer").token)
    assert gone.sessions.list().total == program.sessions.list().total
    owner.members.remove("gone")
    for client in (gone, program):
        with pytest.raises(NotFoundError if client is gone else Exception, match="gone"):
            client.sessions.list()
    owner.members.add("gone", "viewer")
    assert gone.members.list()
    with pytest.raises(Exception, match="revoked"):
        program.me()
    assert "gone" in {member.id for member in owner.members.list(limit=1000)}


def test_a_demoted_member_may_less_at_once_with_every_token(served: Served) -> None:
    owner, member = served.client(), _member(served, "demoted", ProjectRole.MAINTAINER)
    program = served.client(token=member.tokens.create("nightly", "maintainer").token)
    assert program.tokens.list()
    owner.members.add("demoted", "viewer")
    for client in (member, program):
        with pytest.raises(PermissionDeniedError, match="demoted"):
            client.tokens.list()
    with pytest.raises(PermissionDeniedError, match="cannot make a token of the role auditor"):
        member.tokens.create("more", "auditor")


def test_a_disabled_user_is_out_at_once_and_former_tokens_hold_no_more(served: Served) -> None:
    root, member = served.client(token=served.admin()), _member(served, "ill", ProjectRole.VIEWER)
    assert member.members.list()
    assert root.users.disable("ill").disabled
    with pytest.raises(Exception, match=r"revoked|acts for nobody"):
        member.me()
    assert not root.users.enable("ill").disabled
    with pytest.raises(Exception, match=r"revoked|acts for nobody"):
        member.me()
    assert served.client(token=served.person("ill")).members.list()


def test_the_last_site_administrator_cannot_be_disabled(fresh: Served) -> None:
    root = fresh.client(token=fresh.admin())
    with pytest.raises(ConflictError, match="root is the last site administrator"):
        root.users.disable("root")
    root.users.create("second", admin=True)
    assert root.users.disable("second").disabled


def test_one_revokes_ones_own_tokens_and_nobody_elses(served: Served) -> None:
    ann, bob = _member(served, "ann", ProjectRole.VIEWER), _member(served, "bob", ProjectRole.VIEWER)
    issued = ann.tokens.create("mine", "viewer")
    with pytest.raises(NotFoundError, match="bob has no token"):
        bob.tokens.revoke_mine(issued.record.id)
    assert issued.record.id in {token.id for token in ann.tokens.mine()}
    assert issued.record.id not in {token.id for token in bob.tokens.mine()}
    assert ann.tokens.revoke_mine(issued.record.id).revoked


def test_what_people_are_survives_a_restart(fresh: Served) -> None:
    owner = fresh.client()
    issued = owner.tokens.create("old", "viewer")
    owner.tokens.revoke(issued.record.id)
    holder = fresh.person("ada")
    fresh.restart()
    assert fresh.client(token=holder).me().roles == {"default": "owner"}
    with pytest.raises(Exception, match="revoked"):
        fresh.client(token=issued.token).me()
