"""What people come for, from the first page to the last, on a real network with real training."""

import csv
import re
import shlex
import struct
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Visit, visit
from places import PLACES
from playwright.sync_api import Browser, Page, expect
from studied import APP, Studied

from hansa.messages import ClientInfo, RoundRules, RunSpec
from hansa.network.client.agent import Agent
from hansa.network.client.approvals import Approvals
from hansa.network.client.policy import SitePolicy
from hansa.network.client.site import Site
from hansa.packages.package import read, signed
from hansa.packages.signature import new_key, read_key
from hansa.run import names
from hansa.store.records import SessionRecord, SessionState


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studied]:
    """A server on which nothing has happened yet, and later nothing outside the test's own project."""
    made = Studied(tmp_path_factory.mktemp("empty"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def _newcomer(browser: Browser, empty: Studied) -> Iterator[Visit]:
    with visit(browser, empty.url) as made:
        yield made


@pytest.fixture
def newcomer(_newcomer: Visit, empty: Studied) -> Visit:
    """Somebody who has just followed the link that `hansa up` prints."""
    _newcomer.forget()
    _newcomer.arrive(empty.code())
    return _newcomer


def test_a_server_on_which_nothing_has_happened_shows_every_page_without_a_fault_in_both_themes(
    newcomer: Visit,
) -> None:
    newcomer.expected = ("404",)
    for place in PLACES:
        newcomer.turn_to(place.format(session="none", other="none", model="none", package="none"))
        newcomer.flawless_in_both_themes()
    newcomer.expected = ()


def test_from_an_empty_server_to_a_model_of_ones_own(newcomer: Visit, empty: Studied, tmp_path: Path) -> None:
    page = newcomer.turn_to("projects/new")
    page.get_by_label("Name").fill("cardiology")
    page.get_by_role("button", name="Create the project").click()
    expect(page.get_by_role("heading", name="First steps")).to_be_visible()
    newcomer.flawless()

    page.get_by_role("link", name="Join a client").click()
    page.get_by_label("Name").fill("ward-1")
    page.get_by_role("button", name="Make the command").click()
    expect(page.get_by_text("Waiting for ward-1")).to_be_visible()
    told = shlex.split(page.locator(".command pre").inner_text().replace("\\\n", " "))
    token, join = told[0].removeprefix("HANSA_TOKEN="), told[told.index("--join") + 1]
    assert (told[1:4], told[told.index("--ca") + 1]) == (["hansa", "client", "start"], empty.server.fingerprint)
    agent = Agent(
        ClientInfo("ward-1", 0, 1), join=join, token=token, work=tmp_path / "ward-1",
        trust=empty.nodes.trust, site=Site(tmp_path / "ward-1"),
    )  # fmt: skip
    empty.follow("ward-1", agent.run())
    expect(page.get_by_text("ward-1 is connected.")).to_be_visible()
    newcomer.flawless()

    page.get_by_role("link", name="start a session").click()
    page.get_by_text("A file of yours").click()
    page.get_by_label("The app's file").set_input_files({
        "name": "wards.py", "mimeType": "text/x-python", "buffer": APP.encode(),
    })  # fmt: skip
    page.get_by_label("Name").fill("mine")
    page.get_by_label("Rounds").fill("3")
    page.get_by_role("button", name="Start the session").click()
    expect(page.get_by_role("heading", name="mine", exact=True)).to_be_visible()
    expect(page.locator(".title .pill")).to_have_text("finished")
    with page.expect_download() as model:
        page.get_by_role("link", name="Model", exact=True).click()
    assert model.value.suggested_filename.endswith(".safetensors")
    assert Path(model.value.path()).stat().st_size > 100
    newcomer.sound()


def test_without_any_client_the_example_is_simulated_on_the_server(newcomer: Visit) -> None:
    page = newcomer.turn_to("p/default/sessions/new")
    expect(page.get_by_role("radio", name="Simulate here")).to_be_checked()
    page.get_by_label("Rounds").fill("3")
    page.get_by_role("button", name="Start the session").click()
    expect(page.locator(".title .pill")).to_have_text("finished", timeout=60_000)
    expect(page.locator(".figures dd.value").first).to_have_text(re.compile("^3 / 3"))
    expect(page.get_by_text(re.compile("simulated on the server · fedavg"))).to_be_visible()
    newcomer.sound()


@pytest.mark.slow
def test_a_session_can_name_whatever_is_registered_on_the_server_with_its_options(
    visitor: Visit, studied: Studied
) -> None:
    page = visitor.turn_to("p/default/sessions/new")
    offered = page.get_by_role("combobox", name="Algorithm", exact=True).locator("option")
    expect(offered).to_have_text(names("hansa.algorithms"))
    expect(page.get_by_role("combobox", name="Aggregator", exact=True).locator("option")).to_have_text(
        names("hansa.aggregators")
    )
    page.get_by_text("A file of yours").click()
    page.get_by_label("The app's file").set_input_files({
        "name": "wards.py", "mimeType": "text/x-python", "buffer": APP.encode(),
    })  # fmt: skip
    page.get_by_text("Simulate here").click()
    page.get_by_label("Rounds", exact=True).fill("2")
    page.get_by_role("combobox", name="Algorithm", exact=True).select_option("fedadam")
    page.get_by_label("Algorithm: learning rate").fill("0.25")
    page.get_by_role("combobox", name="Aggregator", exact=True).select_option("krum")
    page.get_by_role("button", name="Start the session").click()
    assert page.get_by_label("Aggregator: f").evaluate("(field) => field.validity.valueMissing")
    page.get_by_label("Aggregator: f").fill("1")
    visitor.flawless()
    page.get_by_role("button", name="Start the session").click()
    expect(page.locator(".title .pill")).to_have_text("finished")
    session = page.url.rpartition("/")[2]
    spec = studied.run(studied.server.controller.store.get(SessionRecord, "default", session)).spec
    assert (spec.algorithm, dict(spec.algorithm_options)) == ("fedadam", {"learning_rate": 0.25})
    assert (spec.aggregator, dict(spec.aggregator_options)) == ("krum", {"f": 1})


def test_an_app_that_cannot_be_read_is_told_in_place(visitor: Visit) -> None:
    page = visitor.turn_to("p/default/sessions/new")
    visitor.expected = ("Failed to load resource",)
    page.get_by_text("A file of yours").click()
    page.get_by_label("The app's file").set_input_files({
        "name": "broken.py", "mimeType": "text/x-python", "buffer": b"raise ValueError('the ward is closed')",
    })  # fmt: skip
    page.get_by_role("button", name="Start the session").click()
    expect(page.get_by_role("alert")).to_contain_text("the ward is closed")
    visitor.sound()
    visitor.expected = ()


def test_a_stream_from_which_nothing_comes_any_more_is_taken_up_anew(visitor: Visit) -> None:
    """A browser says nothing of a way that swallows everything; the server does, every quarter of a minute."""
    scripts = (
        "performance.getEntriesByType('resource').map(({ name }) => name).find((name) => name.endsWith('acts.js'))"
    )
    module = visitor.page.evaluate(scripts).replace("parts/acts.js", "feed.js")
    page = visitor.context.new_page()
    page.clock.install()
    page.goto(f"{visitor.url}/ui/")
    page.evaluate(
        """async (module) => {
          const { Feed } = await import(module);
          const feed = new Feed("default", 0);
          window.feed = feed;
          window.become = (state) => new Promise((done) => feed.follow((told) => told.state === state && done(), 0));
          await window.become("live");
          for (const name of ["message", "live", "pulse"])
            feed.source.addEventListener(name, (event) => event.stopImmediatePropagation(), { capture: true });
          window.lost = window.become("lost");
        }""",
        module,
    )
    page.clock.fast_forward(60_000)
    page.evaluate("window.lost")
    page.evaluate("window.become('live')")
    page.evaluate("window.feed.close()")
    page.close()


def test_a_pinned_client_is_drawn_over_the_global_model(visitor: Visit, studied: Studied) -> None:
    page = visitor.turn_to(studied.fill("p/default/sessions/{session}?tab=clients"))
    page.get_by_role("button", name="Pin client-1").click()
    expect(page.get_by_role("button", name="Remove client-1").first).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("Loss over 6 rounds: .*client-1"))).to_have_count(2)
    with page.expect_download() as table:
        page.get_by_role("button", name="Save Accuracy as CSV").click()
    lines = Path(table.value.path()).read_text().splitlines()
    assert lines[0] == 'round,"global model, mean over clients",client-1,p10,p90'
    assert len(lines) == 7
    with page.expect_download() as image:
        page.get_by_role("button", name="Save Accuracy as an image").click()
    assert Path(image.value.path()).read_bytes().startswith(b"\x89PNG")
    with page.expect_download() as bars:
        page.get_by_role("button", name="Save Update norms as an image").click()
    assert Path(bars.value.path()).read_bytes().startswith(b"\x89PNG")
    visitor.sound()


