"""`hansa` commands as real processes, in an environment of their own; what the end-to-end tests are written with."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import cradle
import psutil
from servers import free_port
from typer.testing import CliRunner, Result

from hansa.cli import app

_PATIENCE = 100.0


@dataclass
class Server:
    """A running `hansa up`."""

    process: "subprocess.Popen[str]"
    facts: dict[str, Any]
    """What it printed when it was ready."""

    @property
    def join(self) -> str:
        return self.facts["grpc_address"]

    @property
    def join_options(self) -> tuple[str, ...]:
        return ("--join", self.join, "--ca", self.facts["ca"])


@dataclass
class Hansa:
    """Commands that find their settings in one folder, and processes that are gone at the end."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HANSA_")}  # noqa: TID251
        (self.folder / "tmp").mkdir()
        self.environment = {
            **kept,
            "TMPDIR": str(self.folder / "tmp"),  # so that every process that is started here is known by its arguments
            "HANSA_CREDENTIALS": str(self.folder / "credentials.json"),
        }

    def run(
        self, *arguments: object, timeout: float = _PATIENCE, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """A command, to its end."""
        return run(command(arguments), timeout=timeout, cwd=self.folder, env={**self.environment, **environment})

    def call(self, *arguments: object) -> Result:
        """A short command in this process, which is quicker."""
        return CliRunner().invoke(app, list(map(str, arguments)), env=self.environment)

    def start(self, *arguments: object, **environment: str) -> "subprocess.Popen[str]":
        """A command that goes on; its standard error is a file in the folder."""
        with (self.folder / f"{len(self.started)}.err").open("wb") as errors:
            process = cradle.Popen(
                command(arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=self.folder,
                env={**self.environment, **environment},
            )
        self.started.append(process)
        return process

    def up(self, *arguments: object) -> Server:
        process = self.start("up", "--json", "--port", free_port(), "--grpc-port", free_port(), *arguments)
        return Server(process, json.loads(line_with(process, "{")))

    def client(self, server: Server, name: str, index: int = 0, total: int = 1, *arguments: object) -> Any:
        """Start a client with a token of its own, and wait until it is connected."""
        token = self.json("token", "create", name)["token"]
        place = ("--index", index, "--total", total, "--json")
        process = self.start("client", "start", *server.join_options, *place, *arguments, HANSA_TOKEN=token)
        line_with(process, '"connected"')
        return process

    def json(self, *arguments: object) -> dict[str, Any]:
        """The last object that a command prints."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def alive(self) -> list[psutil.Process]:
        """Every process that names this test's folder in its arguments or works in it."""
        found = []
        for process in psutil.process_iter():
            try:
                about = [*process.cmdline(), process.cwd()]
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            if any(str(self.folder) in part for part in about):
                found.append(process)
        return found

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def run(
    arguments: list[str], *, timeout: float, cwd: Path | None = None, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """As `subprocess.run`, with its output as text."""
    pipe = subprocess.PIPE
    with cradle.Popen(arguments, stdout=pipe, stderr=pipe, text=True, cwd=cwd, env=env) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def command(arguments: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-m", "hansa.cli", *map(str, arguments)]


def line_with(process: "subprocess.Popen[str]", text: str) -> str:
    """The next line of its standard output that has this text in it."""
    output: IO[str] | None = process.stdout
    assert output is not None
    for line in output:
        if text in line:
            return line
    raise AssertionError(f"the process ended ({process.wait()}) before it said {text!r}")
