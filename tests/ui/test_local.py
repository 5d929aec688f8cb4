"""Simulations in the Studio, while they go on and afterwards, without a server."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Visit, visit
from playwright.sync_api import Browser, expect
from processes import Hansa
from studied import APP

from hansa.errors import InputError
from hansa.experiments.sessions import find_records
from hansa.simulation import SimulationResult, simulate
from hansa.ui.local import LocalStudio


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("app") / "wards.py"
    path.write_text(APP)
    return path


@pytest.fixture(scope="module")
def opened() -> Iterator[LocalStudio]:
    with LocalStudio() as studio:
        yield studio


@pytest.fixture(scope="module")
def looker(browser: Browser, opened: LocalStudio) -> Iterator[Visit]:
    address, _, code = opened.link().partition("/ui/#code=")
    with visit(browser, address, code) as made:
        yield made


def simulated(app: Path, **settings: object) -> SimulationResult:
    return simulate(app, clients=4, rounds=3, progress=False, **settings)  # type: ignore[arg-type]


def test_a_simulation_is_seen_while_it_goes_on_with_nothing_to_press(
    looker: Visit, opened: LocalStudio, app: Path
) -> None:
    result = simulated(app, name="wards")
    with opened.follow(result.spec, 4, "inline") as followed:
        followed.round(result.rounds[0])
        page = looker.turn_to("p/simulations/sessions")
        page.get_by_role("link", name="wards").first.click()
        figure = page.locator(".figures dd.value").first
        expect(figure).to_have_text(re.compile(r"^1 / 3$"))
        expect(page.get_by_text(re.compile("simulated, inline"))).to_be_visible()
        for done in result.rounds[1:]:
            followed.round(done)
        expect(figure).to_have_text(re.compile(r"^3 / 3$"))
        assert page.get_by_role("button", name="Stop session").count() == 0
        followed.finished(result.model)
        expect(page.locator(".title .pill")).to_have_text("finished")
        with page.expect_download() as download:
            page.get_by_role("link", name="Model", exact=True).click()
        assert download.value.path().stat().st_size > 0
        page.get_by_role("link", name="Clients", exact=True).last.click()
        rows = page.get_by_role("region", name="Clients in the round").locator("tbody tr")
        expect(rows).to_have_count(4)
        expect(page.get_by_role("img", name=re.compile("^Update norms: ")).first).to_be_visible()
        looker.still()
        looker.flawless()


def test_one_that_raises_says_so(looker: Visit, opened: LocalStudio, app: Path) -> None:
    result = simulated(app, name="broken")

    def broken() -> None:
        with opened.follow(result.spec, 4, "inline") as followed:
            followed.round(result.rounds[0])
            raise InputError("the disk is full")

    with pytest.raises(InputError):
        broken()
    page = looker.turn_to("p/simulations/sessions")
    page.get_by_role("link", name="broken").first.click()
    expect(page.get_by_text("InputError: the disk is full")).to_be_visible()
    looker.sound()


def test_records_are_shown_once_each(opened: LocalStudio, app: Path, tmp_path: Path) -> None:
    simulated(app).save_record(tmp_path / "one")
    simulated(app, seed=1).save_record(tmp_path / "two")
    records = find_records([tmp_path])
    assert opened.show(records) == 2
    assert opened.show(records) == 0


def test_the_commands_print_a_link_and_end_on_ctrl_c(app: Path, tmp_path: Path) -> None:
    hansa = Hansa(tmp_path)
    browser, started = tmp_path / "browser", tmp_path / "started"
    browser.write_text(f'#!/bin/sh\necho "$@" >{started}\n')
    browser.chmod(0o700)
    hansa.environment["BROWSER"] = str(browser)
    try:
        simulating = hansa.start(
            "simulate", app, "--clients", 3, "--rounds", 2, "--studio", "--json", "--record", tmp_path / "record"
        )
        told = [json.loads(simulating.stdout.readline()) for _ in range(4)]
        assert re.match(r"http://127\.0\.0\.1:\d+/ui/#code=", told[0]["studio"])
        page = Path(started.read_text().strip().removeprefix("file://"))  # its arguments, which all can read: no code
        assert page.stat().st_mode & 0o777 == 0o600
        assert f'href="{told[0]["studio"]}"' in page.read_text()
        assert told[-1]["rounds"] == 2
        assert interrupted(simulating) == 130

        showing = hansa.start("studio", tmp_path, "--json", "--no-browser")
        assert json.loads(showing.stdout.readline())["simulations"] == 1
        assert interrupted(showing) == 130

        nothing = hansa.run("studio", app.parent, "--json")
        assert nothing.returncode == 1
        assert "no record of a simulation" in nothing.stderr
    finally:
        hansa.end()


def interrupted(process: "subprocess.Popen[str]") -> int:
    process.terminate()
    return process.wait(60)
