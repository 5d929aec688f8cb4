"""Signing in at the Studio by an OpenID provider: there, and back to the page that was wanted."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Visit, visit
from openid_provider import CLIENT, SECRET, ScriptedProvider, scripted_provider
from playwright.sync_api import Browser, Route, expect
from servers import free_port, openid_server
from studied import Studied

IDA = {"sub": "248289761001", "preferred_username": "ida", "groups": ["ward"]}


class Known(Studied):
    """A server that an OpenID provider knows."""

    async def opened(self, port: int = 0) -> Any:
        return await super().opened(port or self.port)

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        super().__init__(folder)


def known(folder: Path, issuer: str, patch: pytest.MonkeyPatch) -> Known:
    port, secret = free_port(), folder / "secret"
    secret.write_text(SECRET)
    for name, value in {
        "ISSUER": issuer,
        "CLIENT_ID": CLIENT,
        "CLIENT_SECRET_FILE": str(secret),
        "REDIRECT": f"https://127.0.0.1:{port}/ui/",
        "CREATE": "true",
        "GROUPS": '{"ward": "default:viewer"}',
    }.items():
        patch.setenv(f"HANSA_OIDC_{name}", value)
    return Known(folder, port)


@pytest.fixture(scope="module")
def there() -> Iterator[ScriptedProvider]:
    with scripted_provider() as made:
        made.claims |= IDA
        yield made


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, there: ScriptedProvider) -> Iterator[Known]:
    with pytest.MonkeyPatch.context() as patch:
        made = known(tmp_path_factory.mktemp("openid"), there.issuer, patch)
    yield made
    made.close()


@pytest.fixture(scope="module")
def _stranger(browser: Browser, network: Known) -> Iterator[Visit]:
    with visit(browser, network.url) as made:
        yield made


@pytest.fixture
def stranger(_stranger: Visit) -> Visit:
    _stranger.forget()
    _stranger.arrive()
    return _stranger


def test_a_person_signs_in_at_a_real_provider_and_comes_back_to_the_page_that_they_wanted(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with openid_server(IDA) as issuer:
        network = known(tmp_path, issuer, monkeypatch)
        try:
            with visit(browser, network.url) as made:
                page = made.page
                page.goto(f"{network.url}/ui/p/default/clients?connected=true")
                expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
                button = page.get_by_role("button", name="Sign in with your organisation")
                expect(button).to_be_visible()
                made.flawless()
                button.click()
                page.locator("input[name=sub]").fill(str(IDA["sub"]))
                page.get_by_role("button", name=re.compile("Authorize")).first.click()
                expect(page.get_by_role("heading", name="Clients", exact=True)).to_be_visible()
                assert page.url == f"{network.url}/ui/p/default/clients?connected=true"
                expect(page.get_by_role("link", name="Account of ida")).to_be_visible()
                cookie = next(one for one in made.context.cookies() if "hansa" in one["name"])
                assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
                assert page.evaluate("sessionStorage.length") == 0
                made.wrong.clear()  # what the provider's own page has asked for, and said
                page.reload()
                made.still()
                made.sound()
        finally:
            network.close()


def test_who_is_refused_by_the_provider_is_told_and_may_try_again(stranger: Visit, network: Known) -> None:
    page = stranger.page
    page.route("**/authorize?*", lambda route: _answer(route, network, error="access_denied"))
    page.get_by_role("button", name="Sign in with your organisation").click()
    expect(page.get_by_role("alert")).to_contain_text("access_denied")
    assert page.url == f"{network.url}/ui/"
    page.unroute("**/authorize?*")
    page.get_by_role("button", name="Sign in with your organisation").click()
    expect(page.get_by_role("link", name="Account of ida")).to_be_visible()


def _answer(route: Route, network: Known, **said: str) -> None:
    """As a provider redirects."""
    state = re.search(r"[?&]state=([^&]+)", route.request.url)
    assert state is not None
    query = "&".join(f"{name}={value}" for name, value in {"state": state[1], **said}.items())
    route.fulfill(status=302, headers={"location": f"{network.url}/ui/?{query}"})


def test_at_another_address_than_the_provider_knows_one_is_sent_there_first(stranger: Visit, network: Known) -> None:
    stranger.page.goto(f"{network.url.replace('127.0.0.1', 'localhost')}/ui/")
    link = stranger.page.get_by_role("link", name="Sign in with your organisation")
    expect(link).to_have_attribute("href", f"{network.url}/ui/")
    stranger.page.goto(f"{network.url}/ui/")  # where the next one begins


def test_an_answer_that_this_browser_did_not_ask_for_signs_nobody_in(
    stranger: Visit, network: Known, there: ScriptedProvider
) -> None:
    """A link with somebody else's code would have its reader work in the sender's account."""
    stranger.page.goto(f"{network.url}/ui/?code=code-0&state=theirs&iss={there.issuer}")
    expect(stranger.page.get_by_role("alert")).to_contain_text("was not begun here")
    assert stranger.page.url == f"{network.url}/ui/"
    assert stranger.context.cookies() == []
    stranger.sound()


@pytest.mark.parametrize(
    "address", ["javascript:document.title='taken'", "http://evil.example/authorize", "data:text/html,x"]
)
def test_a_browser_is_sent_to_no_address_but_a_web_page_over_tls(stranger: Visit, network: Known, address: str) -> None:
    page = stranger.page
    begun = {"authorization_url": address, "state": "s" * 43, "expires_in": 600}
    page.route("**/api/v1/login/oidc", lambda route: route.fulfill(status=201, json=begun))
    page.get_by_role("button", name="Sign in with your organisation").click()
    expect(page.get_by_role("alert")).to_contain_text("nothing was opened")
    assert (page.url, page.title()) == (f"{network.url}/ui/", "Sign in · hansa Studio")
    stranger.sound()


ELSEWHERE = (
    "//evil.example/ui/",
    "https://evil.example/ui/",
    "javascript:alert(1)",
    "/api/v1/me",
    "\\\\evil.example",
    "/ui/../api/v1/me",
)
MODULE = "performance.getEntriesByType('resource').map(({ name }) => name).find((name) => name.endsWith('sign-on.js'))"


def test_who_is_signed_in_comes_back_to_the_studio_and_nowhere_else(stranger: Visit) -> None:
    """Of what a tab remembered to come back to; no address names it, but a page may not trust its storage either."""
    inside = f"async (back) => (await import({MODULE})).inside(back)"
    assert [stranger.page.evaluate(inside, back) for back in ELSEWHERE] == ["/ui/"] * len(ELSEWHERE)
    assert stranger.page.evaluate(inside, "/ui/p/x?tab=y") == "/ui/p/x?tab=y"
