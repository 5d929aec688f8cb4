"""FEDn 0.33.0 itself, from its package and unchanged, against a hansa server: clients, scripts and commands."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fedn_fleet import differences
from processes import Hansa, Server, line_with

from hansa.compat.fedn.split import LogisticTop, logistic_score
from hansa.distributed import Split, aligned_vertical, run, star
from hansa.messages import ClientInfo
from hansa.training.numpy_parts import DenseBottom
from hansa.wire.authority import Authority

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLIENT = """
import io, os, sys
import numpy as np
from fedn.network.clients.fedn_client import ConnectToApiResult, FednClient

url, name, amount = sys.argv[1], sys.argv[2], int(sys.argv[3])
token, preferred, holds = os.environ.get("TOKEN"), os.environ.get("PREFERRED", ""), os.environ.get("HOLDS", "").split()
trained = 0

def load(model):
    model.seek(0)
    with np.load(model) as file:
        return [file[str(i)] for i in range(len(file.files))]

def train(model, settings):
    global trained
    trained += 1
    print("training", trained, flush=True)
    if str(trained) in holds:
        open("hold").read()  # a pipe: until somebody has written to it, and closed it
    arrays = [each + np.float32(amount) for each in load(model)]
    client.log_metric({"loss": 0.0})
    out = io.BytesIO()
    np.savez_compressed(out, **{str(i): each for i, each in enumerate(arrays)})
    return out, {"training_metadata": {"num_examples": amount}}

client = FednClient(train, lambda model: {"mean": float(load(model)[0].mean())}, lambda model: {"sum": 1.0})
client.set_client_id(name)
client.set_name(name)
told = {"name": name, "client_id": name, "preferred_combiner": preferred, "package": "local"}
result, combiner = client.connect_to_api(url, token, told)
assert result == ConnectToApiResult.Assigned, combiner
client.init_grpchandler(config=combiner, client_name=name, token=token)
client.log_attributes({"charging": "yes"})
print("joined", flush=True)
client.run(with_telemetry=True, with_heartbeat=True)
"""

SCRIPT = """
import inspect, json, sys, time
from fedn import APIClient

api = APIClient("localhost", int(sys.argv[1]))
answers, called = {}, set()

def ask(method, *given, answer="", **named):
    called.add(method)
    told = getattr(api, method)(*given, **named)
    if answer:
        answers[answer] = told
    return told

assert ask("set_active_model", "seed.npz")["success"]
assert ask("set_active_package", "package.tgz", "numpyhelper", "adds", "") == {"message": "Package uploaded"}
print("ready", flush=True)
while ask("get_active_clients")["count"] < 4:
    time.sleep(0.2)
session = ask("start_session", name="real", rounds=4, min_clients=4, round_timeout=120)["session_id"]
print(session, flush=True)

def patiently(ask):
    while True:
        try:
            return ask()
        except Exception:  # the server is away
            time.sleep(0.5)

while patiently(lambda: ask("session_is_finished", session)) is not True:
    time.sleep(0.2)
model = ask("get_active_model")["model_id"]
while ask("get_validations", model_id=model)["count"] < 4:
    time.sleep(0.2)
first = lambda found: found["result"][0]
for noun in ("client", "combiner", "model", "package", "round", "session", "status", "validation"):
    many = noun + ("es" if noun == "status" else "s")
    listed = ask(f"get_{many}", answer=f"{many}_list")
    ask(f"get_{many}_count", answer=f"{many}_count")
    ask(f"get_{noun}", first(listed)[f"{noun}_id"], answer=f"{many}_get")
ask("get_statuses", session_id=session, event_type="MODEL_UPDATE", n_max=3, answer="statuses_list")
ask("get_models", session_id=session, n_max=2, answer="models_list")
assert ask("get_sessions", name="real")["count"] == 1
assert ask("get_session", name="real")["session_id"] == session
assert ask("get_session_status", session) == "Finished"
ask("get_controller_status", answer="controller_status")
ask("get_active_package", answer="package_active")
ask("get_model_trail", model, answer="model_ancestors")
ask("get_client_config", checksum=False, answer="client_config")
assert len(ask("get_package_checksum")["checksum"]) == 64
charging = {"key": "charging", "value": "no", "sender": {"name": "x", "role": "CLIENT", "client_id": "x"}}
ask("add_attributes", charging, answer="attributes_add")
assert ask("get_current_attributes", ["a", "x"]) == {"a": {"charging": "yes"}, "x": {"charging": "no"}}
assert ask("download_model", model, "out.npz")["success"]
assert ask("download_package", "again.tgz")["success"]
assert ask("start_predictions", "p", model_id=model) == {"message": "Prediction session started"}
while ask("get_predictions", model_id=model)["count"] < 2:
    time.sleep(0.2)
