"""People over HTTP and from the command line: accounts, passwords, logging in and out."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served import Served
from typer.testing import CliRunner, Result

from hansa.api.client import log_in
from hansa.cli import app as commands
from hansa.errors import AuthenticationError, PermissionDeniedError, QuotaExceededError, ThrottledError

TYPED = "a password of ada's"
Command = Callable[..., Result]


@pytest.fixture
def root(served: Served, tmp_path: Path) -> Command:
    """`hansa ARGUMENTS` as a site administrator."""
    return _command(served, tmp_path / "root.json", HANSA_TOKEN=served.admin())


@pytest.fixture
def hansa(served: Served, tmp_path: Path) -> Iterator[Command]:
    """`hansa ARGUMENTS` of somebody who has no token but what they log in with."""
    return _command(served, tmp_path / "credentials.json")


def _command(served: Served, credentials: Path, **environment: str) -> Command:
    def run(*arguments: str, typed: str = "") -> Result:
        given = {
            "HANSA_URL": served.url,
            "HANSA_CA": served.server.fingerprint,
            "HANSA_CREDENTIALS": str(credentials),
            **environment,
        }
        return CliRunner().invoke(commands, arguments, input=typed, env=given)

    return run


def _made(root: Command, name: str, role: str = "viewer") -> None:
    assert root("user", "create", name, "--password-stdin", typed=f"{TYPED}\n").exit_code == 0
    assert root("project", "member", "add", name, "--role", role).exit_code == 0


def test_from_an_account_to_a_login_and_out(served: Served, root: Command, hansa: Command, tmp_path: Path) -> None:
    _made(root, "ida", "data-scientist")
    told = hansa("login", served.url, "--user", "ida", "--password-stdin", typed=f"{TYPED}\n")
    assert told.exit_code == 0, told.output
    assert "You are ida" in told.output
    assert "data-scientist in default" in told.output
    saved = tmp_path / "credentials.json"
    assert saved.stat().st_mode & 0o777 == 0o600
    token = json.loads(saved.read_text())["token"]
    assert hansa("session", "list").exit_code == 0
    assert hansa("token", "list").exit_code != 0
    assert hansa("logout").exit_code == 0
    assert not saved.exists()
    assert served.http(token).get("/api/v1/me").status_code == 401


def test_a_password_is_asked_for_twice_and_never_shown(root: Command, hansa: Command) -> None:
    asked = root("user", "create", "eva", typed=f"{TYPED}\n{TYPED}\n")
    assert asked.exit_code == 0, asked.output
    assert TYPED not in asked.output
    logged = hansa("login", "--user", "eva", typed=f"{TYPED}\n")
    assert "a member of no project yet" in logged.output
    assert TYPED not in logged.output


def test_ones_own_password_needs_the_current_one(served: Served, root: Command, hansa: Command) -> None:
    _made(root, "pia")
    hansa("login", "--user", "pia", "--password-stdin", typed=f"{TYPED}\n")
    wrong = hansa("user", "passwd", "--password-stdin", typed="not the password\nanother good one\n")
    assert wrong.exit_code != 0
    right = hansa("user", "passwd", "--password-stdin", typed=f"{TYPED}\nanother good one\n")
    assert right.exit_code == 0, right.output
    assert hansa("session", "list").exit_code == 0
    assert log_in(served.url, "pia", "another good one", served.server.trust).record.account == "pia"
    assert root("user", "passwd", "pia", "--password-stdin", typed="a third good one\n").exit_code == 0
    assert hansa("session", "list").exit_code != 0


def test_users_are_listed_without_their_hashes(served: Served, root: Command) -> None:
    _made(root, "lea")
    told = served.http(served.admin()).get("/api/v1/users?limit=1000").text
    assert '"lea"' in told
    assert "argon2" not in told
    assert "lea" in root("user", "list").output
    with pytest.raises(PermissionDeniedError, match="may not make users"):
        served.client().users.list()


def test_a_disabled_user_cannot_log_in(served: Served, root: Command) -> None:
    _made(root, "max")
    assert log_in(served.url, "max", TYPED, served.server.trust)
    assert root("user", "disable", "max").exit_code == 0
    with pytest.raises(AuthenticationError, match="or the account is disabled"):
        log_in(served.url, "max", TYPED, served.server.trust)
    assert root("user", "disable", "max", "--undo").exit_code == 0
    assert log_in(served.url, "max", TYPED, served.server.trust)


def test_too_many_attempts_are_answered_429(fresh: Served) -> None:
    for _ in range(5):
        with pytest.raises(AuthenticationError):
            log_in(fresh.url, "nobody", "whatever it is", fresh.server.trust)
    with pytest.raises(ThrottledError, match="too many attempts"):
        log_in(fresh.url, "nobody", "whatever it is", fresh.server.trust)
    answer = fresh.http().post("/api/v1/login", json={"name": "nobody", "password": "x"})
    assert (answer.status_code, answer.json()["type"]) == (429, "urn:hansa:problem:throttled")


def test_a_request_that_does_not_fit_is_answered_without_its_password(served: Served) -> None:
    body = {"name": "ada", "password": ["canary-password"], "more": "canary-password"}
    for answer in (
        served.http().post("/api/v1/login", json=body),
        served.http().post("/api/v1/login", json={"name": "ada", "password": "canary-password" * 100}),
    ):
        assert answer.status_code == 422
        assert "canary" not in answer.text


def test_quotas_are_set_by_site_administrators_and_shown_to_members(served: Served, root: Command) -> None:
    assert root("project", "create", "small").exit_code == 0
    done = root("project", "quota", "small", "--sessions", "1", "--storage", "10GB", "--clients", "0")
    assert done.exit_code == 0, done.output
    assert "0 B of 10 GB" in done.output
    shown = root("project", "show", "small").output
    assert "sessions  0 of 1\n" in shown
    owner = served.client("small")
    assert owner.projects.quota("small").storage.most == 10_000_000_000
    with pytest.raises(QuotaExceededError, match="hansa project quota small --clients"):
        owner.tokens.create("ward", "client")
    with pytest.raises(PermissionDeniedError, match="set quotas"):
        owner.projects.set_quota("small", clients=5)
    assert root("project", "quota", "small", "--clients", "default").exit_code == 0
    assert owner.projects.quota("small").sessions.most == 1
    assert owner.tokens.create("ward", "client")
