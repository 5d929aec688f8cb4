"""Simulations in a Ray cluster on this machine: the bits of one process, also where workers are lost."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hansa.errors import RunFailedError
from hansa.simulation import simulate

pytest.importorskip("ray", reason="Ray is not installed: pip install 'hansa[ray]'")
pytestmark = [
    pytest.mark.slow,  # a cluster takes many seconds to start
    pytest.mark.timeout(600),
]

RUNS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "a worker that is killed once while it trains": {"config": {"killed": "client-3"}},
    "client memory": {"algorithm": "scaffold"},
    "kept updates": {"aggregator": "median"},
    "a transform": {"transforms": ["quantize:bits=4"]},
    "a client that kills every worker": {"config": {"killed": "client-3", "always": True}},
}

APP = """
import os
import signal
from pathlib import Path

import numpy as np

import hansa
from hansa.training.numpy import NumpyTrainer, softmax_regression

app = hansa.App(NumpyTrainer(softmax_regression(6, 3), learning_rate=0.2, batch_size=4))
here = Path(__file__).parent


@app.data
def data(client, *, killed="", always=False):
    if client.name == killed and (always or not (here / "killed").exists()) and not (here / "alone").exists():
        (here / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    rng = np.random.default_rng(client.index)
    x = rng.normal(loc=client.index % 3, size=(12 + client.index, 6)).astype(np.float32)
    return x, (x[:, 0] * (1 + client.index) > x[:, 1]).astype(int) + client.index % 2
"""

EVERY = """
import json
import sys
import ray
import hansa
from hansa.settings import quiet_ray

quiet_ray()
ray.init(num_cpus=2, include_dashboard=False, logging_level="error")  # one for all, which every run joins
rules = hansa.RoundRules(min_clients=4, quorum=4)
for name, run in json.loads(sys.argv[1]).items():
    result = hansa.simulate("app.py", clients=7, rounds=2, engine="ray", workers=2, rules=rules, **run)
    failed = [sorted(record.failed) for record in result.rounds]
    sys.stdout.write(json.dumps([name, result.engine, result.model_hash, failed]) + "\\n")
assert ray.is_initialized()  # it was there before
"""


def test_every_run_has_the_bits_of_one_process(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    done = subprocess.run(
        [sys.executable, "-c", EVERY, json.dumps(RUNS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    told = {name: (engine, digest, failed) for name, engine, digest, failed in lines}
    assert (tmp_path / "killed").exists()
    (tmp_path / "alone").touch()
    fatal = "a client that kills every worker"
    for name, run in RUNS.items():
        if name != fatal:
            alone = simulate(tmp_path / "app.py", clients=7, rounds=2, **run)
            assert told[name] == ("ray", alone.model_hash, [[], []]), name
    assert told[fatal][2] == [["client-3"], ["client-3"]]


@pytest.mark.parametrize("address", ["localhost:{port}", "ray://localhost:{port}", "localhost:many"])
def test_an_address_where_no_cluster_is_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Ray itself would try for minutes."""
    (tmp_path / "app.py").write_text(APP)
    with socket.socket() as nobody:
        nobody.bind(("localhost", 0))  # and does not listen
        named = address.format(port=nobody.getsockname()[1])
        monkeypatch.setenv("RAY_ADDRESS", named)
        with pytest.raises(RunFailedError, match=f"RAY_ADDRESS is {named}, and no Ray cluster answers there"):
            simulate(tmp_path / "app.py", clients=3, rounds=1, engine="ray", workers=1)
