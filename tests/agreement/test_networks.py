"""A drawn app on a network has the records of its simulation, and in ranks of MPI its result."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from agreement import networks
from agreement.cases import Case
from agreement.networks import disagreements

CASE = Case(
    layers=("linear", "tanh"), optimizer="momentum", sizes=(5, 3), rounds=2, algorithm="scaffold", tolerate=True
)


def test_a_session_has_the_records_of_its_simulation() -> None:
    assert list(disagreements(CASE)) == []


@pytest.mark.slow
def test_another_seed_is_told_by_its_records(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = networks._simulated

    def other(app: Path, spec: Any, clients: int) -> Any:
        return simulated(app, replace(spec, seed=1), clients)

    monkeypatch.setattr(networks, "_simulated", other)
    found = list(disagreements(replace(CASE, rounds=1)))
    assert {said.split(":")[0] for said in found} >= {"1 round", "1 client-0", "1 client-1", "1 evaluate  loss"}


@pytest.mark.slow
def test_ranks_agree_with_one_process() -> None:
    pytest.importorskip("mpi4py")
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")  # noqa: TID251
    if mpirun is None:
        pytest.skip("there is no mpirun")
    mpirun_as_anybody = [mpirun, "--allow-run-as-root", "--oversubscribe"]
    done = subprocess.run(
        [*mpirun_as_anybody, "-n", "2", sys.executable, "-m", "agreement", "--mpi", "--seeds", "0:12"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "12 cases, 0 in which engines disagree\n")
