"""What hostile clients, links and pages try on whoever looks at the Studio."""

import csv
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import Visit, visit
from places import PLACES
from playwright.sync_api import Browser, expect
from studied import APP, Studied

from hansa.errors import ConfigError
from hansa.messages import RoundRules, RunSpec
from hansa.network.controller import controller
from hansa.store.records import SessionRecord
from hansa.wire import tokens
from hansa.wire.frames import Role

TAKEN = "document.title='taken'"
NAME = f"<script>{TAKEN}<"
IMAGE = f'"><img src=x onerror="{TAKEN}">'
FORMULA = "=HYPERLINK(A1)"
KEYS = ("", "__proto__", "constructor", "toString", "hasOwnProperty", IMAGE, FORMULA)
SAID = f"the ward is {IMAGE} \u202egnorw"
MANY = 200
HOSTILE = (
    APP.replace(
        'metrics={"loss": float(np.mean((target - w) ** 2))}',
        'metrics={"loss": float(np.mean((target - w) ** 2))} | extra(task)',
    )
    + f"""

def extra(task):
    if task.client.name != {NAME!r}:
        return {{}}
    if task.round == 2:
        raise RuntimeError({SAID!r})
    return dict.fromkeys({KEYS!r}, 0.5) | {{f"metric-{{k}}": float(k) for k in range({MANY})}}
"""
)


