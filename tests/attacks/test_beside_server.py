"""Code of a data scientist's app on the server's machine: it gets nothing of the server's, and uses what it may."""

import json
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from served import Served

from hansa.api.client import Client
from hansa.arrays import Arrays
from hansa.network.client.confinement import Confinement, Tool
from hansa.network.controller.quotas import QuotaKind
from hansa.network.controller.server import _confined
from hansa.settings import Settings
from hansa.store.ports import Query
from hansa.store.records import AuditRecord, ModelRecord, ProjectRole, SessionRecord, SessionState
from hansa.wire import codec

MARK = "the-key-that-signs-every-token"

APP = """
import os, pathlib, sys, threading
import numpy as np
import hansa

app = hansa.App()
own = pathlib.Path(os.environ["HOME"])


def links(target, *names):
    for place in (own, own.parent):
        for name in names:
            try:
                (place / name).unlink(missing_ok=True)
                (place / name).symlink_to(target)
            except OSError:
                pass


@app.model
def initial_model(rng):
    BODY
    return {"w": np.zeros(2, np.float32)}


@app.train
def train(model, task):
    return hansa.Update({"w": model["w"]}, num_examples=1)
"""


class Scientist:
    """A data scientist of one project, who has a browser and an idea."""

    def __init__(self, served: Served, project: str) -> None:
        served.run(served.server.controller.create_project(project))
        token = served.token(ProjectRole.DATA_SCIENTIST, project, f"eve-of-{project}")
        self.http: Callable[[], httpx.Client] = lambda: served.http(token)
        self.served, self.project, self.base = served, project, f"/api/v1/projects/{project}"

    def package(self, body: str) -> str:
        answer = self.http().post(f"{self.base}/apps", content=APP.replace("BODY", body).encode())
        assert answer.status_code == 201, answer.text
        found: str = answer.json()["id"]
        return found

    def draw(self, body: str) -> httpx.Response:
        asked = {"package": self.package(body), "spec": {"name": "x", "rounds": 1}}
        return self.http().post(f"{self.base}/initial-models", json=asked, timeout=100)

    def simulate(self, package: str, rounds: int = 1) -> httpx.Response:
        asked = {"package": package, "spec": {"name": "x", "rounds": rounds}, "clients": 1}
        return self.http().post(f"{self.base}/simulations", json=asked, timeout=100)

    def simulated(self, body: str) -> SessionRecord:
        started = self.simulate(self.package(body))
        assert started.status_code == 201, started.text
        return self.client().sessions.wait(started.json()["id"])

    def client(self) -> Client:
        return self.served.client(self.project, self.served.token(ProjectRole.DATA_SCIENTIST, self.project, "bob"))

    def rows(self, kind: type[ModelRecord | SessionRecord]) -> int:
        return self.served.run(self.served.server.controller.store.list(kind, Query(self.project, limit=1))).total

    def audited(self) -> list[tuple[str, str]]:
        store = self.served.server.controller.store
        lines = self.served.run(store.list(AuditRecord, Query(self.project, limit=1000))).items
        return [(line.action, line.outcome) for line in lines]


@pytest.fixture
def scientist(served: Served, request: pytest.FixtureRequest) -> Scientist:
    return Scientist(served, f"p{abs(hash(request.node.name)) % 10**8}")


@pytest.fixture
def secret(served: Served) -> Path:
    file = served.folder / "controller" / "keys" / "secret"
    file.write_text(MARK)
    return file


@pytest.mark.parametrize("ending", ["os._exit(3)", "os._exit(0)", "sys.exit(4)"])
def test_what_an_app_leaves_beside_the_server_is_no_way_to_the_servers_files(
    scientist: Scientist, secret: Path, ending: str
) -> None:
    names = '"said", "printed", "model.safetensors", "error.json", "result.json"'
    body = f"links({str(secret)!r}, {names}); {ending}"
    answer = scientist.draw(body)
    assert answer.status_code == 422
    assert MARK not in answer.text
    session = scientist.simulated(body)
    assert session.state is SessionState.FAILED
    assert MARK not in session.cause
    assert scientist.rows(ModelRecord) == 0


