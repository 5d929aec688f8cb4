"""FEDn 0.33.0 itself, from its package and unchanged, against a hansa server: clients, scripts and commands."""

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fedn_fleet import differences
from processes import Hansa, Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLIENT = """
import io, sys
import numpy as np
from fedn.network.clients.fedn_client import ConnectToApiResult, FednClient

url, name, amount = sys.argv[1], sys.argv[2], int(sys.argv[3])

def load(model):
    model.seek(0)
    with np.load(model) as file:
        return [file[str(i)] for i in range(len(file.files))]

def train(model, settings):
    trained = [each + np.float32(amount) for each in load(model)]
    client.log_metric({"loss": 0.0})
    out = io.BytesIO()
    np.savez_compressed(out, **{str(i): each for i, each in enumerate(trained)})
    return out, {"training_metadata": {"num_examples": amount}}

client = FednClient(train, lambda model: {"mean": float(load(model)[0].mean())}, lambda model: {"sum": 1.0})
client.set_client_id(name)
client.set_name(name)
told = {"name": name, "client_id": name, "preferred_combiner": "", "package": "local"}
result, combiner = client.connect_to_api(url, None, told)
assert result == ConnectToApiResult.Assigned, combiner
client.init_grpchandler(config=combiner, client_name=name, token=None)
client.log_attributes({"charging": "yes"})
client.run(with_telemetry=True, with_heartbeat=True)
"""

SCRIPT = """
import json, sys, time
from fedn import APIClient

api = APIClient("localhost", int(sys.argv[1]))
assert api.set_active_model("seed.npz")["success"]
assert api.set_active_package("package.tgz", "numpyhelper", "adds", "") == {"message": "Package uploaded"}
print("ready", flush=True)
while api.get_active_clients()["count"] < 3:
    time.sleep(0.2)
session = api.start_session(name="real", rounds=4, min_clients=3, round_timeout=120)["session_id"]
print(session, flush=True)

def patiently(ask):
    while True:
        try:
            return ask()
        except Exception:  # the server is away
            time.sleep(0.5)

while patiently(lambda: api.session_is_finished(session)) is not True:
    time.sleep(0.2)
time.sleep(1)
model = api.get_active_model()["model_id"]
first = lambda found: found["result"][0]
answers = {
    "models_list": api.get_models(), "models_get": api.get_model(model), "models_count": api.get_models_count(),
    "clients_list": api.get_clients(), "clients_count": api.get_clients_count(),
    "clients_get": api.get_client(first(api.get_clients())["client_id"]),
    "combiners_list": api.get_combiners(), "combiners_get": api.get_combiner("root"),
    "combiners_count": api.get_combiners_count(), "controller_status": api.get_controller_status(),
    "packages_list": api.get_packages(), "package_active": api.get_active_package(),
    "packages_count": api.get_packages_count(),
    "packages_get": api.get_package(first(api.get_packages())["package_id"]),
    "rounds_list": api.get_rounds(), "rounds_get": api.get_round("1"), "rounds_count": api.get_rounds_count(),
    "sessions_list": api.get_sessions(), "sessions_get": api.get_session(session),
    "sessions_count": api.get_sessions_count(), "statuses_list": api.get_statuses(session_id=session),
    "statuses_get": api.get_status(first(api.get_statuses())["status_id"]),
    "statuses_count": api.get_statuses_count(), "validations_list": api.get_validations(session_id=session),
    "validations_get": api.get_validation(first(api.get_validations())["validation_id"]),
    "validations_count": api.get_validations_count(), "predictions_list": api.get_predictions(),
    "model_ancestors": api.get_model_trail(model), "attributes_current": api.get_current_attributes(["a", "nope"]),
}
assert api.download_model(model, "out.npz")["success"]
assert api.download_package("again.tgz")["success"]
assert api.start_predictions("p") == {"message": "Prediction session started"}
while api.get_predictions(model_id=model)["count"] < 2:
    time.sleep(0.2)
assert api.get_session(name="real")["session_id"] == session
assert api.continue_session(session, rounds=1) == {"message": "Session started"}
while not (api.get_rounds_count() == 5 and api.session_is_finished(session)):
    time.sleep(0.2)
print(json.dumps(answers), flush=True)
"""

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
        "entry_points:\n  train:\n    command: python train.py\n  validate:\n    command: python validate.py\n"
    )
    with tarfile.open(folder / "package.tgz", "w:gz") as file:
        file.add(folder / "adds", arcname="adds")


