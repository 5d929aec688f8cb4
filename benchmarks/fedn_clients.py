"""FEDn's clients at a hansa server: seconds a round, and the server's memory, with large models and with many clients.

python benchmarks/fedn_clients.py [--clients 4] [--megabytes 0 32] [--streams 1000] [--rounds 5]

The server is `hansa up --fedn`, a process of its own. Clients are as FEDn's Python ones are on the wire (npz over
their own gRPC services), all in one further process; they train nothing, so that what is measured is the server and
the way.
"""

import argparse
import asyncio
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fedn_fleet import Calls, FleetClient, pb, tensors_of

CONFIG = {
    "aggregator": "fedavg", "round_timeout": 600, "buffer_size": -1, "delete_models_storage": True, "validate": False,
    "helper_type": "numpyhelper",
}  # fmt: skip
_AT_ONCE = 50
"""Clients that connect at the same time."""


def server(folder: Path) -> tuple["subprocess.Popen[str]", dict[str, Any], str]:
    """(process, what it printed, an operator's token)."""
    settings = {
        "HANSA_CREDENTIALS": str(folder / "credentials.json"), "HANSA_FEDN_PORT": "0", "HANSA_FEDN_GRPC_PORT": "0",
        "HANSA_FEDN_TLS": "off", "HANSA_FEDN_WEAK": "joining", "HANSA_LOG_LEVEL": "error",
    }  # fmt: skip
    command = [sys.executable, "-m", "hansa.cli", "up", "--fedn", "--json", "--data", str(folder / "data"),
               "--port", "0", "--grpc-port", "0"]  # fmt: skip
    process = subprocess.Popen(  # noqa: S603 - hansa itself
        ["/usr/bin/env", *(f"{name}={value}" for name, value in settings.items()), *command],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    facts = json.loads(process.stdout.readline())
    return process, facts, json.loads((folder / "credentials.json").read_text())["token"]


def train(model: list[np.ndarray], _: dict[str, Any]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Nothing but a number more."""
    return [each + np.float32(0.5) for each in model], {"num_examples": 1}


def stored(tensors: list[np.ndarray]) -> bytes:
    """Not deflated: what a client's processor takes is not the server's."""
    file = io.BytesIO()
    np.savez(file, **{str(i): tensor for i, tensor in enumerate(tensors)})
    return file.getvalue()


async def rounds(api: httpx.AsyncClient, grpc_address: str, clients: int, megabytes: int, number: int) -> float:
    """Seconds of a round, of `number` in one session."""
    size = max(4, megabytes << 18)
    seed = stored([np.random.default_rng(7).standard_normal(size, np.float32)])
    posted = await api.post("/api/v1/models", files={"file": ("m.npz", seed)}, data={"helper": "numpyhelper"})
    posted.raise_for_status()
    model = (await api.get("/api/v1/models", headers={"X-Limit": "1"})).json()["result"][0]["model_id"]
    running = []
    for k in range(clients):
        name = f"c-{megabytes}-{k}"
        await api.post("/api/v1/clients/add", json={"client_id": name, "name": name, "package": "local"})
        client = FleetClient(grpc_address, name, train, decode=tensors_of, encode=stored)
        running.append(asyncio.create_task(client.run()))
    config = CONFIG | {"clients_required": clients, "model_id": model}
    session = (await api.post("/api/v1/sessions", json={"name": "b", "session_config": config})).json()["session_id"]
    while (await api.get("/api/v1/clients?status=online")).json()["count"] < clients:  # noqa: ASYNC110 - a server that is asked
        await asyncio.sleep(0.2)
    started = await api.post("/api/v1/sessions/start", json={"session_id": session, "rounds": number})
    started.raise_for_status()
    begun = time.perf_counter()
    while (await api.get(f"/api/v1/sessions/{session}")).json()["status"] == "Started":  # noqa: ASYNC110 - the same
        await asyncio.sleep(0.05)
    took = (time.perf_counter() - begun) / number
    status = (await api.get(f"/api/v1/sessions/{session}")).json()["status"]
    assert status == "Finished", status  # noqa: S101 - else there is nothing to tell
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for k in range(clients):
        await api.delete(f"/api/v1/clients/c-{megabytes}-{k}")
    return took


async def streams(api: httpx.AsyncClient, grpc_address: str, number: int) -> tuple[float, float]:
    """(seconds until all listen, the longest that a heartbeat took among them all, one each)."""
    turn = asyncio.Semaphore(_AT_ONCE)
    calls = [Calls(grpc_address, (("client", f"s-{k}"),)) for k in range(number)]
    listening: list[asyncio.Task[Any]] = []

    async def connect(k: int) -> None:
        async with turn:
            name = f"s-{k}"
            await api.post("/api/v1/clients/add", json={"client_id": name, "name": name, "package": "local"})
            sender = pb.Client(name=name, client_id=name, role=pb.CLIENT)
            stream = calls[k].stream("TaskStream", pb.ClientAvailableMessage(sender=sender), pb.TaskRequest)
            listening.append(asyncio.create_task(stream.read()))
            await calls[k].unary("SendHeartbeat", pb.Heartbeat(sender=sender))

    async def beat(k: int) -> float:
        begun = time.perf_counter()
        await calls[k].unary("SendHeartbeat", pb.Heartbeat(sender=pb.Client(client_id=f"s-{k}")))
        return time.perf_counter() - begun

    begun = time.perf_counter()
    await asyncio.gather(*map(connect, range(number)))
    while (await api.get("/api/v1/clients/count?status=online")).json() < number:  # noqa: ASYNC110 - the same
        await asyncio.sleep(0.5)
    took = time.perf_counter() - begun
    longest = max(await asyncio.gather(*map(beat, range(number))))
    for each in listening:
        each.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    await asyncio.gather(*(each.channel.close() for each in calls))
    return took, longest


async def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--megabytes", type=int, nargs="*", default=[0, 32])
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hansa-fedn-") as folder:
        process, facts, token = server(Path(folder))
        about = psutil.Process(process.pid)
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with httpx.AsyncClient(base_url=facts["fedn_url"], headers=headers, timeout=300) as api:
                for megabytes in given.megabytes:
                    took = await rounds(api, facts["fedn_grpc_address"], given.clients, megabytes, given.rounds)
                    said = f"{megabytes} MB" if megabytes else "16 bytes"
                    print(
                        f"{given.clients} clients, a model of {said}: {took:.2f} s a round, {_memory(about)}",
                        flush=True,
                    )
                if given.streams:
                    took, longest = await streams(api, facts["fedn_grpc_address"], given.streams)
                    said = f"{given.streams} task streams open after {took:.0f} s, a heartbeat of each at once"
                    print(f"{said}: the longest {longest:.2f} s, {_memory(about)}", flush=True)
        finally:
            process.terminate()
            process.wait()


def _memory(process: psutil.Process) -> str:
    """The most that the server has held until now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return f"{peak / 1024:.0f} MB at most"


if __name__ == "__main__":
    asyncio.run(main())
