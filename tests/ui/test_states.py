"""Every page while it loads, where there is nothing, where the server fails and where one may not look."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Visit, visit
from places import PLACES
from playwright.sync_api import Browser, Route, expect
from studied import Studied

SOME = ("p/default/sessions/{session}", "p/default/network", "p/default/clients")
STATES = ("error", "forbidden", "loading")


def _shown(made: Visit, studied: Studied, place: str, state: str, *, whole: bool = True) -> None:
    """whole: whether all is looked at in the dark theme too, and not its colours alone."""
    made.expected = ("Failed to load resource",)
    page = made.page
    studied.unwell.state = state
    try:
        page.goto(f"{studied.url}/ui/{studied.fill(place)}")
        expect(page.locator("main h1, main [aria-busy=true]").first).to_be_attached()
        if state != "loading":
            made.still()
        made.flawless()
        page.get_by_role("button", name="Dark theme").click()
        made.flawless(colours=not whole)
        page.get_by_role("button", name="Light theme").click()
    finally:
        page.evaluate("window.stop()")  # what is asked for and never answered would keep its connections
        studied.unwell.state = ""
        made.expected = ()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("place", SOME)
def test_a_page_in_another_state_is_without_a_fault(visitor: Visit, studied: Studied, place: str, state: str) -> None:
    _shown(visitor, studied, place, state, whole=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_page_is_without_a_fault_in_both_themes(visitor: Visit, studied: Studied) -> None:
    for place in PLACES:
        for theme in ("dark", "light"):  # the light one is left to whoever comes next
            visitor.open(studied.fill(place), theme=theme)
            visitor.flawless()


def _refuse(status: int) -> Callable[[Route], None]:
    told = json.dumps({"title": "Not now", "status": status, "detail": "Not now, says the test."})
    return lambda route: route.fulfill(status=status, content_type="application/problem+json", body=told)


SIGNING_IN: dict[str, Callable[[Route], None]] = {
    "error": _refuse(500), "forbidden": _refuse(403), "loading": lambda _: None,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_signing_in_is_without_a_fault_whatever_the_server_says(browser: Browser, studied: Studied, theme: str) -> None:
    with visit(browser, studied.url) as made:
        made.page.evaluate(f"localStorage.setItem('hansa.theme', '{theme}')")
        made.page.reload()
        expect(made.page.get_by_role("heading", name="Sign in")).to_be_visible()
        made.flawless()
        made.page.get_by_role("button", name="Use a token instead").click()
        made.flawless()
        made.expected = ("Failed to load resource",)
        for state in STATES:
            made.context.route("**/api/v1/login/browser", SIGNING_IN[state])
            made.page.get_by_label("Token").fill("x")
            made.page.get_by_role("button", name="Sign in", exact=True).click()
            if state == "loading":
                expect(made.page.get_by_role("button", name="Signing in …")).to_be_disabled()
            else:
                expect(made.page.get_by_role("alert")).to_contain_text("says the test")
            made.flawless()
            made.context.unroute("**/api/v1/login/browser")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("state", STATES)
def test_every_page_in_another_state_is_without_a_fault(visitor: Visit, studied: Studied, state: str) -> None:
    for place in PLACES:
        _shown(visitor, studied, place, state)


@pytest.fixture
def nothing(browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    studied = Studied(tmp_path)
    with visit(browser, studied.url, studied.code()) as made:
        yield made
    studied.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_page_of_an_empty_project_is_without_a_fault(nothing: Visit) -> None:
    nothing.expected = ("404",)
    for place in PLACES:
        for theme in ("light", "dark"):
            nothing.open(place.format(session="none", other="none", model="none", package="none"), theme=theme)
            nothing.flawless()