def test_a_model_of_another_project_is_not_taken_by_a_link(served: Served, scientist: Scientist) -> None:
    theirs = codec.encode(Arrays({"w": np.arange(50_000, dtype=np.float32)}))
    made = served.run(served.server.controller.artifacts.add_model("default", b"".join(theirs), "theirs"))
    file = served.run(served.server.controller.objects.fetch(made.id))
    said = json.dumps({"name": "x", "rounds": 1})
    answer = scientist.draw(f"links({str(file)!r}, 'model.safetensors'); os.write(1, {said!r}.encode()); os._exit(0)")
    assert answer.status_code == 422
    assert "it left no model that can be read" in answer.json()["detail"]
    assert scientist.rows(ModelRecord) == 0


def test_an_app_that_never_stops_talking_is_ended(scientist: Scientist) -> None:
    answer = scientist.draw("while True: os.write(1, b'x' * 65536)")
    assert answer.status_code == 422
    assert "its process says more than 4,194,304 bytes" in answer.json()["detail"]
    session = scientist.simulated("while True: os.write(1, b'x' * 65536)")
    assert session.state is SessionState.FAILED
    assert "says lines without an end" in session.cause


ROUND = {"round": 1, "model_hash": "x", "metrics": {}, "evaluation": {}, "central": {}, "accepted": [], "missing": []}


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "[" * 100_000,
        "[]",
        '{"round": 1}',
        *(json.dumps(ROUND | more) for more in ({"round": 7}, {"metrics": {"a": "b"}}, {"model_hash": "\0"})),
        json.dumps(ROUND | {"seconds": float("inf")}),
    ],
    ids=["text", "deep", "list", "little", "later", "words", "nul", "infinite"],
)
def test_a_simulation_whose_code_speaks_in_hansas_words_fails_and_ends(scientist: Scientist, line: str) -> None:
    session = scientist.simulated(f"os.write(1, {line.encode()!r} + b'\\n'); threading.Event().wait()")
    assert session.state is SessionState.FAILED
    assert "the app's process told of" in session.cause
    assert session.round == 0


def test_of_many_simulations_at_once_so_many_begin_and_no_more(scientist: Scientist) -> None:
    package = scientist.package("threading.Event().wait()")
    gate = threading.Barrier(8)

    def ask(_: int) -> httpx.Response:
        gate.wait()
        return scientist.simulate(package)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    begun = [answer.json()["id"] for answer in answers if answer.status_code == 201]
    assert sorted(answer.status_code for answer in answers) == [201] * 2 + [409] * 6
    for session in begun:
        stopped = scientist.http().post(f"{scientist.base}/sessions/{session}/stop")
        assert stopped.json()["state"] == "stopped"
    assert [line for line, _ in scientist.audited()].count("session.stop") == 2


