"""What a scraper is told of the installation: the same as the REST API says, in Prometheus's words."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from served import Served
from servers import Gate, PostgresServer, S3Server

from hansa.api.server import ApiServer
from hansa.errors import ConfigError, Reason
from hansa.messages import RoundRules, RunSpec
from hansa.settings import Settings
from hansa.store.records import SessionState

TOKEN = "a scraper's secret of these tests alone"  # noqa: S105
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "monitor.md").read_text()

APP = """
import os
import time

import numpy as np

import hansa

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": np.zeros(4, np.float32)}


@app.data
def load(client):
    return client.index


@app.train
def train(model, task):
    if task.round == 2 and task.client.index == 1:
        raise RuntimeError("the scanner is switched off")
    if task.round == 2 and task.client.index == 2:
        return hansa.Update({"w": model["w"] * np.float32("nan")}, num_examples=5)
    while task.round == 3 and not os.path.exists(task.config["gate"]):
        time.sleep(0.01)
    return hansa.Update({"w": model["w"] + np.float32(1)}, num_examples=5)
"""
RULES = RoundRules(min_clients=3, quorum=1, deadline=60, replace_failed=False)


class Scraped(Served):
    """A server that a scraper may ask."""

    store: str | None = None
    objects: str | None = None

    async def opened(self, port: int = 0) -> ApiServer:
        data = self.folder / "controller"
        stores = {"store": self.store, "objects": self.objects}
        given = {name: value for name, value in stores.items() if value is not None}
        return await ApiServer.open(
            Settings(data=data, port=port, grpc_port=0, silence=5.0, metrics_token=TOKEN, **given)
        )

    def text(self, token: str = TOKEN, accept: str = "") -> httpx.Response:
        return self.http(token).get("/metrics", headers={"Accept": accept} if accept else {})

    def scrape(self) -> "Samples":
        response = self.text()
        assert response.status_code == 200, response.text
        return Samples(response.text)


class Samples:
    """The numbers of one scrape."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.all = [sample for family in self.families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The one sample that has these labels."""
        found = [one.value for one in self.all if one.name == name and labels.items() <= one.labels.items()]
        assert len(found) == 1, (name, labels, found)
        return found[0]

    def names(self) -> set[str]:
        return {sample.name for sample in self.all}


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    made = Scraped(tmp_path_factory.mktemp("metrics"))
    yield made
    made.close()


def test_before_during_and_after_a_session_the_numbers_are_those_of_the_rest_api(scraped: Scraped) -> None:
    app, gate = scraped.folder / "app.py", scraped.folder / "gate"
    app.write_text(APP)
    before = scraped.scrape()
    for outcome in ("accepted", "rejected", "failed", "missing"):
        assert before("hansa_updates_total", outcome=outcome) == 0  # there from the beginning: an increase is seen
    assert before("hansa_clients_connected", project="default") == 0
    assert before("hansa_sessions", state="running") == 0

    scraped.run(scraped.nodes.combiner("north"))
    scraped.run(scraped.nodes.clients(3, below=("north",)))
    spec = RunSpec(rounds=3, rules=RULES, config={"gate": str(gate)})
    session = scraped.run(scraped.nodes.start(app, spec))
    scraped.run(scraped.nodes.until_round(session, 2))
    during = scraped.scrape()
    assert during("hansa_sessions_running") == during("hansa_sessions", state="running") == 1
    assert during("hansa_rounds_committed_total") == 2
    assert during("hansa_clients_connected", combiner="north") == 3
    assert during("hansa_combiners_connected") == 1

    gate.touch()
    assert scraped.run(scraped.nodes.end(session)).state is SessionState.FINISHED
    scraped.run(scraped.nodes.leave("client-0"))
    scraped.run(scraped.nodes.gone("client-0"))
    after = scraped.scrape()
    http = scraped.http(scraped.admin())
    rounds = http.get("/api/v1/projects/default/rounds", params={"session": session.id}).json()["items"]
    system, told = http.get("/api/v1/system").json(), http.get("/api/v1/server").json()
    assert after("hansa_rounds_committed_total") == len(rounds) == 3
    assert after("hansa_round_duration_seconds_count") == 3
    seconds = sum(one["closed_at"] - one["opened_at"] for one in rounds)
    assert after("hansa_round_duration_seconds_sum") == pytest.approx(seconds, abs=1e-3)
    for outcome, count in {"accepted": 7, "rejected": 1, "failed": 1, "missing": 0}.items():
        assert after("hansa_updates_total", outcome=outcome) == sum(one[outcome] for one in rounds) == count
    assert after("hansa_updates_rejected_total", reason="not-finite") == 1
    assert after("hansa_tasks_failed_total") == 1
    assert after("hansa_sessions_ended_total", state="finished") == 1
    assert after("hansa_sessions", state="finished") == 1
    assert after("hansa_sessions_running") == 0
    assert after("hansa_nodes_connected_total", role="client") == 3
    assert after("hansa_nodes_connected_total", role="combiner") == after("hansa_nodes_disconnected_total") == 1
    assert after("hansa_clients_connected", combiner="north") == told["clients"] == 2
    assert after("hansa_stored_bytes") == system["stored"]
    assert after("hansa_sent_bytes_total") >= system["sent"] > during("hansa_sent_bytes_total") - 1
    assert after("hansa_received_bytes_total") > during("hansa_received_bytes_total") > 0
    assert after("hansa_data_size_bytes") == system["disk_size"]
    newest = http.get("/api/v1/projects/default/events", params={"sort": "-id", "limit": 1}).json()["items"][0]
    assert after("hansa_newest_event_timestamp_seconds") == pytest.approx(newest["at"], abs=1e-3)
    assert after("hansa_store_up") == after("hansa_object_store_up") == 1
    assert after("hansa_build_info") == 1
    assert after("process_resident_memory_bytes") > 1e7
    assert after("process_open_fds") > 0


