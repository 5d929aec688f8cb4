import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from commandline import TINY, written
from processes import command, run
from typer.testing import CliRunner, Result

from hansa.cli import app


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """An app without data: every client adds one plus its index."""
    return written(tmp_path, TINY)


@pytest.fixture
def write_app(tmp_path: Path) -> Callable[[str], Path]:
    return lambda source: written(tmp_path, source)


@pytest.fixture
def hansa() -> Callable[..., Result]:
    """`hansa ARGUMENTS` in this process."""

    def run(*arguments: object, **environment: str) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)

    return run


@pytest.fixture
def process() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """`hansa ARGUMENTS` as a process."""

    def started(*arguments: object, cwd: Path | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
        env = {**os.environ, **environment}  # noqa: TID251 - a test hands its environment on
        return run(command(arguments), timeout=60, cwd=cwd, env=env)

    return started