@contextmanager
def any_name() -> Iterator[None]:
    """Take away the rules for names: the pages may not lean on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "_NAME", re.compile(r"[^/\0]+"))
        patch.setattr(controller, "checked_name", lambda text, _: text)
        yield


class Beset(Studied):
    """A network one of whose clients is named, labelled and talks like markup."""

    session: SessionRecord

    def populate(self) -> None:
        """Two clients that join and train, where any name may be had."""
        path = self.folder / "hostile.py"
        path.write_text(HOSTILE)
        rules = RoundRules(min_clients=2, quorum=1, deadline=120, lease=60, replace_failed=False)
        with any_name():
            self.run(self.nodes.client(NAME, 0, 2, labels={IMAGE: IMAGE}))
            self.run(self.nodes.client("client-1", 1, 2))
            self.session = self.run(self.nodes.run(path, RunSpec(name="beset", rounds=3, rules=rules)))
            self.other = self.session

    def close(self) -> None:
        with any_name():
            super().close()


@pytest.fixture(scope="module")
def beset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beset]:
    made = Beset(tmp_path_factory.mktemp("beset"))
    made.populate()
    yield made
    made.close()


@pytest.fixture(scope="module")
def _looker(browser: Browser, beset: Beset) -> Iterator[Visit]:
    with visit(browser, beset.url, beset.code()) as made:
        yield made


@pytest.fixture
def looker(_looker: Visit) -> Visit:
    _looker.wrong.clear()
    return _looker


def _untaken(made: Visit) -> None:
    assert made.page.title() != "taken"
    assert made.page.locator("main script, main img, main iframe, main object").count() == 0
    made.sound()


def test_a_client_that_is_named_like_markup_joins_no_network(beset: Beset) -> None:
    with pytest.raises(ConfigError, match="cannot name a"):
        beset.run(beset.server.controller.issue_token("default", NAME, Role.CLIENT))


SHOWN = {
    "p/default/clients": (NAME, f"{IMAGE}={IMAGE}"),
    f"p/default/clients/{quote(NAME, safe='')}": (NAME, f"{IMAGE}={IMAGE}", SAID),
    "p/default/events": (NAME, SAID),
    "p/default/sessions/{session}": (IMAGE, FORMULA),
    "p/default/sessions/{session}?tab=clients": (IMAGE,),
    "p/default/sessions/{session}?tab=rejected": (NAME, SAID),
    "p/default/sessions/{session}?tab=events": (NAME, SAID),
    "p/default/models/{model}": (NAME,),
    "p/default/tokens": (NAME,),
    "admin/system": (NAME, SAID),
}
"""Pages, and what of it they show."""


@pytest.mark.parametrize("place", [*SHOWN, *(place for place in PLACES if place not in SHOWN)])
def test_a_client_that_is_named_like_markup_and_talks_like_it_is_text(looker: Visit, beset: Beset, place: str) -> None:
    page = looker.turn_to(beset.fill(place.replace("client-0", "client-1")))
    for text in SHOWN.get(place, ()):
        expect(page.locator("main").get_by_text(text.splitlines()[0]).first).to_be_attached()
    _untaken(looker)


def test_what_a_hostile_client_is_called_is_found_and_pinned_like_any_other(looker: Visit, beset: Beset) -> None:
    page = looker.turn_to(beset.fill("p/default/sessions/{session}?tab=clients"))
    page.get_by_role("combobox", name="Round").select_option("1")
    page.get_by_role("button", name=f"Pin {NAME}").click()
    expect(page.get_by_role("button", name=f"Remove {NAME}").first).to_be_visible()
    page.keyboard.press("Control+k")
    expect(page.get_by_role("combobox", name="Where to")).to_be_focused()
    page.keyboard.type("<SCRIPT>")
    page.get_by_role("option", name=NAME).click()
    expect(page.get_by_role("heading", name=NAME, exact=True)).to_be_visible()
    _untaken(looker)


def test_metrics_named_like_parts_of_every_object_are_numbers_where_there_are_any(looker: Visit, beset: Beset) -> None:
    page = looker.turn_to(beset.fill("p/default/sessions/{session}?tab=clients"))
    page.get_by_role("combobox", name="Round").select_option("1")
    looker.still()
    rows = page.get_by_role("region", name="Clients in the round").locator("tbody tr")
    expect(rows.filter(has_text=NAME)).to_contain_text("0.500")
    table = page.get_by_role("region", name="Clients in the round")
    heads = [head.strip("↑↓") for head in table.locator("thead th").all_text_contents()]
    shown = {
        row["Client"]: row
        for row in (dict(zip(heads, row.locator("td").all_text_contents(), strict=True)) for row in rows.all())
    }
    drawn = [head for head in heads if head in {"(no name)", "_ proto  ", "Constructor", "ToString", "HasOwnProperty"}]
    assert len(drawn) >= 3
    assert {shown[NAME][head] for head in drawn} == {"0.500"}
    assert {shown["client-1"][head] for head in drawn} == {"—"}
    assert page.evaluate("({}).polluted === undefined && Object.prototype.toString.call({}) === '[object Object]'")
    _untaken(looker)


def test_two_hundred_metrics_of_one_client_are_drawn_when_somebody_asks(looker: Visit, beset: Beset) -> None:
    page = looker.turn_to(beset.fill("p/default/sessions/{session}"))
    expect(page.locator(".plot")).to_have_count(12)
    page.get_by_role("button", name=re.compile(r"^Draw \d+ more")).click()
    expect(page.locator(".plot")).to_have_count(24)
    _untaken(looker)


def test_a_spreadsheet_gets_text_in_the_place_of_a_formula(looker: Visit, beset: Beset) -> None:
    looker.turn_to("p/default/clients")
    module = "performance.getEntriesByType('resource').map(({ name }) => name).find((name) => name.endsWith('acts.js'))"
    cells = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", '"=1', "a,=1", "plain", "1e5"]
    text = looker.page.evaluate(
        f"async (cells) => (await import({module})).csv(cells, [cells, [-1.5, null, true]])", cells
    )
    head, row, numbers = csv.reader(text.splitlines(keepends=True))
    for told in (head, row):
        assert [cell.removeprefix("'") for cell in told] == cells
        assert not [cell for cell in told if cell[:1] in set("=+-@\t\r\n\uff1d")]
        assert told[8:] == cells[8:]
    assert numbers == ["-1.5", "", "true"]
    page = looker.turn_to(beset.fill("p/default/sessions/{session}?tab=clients"))
    page.get_by_role("combobox", name="Round").select_option("1")
    with page.expect_download() as table:
        page.locator("section.card", has=page.get_by_role("heading", name="Clients", exact=True)).get_by_role(
            "button", name="CSV"
        ).click()
    text = Path(table.value.path()).read_text()
    assert f"'{FORMULA}" in text
    assert f",{FORMULA}" not in text


@pytest.mark.parametrize(
    "path",
    [
        "admin/constructor",
        "admin/__proto__",
        "p/default/constructor",
        "p/default/__proto__/x",
        "toString",
        "p/%zz",
        "%E0%A4%A",
    ],
)
def test_an_address_that_is_made_up_shows_a_page_that_says_so(looker: Visit, path: str) -> None:
    looker.expected = ("404",)
    looker.page.goto(f"{looker.url}/ui/{path}")
    expect(looker.page.get_by_text(re.compile("There is no such page|You know no such project"))).to_be_visible()
    looker.flawless()
    looker.expected = ()


def test_no_token_is_in_an_address_or_where_a_script_could_read_it(looker: Visit, beset: Beset) -> None:
    token = beset.person("tess")
    context = looker.context.browser
    assert context is not None
    with visit(context, beset.url) as made:
        page = made.page
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.get_by_role("button", name="Use a token instead").click()
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in", exact=True).click()
        expect(page.get_by_role("link", name="Account of tess")).to_be_visible()
        kept = page.evaluate(
            "JSON.stringify([localStorage, sessionStorage, document.cookie, history.state, location.href])"
        )
        cookie = next(one["value"] for one in made.context.cookies() if "hansa" in one["name"])
        for secret in (token, cookie):
            assert secret not in kept
            assert not [url for url in asked if secret in url]
        assert "eyJ" not in kept
        made.sound()


@pytest.fixture
def other_site(tmp_path: Path, beset: Beset) -> Iterator[str]:
    """A page of another origin, with the Studio in a frame."""
    (tmp_path / "index.html").write_text(f"<iframe src='{beset.url}/ui/' onload='document.title = `loaded`'></iframe>")
    site = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{site.server_port}/"
    site.shutdown()
    thread.join()
    site.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Nothing."""


def test_no_other_site_shows_the_studio_in_a_frame(looker: Visit, beset: Beset, other_site: str) -> None:
    """Where its buttons could be pressed by whoever believes to press others."""
    browser = looker.context.browser
    assert browser is not None
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    with page.expect_event("requestfailed", lambda request: beset.url in request.url) as refused:
        page.goto(other_site)
    assert refused.value.failure == "net::ERR_BLOCKED_BY_RESPONSE"
    page.wait_for_function("document.title === 'loaded'")
    context.close()
    headers = beset.http().get("/ui/p/default").headers
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
