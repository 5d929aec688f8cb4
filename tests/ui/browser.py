"""A real browser that notes what must not happen, and how to look at a page with axe."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    CDPSession,
    ConsoleMessage,
    Error,
    Page,
    Request,
    expect,
    sync_playwright,
)

__all__ = ["Visit", "chromium", "visit"]

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_OPTIONS = {"runOnly": RULES, "resultTypes": ["violations"], "selectors": False, "iframes": False, "preload": False}
"""Not one rule less: no places of what is right, no frames and no media, of which the Studio has none."""
_NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(
  `${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
"""
_TURN = """async (address) => {
  history.pushState(null, "", address);
  dispatchEvent(new PopStateEvent("popstate"));
  await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    program = shutil.which("chromium")
    if program is None:
        why = "Chromium is not installed (Debian: apt-get install chromium)"
        if os.environ.get("HANSA_REQUIRE_SERVERS"):  # noqa: TID251 - a test's own
            pytest.fail(why)
        pytest.skip(why)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--ignore-certificate-errors"]
        )
        yield browser
        browser.close()


@dataclass
class Visit:
    """Somebody's browser on one server, and what went wrong in it."""

    context: BrowserContext
    page: Page
    url: str
    wrong: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()
    """Parts of console messages that a test provokes."""
    _axe: tuple[CDPSession, int] | None = None
    """axe in a world of its own, as long as the page's document lives, and where that is."""

    def watch(self, page: Page) -> Page:
        """Note errors, warnings and requests to elsewhere."""
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.wrong.append(f"page error: {error}"))
        page.on("request", self._asked)
        return page

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not any(part in message.text for part in self.expected):
            self.wrong.append(f"console {message.type}: {message.text}")

    def _asked(self, request: Request) -> None:
        where = urlsplit(request.url)
        if where.scheme in {"http", "https", "ws", "wss"} and where.netloc != urlsplit(self.url).netloc:
            self.wrong.append(f"asked elsewhere: {request.url}")

    def open(self, path: str, *, theme: str = "light") -> Page:
        """Go to a page of the Studio, and wait until it has what it shows."""
        self.page.evaluate(f"localStorage.setItem('hansa.theme', '{theme}')")
        self.page.goto(f"{self.url}/ui/{path}")
        self.still()
        return self.page

    def turn_to(self, path: str, *, still: bool = True) -> Page:
        """Go to a page as the Studio's own links do, which loads nothing that is here already.

        still: wait until it has what it shows.
        """
        self.page.evaluate(_TURN, f"/ui/{path}")
        if still:
            self.still()
        return self.page

    def forget(self) -> None:
        """Be a stranger again: signed out, with nothing stored; but files that came once stay in the cache."""
        self.page.evaluate("localStorage.clear(); sessionStorage.clear()")
        self.page.goto("about:blank")  # whose page asks for nothing any more, without its cookies
        self.page.unroute_all()
        self.context.clear_cookies()
        self.wrong.clear()

    def arrive(self, code: str = "") -> None:
        """Come to the server's own address; code: that signs in."""
        self.page.goto(f"{self.url}/ui/" + (f"#code={code}" if code else ""))
        self.page.wait_for_selector("h1")
        if code:
            self.page.wait_for_selector("nav.nav")
            self.still()

    def still(self) -> None:
        """Wait until nothing is on its way."""
        expect(self.page.locator("main h1").first).to_be_attached()
        expect(self.page.locator("[aria-busy=true]")).to_have_count(0)

    def _evaluate(self, session: CDPSession, world: int, expression: str) -> Any:
        where = {"contextId": world, "awaitPromise": True, "returnByValue": True}
        return session.send("Runtime.evaluate", {"expression": expression} | where)["result"].get("value")

    def _with_axe(self) -> tuple[CDPSession, int]:
        """Bring axe to the page's document, once: past the page's own policy, which forbids to add a script."""
        if self._axe is not None:
            try:
                self._evaluate(*self._axe, "0")
            except Error:  # the document is gone, and axe with it
                self._axe[0].detach()
            else:
                return self._axe
        session = self.context.new_cdp_session(self.page)
        frame = session.send("Page.getFrameTree")["frameTree"]["frame"]["id"]
        world = session.send("Page.createIsolatedWorld", {"frameId": frame})["executionContextId"]
        self._evaluate(session, world, AXE + ";0")
        self._axe = session, world
        return self._axe

    def axe(self) -> list[str]:
        """What is wrong for who cannot see, point or tell colours apart; empty when nothing is."""
        run = f"axe.run(document, {json.dumps(_OPTIONS)}).then((found) => JSON.stringify(found.violations))"
        found = self._evaluate(*self._with_axe(), run)
        return [
            f"{rule['id']}: {node['html'][:160]} — {node['failureSummary'][:240]}"
            for rule in json.loads(found)
            for node in rule["nodes"]
        ]

    def sound(self) -> None:
        """Assert that nothing went wrong so far."""
        violations = self.page.evaluate("window.violations")
        assert not violations, violations
        assert not self.wrong, self.wrong

    def flawless(self) -> None:
        """Assert that nothing went wrong and that axe has nothing to say."""
        self.sound()
        found = self.axe()
        assert not found, "\n".join(found)

    def flawless_in_both_themes(self) -> None:
        """As `flawless`, in the theme that is shown and then in the other, which stays."""
        seen = []
        for turn in (False, True):
            if turn:
                self.page.locator("header.top button[aria-label$=' theme']").click()
            seen.append(self.page.evaluate("document.documentElement.dataset.theme"))
            self.flawless()
        assert set(seen) == {"light", "dark"}


@contextmanager
def visit(browser: Browser, url: str, code: str = "", *, width: int = 1440) -> Iterator[Visit]:
    """A browser of its own cookies; code: signs in by the link that `hansa up` prints."""
    context = browser.new_context(viewport={"width": width, "height": 900}, ignore_https_errors=True)
    context.set_default_timeout(20_000)
    context.add_init_script(_NOTE_VIOLATIONS)
    made = Visit(context, context.new_page(), url)
    made.watch(made.page)
    try:
        made.arrive(code)
        yield made
    finally:
        context.close()
