"""The Python client against a real server, with real nodes."""

import http.server
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from blake3 import blake3
from pydantic import ByteSize
from served import Served
from servers import free_port

import hansa
from hansa.api.client import Client
from hansa.api.credentials import Credentials, save_credentials
from hansa.app import load_app
from hansa.errors import (
    AuthenticationError,
    ConfigError,
    ConflictError,
    ConnectionFailedError,
    CorruptionError,
    InputError,
    NotFoundError,
    WireError,
)
from hansa.messages import RoundRules, RunSpec
from hansa.network.client.policy import Outbound, SitePolicy
from hansa.packages.package import build, read
from hansa.packages.signature import new_key, read_key
from hansa.run import resolve
from hansa.store.records import SessionState
from hansa.wire import codec
from hansa.wire.frames import Role

TWO = RoundRules(min_clients=2, quorum=2, deadline=60)


def test_a_session_from_start_to_download(fresh: Served, app: Path, tmp_path: Path) -> None:
    fresh.run(fresh.nodes.clients(2))
    with fresh.client() as client:
        session = client.sessions.start(app, name="heart", rounds=3, seed=5, rules=TWO)
        assert session.state is SessionState.RUNNING
        kinds = [happened.kind for happened in client.sessions.watch("heart")]
        ended = client.sessions.wait("heart")
        assert (ended.state, ended.round, ended.id) == (SessionState.FINISHED, 3, session.id)
        assert kinds.count("round.committed") == 3
        assert kinds[-1] == "session.finished"

        rounds = client.rounds.list(session=session.id, sort="-number")
        assert [record.number for record in rounds] == [3, 2, 1]
        assert client.rounds.get(session.id, 2) == rounds[1]
        assert rounds[0].weight == 10 + 11
        contributions = client.rounds.contributions(session.id, 3)
        assert [(record.client, record.outcome) for record in contributions] == [
            ("client-0", "accepted"),
            ("client-1", "accepted"),
        ]
        merged = client.metrics.validations(session=session.id, round=3, client="")
        assert [metric.name for metric in merged] == ["mse"]

        assert ended.model is not None
        file = client.models.download(ended.model[:10], tmp_path / "model.safetensors")
        assert blake3(file.read_bytes()).hexdigest() == ended.model
        trail = client.models.ancestors(ended.model)
        assert [model.round for model in trail] == [2, 1, 0]
        seed = resolve(RunSpec(seed=5)).initial_model(load_app(app))
        assert trail[2].id == codec.digest(seed) == session.seed_model
        assert ended.model in {model.id for model in client.models.descendants(trail[2].id)}
        assert sorted(node.name for node in client.clients.list(connected=True)) == ["client-0", "client-1"]
        client.sessions.delete("heart")
        assert client.sessions.list().total == 0


def test_a_session_is_stopped_and_resumed_to_the_same_model(fresh: Served, app: Path, tmp_path: Path) -> None:
    fresh.run(fresh.nodes.clients(2))
    client, gate = fresh.client(), tmp_path / "gate"
    spec = RunSpec(name="long", rounds=4, seed=3, rules=TWO, config={"gate": str(gate)})
    client.sessions.start(app, spec)
    seen = client.sessions.watch("long")
    next(happened for happened in seen if happened.kind == "round.committed")
    stopped = client.sessions.stop("long")
    assert (stopped.state, stopped.cause) == (SessionState.STOPPED, "stopped by ada")
    assert "it is stopped, stopped by ada" in client.sessions.why("long").sentence
    assert [happened.kind for happened in seen][-1] == "session.stopped"

    gate.touch()
    resumed = client.sessions.resume("long")
    assert resumed.state is SessionState.RUNNING
    told = list(client.sessions.watch("long"))  # from the beginning: the stop is in it, and does not end it
    assert [happened.kind for happened in told if happened.kind in {"session.stopped", "session.finished"}] == [
        "session.stopped",
        "session.finished",
    ]
    ended = client.sessions.get("long")
    assert ended.model == hansa.simulate(app, spec, clients=2).model_hash
    whole = client.sessions.verify("long")
    assert (whole.rounds, whole.contributions) == (4, 8)
    assert whole.head == client.rounds.get(ended.id, 4).link
    with pytest.raises(CorruptionError, match="later rounds are lost"):
        client.sessions.verify("long", head="0" * 64)
    newest = client.events.list(limit=1).cursor
    assert list(client.sessions.watch("long", after=newest)) == []
    with pytest.raises(ConflictError, match="has finished its 4 rounds"):
        client.sessions.resume("long")


def test_why_says_whom_a_session_waits_for(served: Served, app: Path) -> None:
    client = served.client()
    session = client.sessions.start(app, name="lonely", rules=TWO)
    while (waiting := client.sessions.why("lonely")).phase is None:  # until its first round is opened
        assert waiting.state is SessionState.RUNNING
    assert "0 connected, 2 needed" in waiting.sentence
    assert (waiting.phase.needed, waiting.phase.outstanding) == (2, ())
    assert str(waiting.phase) == waiting.sentence
    client.sessions.stop(session.id)
    client.sessions.delete(session.id)


