"""A server that is killed while tabs watch: what they show has no gap and nothing twice."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import visit
from playwright.sync_api import Browser, Page, expect

from hansa.api.credentials import load_credentials
from hansa.api.encryption import client_context
from hansa.settings import environment_for_user_code


class Process:
    """`hansa up` as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts = self._start("0", "0")

    def _start(self, port: str, grpc_port: str) -> dict[str, Any]:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hansa.cli", "up", "--json", "--port", port, "--grpc-port", grpc_port,
             "--data", str(self.folder / "data")],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**environment_for_user_code(), "HANSA_CREDENTIALS": str(self.folder / "credentials.json")},
        )  # fmt: skip
        assert self.process.stdout is not None
        facts: dict[str, Any] = json.loads(self.process.stdout.readline())
        return facts

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def again(self) -> None:
        """On the same ports, with the same data."""
        self._start(self.facts["url"].rpartition(":")[2], self.facts["grpc_address"].rpartition(":")[2])

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        saved = load_credentials(self.folder / "credentials.json")
        assert saved is not None
        with httpx.Client(verify=client_context(saved.trust), trust_env=False) as http:
            headers = {"Authorization": f"Bearer {saved.token}"}
            return http.request(method, f"{saved.url}/api/v1{path}", headers=headers, json=body).json()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    yield made
    made.kill()


def _ids(page: Page) -> list[int]:
    return [int(str(line.get_attribute("data-event"))) for line in page.locator("[data-event]").all()]


def test_tabs_heal_without_a_gap_or_a_duplicate_when_the_server_is_killed(browser: Browser, up: Process) -> None:
    package = up.ask("POST", "/projects/default/apps/example")["id"]

    def simulate(rounds: int) -> None:
        spec = {"name": "digits", "rounds": rounds}
        up.ask("POST", "/projects/default/simulations", {"package": package, "spec": spec, "clients": 3})

    code = up.facts["studio"].partition("#code=")[2]
    with visit(browser, up.facts["url"], code) as made:
        made.expected = ("Failed to load resource", "ERR_CONNECTION_REFUSED")
        tabs = [made.page, made.watch(made.context.new_page())]
        for tab in tabs:
            tab.goto(f"{made.url}/ui/p/default/events")
            expect(tab.locator(".live")).to_have_attribute("data-state", "live")
        simulate(3)
        for tab in tabs:
            expect(tab.get_by_text("all 3 rounds are committed")).to_be_visible(timeout=30_000)
        up.kill()
        for tab in tabs:
            expect(tab.get_by_text(re.compile("The connection to the server was lost"))).to_be_visible()
        up.again()
        simulate(4)
        for tab in tabs:
            expect(tab.get_by_text("all 4 rounds are committed")).to_be_visible(timeout=60_000)
            expect(tab.locator(".banner")).to_have_count(0)
        stored = [one["id"] for one in up.ask("GET", "/projects/default/events?limit=200&sort=-id")["items"]]
        assert len(stored) > 14
        for tab in tabs:
            assert _ids(tab) == stored
        made.sound()