ask("get_predictions", model_id=model, sender_role="CLIENT", answer="predictions_list")
assert ask("continue_session", session, rounds=1) == {"message": "Session started"}
while not (ask("get_rounds_count") == 5 and ask("session_is_finished", session)):
    time.sleep(0.2)
assert "required minimum of 9" in ask("start_splitlearning_session", name="split", min_clients=9)["message"]
methods = {name for name, _ in inspect.getmembers(APIClient, inspect.isfunction) if not name.startswith("_")}
print(json.dumps({"answers": answers, "left out": sorted(methods - called)}), flush=True)
"""

SPLIT_CLIENT = """
import io, os, sys
import numpy as np
from fedn.network.clients.fedn_client import FednClient

url, name = sys.argv[1], sys.argv[2]
x, test, weights = (np.load(f"../{each}-{name}.npy") for each in ("train", "test", "weights"))

def forward(client_id, is_sl_inference):
    out = io.BytesIO()
    np.savez_compressed(out, **{client_id: (test if is_sl_inference == "True" else x) @ weights})
    return out, {"training_metadata": {"num_examples": len(x)}}

def backward(gradients, client_id):
    global weights
    gradients.seek(0)
    with np.load(gradients) as file:
        weights = weights - np.float32(0.1) * (x.T @ file[client_id])
    np.save(f"../trained-{name}.npy", weights)
    return {}

client = FednClient()
client.set_forward_callback(forward)
client.set_backward_callback(backward)
client.set_client_id(name)
client.set_name(name)
told = {"name": name, "client_id": name, "preferred_combiner": "", "package": "local"}
result, combiner = client.connect_to_api(url, None, told)
client.init_grpchandler(config=combiner, client_name=name, token=None)
print("joined", flush=True)
client.run(with_telemetry=False, with_heartbeat=True)
"""

FORWARD = """
import sys
import numpy as np
from fedn.utils.helpers.helpers import save_metadata
client, out, testing = sys.argv[1:]
x = np.load(("test" if testing == "True" else "train") + f"-{client}.npy")
with open(out, "wb") as file:
    np.savez_compressed(file, **{client: x @ np.load(f"weights-{client}.npy")})
save_metadata({"num_examples": len(x)}, out)
"""

BACKWARD = """
import sys
import numpy as np
gradients, client = sys.argv[1:]
with np.load(gradients) as file:
    weights = np.load(f"weights-{client}.npy") - np.float32(0.1) * (np.load(f"train-{client}.npy").T @ file[client])
np.save(f"weights-{client}.npy", weights)
"""

PROBE = """
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
health = health_pb2_grpc.HealthStub(grpc.insecure_channel(sys.argv[1]))
print(health.Check(health_pb2.HealthCheckRequest(service="")).status)
"""

SPLIT_SCRIPT = """
import sys, time
from fedn import APIClient

api = APIClient("localhost", int(sys.argv[1]))
while api.get_active_clients()["count"] < 2:
    time.sleep(0.2)
told = api.start_splitlearning_session(name="split", rounds=5, min_clients=2, round_timeout=120, validate=True)
assert told["message"] == "Splitlearning session started", told
while not api.session_is_finished(told["session_id"]):
    time.sleep(0.2)
print(api.get_session_status(told["session_id"]), flush=True)
"""

COMMANDS = """
import json
import click
from fedn.cli import main

def walk(command, path):
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from walk(each, (*path, name))
    else:
        yield " ".join(path)

