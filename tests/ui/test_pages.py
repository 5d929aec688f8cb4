"""The pages, in a real browser, on a network that trains."""

import re

import httpx
import pytest
from browser import Visit
from places import PLACES
from playwright.sync_api import expect
from studied import Studied


@pytest.mark.parametrize("place", PLACES)
def test_a_page_is_without_a_fault_in_both_themes(visitor: Visit, studied: Studied, place: str) -> None:
    page = visitor.open(studied.fill(place))
    visitor.flawless()
    page.get_by_role("button", name="Dark theme").click()
    visitor.flawless(colours=True)
    page.set_viewport_size({"width": 420, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 1440, "height": 900})


def test_a_session_that_runs_is_seen_to_move(visitor: Visit, studied: Studied) -> None:
    session = studied.run(studied.nodes.create(studied.app, studied.spec(rounds=5, name="moving")))
    page = visitor.turn_to(f"p/default/sessions/{session.id}")
    expect(page.get_by_text("created", exact=True)).to_be_visible()
    page.get_by_role("button", name="Start").click()
    expect(page.locator(".figures dd.value").first).to_have_text(re.compile(r"^5 / 5$"))
    expect(page.locator(".title .pill")).to_have_text("finished")
    expect(page.get_by_role("img", name=re.compile("Accuracy over 5 rounds"))).to_be_visible()
    expect(page.get_by_role("region", name="Rounds").locator("tbody tr")).to_have_count(5)
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
