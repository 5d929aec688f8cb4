"""The Studio before a large store: 10,000 clients, 1,000 rounds, 100 clients in each: first paint, and one update.

    python benchmarks/studio.py [--clients 10000] [--rounds 1000]
    python benchmarks/studio.py --hour [--pace 10]

Needs Chromium (Debian: apt-get install chromium). One update is a committed round that reaches an open session page:
from when it is stored until every figure and chart shows it, and two frames more. What it costs is told by the CPU
clock of the page's main thread, whatever that did meanwhile: clocks that tick, the protocol by which it is watched.
Nothing is traced then; the longest task of an update is read from traces of further ones, which tracing makes dearer.

With `--hour`: the memory of pages over what an hour brings, a round of a session every ten seconds with its clients'
comings, goings and progress. Each event is stored, streamed, rendered and waited for before the next one; between two
rounds there are `--pace` seconds: 0, as fast as the pages follow, or 10, the hour itself. Heaps are told after a
forced collection of garbage.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

# the browser and the server are those of the tests
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "api"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "ui"))

from browser import chromium, visit
from playwright.sync_api import Page
from studied import Studied

from hansa.messages import Kind, RunSpec
from hansa.network.controller.journal import Journal, event
from hansa.store.ports import Query
from hansa.store.records import (
    ClientRecord,
    ContributionRecord,
    EventRecord,
    MetricRecord,
    Record,
    RoundRecord,
    SessionRecord,
    SessionState,
)

_COHORT = 100
_A_MINUTE = 6
"""Rounds."""
_UPDATES = 10
_IDLE = 5.0
"""Seconds."""
_SESSION = "5d41402abc4b"
_PAINTED = """() => new Promise((done) => new PerformanceObserver((list) =>
  done(list.getEntriesByName("first-contentful-paint")[0].startTime)).observe({type: "paint", buffered: true}))"""


_SHOWN = """(round) => {
  const all = (where) => [...document.querySelectorAll(where)].map((one) => one.textContent);
  window.shown = new Promise((done) => {
    const look = new MutationObserver(() => {
      if (!all(".figures dd.value")[0].startsWith(round.toLocaleString("en"))) return;
      if (all(".legend li:first-child b").some((text) => text !== String(round))) return;
      look.disconnect();
      requestAnimationFrame(() => requestAnimationFrame(done));
    });
    look.observe(document.querySelector("main"), { subtree: true, childList: true, characterData: true });
  });
}"""


class Spent:
    """The CPU clock of one page's main thread.

    On a machine that others use too, the time that work lasts is theirs as well.
    """

    def __init__(self, page: Page) -> None:
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable")

    def __call__(self) -> float:
        """Milliseconds since the thread began."""
        told = self._session.send("Performance.getMetrics")["metrics"]
        return 1000 * float(next(one["value"] for one in told if one["name"] == "ThreadTime"))


class MainThread:
    """What one page's main thread does while this is open, by a trace."""

    def __init__(self, page: Page) -> None:
        self._session = page.context.new_cdp_session(page)
        self._page = page
        self._told: list[dict[str, Any]] = []
        self._ended = False
        self._session.on("Tracing.dataCollected", lambda told: self._told.extend(told["value"]))
        self._session.on("Tracing.tracingComplete", lambda _: setattr(self, "_ended", True))

    def __enter__(self) -> Self:
        self._session.send(
            "Tracing.start", {"transferMode": "ReportEvents", "traceConfig": {"includedCategories": ["toplevel"]}}
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._session.send("Tracing.end")
        while not self._ended:
            self._page.wait_for_timeout(50)
        self._session.detach()

    def longest(self) -> tuple[float, float]:
        """The longest task: milliseconds of CPU, and the longest by the clock on the wall."""
        main = {
            (one["pid"], one["tid"])
            for one in self._told
            if one["name"] == "thread_name" and one["args"]["name"] == "CrRendererMain"
        }
        tasks = [one for one in self._told if one["ph"] == "X" and (one["pid"], one["tid"]) in main]
        return max(one.get("tdur", 0) for one in tasks) / 1000, max(one["dur"] for one in tasks) / 1000


def a_round(number: int, clients: int, rng: random.Random) -> list[Record]:
    """The rows of one round."""
    key, at = f"{_SESSION}/{number}", 1.7e9 + 30.0 * number
    loss = 2.3 / (1 + number / 40)
    rows: list[Record] = [
        RoundRecord(
            key, "default", _SESSION, number, f"{number - 1:064x}", f"{number:064x}", "", _COHORT, 0, 0, 0, 6400, at,
            at + 28.0,
        )
    ]  # fmt: skip
    for name, value in (("accuracy", 1 - loss / 3), ("loss", loss)):
        rows.append(MetricRecord(f"{key}/{name}", "default", _SESSION, number, Kind.EVALUATE, name, value, 6400, at=at))
    for k in rng.sample(range(clients), _COHORT):
        name, told = f"client-{k:05d}", {"loss": loss * rng.uniform(0.8, 1.3)}
        rows.append(
            ContributionRecord(
                f"{key}/{name}",
                "default",
                _SESSION,
                number,
                name,
                "accepted",
                64,
                metrics=told,
                norm=rng.uniform(0.5, 2.0),
            )
        )
    return rows


def collected(tab: Page) -> dict[str, float]:
    """What a tab holds once its garbage is gone: megabytes of heap, nodes of documents, listeners."""
    session = tab.context.new_cdp_session(tab)
    session.send("HeapProfiler.enable")
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    told = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return {"heap": told["JSHeapUsedSize"] / 1e6, "nodes": told["Nodes"], "listeners": told["JSEventListeners"]}


async def at_work(journal: Journal, names: Sequence[str]) -> None:
    """Every client of a round says how far it is."""
    for name in names:
        journal.live("default", _SESSION, "client.progress", client=name, phase="train", done=1, total=2)


def an_hour(minutes: int, pace: float) -> None:
    """Print what three open pages hold while an hour's events come."""
    rng = random.Random(0)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        studied = Studied(Path(folder))
        store, journal = studied.server.controller.store, studied.server.controller.journal
        total = minutes * _A_MINUTE
        session = SessionRecord(
            _SESSION, "default", "hour", RunSpec(name="hour", project="default", rounds=total), SessionState.RUNNING,
            1.7e9, started_at=1.7e9,
        )  # fmt: skip
        names = [f"client-{k:05d}" for k in range(_COHORT)]
        clients = [ClientRecord(f"default/{name}", "default", name, "root", True, 1.7e9, 1.7e9) for name in names]
        studied.run(store.put(session, *clients))
        with visit(browser, studied.url, studied.code()) as made:
            tabs = {"session": made.page, "events": made.context.new_page(), "network": made.context.new_page()}
            for name, tab in tabs.items():
                tab.goto(f"{studied.url}/ui/p/default/{name if name != 'session' else f'sessions/{_SESSION}'}")
                tab.wait_for_selector(".live[data-state=live]")
            for number in range(1, total + 1):
                began, who = time.monotonic(), rng.choice(names)
                for kind in ("node.left", "client.connected"):
                    studied.run(journal.record(event("default", "", kind, f"{who}: {kind}", name=who)))
                opened = event("default", _SESSION, "round.opened", f"round {number}", round=number, invited=names)
                studied.run(journal.record(opened))
                studied.run(at_work(journal, names))
                session = replace(session, round=number, model=f"{number:064x}")
                studied.run(store.put(session, *a_round(number, _COHORT, rng)))
                studied.run(journal.record(event("default", _SESSION, "round.committed", f"round {number}: committed")))
                newest = studied.run(store.list(EventRecord, Query("default", sort="-id", limit=1))).items[0].id
                tabs["events"].locator(f"[data-event='{newest}']").first.wait_for(state="attached")
                tabs["session"].locator(f".figures dd.value:has-text('{number:,} /')").first.wait_for(state="attached")
                tabs["network"].locator(f".events [data-event='{newest - 2}']").first.wait_for(state="attached")
                if number % (10 * _A_MINUTE) == 0:
                    held = {name: collected(tab) for name, tab in tabs.items()}
                    said = "   ".join(
                        f"{name} {one['heap']:5.2f} MB {one['nodes']:6,.0f} nodes {one['listeners']:5,.0f} listeners"
                        for name, one in held.items()
                    )
                    print(f"{number // _A_MINUTE:3} min, {newest:,} events   {said}", flush=True)
                time.sleep(max(0.0, pace - (time.monotonic() - began)))
        studied.close()


def updates(studied: Studied, page: Page, session: SessionRecord, clients: int, rng: random.Random) -> None:
    """Print what the main thread of a session's page does for rounds that arrive."""
    spent, costs, longest = Spent(page), list[float](), list[tuple[float, float]]()
    store, journal = studied.server.controller.store, studied.server.controller.journal

    def update(number: int) -> None:
        """A round is stored, and then shown."""
        now = replace(session, round=number, model=f"{number:064x}")
        page.evaluate(_SHOWN, number)
        before = spent()
        studied.run(store.put(now, *a_round(number, clients, rng)))
        studied.run(journal.record(event("default", _SESSION, "round.committed", f"round {number}")))
        page.evaluate("window.shown")
        costs.append(spent() - before)

    before = spent()
    time.sleep(_IDLE)
    idle = (spent() - before) / _IDLE
    for number in range(session.round + 1, session.round + 1 + _UPDATES):
        update(number)
        time.sleep(1.0)  # between two readings of one resource a page waits 0.7 s
    untraced = tuple(costs)
    for number in range(session.round + 1 + _UPDATES, session.round + 1 + 2 * _UPDATES):
        with MainThread(page) as thread:
            update(number)
            time.sleep(1.0)
        longest.append(thread.longest())
    task, lasted = zip(*longest, strict=True)
    print(f"the main thread where nothing happens: {idle:.1f} ms of CPU in a second")
    for what, times in (
        ("all of it, ms of CPU", untraced),
        ("longest task, ms of CPU, traced", task),
        ("longest task, ms by the clock, traced", lasted),
    ):
        print(f"the main thread of an update, {what}: {', '.join(f'{one:.0f}' for one in sorted(times))}")


def main() -> None:
    """Print what was measured."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--clients", type=int, default=10_000)
    asked.add_argument("--rounds", type=int, default=1_000)
    asked.add_argument("--hour", action="store_true")
    asked.add_argument("--minutes", type=int, default=60)
    asked.add_argument("--pace", type=float, default=0.0)
    given = asked.parse_args()
    if given.hour:
        an_hour(given.minutes, given.pace)
        return
    rng = random.Random(0)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        studied = Studied(Path(folder))
        store = studied.server.controller.store
        session = SessionRecord(
            _SESSION, "default", "large", RunSpec(name="large", project="default", rounds=given.rounds + 2 * _UPDATES),
            SessionState.FINISHED, 1.7e9, round=given.rounds, model=f"{given.rounds:064x}", started_at=1.7e9,
        )  # fmt: skip
        studied.run(store.put(session))
        clients = [
            ClientRecord(f"default/client-{k:05d}", "default", f"client-{k:05d}", "root", True, 1.7e9, 1.7e9)
            for k in range(given.clients)
        ]
        for start in range(0, len(clients), 1000):
            studied.run(store.put(*clients[start : start + 1000]))
        for first in range(1, given.rounds + 1, 10):
            rows = [row for n in range(first, first + 10) for row in a_round(n, given.clients, rng)]
            studied.run(store.put(*rows))
        with visit(browser, studied.url, studied.code()) as made:
            page = made.page
            for place in ("", f"/sessions/{_SESSION}", "/clients", "/network"):
                began = time.perf_counter()
                page.goto(f"{studied.url}/ui/p/default{place}")
                paint = page.evaluate(_PAINTED)
                made.still()
                print(f"{place or '/':28} first paint {paint:5.0f} ms   all shown {time.perf_counter() - began:5.2f} s")
            page.goto(f"{studied.url}/ui/p/default/sessions/{_SESSION}")
            made.still()
            page.wait_for_selector("text=p10–p90 of clients", timeout=120_000)
            updates(studied, page, session, given.clients, rng)
        studied.close()


if __name__ == "__main__":
    main()