print(json.dumps(sorted(walk(main, ()))))
"""

NOUNS = ("client", "combiner", "model", "package", "round", "session", "status", "validation")
STARTED = {"client start", "session start", "model set-active"}
"""Commands that the first test runs by themselves."""
LOCAL = {"package create", "run build", "run startup", "run train", "run validate"}
"""Commands that need no server."""
NOT_OURS = {
    "client get-config": "asks FEDn's Studio", "combiner start": "FEDn's own server", "controller start": "the same",
    "hooks start": "the same", "run combiner": "the same", "studio login": "FEDn's Studio",
    **dict.fromkeys(
        (f"project {verb}" for verb in ("add-combiner", "create", "delete", "get", "list", "set-context", "update")),
        "FEDn's Studio",
    ),
}  # fmt: skip

TRAIN = """
import sys
import numpy as np
from fedn.utils.helpers.helpers import get_helper, save_metadata
helper = get_helper("numpyhelper")
helper.save([each + np.float32(10) for each in helper.load(sys.argv[1])], sys.argv[2])
save_metadata({"num_examples": 10}, sys.argv[2])
"""

VALIDATE = """
import sys
from fedn.utils.helpers.helpers import save_metrics
save_metrics({"mean": 0.0}, sys.argv[2])
"""

ANSWERS: dict[str, Any] = json.loads(Path(__file__).with_name("fedn_answers.json").read_text())


@pytest.fixture(scope="module")
def fedn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of FEDn's own programs, in an environment of its own; FEDN_VENV names one that is there."""
    given = os.environ.get("FEDN_VENV")  # noqa: TID251 - of whoever runs the tests
    if given:
        return Path(given) / "bin"
    folder = tmp_path_factory.mktemp("fedn") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", "fedn==0.33.0"], check=True)
    return folder / "bin"


@pytest.fixture
def hansa(tmp_path: Path) -> Iterator[Hansa]:
    (tmp_path / "network").mkdir()
    made = Hansa(tmp_path / "network")
    made.environment |= {"HANSA_FEDN_TLS": "off", "HANSA_FEDN_WEAK": "joining"}
    yield made
    made.end()


def package(folder: Path) -> None:
    (folder / "adds").mkdir()
    (folder / "adds" / "train.py").write_text(TRAIN)
    (folder / "adds" / "validate.py").write_text(VALIDATE)
    (folder / "adds" / "fedn.yaml").write_text(
        "entry_points:\n"
        + "".join(f"  {name}:\n    command: python {name}.py\n" for name in ("build", "startup", "train", "validate"))
    )
    for name in ("build", "startup"):
        (folder / "adds" / f"{name}.py").write_text(f"open('{name}.done', 'w').close()\n")
    with tarfile.open(folder / "package.tgz", "w:gz") as file:
        file.add(folder / "adds", arcname="adds")


def up(hansa: Hansa, folder: Path, rest: int = 0, grpc: int = 0) -> Server:
    hansa.environment |= {"HANSA_FEDN_PORT": str(rest), "HANSA_FEDN_GRPC_PORT": str(grpc)}
    return hansa.up("--fedn", "--data", folder / "data")


