"""The server as a process: ports, signals, and what is left behind."""

import asyncio
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import httpx
import pytest
from servers import free_port

from hansa.api import server as module
from hansa.api.server import ApiServer
from hansa.errors import InputError
from hansa.settings import Settings

SERVE = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from hansa.api.server import serve
    from hansa.settings import Settings

    async def ready(server):
        ada = await server.controller.people.create_account("ada", admin=True)
        token, _ = await server.controller.people.issue(ada.id, called="test")
        print(server.url, token, flush=True)

    asyncio.run(serve(Settings(data=Path(sys.argv[1]), port=0, grpc_port=0), ready))
    """
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_and_its_streams_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", SERVE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("http"))
        url, token = line.split()
        headers = {"Authorization": f"Bearer {token}"}
        authority = ssl.create_default_context(cafile=tmp_path / "keys" / "authority.crt")
        with (
            httpx.Client(base_url=url, headers=headers, trust_env=False, verify=authority, timeout=60) as http,
            http.stream("GET", "/api/v1/projects/default/events/stream") as response,
        ):
            lines = response.iter_lines()
            assert next(lines) == "retry: 1000"
            process.send_signal(number)
            assert list(lines) == [""]  # the stream ends as a stream does, with nothing cut off
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert errors == ""
    assert not list(tmp_path.rglob("*-wal"))


async def test_a_rest_port_that_is_taken_is_named_and_nothing_is_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port} .*HANSA_PORT or --port"):
            await ApiServer.open(Settings(data=tmp_path / "data", port=port, grpc_port=0))
    assert not (tmp_path / "data").exists()


async def test_a_grpc_port_that_is_taken_gives_the_rest_port_back(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as probe:
        grpc_port, port = taken.getsockname()[1], probe.getsockname()[1]
        probe.close()
        with pytest.raises(InputError):
            await ApiServer.open(Settings(data=tmp_path, port=port, grpc_port=grpc_port))
        socket.create_server(("127.0.0.1", port)).close()


async def test_a_start_that_is_broken_off_closes_what_it_has_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(_data: Path) -> None:
        inside.set()
        go_on.wait()

    monkeypatch.setattr(module, "_clear", slow)
    port = free_port()
    opening = asyncio.create_task(ApiServer.open(Settings(data=tmp_path, port=0, grpc_port=port)))
    await asyncio.to_thread(inside.wait)
    opening.cancel()
    await asyncio.wait([opening])
    go_on.set()
    socket.create_server(("127.0.0.1", port)).close()


async def test_an_address_of_another_machine_cannot_be_listened_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot listen on 192\.0\.2\.1:0"):
        await ApiServer.open(Settings(data=tmp_path, host="192.0.2.1", port=0, grpc_port=0))
