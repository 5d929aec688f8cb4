import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

EXTRAS = (
    "PIL",
    "alembic",
    "argon2",
    "fastapi",
    "h5py",
    "jax",
    "jwt",
    "matplotlib",
    "mpi4py",
    "prometheus_client",
    "pyarrow",
    "sklearn",
    "sqlalchemy",
    "torch",
    "uvicorn",
)
"""Import names of what the extras bring."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a checkout as an installation reads before it installs."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def fake_python(folder: Path, version: str) -> str:
    """An interpreter that is too old, or too new: it fails our question, and knows its version."""
    path = folder / "some-python"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" || exit 1\n')
    path.chmod(0o755)
    return str(path)


def run(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.defpath, "HOME": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def venv_with_pip(folder: Path, pip: str) -> None:
    """A virtual environment whose pip is this program."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    site = next((folder / ".venv").glob("lib/python*/site-packages"))
    (site / "pip.py").write_text(f"if __name__ == '__main__':\n    {pip}\n")


@pytest.mark.parametrize("version", ["3.9.18", "3.15.0"])
@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_says_in_one_line_which_python_it_needs(checkout: Path, target: str, version: str) -> None:
    done = run(checkout, shutil.which("make") or "make", "--silent", target, f"PYTHON={fake_python(checkout, version)}")
    (said,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    assert said.startswith("hansa needs Python 3.11, 3.12 or 3.13, but ")
    assert f"Python {version}" in said


def test_the_installer_calls_pip_once_and_again_only_for_other_requirements(checkout: Path) -> None:
    venv_with_pip(checkout, "print('pip was called')")
    first = run(checkout, "tools/install", "server")
    assert (first.returncode, first.stdout.splitlines()[-1]) == (0, "pip was called")
    second = run(checkout, "tools/install", "server")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    with (checkout / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    assert "pip was called" in run(checkout, "tools/install", "server").stdout


def test_an_installation_that_failed_is_not_remembered(checkout: Path) -> None:
    venv_with_pip(checkout, "raise SystemExit('no network')")
    for _ in range(2):
        done = run(checkout, "tools/install", "server")
        assert done.returncode != 0
        assert "no network" in done.stderr


@pytest.mark.parametrize(
    "module", ["hansa", "hansa.network.client", "hansa.simulation", "hansa.api.client", "hansa.cli"]
)
def test_what_a_client_needs_works_without_any_extra(module: str) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r})); import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
