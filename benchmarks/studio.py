"""The Studio before a large store: 10,000 clients, 1,000 rounds, 100 clients in each: first paint, and one update.

    python benchmarks/studio.py [--clients 10000] [--rounds 1000]

Needs Chromium (Debian: apt-get install chromium). One update is a committed round that reaches an open session page.
"""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

# the browser and the server are those of the tests
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "api"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "ui"))

from browser import chromium, visit
from studied import Studied

from hansa.messages import Kind, RunSpec
from hansa.network.controller.journal import event
from hansa.store.records import (
    ClientRecord,
    ContributionRecord,
    MetricRecord,
    Record,
    RoundRecord,
    SessionRecord,
    SessionState,
)

_COHORT = 100
_SESSION = "5d41402abc4b"
_PAINTED = """() => new Promise((done) => new PerformanceObserver((list) =>
  done(list.getEntriesByName("first-contentful-paint")[0].startTime)).observe({type: "paint", buffered: true}))"""
_WATCH = """() => { window.longest = 0; new PerformanceObserver((list) => {
  for (const one of list.getEntries()) window.longest = Math.max(window.longest, one.duration); })
  .observe({type: "longtask"}); }"""


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
            ContributionRecord(f"{key}/{name}", "default", _SESSION, number, name, "accepted", 64, metrics=told)
        )
    return rows


def main() -> None:
    """Print what was measured."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--clients", type=int, default=10_000)
    asked.add_argument("--rounds", type=int, default=1_000)
    given = asked.parse_args()
    rng = random.Random(0)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        studied = Studied(Path(folder))
        store, journal = studied.server.controller.store, studied.server.controller.journal
        session = SessionRecord(
            _SESSION, "default", "large", RunSpec(name="large", project="default", rounds=given.rounds + 10),
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
            page.evaluate(_WATCH)
            longest = []
            for number in range(given.rounds + 1, given.rounds + 6):
                session = replace(session, round=number, model=f"{number:064x}")
                studied.run(store.put(session, *a_round(number, given.clients, rng)))
                studied.run(journal.record(event("default", _SESSION, "round.committed", f"round {number}")))
                page.wait_for_selector(f".figures dd.value:has-text('{number:,} /')")
                page.wait_for_timeout(1500)
                longest.append(page.evaluate("(() => { const n = window.longest; window.longest = 0; return n; })()"))
            print(f"an update: longest tasks of the main thread {sorted(longest)} ms (0: none above 50 ms)")
        studied.close()


if __name__ == "__main__":
    main()