def test_any_table_is_saved_as_it_reads_with_times_and_numbers_that_machines_read(
    visitor: Visit, studied: Studied
) -> None:
    page = visitor.turn_to("p/default/clients/client-1")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save Participation of client-1 as CSV").click()
    head, *rows = csv.DictReader(Path(saved.value.path()).read_text().splitlines())
    assert {row["Session"] for row in (head, *rows)} >= {studied.session.id, studied.other.id}
    assert {row["Outcome"] for row in (head, *rows)} == {"accepted"}
    assert {row["Examples"] for row in (head, *rows)} == {"11"}
    assert all(float(row["Update norm"]) > 0 for row in (head, *rows))
    page = visitor.turn_to("p/default/network")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save Servers as CSV").click()
    servers = list(csv.DictReader(Path(saved.value.path()).read_text().splitlines()))
    assert [row["Server"] for row in servers] == ["root", "combiner-0", "combiner-1"]
    visitor.sound()


def test_the_settings_in_which_two_sessions_differ_are_listed(visitor: Visit, studied: Studied) -> None:
    page = visitor.turn_to(studied.fill("p/default/sessions/compare?ids={session},{other}"))
    rows = page.get_by_role("region", name="Settings that differ").locator("tbody tr")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("rounds")
    page.get_by_role("checkbox", name=re.compile("Draw wards-short")).uncheck()
    expect(page.get_by_role("img", name=re.compile("wards-short"))).to_have_count(0)
    visitor.flawless()