def test_no_name_of_a_client_and_no_id_of_a_session_is_a_label(scraped: Scraped) -> None:
    http = scraped.http("x" * 40)
    stranger = scraped.http()
    for path in (
        "/api/v1/projects/default/sessions/5d41402abc4b",
        "/api/v1/projects/secret-project",
        "/nowhere/secret",
    ):
        http.get(path)
        stranger.request("SECRET", path)
    labels = {key: value for one in scraped.scrape().all for key, value in one.labels.items()}
    assert labels.keys() == {
        *("project", "combiner", "state", "outcome", "reason", "role", "le", "method", "route", "status"),
        *("version", "python"),
    }
    text = scraped.text().text
    assert not re.findall(r"client-\d|5d41402abc4b|secret", text, re.IGNORECASE)
    assert scraped.scrape()("hansa_http_requests_total", route="/api/v1/projects/{project}", status="401") == 1


def test_refused_logins_are_seen(scraped: Scraped) -> None:
    """From 0 on: of a series that begins with a burst, Prometheus knows no increase."""
    before = scraped.scrape()
    for status in ("401", "429"):
        assert before("hansa_http_requests_total", method="POST", route="/api/v1/login", status=status) == 0
    body = {"name": "nobody", "password": "a password of nobody"}
    assert scraped.http().post("/api/v1/login", json=body).status_code == 401
    assert scraped.scrape()("hansa_http_requests_total", method="POST", route="/api/v1/login", status="401") == 1


def test_openmetrics_is_spoken_to_who_asks_for_it(scraped: Scraped) -> None:
    plain = scraped.text()
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    asked = scraped.text(accept=accept)
    assert asked.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name for family in openmetrics.text_string_to_metric_families(asked.text)}
    assert {"hansa_rounds_committed", "hansa_build", "process_cpu_seconds"} <= families
    assert scraped.text(accept="application/openmetrics-text; version=x\x7f; q=").status_code == 200


def test_the_scrapers_token_reads_metrics_and_nothing_else(scraped: Scraped) -> None:
    http = scraped.http(TOKEN)
    assert http.get("/metrics", follow_redirects=False).status_code == 200
    for path in ("/api/v1/me", "/api/v1/system", "/api/v1/server", "/api/v1/projects", "/api/v1/openapi.json"):
        assert http.get(path).status_code == 401
    assert http.post("/metrics").status_code == 401


def test_whoever_may_not_see_the_system_may_not_see_metrics(scraped: Scraped) -> None:
    assert scraped.text(scraped.admin()).status_code == 200
    assert scraped.text(scraped.token(name="olga")).status_code == 403
    assert scraped.text("").status_code == 401
    assert scraped.text(TOKEN[:-1]).status_code == 401
    assert scraped.text(TOKEN + "x").status_code == 401


