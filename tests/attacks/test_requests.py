"""More requests than a server takes from one caller, and requests of other sites' pages."""

import time
from types import SimpleNamespace

import pytest
from served import Served

from hansa.api import guard
from hansa.api.client import Client
from hansa.api.headers import is_foreign
from hansa.api.pacing import Pace
from hansa.api.server import ApiServer
from hansa.settings import Settings
from hansa.store.ports import Query
from hansa.store.records import SessionRecord


def test_a_caller_has_so_many_requests_at_once_and_then_so_many_in_a_second() -> None:
    pace = Pace(per_second=2.0, burst=3.0)
    assert [pace.wait("ada", 10.0) for _ in range(3)] == [0.0] * 3
    assert pace.wait("ada", 10.0) == pytest.approx(0.5)
    assert pace.wait("bob", 10.0) == 0.0
    assert pace.wait("ada", 10.25) == pytest.approx(0.25)
    assert pace.wait("ada", 10.5) == 0.0
    assert pace.wait("ada", 10.5) == pytest.approx(0.5)
    assert [pace.wait("ada", 1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(0.5)]


def test_ten_thousand_strangers_are_remembered_and_no_more() -> None:
    pace = Pace(1.0, 1.0)
    for number in range(30_000):
        pace.wait(str(number), 0.0)
    assert len(pace._left) == 10_000


class Busy(Served):
    """A server that takes half a request in a second of one caller, and five at once."""

    async def opened(self, port: int = 0) -> ApiServer:
        return await ApiServer.open(Settings(data=self.folder / "controller", port=port, grpc_port=0, request_rate=0.5))


def test_one_request_too_many_is_told_when_to_come_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    served = Busy(tmp_path_factory.mktemp("busy"))
    try:
        ada, bob = served.http(served.token(name="ada")), served.http(served.token(name="bob"))
        answers = [ada.get("/api/v1/me") for _ in range(8)]
        assert [answer.status_code for answer in answers][:5] == [200] * 5
        late = answers[-1]
        assert (late.status_code, late.json()["type"]) == (429, "urn:hansa:problem:throttled")
        assert 1 <= int(late.headers["retry-after"]) <= 2
        assert bob.get("/api/v1/me").status_code == 200
    finally:
        served.close()


def test_an_address_without_a_token_cannot_ask_for_ever(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger, now = served.http(), time.monotonic()
    monkeypatch.setattr(guard, "time", SimpleNamespace(monotonic=lambda: now))  # however long the requests take
    codes = {stranger.get("/healthz").status_code for _ in range(201)}
    assert codes == {200, 429}
    assert served.http(served.token()).get("/api/v1/me").status_code == 200


EXPECTED = {
    "content-security-policy": "default-src 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "strict-transport-security": "max-age=",
    "cache-control": "no-store",
}


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/me", "/api/v1/projects/default/sessions", "/nowhere"])
@pytest.mark.parametrize("who", ["ada", ""])
def test_every_answer_tells_browsers_to_keep_out(served: Served, path: str, who: str) -> None:
    answer = served.http(served.token(name=who) if who else "").get(path)
    for name, value in EXPECTED.items():
        assert value in answer.headers[name], (answer.status_code, name)
    assert "access-control-allow-origin" not in answer.headers
    assert "set-cookie" not in answer.headers
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
     {"Origin": "null"}],
    ids=str,
)  # fmt: skip
def test_a_page_of_another_site_can_change_nothing(served: Served, headers: dict[str, str]) -> None:
    http = served.http(served.token())
    body = {"name": "x", "spec": {}, "seed_model": "0" * 64}

    async def sessions() -> int:
        return (await served.server.controller.store.list(SessionRecord, Query("default"))).total

    before = served.run(sessions())
    answer = http.post("/api/v1/projects/default/sessions", json=body, headers=headers)
    assert answer.status_code == 403
    assert "page of another site" in answer.json()["detail"]
    assert served.run(sessions()) == before
    assert http.get("/api/v1/me", headers=headers).status_code == 200
    own = served.url.removeprefix("https://")
    same = http.post("/api/v1/projects/default/sessions", json={}, headers={"Origin": f"https://{own}"})
    assert same.status_code == 422


def test_behind_a_proxy_with_another_name_the_browser_itself_says_whose_page_it_is() -> None:
    def told(**headers: str) -> bool:
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return is_foreign({"type": "http", "method": "POST", "headers": [(b"host", b"inside:8470"), *raw]})

    own = "https://hansa.example.org"
    assert not told(origin=own, sec_fetch_site="same-origin")
    assert told(origin=own, sec_fetch_site="cross-site")
    assert told(origin=own)
    assert not told(origin="https://inside:8470")


def test_programs_say_nothing_of_origins_and_are_let_through(served: Served) -> None:
    client: Client = served.client()
    assert list(client.sessions.all()) == []
    scope = {"type": "http", "method": "POST", "headers": [(b"host", b"h")]}
    assert not is_foreign(scope)