def test_simulations_count_as_sessions_of_the_projects_quota(served: Served, scientist: Scientist) -> None:
    quotas = served.server.controller.quotas
    package = scientist.package("threading.Event().wait()")
    served.run(quotas.change(scientist.project, {QuotaKind.SESSIONS: 1}, "root"))
    first, second = scientist.simulate(package), scientist.simulate(package)
    assert (first.status_code, second.status_code) == (201, 409)
    model = scientist.client().models.upload({"w": np.zeros(2, np.float32)})
    asked = {"spec": {"name": "y", "rounds": 1}, "seed_model": model.id}
    created = scientist.http().post(f"{scientist.base}/sessions", json=asked).json()["id"]
    refused = scientist.http().post(f"{scientist.base}/sessions/{created}/start")
    assert (refused.status_code, "1 of 1 run" in refused.json()["detail"]) == (409, True)
    assert scientist.http().get(f"{scientist.base}/quota").json()["sessions"]["used"] == 1
    scientist.http().post(f"{scientist.base}/sessions/{first.json()['id']}/stop")
    served.run(quotas.change(scientist.project, {QuotaKind.SESSIONS: None, QuotaKind.STORAGE: 10}, "root"))
    assert scientist.simulate(package).status_code == 409
    assert ("quota", "refused") in scientist.audited()


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "a\nb", "x" * 300])
def test_a_session_that_is_simulated_has_a_name_that_a_session_may_have(scientist: Scientist, name: str) -> None:
    asked = {"package": scientist.package("pass"), "spec": {"name": name, "rounds": 1}}
    for path in ("initial-models", "simulations"):
        assert scientist.http().post(f"{scientist.base}/{path}", json=asked).status_code == 422
    assert scientist.rows(SessionRecord) == scientist.rows(ModelRecord) == 0


def test_a_package_of_another_project_is_not_there(served: Served, scientist: Scientist) -> None:
    theirs = Scientist(served, f"{scientist.project}-of-others").package("print('ours alone')")
    asked = {"package": theirs, "spec": {"name": "x", "rounds": 1}}
    for path in ("initial-models", "simulations"):
        assert scientist.http().post(f"{scientist.base}/{path}", json=asked).status_code == 404
    assert scientist.rows(SessionRecord) == 0


def test_files_with_the_servers_secrets_are_hidden_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: tmp_path / name for name in ("HANSA_STORE_FILE", "HANSA_OIDC_CLIENT_SECRET_FILE", "HANSA_TLS_KEY")}
    for name, file in files.items():
        file.write_text(MARK)
        monkeypatch.setenv(name, str(file))
    rules = _confined(Settings(data=tmp_path / "data"))
    assert {*files.values(), (tmp_path / "data").resolve()} <= set(rules.hidden)
    shown = rules.command(["true"], writable=(), readable=())
    assert rules.tool is not Tool.BWRAP or all(
        shown[shown.index(str(file)) - 1] == "/dev/null" for file in files.values()
    )


def test_nobody_else_on_the_machine_reads_the_servers_folder(served: Served) -> None:
    assert stat.S_IMODE((served.folder / "controller").stat().st_mode) == 0o700


def test_a_server_that_cannot_hide_its_keys_runs_code_of_those_alone_who_have_them(
    served: Served, scientist: Scientist, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = served.server.controller
    monkeypatch.setattr(controller.walls, "confinement", Confinement(Tool.NOTHING, why_not="bwrap is not installed"))
    package = scientist.package("pass")
    for answer in (scientist.draw("pass"), scientist.simulate(package)):
        assert answer.status_code == 403
        assert "which cannot hide its keys from it (bwrap is not installed)" in answer.json()["detail"]
    seed = b"".join(codec.encode(Arrays({"w": np.zeros(2, np.float32)})))
    model = served.run(controller.artifacts.add_model(scientist.project, seed))
    spec = {"name": "x", "rounds": 1, "evaluation": {"central": False}}
    for more, status in (({"functions": ["select"]}, 403), ({"evaluation": {"central": True}}, 403), ({}, 200)):
        asked = {"spec": spec | more, "package": package, "seed_model": model.id}
        made = scientist.http().post(f"{scientist.base}/sessions", json=asked)
        assert made.status_code == 201, made.text
        started = scientist.http().post(f"{scientist.base}/sessions/{made.json()['id']}/start")
        assert started.status_code == status, started.text
        if status == 200:
            scientist.http().post(f"{scientist.base}/sessions/{made.json()['id']}/stop")
    assert scientist.audited().count(("app.run", "refused")) == 4
    root = served.http(served.admin()).post(
        f"{scientist.base}/initial-models", json={"package": package, "spec": {"name": "x", "rounds": 1}}, timeout=100
    )
    assert root.status_code == 201, root.text