def test_a_metric_that_is_nan_travels_as_null(fresh: Served, app: Path) -> None:
    fresh.run(fresh.nodes.clients(2))
    client = fresh.client()
    session = client.sessions.start(app, rounds=1, rules=TWO, config={"nan": True})
    client.sessions.wait(session.id)
    metrics = client.metrics.list(session=session.id, name="loss")
    assert metrics.total > 0
    assert all(math.isnan(metric.value) for metric in metrics)
    assert math.isnan(client.rounds.get(session.id, 1).metrics["loss"])


LEARNS = """
import hansa
from hansa.training.numpy import NumpyTrainer, softmax_regression

def local(learning_rate=0.1):
    return NumpyTrainer(softmax_regression(2, 2), learning_rate)

app = hansa.App(local)
"""


def test_a_setting_that_the_app_does_not_read_is_refused_unless_clients_bring_their_own(
    served: Served, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(LEARNS)
    client = served.client()
    with pytest.raises(ConfigError, match=r"the app has no setting 'learning_rat', .* Did you mean 'learning_rate'\?"):
        client.sessions.prepare(tmp_path / "app.py", config={"learning_rat": 1.0})
    client.sessions.prepare(tmp_path / "app.py", config={"path": "/data"}, package=False)


def test_a_name_that_two_sessions_have_must_be_an_id(served: Served, app: Path) -> None:
    client = served.client()
    one, two = (client.sessions.prepare(app, name="twin") for _ in range(2))
    with pytest.raises(InputError, match="could be 2 sessions of project 'default'"):
        client.sessions.get("twin")
    assert client.sessions.get(one.id) == one
    for session in (one, two):
        client.sessions.delete(session.id)


def test_a_new_project_is_its_members_and_nobody_elses(served: Served, app: Path) -> None:
    root = served.client("cardiology", served.admin())
    assert root.projects.create("cardiology").id == "cardiology"
    eve = served.client("cardiology", served.person("eve"))
    with pytest.raises(NotFoundError, match="eve knows no project 'cardiology'"):
        eve.sessions.list()
    root.members.add("eve", "owner")
    theirs = served.client("cardiology", eve.tokens.create("nightly", "maintainer").token)
    assert [project.id for project in theirs.projects.list()] == ["cardiology"]
    me = theirs.me()
    assert (me.name, me.role, me.project, me.admin) == ("eve", Role.PERSON, "cardiology", False)
    assert (me.roles, eve.me().roles) == ({"cardiology": "owner bounded to maintainer"}, {"cardiology": "owner"})
    session = theirs.sessions.prepare(app)
    assert session.project == "cardiology"
    with pytest.raises(NotFoundError):
        served.client().sessions.get(session.id)
    info = theirs.server()
    assert info.grpc_address == served.server.grpc_address
    assert (info.version, info.clients) == (hansa.__version__, 0)


def test_a_server_that_is_not_there_is_named_with_what_to_do() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    said = f"no hansa server answers at {url} .*hansa up"
    with pytest.raises(ConnectionFailedError, match=said), Client(url, "token", "default") as client:
        client.me()
    for wrong in ("localhost:8470", "ftp://x", "http://x:port", ""):
        with pytest.raises(InputError, match="cannot be a server's URL"), Client(wrong, "token", "default") as client:
            client.me()


def test_another_web_server_is_told_from_hansa() -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.endswith("me") else 502)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        with Client(f"http://127.0.0.1:{other.server_port}", "token", "default") as client:
            with pytest.raises(WireError, match="is it a hansa server"):
                client.me()
            with pytest.raises(ConnectionFailedError, match="status 502"):
                client.server()
        other.shutdown()
        thread.join()