def test_without_a_scrapers_token_administrators_alone_read_metrics(tmp_path: Path) -> None:
    made = Served(tmp_path)
    try:
        assert made.http(made.admin()).get("/metrics").status_code == 200
        for header in ("Bearer", "Basic", f"Bearer {TOKEN}"):
            assert made.http().get("/metrics", headers={"Authorization": header}).status_code == 401
    finally:
        made.close()


def test_a_token_that_could_be_guessed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"HANSA_METRICS_TOKEN.*32"):
        Settings(data=tmp_path, metrics_token="prometheus")  # noqa: S106


def test_a_scrape_answers_while_the_stores_are_away(postgres: PostgresServer, s3: S3Server, tmp_path: Path) -> None:
    database, bucket = Gate(postgres.port), Gate(s3.port)

    class Elsewhere(Scraped):
        async def opened(self, port: int = 0) -> ApiServer:
            for gate in (database, bucket):
                await gate.open()
            url = postgres.url(postgres.create_database())
            self.store = url.replace(str(postgres.port), str(database.port))
            self.objects = s3.url(s3.create_bucket(), tmp_path / "cache", bucket.port)
            return await super().opened(port)

        async def end(self) -> None:
            await super().end()
            for gate in (database, bucket):
                await gate.close()

    made = Elsewhere(tmp_path)
    try:
        assert (made.scrape()("hansa_store_up"), made.scrape()("hansa_object_store_up")) == (1, 1)
        made.run(bucket.close())
        assert (made.scrape()("hansa_store_up"), made.scrape()("hansa_object_store_up")) == (1, 0)
        made.run(database.close())
        began = time.monotonic()
        away = made.scrape()
        assert time.monotonic() - began < 8  # two seconds are let pass; Prometheus waits for ten
        assert (away("hansa_store_up"), away("hansa_object_store_up")) == (0, 0)
        assert "hansa_stored_bytes" not in away.names()
        assert away("hansa_rounds_committed_total", project="default") == 0
        made.run(database.open())
        made.run(bucket.open())
        back = made.scrape()
        assert (back("hansa_store_up"), back("hansa_object_store_up")) == (1, 1)
    finally:
        made.close()


def test_a_scrape_tells_the_rest_while_the_data_folder_is_gone(scraped: Scraped) -> None:
    data, away = scraped.folder / "controller", scraped.folder / "away"
    assert scraped.scrape()("hansa_data_free_bytes") < scraped.scrape()("hansa_data_size_bytes")
    data.rename(away)
    try:
        gone = scraped.scrape()
    finally:
        away.rename(data)
    assert not {"hansa_data_free_bytes", "hansa_data_size_bytes"} & gone.names()
    assert gone("hansa_build_info") == 1
    assert gone("hansa_rounds_committed_total", project="default") >= 0


def test_the_page_lists_every_metric_and_its_rules_name_no_other(scraped: Scraped) -> None:
    families = [one for one in scraped.scrape().families if one.name.startswith("hansa_")]
    rows = re.findall(r"^\| `(hansa_\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", PAGE, re.MULTILINE)
    listed = {name: (kind, frozenset(re.findall(r"`(\w+)`", labels)), about) for name, kind, labels, about in rows}
    assert listed == {
        (name := one.name + "_total" * (one.type == "counter")): (
            one.type,
            _labels(one) if one.samples else listed[name][1],  # nothing of the kind has happened here yet
            one.documentation,
        )
        for one in families
    }
    rules = "".join(re.findall(r"^groups:\n.*?^```", PAGE, re.MULTILINE | re.DOTALL))
    assert rules.count("- alert:") >= 6
    assert set(re.findall(r"\bhansa_\w+", rules)) <= scraped.scrape().names()
    assert set(re.findall(r'state="(\w+)"', rules)) <= set(SessionState)
    assert set("|".join(re.findall(r'reason!~"([^"]+)"', rules)).split("|")) <= set(Reason)


def _labels(family: Metric) -> frozenset[str]:
    return frozenset(label for one in family.samples for label in one.labels if label != "le")
