"""Real database and object servers for tests: PostgreSQL and an S3 service as processes of their own, on free ports.

A machine without the program skips the tests that need it; where HANSA_REQUIRE_SERVERS is set they fail instead.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import psutil
import pytest

__all__ = [
    "PASSWORD",
    "SECRET_KEY",
    "Gate",
    "PostgresServer",
    "S3Server",
    "free_port",
    "openid_server",
    "postgres_server",
    "s3_server",
]

PASSWORD = "tide@the/quay?"  # noqa: S105  # with what a URL has to quote
SECRET_KEY = "harbour-secret"  # noqa: S105
_KEY_ID = "harbour"
_OWNER = "nobody"
"""Who runs PostgreSQL where the tests run as root, which PostgreSQL refuses."""
_PORTS = range(12_000, 32_000)
"""Below those that the system gives to outgoing connections."""
_FAST = "-c fsync=off -c full_page_writes=off"
"""The machine is not switched off in these tests, and what a killed process has written is there without fsync."""


@dataclass
class PostgresServer:
    """A cluster in a folder of its own, and the server that is started on it."""

    programs: Path
    folder: Path
    port: int
    made: int = 0

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql://keeper:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start, also after `kill`; ready when it returns."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' {_FAST}"
        log = self.folder / "log"
        for _ in range(50):  # a killed server's children may still be about to end
            started = self._run("pg_ctl", "start", "--wait", "--pgdata", self._data, "--log", log, "--options", options)
            if started.returncode == 0:
                return
        pytest.fail(f"PostgreSQL does not start: {started.stderr}{log.read_text()}")

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--wait", "--mode", "immediate", "--pgdata", self._data)

    def kill(self) -> None:
        """SIGKILL to the server and to every process that it has started."""
        server = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(processes)

    def create_database(self, encoding: str = "UTF8") -> str:
        """The name of a new database."""
        self.made += 1
        name = f"hansa{self.made}"
        self.query(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        return name

    def query(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own."""
        import psycopg  # noqa: PLC0415  # an extra

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def make(self) -> None:
        """Make the cluster."""
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        made = self._run(
            "initdb", "--no-sync", "--pgdata", self._data, "--username", "keeper", "--auth", "scram-sha-256",
            "--pwfile", secret, "--encoding", "UTF8", "--locale", "C",
        )  # fmt: skip
        assert made.returncode == 0, made.stderr

    def _run(self, program: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
        who: dict[str, Any] = {"user": _OWNER, "extra_groups": []} if os.geteuid() == 0 else {}
        with tempfile.TemporaryFile("w+") as said:  # not a pipe: the server that is started would hold it open
            done = subprocess.run(
                [str(self.programs / program), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                check=False,
                **who,
            )
            said.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, None, said.read())


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL, gone at the end."""
    programs = _programs_of_postgres()
    if programs is None:
        _absent("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="hansa-postgres-"))
    server = PostgresServer(programs, folder, free_port())
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, _OWNER)
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@dataclass
class S3Server:
    """An S3 service that keeps its objects in memory, and a way to it that can be closed and opened."""

    process: "subprocess.Popen[str]"
    port: int
    made: int = 0

    def create_bucket(self) -> str:
        """The name of a new bucket."""
        self.made += 1
        name = f"hansa-{self.made}"
        self.client().create_bucket(Bucket=name)
        return name

    def url(self, bucket: str, cache: Path, port: int | None = None, **options: object) -> str:
        """For `open_objects`. port: of a proxy."""
        query = {
            "endpoint": f"http://127.0.0.1:{port or self.port}",
            "region": "us-east-1",
            "access_key_id": _KEY_ID,
            "secret_access_key": SECRET_KEY,
            "cache": cache,
            **options,
        }
        return f"s3://{bucket}/models?" + "&".join(f"{key}={quote(str(query[key]))}" for key in query)

    def client(self) -> Any:
        """A client of another make, to look at what is there."""
        import boto3  # noqa: PLC0415  # comes with moto

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id=_KEY_ID,
            aws_secret_access_key=SECRET_KEY,
        )


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A running S3 service, gone at the end."""
    try:
        import moto.server  # noqa: F401, PLC0415  # whether it is there
    except ImportError:
        _absent("moto is not installed (pip install 'moto[server]')")
    with tempfile.TemporaryFile("w+") as said:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, text=True)
        try:
            yield S3Server(process, _port_of(process, said))
        finally:
            process.kill()
            process.wait()


@contextmanager
def openid_server(*users: dict[str, Any]) -> Iterator[str]:
    """The issuer of a running OpenID provider, gone at the end. users: their claims."""
    program = shutil.which("oidc-provider-mock", path=str(Path(sys.executable).parent))
    if program is None:
        _absent("there is no OpenID provider (pip install oidc-provider-mock)")
    port = free_port()
    known = [f"--user-claims={json.dumps(user)}" for user in users]
    process = subprocess.Popen(
        [program, "--port", str(port), *known],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        assert process.poll() is None
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


class Gate:
    """A TCP way to a port, on a port of its own: while it is closed, connections are refused and none is left."""

    def __init__(self, target: int) -> None:
        self.target = target
        """The port that new connections lead to."""
        self.port = free_port()
        self.up = self.down = 0
        """Bytes to the target and from it."""
        self._server: asyncio.Server | None = None
        self._ways: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for way in self._ways:
                way.cancel()
            await asyncio.gather(*self._ways, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        way = asyncio.current_task()
        assert way is not None
        self._ways.add(way)
        with suppress(ConnectionError, asyncio.CancelledError):
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                await asyncio.gather(self._pump(reader, back, up=True), self._pump(there, writer, up=False))
            finally:
                back.close()
        writer.close()
        self._ways.discard(way)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while data := await reader.read(1 << 16):
            if up:
                self.up += len(data)
            else:
                self.down += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()


def _absent(reason: str) -> Any:
    """Skip, or fail where every server has to be there."""
    if os.environ.get("HANSA_REQUIRE_SERVERS"):  # noqa: TID251  # the tests' own switch
        pytest.fail(f"HANSA_REQUIRE_SERVERS is set, but {reason}")
    pytest.skip(reason)


def _programs_of_postgres() -> Path | None:
    """The newest version's folder: Debian keeps its server programs out of the PATH."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    return max(versions, key=lambda folder: float(folder.parent.name), default=None)


def free_port() -> int:
    """One that no connection is given by the system: who was killed, or has ended, finds it free again."""
    for port in Random().choices(_PORTS, k=1000):  # noqa: S311 - no secret
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def _port_of(process: "subprocess.Popen[str]", said: Any) -> int:
    """The port that it says it listens on."""
    while process.poll() is None:
        said.seek(0)
        if found := re.search(r"http://127\.0\.0\.1:(\d+)\n", said.read()):
            return int(found[1])
        time.sleep(0.02)
    said.seek(0)
    pytest.fail(f"the S3 server has ended: {said.read()}")
