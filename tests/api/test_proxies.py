"""Behind a proxy, logins are counted by the address that the proxy tells, and that nobody else can."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served


@pytest.fixture(params=[("proxy", "127.0.0.1"), ("proxy", "10.0.0.0/8"), ("off", "127.0.0.1")], ids=str)
def behind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("HANSA_TLS", request.param[0])
    monkeypatch.setenv("HANSA_PROXIES", request.param[1])
    made = Served(tmp_path)
    yield made
    made.close()


def test_only_a_trusted_proxy_says_where_a_login_comes_from(behind: Served, request: pytest.FixtureRequest) -> None:
    trusted = request.node.callspec.params["behind"] == ("proxy", "127.0.0.1")
    headers = {
        "X-Forwarded-For": "6.6.6.6, 192.0.2.7"
    }  # the first is what the caller made up, the last the proxy's own
    answer = behind.http().post("/api/v1/login", json={"name": "nobody", "password": "x"}, headers=headers)
    assert answer.status_code == 401
    (line,) = [
        line for line in behind.client(token=behind.admin()).audit.lines(installation=True) if line.action == "login"
    ]
    assert line.detail == ("192.0.2.7" if trusted else "127.0.0.1")