def _drawing(page: Page, title: str, width: int, height: int) -> bool:
    """Whether a drawing is saved at two pixels for one of its own; something must be drawn, which compresses badly."""
    with page.expect_download() as image:
        page.get_by_role("button", name=f"Save {title} as an image").click()
    png = Path(image.value.path()).read_bytes()
    size = struct.unpack(">II", png[16:24])
    return (png[:4], size, len(png) > 2000) == (b"\x89PNG", (2 * width, 2 * height), True)


def test_a_model_names_who_contributed_back_to_its_seed(visitor: Visit, studied: Studied) -> None:
    page = visitor.turn_to(studied.fill("p/default/models/{model}"))
    expect(page.get_by_role("region", name="Who contributed").locator("tbody tr")).to_have_count(3)
    graph = page.get_by_role("region", name="Lineage graph")
    expect(graph).to_contain_text("seed")
    expect(graph).to_contain_text("rounds 1–5")
    expect(graph).to_contain_text("this model")
    assert _drawing(page, "Lineage", 652, 82)
    page = visitor.turn_to("p/default/network")
    assert _drawing(page, "Aggregation tree", 320, 191)
    visitor.sound()


def test_a_name_that_is_markup_is_text(visitor: Visit, studied: Studied) -> None:
    hostile = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"
    studied.report(hostile)
    page = visitor.turn_to("p/default/events")
    expect(page.locator("[data-event]").first).to_contain_text(hostile)
    visitor.expected = ("404",)
    visitor.turn_to("p/default/clients/%3Cscript%3Ealert(1)%3C%2Fscript%3E")
    expect(page.get_by_text("There is no such thing")).to_be_visible()
    assert page.title() != "taken"
    assert page.locator("main script, main img").count() == 0
    visitor.turn_to("p/default/nowhere")  # which does not ask again
    visitor.expected = ()


