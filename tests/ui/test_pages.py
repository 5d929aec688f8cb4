"""The pages, in a real browser, on a network that trains."""

import re
from collections.abc import Callable

import httpx
import pytest
from browser import Visit
from cases import some
from places import PLACES
from playwright.sync_api import Route, expect
from studied import Studied

STATES = ("", "loading", "error", "forbidden")
"""Of the server: well, silent, failing, refusing. That of nothing to show is in `test_paths`."""
SAYS = {
    "loading": "main [aria-busy=true]",
    "error": "main [role=alert]:has-text('The disk is full')",
    "forbidden": "main .empty:has-text('This is not for your role')",
}
"""What a page that asks for something shows."""
ASKS_FOR_NOTHING = {"p/default/clients/join", "p/default/nowhere", "projects/new", "account"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("state", some(STATES, always=("", "error")), ids=lambda state: state or "loaded")
def test_a_page_is_without_a_fault_in_both_themes(visitor: Visit, studied: Studied, state: str, place: str) -> None:
    with studied.unwell_as(state):
        visitor.expected = ("Failed to load resource",) if state else ()
        if state or "?" in place:
            visitor.turn_to("p/default/nowhere")  # so that nothing is left of the page itself, or of its other tabs
        page = visitor.turn_to(studied.fill(place), still=state != "loading")
        if state and place not in ASKS_FOR_NOTHING:
            expect(page.locator(SAYS[state]).first).to_be_attached()
        visitor.flawless_in_both_themes()
        if not state:
            page.set_viewport_size({"width": 420, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.set_viewport_size({"width": 1440, "height": 900})
    visitor.expected = ()


SIGNING_IN: dict[str, Callable[[Route], None]] = {
    "loading": lambda _: None,
    "error": lambda route: route.fulfill(status=500, json={"title": "No", "status": 500, "detail": "The disk is full"}),
    "forbidden": lambda route: route.fulfill(status=403, json={"title": "No", "status": 403, "detail": "Not for you"}),
}


def _shown_in_both_themes(visitor: Visit) -> None:
    """Of a page that has no button for it: as the next visit with another theme would begin."""
    for theme in ("light", "dark"):
        visitor.page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        visitor.flawless()


def test_signing_in_is_without_a_fault_in_both_themes_whatever_the_server_says(visitor: Visit) -> None:
    visitor.forget()
    visitor.arrive()
    page = visitor.page
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    _shown_in_both_themes(visitor)
    page.get_by_role("button", name="Use a token instead").click()
    _shown_in_both_themes(visitor)
    visitor.expected = ("Failed to load resource",)
    for state in ("error", "forbidden", "loading"):
        page.route("**/api/v1/login/browser", SIGNING_IN[state])
        page.get_by_label("Token").fill("x")
        page.get_by_role("button", name="Sign in", exact=True).click()
        if state == "loading":
            expect(page.get_by_role("button", name="Signing in …")).to_be_disabled()
        else:
            expect(page.get_by_role("alert")).to_contain_text("The disk is full" if state == "error" else "Not for you")
        _shown_in_both_themes(visitor)
        page.unroute("**/api/v1/login/browser")
    visitor.expected = ()


def test_a_session_that_runs_is_seen_to_move(visitor: Visit, studied: Studied) -> None:
    session = studied.run(studied.nodes.create(studied.app, studied.spec(rounds=5, name="moving")))
    page = visitor.turn_to(f"p/default/sessions/{session.id}")
    expect(page.get_by_text("created", exact=True)).to_be_visible()
    page.get_by_role("button", name="Start").click()
    rounds = page.get_by_role("region", name="Rounds")
    rounds.get_by_role("button", name="Round").click()  # the oldest first
    expect(page.locator(".figures dd.value").first).to_have_text(re.compile(r"^5 / 5$"))
    expect(page.locator(".title .pill")).to_have_text("finished")
    expect(page.get_by_role("img", name=re.compile("Accuracy over 5 rounds"))).to_be_visible()
    expect(rounds.locator("tbody tr")).to_have_count(5)
    expect(rounds.get_by_role("columnheader", name="Round")).to_have_attribute("aria-sort", "ascending")
    page.get_by_role("link", name="Events").last.click()
    expect(page.locator("[data-event]").first).to_contain_text("all 5 rounds are committed")
    visitor.sound()


def test_a_link_signs_in_once_and_leaves_a_cookie_that_no_script_can_read(visitor: Visit, studied: Studied) -> None:
    code = studied.code()
    visitor.forget()
    visitor.arrive(code)
    assert "code" not in visitor.page.url
    cookie = visitor.context.cookies()[0]
    assert (cookie["name"], cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (
        "__Host-hansa", True, True, "Strict",
    )  # fmt: skip
    assert visitor.page.evaluate("document.cookie") == ""
    visitor.forget()
    visitor.expected = ("401",)
    visitor.page.goto(f"{studied.url}/ui/#code={code}")
    expect(visitor.page.get_by_role("alert")).to_contain_text("was used already")
    visitor.expected = ()


def test_who_signs_out_is_out(visitor: Visit, studied: Studied) -> None:
    visitor.forget()
    visitor.arrive(studied.code())
    visitor.turn_to("account")
    visitor.page.get_by_role("button", name="Sign out").click()
    expect(visitor.page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert visitor.context.cookies() == []
    visitor.flawless()


def test_a_file_is_kept_for_good_and_the_page_is_not(studied: Studied) -> None:
    http: httpx.Client = studied.http()
    page = http.get("/ui/p/default/sessions")
    assert page.headers["cache-control"] == "no-cache"
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    script = re.search(r'src="(/ui/[^"]+/js/app.js)"', page.text)
    assert script is not None
    file = http.get(script[1])
    assert file.headers["content-encoding"] == "gzip"
    assert "immutable" in file.headers["cache-control"]
    assert http.get("/").headers["location"] == "/ui/"
    assert http.get(script[1].replace("app.js", "none.js")).status_code == 404
    assert http.post("/ui/").status_code == 405