def up(hansa: Hansa, folder: Path, rest: int = 0, grpc: int = 0) -> Server:
    hansa.environment |= {"HANSA_FEDN_PORT": str(rest), "HANSA_FEDN_GRPC_PORT": str(grpc)}
    return hansa.up("--fedn", "--data", folder / "data")


def test_clients_scripts_commands_and_packages_run_as_they_are_and_over_a_kill(
    hansa: Hansa, fedn: Path, tmp_path: Path
) -> None:
    server = up(hansa, tmp_path)
    url, grpc_address = server.facts["fedn_url"], server.facts["fedn_grpc_address"]
    port = url.rpartition(":")[2]
    token = json.loads((hansa.folder / "credentials.json").read_text())["token"]
    package(tmp_path)
    np.savez(tmp_path / "seed.npz", **{"0": np.zeros(3, np.float32), "1": np.zeros((2, 2), np.float32)})
    (tmp_path / "client.py").write_text(CLIENT)
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {
        "PATH": f"{fedn}:/usr/bin:/bin", "HOME": str(tmp_path), "FEDN_AUTH_TOKEN": token, "FEDN_CONTROLLER_URL": url,
    }  # fmt: skip
    started: list[subprocess.Popen[str]] = []

    def start(*command: object) -> "subprocess.Popen[str]":
        own = tmp_path / f"p{len(started)}"
        own.mkdir()
        with (own / "err").open("w") as errors:
            place = tmp_path if command[1] == "script.py" else own
            process = subprocess.Popen(
                list(map(str, command)), cwd=place, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        started.append(process)
        return process

    try:
        script = start(fedn / "python", "script.py", port)
        assert script.stdout is not None
        assert script.stdout.readline() == "ready\n", (tmp_path / "p0" / "err").read_text()
        for name, amount in (("a", 1), ("b", 3)):
            start(fedn / "python", tmp_path / "client.py", f"{url}/", name, amount)
        start(fedn / "fedn", "client", "start", "-u", url, "-n", "remote")
        assert script.stdout.readline().strip()  # the session is under way
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        up(hansa, tmp_path, int(port), int(grpc_address.rpartition(":")[2]))
        answers = json.loads(script.stdout.readline())
        listed = {}
        for noun in ("client", "combiner", "model", "package", "round", "session", "status", "validation"):
            listed[noun] = subprocess.run(
                [fedn / "fedn", noun, "list", "-t", token], env=environment, capture_output=True, text=True, check=True
            ).stdout
        begun = subprocess.run(
            [fedn / "fedn", "session", "start", "-t", token, "-n", "cli", "-r", "1", "-mc", "3"],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
    finally:
        for each in started:
            each.kill()
        for each in started:
            each.wait()
            if each.stdout is not None:
                each.stdout.close()
    flaws = [flaw for name, body in answers.items() for flaw in differences(ANSWERS[name]["body"], body, name)]
    assert [flaw for flaw in flaws if not flaw.startswith("attributes_current")] == []
    with np.load(tmp_path / "out.npz") as file:
        assert file["0"].tolist() == pytest.approx([4 * (1 + 9 + 100) / 14] * 3, rel=1e-6)
    assert (tmp_path / "again.tgz").read_bytes() == (tmp_path / "package.tgz").read_bytes()
    assert all("Found" in text for text in listed.values())
    assert "started successfully" in begun.stdout + begun.stderr