def test_a_third_party_reads_a_package_signs_it_and_brings_it_back(
    visitor: Visit, studied: Studied, tmp_path: Path
) -> None:
    page = visitor.turn_to(studied.fill("p/default/packages/{package}"))
    expect(page.locator(".title .pill")).to_have_text("not signed")
    page.get_by_role("button", name="wards.py").click()
    expect(page.get_by_role("dialog").locator("pre")).to_contain_text("def initial_model(rng):")
    visitor.flawless()
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download", exact=True).click()
    archive = Path(download.value.path()).read_bytes()
    new_key(tmp_path / "key.pem")
    key = read_key(tmp_path / "key.pem")
    page.get_by_label("The signed package").set_input_files({
        "name": "wards.hansa", "mimeType": "application/zip", "buffer": signed(archive, key),
    })  # fmt: skip
    expect(page.locator(".title .pill")).to_have_text("signed")
    assert page.url != f"{visitor.url}/ui/{studied.fill('p/default/packages/{package}')}"
    policy = tomllib.loads(page.locator(".command pre").first.inner_text())
    package = read(archive)
    assert policy == {"code": {"digests": [package.digest]}}
    expect(page.locator(".command pre").first).to_contain_text(str(read(signed(archive, key)).signer()))
    gone = page.url.rpartition("/")[2]
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_label("to confirm").fill("wards")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("region", name="Packages").locator(f"a.name[href$='{package.id}']")).to_have_count(1)
    expect(page.get_by_role("region", name="Packages").locator(f"a.name[href$='{gone}']")).to_have_count(0)
    visitor.sound()


def test_a_session_that_a_site_must_approve_says_where_and_how(visitor: Visit, studied: Studied) -> None:
    studied.run(studied.nodes.client("careful", policy=SitePolicy(approval=True)))
    rules = RoundRules(min_clients=1, quorum=1, deadline=120, only=("careful",))
    spec = RunSpec(name="asked", rounds=1, rules=rules)
    session = studied.run(studied.nodes.start(studied.app, spec))
    page = visitor.turn_to("p/default/packages")
    row = page.get_by_role("region", name="Clients that wait for an approval").locator("tbody tr")
    expect(row).to_contain_text("careful")
    expect(row).to_contain_text(f"hansa client approve {session.id} --work FOLDER")
    visitor.flawless()
    Approvals(studied.folder / "careful").say(session.id, approved=True)
    assert studied.run(studied.nodes.end(session)).state is SessionState.FINISHED
    expect(row).to_have_count(0)
    studied.run(studied.nodes.leave("careful"))
    visitor.sound()


def test_a_viewer_is_offered_nothing_that_they_may_not(visitor: Visit, studied: Studied) -> None:
    studied.member("vera", "viewer")
    visitor.forget()
    visitor.arrive(studied.code("vera"))
    page = visitor.turn_to(studied.fill("p/default/sessions/{session}"))
    expect(page.get_by_role("link", name="Account of vera")).to_be_visible()
    expect(page.get_by_role("link", name="Model", exact=True)).to_have_count(0)
    expect(page.get_by_role("button", name="Delete")).to_have_count(0)
    expect(page.get_by_role("link", name="Audit")).to_have_count(0)
    visitor.flawless()
    visitor.expected = ("403",)
    visitor.turn_to("p/default/audit")
    expect(page.get_by_text("This is not for your role")).to_be_visible()
    visitor.flawless()
    visitor.expected = ()
    visitor.context.clear_cookies()  # the next to come is the administrator again


def test_everything_is_reached_without_a_mouse(visitor: Visit) -> None:
    page = visitor.turn_to("p/default")
    page.keyboard.press("Control+k")
    expect(page.get_by_role("combobox", name="Where to")).to_be_focused()
    visitor.flawless()
    page.keyboard.type("IENT-2")
    expect(page.get_by_role("option", name="client-2")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="client-2", exact=True)).to_be_visible()
    page.goto(f"{visitor.url}/ui/p/default/clients")
    visitor.still()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox", name="Part of a name")).to_be_focused()
    page.keyboard.type("NT-1")
    rows = page.get_by_role("region", name="Clients").locator("tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("client-1")


def test_a_token_is_shown_once_and_can_be_revoked(visitor: Visit) -> None:
    page = visitor.turn_to("p/default/tokens")
    page.get_by_label("Name").fill("nightly")
    page.get_by_role("button", name="Make the token").click()
    dialog = page.get_by_role("dialog", name="Your new token")
    expect(dialog.locator("pre")).to_have_text(re.compile(r"^ey\S+$"))
    visitor.flawless()
    dialog.get_by_role("button", name="I have kept it").click()
    expect(dialog).to_have_count(0)
    row = page.get_by_role("region", name="Your API tokens").locator("tbody tr", has_text="nightly")
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_contain_text("revoked")
    visitor.sound()
