"""A server that is killed while tabs watch: what they show has no gap and nothing twice."""

import asyncio
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import visit
from playwright.sync_api import Browser, Page, expect
from processes import Hansa, line_with
from servers import Gate, PostgresServer

from hansa.api.credentials import load_credentials
from hansa.api.encryption import client_context

TABS = 10
AWAY = ("Failed to load resource", "ERR_CONNECTION_REFUSED")
"""What a browser logs while nobody answers."""


@pytest.fixture
def hansa(tmp_path: Path) -> Iterator[Hansa]:
    made = Hansa(tmp_path)
    yield made
    made.end()


def _ask(hansa: Hansa, url: str, method: str, path: str, body: Any = None) -> Any:
    saved = load_credentials(hansa.folder / "credentials.json")
    assert saved is not None
    with httpx.Client(verify=client_context(saved.trust), trust_env=False, timeout=60) as http:
        answer = http.request(
            method, f"{url}/api/v1{path}", headers={"Authorization": f"Bearer {saved.token}"}, json=body
        )
        assert answer.is_success, answer.text
        return answer.json()


def _simulate(hansa: Hansa, url: str, rounds: int) -> None:
    package = _ask(hansa, url, "POST", "/projects/default/apps/example")["id"]
    spec = {"name": "digits", "rounds": rounds}
    _ask(hansa, url, "POST", "/projects/default/simulations", {"package": package, "spec": spec, "clients": 3})


def _ids(page: Page) -> list[int]:
    """Of the events that a page shows, from the top."""
    found: list[int] = page.locator("[data-event]").evaluate_all("(all) => all.map((one) => Number(one.dataset.event))")
    return found


def _shows(tabs: list[Page], text: str | re.Pattern[str]) -> None:
    for tab in tabs:
        expect(tab.get_by_text(text)).to_be_visible(timeout=60_000)


def _show_the_same(tabs: list[Page], stored: list[int]) -> None:
    for tab in tabs:
        expect(tab.locator(".banner")).to_have_count(0)
        assert _ids(tab) == stored


@contextmanager
def way(port: int) -> Iterator[Gate]:
    """An address that leads to a port, and later to another, as a load balancer does."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    gate = Gate(port)
    asyncio.run_coroutine_threadsafe(gate.open(), loop).result(10)
    try:
        yield gate
    finally:
        asyncio.run_coroutine_threadsafe(gate.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


@pytest.mark.slow
def test_ten_tabs_go_on_where_a_standby_takes_over_from_a_controller_that_was_killed(
    browser: Browser, hansa: Hansa, postgres: PostgresServer
) -> None:
    hansa.environment["HANSA_STORE"] = postgres.url(postgres.create_database())
    hansa.environment["HANSA_OBJECTS"] = str(hansa.folder / "objects")
    first = hansa.up("--data", hansa.folder / "first")
    shutil.copytree(hansa.folder / "first" / "keys", hansa.folder / "second" / "keys")
    standby = hansa.start(
        "up", "--json", "--port", 0, "--grpc-port", _port(first.join), "--data", hansa.folder / "second"
    )
    with way(_port(first.facts["url"])) as gate:
        url = f"https://127.0.0.1:{gate.port}"
        with visit(browser, url, first.facts["studio"].partition("#code=")[2]) as made:
            made.expected = AWAY
            page = made.open("admin/system")
            replicas = page.get_by_role("region", name="Replicas").locator("tbody tr")
            expect(replicas).to_have_count(2)
            expect(replicas.first).to_contain_text(f"process {first.process.pid} ")
            expect(replicas.last).to_contain_text("stands by")
            tabs = [page, *(made.watch(made.context.new_page()) for _ in range(TABS - 1))]
            for tab in tabs:
                tab.goto(f"{url}/ui/p/default/events")
                expect(tab.locator(".live")).to_have_attribute("data-state", "live")
            _simulate(hansa, url, 3)
            _shows(tabs, "all 3 rounds are committed")
            first.process.kill()
            _shows(tabs, re.compile("The connection to the server was lost"))
            gate.target = _port(json.loads(line_with(standby, "{"))["url"])
            _simulate(hansa, url, 4)
            _shows(tabs, "all 4 rounds are committed")
            stored = [
                one["id"] for one in _ask(hansa, url, "GET", "/projects/default/events?limit=200&sort=-id")["items"]
            ]
            assert len(stored) > 14
            _show_the_same(tabs, stored)
            made.open("admin/system")
            expect(replicas).to_have_count(1)
            expect(replicas.first).to_contain_text(f"process {standby.pid} ")
            made.sound()


@pytest.mark.slow
def test_tabs_heal_where_the_server_comes_back_to_its_address(browser: Browser, hansa: Hansa) -> None:
    data = ("--data", hansa.folder / "data")
    first = hansa.up(*data)
    url = first.facts["url"]
    with visit(browser, url, first.facts["studio"].partition("#code=")[2]) as made:
        made.expected = AWAY
        tabs = [made.page, made.watch(made.context.new_page())]
        for tab in tabs:
            tab.goto(f"{url}/ui/p/default/events")
            expect(tab.locator(".live")).to_have_attribute("data-state", "live")
        _simulate(hansa, url, 3)
        _shows(tabs, "all 3 rounds are committed")
        first.process.kill()
        _shows(tabs, re.compile("The connection to the server was lost"))
        again = hansa.start("up", "--json", "--port", _port(url), "--grpc-port", _port(first.join), *data)
        line_with(again, "{")
        _simulate(hansa, url, 4)
        _shows(tabs, "all 4 rounds are committed")
        stored = [one["id"] for one in _ask(hansa, url, "GET", "/projects/default/events?limit=200&sort=-id")["items"]]
        _show_the_same(tabs, stored)
        made.sound()