class Programs:
    """FEDn's programs, each in a folder of its own."""

    def __init__(self, folder: Path, programs: Path, hansa: Hansa, server: Server) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        self.url = server.facts["fedn_url"].replace("127.0.0.1", "localhost")
        self.token = json.loads((hansa.folder / "credentials.json").read_text())["token"]
        self.environment = {
            "PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder), "FEDN_AUTH_TOKEN": self.token,
            "FEDN_CONTROLLER_URL": self.url,
        }  # fmt: skip
        self._programs = programs
        (folder / "client.py").write_text(CLIENT)
        (folder / "script.py").write_text(SCRIPT)
        (folder / "commands.py").write_text(COMMANDS)
        package(folder)
        np.savez(folder / "seed.npz", **{"0": np.zeros(3, np.float32), "1": np.zeros((2, 2), np.float32)})

    def start(self, program: str, *arguments: object, inside: str = "", **environment: str) -> "subprocess.Popen[str]":
        """inside: the folder, by its name; by default one that is made for it."""
        own = self.folder / f"p{len(self.started)}"
        own.mkdir()
        with (own / "err").open("w") as errors:
            process = subprocess.Popen(
                [str(self._programs / program), *map(str, arguments)],
                cwd=self.folder / (inside or own.name), env=self.environment | environment,
                stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def said(self, process: "subprocess.Popen[str]", text: str) -> str:
        """The next line that begins so."""
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(text):
                return line.strip()
        number = self.started.index(process)
        raise AssertionError((self.folder / f"p{number}" / "err").read_text())

    def run(self, *arguments: object) -> str:
        """What a command of FEDn's says."""
        done = subprocess.run(
            [self._programs / arguments[0], *map(str, arguments[1:])],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout + done.stderr

    def client(self, name: str, amount: int, **environment: str) -> "subprocess.Popen[str]":
        """One that has joined."""
        client = self.start("python", self.folder / "client.py", f"{self.url}/", name, amount, **environment)
        self.said(client, "joined")
        return client

    def end(self) -> None:
        for each in self.started:
            each.kill()
        for each in self.started:
            each.wait()
            if each.stdout is not None:
                each.stdout.close()


def test_clients_scripts_commands_and_packages_run_as_they_are_and_over_a_kill(
    hansa: Hansa, fedn: Path, tmp_path: Path
) -> None:
    server = up(hansa, tmp_path)
    programs = Programs(tmp_path, fedn, hansa, server)
    url, token = programs.url, programs.token
    port, grpc_port = (int(server.facts[each].rpartition(":")[2]) for each in ("fedn_url", "fedn_grpc_address"))
    try:
        script = programs.start("python", "script.py", port, inside=".")
        programs.said(script, "ready")
        for name, amount in (("a", 1), ("b", 3)):
            programs.client(name, amount)
        programs.start("fedn", "client", "start", "-u", url, "-n", "remote")
        (tmp_path / "own").mkdir()
        shutil.copytree(tmp_path / "adds", tmp_path / "own" / "client")
        programs.start("fedn", "client", "start", "-u", url, "-n", "local", "--local-package", inside="own")
        session = programs.said(script, "")  # it is under way
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        up(hansa, tmp_path, port, grpc_port)
        told = json.loads(programs.said(script, "{"))
        there = json.loads(programs.run("python", "commands.py"))
        known = {f"{noun} {verb}" for noun in NOUNS for verb in ("get", "list")} | STARTED | LOCAL | NOT_OURS.keys()
        listed = {noun: programs.run("fedn", noun, "list", "-t", token, "--n_max", 2) for noun in NOUNS}
        of_session = {
            noun: programs.run("fedn", noun, "list", "-t", token, "-s", session)
            for noun in ("model", "round", "status", "validation")
        }
        gotten = {}
        for noun in NOUNS:
            many = noun + ("es" if noun == "status" else "s")
            name = told["answers"][f"{many}_get"][f"{noun}_id"]
            gotten[noun] = programs.run("fedn", noun, "get", "-t", token, "-id", name)
        active = programs.run("fedn", "model", "set-active", "-t", token, "-f", "seed.npz")
        programs.run("fedn", "package", "create", "-p", "adds", "-n", "made.tgz")
        for entry in ("build", "startup"):
            programs.run("fedn", "run", entry, "-p", "adds", "-v")
        for entry, made in (("train", "train.npz"), ("validate", "validate.json")):
            files = ("-i", tmp_path / "seed.npz", "-o", tmp_path / made)
            programs.run("fedn", "run", entry, "-p", "adds", *files, "-v")
        begun = programs.run("fedn", "session", "start", "-t", token, "-n", "cli", "-r", 1, "-mc", 4)
    finally:
        programs.end()
    assert told["left out"] == []
    assert set(there) == known
    flaws = [flaw for name, body in told["answers"].items() for flaw in differences(ANSWERS[name]["body"], body, name)]
    assert flaws == []
    with np.load(tmp_path / "out.npz") as file:
        assert file["0"].tolist() == pytest.approx([4 * (1 + 9 + 100 + 100) / 24] * 3, rel=1e-6)
    assert (tmp_path / "again.tgz").read_bytes() == (tmp_path / "package.tgz").read_bytes()
    assert {noun: text for noun, text in (listed | of_session | gotten).items() if "Found" not in text} == {}
    assert "Error" not in active
    assert {path.name for path in tmp_path.glob("adds/*.done")} == {"build.done", "startup.done"}
    assert [(tmp_path / name).exists() for name in ("made.tgz", "train.npz", "validate.json")] == [True] * 3
    assert "started successfully" in begun


def test_a_session_goes_on_when_its_combiner_and_its_controller_are_killed(
    hansa: Hansa, fedn: Path, tmp_path: Path
) -> None:
    """Each while a client trains, which hands in what it has made when they are gone, or back."""
    server = up(hansa, tmp_path)
    programs = Programs(tmp_path, fedn, hansa, server)
    port, grpc_port = (int(server.facts[each].rpartition(":")[2]) for each in ("fedn_url", "fedn_grpc_address"))
    token = hansa.json("token", "create", "north", "--role", "combiner")["token"]
    combiner = hansa.start("combiner", "start", *server.join_options, "--json", HANSA_TOKEN=token)
    line_with(combiner, '"connected"')
    api = {"base_url": programs.url, "headers": {"Authorization": f"Bearer {programs.token}"}, "timeout": 30}
    try:
        programs.run("fedn", "model", "set-active", "-t", programs.token, "-f", "seed.npz")
        held = programs.client("a", 1, PREFERRED="north", HOLDS="2 3")
        programs.client("b", 3, PREFERRED="north")
        os.mkfifo(tmp_path / "p0" / "hold")
        programs.run("fedn", "session", "start", "-t", programs.token, "-n", "long", "-r", 4, "-mc", 2)
        programs.said(held, "training 2")
        with httpx.Client(**api) as client:
            attached = {each["client_id"]: each["combiner"] for each in client.get("/api/v1/clients/").json()["result"]}
        combiner.kill()
        combiner.wait()
        (tmp_path / "p0" / "hold").write_text("go on")
        programs.said(held, "training 3")
        server.process.kill()
        server.process.wait()
        server = up(hansa, tmp_path, port, grpc_port)
        (tmp_path / "p0" / "hold").write_text("go on")
        ended = hansa.run("session", "watch", "long", timeout=200)
        with httpx.Client(**api) as client:
            session = client.get("/api/v1/sessions/?name=long").json()["result"][0]
            rounds = [
                each["combiners"][0]["data"]["aggregation_time"]["nr_aggregated_models"]
                for each in client.get("/api/v1/rounds/").json()["result"]
            ]
            model = client.get(f"/api/v1/models/{session['session_config']['model_id']}/parameters").json()["array"]
    finally:
        programs.end()
    assert attached == {"a": "north", "b": "north"}
    assert session["status"] == "Finished", ended.stdout + ended.stderr
    assert rounds == [2] * 4, "what was summed at the combiner is offered again"
    assert model[0] == pytest.approx([4 * 2.5] * 3, rel=1e-6)


def test_split_learning_has_the_result_of_one_process(hansa: Hansa, fedn: Path, tmp_path: Path) -> None:
    """A client with callbacks, and one of `fedn client start` with a package's entry points."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(50, 6)).astype(np.float32)
    y = (x.sum(axis=1) > 0).astype(np.float32)
    columns = {"a": slice(0, 3), "b": slice(3, 6)}
    weights = {name: rng.normal(size=(3, 2)).astype(np.float32) for name in columns}
    (tmp_path / "labels").mkdir()
    np.savez(tmp_path / "labels" / "labels.npz", y_train=y[:40], y_test=y[40:])
    home = tmp_path / "own" / "client"
    home.mkdir(parents=True)
    for name, folder in (("a", tmp_path), ("b", home)):
        own = x[:, columns[name]]
        for which, each in (("train", own[:40]), ("test", own[40:]), ("weights", weights[name])):
            np.save(folder / f"{which}-{name}.npy", each)
    for name, text in (("forward", FORWARD), ("backward", BACKWARD)):
        (home / f"{name}.py").write_text(text)
    (home / "fedn.yaml").write_text(
        "entry_points:\n" + "".join(f"  {name}:\n    command: python {name}.py\n" for name in ("forward", "backward"))
    )
    hansa.environment["HANSA_CENTRAL_DATA"] = str(tmp_path / "labels")
    server = up(hansa, tmp_path)
    programs = Programs(tmp_path, fedn, hansa, server)
    (tmp_path / "split_client.py").write_text(SPLIT_CLIENT)
    (tmp_path / "split_script.py").write_text(SPLIT_SCRIPT)
    try:
        client = programs.start("python", tmp_path / "split_client.py", f"{programs.url}/", "a")
        programs.said(client, "joined")
        local = ("--local-package", "-n", "b", "-i", "b")
        programs.start("fedn", "client", "start", "-u", programs.url, *local, inside="own")
        script = programs.start("python", "split_script.py", programs.url.rpartition(":")[2], inside=".")
        status = programs.said(script, "")
        probed = programs.run("python", "-c", PROBE, server.facts["fedn_grpc_address"])
        metrics = {
            each["name"]: each["value"]
            for each in map(json.loads, hansa.run("metrics", "split", "--clients", "--json").stdout.splitlines())
            if each["client"] == "central"
        }
    finally:
        programs.end()

    def data(client: ClientInfo) -> Split:
        of = y if client.index == 0 else x[:, columns["_ab"[client.index]]]
        return Split(of[:40], of[40:])

    def bottom(party: int, _: np.random.Generator) -> DenseBottom:
        return DenseBottom({"weight0": weights["_ab"[party]]}, 0.1, rectify_last=False)

    program = aligned_vertical(LogisticTop, data, score=logistic_score, bottom=bottom, rounds=5)
    lead, first, second = run(program, star(3), seed=0).results
    assert status == "Finished"
    assert probed.split() == ["1"]
    assert np.load(tmp_path / "trained-a.npy") == pytest.approx(first.part["weight0"], rel=1e-5)
    assert np.load(home / "weights-b.npy") == pytest.approx(second.part["weight0"], rel=1e-5)
    assert metrics["losses"] == pytest.approx(lead.losses[-1], rel=1e-5)
    assert metrics["accuracies"] == lead.accuracies[-1]


def test_clients_verify_a_server_by_tls_and_send_it_their_tokens(hansa: Hansa, fedn: Path, tmp_path: Path) -> None:
    """As FEDn's clients do it: at port 443, against the system's authorities, or one that is named, and then untold."""
    with closing(socket.socket()) as probe:
        try:
            probe.bind(("127.0.0.1", 443))
        except OSError as error:
            pytest.skip(f"FEDn's clients speak TLS at port 443 alone, which cannot be had here: {error}")
    authority = Authority.new()
    shown = authority.certify(["localhost", "127.0.0.1"])
    for name, text in (("ca.pem", authority.certificate), ("chain.pem", shown.chain), ("key.pem", shown.key)):
        (tmp_path / name).write_text(text)
    hansa.environment |= {
        "HANSA_TLS_CERT": str(tmp_path / "chain.pem"), "HANSA_TLS_KEY": str(tmp_path / "key.pem"),
        "HANSA_FEDN_TLS": "on", "HANSA_FEDN_WEAK": "calls", "HANSA_FEDN_ADVERTISE": "localhost:443",
        "HANSA_HOST": "127.0.0.1",
    }  # fmt: skip
    server = up(hansa, tmp_path, grpc=443)
    hansa.environment["HANSA_CA"] = str(tmp_path / "ca.pem")
    programs = Programs(tmp_path, fedn, hansa, server)
    authorities = {"REQUESTS_CA_BUNDLE": str(tmp_path / "ca.pem")}
    programs.environment |= authorities
    roots = {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(tmp_path / "ca.pem")}
    named = {"FEDN_GRPC_ROOT_CERT_PATH": str(tmp_path / "ca.pem")}
    try:
        programs.run("fedn", "model", "set-active", "-t", programs.token, "-f", "seed.npz")
        for name, amount, way in (("a", 1, roots), ("b", 3, named)):
            token = hansa.json("token", "create", name)["token"]
            programs.client(name, amount, TOKEN=token, **way)
        doubting = programs.start("python", tmp_path / "client.py", f"{programs.url}/", "c", 1, REQUESTS_CA_BUNDLE="")
        verify = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        headers = {"Authorization": f"Bearer {programs.token}"}
        with httpx.Client(base_url=programs.url, headers=headers, verify=verify, timeout=30) as client:
            while client.get("/api/v1/clients/count?status=online").json() < 2:
                time.sleep(0.1)
        programs.run("fedn", "session", "start", "-t", programs.token, "-n", "secure", "-r", 2, "-mc", 2)
        hansa.run("session", "watch", "secure", timeout=200)
        with httpx.Client(base_url=programs.url, headers=headers, verify=verify, timeout=30) as client:
            session = client.get("/api/v1/sessions/?name=secure").json()["result"][0]
            clients = client.get("/api/v1/clients/").json()["result"]
        assert doubting.wait(60) != 0
    finally:
        programs.end()
    assert session["status"] == "Finished"
    assert {each["client_id"] for each in clients} == {"a", "b"}