def test_connect_takes_what_is_not_given_from_the_environment_and_then_from_what_was_saved(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config" / "credentials.json"
    for name in ("HANSA_URL", "HANSA_TOKEN", "HANSA_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HANSA_CREDENTIALS", str(file))
    with pytest.raises(AuthenticationError, match="log in with `hansa login https://127"):
        hansa.connect()
    trust = served.server.trust
    save_credentials(file, Credentials(served.url, served.token(), "default", trust.roots, trust.name))
    assert file.stat().st_mode & 0o777 == 0o600
    with hansa.connect() as client:
        assert client.me().name == "ada"
    with pytest.raises(AuthenticationError, match="no token for http://elsewhere:1"):  # it is not sent to strangers
        hansa.connect("http://elsewhere:1")
    monkeypatch.setenv("HANSA_URL", served.url)
    monkeypatch.setenv("HANSA_TOKEN", served.token(name="grace"))
    with hansa.connect() as client:
        assert (client.me().name, client.project) == ("grace", "default")
        assert "eyJ" not in repr(client)
    file.write_text("{")
    with pytest.raises(InputError, match="delete the file"):
        hansa.connect()


def test_the_client_loads_nothing_that_only_a_server_has() -> None:
    code = (
        "import sys, hansa; hansa.connect; import hansa.store.records; "
        "print([name for name in ('fastapi', 'starlette', 'uvicorn', 'sqlalchemy', 'jwt', 'cryptography', 'torch') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_key_signs_what_is_packed_here_and_a_packages_file_travels_as_it_is(served: Served, tmp_path: Path) -> None:
    new_key(tmp_path / "key.pem")
    (tmp_path / "app.py").write_text("import hansa\n\napp = hansa.App()\n")
    plain = tmp_path / "ward.hansa"
    plain.write_bytes(build(tmp_path / "app.py", name="ward"))
    with Client(served.url, served.token(), "default", served.server.trust, package_key=tmp_path / "key.pem") as client:
        signed = client.packages.upload(tmp_path / "app.py", "ward")
        as_it_is = client.packages.upload(plain)
        with pytest.raises(InputError, match="has its name already"):
            client.packages.upload(plain, "other")
    assert as_it_is.id == read(plain.read_bytes()).id
    assert signed.name == as_it_is.name == "ward"
    assert signed.id == read(build(tmp_path / "app.py", name="ward", key=read_key(tmp_path / "key.pem"))).id


def test_a_session_goes_on_beyond_its_rounds_and_starts_from_a_file(fresh: Served, app: Path, tmp_path: Path) -> None:
    fresh.run(fresh.nodes.clients(2))
    with fresh.client() as client:
        first = client.sessions.start(app, name="short", rounds=1, rules=TWO)
        assert client.sessions.wait(first.id).round == 1
        assert client.sessions.resume(first.id, rounds=1).rounds == 2
        ended = client.sessions.wait(first.id)
        assert (ended.state, ended.round) == (SessionState.FINISHED, 2)
        file = client.models.download(ended.model or "", tmp_path / "model.safetensors")
        second = client.sessions.start(
            app, name="from-a-file", rounds=1, rules=TWO, seed_model=file, model_prefix="ward"
        )
        assert second.seed_model == ended.model
        last = client.sessions.wait(second.id)
        assert client.models.list(session=second.id)[0].name == "ward-1"
        assert (
            last.model == hansa.simulate(app, clients=2, rounds=1, rules=TWO, initial_model=codec.load(file)).model_hash
        )


def test_operators_label_clients_by_which_they_are_listed(fresh: Served) -> None:
    fresh.run(fresh.nodes.client("north", labels={"region": "eu"}))
    fresh.run(fresh.nodes.client("south"))
    with fresh.client() as client:
        labelled = client.clients.label("south", {"region": "eu", "tier": "1"})
        assert (labelled.labels, labelled.assigned) == ({}, {"region": "eu", "tier": "1"})
        assert [each.name for each in client.clients.list(label=["region=eu"], sort="name")] == ["north", "south"]
        assert [each.name for each in client.clients.list(label=["region=eu", "tier=1"])] == ["south"]
        assert client.clients.label("south", {"tier": None}).assigned == {"region": "eu"}
        with pytest.raises(NotFoundError):
            client.clients.label("west", {"region": "eu"})


def test_a_prediction_from_a_session_to_its_answers(fresh: Served, app: Path, tmp_path: Path) -> None:
    mine = tmp_path / "predicting.py"
    more = "@app.predict\ndef predict(model, task):\n    return {'w0': model['w'][0] * 0}\n"
    mine.write_text(f"{app.read_text()}\n\n{more}")
    fresh.run(fresh.nodes.client("north", policy=SitePolicy(outbound=Outbound(predictions=ByteSize(1000)))))
    fresh.run(fresh.nodes.client("south"))
    with fresh.client() as client:
        trained = client.sessions.start(mine, name="trained", rounds=1, rules=TWO)
        assert client.sessions.wait(trained.id).state is SessionState.FINISHED
        begun = client.predictions.start(session="trained", rules=RoundRules(only=("north", "south"), min_clients=2))
        assert begun.model == client.sessions.get(trained.id).model
        over = client.predictions.wait(begun.id)
        assert (over.state, over.answered, over.asked) == (SessionState.FINISHED, 1, 2), over.cause
        north, south = client.predictions.answers(begun.id)
        assert (north.client, north.value, south.value) == ("north", {"w0": 0.0}, None)
        assert "this site's policy" in south.reason
        assert client.predictions.list()[0].id == begun.id
        assert "waits for nothing" in client.predictions.why(begun.id).sentence
        with pytest.raises(ConflictError):
            client.predictions.stop(begun.id)
        client.predictions.delete(begun.id)
        with pytest.raises(NotFoundError):
            client.predictions.get(begun.id)
        with pytest.raises(InputError, match="say which model predicts"):
            client.predictions.start()
