"""`hansa login --oidc` as a process, with a real OpenID provider as another, and a browser that is redirected."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from openid_provider import CLIENT, SECRET, ScriptedProvider, scripted_provider
from served import Served
from servers import openid_server

from hansa.api.sign_on import DeviceLogin, log_in_by_browser, log_in_by_device
from hansa.errors import AuthenticationError, NotFoundError
from hansa.wire.authority import Authority

IDA: dict[str, Any] = {
    "sub": "248289761001",
    "preferred_username": "ida",
    "email": "ida@example.org",
    "groups": ["ward"],
}
BROWSER = """
import sys
import urllib.parse
import urllib.request

form = urllib.parse.urlencode({"sub": sys.argv[1]}).encode()
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
assert b"Authorize" in opener.open(sys.argv[2]).read()
print(opener.open(sys.argv[2], form).read().decode(), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with openid_server(IDA) as made:
        yield made


def _served(folder: Path, monkeypatch: pytest.MonkeyPatch, issuer: str, **settings: str) -> Iterator[Served]:
    monkeypatch.setenv("HANSA_OIDC_ISSUER", issuer)
    monkeypatch.setenv("HANSA_OIDC_CLIENT_ID", CLIENT)
    folder.mkdir(exist_ok=True)
    secret = folder / "secret"
    secret.write_text(f"{SECRET}\n")
    monkeypatch.setenv("HANSA_OIDC_CLIENT_SECRET_FILE", str(secret))
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    made = Served(folder)
    yield made
    made.close()


@pytest.fixture
def at_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, issuer: str) -> Iterator[Served]:
    yield from _served(tmp_path, monkeypatch, issuer)


@pytest.fixture
def open_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, issuer: str) -> Iterator[Served]:
    groups = json.dumps({"ward": "default:data-scientist"})
    yield from _served(tmp_path, monkeypatch, issuer, HANSA_OIDC_CREATE="true", HANSA_OIDC_GROUPS=groups)


@pytest.fixture
def there() -> Iterator[ScriptedProvider]:
    with scripted_provider() as made:
        yield made


@pytest.fixture
def at_scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: ScriptedProvider) -> Iterator[Served]:
    yield from _served(tmp_path, monkeypatch, there.issuer, HANSA_OIDC_CREATE="true")


def test_the_authorities_of_the_provider_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.new()
    file = tmp_path / "authority.pem"
    file.write_text(authority.certificate)
    redirect = {"redirect": "http://127.0.0.1:49152/callback", "challenge": "c" * 43}
    with scripted_provider(authority.certify(["127.0.0.1"])) as there:
        for believed, status in ((str(file), 201), ("", 503)):
            for served in _served(tmp_path / str(status), monkeypatch, there.issuer, HANSA_OIDC_CA=believed):
                assert served.http("").post("/api/v1/login/oidc", json=redirect).status_code == status


def _log_in(served: Served, folder: Path, who: str) -> "subprocess.CompletedProcess[str]":
    script = folder / "browser.py"
    script.write_text(BROWSER)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HANSA_")}  # noqa: TID251
    environment |= {
        "BROWSER": f"{sys.executable} {script} {who} %s",
        "HANSA_CREDENTIALS": str(folder / "credentials.json"),
        "HANSA_CA": served.server.fingerprint,
    }
    command = [sys.executable, "-m", "hansa.cli", "login", served.url, "--oidc", "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_from_a_login_that_is_refused_to_one_that_is_linked(at_real: Served, tmp_path: Path) -> None:
    refused = _log_in(at_real, tmp_path, IDA["sub"])
    assert refused.returncode != 0
    assert f"hansa user link NAME --subject {IDA['sub']}" in refused.stderr
    root = at_real.client(token=at_real.admin())
    assert root.users.create("dr-ida", subject=IDA["sub"]).subject is not None
    done = _log_in(at_real, tmp_path, IDA["sub"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "dr-ida"
    assert "close this window" in done.stderr
    saved = json.loads((tmp_path / "credentials.json").read_text())
    client = at_real.client(token=saved["token"])
    assert client.me().name == "dr-ida"
    told = [(line.actor, line.action, line.outcome) for line in root.audit.lines(installation=True)]
    assert ("root", "user.link", "done") in told
    assert told[-1] == ("dr-ida", "login.oidc", "done")
    assert (IDA["sub"], "login.oidc", "failed") in told
    assert root.users.unlink("dr-ida").subject is None
    with pytest.raises(AuthenticationError):
        client.me()
    assert _log_in(at_real, tmp_path, IDA["sub"]).returncode != 0


def test_accounts_and_roles_come_from_the_provider_where_it_is_set_so(open_to_all: Served, tmp_path: Path) -> None:
    done = _log_in(open_to_all, tmp_path, IDA["sub"])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["name"], told["roles"]) == ("ida", {"default": "data-scientist"})


def test_a_login_that_the_person_denies_is_told(at_scripted: Served) -> None:
    def deny(page: str) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(page).query).items()}
        came = urlencode({"error": "access_denied", "state": asked["state"]})
        httpx.get(f"{asked['redirect_uri']}?{came}", trust_env=False, timeout=60)

    with pytest.raises(AuthenticationError, match="access_denied"):
        log_in_by_browser(at_scripted.url, deny, at_scripted.server.trust)


def test_nothing_but_the_answer_of_this_login_is_taken(at_scripted: Served, there: ScriptedProvider) -> None:
    """Other pages know the port, and not the state."""
    seen = []

    def browse(page: str) -> None:
        with httpx.Client(trust_env=False, timeout=60) as browser:
            answer = browser.get(page).headers["location"]
            port = answer.partition("?")[0]
            seen.extend(
                browser.get(address).status_code
                for address in (port, f"{port}?code=evil&state=", f"{port}?code=evil&state=guessed&state=twice", answer)
            )

    issued = log_in_by_browser(at_scripted.url, browse, at_scripted.server.trust)
    assert issued.record.account == "ida"
    assert seen == [404, 404, 404, 200]
    assert there.asked.count("/token") == 1


def test_a_server_cannot_have_a_program_started(at_scripted: Served, there: ScriptedProvider) -> None:
    opened: list[str] = []
    there.document["authorization_endpoint"] = "file:///bin/sh"
    with pytest.raises(Exception, match="no https:// URL"):
        log_in_by_browser(at_scripted.url, opened.append, at_scripted.server.trust)
    assert opened == []


def test_a_login_on_another_device(at_scripted: Served, there: ScriptedProvider) -> None:
    there.approvals = ["authorization_pending"]
    shown: list[DeviceLogin] = []
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        threading.Event().wait(seconds)

    issued = log_in_by_device(at_scripted.url, shown.append, at_scripted.server.trust, pause)
    assert issued.record.account == "ida"
    assert [login.user_code for login in shown] == ["WDJB-MJHT"]
    assert len(waited) >= 2


def test_a_server_without_a_provider_says_so(fresh: Served) -> None:
    with pytest.raises(NotFoundError, match="knows no OpenID provider"):
        log_in_by_browser(fresh.url, print, fresh.server.trust)
    with pytest.raises(NotFoundError, match="knows no OpenID provider"):
        log_in_by_device(fresh.url, print, fresh.server.trust)
